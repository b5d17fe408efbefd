"""The hostile-vector table holds for every rule that says it is robust."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from test_conformance import PARTS

from fedguard.testing import HOSTILE_KINDS

_SCRIPT = Path(__file__).parents[2] / "simulations" / "hostile_vectors.py"
_SPEC = importlib.util.spec_from_file_location("hostile_vectors", _SCRIPT)
hostile_vectors = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(hostile_vectors)

ROBUST = {name: part for name, part in PARTS.items() if "robust" in getattr(part, "properties", ())}


@pytest.mark.parametrize("name", ROBUST)
def test_robust_rules_stay_among_the_honest(name):
    path = f"{ROBUST[name].__module__}:{ROBUST[name].__name__}"
    rule = hostile_vectors.ours(path)
    found = {kind: hostile_vectors.deviation(rule, kind, seed=0) for kind in HOSTILE_KINDS}
    assert max(found.values()) <= 1.5, found


def test_the_table_marks_what_fails():
    row = hostile_vectors.cell(hostile_vectors.ours("fedavg"), "1e8", 1)
    assert row.startswith("**")
