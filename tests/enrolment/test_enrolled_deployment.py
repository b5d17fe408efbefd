"""docs/enrolment.md's commands, and docker/local.sh with a registrar, a relay and a door."""

from __future__ import annotations

import json
import os
import re
import shlex
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from fedguard.config import parse
from fedguard.enrolment.base import check_deployed, make_enrolment
from fedguard.enrolment.reasons import NO_ANSWER
from fedguard.errors import ConfigurationError, RunError
from fedguard.grids.roll_call import RollCall
from fedguard.records.writer import read_jsonl
from fedguard.runs.simulation import Simulation
from fedguard.traits import Traits

ROOT = Path(__file__).resolve().parents[2]
GUIDE = (ROOT / "docs" / "enrolment.md").read_text(encoding="utf-8")
COMMANDS = [
    line
    for block in re.findall(r"```bash\n(.*?)```", GUIDE, re.DOTALL)
    for line in block.splitlines()
]
ENVIRONMENT = {
    **os.environ,
    "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    "PYTHONPATH": str(ROOT),
    "OMP_NUM_THREADS": "1",
    "FLWR_TELEMETRY_ENABLED": "0",
}


def test_the_guide_shows_commands():
    assert len(COMMANDS) == 4


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_the_guides_commands_work(command, tmp_path):
    done = subprocess.run(
        shlex.split(command), cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


DEPLOYED = {
    "clients": 4,
    "attack": "none",
    "malicious": 0.0,
    "strategy": "fedavg",
    "enrolment": {"name": "k-pseudonym", "k": 4, "registrar": "127.0.0.1:1", "door": "a:2"},
}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"enrolment": {"name": "k-pseudonym", "k": 4}}, "would make its clients' tickets"),
        ({"enrolment": "roster"}, "would make its clients' tickets"),
        ({"attack": "sign-flip", "malicious": 0.25}, "attack: 'sign-flip'"),
        ({"faults": {"dropout": 0.1}}, "faults: "),
    ],
)
def test_what_would_be_a_lie_in_a_deployment_is_refused(changes, words):
    world = Simulation(parse({**DEPLOYED, **changes})).world
    with pytest.raises(ConfigurationError) as caught:
        world.check_deployed()
    assert words in str(caught.value)
    Simulation(parse(DEPLOYED)).world.check_deployed()
    check_deployed(parse({"attack": "none"}), None, frozenset({"updates"}))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"variant": "blind"}, "where there is a registrar"),
        ({"linkable": True}, "where there is a registrar"),
        ({"door": "nowhere"}, "enrolment.door: 'nowhere' is not valid; allowed: host:port"),
        ({"registrar": "host:"}, "enrolment.registrar: 'host:'"),
        ({"listen": "1"}, "enrolment.listen: '1'"),
    ],
)
def test_what_the_deployment_cannot_do_is_refused(changes, words):
    given = {**DEPLOYED, "enrolment": {**DEPLOYED["enrolment"], **changes}}
    with pytest.raises(ConfigurationError) as caught:
        make_enrolment(parse(given), Traits())
    assert words in str(caught.value)


def test_some_of_the_members_cannot_be_asked_in_a_deployment():
    with pytest.raises(ConfigurationError, match=r"fraction: 0\.5"):
        make_enrolment(parse({**DEPLOYED, "fraction": 0.5}), Traits())


def test_a_simulation_has_no_registrar_to_ask(tmp_path):
    with pytest.raises(ConfigurationError, match="none in a simulation"):
        Simulation(parse(DEPLOYED)).run(tmp_path)


def test_a_registrar_that_does_not_answer_stops_the_run_in_one_line(tmp_path):
    command = [sys.executable, ROOT / "docker" / "certificates.py", tmp_path, "--supernodes", "0"]
    subprocess.run([*command, "--registrar", "127.0.0.1"], check=True, capture_output=True)
    given = {**DEPLOYED, "enrolment": {**DEPLOYED["enrolment"], "folder": str(tmp_path)}}
    made = make_enrolment(parse(given), Traits())
    with pytest.raises(RunError, match=NO_ANSWER[:20]):
        made.gather(RollCall(4))


def free_ports(count: int) -> int:
    for start in range(21000 + os.getpid() % 20000, 60000, count):
        try:
            for port in range(start, start + count):
                with socket.socket() as found:
                    found.bind(("127.0.0.1", port))
        except OSError:
            continue
        return start
    raise RuntimeError("no free ports")


@pytest.mark.slow
def test_a_federation_of_processes_learns_from_updates_that_nobody_can_name(tmp_path):
    port = free_ports(8)
    settings = {
        "SUPERNODES": "3",
        "MALICIOUS": "0",
        "ROUNDS": "2",
        "STRATEGY": "fedavg",
        "PORT": str(port),
        "NODE_PORT": str(port + 4),
        "RUN_CONFIG": "local_epochs=1",
        "FEDERATION": str(tmp_path / "federation"),
        "JOIN_TIMEOUT": "600",
        "APP_PATIENCE": "300",
    }
    done = subprocess.run(
        [ROOT / "docker" / "local.sh", "--enrolment", "k-pseudonym"],
        env={**ENVIRONMENT, **settings},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (folder,) = (tmp_path / "federation" / "runs").iterdir()
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["replies"]["accepted"] == 6
    accuracy = [record["accuracy"] for record in read_jsonl(folder / "rounds.jsonl")]
    assert accuracy[-1] > accuracy[0] + 0.1
    records = read_jsonl(folder / "clients.jsonl")
    assert len({record["handle"] for record in records}) == 6
    assert {record["malicious"] for record in records} == {None}
    # The registrar can name the sender; the SuperLink's files do not hold what it takes.
    command = ["-m", "fedguard.enrolment", "trace", str(tmp_path / "federation")]
    named = {
        subprocess.run(
            [sys.executable, *command, "--handle", r["handle"], "--round=1", "--why=test"],
            env=ENVIRONMENT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for r in records
        if r["round"] == 1
    }
    assert named == {"member 0", "member 1", "member 2"}
