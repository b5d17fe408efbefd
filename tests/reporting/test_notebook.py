"""A run's frames hold what its files hold, with types to compute with; its report stays whole."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from synthetic_run import count_replies, lead_with_perplexity, write_run
from test_report import hostile_run

from fedguard.errors import ConfigurationError
from fedguard.reporting.notebook import frames, inline
from fedguard.reporting.report import write_report


def told(path: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (path / name).read_text().splitlines()]


def test_rounds_hold_every_field_with_a_type_to_compute_with(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run", rounds=5, clients=30)
    count_replies(path)
    rounds, _ = frames(path)
    lines = told(path, "rounds.jsonl")
    assert list(rounds.columns) == list(dict.fromkeys(name for line in lines for name in line))
    assert rounds["round"].tolist() == [0, 1, 2, 3, 4, 5]
    assert str(rounds["round"].dtype) == "int64"
    assert rounds["accuracy"].tolist() == [line["accuracy"] for line in lines]
    assert rounds["true_positive_rate"].isna().tolist() == [True, *[False] * 5]
    assert str(rounds["true_positive_rate"].dtype) == "float64"
    assert str(rounds["asked"].dtype) == "Int64"
    assert rounds["asked"].isna().tolist() == [True, *[False] * 5]
    assert rounds["asked"].sum() == 150
    assert rounds["per_class_recall"].iloc[1] == lines[1]["per_class_recall"]


def test_a_headline_of_its_own_is_a_column(tmp_path: Path) -> None:
    path = lead_with_perplexity(write_run(tmp_path / "run", rounds=3))
    rounds, _ = frames(path)
    assert rounds["perplexity"].tolist() == [
        line["perplexity"] for line in told(path, "rounds.jsonl")
    ]
    assert "accuracy" not in rounds


def test_clients_hold_one_row_per_round_and_client(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run", rounds=4, clients=10, fraction=0.5)
    records = count_replies(path)
    _, clients = frames(str(path))
    assert len(clients) == len(records) == 20
    keyed = clients.set_index(["round", "client"])
    for record in records:
        row = keyed.loc[(record["round"], record["client"])]
        assert row["malicious"] == record["malicious"]
        assert row["outcome"] == record["outcome"]
        assert row["accepted"] == (record["outcome"] == "accepted")
        assert row["weight"] == record["weight"]
        for name, value in record["scores"].items():
            assert row[f"score.{name}"] == value
    types = clients.dtypes.astype(str).to_dict()
    assert types["client"] == "int64"
    assert types["malicious"] == "bool"
    assert types["accepted"] == "boolean"
    assert types["outcome"] == "category"
    assert types["score.trust"] == types["weight"] == types["num_examples"] == "float64"


def test_missing_scores_and_verdicts_are_missing_values(tmp_path: Path) -> None:
    lines = [
        {"round": 1, "client": 3, "accepted": True, "weight": 0.5, "scores": {"a": 1.0}},
        {"round": 1, "client": 4, "accepted": None, "scores": {"b": float("nan"), "c": 2}},
    ]
    (tmp_path / "clients.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    _, clients = frames(tmp_path)
    assert [name for name in clients if name.startswith("score.")] == ["score.a", "score.c"]
    assert clients["score.a"].isna().tolist() == [False, True]
    assert clients["accepted"].isna().tolist() == [False, True]
    assert clients["outcome"].isna().tolist() == [False, True]
    assert clients["reason"].isna().all()


@pytest.mark.parametrize("client", [2**63, "edge-7", -(2**64)])
def test_ids_that_no_integer_column_holds_are_text(tmp_path: Path, client: object) -> None:
    line = {"round": 1, "client": client, "accepted": True}
    (tmp_path / "clients.jsonl").write_text(json.dumps(line))
    _, clients = frames(tmp_path)
    assert clients["client"].tolist() == [str(client)]
    assert isinstance(clients["client"].dtype, pd.StringDtype)


def test_the_largest_integer_id_is_exact(tmp_path: Path) -> None:
    (tmp_path / "clients.jsonl").write_text(json.dumps({"round": 1, "client": 2**63 - 1}))
    assert frames(tmp_path)[1]["client"].tolist() == [2**63 - 1]


def test_older_outcomes_are_a_category_too(tmp_path: Path) -> None:
    _, clients = frames(write_run(tmp_path / "run", rounds=12))
    counts = clients["outcome"].value_counts()
    assert counts["malformed"] == clients["num_examples"].isna().sum() > 0
    assert counts["failed"] == 0


def test_an_empty_directory_gives_empty_frames_with_their_columns(tmp_path: Path) -> None:
    rounds, clients = frames(tmp_path)
    assert rounds.empty
    assert clients.empty
    assert list(rounds.columns) == ["round"]
    assert {"round", "client", "outcome", "reason"} <= set(clients.columns)


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        ([1.5, None, 2], "float64"),
        ([True, None, False], "boolean"),
        ([1, "x", None], "object"),
        ([None, None, None], "float64"),
        ([[1], None, [2]], "object"),
        ([{"a": 1}, None, 3], "object"),
    ],
)
def test_any_field_finds_a_type(tmp_path: Path, values: list[Any], dtype: str) -> None:
    lines = [json.dumps({"round": r, "extra": value}) for r, value in enumerate(values)]
    (tmp_path / "rounds.jsonl").write_text("\n".join(lines))
    column = frames(tmp_path)[0]["extra"]
    assert str(column.dtype) == dtype
    assert [None if v is None else v for v in values] == [
        None if isinstance(v, float | type(pd.NA)) and pd.isna(v) else v for v in column.tolist()
    ]


class Frame(HTMLParser):
    """Takes the attributes of the frames in a text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def test_a_report_is_shown_whole_in_a_frame_of_its_own(tmp_path: Path) -> None:
    report = write_report(hostile_run(tmp_path / "run"))
    text = inline(report, height=640)
    ((tag, attributes),) = Frame(text).found
    assert tag == "iframe"
    assert attributes["srcdoc"] == report.read_text(encoding="utf-8")
    assert attributes["sandbox"] == "allow-scripts", "its scripts cannot reach the notebook"
    assert "height:640px" in str(attributes["style"])
    assert text.count("<") == 2, "the frame's two tags and nothing of the page"


@pytest.mark.parametrize("height", [0, -5, float("nan"), "tall"])
def test_a_frame_has_a_height(tmp_path: Path, height: Any) -> None:
    page = tmp_path / "page.html"
    page.write_text("<p>")
    with pytest.raises(ConfigurationError, match="height"):
        inline(page, height=height)
