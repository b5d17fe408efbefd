"""Failed clients and replies set aside are nobody the defence rejected: counted and shown apart."""

from __future__ import annotations

import io
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from html_tables import columns_of, tables_of
from rich.console import Console
from synthetic_run import count_replies, write_run
from test_report import HOSTILE, Tags

from fedguard.records.reader import ClientRecord, read_run
from fedguard.reporting.client_map import STATUSES, client_map_figure, status_matrix, status_of
from fedguard.reporting.page import map_key
from fedguard.reporting.progress import Progress
from fedguard.reporting.replies import MAX_REASON_SHOWN, MAX_REASONS, Replies, replies_tables
from fedguard.reporting.report import write_report
from fedguard.reporting.summary import render_summary

STEERING = "\x1b[2J\x1b[31mowned\u202e\u2066 \x07line\nbreak"
"""A reason that would clear a terminal, turn text around and break the line."""

ROUND: dict[str, Any] = {
    "round": 3,
    "accuracy": 0.912,
    "asked": 20,
    "answered": 17,
    "failed": 3,
    "set_aside": 1,
    "rejected": 2,
    "accepted": 14,
    "malformed": 4,
    "reasons": {"not a number": 1, "no reply": 3},
}


def lines(*records: dict[str, Any], total: int = 3) -> list[str]:
    screen = io.StringIO()
    with Progress(total, console=Console(file=screen, width=80)) as progress:
        for record in records:
            progress.update(record)
    return screen.getvalue().splitlines()


def panel(summary: dict[str, Any]) -> str:
    screen = io.StringIO()
    Console(file=screen, width=80).print(render_summary(summary))
    return screen.getvalue()


def run_with_failures(path: Path, **more: Any) -> tuple[Path, list[dict[str, Any]]]:
    write_run(path, clients=30, malicious=6, rounds=12, **more)
    return path, count_replies(path)


# --- counts ----------------------------------------------------------------------------------


def test_counts_of_a_round_with_the_commonest_reason() -> None:
    assert Replies.of(ROUND) == Replies(20, 17, 3, 1, 2, 14, "no reply")


def test_counts_of_a_summary_name_their_reason_themselves() -> None:
    found = Replies.of({**ROUND, "commonest_reason": "timeout", "reasons": {}})
    assert found is not None
    assert (found.reason, found.unusable) == ("timeout", 4)


def test_an_older_round_tells_no_such_counts() -> None:
    assert Replies.of({"accepted": 16, "rejected": 4, "malformed": 1}) is None
    assert Replies.of({"asked": "x"}) is None


def test_damaged_counts_are_none() -> None:
    found = Replies.of({"asked": 4, "failed": "x", "reasons": [1], "accepted": None})
    assert found == Replies(4, 0, 0, 0, 0, 0, "")


@pytest.mark.parametrize(
    ("counts", "words"),
    [
        ({"failed": 3, "set_aside": 0}, "failed 3: no reply"),
        ({"failed": 0, "set_aside": 2}, "set aside 2: no reply"),
        ({"failed": 3, "set_aside": 1}, "failed 3 · set aside 1: no reply"),
        ({"failed": 0, "set_aside": 0}, ""),
        ({"failed": 3, "set_aside": 0, "reasons": {}}, "failed 3"),
    ],
)
def test_troubles_in_words(counts: dict[str, Any], words: str) -> None:
    found = Replies.of({**ROUND, **counts})
    assert found is not None
    assert found.why == words
    assert found.troubles == words.partition(":")[0]


# --- progress --------------------------------------------------------------------------------


def test_the_line_counts_failures_beside_rejections() -> None:
    shown = lines(ROUND)[-1]
    assert shown == "round 3/3 · accuracy 91.2 % · rejected 2/20 · failed 3 · set aside 1: no reply"


def test_the_first_failure_is_told_at_once_and_only_once() -> None:
    fine = {**ROUND, "failed": 0, "set_aside": 0, "reasons": {}, "accepted": 18, "answered": 20}
    told = lines(*({**fine, "round": r} for r in (1, 2)), {**ROUND, "round": 3}, total=1000)
    assert told == ["round 3: 4 of 20 clients sent no usable update: no reply"]
    again = lines(*({**ROUND, "round": r} for r in (1, 2, 3)), total=1000)
    assert again == ["round 1: 4 of 20 clients sent no usable update: no reply"]


