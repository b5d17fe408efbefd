from __future__ import annotations

import json

from fedguard.records.reader import Run
from fedguard.reporting.report import write_report
from fedguard.reporting.unlearning import phases_figure, unlearning_section

PHASE = {
    "round": 4,
    "backdoor_success": 0.9,
    "forget_accuracy": 0.8,
    "retain_accuracy": 0.97,
    "test_accuracy": 0.95,
    "membership_auc": 0.61,
    "membership_tpr": 0.02,
    "clients": {"1": 0.9, "2": 0.7},
}
FOUND = {
    "method": "soul",
    "requests": [{"client": 3, "round": 5, "share": 0.2}],
    "refused": [{"request": "client 4", "reason": "client 2 may not ask to forget <4>"}],
    "notes": [],
    "silenced_parameters": 0.1,
    "phases": {"before": PHASE, "after": {**PHASE, "round": 5, "backdoor_success": 0.05}},
    "relearn": {"epochs": None, "epochs_of_a_fresh_model": 2},
    "costs": {"ratios": {"flops": 0.15, "bytes": None}},
}


def section(tmp_path, found):
    (tmp_path / "unlearning.json").write_text(json.dumps(found))
    return unlearning_section(Run(tmp_path))


def test_the_section_says_what_happened(tmp_path):
    html = section(tmp_path, FOUND)
    assert "20.0 % of the rows of client 3 in round 5" in html
    assert "client 2 may not ask to forget &lt;4&gt;" in html
    assert "0.61" in html
    assert "70.0 %" in html
    assert "15.0 %" in html
    assert "&gt; 10" in html


def test_every_phase_and_measure_is_drawn():
    figure = phases_figure(FOUND["phases"])
    assert next(trace.name for trace in figure.data) == "backdoor success"
    assert list(figure.data[0].y) == [0.9, 0.05]
    assert len(figure.data) == 4
    assert phases_figure({}) is None


def test_runs_without_requests_have_no_section(tmp_path):
    assert unlearning_section(Run(tmp_path)) == ""
    assert section(tmp_path, {"phases": {}}) == ""


def test_foreign_content_costs_nothing_but_itself(tmp_path):
    for found in ([], {"phases": [1]}, {"phases": {"before": 3}}):
        assert section(tmp_path, found) == ""
    (tmp_path / "unlearning.json").write_text("{")
    assert unlearning_section(Run(tmp_path)) == ""


def test_the_page_links_to_it(tmp_path):
    (tmp_path / "unlearning.json").write_text(json.dumps(FOUND))
    page = write_report(tmp_path).read_text(encoding="utf-8")
    assert '<section id="unlearning">' in page
