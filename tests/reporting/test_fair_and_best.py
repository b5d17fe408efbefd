"""Best model, early end, clients and minority: on the screen, in the report and side by side."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from campaign_runs import finish
from html_tables import tables_of
from rich.console import Console, RenderableType
from synthetic_run import write_run

from fedguard.records.reader import read_run
from fedguard.reporting import comparison_text
from fedguard.reporting.comparison import compare, find_runs
from fedguard.reporting.comparison_page import write_page
from fedguard.reporting.figures import confusion_figure
from fedguard.reporting.report import write_report
from fedguard.reporting.summary import render_summary

FAIR = {
    "share": 0.2,
    "clients": 16,
    "not_judged": 1,
    "rows": 213,
    "grouped_by": "natural",
    "client_mean": 0.888,
    "worst_decile": 0.764,
    "client_spread": 0.075,
    "group_gap": 0.17,
    "minority": 0.71,
    "minority_group": "north <b>",
    "groups": {
        "south": {"clients": 12, "rows": 180, "accuracy": 0.88, "rejected": 0.02},
        "north <b>": {"clients": 4, "rows": 33, "accuracy": 0.71, "rejected": 0.6},
    },
}
BEST = {
    "file": "best.safetensors",
    "round": 7,
    "by": "accuracy",
    "judged_on": "the server's 100 rows, which strategy fltrust uses as well",
    "held_out": True,
    "judged": 0.97,
    "accuracy": 0.931,
}


def lines(renderable: RenderableType, width: int = 80) -> list[str]:
    screen = io.StringIO()
    Console(file=screen, width=width).print(renderable)
    return [line.strip("│╭╰─╮╯ ") for line in screen.getvalue().splitlines()]


def row(shown: list[str], label: str) -> str:
    return next(line.removeprefix(label).strip() for line in shown if line.startswith(label))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run", fairness=FAIR, best_model=BEST)


def summary_of(run: Path, **changes: Any) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((run / "summary.json").read_text())
    return {**content, **changes}


class TestTerminal:
    def test_the_best_model_is_told_with_where_it_was_chosen(self, run: Path) -> None:
        shown = lines(render_summary(summary_of(run)), 120)
        told = "round 7 · 93.1 % · chosen on 100 server rows, shared"
        assert row(shown, "best model").startswith(told)
        on_test = {**BEST, "judged_on": "the test set", "held_out": False}
        shown = lines(render_summary(summary_of(run, best_model=on_test)))
        told = "round 7 · 93.1 % · chosen on the test set: flattering"
        assert row(shown, "best model") == told

    def test_a_choice_by_attack_success_says_so(self, run: Path) -> None:
        by = {**BEST, "by": "attack_success_rate", "judged": 0.021, "judged_on": "the test set"}
        shown = lines(render_summary(summary_of(run, best_model=by)))
        assert row(shown, "best model") == "round 7 · 93.1 % · attack 2.1 % · on the test set"

    def test_an_early_end_is_told_with_its_reason(self, run: Path) -> None:
        stopped = {"round": 9, "of": 20, "patience": 2}
        shown = lines(render_summary(summary_of(run, stopped=stopped)))
        assert "9 of 20 rounds, 2 without a better model" in row(shown, "training")

    def test_clients_and_minority_have_a_line_each(self, run: Path) -> None:
        shown = lines(render_summary(summary_of(run)))
        told = "worst tenth 76.4 % · spread 7.5 · gap 17.0 points"
        assert row(shown, "clients") == told
        told = "north <b>: 71.0 % · 60.0 % of its updates rejected"
        assert row(shown, "minority") == told

    def test_perplexity_is_told_in_its_own_unit(self, run: Path) -> None:
        lead = {"name": "perplexity", "higher_is_better": False, "unit": "plain"}
        fair = {**FAIR, "worst_decile": 31.5, "client_spread": 4.25, "group_gap": None}
        shown = lines(render_summary(summary_of(run, headline=lead, fairness=fair)))
        assert row(shown, "clients") == "worst tenth 31.5 · spread 4.25"

    @pytest.mark.parametrize(
        ("rounds", "ended", "told"),
        [
            (7, True, "outlived liars by 7 rounds, from 64.0 %"),
            (1, True, "outlived liars by 1 round, from 64.0 %"),
            (15, False, "outlived liars by over 15 rounds, from 64.0 %"),
            (None, False, "never took, 64.0 % at its peak"),
        ],
    )
    def test_how_long_an_attack_outlived_its_attackers_is_told(
        self, run: Path, rounds: int | None, ended: bool, told: str
    ) -> None:
        span = {"attacked_until": 5, "peak": 0.64, "rounds": rounds, "ended": ended}
        shown = lines(render_summary(summary_of(run, lifespan=span)))
        assert row(shown, "attack success").endswith(f" % · {told}")
        assert "outlived" not in "".join(lines(render_summary(summary_of(run))))

    def test_it_fits_a_screen_with_all_of_it(self, run: Path) -> None:
        replies = dict.fromkeys(("asked", "answered", "failed", "set_aside", "rejected"), 9)
        full = summary_of(
            run,
            notes=["a note"] * 9,
            executor="dense",
            enrolment="roster",
            repair="finetune",
            audits={"one": {}},
            out="runs/x",
            lifespan={"attacked_until": 5, "peak": 0.64, "rounds": 7, "ended": True},
            replies={**replies, "accepted": 3, "commonest_reason": "why"},
        )
        shown = lines(render_summary(full))
        assert len(shown) <= 22
        assert any("more notes in the report" in line for line in shown)


class TestReport:
    def test_groups_and_the_worst_clients_are_listed_worst_first(self, run: Path) -> None:
        records = [
            {
                "round": n,
                "client": c,
                "malicious": c == 2,
                "group": "south",
                "rows": 9,
                "accuracy": 0.5 + c / 100 + n / 10,
            }
            for n in (1, 2)
            for c in range(30)
        ]
        text = "".join(json.dumps(record) + "\n" for record in records)
        (run / "fairness.jsonl").write_text(text + '{"round": 1, "client": 3}\n{"round":')
        page = write_report(run).read_text()
        assert "<h2>Fair to whom</h2>" in page
        told = "16 honest clients on 213 rows, 20.0 % of each: mean 88.8 %, worst tenth 76.4 %"
        assert told in page
        assert "Between the best and the worst group: 17.0 points." in page
        assert "1 with a single row are not judged." in page
        assert "north &lt;b&gt;" in page
        assert "north <b>" not in page
        tables = tables_of(page)
        groups = next(t for t in tables if t[0][0] == "group")
        assert [line[0] for line in groups[1:]] == ["north <b> (minority)", "south"]
        assert groups[1][1:] == ["4", "33", "71.0 %", "60.0 %"]
        clients = next(t for t in tables if t[0] == ["client", "group", "rows", "accuracy"])
        assert len(clients) == 1 + 20
        # Of the last round alone.
        assert [line[3] for line in clients[1:4]] == ["70.0 %", "71.0 %", "72.0 %"]
        assert clients[3][0] == "◆ 2"

    def test_the_best_model_has_a_tile_and_an_early_end_a_fact(self, run: Path) -> None:
        summary = summary_of(
            run,
            stopped={"round": 9, "of": 20, "patience": 2},
            start_from={"path": "runs/before", "sha256": None},
        )
        (run / "summary.json").write_text(json.dumps(summary))
        page = write_report(run).read_text()
        assert "best model kept" in page
        assert "round 7, chosen by accuracy on the server&#x27;s 100 rows" in page
        assert "9 of 20 rounds, 2 without a better model" in page
        assert "runs/before" in page

    def test_runs_without_any_of_it_have_no_such_section(self, tmp_path: Path) -> None:
        page = write_report(write_run(tmp_path / "old")).read_text()
        assert "Fair to whom" not in page
        assert "best model kept" not in page
        assert "What is taken for what" not in page

    def test_confusion_is_drawn_in_shares_with_names(self, tmp_path: Path) -> None:
        path = write_run(tmp_path / "r", confusion=[[8, 2], [1, 3]], class_names=["cat", "dog"])
        drawn = confusion_figure(read_run(path))
        assert drawn is not None
        assert drawn.data[0].z.flatten().tolist() == pytest.approx([0.8, 0.2, 0.25, 0.75])
        assert drawn.data[0].hovertext[1][0] == "dog taken for cat: 1"

    @pytest.mark.parametrize("confusion", [[[1, 2]], [[1, 2], [3]], "x", [], [[1]]])
    def test_a_confusion_that_is_none_is_not_drawn(self, tmp_path: Path, confusion: Any) -> None:
        assert confusion_figure(read_run(write_run(tmp_path / "r", confusion=confusion))) is None


MINORITY = {
    ("fedavg", "none"): (0.80, 0.78),
    ("fedavg", "sign-flip"): (0.20, 0.24),
    ("krum", "none"): (0.40, 0.44),
    ("krum", "sign-flip"): (0.38, 0.36),
}
"""What the minority reaches by defence and attack, one figure per seed."""


@pytest.fixture
def campaign(tmp_path: Path) -> Path:
    for (defence, attack), values in MINORITY.items():
        for seed, value in enumerate(values):
            path = tmp_path / "c" / f"{defence}-{attack}-{seed}"
            finish(
                path,
                strategy={"name": defence},
                attack={"name": attack},
                dataset={"name": "digits"},
                seed=seed,
                accuracy=0.9,
            )
            summary = json.loads((path / "summary.json").read_text())
            summary["final"] |= {
                "client_mean": 0.8,
                "worst_decile": value * 0.6,
                "client_spread": 0.1,
                "group_gap": 0.85 - value,
                "minority": value,
            }
            (path / "summary.json").write_text(json.dumps(summary))
    return tmp_path / "c"


class TestSideBySide:
    def test_the_minority_stands_beside_the_mean(self, campaign: Path) -> None:
        [comparison] = compare(find_runs([campaign])[0])
        screen = io.StringIO()
        shown = comparison_text.render([comparison], [])
        Console(file=screen, width=80).print(shown)
        text = screen.getvalue().split("Accuracy on clients' own rows, in percent")[1]
        krum = next(line.split() for line in text.splitlines() if line.strip().startswith("krum"))
        # By hand: minority (0.42 + 0.37) / 2, worst tenth 0.6 of it, worst under sign-flip.
        assert krum == ["krum", "23.7", "10.0", "45.5", "39.5", "37.0", "sign-flip"]

    def test_csv_json_and_page_have_it_too(self, campaign: Path, tmp_path: Path) -> None:
        found = compare(find_runs([campaign])[0])
        rows = list(csv.DictReader(io.StringIO(comparison_text.as_csv(found))))
        by = {(line["defence"], line["scenario"]): line for line in rows}
        line = by["fedavg", "sign-flip"]
        assert float(line["minority_mean"]) == pytest.approx(0.22)
        assert float(line["worst_decile_low"]) == pytest.approx(0.12)
        assert float(line["group_gap_high"]) == pytest.approx(0.65)
        plain = comparison_text.as_plain(found, [])["comparisons"][0]
        assert {run["minority"] for run in plain["runs"]} == {
            v for vs in MINORITY.values() for v in vs
        }
        write_page(tmp_path / "page.html", found, [])
        table = next(
            t for t in tables_of((tmp_path / "page.html").read_text()) if "minority" in t[0]
        )
        assert table[1][0] == "fedavg"
        assert table[1][1:] == [
            "30.3 %",
            "10.0 points",
            "34.5 points",
            "50.5 %",
            "22.0 %",
            "sign-flip",
        ]

    def test_runs_that_did_not_measure_it_have_no_such_table(self, tmp_path: Path) -> None:
        finish(tmp_path / "a", strategy={"name": "krum"}, dataset={"name": "digits"}, accuracy=0.9)
        found = compare(find_runs([tmp_path])[0])
        screen = io.StringIO()
        Console(file=screen, width=100).print(comparison_text.render(found, []))
        assert "own rows" not in screen.getvalue()
        assert "minority" not in comparison_text.as_csv(found)
