"""What the package says of itself holds together; building and installing it is slow."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

import fedguard

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_one_version_is_told_everywhere():
    version = PROJECT["project"]["version"]
    assert version == fedguard.__version__
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == version
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(r"^## (\S+)", changes, re.MULTILINE).group(1) == version


def test_every_file_of_the_package_that_is_no_python_is_packed():
    patterns = PROJECT["tool"]["setuptools"]["package-data"]["fedguard"]
    packed = {path for pattern in patterns for path in (ROOT / "fedguard").glob(pattern)}
    others = {
        path
        for path in (ROOT / "fedguard").rglob("*")
        if path.is_file()
        and path.suffix not in (".py", ".pyc", ".pyi")
        and path.parent.name != "__pycache__"
    }
    assert others - packed == set()


def test_everything_the_extras_name_is_pinned():
    pinned = {
        line.split("==")[0].lower()
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if line
    }
    extras = PROJECT["project"]["optional-dependencies"]
    for extra in ("encryption", "vertical", "test", "docs", "notebooks", "package"):
        for line in extras[extra]:
            name = re.match(r"[A-Za-z0-9_.-]+", line).group(0).lower()
            assert name in pinned, f"{extra}: {name}"


def test_the_extras_are_documented():
    page = (ROOT / "docs" / "start.md").read_text(encoding="utf-8")
    for extra in PROJECT["project"]["optional-dependencies"]:
        assert f"`{extra}`" in page, extra


@pytest.mark.parametrize(
    "name",
    [
        "CITATION.cff",
        "mkdocs.yml",
        ".pre-commit-config.yaml",
        ".github/workflows/ci.yaml",
        ".github/ISSUE_TEMPLATE/wrong-result.yaml",
        ".github/ISSUE_TEMPLATE/new-part.yaml",
    ],
)
def test_files_that_hosts_read_are_yaml(name):
    assert isinstance(yaml.safe_load((ROOT / name).read_text(encoding="utf-8")), dict)


def test_what_the_workflow_and_the_guide_call_is_in_the_makefile():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for name in (".github/workflows/ci.yaml", "CONTRIBUTING.md"):
        for target in re.findall(r"(?:run: |^)make ([a-z-]+)", (ROOT / name).read_text(), re.M):
            assert target in targets, f"{name}: make {target}"


@pytest.mark.slow
def test_the_wheel_runs_in_a_fresh_environment(tmp_path):
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "package" / "fresh.py"), "--out", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "works in a fresh environment" in done.stdout
