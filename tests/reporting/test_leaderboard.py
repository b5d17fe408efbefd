"""The board's figures against values worked out by hand; its page holds what repeats each cell."""

from __future__ import annotations

import re
from typing import Any

import pytest
from html_tables import tables_of

from fedguard.reporting.leaderboard import Played, standings
from fedguard.reporting.leaderboard_page import write_leaderboard


def played(
    defence: str, scenario: str, accuracy: float | None, *, league: str = "none", **more: Any
) -> Played:
    seed, success = more.pop("seed", 0), more.pop("success", None)
    summary = None
    if accuracy is not None:
        summary = {
            "final": {"accuracy": accuracy, "attack_success_rate": success},
            "detection": {"false_positive_rate": more.pop("wronged", None)},
            "seconds_per_round": more.pop("seconds", None),
            "peak_memory_bytes": more.pop("memory", None),
        }
    clean, error = scenario.startswith("none"), "" if accuracy is not None else "ran out"
    config = f"strategy: {defence}\n# <b>{scenario}</b>\n"
    return Played(defence, league, "", scenario, clean, seed, summary, config, error)


RUNS = [
    played("fedavg", "none", 0.96, seconds=0.5, memory=10),
    played("fedavg", "alie", 0.05, seconds=1.5, memory=30),
    played("fedavg", "badnets", 0.95, success=0.9, memory=20),
    played("krum", "none", 0.90, seed=0, wronged=0.2),
    played("krum", "none", 0.92, seed=1, wronged=0.4),
    played("krum", "alie", 0.80, seed=0),
    played("krum", "alie", 0.90, seed=1),
    played("krum", "badnets", 0.70, seed=0, success=0.1),
    played("krum", "badnets", 0.90, seed=1, success=0.1),
    played("fltrust", "none", 0.95, league="labelled"),
    played("fltrust", "alie", 0.94, league="labelled"),
    played("fltrust", "badnets", None, league="labelled"),
]


@pytest.fixture
def leagues():
    return standings(RUNS, "fedavg")


def test_leagues_are_never_mixed(leagues):
    assert {name: [row.defence for row in rows] for name, rows in leagues.items()} == {
        "none": ["krum", "fedavg"],
        "labelled": ["fltrust"],
    }


def test_the_worst_case_is_the_lowest_mean_over_seeds_among_attacks(leagues):
    krum, fedavg = leagues["none"]
    assert (krum.worst, krum.worst_scenario) == (pytest.approx(0.80), "badnets")
    assert (fedavg.worst, fedavg.worst_scenario) == (pytest.approx(0.05), "alie")


def test_a_backdoor_counts_by_what_the_attacker_did_not_get(leagues):
    cell = next(cell for cell in leagues["none"][1].cells if cell.scenario == "badnets")
    assert cell.mean == pytest.approx(0.1)


def test_mean_spread_and_clean_cost(leagues):
    krum = leagues["none"][0]
    assert krum.mean == pytest.approx((0.85 + 0.80) / 2)
    assert krum.spread == pytest.approx((0.0707107 + 0.1414214) / 2, abs=1e-6)
    assert krum.clean_cost == pytest.approx(0.96 - 0.91)
    assert krum.wronged == pytest.approx(0.3)
    assert leagues["none"][1].spread is None
    assert leagues["none"][1].seconds == pytest.approx(1.0)
    assert leagues["none"][1].memory == 30
    assert leagues["labelled"][0].clean_cost == pytest.approx(0.01)


def test_a_run_that_failed_is_told_and_counts_as_lost(leagues):
    fltrust = leagues["labelled"][0]
    assert (fltrust.failed, fltrust.worst, fltrust.worst_scenario) == (1, 0.0, "badnets")


class TestPage:
    @pytest.fixture
    def page(self, leagues, tmp_path):
        write_leaderboard(tmp_path / "sub" / "board.html", leagues, "v1-quick, <today>")
        return (tmp_path / "sub" / "board.html").read_text(encoding="utf-8")

    def test_every_link_leads_to_a_configuration_on_the_page(self, page):
        targets = set(re.findall(r'href="#(c\d+)"', page))
        blocks = dict(re.findall(r'<details id="(c\d+)">(.*?)</details>', page, re.DOTALL))
        assert targets == set(blocks)
        assert len(targets) == 9  # three defences in three scenarios
        row = re.search(r'href="#(c\d+)" title="badnets">80\.0 %<', page).group(1)
        assert "strategy: krum" in blocks[row]
        assert "seeds 0, 1" in blocks[row]

    def test_figures_stand_in_the_order_of_their_heads(self, page):
        cells = re.search(r'<th scope="row" class="text">krum</th>(.*?)</tr>', page).group(1)
        shown = [re.sub("<[^>]+>", "", cell) for cell in re.findall(r"<td.*?</td>", cells)]
        assert shown[:5] == ["80.0 %", "82.5 %", "10.6", "5.0", "30.0 %"]

    def test_what_a_run_says_cannot_become_markup(self, page):
        assert "<b>" not in page
        assert "&lt;b&gt;" in page
        assert "v1-quick, &lt;today&gt;" in page

    def test_it_loads_nothing_and_is_small(self, page):
        assert not re.search(r'(src|href)="(https?:)?//', page)
        assert len(page) < 100_000

    def test_each_league_has_a_section_and_tables_of_its_own(self, page):
        assert page.index("No server data") < page.index("Labelled server data")
        assert len(tables_of(page)) == 4
