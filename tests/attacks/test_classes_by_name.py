"""Sources and targets of attacks by the names that the data set gives its classes."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from fedguard.attacks.label_flip import LabelFlip
from fedguard.config import assign, load_yaml, parse, read_setting
from fedguard.data.class_names import class_number
from fedguard.errors import ConfigurationError
from fedguard.reporting.report import write_report
from fedguard.reporting.summary import render_summary
from fedguard.runs.simulation import Simulation
from fedguard.simulate import main

SHOES = ("Ankle boot", "No", "sandal", "sneaker")


def shoes(folder: Path, names: tuple[str, ...] = SHOES) -> dict[str, Any]:
    """Write a table of four kinds of shoe that are easily told apart; return the data set."""
    rng = np.random.default_rng(1)
    lines = ["a,b,kind"]
    for row in range(240):
        kind = row % 4
        a, b = rng.normal(scale=0.2, size=2) + 2 * np.array([kind // 2, kind % 2])
        lines.append(f"{a:.3f},{b:.3f},{names[kind]}")
    path = folder / "shoes.csv"
    path.write_text("\n".join(lines) + "\n")
    return {"name": "table", "path": str(path), "label": "kind"}


def settings(folder: Path, **attack: Any) -> dict[str, Any]:
    return {
        "strategy": "fedavg",
        "dataset": shoes(folder),
        "attack": {"name": "label-flip", "mode": "targeted", **attack},
        "clients": 4,
        "malicious": 1.0,
        "partition": "iid",
        "model": "logistic",
        "rounds": 4,
        "server_samples": 0,
    }


def test_a_name_is_the_class_that_has_it(tmp_path):
    given = settings(tmp_path, source="sandal", target="No")
    config = parse(given)
    assert config.attack.arguments == {
        "mode": "targeted",
        "source_class": "sandal",
        "target_class": "No",
    }
    simulation = Simulation(config)
    attack = simulation.attack
    assert isinstance(attack, LabelFlip)
    names = simulation.dataset.class_names
    assert (names[attack.source_class], names[attack.target_class]) == ("sandal", "No")
    # What is written down is the name, and repeats the run.
    summary = simulation.run(tmp_path / "run")
    again = Simulation(parse(load_yaml(tmp_path / "run" / "config.yaml"))).run(tmp_path / "again")
    assert again["model_sha256"] == summary["model_sha256"]
    by_number = settings(tmp_path, source_class=2, target_class=1)
    assert Simulation(parse(by_number)).run(tmp_path / "n")["model_sha256"] == again["model_sha256"]


def test_reports_and_records_speak_of_classes_by_name(tmp_path):
    run = tmp_path / "run"
    summary = Simulation(parse(settings(tmp_path, source="sandal", target="sneaker"))).run(run)
    assert summary["aim"] == {"source": "sandal", "target": "sneaker"}
    threat = json.loads((run / "threat_model.json").read_text())
    assert threat["attacker"]["aims at"] == summary["aim"]
    rate = summary["final"]["source_to_target"]
    assert rate > 0.9
    confusion = np.array(summary["confusion"])
    assert summary["class_names"] == list(SHOES)
    assert confusion[2, 3] / confusion[2].sum() == pytest.approx(rate)
    recall = confusion.diagonal() / confusion.sum(axis=1)
    assert recall == pytest.approx(summary["final"]["per_class_recall"])
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(render_summary(summary))
    assert "of 'sandal' taken for 'sneaker'" in console.export_text()
    page = write_report(run).read_text()
    assert "sandal taken for sneaker: " in page
    assert "Ankle boot" in page


def test_a_backdoor_takes_a_name_too():
    attack = {"name": "badnets", "size": 2, "target": "7"}
    simulation = Simulation(parse({"attack": attack, "strategy": "fedavg", "model": "logistic"}))
    assert simulation.attack.target_class == 7


@pytest.mark.parametrize(
    ("text", "target"), [("No", "No"), ("sneaker", "sneaker"), ("Ankle boot", "Ankle boot")]
)
def test_flags_and_files_keep_a_name_as_it_is_written(tmp_path, text, target):
    given = settings(tmp_path, source="sandal")
    values = {**given, "attack": {**given["attack"], "target": None}}
    lines = [f"attack: {{name: label-flip, mode: targeted, source: sandal, target: {text}}}"]
    (tmp_path / "run.yaml").write_text("\n".join(lines))
    found = load_yaml(tmp_path / "run.yaml")
    assert parse({**values, **found}).attack.arguments["target_class"] == target
    out = ["--out", str(tmp_path / "run"), "--rounds", "1", "--clients", "4", "--model", "logistic"]
    data = [f"--set=dataset.{key}={given['dataset'][key]}" for key in ("path", "label")]
    flags = ["--dataset", "table", *data, "--attack", "label-flip", "--set", "attack.mode=targeted"]
    flags += ["--set", "attack.source=sandal", "--set", f"attack.target={text}", *out]
    assert main(flags) == 0
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["aim"]["target"] == target


def test_an_unknown_name_is_refused_with_the_nearest(tmp_path, capsys):
    with pytest.raises(ConfigurationError) as error:
        Simulation(parse(settings(tmp_path, source="sandal", target="Sneakers")))
    assert str(error.value) == (
        "attack.target_class: 'Sneakers' is not valid; allowed: did you mean 'sneaker'? "
        "Ankle boot, No, sandal, sneaker"
    )


def test_both_forms_of_one_argument_are_refused(tmp_path):
    with pytest.raises(ConfigurationError, match="target_class alone, not both"):
        parse(settings(tmp_path, target="No", target_class=1))


def test_an_attack_without_a_target_takes_none():
    with pytest.raises(ConfigurationError) as error:
        parse({"attack": {"name": "sign-flip", "target": "7"}})
    assert error.value.field == "attack.target"


class TestNumbersForNames:
    """Where classes are called by numbers, a number must not mean another class in silence."""

    NAMES = ("1", "10", "2")

    def test_a_number_whose_name_is_another_class_is_refused(self):
        with pytest.raises(ConfigurationError) as error:
            class_number("attack.target_class", 1, self.NAMES)
        assert '"1" in quotes for the class of that name, which is number 0' in str(error.value)
        assert 'or "10", which is number 1' in str(error.value)

    def test_quotes_mean_the_name_and_agreement_is_no_question(self):
        assert class_number("f", "1", self.NAMES) == 0
        assert class_number("f", "10", self.NAMES) == 1
        assert class_number("f", 2, self.NAMES) == 2
        assert class_number("f", 0, self.NAMES) == 0

    def test_the_command_takes_the_quotes(self, tmp_path):
        given = {**settings(tmp_path), "dataset": shoes(tmp_path, ("1", "2", "3", "4"))}
        quoted = {"name": "label-flip", "mode": "targeted", "source": "4", "target": "1"}
        attack = Simulation(parse({**given, "attack": quoted})).attack
        assert (attack.source_class, attack.target_class) == (3, 0)
        with pytest.raises(ConfigurationError, match="in quotes"):
            Simulation(parse({**given, "attack": {**quoted, "target": 1}}))

    def test_truth_values_and_fractions_are_no_classes(self):
        for value in (True, 1.0, None):
            with pytest.raises(ConfigurationError, match="by its name, or by its number"):
                class_number("f", value, ("a", "b"))


def test_a_party_aims_by_name_too(tmp_path):
    given = {
        "strategy": "vfl",
        "attack": {"name": "vertical-backdoor", "target": "Sandale"},
        "dataset": shoes(tmp_path),
        "clients": 2,
    }
    with pytest.raises(ConfigurationError) as error:
        Simulation(parse(given))
    assert "did you mean 'sandal'?" in str(error.value)


def test_labels_of_the_run_are_untouched(tmp_path):
    simulation = Simulation(parse(settings(tmp_path, source="sandal", target="No")))
    x, y = simulation.dataset.x_train, simulation.dataset.y_train
    flipped = simulation.attack.poison(x, y, torch.Generator())[1]
    assert torch.equal(flipped, torch.where(y == 2, 1, y))


@pytest.mark.parametrize("text", ["1.50", "true", "null", "1e-3"])
def test_a_name_that_looks_like_something_else_is_kept_as_it_is_written(text):
    values: dict[str, Any] = {"attack": {"name": "label-flip", "mode": "targeted"}}
    assign(values, *read_setting(f"attack.target={text}"))
    assert parse(values).attack.arguments["target_class"] == text
