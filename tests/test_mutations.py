"""Every fault of ``tests/mutations`` can be put in: its text stands where it says, once."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from tests.mutations.__main__ import rooms

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("room", rooms())
def test_a_fault_fits_the_code_and_names_tests_that_exist(room):
    faults = importlib.import_module(f"tests.mutations.{room}").MUTATIONS
    assert faults
    for name, old, new, tests in faults:
        assert (ROOT / name).read_text(encoding="utf-8").count(old) == 1, (name, old)
        assert old != new
        named = [word.partition("::")[0] for word in tests.split() if ".py" in word]
        assert named, tests
        assert all((ROOT / each).is_file() for each in named), tests