def test_a_live_line_has_one_row_and_the_reason_above_it() -> None:
    screen = io.StringIO()
    with Progress(9, console=Console(file=screen, force_terminal=True, width=80)) as progress:
        progress.update({**ROUND, "reasons": {"x" * 90: 4}, "attack_success_rate": 0.5})
    output = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.getvalue())
    rows = re.split(r"[\r\n]+", output)
    assert any(row.startswith("round 3: 4 of 20 clients") and "xxx" in row for row in rows)
    live = [row for row in rows if "3/9" in row and "accuracy" in row]
    assert live
    assert all(len(row) <= 80 for row in live)
    assert not any("xxx" in row for row in rows if not row.startswith("round 3"))
    assert "rejected 2/20 · failed 3" in live[-1]


def test_older_rounds_count_as_they_did() -> None:
    old = {"round": 3, "accuracy": 0.912, "accepted": 16, "rejected": 4, "malformed": 2}
    assert lines(old) == ["round 3/3 · accuracy 91.2 % · rejected 4/20"]


def test_a_round_in_which_nobody_was_asked_counts_nothing() -> None:
    nobody = dict.fromkeys(("asked", "answered", "failed", "set_aside", "rejected", "accepted"), 0)
    assert lines({"round": 3, **nobody}) == ["round 3/3"]


def test_a_reason_cannot_steer_the_terminal() -> None:
    output = "\n".join(lines({**ROUND, "reasons": {STEERING + "x" * 500: 4}}))
    assert not any(letter in output for letter in ("\x1b", "\x07", "\u202e", "\u2066"))
    note, line = output.split("\n")
    assert "owned" in note
    assert "[31mowned" in line
    assert len(line) < 80 + MAX_REASON_SHOWN


# --- terminal --------------------------------------------------------------------------------


def test_summary_counts_every_outcome_apart(tmp_path: Path) -> None:
    path, records = run_with_failures(tmp_path / "run")
    outcomes = Counter(record["outcome"] for record in records)
    assert min(outcomes[name] for name in ("failed", "set aside", "rejected")) > 0
    asked, failed = len(records), outcomes["failed"]
    shown = " ".join(panel(json.loads((path / "summary.json").read_text())).split())
    assert f"answered {asked - failed} of {asked} asked · {failed} failed" in shown
    assert f"{failed} failed · {outcomes['set aside']} set aside" in shown
    usable = outcomes["rejected"] + outcomes["accepted"]
    assert f"rejected {outcomes['rejected']} of {usable} usable replies" in shown


def test_summary_of_an_older_run_is_as_it_was(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run")
    shown = panel(json.loads((path / "summary.json").read_text()))
    assert "answered" not in shown
    assert "commonest" not in shown


def test_summary_with_failures_fits_a_small_screen(tmp_path: Path) -> None:
    path, _ = run_with_failures(tmp_path / "run")
    summary = json.loads((path / "summary.json").read_text())
    counts = dict.fromkeys(summary["replies"], 123_456_789) | {"commonest_reason": STEERING * 9}
    shown = panel(summary | {"replies": counts, "notes": ["x" * 500] * 9, "repair": "rnp"})
    assert max(map(len, shown.splitlines())) <= 80
    assert len(shown.splitlines()) <= 24
    assert "\x1b[31" not in shown
    assert "123,456,789 of 123,456,789 asked" in shown


# --- client map ------------------------------------------------------------------------------


def record(**fields: Any) -> ClientRecord:
    found = ClientRecord.from_json({"round": 1, "client": 1, "num_examples": 3.0, **fields})
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("fields", "malicious", "words"),
    [
        ({"outcome": "accepted", "accepted": True}, False, "honest, accepted"),
        ({"outcome": "rejected", "accepted": False}, False, "honest, rejected"),
        ({"outcome": "accepted", "accepted": True}, True, "malicious, accepted"),
        ({"outcome": "rejected", "accepted": False}, True, "malicious, rejected"),
        ({"outcome": "failed", "accepted": False}, True, "failed: no reply or an error"),
        ({"outcome": "set aside", "accepted": False}, False, "set aside: a malformed reply"),
        ({"outcome": None, "accepted": None}, True, "took part, no verdict told"),
        ({"accepted": False, "num_examples": None}, False, "malformed or no reply"),
    ],
)
def test_every_outcome_has_a_status_of_its_own(
    fields: dict[str, Any], malicious: bool, words: str
) -> None:
    assert STATUSES[status_of(record(**fields), malicious)].words == words


def test_map_shows_failed_and_set_aside_cells_in_their_places(tmp_path: Path) -> None:
    path, records = run_with_failures(tmp_path / "run")
    run = read_run(path)
    codes, rounds = status_matrix(run)
    for told in records:
        cell = codes[run.client_ids.index(str(told["client"])), rounds.index(told["round"])]
        words = STATUSES[int(cell)].words
        assert words.split(":")[0].endswith(told["outcome"])


