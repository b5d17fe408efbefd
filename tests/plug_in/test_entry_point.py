"""A strategy that another package brings along, found by its name."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HALVING = Path(__file__).parent / "halving"


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> dict[str, str]:
    """Install the package into a folder of its own and return an environment that sees it."""
    folder = tmp_path_factory.mktemp("plug-in")
    source, target = folder / "source", folder / "site"
    shutil.copytree(HALVING, source)
    command = ["pip", "install", "--quiet", "--offline", "--no-deps", "--no-build-isolation"]
    subprocess.run(
        [sys.executable, "-m", "uv", *command, "--target", str(target), str(source)],
        check=True,
        env={**os.environ, "VIRTUAL_ENV": sys.prefix},
    )
    return {**os.environ, "PYTHONPATH": str(target), "OMP_NUM_THREADS": "1"}


def python(code: list[str], environment: dict[str, str], folder: Path):
    return subprocess.run(
        [sys.executable, *code],
        env=environment,
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


def test_it_is_listed_and_runs_under_its_name(installed, tmp_path):
    listed = python(["-m", "fedguard.simulate", "--list", "strategies"], installed, tmp_path)
    assert "halving" in listed.stdout.split()
    command = ["-m", "fedguard.simulate", "--strategy", "halving", "--set", "strategy.share=0.6"]
    done = python([*command, "--rounds", "2", "--json"], installed, tmp_path)
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout.splitlines()[-1])
    assert summary["strategy"] == "halving"
    assert summary["detection"]["true_positive_rate"] == 1.0


def test_it_passes_the_conformance_suite(installed, tmp_path):
    code = "from halving import Halving; from fedguard.testing import check_strategy as c"
    done = python(["-c", f"{code}; c(Halving)"], installed, tmp_path)
    assert done.returncode == 0, done.stderr


def test_nobody_finds_it_where_it_is_not_installed(tmp_path):
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    command = ["-m", "fedguard.simulate", "--strategy", "halving"]
    done = python(command, environment, tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("fedguard: strategy: 'halving' is not valid")
