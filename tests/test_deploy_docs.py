"""Every command and every piece of code in docs/deploy.md and docs/plug_in.md."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Context, RecordDict
from flwr.common.config import parse_config_args

from fedguard.flower_app import config_from_run
from fedguard.grids.foreign_app import ClientAppGrid

ROOT = Path(__file__).resolve().parents[1]
DEPLOY = (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8")
PLUG_IN = (ROOT / "docs" / "plug_in.md").read_text(encoding="utf-8")
ENVIRONMENT = {
    **os.environ,
    "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    "OMP_NUM_THREADS": "1",
}


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def commands(text: str) -> list[str]:
    return [line for block in blocks(text, "bash") for line in block.splitlines() if line]


def shell(command: str, folder: Path, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        shell=True,
        cwd=folder,
        env={**ENVIRONMENT, **more},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def own_defence(tmp_path_factory) -> Path:
    """A folder with the defence and the other parts that the guide shows."""
    folder = tmp_path_factory.mktemp("own")
    for name, code in re.findall(
        r"(?:Write|Save as)\s+`(\w+)\.py`:[^`]*?```python\n(.*?)```", PLUG_IN, re.DOTALL
    ):
        (folder / f"{name}.py").write_text(code)
    return folder


def test_the_defence_is_as_short_as_the_guide_says(own_defence):
    lines = (own_defence / "nearest_half.py").read_text().splitlines()
    assert len([line for line in lines if line.strip()]) <= 20


@pytest.mark.parametrize("command", commands(PLUG_IN))
def test_the_guides_commands_work(command, own_defence):
    rounds = " --rounds 2" if "fedguard.simulate" in command else ""
    done = shell(command + rounds, own_defence)
    assert done.returncode == 0, done.stderr


def test_the_entry_point_makes_a_name_of_it(own_defence, tmp_path):
    (own_defence / "pyproject.toml").write_text(blocks(PLUG_IN, "toml")[0])
    install = "uv pip install --quiet --offline --no-deps --no-build-isolation"
    done = shell(f"{install} --python {sys.executable} --target {tmp_path} .", own_defence)
    assert done.returncode == 0, done.stderr
    command = "python -m fedguard.simulate --strategy nearest-half --rounds 2"
    done = shell(command, tmp_path, PYTHONPATH=str(tmp_path))
    assert done.returncode == 0, done.stderr


def test_our_strategy_in_their_server_app(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "tests" / "plug_in"))
    import sklearn_app

    code = next(block for block in blocks(PLUG_IN, "python") if "ServerApp()" in block)
    space: dict[str, object] = {
        "first_arrays": lambda: [np.zeros((10, 64)), np.zeros(10)],
    }
    shortened = code.replace("num_rounds=20", "num_rounds=1")
    assert shortened != code
    exec(shortened, space)
    keys = {"arrays": "arrays", "examples": "num-examples"}
    grid = ClientAppGrid(sklearn_app.make_client_app(keys), 10, {})
    space["app"](grid=grid, context=Context(1, 1, {}, RecordDict(), {}))


def test_our_strategy_on_an_older_server():
    code = next(block for block in blocks(PLUG_IN, "python") if "LegacyStrategy(" in block)
    space: dict[str, object] = {}
    exec(code, space)
    assert repr(space["strategy"]) == "LegacyStrategy(Krum)"


def test_every_variable_in_the_table_is_read_by_the_scripts():
    scripts = "".join(
        (ROOT / "docker" / name).read_text() for name in ("federation.sh", "local.sh")
    )
    table = DEPLOY.partition("| variable |")[2].partition("\n\n")[0]
    names = re.findall(r"`([A-Z_]+)`", table)
    assert len(names) >= 12
    for name in names:
        assert f"{name}:=" in scripts, name


def test_run_configurations_name_keys_that_exist(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.yaml").write_text("strategy: krum\n")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    known = project["tool"]["flwr"]["app"]["config"]
    shown = [shlex.split(line) for line in DEPLOY.splitlines() if line.startswith("flwr run .")]
    settings = [line[line.index("-c") + 1] for line in shown if "-c" in line]
    assert len(settings) == 2
    for text in settings:
        given = parse_config_args([text])
        assert set(given) <= set(known)
        config_from_run({**known, **given}, federation_size=10)


def test_the_project_file_command_works(tmp_path):
    (command,) = [line for line in commands(DEPLOY) if line.startswith("python")]
    assert shell(command, tmp_path).returncode == 0
    assert (tmp_path / "my-app" / "pyproject.toml").exists()


@pytest.mark.slow
def test_the_smaller_federation_of_the_guide_runs(tmp_path):
    (command,) = [line for line in commands(DEPLOY) if line.startswith("SUPERNODES=")]
    ports = {"PORT": "18000", "NODE_PORT": "18010", "JOIN_TIMEOUT": "600"}
    done = shell(command, ROOT, FEDERATION=str(tmp_path / "federation"), **ports)
    assert done.returncode == 0, done.stdout + done.stderr
