"""`fedguard new` writes a part that conforms unchanged, and refuses what could not be imported."""

from __future__ import annotations

import importlib
import sys
import tomllib
from pathlib import Path

import pytest

from fedguard.commands.new import KINDS
from fedguard.config import parse
from fedguard.records.writer import read_jsonl
from fedguard.runs.simulation import Simulation
from fedguard.simulate import main


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("a-new-part", "placed"):
        monkeypatch.syspath_prepend(str(tmp_path / folder))
    yield
    for name in ("a_new_part", "test_a_new_part"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_written_passes_its_own_test_unchanged(kind: str) -> None:
    assert main(["new", kind, "a-new-part"]) == 0
    importlib.invalidate_caches()
    importlib.import_module("test_a_new_part").test_it_conforms()


@pytest.mark.parametrize("kind", KINDS)
def test_its_package_names_what_its_module_holds(kind: str) -> None:
    assert main(["new", kind, "a-new-part", "--out", "placed"]) == 0
    importlib.invalidate_caches()
    module = importlib.import_module("a_new_part")
    project = tomllib.loads(Path("placed/pyproject.toml").read_text())["project"]
    for group, names in project["entry-points"].items():
        assert group.startswith("fedguard.")
        where, _, what = names["a-new-part"].partition(":")
        assert where == "a_new_part"
        assert isinstance(getattr(module, what), type)
    assert len(Path("placed/a_new_part.py").read_text().splitlines()) <= 60


def test_a_written_task_brings_data_and_a_model_that_train_together(tmp_path: Path) -> None:
    assert main(["new", "task", "a-new-part"]) == 0
    importlib.invalidate_caches()
    values = {"dataset": "a_new_part:ANewPartData", "rounds": 4, "clients": 4, "attack": "none"}
    summary = Simulation(parse({**values, "strategy": "trimmed-mean"})).run(tmp_path / "out")
    rounds = read_jsonl(tmp_path / "out" / "rounds.jsonl")
    assert summary["headline"]["name"] == "error"
    assert rounds[-1]["error"] < 0.8 * rounds[0]["error"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["strategi", "a-part"], "did you mean 'strategy'?"),
        (["strategy", "Krum2"], "lower case"),
        (["strategy", "../up"], "lower case"),
        (["strategy", "lambda"], "lower case"),
        (["attack", "alie"], "a name that no attack has yet"),
        (["task", "digits"], "a name that no task has yet"),
        (["strategy", "json"], "json is installed"),
    ],
)
def test_a_name_that_would_not_do_is_refused_in_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, words: list[str], told: str
) -> None:
    assert main(["new", *words]) == 2
    err = capsys.readouterr().err
    assert told in err
    assert len(err.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_nothing_is_written_over(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "a-new-part").mkdir()
    assert main(["new", "attack", "a-new-part"]) == 2
    assert "does not exist yet" in capsys.readouterr().err
    assert not list((tmp_path / "a-new-part").iterdir())
