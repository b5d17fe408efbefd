"""A campaign runs every cell once, records failures, survives being killed, and repeats itself."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from fedguard.campaigns import cells, pool
from fedguard.campaigns.campaign import parse_campaign
from fedguard.campaigns.cells import comparable_bytes, run_cell, run_lock, state_of, without_times
from fedguard.campaigns.progress import SweepProgress
from fedguard.config import parse
from fedguard.errors import RunError
from fedguard.simulate import main

TINY: dict[str, Any] = {
    "clients": 4,
    "rounds": 2,
    "local_epochs": 1,
    "malicious": 0.25,
    "server_samples": 20,
}
GRID = {"strategy": ["fedavg", "median"], "attack": ["sign-flip", "none"]}


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "BUSY_SECONDS", 0.05)


def write_campaign(folder: Path, **values: Any) -> Path:
    content = {"name": "tiny", "base": TINY, "grid": GRID, **values}
    path = folder / "campaign-file.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def run(*words: object) -> int:
    return main(["sweep", *map(str, words)])


def summaries(folder: Path) -> dict[str, int]:
    return {p.parent.name: p.stat().st_mtime_ns for p in folder.glob("*/summary.json")}


def results(folder: Path) -> dict[str, dict[str, bytes]]:
    return {name: comparable_bytes(folder / name) for name in sorted(summaries(folder))}


def test_runs_each_cell_once_and_never_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = write_campaign(tmp_path), tmp_path / "out"
    assert run(file, "--out", out, "--workers", 1, "--json") == 0
    told = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert told["runs"] == told["done"] == 4
    first = summaries(out)
    assert len(first) == 4
    record = json.loads((out / "campaign.json").read_text())
    assert {one["directory"] for one in record["runs"]} == set(first)
    for one in record["runs"]:
        held = json.loads((out / one["directory"] / "summary.json").read_text())
        assert held["config_digest"] == one["digest"]
    assert run(file, "--out", out, "--workers", 1) == 0
    assert summaries(out) == first


def test_a_larger_grid_keeps_what_is_there(tmp_path: Path) -> None:
    out = tmp_path / "out"
    small = {"strategy": ["fedavg"], "attack": ["none"]}
    assert run(write_campaign(tmp_path, grid=small), "--out", out, "--workers", 1) == 0
    first = summaries(out)
    larger = {"strategy": ["fedavg", "median"], "attack": ["none"]}
    assert run(write_campaign(tmp_path, grid=larger), "--out", out, "--workers", 1) == 0
    second = summaries(out)
    assert len(second) == 2
    assert second.items() >= first.items()
    earlier = json.loads((out / "campaign.json").read_text())["earlier"]
    assert [one["grid"] for one in earlier] == [small]


def test_a_bad_cell_stops_everything_before_the_first_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    # Valid by itself, but the parts do not fit: the strategy needs examples on the server.
    grid = {"strategy": ["fedavg", "geminiguard"]}
    file = write_campaign(tmp_path, base={**TINY, "server_samples": 0}, grid=grid)
    assert run(file, "--out", out, "--workers", 1) == 2
    said = capsys.readouterr().err.strip()
    assert "run [strategy=geminiguard seed=0]: server_samples" in said
    assert "\n" not in said
    assert not out.exists()


@pytest.mark.parametrize(
    "words",
    [["nowhere.yaml"], ["--workers", "-1"], ["--threads", "0"], ["--track", "nothing"], ["--sett"]],
)
def test_bad_arguments_are_one_line(
    tmp_path: Path, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    file = [] if words[0].endswith(".yaml") else [str(write_campaign(tmp_path))]
    assert run(*file, *words, "--out", tmp_path / "out") == 2
    assert "\n" not in capsys.readouterr().err.strip()
    assert not (tmp_path / "out").exists()


def break_strategy(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    from fedguard.runs.simulation import Simulation

    original = Simulation.run

    def run(self: Simulation, *arguments: Any, **named: Any) -> dict[str, Any]:
        if self.config.strategy.name == name:
            raise ZeroDivisionError("on purpose\nin two lines")
        return original(self, *arguments, **named)

    monkeypatch.setattr(Simulation, "run", run)


def test_a_failing_run_is_recorded_and_does_not_stop_the_rest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = write_campaign(tmp_path), tmp_path / "out"
    with pytest.MonkeyPatch.context() as patch:
        break_strategy(patch, "fedavg")
        assert run(file, "--out", out, "--workers", 1) == 1
    assert "ZeroDivisionError: on purpose in two lines" in capsys.readouterr().err
    errors = [json.loads(path.read_text()) for path in out.glob("fedavg-*/error.json")]
    assert [one["type"] for one in errors] == ["ZeroDivisionError"] * 2
    assert all("Traceback" in one["traceback"] for one in errors)
    assert len(summaries(out)) == 2
    assert run(file, "--out", out, "--workers", 1) == 1, "failed runs are left alone"
    assert len(summaries(out)) == 2
    assert run(file, "--out", out, "--workers", 1, "--retry-failed") == 0
    assert len(summaries(out)) == 4
    assert not list(out.glob("*/error.json"))


def test_dry_run_tells_the_plan_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = write_campaign(tmp_path, seeds=3), tmp_path / "out"
    assert run(file, "--out", out, "--dry-run", "--workers", 2) == 0
    said = capsys.readouterr().out
    assert "12 runs" in said
    assert "12 waiting; 12 to do" in said
    assert "unknown before the first finished run" in said
    assert not out.exists()
    small = write_campaign(tmp_path)
    assert run(small, "--out", out, "--workers", 1) == 0
    capsys.readouterr()
    file = write_campaign(tmp_path, seeds=3)
    assert run(file, "--out", out, "--dry-run", "--json", "--workers", 2) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["states"] == {"done": 4, "waiting": 8}
    assert plan["to_do"] == 8
    assert plan["estimated_from"] == "4 finished runs"
    spent = [json.loads(p.read_text())["seconds"] for p in out.glob("*/summary.json")]
    assert plan["estimated_seconds"] == pytest.approx(2 * sum(spent) / 2, rel=1e-6)


def test_probe_estimates_without_leaving_a_trace(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = write_campaign(tmp_path), tmp_path / "out"
    assert run(file, "--out", out, "--dry-run", "--probe", "--json") == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["estimated_seconds"] > 0
    assert plan["estimated_from"] == "one round of each strategy"
    assert not out.exists()


def test_an_interrupted_run_goes_on_after_its_last_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = {**TINY, "rounds": 4, "strategy": "median"}
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert run_cell(values, whole).state == "done"
    seen: list[int] = []

    class Interrupting:
        def __init__(self, *_: object) -> None: ...
        def __enter__(self) -> Interrupting:
            return self

        def __exit__(self, *_: object) -> None: ...
        def finish(self, _: object) -> None: ...
        def on_round(self, record: dict[str, Any]) -> None:
            seen.append(record["round"])
            if seen == [0, 1, 2]:
                raise KeyboardInterrupt

    monkeypatch.setattr("fedguard.reporting.tracking.Tracking", Interrupting)
    with pytest.raises(KeyboardInterrupt):
        run_cell(values, cut)
    assert state_of(cut, parse(values).digest()) == "started"
    assert run_cell(values, cut).state == "done"
    assert seen == [0, 1, 2, 3, 4]
    assert comparable_bytes(whole) == comparable_bytes(cut)


def test_a_run_that_another_process_holds_is_left_to_it(tmp_path: Path) -> None:
    directory = tmp_path / "run"
    with run_lock(directory) as held:
        assert held
        assert run_cell(TINY, directory).state == "busy"
    assert not (directory / "config.yaml").exists()
    assert run_cell(TINY, directory).state == "done"


def test_a_sweep_waits_for_runs_of_another_process(tmp_path: Path) -> None:
    file, out = write_campaign(tmp_path), tmp_path / "out"
    campaign = parse_campaign({"name": "tiny", "base": TINY, "grid": GRID})
    first = out / campaign.cells()[0].directory
    first.mkdir(parents=True)
    code = (
        "import fcntl, sys, time\n"
        "file = open(sys.argv[1], 'a')\n"
        "fcntl.flock(file, fcntl.LOCK_EX)\n"
        "print('held', flush=True)\n"
        "time.sleep(600)\n"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(first / cells.LOCK)], stdout=subprocess.PIPE, text=True
    )
    assert other.stdout is not None
    assert other.stdout.readline() == "held\n"
    ended: list[str] = []

    class KillsTheOther(SweepProgress):
        def waiting(self, count: int) -> None:
            ended.append(f"{count} waiting after {len(summaries(out))}")
            other.kill()
            other.wait()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fedguard.commands.sweep.SweepProgress", KillsTheOther)
        assert run(file, "--out", out, "--workers", 1) == 0
    other.stdout.close()
    assert ended[0] == "1 waiting after 3"
    assert len(summaries(out)) == 4


def test_a_directory_of_another_run_is_never_overwritten(tmp_path: Path) -> None:
    directory = tmp_path / "run"
    assert run_cell(TINY, directory).state == "done"
    before = (directory / "summary.json").read_bytes()
    other = run_cell({**TINY, "lr": 0.05}, directory)
    assert other.state == "failed"
    assert "holds a run of another configuration" in other.error
    assert (directory / "summary.json").read_bytes() == before
    with pytest.raises(RunError):
        state_of(directory, parse({**TINY, "lr": 0.05}).digest())


def test_times_are_taken_out_at_every_depth() -> None:
    record = {"a": 1, "seconds": 2, "final": {"seconds": 3, "b": [{"out": 1, "c": 2}]}}
    assert without_times(record) == {"a": 1, "final": {"b": [{"c": 2}]}}


def test_gpu_shares_give_every_worker_a_place() -> None:
    for gpus in range(1, 9):
        for workers in range(1, 40):
            share = pool._gpu_share(gpus, workers)
            assert 0 < share <= 1
            assert gpus * int(1 / share) >= workers


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["sweep"], "stopped; the same command goes on"),
        ([], "stopped; --resume with the same --out goes on"),
    ],
)
def test_ctrl_c_is_one_line_that_says_how_to_go_on(
    tmp_path: Path,
    words: list[str],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("fedguard.runs.simulation.Simulation.run", interrupted)
    if words:
        words = [*words, str(write_campaign(tmp_path)), "--workers", "1"]
    assert main([*words, "--out", str(tmp_path / "out")]) == 130
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last == f"fedguard: {said}"


NURSERY = """
import os, sys
import fedguard.runs.simulation
from fedguard.simulate import main
for _ in sys.stdin:
    child = os.fork()
    if child == 0:
        os._exit(main(sys.argv[1:]))
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
"""A process that imports once and then runs the command in a child for each line it reads."""


