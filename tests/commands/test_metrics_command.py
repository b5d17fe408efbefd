"""What Prometheus sees of a folder of runs."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from fedguard.commands.metrics import REASONS, Runs, general, main
from fedguard.config import parse
from fedguard.runs.simulation import Simulation

prometheus = pytest.importorskip("prometheus_client")


def seen(folder: Path, **options: int) -> dict[tuple[str, ...], float]:
    """Return what Prometheus reads: name and label values to value."""
    registry = prometheus.CollectorRegistry()
    registry.register(Runs(folder, **options))
    assert prometheus.generate_latest(registry)
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in registry.collect()
        for sample in family.samples
    }


def lines(*records: object) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


def make_run(folder: Path, rounds: str, clients: str) -> None:
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("rounds: 9\n")
    (folder / "rounds.jsonl").write_text(rounds)
    (folder / "clients.jsonl").write_text(clients)


def test_a_real_runs_counts_are_those_of_its_summary(tmp_path):
    given = {"clients": 5, "malicious": 0.2, "attack": "sign-flip", "strategy": "krum"}
    config = parse({**given, "rounds": 2, "local_epochs": 1})
    summary = Simulation(config).run(tmp_path / "one")
    found = seen(tmp_path)
    for outcome in ("asked", "answered", "failed", "rejected", "accepted"):
        assert found["fedguard_replies_total", "one", outcome] == summary["replies"][outcome]
    assert found["fedguard_round", "one"] == found["fedguard_rounds_planned", "one"] == 2
    assert found["fedguard_run_finished", "one"] == 1
    accuracy = summary["final"]["accuracy"]
    assert found["fedguard_figure", "one", "accuracy"] == pytest.approx(accuracy)
    away = [v for (name, *_), v in found.items() if name == "fedguard_turned_away_total"]
    assert sum(away) == summary["replies"]["rejected"]


def test_a_run_that_is_under_way_damaged_or_hostile_costs_no_metric(tmp_path):
    away = {"outcome": "rejected"}
    clients = [{**away, "reason": f"distance {n}.5e-3 beyond"} for n in range(40)]
    clients += [{**away, "reason": f"{'x' * 500}\u2028{chr(97 + n % 26) * n}"} for n in range(3)]
    clients += [{"outcome": "failed", "reason": "no reply"}, {"outcome": "accepted"}, 7]
    begun = lines({"round": 1, "asked": 5, "rejected": 2, "accuracy": float("nan"), "seconds": 3.5})
    make_run(tmp_path / "under-way", begun + '{"round": 2, "as', lines(*clients))
    make_run(tmp_path / "damaged", "\x00", "no json")
    (tmp_path / "damaged" / "config.yaml").write_text(": :")
    found = seen(tmp_path)
    assert found["fedguard_turned_away_total", "under-way", "rejected", "distance # beyond"] == 40
    assert found["fedguard_turned_away_total", "under-way", "rejected", "x" * 80] == 3
    assert found["fedguard_turned_away_total", "under-way", "failed", "no reply"] == 1
    assert found["fedguard_round", "under-way"] == 1
    assert found["fedguard_run_finished", "under-way"] == 0
    assert found["fedguard_round_seconds", "under-way"] == 3.5
    assert ("fedguard_figure", "under-way", "accuracy") not in found
    assert found["fedguard_rounds_planned", "damaged"] == 0


def test_a_client_cannot_make_more_and_more_series(tmp_path):
    names = [f"{chr(97 + n // 26)}{chr(97 + n % 26)}" for n in range(200)]
    clients = lines(*({"outcome": "rejected", "reason": name} for name in names))
    make_run(tmp_path / "one", "", clients)
    found = seen(tmp_path)
    away = {key: v for key, v in found.items() if key[0] == "fedguard_turned_away_total"}
    assert len(away) == REASONS + 1
    assert sum(away.values()) == 200


def test_only_the_newest_runs_are_shown(tmp_path):
    import os

    for number in range(3):
        make_run(tmp_path / str(number), "", "")
        os.utime(tmp_path / str(number) / "rounds.jsonl", (number, number))
    found = seen(tmp_path, newest=2)
    assert {run for name, run, *_ in found if name == "fedguard_round"} == {"1", "2"}


@pytest.mark.parametrize(
    ("reason", "shown"),
    [
        (None, "none given"),
        ("norm 1.5e+09 over 3,000", "norm # over #"),
        ("a\nb\x00", "ab"),
    ],
)
def test_reasons_are_shown_without_their_numbers(reason, shown):
    assert general(reason) == shown


def test_the_command_serves_and_says_what_is_wrong(tmp_path, capsys):
    assert main([str(tmp_path), "--listen", "nowhere"]) == 2
    assert "HOST:PORT" in capsys.readouterr().err
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main([str(tmp_path), "--listen", f"127.0.0.1:{port}"]) == 2
    assert "cannot listen" in capsys.readouterr().err
    make_run(tmp_path / "one", "", "")
    command = [sys.executable, "-m", "fedguard.commands.metrics", str(tmp_path)]
    process = subprocess.Popen(
        [*command, "--listen", f"127.0.0.1:{port}"],
        cwd=Path(__file__).resolve().parents[2],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout.readline().startswith("metrics of the runs in")
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as answer:
            assert b'fedguard_rounds_planned{run="one"} 9.0' in answer.read()
    finally:
        process.kill()
        process.wait()
