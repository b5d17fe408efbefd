"""What a strategy's messages say reaches the clients' training, or is refused."""

from __future__ import annotations

import pytest
import torch
from cut_short import run
from flwr.serverapp.strategy import FedAvg
from safetensors.torch import load_file

from fedguard.errors import ConfigurationError

FEDPROX = "flwr.serverapp.strategy:FedProx"


class Freezes(FedAvg):
    """Lets nobody learn after round 1."""

    def configure_train(self, server_round, arrays, config, grid):
        if server_round > 1:
            config["lr"] = 0.0
        return super().configure_train(server_round, arrays, config, grid)


class Whispers(FedAvg):
    """Says from round 1 on what no rule knows."""

    def configure_train(self, server_round, arrays, config, grid):
        config["dropout-rate"] = 0.5
        return super().configure_train(server_round, arrays, config, grid)


class Shouts(FedAvg):
    """Sends a learning rate that cannot be."""

    def configure_train(self, server_round, arrays, config, grid):
        config["lr"] = -1.0
        return super().configure_train(server_round, arrays, config, grid)


def model(path):
    return load_file(path / "model.safetensors")


def test_flowers_fedprox_without_weight_is_fedavg_and_with_much_is_not(tmp_path):
    values = {"rounds": 2, "lr": 0.0005}
    plain = run(tmp_path / "fedavg", strategy="flwr.serverapp.strategy:FedAvg", **values)
    hashes = {}
    for mu in (0.0, 1000.0):
        part = {"name": FEDPROX, "proximal_mu": mu}
        hashes[mu] = run(tmp_path / str(mu), strategy=part, **values)["model_sha256"]
    assert hashes[0.0] == plain["model_sha256"] != hashes[1000.0]
    start = run(tmp_path / "start", strategy=f"{__name__}:Freezes", rounds=2, lr=1e-12)
    assert start["rounds"] == 2

    def moved(name):
        return sum(
            float((v - model(tmp_path / "start")[k]).norm())
            for k, v in model(tmp_path / name).items()
        )

    assert 0.0 < moved("1000.0") < 0.8 * moved("fedavg")


@pytest.mark.parametrize("executor", ["reuse", "vmap", "dense"])
def test_a_learning_rate_of_0_freezes_the_model(tmp_path, executor):
    one = run(tmp_path / "one", strategy=f"{__name__}:Freezes", rounds=1, executor=executor)
    four = run(tmp_path / "four", strategy=f"{__name__}:Freezes", rounds=4, executor=executor)
    assert one["final"]["accuracy"] > 0.2
    for name, value in model(tmp_path / "one").items():
        torch.testing.assert_close(value, model(tmp_path / "four")[name], atol=1e-6, rtol=0)
    assert four["final"]["accuracy"] == one["final"]["accuracy"]


def test_a_key_that_no_rule_reads_is_refused_before_round_1():
    with pytest.raises(ConfigurationError) as caught:
        run(None, strategy=f"{__name__}:Whispers")
    text = str(caught.value)
    assert "it sends dropout-rate" in text
    assert "proximal-mu" in text
    assert "\n" not in text


def test_fedprox_with_a_rule_that_reads_no_mu_is_refused_before_round_1():
    with pytest.raises(ConfigurationError, match="it sends proximal-mu"):
        run(None, strategy={"name": FEDPROX, "proximal_mu": 1.0}, training="adam")


def test_a_value_that_cannot_be_ends_the_run_in_one_line(tmp_path):
    with pytest.raises(ConfigurationError, match=r"config\.lr: -1\.0") as caught:
        run(tmp_path, strategy=f"{__name__}:Shouts")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("argument", "value", "instead"),
    [
        ("fraction_train", 0.5, "set fraction"),
        ("min_train_nodes", 3, "set fraction and clients"),
        ("min_available_nodes", 3, "set clients"),
        ("fraction_evaluate", 0.5, "the simulation evaluates on the test set"),
        ("seed", 4, "set seed"),
    ],
)
def test_what_the_configuration_decides_is_refused_with_what_to_set_instead(
    argument, value, instead
):
    with pytest.raises(ConfigurationError) as caught:
        run(None, strategy={"name": "krum", argument: value})
    assert caught.value.field == f"strategy.{argument}"
    assert instead in str(caught.value)