def kill_at_random(nursery: subprocess.Popen[str], out: Path, chance: random.Random) -> None:
    """Start a sweep and end it with SIGKILL at a random moment after its next run's start."""
    assert nursery.stdin is not None
    assert nursery.stdout is not None
    before = len(list(out.glob("*/rounds.jsonl")))
    nursery.stdin.write("run\n")
    nursery.stdin.flush()
    child = int(nursery.stdout.readline())
    limit = time.monotonic() + 120
    while len(list(out.glob("*/rounds.jsonl"))) <= before and time.monotonic() < limit:
        time.sleep(0.005)
    time.sleep(chance.uniform(0.0, 0.4))
    os.kill(child, signal.SIGKILL)
    assert int(nursery.stdout.readline()) == -signal.SIGKILL


def test_killed_twice_and_started_again_gives_the_same_files(tmp_path: Path) -> None:
    file = write_campaign(tmp_path, base={**TINY, "rounds": 8}, seeds=2)
    calm, killed = tmp_path / "calm", tmp_path / "killed"
    words = ["sweep", str(file), "--workers", "1", "--out"]
    chance = random.Random(os.getpid())
    with subprocess.Popen(
        [sys.executable, "-c", NURSERY, *words, str(killed)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as nursery:
        assert main([*words, str(calm)]) == 0
        kill_at_random(nursery, killed, chance)
        kill_at_random(nursery, killed, chance)
    assert len(summaries(killed)) < 8, "the campaign ended before it was killed"
    assert main([*words, str(killed)]) == 0
    assert results(killed) == results(calm)


@pytest.mark.slow
def test_workers_change_no_result(tmp_path: Path) -> None:
    file = write_campaign(tmp_path, seeds=2)
    assert run(file, "--out", tmp_path / "one", "--workers", 1) == 0
    assert run(file, "--out", tmp_path / "two", "--workers", 2) == 0
    assert results(tmp_path / "two") == results(tmp_path / "one")
    assert len(results(tmp_path / "one")) == 8
