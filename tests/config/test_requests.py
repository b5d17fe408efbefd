from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fedguard.config import load_yaml, parse
from fedguard.config.requests import UnlearnRequest
from fedguard.errors import ConfigurationError
from fedguard.runs.simulation import Simulation
from fedguard.simulate import main
from fedguard.unlearning.rows import forgotten_rows

SOUL = {"strategy": "soul", "clients": 5, "rounds": 10}


def ask(*requests, **more):
    return parse({**SOUL, "unlearn": list(requests), **more})


@pytest.mark.parametrize(
    ("requests", "field"),
    [
        ([{"client": 5, "round": 4}], "unlearn.client"),
        ([{"client": -1, "round": 4}], "unlearn.client"),
        ([{"client": 1, "round": 1}], "unlearn.round"),
        ([{"client": 1, "round": 11}], "unlearn.round"),
        ([{"client": 1}], "unlearn"),
        ([{"client": 1, "round": 4}, {"client": 1, "round": 6}], "unlearn.client"),
        ([{"client": 1, "round": 4, "share": 0.5, "label": 2}], "unlearn.share"),
        ([{"rejected": 3, "client": 1}], "unlearn.rejected"),
        ([{"client": c, "round": 4} for c in range(5)], "unlearn"),
    ],
)
def test_bad_requests_name_the_field(requests, field):
    with pytest.raises(ConfigurationError) as error:
        ask(*requests)
    assert error.value.field == field
    assert "\n" not in str(error.value)


def test_a_request_needs_a_strategy_that_unlearns():
    with pytest.raises(ConfigurationError, match="soul unlearns"):
        ask({"client": 1, "round": 4}, strategy="fedavg")


@pytest.mark.parametrize(
    "setting",
    [
        "unlearn=[{client: 99, round: 5}]",
        "unlearn=[{client: 1, round: 0}]",
        "unlearn=[" + ", ".join(f"{{client: {c}, round: 5}}" for c in range(4)) + "]",
    ],
)
def test_the_command_exits_with_2_and_one_line(setting, capsys, tmp_path):
    arguments = ["--strategy", "soul", "--clients", "4", "--set", setting]
    assert main([*arguments, "--out", str(tmp_path / "run")]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_all_but_one_client_may_be_forgotten():
    config = ask(*({"client": c, "round": 4} for c in range(4)))
    assert len(config.unlearn) == 4


@pytest.mark.parametrize(
    ("requester", "genuine"), [(None, True), (3, True), ("server", True), (2, False)]
)
def test_only_the_client_and_the_server_have_a_say(requester, genuine):
    assert UnlearnRequest(client=3, round=5, requester=requester).genuine is genuine


def test_class_is_another_name_of_label():
    assert UnlearnRequest.model_validate({"client": 1, "round": 2, "class": 7}).label == 7


def test_rows_of_a_request():
    simulation = Simulation(parse({**SOUL, "rounds": 2}))
    federation = simulation.federation
    _, y = federation.shard(1, attacking=False)
    assert len(forgotten_rows(federation, 1, None, None)) == len(y)
    label = int(y[0])
    assert torch.equal(forgotten_rows(federation, 1, label, None), (y == label).nonzero().flatten())
    part = forgotten_rows(federation, 1, None, 0.2)
    assert len(part) == round(0.2 * len(y))
    assert torch.equal(part, forgotten_rows(federation, 1, None, 0.2))


def test_a_trainer_leaves_rows_out_and_puts_them_back():
    trainer = Simulation(parse({**SOUL, "rounds": 2})).trainer
    x, y = trainer.examples(1)
    trainer.left_out[1] = torch.tensor([0, 2])
    less, labels = trainer.examples(1)
    assert torch.equal(labels, torch.cat([y[1:2], y[3:]]))
    assert torch.equal(less[0], x[1])
    assert torch.equal(trainer.federation.shard(1, attacking=False)[1], y)
    trainer.left_out[1] = torch.empty(0, dtype=torch.long)
    assert torch.equal(trainer.examples(1)[1], y)


def test_the_ready_scenario_forgets_the_client_that_lies():
    path = Path(__file__).resolve().parents[2] / "configs" / "soul_backdoor.yaml"
    config = parse(load_yaml(path))
    assert Simulation(config).federation.malicious == {config.unlearn[0].client}


def test_engines_whose_workers_keep_copies_are_refused():
    with pytest.raises(ConfigurationError, match="forget"):
        ask({"client": 1, "round": 4}, engine="ray")
