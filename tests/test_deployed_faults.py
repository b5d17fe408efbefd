"""What happens to a run when its processes are paused or killed: a recorded end, and no hang."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

import pytest
from safetensors.torch import load_file
from test_deployment import PATIENCE, Federation, federation, in_process

from fedguard.records.writer import read_jsonl

__all__ = ["federation"]

pytestmark = pytest.mark.slow

SMALL_STEPS = "lr=0.01 batch_size=128 local_epochs=1"


def up(world: Federation) -> None:
    world.start_superlink()
    for place in range(world.supernodes):
        world.start_supernode(place)


def kill_serverapp(world: Federation) -> None:
    """Kill the process in which the strategy runs."""
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            mine = f"FEDERATION={world.folder}".encode()
            if (
                b"flwr-serverapp" in (process / "cmdline").read_bytes()
                and mine in (process / "environ").read_bytes()
            ):
                os.kill(int(process.name), signal.SIGKILL)


def assert_goes_on(world: Federation, run: Path, folder: Path) -> None:
    """Resume a run that ended early; it ends in the model of one that never did."""
    done = world.do("run", RESUME=run.name)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    ours, theirs = (
        load_file(path / "model.safetensors") for path in (run, in_process(run, folder))
    )
    for name, value in ours.items():
        assert float((value - theirs[name]).abs().max()) < 1e-5


def test_a_serverapp_that_is_killed_ends_its_run_and_the_run_goes_on(federation, tmp_path):
    world = federation(2, ROUNDS="4", MALICIOUS="0", RUN_CONFIG=SMALL_STEPS, APP_PATIENCE="60")
    up(world)
    world.start("run", "run")
    world.wait_for(lambda: world.round_done(1), "round 1")
    kill_serverapp(world)
    assert world.processes.pop("run").wait(timeout=PATIENCE) == 1
    assert "finished:failed" in world.log("run")
    run = world.newest_run
    assert not (run / "summary.json").exists()
    assert_goes_on(world, run, tmp_path / "here")


def test_a_superlink_that_is_killed_in_a_run_ends_it_and_the_run_goes_on(federation, tmp_path):
    world = federation(2, ROUNDS="4", MALICIOUS="0", RUN_CONFIG=SMALL_STEPS)
    up(world)
    world.start("run", "run")
    world.wait_for(lambda: world.round_done(1), "round 1")
    run = world.newest_run
    world.kill("superlink")
    kill_serverapp(world)
    assert world.processes.pop("run").wait(timeout=PATIENCE) != 0
    world.start("superlink", "superlink")
    world.wait_for(lambda: world.do("healthy").returncode == 0, "a healthy SuperLink")
    assert_goes_on(world, run, tmp_path / "here")


def test_a_paused_supernode_is_missing_and_takes_part_again(federation):
    world = federation(
        3, ROUNDS="4", MALICIOUS="0", ROUND_TIMEOUT="90", RUN_CONFIG="local_epochs=1"
    )
    up(world)
    world.start("run", "run")
    world.wait_for(lambda: world.round_done(1), "round 1")
    os.killpg(world.processes["supernode-1"].pid, signal.SIGSTOP)
    world.wait_for(lambda: world.round_done(3), "round 3")
    os.killpg(world.processes["supernode-1"].pid, signal.SIGCONT)
    assert world.processes.pop("run").wait(timeout=PATIENCE) == 0
    records = read_jsonl(world.newest_run / "clients.jsonl")
    missed = [r["round"] for r in records if r["client"] == 1 and r["num_examples"] is None]
    assert 3 in missed
    assert 1 not in missed
    assert all(r["reason"] for r in records if r["num_examples"] is None)


def test_two_runs_at_once_are_apart_and_a_third_can_be_stopped(federation):
    world = federation(2, ROUNDS="2", MALICIOUS="0", RUN_CONFIG="local_epochs=1")
    up(world)
    for seed in (1, 2):
        world.start(f"run-{seed}", "run", SEED=seed)
    for seed in (1, 2):
        assert world.processes.pop(f"run-{seed}").wait(timeout=PATIENCE) == 0
    runs = list((world.folder / "runs").iterdir())
    assert len(runs) == 2
    assert {(run / "summary.json").exists() for run in runs} == {True}
    world.start("third", "run", ROUNDS=1000)
    world.wait_for(lambda: "run " in world.log("third"), "the third run")
    number = world.log("third").partition("run ")[2].split()[0]
    stopped = world.do("stop", number)
    assert stopped.returncode == 0, stopped.stdout + stopped.stderr
    assert world.processes.pop("third").wait(timeout=PATIENCE) == 1
    assert "stopped" in world.log("third")
