"""The result on one screen."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console, RenderableType
from synthetic_run import lead_with_perplexity, write_run

from fedguard.reporting.summary import render_comparison, render_summary


def lines(renderable: RenderableType, width: int = 80) -> list[str]:
    screen = io.StringIO()
    Console(file=screen, width=width).print(renderable)
    return [line.strip() for line in screen.getvalue().splitlines()]


@pytest.fixture
def summary(tmp_path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((write_run(tmp_path / "r") / "summary.json").read_text())
    return content


def test_summary_tells_what_matters(summary: dict[str, Any]) -> None:
    summary |= {
        "out": "runs/a",
        "detection": {"true_positive_rate": 0.98, "false_positive_rate": 0.03},
    }
    summary["final"] = {"accuracy": 0.942, "attack_success_rate": 0.021}
    text = "\n".join(lines(render_summary(summary)))
    for part in (
        "geminiguard under min-max by 4 of 20 clients",
        "94.2 %",
        "2.1 %",
        "98.0 %",
        "3.0 %",
    ):
        assert part in text
    for part in ("runs/a/report.html", "mnist", "20 rounds", "seed 0", "25 s", "812 MB"):
        assert part in text


def test_summary_fits_a_small_screen_whatever_it_holds(summary: dict[str, Any]) -> None:
    long = "very long text " * 40
    summary |= {"notes": [long] * 30, "out": "/deep" * 60, "attack": long, "dataset": long}
    summary |= {"strategy": "[red]" + long, "engine": long}
    shown = lines(render_summary(summary))
    assert len(shown) <= 22
    assert max(map(len, shown)) <= 80
    assert "deep/report.html" in "\n".join(shown)
    assert "[red]very long" in "\n".join(shown)
    assert "attackers rejected" in "\n".join(shown), "long values do not cut the labels"


@pytest.mark.parametrize(
    "broken",
    [{}, {"final": None, "best": 3, "detection": [], "notes": "x", "seconds": float("nan")}],
)
def test_summary_of_a_foreign_run(broken: dict[str, Any]) -> None:
    assert any("accuracy" in line and "–" in line for line in lines(render_summary(broken)))


def test_runs_without_attack_show_no_attackers(summary: dict[str, Any]) -> None:
    text = "\n".join(lines(render_summary(summary | {"attack": "none", "malicious": 0})))
    assert "attackers" not in text


def test_summary_of_a_language_model(tmp_path: Path) -> None:
    path = lead_with_perplexity(write_run(tmp_path / "lm", rounds=6))
    found = json.loads((path / "summary.json").read_text())
    found |= {"training": "adam", "enrolment": "tokens", "repair": "rnp", "repair_at": "every:5"}
    found |= {"audits": {"raven": {}, "verification": {}}}
    text = [" ".join(line.split()) for line in lines(render_summary(found))]
    last, best = found["final"]["perplexity"], found["best"]["perplexity"]
    when = found["best"]["round"]
    assert any(f"perplexity {last:.4g} best {best:.4g} in round {when}" in line for line in text)
    for row in (
        "training gru · adam · 6 rounds",
        "enrolment tokens",
        "repair rnp, every:5",
        "audits raven, verification",
    ):
        assert any(row in line for line in text), row
    assert "accuracy" not in " ".join(text)


def test_the_best_line_is_bold(summary: dict[str, Any]) -> None:
    rows = [{"strategy": "low", "accuracy": 0.2}, {"strategy": "high", "accuracy": 0.8}]
    screen = io.StringIO()
    Console(file=screen, width=80, force_terminal=True).print(render_comparison(rows))
    bold = [line for line in screen.getvalue().splitlines()[2:] if "\x1b[1m" in line]
    assert ["high" in line for line in bold] == [True]


def test_comparison_takes_summaries_and_flat_rows(summary: dict[str, Any]) -> None:
    flat = {"strategy": "fedavg", "accuracy": 0.101, "attack_success_rate": None}
    shown = lines(render_comparison([flat, summary]))
    assert "attackers rejected" in shown[1]
    row = next(line for line in shown if line.startswith("fedavg"))
    assert row.split() == ["fedavg", "10.1", "%", "–", "–", "–"]
    other = next(line for line in shown if line.startswith("geminiguard"))
    rate = 100 * summary["detection"]["true_positive_rate"]
    assert f"{rate:.1f} %" in other
    assert max(map(len, shown)) <= 80


def test_comparison_prefers_the_mean_detection_over_the_last_rounds() -> None:
    row = {
        "strategy": "krum",
        "final": {"accuracy": 0.9, "true_positive_rate": 1.0},
        "detection": {"true_positive_rate": 0.5, "false_positive_rate": None},
    }
    assert "50.0 %" in "\n".join(lines(render_comparison([row])))


def test_comparison_of_nothing_is_a_table() -> None:
    assert "strategy" in "\n".join(lines(render_comparison([])))
