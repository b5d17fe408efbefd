"""Progress lines with and without a terminal."""

from __future__ import annotations

import io
import itertools
import re

import pytest
from rich.console import Console

from fedguard.reporting.headline import Headline
from fedguard.reporting.progress import Progress


class Clock:
    """A clock that tests move."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def record(number: int, **figures: object) -> dict[str, object]:
    base = {"round": number, "accuracy": 0.912, "attack_success_rate": None}
    return base | {"accepted": 16, "rejected": 4} | figures


def run(total: int, seconds: float, *, first: int = 0, terminal: bool = False) -> str:
    clock, screen = Clock(), io.StringIO()
    console = Console(file=screen, force_terminal=terminal, width=80)
    with Progress(total, console=console, clock=clock) as progress:
        for number in range(first, total + 1):
            clock.now += seconds if number else 0.0
            progress.update(record(number))
    return screen.getvalue()


def test_fast_runs_print_a_line_per_tenth() -> None:
    lines = run(200, 0.01).splitlines()
    assert [int(re.findall(r"\d+", line)[0]) for line in lines] == list(range(20, 201, 20))


def test_slow_runs_print_at_least_every_ten_seconds() -> None:
    lines = run(1000, 4.0).splitlines()
    rounds = [int(re.findall(r"\d+", line)[0]) for line in lines]
    assert max(b - a for a, b in itertools.pairwise(rounds)) == 3
    assert rounds[-1] == 1000


def test_plain_lines_name_the_figures_and_the_time_left() -> None:
    first = run(10, 30.0).splitlines()[0]
    assert first == "round 1/10 · accuracy 91.2 % · rejected 4/20 · 4 min 30 s left"
    assert "\x1b" not in first


def test_lines_lead_with_the_tasks_headline() -> None:
    screen = io.StringIO()
    headline = Headline("perplexity", higher_is_better=False, unit="plain")
    with Progress(1, console=Console(file=screen), headline=headline) as progress:
        progress.update(record(1, perplexity=17.25))
    assert screen.getvalue() == "round 1/1 · perplexity 17.25 · rejected 4/20\n"


def test_time_left_of_a_resumed_run_counts_only_its_own_rounds() -> None:
    assert "round 91/100 · accuracy 91.2 % · rejected 4/20 · 1 min 30 s left" in run(
        100, 10.0, first=91
    )


def test_terminal_shows_a_live_line_of_one_row() -> None:
    output = run(5, 1.0, terminal=True)
    assert "5/5" in output
    assert "accuracy 91.2 %" in output
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", output)
    assert all(len(line) <= 80 for line in re.split(r"[\r\n]", plain))


def test_live_line_is_taken_away_when_the_run_fails() -> None:
    screen = io.StringIO()
    progress = Progress(5, console=Console(file=screen, force_terminal=True))
    with pytest.raises(ValueError, match="boom"), progress:
        raise ValueError("boom")
    assert screen.getvalue().rstrip("\n").endswith("\x1b[2K")
    assert "\x1b[?25h" in screen.getvalue()  # the cursor is back


def test_writes_to_standard_error_and_never_to_standard_output(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with Progress(1) as progress:
        progress.note("[bold]kept as written[/bold]")
        progress.update(record(1, attack_success_rate=0.5))
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "[bold]kept as written[/bold]" in captured.err
    assert "attack 50.0 %" in captured.err


def test_disabled_shows_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(3, enabled=False) as progress:
        progress.note("quiet")
        progress.update(record(3))
    assert capsys.readouterr() == ("", "")


def test_foreign_records_do_no_harm() -> None:
    screen = io.StringIO()
    with Progress(0, console=Console(file=screen)) as progress:
        progress.update({})
        progress.update({"round": 0, "accuracy": float("nan"), "rejected": "x"})
    assert "accuracy" not in screen.getvalue()
