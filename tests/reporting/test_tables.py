"""The report's tables hold the numbers of the run's files, computed here once more by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from html_tables import columns_of, tables_of
from synthetic_run import count_replies, lead_with_perplexity, write_run
from test_report import HOSTILE

from fedguard.records.reader import Run, read_run
from fedguard.reporting.tables import (
    MAX_DEPTH,
    card,
    clients_table,
    definitions,
    rounds_table,
    table,
    value_html,
)


def rounds_of(run: Run) -> dict[str, list[str]]:
    (found,) = tables_of(rounds_table(run))
    return columns_of(found)


def clients_of(run: Run) -> dict[str, list[str]]:
    (found,) = tables_of(clients_table(run))
    return columns_of(found)


def told(path: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (path / name).read_text().splitlines()]


def test_rounds_of_a_classification_run(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run", rounds=4)
    found, lines = rounds_of(read_run(path)), told(path, "rounds.jsonl")
    assert list(found)[:4] == ["round", "accuracy", "attack success", "loss"]
    assert list(found)[4:7] == ["accepted", "rejected", "malformed"]
    assert found["round"] == ["0", "1", "2", "3", "4"]
    assert found["accuracy"] == [f"{100 * line['accuracy']:.1f} %" for line in lines]
    assert found["loss"] == [f"{line['loss']:.4g}" for line in lines]
    assert found["rejected"] == [str(line["rejected"]) for line in lines]
    rates = [line["true_positive_rate"] for line in lines]
    assert rates[0] is None
    assert found["malicious rejected"] == ["–", *(f"{100 * rate:.1f} %" for rate in rates[1:])]
    assert found["time"] == ["0.00 s", *["1.20 s"] * 4]


def test_rounds_of_a_language_model_lead_with_perplexity(tmp_path: Path) -> None:
    path = lead_with_perplexity(write_run(tmp_path / "run", rounds=3))
    found, lines = rounds_of(read_run(path)), told(path, "rounds.jsonl")
    assert list(found)[:2] == ["round", "perplexity"]
    assert "accuracy" not in found
    assert found["perplexity"] == [f"{line['perplexity']:.4g}" for line in lines]
    assert found["train loss"] == [f"{line['loss'] / 2:.4g}" for line in lines]


def test_accuracy_beside_another_headline_keeps_its_column(tmp_path: Path) -> None:
    path = lead_with_perplexity(write_run(tmp_path / "run", rounds=1))
    lines = [line | {"accuracy": 0.25} for line in told(path, "rounds.jsonl")]
    (path / "rounds.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert rounds_of(read_run(path))["accuracy"] == ["25.0 %", "25.0 %"]


def test_rounds_that_count_replies_show_every_count(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run", rounds=6, clients=40)
    count_replies(path)
    found, lines = rounds_of(read_run(path)), told(path, "rounds.jsonl")
    counts = ["asked", "answered", "failed", "set aside", "rejected", "accepted"]
    assert list(found)[4:10] == counts
    assert "malformed" not in found
    for name in counts:
        own = [line.get(name.replace(" ", "_")) for line in lines]
        assert found[name] == ["–" if value is None else str(value) for value in own]
    assert sum(map(int, found["failed"][1:])) > 0


def test_a_clients_line_is_made_of_its_records(tmp_path: Path) -> None:
    records = [
        {"round": 1, "outcome": "accepted", "weight": 0.5, "num_examples": 10.0},
        {"round": 2, "outcome": "rejected", "weight": 0.0, "num_examples": 20.0, "reason": "far"},
        {"round": 3, "outcome": "failed", "weight": 0.0, "reason": "no reply"},
        {"round": 4, "outcome": "failed", "weight": None, "reason": "gone"},
        {"round": 5, "outcome": "set aside", "weight": 0.0, "reason": "NaN"},
    ]
    lines = [{"client": 7, "malicious": True, **record} for record in records]
    lines.append({"client": 2, "round": 1, "outcome": "accepted", "weight": 0.5})
    (tmp_path / "clients.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "rounds.jsonl").write_text('{"round": 1, "asked": 2}\n')
    found = clients_of(read_run(tmp_path))
    assert found["client"] == ["7", "2"], "the liar comes first"
    assert found["role"] == ["◆ malicious", "honest"]
    assert found["asked"] == ["5", "1"]
    assert found["rejected"] == ["1", "0"]
    assert found["failed"] == ["2", "0"]
    assert found["set aside"] == ["1", "0"]
    assert found["mean weight"] == ["0.125", "0.5"], "of the four rounds with a weight"
    assert found["samples claimed"] == ["20", "–"]
    assert found["latest reason"] == ["NaN", ""]


def test_an_older_runs_clients_have_one_column_for_no_update(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run", rounds=12)
    run = read_run(path)
    found = clients_of(run)
    assert "failed" not in found
    records = told(path, "clients.jsonl")
    for place, client in enumerate(run.client_ids):
        own = [record for record in records if str(record["client"]) == client]
        empty = sum(record["num_examples"] is None for record in own)
        assert found["malformed"][place] == str(empty)
        rejected = sum(not record["accepted"] for record in own)
        assert found["rejected"][place] == str(rejected - empty)


@pytest.mark.parametrize("column", [0, 1])
def test_cells_and_heads_are_escaped(column: int) -> None:
    page = table([HOSTILE, HOSTILE], [[HOSTILE, HOSTILE]], words=(column,))
    assert "<img" not in page
    assert "<script" not in page
    assert tables_of(page) == [[[HOSTILE, HOSTILE], [HOSTILE, HOSTILE]]]
    assert page.count('class="text"') == page.count('class="num"') == 2


def test_a_row_of_another_length_is_an_error() -> None:
    with pytest.raises(ValueError, match="zip"):
        table(["one", "two"], [["only"]])


def test_titles_of_cards_are_escaped() -> None:
    assert card("<b>", "<p>x</p>") == '<div class="card"><h3>&lt;b&gt;</h3><p>x</p></div>'


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.1, "0.1"),
        (3, "3"),
        (True, "yes"),
        (False, "no"),
        ("<b>", "&lt;b&gt;"),
        ([1, 2], "1, 2"),
        (["a sentence that is longer than a word", 2], None),
        (float("inf"), "inf"),
    ],
)
def test_values_as_html(value: object, shown: str | None) -> None:
    found = value_html(value)
    if shown is None:
        assert found == "<ul><li>a sentence that is longer than a word</li><li>2</li></ul>"
    else:
        assert found == shown


@pytest.mark.parametrize("value", [None, "", [], {}])
def test_nothing_is_shown_as_missing(value: object) -> None:
    assert "–" in value_html(value)


def test_depth_is_bounded_and_escaped_all_the_way() -> None:
    deep: Any = {"<i>": "<i>"}
    for _ in range(MAX_DEPTH + 3):
        deep = {"<i>": [deep]}
    page = definitions(deep)
    assert "<i>" not in page
    assert page.count("<dl>") <= MAX_DEPTH + 1
