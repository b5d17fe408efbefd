"""The benchmark for one GPU, dry-run on a CPU: what it compares, and what it calls missed."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch

from benchmarks import gpu

SMALL = ["--device", "cpu", "--small", "--names"]


@pytest.mark.slow
def test_engines_rules_attacks_and_times_come_out_of_one_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    out = tmp_path / "gpu.md"
    gpu.main([*SMALL, "median", "sign-flip", "--out", str(out)])
    lines = out.read_text().splitlines()
    rows = {line.split("|")[1].strip(): line.split("|")[2:4] for line in lines if "|" in line}
    assert out.read_text() == capsys.readouterr().out
    for name, executor in (("mlp", "dense"), ("mlp", "vmap"), ("cnn", "vmap"), ("cnn", "reuse")):
        assert rows[f"engine {executor}, {name}"][1].strip() == "0.0001 met"
    assert "same verdicts (digits)" in rows["strategy median"][0]
    assert rows["attack sign-flip"][1].strip() == "0.0001, same verdicts met"
    assert rows["median on the device's matrix"][1].strip() == "0.0001, same verdicts met"
    assert rows["median, 10 x 20,000"][1].strip() == "(limit 0.00 ms)"
    assert any("resnet18" in name and "4.5 s on one H100" in row[1] for name, row in rows.items())
    assert any("plain loop" in name for name in rows)
    assert "strategy krum" not in rows
    assert lines[-1].endswith("targets missed")


def test_engines_and_rules_on_the_device_are_compared_with_the_cpu(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(gpu, "EXECUTORS", (("mlp", "dense"), ("mlp", "vmap")))
    monkeypatch.setattr(gpu, "check_runs", lambda *_: None)
    gpu.main([*SMALL, "median", "krum", "--only", "engines", "rules"])
    found = capsys.readouterr().out
    assert found.count("| 0.0001 met |") == 2
    assert found.count("same verdicts | 0.0001, same verdicts met |") == 2
    assert "0 targets missed" in found


def test_a_result_that_differs_or_other_verdicts_are_missed(monkeypatch: pytest.MonkeyPatch):
    runs = iter(
        [
            (torch.ones(3), [(1, 0, True)]),
            (torch.ones(3) + 2e-4, [(1, 0, True)]),
            (torch.ones(3), [(1, 0, True)]),
            (torch.ones(3), [(1, 0, False)]),
        ]
    )
    monkeypatch.setattr(gpu, "one_run", lambda *_: next(runs))
    monkeypatch.setattr(gpu.registry, "names", lambda _: ["krum", "median"])
    options = type("Options", (), {"names": None, "device": "cpu"})
    report = gpu.Report(time.monotonic() + 60)
    gpu.check_runs(report, options, "strategy")
    assert report.missed == 2
    assert "2.0e-04, same verdicts" in report.lines[0]
    assert "0.0e+00, other verdicts" in report.lines[1]


def test_what_there_is_no_time_for_is_told(capsys: pytest.CaptureFixture[str]):
    gpu.main([*SMALL, "median", "--seconds", "-1", "--only", "engines", "rules", "attacks"])
    found = capsys.readouterr().out
    assert "| engine dense, mlp | not done: no time left | |" in found
    assert "| strategy median | not done: no time left | |" in found


def test_a_machine_without_a_gpu_is_told_what_to_type(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="--device cpu --small"):
        gpu.main([])
