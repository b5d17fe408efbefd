"""The page of a comparison: complete, small, quick, drawn in a browser at any width."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from campaign_runs import finish, write_grid
from test_report import HOSTILE, Tags
from test_report_in_browser import CHROMIUM, brightness, visit

from fedguard.reporting import comparison_figures as figures
from fedguard.reporting import comparison_maps as maps
from fedguard.reporting.comparison import Comparison, compare, find_runs
from fedguard.reporting.comparison_page import MAX_CLIENT_MAPS, write_page

needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="needs the browser chromium")

DEFENCES = ["fedavg", "median", "krum", "geminiguard"]
ATTACKS = ["sign-flip", "alie", "min-max", "badnets"]


def compared(folder: Path) -> Comparison:
    (found,) = compare(find_runs([folder])[0])
    return found


def page_of(folder: Path, out: Path) -> Path:
    entries, missing = find_runs([folder])
    write_page(out, compare(entries), missing)
    return out


def grid(folder: Path, **more: Any) -> Path:
    values = {"defences": DEFENCES, "attacks": ATTACKS, "seeds": 3, "rounds": 20, "clients": 20}
    return write_grid(folder, **{**values, **more})


@pytest.fixture(scope="module")
def campaign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """4 defences x 4 attacks x 3 seeds, and a run that failed."""
    folder = grid(tmp_path_factory.mktemp("campaign"))
    (folder / "broken").mkdir()
    (folder / "broken" / "error.json").write_text(json.dumps({"error": "it broke"}))
    return folder


def test_48_runs_give_a_small_page(campaign: Path, tmp_path: Path) -> None:
    page = page_of(campaign, tmp_path / "page.html")
    assert page.stat().st_size < 6_000_000
    text = page.read_text()
    assert "This part could not be drawn" not in text
    tags = Tags(text)
    # a heat map, 4 accuracy, 1 success, 4 detection, the front, the client maps
    assert len(tags.data) == 1 + 4 + 1 + 4 + 1 + MAX_CLIENT_MAPS
    assert "failed: it broke" in text
    for _, attributes in tags.elements:
        for name in ("src", "href"):
            assert (attributes.get(name) or "#").startswith(("#", "data:,"))
    assert "@import" not in text
    assert "url(" not in text


def test_every_cell_of_the_heat_map_prints_its_number(campaign: Path) -> None:
    found = compared(campaign)
    drawn = maps.heat_map(maps.defence_grid(found), rule=1).data[0]
    assert drawn.texttemplate == "%{text}"
    for row, standing in enumerate(found.standings):
        assert drawn.text[row][0] == f"{100 * standing.worst_accuracy:.0f}"
        for column, scenario in enumerate(found.scenarios, start=1):
            mean = found.groups[standing.defence, scenario].mean("accuracy")
            assert mean is not None
            assert drawn.text[row][column] == f"{100 * mean:.0f}"
        assert drawn.z[row][0] == min(drawn.z[row][1:])


def test_fraction_by_heterogeneity_shows_the_worst_attack(tmp_path: Path) -> None:
    for attack, accuracy in (("alie", 0.9), ("min-max", 0.4)):
        for malicious in (0.1, 0.3):
            for alpha in (0.1, 1.0):
                finish(
                    tmp_path / f"{attack}{malicious}{alpha}",
                    attack={"name": attack},
                    malicious=malicious,
                    partition={"name": "dirichlet", "alpha": alpha},
                    accuracy=accuracy - malicious * (2 - alpha),
                )
    found = compared(tmp_path)
    assert maps.has_fraction_grid(found)
    cells = maps.fraction_grid(found, "fedavg")
    assert cells.rows == ["10 %", "30 %"]
    assert cells.columns == ["alpha 0.1", "alpha 1.0"]
    expected = [[0.4 - m * (2 - a) for a in (0.1, 1.0)] for m in (0.1, 0.3)]
    assert np.allclose(cells.values, np.array(expected))
    assert all("min-max" in note for row in cells.notes for note in row)


def test_curves_are_means_between_the_lowest_and_the_highest_seed(campaign: Path) -> None:
    found = compared(campaign)
    group = found.groups["krum", "alie"]
    course = figures.course(group, "accuracy")
    assert course is not None
    series = np.array([entry.run.series("accuracy") for entry in group.entries], dtype=float)
    assert np.allclose(course.mean, series.mean(axis=0), atol=1e-5)
    assert np.allclose(course.low, series.min(axis=0), atol=1e-5)
    assert np.allclose(course.high, series.max(axis=0), atol=1e-5)
    assert figures.course(group, "attack_success_rate") is None


def test_lines_differ_without_colour() -> None:
    looks = [figures.style(place) for place in range(figures.MAX_LINES)]
    assert len({(look.dash, look.symbol) for look in looks}) == figures.MAX_LINES


def test_more_defences_than_lines_are_named_as_left_out(tmp_path: Path) -> None:
    names = [f"rule-{place}" for place in range(figures.MAX_LINES + 3)]
    write_grid(tmp_path / "runs", defences=names, attacks=["alie"], seeds=1)
    text = page_of(tmp_path / "runs", tmp_path / "page.html").read_text()
    assert "3 more in the table" in text


def test_several_worlds_stand_one_after_another(tmp_path: Path) -> None:
    for rounds in (2, 3):
        write_grid(
            tmp_path / "runs" / str(rounds),
            defences=["a", "b"],
            attacks=["c"],
            seeds=1,
            rounds=rounds,
        )
    entries, missing = find_runs([tmp_path / "runs" / "2", tmp_path / "runs" / "3"])
    write_page(tmp_path / "page.html", compare(entries), missing)
    text = (tmp_path / "page.html").read_text()
    assert "digits, 2 rounds: worst cases" in text
    assert "digits, 3 rounds: worst cases" in text


def hostile_grid(folder: Path) -> Path:
    write_grid(folder, defences=[HOSTILE, "krum"], attacks=[HOSTILE, "alie"], seeds=2)
    for path in folder.glob("*/summary.json"):
        summary = json.loads(path.read_text())
        path.write_text(json.dumps(summary | {"class_names": [HOSTILE] * 10}))
    (folder / "broken").mkdir()
    (folder / "broken" / "error.json").write_text(json.dumps({"error": HOSTILE}))
    return folder


def test_no_text_from_a_run_becomes_an_element(tmp_path: Path) -> None:
    text = page_of(hostile_grid(tmp_path / "runs"), tmp_path / "page.html").read_text()
    tags = Tags(text)
    assert HOSTILE not in text
    assert tags.count("img") == 0
    assert tags.count("script") == len(tags.data) + 2
    assert not any(name.startswith("on") for _, attributes in tags.elements for name in attributes)
    for data in tags.data:
        assert "<b>" not in json.dumps(json.loads(data), ensure_ascii=False)


@needs_browser
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [400, 1400])
def test_page_is_drawn_in_both_themes_and_never_scrolls_sideways(
    campaign: Path, tmp_path: Path, width: int, dark: bool
) -> None:
    page = page_of(campaign, tmp_path / "page.html")
    found = visit(page, tmp_path, width, dark)
    for state, is_dark in ((found["before"], dark), (found["after"], not dark)):
        assert state["width"] == width
        assert state["scrollWidth"] <= width
        assert state["outside"] == 0
        assert state["drawn"] == state["plots"] == 12
        assert state["failures"] == []
        assert state["unresolved"] == 0
        assert (brightness(state["page"]) < 0.5) is is_dark
        assert abs(brightness(state["tick"]) - brightness(state["page"])) > 0.35
    assert len(found["chosen"]) == MAX_CLIENT_MAPS
    for state in found["chosen"]:
        assert state["drawn"] == state["plots"] == 12
        assert state["outside"] == 0
        assert state["scrollWidth"] <= width


@needs_browser
def test_many_scenarios_are_chosen_from_menus(tmp_path: Path) -> None:
    runs = write_grid(
        tmp_path / "runs",
        defences=["fedavg", "krum"],
        attacks=["alie", "min-max"],
        malicious=[0.1, 0.3],
        alphas=[0.1, 1.0],
        seeds=2,
    )
    found = visit(page_of(runs, tmp_path / "page.html"), tmp_path, 400, True)
    # two maps of fraction by heterogeneity, one of scenarios, a curve, a detection, front, clients
    assert found["before"]["drawn"] == found["before"]["plots"] == 7
    assert len(found["chosen"]) == 8 + 8 + 16
    assert all(state["drawn"] == state["plots"] == 7 for state in found["chosen"])
    assert found["before"]["failures"] == found["after"]["failures"] == []
    assert found["before"]["scrollWidth"] <= 400


@needs_browser
def test_hostile_texts_stay_texts(tmp_path: Path) -> None:
    page = page_of(hostile_grid(tmp_path / "runs"), tmp_path / "page.html")
    found = visit(page, tmp_path, 400, True)
    assert found["before"]["failures"] == []
    assert found["before"]["images"] == found["before"]["links"] == 0
    assert found["before"]["scrollWidth"] <= 400
    assert found["before"]["drawn"] == found["before"]["plots"] > 0
