"""Every option of `simulate` is a field of the configuration, with its type, default and bounds."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, Field

from fedguard import registry
from fedguard.commands.front import COMMANDS, loaded
from fedguard.commands.options import (
    PANELS,
    field_options,
    spelt_bounds,
    spelt_default,
    spelt_type,
    with_facts,
)
from fedguard.commands.simulate import ALPHA, configuration
from fedguard.config import SimulationConfig
from fedguard.config.parts import Part, PartField, part_field
from fedguard.simulate import main

OPTIONS = {option.name: option for option in field_options()}


class Example(BaseModel):
    name: str
    sure: bool = True
    count: int = Field(3, ge=1, le=10)
    share: float = Field(0.25, gt=0.0, lt=0.5)
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 7
    choice: Literal["one", "two"] = "two"
    long: Literal["a-long-choice", "another-one"] | None = None
    folder: Path | None = None
    part: PartField = part_field("sign-flip", scale=4.0)
    maybe: PartField | None = None
    table: dict[str, int] = Field(default_factory=dict)


FIELDS = Example.model_fields


@pytest.mark.parametrize(
    ("name", "spelt"),
    [
        ("name", "TEXT"),
        ("sure", "[true|false]"),
        ("count", "INTEGER"),
        ("share", "FLOAT"),
        ("choice", "[one|two]"),
        ("long", "CHOICE"),
        ("folder", "PATH"),
        ("part", "NAME"),
        ("maybe", "NAME"),
        ("table", "YAML"),
    ],
)
def test_a_type_is_spelt_for_people(name: str, spelt: str) -> None:
    assert spelt_type(name, FIELDS[name]) == spelt


@pytest.mark.parametrize(
    ("name", "spelt"),
    [
        ("count", "1<=x<=10"),
        ("share", "0<x<0.5"),
        ("seed", "0<=x"),
        ("name", ""),
        ("choice", ""),
    ],
)
def test_bounds_are_those_of_the_field(name: str, spelt: str) -> None:
    assert spelt_bounds(FIELDS[name]) == spelt


@pytest.mark.parametrize(
    ("name", "spelt"),
    [
        ("sure", "true"),
        ("count", "3"),
        ("share", "0.25"),
        ("choice", "two"),
        ("part", "sign-flip, scale 4.0"),
        ("maybe", ""),
        ("table", ""),
        ("name", ""),
    ],
)
def test_a_default_is_what_one_would_type(name: str, spelt: str) -> None:
    assert spelt_default(FIELDS[name]) == spelt


def test_every_field_is_an_option_and_the_other_way_round() -> None:
    assert set(OPTIONS) == set(SimulationConfig.model_fields)
    for name, option in OPTIONS.items():
        assert option.opts == [f"--{name.replace('_', '-')}"]
        assert option.rich_help_panel in PANELS


@pytest.mark.parametrize("name", sorted(SimulationConfig.model_fields))
def test_the_help_of_an_option_has_type_meaning_and_default(name: str) -> None:
    field, option = SimulationConfig.model_fields[name], OPTIONS[name]
    assert option.metavar
    meaning = (field.description or "").replace("`", "").split()[0]
    assert meaning in (option.help or "")
    default = field.get_default(call_default_factory=True)
    told = default.name if isinstance(default, Part) else default
    if isinstance(told, int | float | str):
        spelt = str(told).lower() if isinstance(told, bool) else told
        assert f"default: {spelt}" in (option.help or "")
    else:
        assert "default:" not in (option.help or "")


@pytest.mark.parametrize("name", ["strategy", "attack", "repair", "pre", "training"])
def test_the_help_of_a_part_says_where_its_names_are(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    found = re.search(r"fedguard (list [a-z]+)\.", OPTIONS[name].help or "")
    assert found is not None
    assert main(found[1].split()) == 0
    assert set(capsys.readouterr().out.split()) >= set(registry.names(name))


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_the_help_of_every_command_names_types_and_defaults(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "250")
    monkeypatch.setenv("TERMINAL_WIDTH", "250")
    assert main([*command.split(), "--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for param in loaded(command).params:
        if param.param_type_name != "option" or param.name == "help":
            continue
        (line,) = [one for one in lines if re.match(rf"│ +{param.opts[0]}\s", one)]
        if not param.is_flag:
            assert re.search(r"[A-Z]{4,}|\[[a-z0-9]+\|[a-z0-9|]+\]", line), line
            field = SimulationConfig.model_fields.get(param.name)
            default = spelt_default(field) if field and command == "simulate" else param.default
            if isinstance(default, int | float | str) and str(default):
                assert f"default: {default}" in line, line


def test_alpha_shows_the_default_of_the_split() -> None:
    split = registry.find("partition", "dirichlet")
    assert inspect.signature(split).parameters["alpha"].default == ALPHA


def typed(*settings: str, **flags: str) -> Any:
    return configuration(None, flags, settings)


def test_new_fields_can_be_typed() -> None:
    found = typed(
        pre="nnm,clipping",
        training="fedprox",
        repair="finetune",
        repair_at="every:3",
        enrolment="roster",
        faults="{dropout: 0.3}",
        attack_rounds="{window: [5, 10]}",
    )
    assert [part.name for part in found.pre] == ["nnm", "clipping"]
    assert (found.training.name, found.repair.name) == ("fedprox", "finetune")
    assert (found.repair_at, found.enrolment.name) == ("every:3", "roster")
    assert found.faults.dropout == 0.3
    assert found.attack_rounds == {"window": [5, 10]}


def test_a_setting_wins_over_a_flag_and_a_flag_over_the_file(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("rounds: 3\nclients: 7\nlr: 0.5\n")
    found = configuration(path, {"clients": "8", "lr": "0.25"}, ["lr=0.125"])
    assert (found.rounds, found.clients, found.lr) == (3, 8, 0.125)


def test_alpha_reaches_the_split() -> None:
    assert typed(**{"partition.alpha": "0.1"}).partition.arguments["alpha"] == 0.1


@pytest.mark.parametrize("text", ["[default: 3]", "[{client: 3}]", "[5, 10] or [x]", "a [/b] c"])
def test_brackets_are_shown_as_they_are(text: str) -> None:
    from rich.text import Text

    assert Text.from_markup(with_facts(text, "0<x", "one of a")).plain == f"{text} [0<x; one of a]"
    assert Text.from_markup(with_facts(text, "default: 1")).plain == f"{text} [default: 1]"