def test_key_lists_the_seldom_signs_only_where_they_occur(tmp_path: Path) -> None:
    old = map_key(read_run(write_run(tmp_path / "old", rounds=12)))
    assert "malformed or no reply" in old
    assert "failed" not in old
    new = map_key(read_run(run_with_failures(tmp_path / "new")[0]))
    assert "malformed or no reply" not in new
    assert "failed: no reply or an error" in new
    assert "set aside: a malformed reply" in new


def test_every_sign_has_a_colour_in_both_themes() -> None:
    css = (Path(write_report.__code__.co_filename).parent / "report.css").read_text()
    for code, status in enumerate(STATUSES[1:], start=1):
        name = status.colour.removeprefix("var(").removesuffix(")")
        assert css.count(f"{name}:") == 2, f"{name} in the light and in the dark theme"
        assert f".s{code} {{" in css


# --- report ----------------------------------------------------------------------------------


def test_tables_count_outcomes_and_reasons(tmp_path: Path) -> None:
    path, records = run_with_failures(tmp_path / "run")
    outcomes = Counter(told["outcome"] for told in records)
    asked = len(records)
    by_outcome, reasons = map(columns_of, tables_of(replies_tables(read_run(path))))
    expected = {"asked": asked, "answered": asked - outcomes["failed"], **outcomes}
    found = dict(zip(by_outcome["outcome"], map(int, by_outcome["replies"]), strict=True))
    assert found == expected
    shares = [f"{100 * expected[name] / asked:.1f} %" for name in by_outcome["outcome"]]
    assert by_outcome["of those asked"] == shares
    told = Counter((r["outcome"], r["reason"]) for r in records if r["outcome"] != "accepted")
    clients = {
        key: len({r["client"] for r in records if (r["outcome"], r["reason"]) == key})
        for key in told
    }
    keys = list(zip(reasons["outcome"], reasons["reason"], strict=True))
    assert dict(zip(keys, map(int, reasons["replies"]), strict=True)) == told
    assert dict(zip(keys, map(int, reasons["clients"]), strict=True)) == clients
    assert list(map(int, reasons["replies"])) == sorted(told.values(), reverse=True)


def test_an_older_runs_tables_come_from_its_clients(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "run", clients=30, rounds=12))
    by_outcome = columns_of(tables_of(replies_tables(run))[0])
    found = dict(zip(by_outcome["outcome"], map(int, by_outcome["replies"]), strict=True))
    outcomes = Counter(told.outcome for told in run.clients)
    assert found == {"asked": 360, **outcomes}
    assert outcomes["malformed"] > 0


def test_a_run_in_which_all_were_accepted_needs_no_tables(tmp_path: Path) -> None:
    line = {"round": 1, "client": 1, "accepted": True, "weight": 1.0, "num_examples": 2.0}
    (tmp_path / "clients.jsonl").write_text(json.dumps(line))
    assert replies_tables(read_run(tmp_path)) == ""


def test_more_reasons_than_rows_are_counted(tmp_path: Path) -> None:
    told = [
        {"round": 1, "client": c, "outcome": "rejected", "reason": f"score {c}"} for c in range(20)
    ]
    (tmp_path / "clients.jsonl").write_text("".join(json.dumps(line) + "\n" for line in told))
    page = replies_tables(read_run(tmp_path))
    assert len(tables_of(page)[1]) == 1 + MAX_REASONS
    assert f"{20 - MAX_REASONS} more reasons" in page


def test_a_hostile_reason_stays_text_wherever_it_is_shown(tmp_path: Path) -> None:
    path, records = run_with_failures(tmp_path / "run")
    for told in records:
        told["reason"] = HOSTILE + STEERING
    (path / "clients.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    summary = json.loads((path / "summary.json").read_text())
    summary["replies"]["commonest_reason"] = HOSTILE + STEERING
    (path / "summary.json").write_text(json.dumps(summary))
    page = write_report(path).read_text()
    tags = Tags(page)
    assert "This part could not be drawn" not in page
    assert page.count("&lt;/script&gt;&lt;script&gt;") >= 2, "in both tables"
    assert tags.count("img") == 0
    assert tags.count("script") == len(tags.data) + 2
    body = page.split("<main>")[1]
    assert not any(letter in body for letter in ("\x1b", "\x07", "\u202e", "\u2066"))
    drawn = client_map_figure(read_run(path)).layout.meta["map"]["reasons"]
    assert drawn
    for reason in drawn.values():
        assert "<" not in reason
        assert reason.isprintable()
