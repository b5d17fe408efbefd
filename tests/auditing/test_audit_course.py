"""The order of an audit: what is run again, what is run no more, which remedy is left."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from fedguard.auditing.audit import Audit
from fedguard.auditing.cell import Cell
from fedguard.auditing.found import Found, Plan
from fedguard.auditing.project import Project
from fedguard.errors import RunError


class Kept:
    """Instead of processes: an accuracy for each cell, 0.9 where nothing else is said."""

    def __init__(self, told: dict[tuple[str, ...], float]) -> None:
        self.told = told
        self.outcomes: dict[str, dict] = {}
        self.ran: list[Cell] = []
        self.folder = Path()
        self.limit = math.inf

    def run(self, cells, deadline):
        for cell in cells:
            if cell.name not in self.outcomes:
                self.ran.append(cell)
                self.outcomes[cell.name] = self._outcome(cell)
        return {cell.name: self.outcomes[cell.name] for cell in cells}

    def _outcome(self, cell: Cell) -> dict:
        keys = ((cell.threat, cell.rule, f"s{cell.seed}"), (cell.threat, cell.rule))
        accuracy = next((self.told[key] for key in keys if key in self.told), 0.9)
        return {
            **{"ended": "finished", "reason": "", "applied": 1, "waited": 0.0, "rounds": 3},
            **{"failures": [], "averageable": True, "seconds": 1.0, "moved": 1.0},
            "metrics": {"clients/accuracy": accuracy},
            "untrained": {"clients/accuracy": 0.1},
        }

    def close(self) -> None:
        """There is nothing to close."""


def audited(tmp_path, told, threats=("scaled x100", "Mimic", "ALIE"), **plan) -> tuple[Found, Kept]:
    project = Project("/app", "pkg.server:app", "pkg.client:app", {}, 20, "mine")
    audit = Audit(project, Plan(threats=threats, fractions=(0.2,), **plan), tmp_path)
    audit.ward = Kept(told)
    return audit.run(), audit.ward


def test_what_harms_is_run_with_another_seed_and_the_mean_counts(tmp_path):
    told = {("Mimic", "", "s0"): 0.76, ("ALIE", ""): 0.7, ("scaled x100", ""): 0.1}
    found, ward = audited(tmp_path, told)
    rows = {row.cell.threat: row for row in found.unguarded()}
    assert (rows["Mimic"].verdict, rows["Mimic"].kept) == ("stands", pytest.approx(0.9125))
    assert "another seed keeps 100%" in rows["Mimic"].reason
    assert (rows["ALIE"].verdict, rows["ALIE"].kept) == ("harmed", pytest.approx(0.75))
    assert rows["scaled x100"].verdict == "broken"
    twice = [cell.threat for cell in ward.ran if not cell.rule and cell.seed and cell.malicious]
    assert sorted(twice) == ["ALIE", "Mimic"]  # what stands or is broken needs no second look


def test_a_rule_that_falls_to_what_did_not_harm_without_it_makes_room_for_the_next(tmp_path):
    told = {
        ("scaled x100", ""): 0.1,
        ("Mimic", "multi-krum"): 0.3,
        ("scaled x100", "trimmed-mean"): 0.3,
        ("scaled x100", "geometric-median"): 0.85,
    }
    found, _ = audited(tmp_path, told)
    tried = {remedy.rule: (remedy.tried, remedy.worst_threat) for remedy in found.remedies}
    assert tried == {
        "multi-krum": (3, "Mimic"),
        "trimmed-mean": (1, "scaled x100"),
        "geometric-median": (3, "scaled x100"),
    }
    assert found.recommended is not None
    assert found.recommended.rule == "geometric-median"


def test_an_app_that_does_not_get_through_in_time_is_one_line(tmp_path):
    project = Project("/app", "pkg.server:app", "pkg.client:app", {}, 20, "mine")
    audit = Audit(project, Plan(minutes=0.5), tmp_path)
    audit.ward = Kept({})
    audit.ward.run = lambda cells, deadline: {}
    with pytest.raises(RunError, match=r"not get through in peace within 0\.5 minutes"):
        audit.run()
