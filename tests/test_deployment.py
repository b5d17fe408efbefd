"""A federation of real processes on loopback: docker/local.sh and what goes wrong in one."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from fedguard.config import parse
from fedguard.records.writer import read_jsonl
from fedguard.runs.simulation import Simulation

ROOT = Path(__file__).resolve().parents[1]
PATIENCE = 1200.0
"""Seconds that a test waits for anything: the machine may be busy with other work."""


def free_ports(count: int) -> int:
    """Return the first of `count` ports in a row that nobody listens on."""
    for start in range(20000 + os.getpid() % 20000, 60000, count):
        with contextlib.ExitStack() as stack:
            try:
                for port in range(start, start + count):
                    stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
            except OSError:
                continue
            return start
    raise RuntimeError("no free ports")


class Federation:
    """The roles of docker/federation.sh as processes, one method per thing a test does."""

    def __init__(self, folder: Path, supernodes: int, **settings: object) -> None:
        self.folder = folder
        self.supernodes = supernodes
        port = free_ports(supernodes + 3)
        self.port = port
        self.environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "FEDERATION": str(folder),
            "RUNS": str(folder / "runs"),
            "SUPERLINK_HOST": "127.0.0.1",
            "LISTEN": "127.0.0.1",
            "PORT": str(port),
            "NODE_PORT": str(port + 1),
            "SUPERNODES": str(supernodes),
            "OMP_NUM_THREADS": "1",
            "JOIN_TIMEOUT": "600",
            "APP_PATIENCE": "300",
            **{name: str(value) for name, value in settings.items()},
        }
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def role(self, name: str, **more: object) -> dict[str, str]:
        settings = {key: str(value) for key, value in more.items()}
        home = str(self.folder / "home" / name)
        return {**self.environment, "FLWR_HOME": home, "HOME": str(self.folder), **settings}

    def do(self, *role: str, **more: object) -> subprocess.CompletedProcess[str]:
        """Run a role to its end."""
        return subprocess.run(
            [ROOT / "docker" / "federation.sh", *role],
            env=self.role("run", **more),
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )

    def start(self, name: str, role: str, **more: object) -> None:
        """Start a role in a process group of its own."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [ROOT / "docker" / "federation.sh", role],
                env=self.role(name, **more),
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def start_superlink(self) -> None:
        """Start the SuperLink and enrol the SuperNodes."""
        assert self.do("certificates").returncode == 0
        self.start("superlink", "superlink")
        self.wait_for(lambda: self.do("healthy").returncode == 0, "a healthy SuperLink")
        done = self.do("enrol")
        assert done.returncode == 0, done.stdout + done.stderr

    def start_supernode(self, place: int, **more: object) -> None:
        settings = {"PARTITION": place, "NODE_PORT": self.port + 1 + place, **more}
        self.start(f"supernode-{place}", "supernode", **settings)

    def kill(self, name: str, how: signal.Signals = signal.SIGKILL) -> None:
        """End a process and all that it started."""
        process = self.processes.pop(name)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, how)
        process.wait(timeout=60)

    def wait_for(self, ready: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + PATIENCE
        while not ready():
            assert time.monotonic() < deadline, f"waited {PATIENCE:g} s for {what}"
            time.sleep(0.5)

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text(encoding="utf-8", errors="replace")

    @property
    def newest_run(self) -> Path:
        return max((self.folder / "runs").iterdir(), key=lambda path: path.stat().st_mtime)

    def round_done(self, number: int) -> bool:
        """Return whether the newest run has recorded a round."""
        if not any((self.folder / "runs").glob("*/rounds.jsonl")):
            return False
        records = (self.newest_run / "rounds.jsonl").read_text().splitlines()
        return len(records) > number

    def close(self) -> None:
        for name in list(self.processes):
            self.kill(name, signal.SIGTERM)


@pytest.fixture
def federation(tmp_path) -> Iterator[Callable[..., Federation]]:
    made: list[Federation] = []

    def make(supernodes: int, **settings: object) -> Federation:
        made.append(Federation(tmp_path / "federation", supernodes, **settings))
        return made[-1]

    yield make
    for one in made:
        one.close()


def verdicts(run: Path) -> list[tuple[object, ...]]:
    keys = ("round", "client", "malicious", "accepted", "reason")
    return [tuple(record[key] for key in keys) for record in read_jsonl(run / "clients.jsonl")]


def processes_left(folder: Path, patience: float = 15.0) -> list[str]:
    """Return `processes_of` a folder once there are none, or after a while."""
    deadline = time.monotonic() + patience
    while (found := processes_of(folder)) and time.monotonic() < deadline:
        time.sleep(0.5)
    return found


def processes_of(folder: Path) -> list[str]:
    """Return the command lines of processes whose environment names a folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if f"FEDERATION={folder}".encode() in (process / "environ").read_bytes().split(b"\0"):
                found.append((process / "cmdline").read_text().replace("\0", " "))
    return found


def run_locally(federation: Federation) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [ROOT / "docker" / "local.sh"],
        env={k: v for k, v in federation.environment.items() if k not in ("LISTEN", "FLWR_HOME")},
        capture_output=True,
        text=True,
        timeout=2 * PATIENCE,
        check=False,
    )


def in_process(run: Path, out: Path, **changes: object) -> Path:
    """Repeat a recorded run with the in-process engine."""
    import yaml

    config = yaml.safe_load((run / "config.yaml").read_text())
    Simulation(parse({**config, "engine": "inprocess", **changes})).run(out)
    return out


def assert_same_run(one: Path, other: Path) -> None:
    assert verdicts(one) == verdicts(other)
    ours, theirs = (load_file(path / "model.safetensors") for path in (one, other))
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs[name], atol=1e-5, rtol=0)


def test_a_small_federation_gives_the_model_of_the_inprocess_engine(federation, tmp_path):
    world = federation(3, MALICIOUS="0.34", ROUNDS="2", RUN_CONFIG="local_epochs=1")
    done = run_locally(world)
    assert done.returncode == 0, done.stdout + done.stderr
    assert processes_left(world.folder) == []
    run = world.newest_run
    assert {path.name for path in run.iterdir()} >= {"summary.json", "report.html", "config.yaml"}
    assert json.loads((run / "summary.json").read_text())["engine"] == "flower"
    assert_same_run(run, in_process(run, tmp_path / "here"))


@pytest.mark.slow
def test_five_supernodes_reject_the_malicious_one(federation, tmp_path):
    world = federation(5)
    done = run_locally(world)
    assert done.returncode == 0, done.stdout + done.stderr
    run = world.newest_run
    liars = [record for record in read_jsonl(run / "clients.jsonl") if record["malicious"]]
    assert len(liars) == 5
    assert not any(record["accepted"] for record in liars)
    assert all(record["reason"] for record in liars)
    assert_same_run(run, in_process(run, tmp_path / "here"))


@pytest.mark.slow
def test_a_superlink_started_again_still_knows_its_supernodes(federation):
    world = federation(2, ROUNDS="1", MALICIOUS="0.0")
    for runs in (1, 2):
        done = run_locally(world)
        assert done.returncode == 0, done.stdout + done.stderr
        assert len(list((world.folder / "runs").iterdir())) == runs


@pytest.mark.slow
def test_mnist_over_tls(federation, torchvision_dir, tmp_path):
    small = "set='dataset.train_samples=2000 dataset.test_samples=1000' local_epochs=1"
    data = {"DATASET": "mnist", "DATA_DIR": torchvision_dir, "RUN_CONFIG": small}
    world = federation(5, ROUNDS="2", **data)
    done = run_locally(world)
    assert done.returncode == 0, done.stdout + done.stderr
    assert_same_run(world.newest_run, in_process(world.newest_run, tmp_path / "here"))


@pytest.mark.slow
def test_a_killed_supernode_is_recorded_as_missing_until_it_is_back(federation):
    world = federation(5, ROUND_TIMEOUT="90")
    world.start_superlink()
    for place in range(5):
        world.start_supernode(place)
    world.start("run", "run")
    world.wait_for(lambda: world.round_done(1), "round 1")
    world.kill("supernode-2")
    world.wait_for(lambda: world.round_done(2), "round 2")
    world.start_supernode(2)
    assert world.processes.pop("run").wait(timeout=PATIENCE) == 0
    of_two = [r for r in read_jsonl(world.newest_run / "clients.jsonl") if r["client"] == 2]
    reasons = {record["round"]: record["reason"] for record in of_two}
    assert reasons[1] is None or "no reply" not in reasons[1]
    assert reasons[2] is not None
    assert "no reply" in reasons[2] or "error reply" in reasons[2]
    assert of_two[-1]["round"] == 5
    assert of_two[-1]["num_examples"] is not None
    rounds = read_jsonl(world.newest_run / "rounds.jsonl")
    assert rounds[2]["malformed"] == 1
    assert rounds[5]["malformed"] == 0


@pytest.mark.slow
def test_a_supernode_that_joins_late_takes_part_from_the_next_round(federation):
    world = federation(3, JOIN_TIMEOUT="60", ROUNDS="3", MALICIOUS="0.0", ROUND_TIMEOUT="300")
    world.start_superlink()
    world.start_supernode(0)
    world.start_supernode(1)
    world.start("run", "run")
    world.wait_for(lambda: world.round_done(1), "round 1")
    world.start_supernode(2)
    assert world.processes.pop("run").wait(timeout=PATIENCE) == 0
    records = read_jsonl(world.newest_run / "clients.jsonl")
    of_two = [record for record in records if record["client"] == 2]
    assert "not connected" in of_two[0]["reason"]
    assert of_two[-1]["num_examples"] is not None
    assert all(record["num_examples"] for record in records if record["client"] != 2)


@pytest.mark.slow
def test_an_unknown_key_and_plaintext_are_refused_and_disturb_nobody(federation):
    world = federation(2)
    world.start_superlink()
    world.start_supernode(0)
    world.wait_for(lambda: "activate-node" in world.log("superlink"), "the enrolled SuperNode")
    stranger = world.folder / "stranger"
    command = [sys.executable, ROOT / "docker" / "certificates.py", stranger, "--supernodes", "1"]
    subprocess.run(command, check=True)
    world.start_supernode(1, SUPERNODE_KEY=stranger / "supernodes" / "0" / "node.key")
    world.wait_for(lambda: world.processes["supernode-1"].poll() is not None, "the refusal")
    assert world.processes.pop("supernode-1").returncode != 0
    activated = world.log("superlink").count("Activated node_id")
    plain = ["flower-supernode", "--insecure", "--superlink", f"127.0.0.1:{world.port}"]
    with (world.folder / "plain.log").open("wb") as log:
        world.processes["plain"] = subprocess.Popen(
            [*plain, "--port", str(world.port + 4)],
            env=world.role("plain"),
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    # Flower keeps trying; it never gets in.
    world.wait_for(lambda: "attempt failed" in world.log("plain"), "the plaintext client's failure")
    world.kill("plain")
    assert world.log("superlink").count("Activated node_id") == activated == 1
    assert world.do("healthy").returncode == 0
    assert world.processes["supernode-0"].poll() is None


ROGUE = """
import numpy as np
from flwr.app import Array
from fedguard.flower_app import client_app, make_client_app
from fedguard.nodes.run_config import partition_of

app = make_client_app()
honest = app._registered_funcs["train.default"]

def train(message, context):
    reply = honest(message, context)
    if partition_of(context) == 1:
        record = reply.content["arrays"]
        name = next(iter(record))
        record[name] = Array(np.full(record[name].shape, np.nan, np.float32))
    return reply

app._registered_funcs["train.default"] = train
"""


@pytest.mark.slow
def test_a_client_that_sends_malformed_records_is_set_aside(federation, tmp_path):
    from fedguard.flower_app import project_file

    app = tmp_path / "rogue-app"
    app.mkdir()
    text = project_file().replace('"fedguard.flower_app:client_app"', '"rogue:app"')
    (app / "pyproject.toml").write_text(text)
    (app / "rogue.py").write_text(ROGUE)
    world = federation(3, APP=app, ROUNDS="2", MALICIOUS="0.0")
    done = run_locally(world)
    assert done.returncode == 0, done.stdout + done.stderr
    of_one = [r for r in read_jsonl(world.newest_run / "clients.jsonl") if r["client"] == 1]
    assert [record["reason"] for record in of_one] == ["not a number (NaN) in the update"] * 2
    assert not any(record["accepted"] for record in of_one)
    assert read_jsonl(world.newest_run / "rounds.jsonl")[2]["malformed"] == 1


@pytest.mark.slow
def test_a_bad_value_ends_with_one_line_and_a_failure(federation):
    world = federation(1, RUN_CONFIG="set='stratgy=krum'")
    world.start_superlink()
    done = world.do("run")
    assert done.returncode == 1
    lines = [line for line in done.stdout.splitlines() if "fedguard: stratgy" in line]
    assert lines
    assert "did you mean 'strategy'" in lines[0]
    assert "Traceback" not in done.stdout
    refused = world.do("run", RUN_CONFIG="stratgy='krum'")
    assert refused.returncode == 1
    assert "Invalid run configuration" in refused.stdout + refused.stderr
