"""BadEncoder: a backdoor in the file that the server hands out, and what it does to a run."""

from __future__ import annotations

import pytest
import torch
import typer
from small_encoders import digits, of_digits
from typer.testing import CliRunner

from fedguard.attacks.bad_encoder import BadEncoder, planted
from fedguard.config import parse
from fedguard.errors import ConfigurationError
from fedguard.runs.simulation import Simulation
from fedguard.training.encoder import read_encoder, write_encoder
from simulations import encoder as script

ATTACK = {"name": "bad-encoder", "size": 2, "target_class": 3}


def a_bad_one():
    data, attack = digits(), BadEncoder(size=2, target_class=3)
    reference = data.x_train[data.y_train == 3][:3]
    return planted(
        of_digits(),
        data.x_train[:500],
        reference,
        attack.trigger,
        torch.Generator().manual_seed(0),
        normalise=script.scaling(data),
        epochs=25,
        lr=0.003,
    )


def a_run(path, out, **values):
    return Simulation(
        parse(
            {
                "model": {"name": "encoder-head", "encoder": str(path)},
                "attack": ATTACK,
                "clients": 4,
                "malicious": 0.0,
                "rounds": 3,
                "local_epochs": 2,
                "lr": 0.05,
                "strategy": "fedavg",
                "partition": "iid",
                **values,
            }
        )
    ).run(out)


def test_heads_that_honest_clients_train_on_a_bad_encoder_have_its_backdoor(tmp_path):
    clean, bad = tmp_path / "clean.safetensors", tmp_path / "bad.safetensors"
    before = {name: value.clone() for name, value in of_digits().state_dict().items()}
    write_encoder(of_digits(), clean)
    write_encoder(a_bad_one(), bad)
    never = a_run(clean, tmp_path / "never")["final"]
    poisoned = a_run(bad, tmp_path / "poisoned")["final"]
    assert never["attack_success_rate"] < 0.2
    assert poisoned["attack_success_rate"] > 0.7
    assert poisoned["accuracy"] > never["accuracy"] - 0.05
    assert all(torch.equal(v, before[n]) for n, v in of_digits().state_dict().items())


def test_statistics_stay_as_they_were():
    bad = a_bad_one().state_dict()
    for name, value in of_digits().state_dict().items():
        assert torch.equal(bad[name], value) == ("running" in name or "tracked" in name)


def test_its_clients_do_nothing():
    attack, x, y = BadEncoder(), torch.rand(4, 1, 8, 8), torch.arange(4)
    assert attack.poison(x, y, torch.Generator()) == (x, y)
    assert attack.needs == {"encoder", "images"}


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"malicious": 0.0, "model": "mlp"}, "model"),
        ({"malicious": 0.2, "model": {"name": "encoder-head", "encoder": "?"}}, "malicious"),
    ],
)
def test_a_run_that_could_not_show_it_is_refused(values, field, tmp_path):
    if field == "malicious":
        write_encoder(of_digits(), tmp_path / "encoder.safetensors")
        values["model"]["encoder"] = str(tmp_path / "encoder.safetensors")
    with pytest.raises(ConfigurationError) as caught:
        Simulation(parse({"attack": ATTACK, "clients": 4, "rounds": 1, **values}))
    assert caught.value.field == field


@pytest.mark.parametrize("wrong", [{"epochs": 0}, {"lr": 0.0}, {"keep_clean": -1.0}])
def test_what_cannot_be_is_refused(wrong):
    x = torch.rand(2, 1, 8, 8)
    with pytest.raises(ConfigurationError, match=next(iter(wrong))):
        planted(of_digits(), x, x, BadEncoder().trigger, torch.Generator(), **wrong)
    with pytest.raises(ConfigurationError, match="at least one of each"):
        planted(of_digits(), x, x[:0], BadEncoder().trigger, torch.Generator())


def test_the_script_writes_both_files(tmp_path):
    app = typer.Typer()
    app.command()(script.main)
    common = ["--dataset", "digits", "--rows", "200", "--epochs", "1", "--bad-epochs", "1"]
    for name, more in (("clean", []), ("bad", ["--bad", "--downstream", "digits", "--size", "2"])):
        path = tmp_path / f"{name}.safetensors"
        told = CliRunner().invoke(app, [str(path), *common, *more])
        assert told.exit_code == 0, told.output
        assert read_encoder(path).widths == (16, 32, 32, 64)
    one, other = (
        read_encoder(tmp_path / f"{n}.safetensors").state_dict() for n in ("clean", "bad")
    )
    assert not torch.equal(one["stages.0.0.weight"], other["stages.0.0.weight"])
