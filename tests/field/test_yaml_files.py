"""Configuration files as people write them: the right value, or one line that says what to type."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fedguard.config import assign, load_yaml, parse, read_setting, scalar
from fedguard.errors import ConfigurationError

READ: list[tuple[str, str, Any]] = [
    ("lr: 1e-3", "lr", 0.001),
    ("lr: 1E-3", "lr", 0.001),
    ("lr: .5", "lr", 0.5),
    ("lr: 1.", "lr", 1.0),
    ("rounds: +5", "rounds", 5),
    ("rounds: 5.0", "rounds", 5),
    ('rounds: "5"', "rounds", 5),
    ("rounds: 1e2", "rounds", 100),
    ("malicious: 0", "malicious", 0.0),
    ("data_dir: 2024", "data_dir", "2024"),
    ("data_dir: 2024-01-01", "data_dir", "2024-01-01"),
    ("latent_layer: 3", "latent_layer", "3"),
    ("latent_layer: null", "latent_layer", None),
    ('attack: "none"', "attack.name", "none"),
    ("attack: none", "attack.name", "none"),
    ("\ufeffclients: 7", "clients", 7),
    ("clients: 7 # of them", "clients", 7),
    ("---\nclients: 7\n", "clients", 7),
    ("dataset: {name: table, label: 2}", "dataset.label", "2"),
    ("dataset: {name: table, label: No}", "dataset.label", "No"),
    ("dataset: {name: table, label: True}", "dataset.label", "True"),
    ("dataset: {name: table, label: 1.50}", "dataset.label", "1.50"),
    ("dataset: {name: table, label: 010}", "dataset.label", "010"),
    ("dataset: {name: table, label: null}", "dataset.label", "null"),
    ("dataset: {name: table, label: 1:30}", "dataset.label", "1:30"),
    ("dataset: {name: table, label: y, drop: [2, No, 1.0]}", "dataset.drop", ["2", "No", "1.0"]),
    ("dataset: {name: table, label: y, path: 2024}", "dataset.path", "2024"),
    ("model: {name: mlp, layer_norm: yes}", "model.layer_norm", True),
    ("model: {name: mlp, hidden: [8, 4]}", "model.hidden", [8, 4]),
    ("faults: {dropout: 1e-1}", "faults.dropout", 0.1),
    ("unlearn: [{client: 3, round: 4}]\nstrategy: soul", "unlearn.0.round", 4),
    ("base: &x {name: krum}\nstrategy: {<<: *x}", "strategy.name", "krum"),
]

REFUSED: list[tuple[str, str, int]] = [
    ("seed: 1\nmalicious: yes", "malicious: 0.2", 2),
    ("malicious: true", "malicious: 0.2", 1),
    ("fraction: yes", "fraction: 1.0", 1),
    ("fraction: No", "fraction: 1.0", 1),
    ("rounds: on", "rounds: 20", 1),
    ("# how many\n\nclients: 010", "clients: 10", 3),
    ("clients: 1_000", "clients: 1000", 1),
    ("seed: false", "seed: 0", 1),
    ("rounds: ~\nrounds: 3", "'rounds' stands in line 1 and in line 2", 0),
    ("strategy:\n  name: krum\n  name: median", "'name' stands in line 2 and in line 3", 0),
    ("2: krum", "line 1 has key 2", 0),
    ("dataset:\n  true: 1", "line 2 has key true", 0),
    ("attack: no", 'attack: "none"', 1),
    ("attack: off", 'attack: "none"', 1),
    ("attack: ~", 'attack: "none"', 1),
    ("seed: 1\nattack:", 'attack: "none"', 2),
    ("strategy: on", "strategy: geminiguard", 1),
    ("dataset: {name: table, label: y, drop: id}", "drop: [id]", 1),
    ("dataset: {name: table, label: y, test_fraction: yes}", "test_fraction: 0.5", 1),
    ("dataset:\n  name: table\n  label: y\n  max_categories: 08", "max_categories: 8", 4),
    ("model:\n  name: mlp\n  hidden: 32", "hidden: [32]", 3),
    ("model: {name: mlp, hidden: [true]}", "such as 0: 5", 1),
    ("partition: {name: dirichlet, alpha: on}", "alpha: 0.5", 1),
    ("faults:\n  dropout: yes", "dropout: 0.5", 2),
    ("unlearn:\n- client: 3\n  round: yes", "round: 5", 3),
    ("base: {clients: 010}", "clients: 10", 1),
    ("grid:\n  malicious: [0.1, yes]", "malicious: 0.2", 2),
    ("a: [1", "line 1", 0),
    ("a: &a [*a]\nb: *c", "undefined alias", 0),
]


def value_at(config: Any, dotted: str) -> Any:
    found: Any = config.model_dump()
    for key in dotted.split("."):
        found = found[int(key)] if key.isdigit() else found[key]
    return list(found) if isinstance(found, tuple) else found


@pytest.mark.parametrize(("text", "field", "wanted"), READ)
def test_a_file_means_what_it_says(tmp_path: Path, text: str, field: str, wanted: Any) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(text, encoding="utf-8")
    values = load_yaml(path)
    values.pop("base", None)
    found = value_at(parse(values), field)
    if field == "model.layer_norm":
        found = {"yes": True}.get(found, found)  # the part itself makes it a truth value
    assert found == wanted
    assert type(found) is type(wanted)


@pytest.mark.parametrize(("text", "says", "line"), REFUSED)
def test_what_can_be_read_in_two_ways_is_refused_with_its_line(
    tmp_path: Path, text: str, says: str, line: int
) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with pytest.raises(ConfigurationError) as caught:
        load_yaml(path)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    if line:
        assert f"(line {line})" in str(caught.value)


@pytest.mark.parametrize(
    ("setting", "field", "wanted"),
    [
        ("dataset.label=2", "dataset.label", "2"),
        ("dataset.label=No", "dataset.label", "No"),
        ("dataset.label=True", "dataset.label", "True"),
        ("dataset.label=null", "dataset.label", "null"),
        ("dataset.label=1e-3", "dataset.label", "1e-3"),
        ("dataset.label=1.50", "dataset.label", "1.50"),
        ("dataset.label=010", "dataset.label", "010"),
        ("dataset.label=a: b", "dataset.label", "a: b"),
        ("dataset.label=[x]", "dataset.label", "[x]"),
        ("dataset.drop=[2, No]", "dataset.drop", ["2", "No"]),
        ("latent_layer=3", "latent_layer", "3"),
        ("lr=1e-3", "lr", 0.001),
        ("partition.alpha=1e-1", "partition.alpha", 0.1),
        ("dataset.test_fraction=0.10", "dataset.test_fraction", 0.1),
        ("rounds=+5", "rounds", 5),
    ],
)
def test_a_flag_is_read_as_a_file_is(setting: str, field: str, wanted: Any) -> None:
    values: dict[str, Any] = {"dataset": {"name": "table", "label": "y"}}
    assign(values, *read_setting(setting))
    found = value_at(parse(values), field)
    assert found == wanted
    assert type(found) is type(wanted)


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("malicious=yes", "malicious: 0.2"),
        ("malicious=true", "malicious: 0.2"),
        ("rounds=on", "rounds: 20"),
        ("clients=010", "clients: 10"),
        ("partition.alpha=true", "alpha: 0.5"),
        ("attack=off", 'attack: "none"'),
        ("dataset.drop=id", "drop: [id]"),
        ("faults.dropout=true", "dropout: 0.5"),
    ],
)
def test_a_flag_is_refused_as_a_file_is(setting: str, says: str) -> None:
    values: dict[str, Any] = {"dataset": {"name": "table", "label": "y"}}
    assign(values, *read_setting(setting))
    with pytest.raises(ConfigurationError) as caught:
        parse(values)
    assert says in str(caught.value)
    assert "line" not in str(caught.value)


def test_plain_flags_stay_plain_values() -> None:
    texts = ["5", "0.5", "true", "krum", "no", "08"]
    found = [scalar(text) for text in texts]
    assert found == [5, 0.5, True, "krum", "no", "08"]
    assert [type(value) for value in found] == [int, float, bool, str, str, str]
    assert (scalar("1e-3").value, str(scalar("1e-3"))) == (0.001, "1e-3")


def test_a_grids_text_arguments_keep_their_text(tmp_path: Path) -> None:
    path = tmp_path / "campaign.yaml"
    path.write_text("base: {dataset: {name: table, label: y}}\ngrid: {dataset.label: [2, No, 010]}")
    assert load_yaml(path)["grid"] == {"dataset.label": ["2", "No", "010"]}


def test_an_endless_alias_ends(tmp_path: Path) -> None:
    path = tmp_path / "bomb.yaml"
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    path.write_text("\n".join(lines))
    with pytest.raises(ConfigurationError, match="a0"):
        parse(load_yaml(path))
