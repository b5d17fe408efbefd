"""One live line where a line can move, plain lines elsewhere; shared by runs and campaigns."""

from __future__ import annotations

import importlib.util
import io
import re
from types import SimpleNamespace

import pytest
from rich.console import Console

from fedguard.campaigns.campaign import parse_campaign
from fedguard.campaigns.progress import SweepProgress
from fedguard.commands.sweep import Pace
from fedguard.reporting.live import MAX_LINE, LiveLine, moves
from fedguard.reporting.wording import bounded, counted, spoken, time_left


def seen(screen: io.StringIO) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.getvalue())


@pytest.mark.parametrize("terminal", [True, False])
def test_a_line_moves_on_a_terminal_only(terminal: bool) -> None:
    assert moves(Console(file=io.StringIO(), force_terminal=terminal)) is terminal


@pytest.mark.parametrize("widgets", [True, False])
def test_a_notebook_needs_widgets_for_it(monkeypatch: pytest.MonkeyPatch, widgets: bool) -> None:
    found = object() if widgets else None
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: found)
    assert moves(Console(force_jupyter=True)) is widgets


def test_the_bar_counts_and_what_is_said_stays() -> None:
    screen = io.StringIO()
    line = LiveLine(7, Console(file=screen, force_terminal=True, width=80))
    line.start("starting", 2)
    assert line.live
    line.say("[b]stays[/b]")
    line.move("three done", 3)
    line.move("waiting")
    line.stop()
    assert not line.live
    shown = seen(screen)
    assert "2/7" in shown
    assert "[b]stays[/b]" in shown
    assert shown.rindex("3/7") > shown.rindex("2/7"), "words alone do not move the bar"
    assert "waiting" in shown


def test_without_a_terminal_only_what_is_said_is_written() -> None:
    screen = io.StringIO()
    line = LiveLine(7, Console(file=screen, width=20))
    line.start("starting")
    line.move("moving", 3)
    line.say("a line that is longer than the console is wide")
    line.stop()
    assert screen.getvalue() == "a line that is longer than the console is wide\n"


def test_what_is_said_is_one_printable_line() -> None:
    screen = io.StringIO()
    line = LiveLine(1, Console(file=screen))
    line.say("failed: \x1b[2Jtwo\nlines" + "x" * 9999)
    assert screen.getvalue().startswith("failed: �[2Jtwo linesxxx")
    assert len(screen.getvalue()) == MAX_LINE + 1


def test_no_console_writes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    line = LiveLine(7, None)
    line.start("starting")
    line.say("x")
    line.stop()
    assert capsys.readouterr() == ("", "")


def test_a_campaigns_lines_lead_with_each_runs_headline() -> None:
    told = {"name": "perplexity", "higher_is_better": False, "unit": "plain"}
    cells = parse_campaign({"name": "x", "base": {"rounds": 2}, "seeds": 2}).cells()
    results = [
        SimpleNamespace(state="done", accuracy=17.25, headline=told, seconds=3.0),
        SimpleNamespace(state="done", accuracy=0.5, headline=None, seconds=3.0),
    ]
    screen = io.StringIO()
    with SweepProgress(2, Pace(), cells, 1, Console(file=screen, width=200)) as progress:
        for cell, result in zip(cells, results, strict=True):
            progress.ended(cell, result)
    _, first, second = screen.getvalue().splitlines()
    assert "perplexity 17.25 in 3.00 s" in first
    assert "accuracy 50.0 % in 3.00 s" in second


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.2, "1 s left"), (58.4, "58 s left"), (61.0, "1 min 01 s left"), (7200, "2 h 00 min left")],
)
def test_time_left(seconds: float, words: str) -> None:
    assert time_left(seconds) == words


@pytest.mark.parametrize(
    ("text", "limit", "shown"),
    [
        ("short", 10, "short"),
        ("exactly te", 10, "exactly te"),
        ("exactly ten", 10, "exactly t…"),
        ("two\nlines\tand  gaps", 40, "two lines and gaps"),
        ("\x1b[2Jclear", 40, "�[2Jclear"),
        ("turn\u202earound\u2066", 40, "turn�around�"),
        ("a\u2028b", 40, "a b"),
        ("\x00\x07", 40, "��"),
        ("é ü 漢字 ◆", 40, "é ü 漢字 ◆"),
        (None, 40, "None"),
    ],
)
def test_texts_from_outside_are_one_printable_line(text: object, limit: int, shown: str) -> None:
    assert bounded(text, limit) == shown


def test_names_and_counts_in_words() -> None:
    assert spoken("attack_success_rate") == "attack success rate"
    assert [counted(n, "run") for n in (0, 1, 2)] == ["0 runs", "1 run", "2 runs"]
