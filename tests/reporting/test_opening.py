"""A run says in two lines what it will do; a log file holds no control characters."""

from __future__ import annotations

import io
import sys

import pytest
from rich.console import Console

from fedguard.config import parse
from fedguard.reporting.live import moves
from fedguard.reporting.opening import LINE, opening_lines
from fedguard.reporting.progress import Progress
from fedguard.reporting.streams import settle_flower, settle_streams
from fedguard.reporting.summary import render_comparison


def test_who_attacks_how_and_who_defends_on_what() -> None:
    values = {"strategy": "krum", "pre": "nnm", "attack": {"name": "alie", "z": 3.0}, "seed": 5}
    first, second = opening_lines(parse({**values, "malicious": 0.3, "rounds": 7}))
    assert first == "alie(z=3.0) by 6 of 20 clients against nnm, krum"
    assert second == "on digits, dirichlet split, mlp, 7 rounds, seed 5"


def test_a_run_without_an_attack_says_so() -> None:
    first, _ = opening_lines(parse({"strategy": "median", "attack": "none", "clients": 1}))
    assert first == "no attack: 1 client under median"
    assert "no attack" in opening_lines(parse({"malicious": 0.0}))[0]


def test_parties_are_no_clients() -> None:
    first, second = opening_lines(parse({"strategy": "opus-vfl", "clients": 4}))
    assert first == "no attack: 4 parties under opus-vfl"
    assert "other features" in second


def test_repairs_and_sampling_are_told() -> None:
    first, second = opening_lines(parse({"repair": "finetune", "fraction": 0.5}))
    assert first.endswith("against geminiguard, repair finetune")
    assert "20 rounds with 50 % of them" in second


def test_long_lines_are_cut_to_a_narrow_terminal() -> None:
    part = {"name": "sign-flip", "scale": 4.0}
    values = {"attack": part, "pre": ["nnm", "clipping", "arc", "bucketing"] * 6}
    assert all(len(line) <= LINE for line in opening_lines(parse(values)))


def test_a_log_file_has_no_control_characters_even_where_colour_is_forced(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    file = io.StringIO()
    console = Console(file=file)
    assert not moves(console)
    with Progress(2, console=console) as shown:
        shown.note("sign-flip by 4 of 20 clients")
        for number in (1, 2):
            shown.update({"round": number, "accuracy": 0.5})
    text = file.getvalue()
    assert text.startswith("sign-flip by 4 of 20 clients\n")
    assert "round 2/2" in text
    assert all(sign.isprintable() or sign == "\n" for sign in text)


def test_no_color_is_honoured_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    file = io.StringIO()
    Console(file=file, force_terminal=True).print("[red]round 1[/red]")
    assert "31m" not in file.getvalue()
    assert "round" in file.getvalue()


def test_flowers_log_is_coloured_on_a_terminal_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from flwr.common.logger import console_handler

    for terminal, unwanted, coloured in ((True, "", True), (True, "1", False), (False, "", False)):
        monkeypatch.setattr(sys.stderr, "isatty", lambda held=terminal: held, raising=False)
        monkeypatch.setenv("NO_COLOR", unwanted)
        settle_flower()
        assert console_handler.colored is coloured


def test_a_sign_that_the_terminal_lacks_ends_no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    settle_streams()
    sys.stdout.write("round 1 · 94 %\n")
    sys.stdout.flush()
    assert raw.getvalue() == b"round 1 ? 94 %\n"


class TestComparison:
    def shown(self, rows: list[dict[str, object]]) -> str:
        screen = io.StringIO()
        Console(file=screen, width=80).print(render_comparison(rows))
        return screen.getvalue()

    def test_nobody_was_caught_where_nobody_attacked(self) -> None:
        rates = {"detection": {"true_positive_rate": 0.0, "false_positive_rate": 0.0}}
        peace = {"strategy": "no attack", "attack": "none", "final": {"accuracy": 0.953}, **rates}
        war = {"strategy": "fedavg", "attack": "alie", "final": {"accuracy": 0.1}, **rates}
        lines = [line.split() for line in self.shown([peace, war]).splitlines() if "%" in line]
        assert lines[0] == ["no", "attack", "95.3", "%", "–", "0.0", "%"]
        assert lines[1] == ["fedavg", "10.0", "%", "0.0", "%", "0.0", "%"]

    def test_a_rate_of_backdoors_alone_has_no_column_without_one(self) -> None:
        row = {"strategy": "krum", "accuracy": 0.9}
        assert "attack success" not in self.shown([row])
        assert "attack success" in self.shown([{**row, "attack_success_rate": 0.0}, row])
