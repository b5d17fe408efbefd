"""docs/runs.md: its commands run one after the other, and end in the figures that it tells."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from fedguard.campaigns.campaign import read_campaign
from fedguard.commands.front import main
from fedguard.records.writer import read_jsonl

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "docs" / "runs.md").read_text(encoding="utf-8")
COMMANDS = [
    line
    for block in re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL)
    for line in block.splitlines()
    if line.startswith("fedguard --")
]


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run the page's commands in one folder, but for the campaign; return the folder of runs."""
    folder = tmp_path_factory.mktemp("docs")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for command in COMMANDS:
            assert main(shlex.split(command)[1:]) == 0, command
    return folder / "runs"


def summary(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    return found


def percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def test_the_early_end_is_the_one_told(ran):
    found = summary(ran / "early")
    stopped, best = found["stopped"], found["best_model"]
    told = " ".join(TEXT.split())
    assert f"ends after {stopped['round']} of {stopped['of']} rounds" in told
    assert f"a last model of {percent(found['final']['accuracy'])}" in told
    assert f"of round {best['round']}, has {percent(best['accuracy'])}" in told


def test_what_outlives_the_attackers_is_told(ran):
    span = summary(ran / "left")["lifespan"]
    told = " ".join(TEXT.split())
    assert span["ended"]
    assert f"{percent(span['peak'])} at its peak in round {span['peak_round']}" in told
    assert f"half of it is gone {span['rounds']} rounds after round 5" in told
    left = summary(ran / "left")["final"]["attack_success_rate"]
    assert f"{percent(left)} are left at the end" in told


def test_the_grown_run_is_what_the_warm_one_starts_from(ran):
    last = read_jsonl(ran / "plain" / "rounds.jsonl")[-1]
    first = read_jsonl(ran / "warm" / "rounds.jsonl")[0]
    assert last["round"] == 20
    assert first["accuracy"] == last["accuracy"]
    assert f"as it was started from: {percent(first['accuracy'])} here" in " ".join(TEXT.split())


def test_the_flip_is_told_by_name(ran):
    final = summary(ran / "flip")["final"]
    assert f"`{percent(final['source_to_target'])} of '5' taken for '3'`" in TEXT


def test_the_campaign_is_the_one_of_the_table():
    cells = read_campaign(ROOT / "configs" / "campaigns" / "fairness.yaml").cells()
    chosen = {
        (cell.choices["strategy"], cell.config.attack.name, cell.config.seed) for cell in cells
    }
    rows = re.findall(r"^\| ([a-z-]+) \| (none|sign-flip) \|", TEXT, re.MULTILINE)
    assert {(strategy, attack) for strategy, attack, _ in chosen} == set(rows)
    assert len(chosen) == 24 == 3 * len(rows)
    assert {cell.config.evaluate_clients for cell in cells} == {0.2}
