"""Models of which a part stays with each client: drawn where a run has them, and only there."""

from __future__ import annotations

import json
from pathlib import Path

from synthetic_run import write_run
from test_report import page_of

from fedguard.records.reader import read_run
from fedguard.reporting.personal import personal_section


def test_a_run_without_personal_models_has_no_section(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run", rounds=2)
    assert personal_section(read_run(path)) == ""
    assert 'id="personal"' not in page_of(path)


def test_the_three_courses_are_drawn_with_their_values(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run", rounds=2)
    rounds = [json.loads(line) for line in (path / "rounds.jsonl").read_text().splitlines()]
    for line in rounds[1:]:
        line["personal_accuracy"] = 0.9125
        line["personal_worst_accuracy"] = 0.4375
        line["global_accuracy"] = 0.7025
    (path / "rounds.jsonl").write_text("".join(json.dumps(line) + "\n" for line in rounds))
    page = page_of(path)
    assert 'id="personal"' in page
    section = personal_section(read_run(path))
    for words in ("each client's own", "the worst client's own", "one model for all"):
        assert words in section.replace("&#x27;", "'").replace("\\u0027", "'")
    for value in ("0.9125", "0.4375", "0.7025"):
        assert value in section
