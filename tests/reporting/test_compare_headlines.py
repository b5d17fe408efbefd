"""Comparisons led by a figure of which less is better; runs of different headlines never mix."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from campaign_runs import finish
from html_tables import columns_of, tables_of
from rich.console import Console
from test_report import Tags

from fedguard.records.writer import jsonable
from fedguard.reporting import comparison_figures as figures
from fedguard.reporting import comparison_maps as maps
from fedguard.reporting import comparison_text
from fedguard.reporting.comparison import Comparison, Missing, Spread, compare, find_runs
from fedguard.reporting.comparison_page import spread_text, write_page
from fedguard.reporting.headline import Headline
from fedguard.reporting.summary import render_comparison

TABLE = {
    ("fedavg", "sign-flip"): [30.0, 50.0],
    ("fedavg", "alie"): [9.0, 11.0],
    ("krum", "sign-flip"): [14.0, 16.0],
    ("krum", "alie"): [12.0, 12.0],
}
"""Perplexities by defence and attack, one per seed."""


def language_runs(folder: Path, table: dict[tuple[str, str], list[float]] = TABLE) -> Path:
    for (defence, attack), values in table.items():
        for seed, value in enumerate(values):
            finish(
                folder / f"{defence}-{attack}-{seed}",
                strategy={"name": defence},
                attack={"name": attack},
                dataset={"name": "shakespeare"},
                seed=seed,
                perplexity=value,
                seconds=1.0 if defence == "fedavg" else 2.0,
            )
    return folder


def compared(folder: Path) -> Comparison:
    (found,) = compare(find_runs([folder])[0])
    return found


def shown(*comparisons: Comparison, missing: tuple[Missing, ...] = ()) -> str:
    screen = io.StringIO()
    Console(file=screen, width=100).print(comparison_text.render(comparisons, missing))
    return screen.getvalue()


def page_of(folder: Path, out: Path) -> str:
    entries, missing = find_runs([folder])
    write_page(out, compare(entries), missing)
    return out.read_text()


def test_the_lowest_worst_case_comes_first(tmp_path: Path) -> None:
    first, second = compared(language_runs(tmp_path)).standings
    assert (first.defence, second.defence) == ("krum", "fedavg")
    assert (first.worst, first.worst_scenario) == (15.0, "sign-flip")
    assert (second.worst, second.worst_scenario) == (40.0, "sign-flip")
    assert (first.worst_run, second.worst_run) == (16.0, 50.0)
    assert first.mean == pytest.approx((15 + 12) / 2)
    assert second.mean == pytest.approx((40 + 10) / 2)


def test_ranks_and_front_turn_with_the_direction(tmp_path: Path) -> None:
    table = {
        (name, attack): [value, value + 1]
        for name, value in (("fedavg", 40.0), ("krum", 10.0), ("median", 20.0))
        for attack in ("sign-flip", "alie")
    }
    found = compared(language_runs(tmp_path, table))
    by_name = {standing.defence: standing for standing in found.standings}
    assert {name: s.mean_rank for name, s in by_name.items()} == {
        "krum": 1.0,
        "median": 2.0,
        "fedavg": 3.0,
    }
    assert found.ranking.w == pytest.approx(1.0)
    front = {name: s.front for name, s in by_name.items()}
    assert front == {"krum": True, "fedavg": True, "median": False}, "fedavg is the fastest"


def test_runs_of_two_headlines_are_two_comparisons(tmp_path: Path) -> None:
    language_runs(tmp_path)
    finish(tmp_path / "image", dataset={"name": "digits"}, accuracy=0.7)
    finish(tmp_path / "odd", dataset={"name": "shakespeare"}, accuracy=0.6)
    found = compare(find_runs([tmp_path])[0])
    assert [one.title for one in found] == [
        "shakespeare, 3 rounds, perplexity (lower is better)",
        "digits, 3 rounds",
        "shakespeare, 3 rounds",
    ]
    assert [len(one.entries) for one in found] == [8, 1, 1]
    for one in found:
        assert {entry.headline for entry in one.entries} == {one.headline}


def test_a_destroyed_model_is_the_worst_and_stays_in_the_comparison(tmp_path: Path) -> None:
    table = {**TABLE, ("fedavg", "sign-flip"): [math.inf, 50.0]}
    found = compared(language_runs(tmp_path, table))
    first, second = found.standings
    assert (first.defence, second.defence) == ("krum", "fedavg")
    assert second.worst == second.worst_run == math.inf
    assert found.groups["fedavg", "sign-flip"].spread("perplexity").std is None
    assert "∞" in shown(found)
    json.dumps(jsonable(comparison_text.as_plain([found], [])), allow_nan=False)


def test_means_of_figures_near_the_largest_number_do_not_overflow() -> None:
    assert Spread.of([1e308, 1e308, 1e308]) == Spread(3, 1e308, 0.0, 1e308, 1e308)
    found = Spread.of([1e300, 0.0])
    assert found is not None
    assert found.std == pytest.approx(1e300 / 2**0.5)


def test_two_destroyed_models_do_not_differ(tmp_path: Path) -> None:
    table = {(name, "alie"): [math.inf] * 8 for name in ("fedavg", "krum")}
    ((_, _, test),) = compared(language_runs(tmp_path, table)).tests
    assert (test.n, test.mean_difference, test.p) == (8, 0.0, 1.0)


def test_a_run_without_a_result_is_unfinished_whatever_its_headline(tmp_path: Path) -> None:
    language_runs(tmp_path)
    (tmp_path / "krum-alie-1" / "summary.json").unlink()
    entries, missing = find_runs([tmp_path])
    assert len(entries) == 7
    assert missing == [Missing("krum-alie-1", "unfinished: 3 rounds recorded")]


def test_tests_compare_the_figure_as_it_is(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    low, gaps = rng.uniform(8, 10, 12), rng.uniform(1, 2, 12)
    runs = {("fedavg", "alie"): list(low), ("krum", "alie"): list(low + gaps)}
    found = compared(language_runs(tmp_path, runs))
    ((first, second, test),) = found.tests
    assert (first, test.verdict, second) == ("fedavg", "lower", "krum")
    assert test.mean_difference == pytest.approx(-gaps.mean())
    assert f"fedavg / krum: {-gaps.mean():+.4g} in perplexity, 12 pairs" in shown(found)


def test_the_terminal_shows_plain_numbers(tmp_path: Path) -> None:
    text = shown(compared(language_runs(tmp_path)))
    row = next(line for line in text.splitlines() if "krum" in line)
    assert row.split()[:5] == ["*", "krum", "15", "sign-flip", "13.5"]
    assert "perplexity (lower is better)" in text
    assert "no other defence beats it in perplexity, attack success and time" in text


def test_an_error_that_a_client_wrote_cannot_steer_the_terminal(tmp_path: Path) -> None:
    found = compared(language_runs(tmp_path))
    text = shown(found, missing=(Missing("run-1", "failed: \x1b[2J\u202e" + "x" * 900),))
    assert "�[2J�xxx" in text
    assert not any(letter in text for letter in ("\x1b", "\u202e"))


def test_csv_gives_each_headline_columns_of_its_own(tmp_path: Path) -> None:
    language_runs(tmp_path)
    finish(tmp_path / "image", accuracy=0.7)
    found = compare(find_runs([tmp_path])[0])
    rows = list(csv.DictReader(io.StringIO(comparison_text.as_csv(found))))
    assert len(rows) == 5
    by_key = {(row["defence"], row["scenario"]): row for row in rows if row["perplexity_mean"]}
    assert len(by_key) == 4
    assert float(by_key["krum", "sign-flip"]["perplexity_mean"]) == 15.0
    assert float(by_key["krum", "sign-flip"]["perplexity_std"]) == pytest.approx(2**0.5)
    assert all(row["accuracy_mean"] == "" for row in by_key.values())
    (image,) = [row for row in rows if not row["perplexity_mean"]]
    assert float(image["accuracy_mean"]) == 0.7


def test_json_names_standings_by_the_headline(tmp_path: Path) -> None:
    plain = comparison_text.as_plain([compared(language_runs(tmp_path))], [])
    (found,) = plain["comparisons"]
    assert found["standings"][0]["perplexity"] == pytest.approx(13.5)
    assert found["standings"][0]["worst_perplexity"] == 15.0
    assert {run["perplexity"] for run in found["runs"]} == {9, 11, 12, 14, 16, 30, 50}
    assert not any("accuracy" in key for key in json.dumps(found).split('"'))


def test_json_of_accuracies_keeps_its_names(tmp_path: Path) -> None:
    finish(tmp_path / "a", accuracy=0.7)
    plain = comparison_text.as_plain([compared(tmp_path)], [])
    (standing,) = plain["comparisons"][0]["standings"]
    assert list(standing)[3:5] == ["accuracy", "worst_accuracy"]
    assert standing["accuracy"] == standing["worst_accuracy"] == pytest.approx(0.7)


# --- page ------------------------------------------------------------------------------------


def test_the_page_is_led_by_perplexity(tmp_path: Path) -> None:
    text = page_of(language_runs(tmp_path / "runs"), tmp_path / "page.html")
    assert "krum has the best worst case of 2 defences: 15 under sign-flip" in text
    assert "This part could not be drawn" not in text
    assert "accuracy" not in text.split("<main>")[1].split("<script")[0].lower()
    worst = columns_of(next(t for t in tables_of(text) if "worst case" in t[0]))
    assert worst["worst case"] == ["15", "40"]
    assert worst["worst run"] == ["16", "50"]
    assert worst["mean"] == ["13.5", "25"]
    tests = columns_of(next(t for t in tables_of(text) if "perplexity is" in t[0]))
    assert tests["difference"] == [f"{25 - 13.5:+.4g}"]
    numbers = columns_of(next(t for t in tables_of(text) if "seeds" in t[0]))
    assert numbers["perplexity"] == ["10 ± 1.414", "40 ± 14.14", "12 ± 0", "15 ± 1.414"]
    assert "Run, highest perplexity first:" in text
    options = text.split("<select")[-1]
    assert options.index("40 · fedavg") < options.index("15 · krum") < options.index("10 · fedavg")


def test_the_page_draws_numbers_on_an_axis_of_numbers(tmp_path: Path) -> None:
    text = page_of(language_runs(tmp_path / "runs"), tmp_path / "page.html")
    drawings = [json.loads(data) for data in Tags(text).data]
    for drawing in drawings[1:3]:
        assert drawing["layout"]["yaxis"].get("tickformat") != ".0%"
    (front,) = [d for d in drawings if d["data"][0].get("mode") == "markers+text"]
    assert front["layout"]["yaxis"]["autorange"] == "reversed", "up is better"
    assert {dot["text"][0]: dot["y"][0] for dot in front["data"]} == {"fedavg": 40.0, "krum": 15.0}


def test_a_destroyed_model_has_no_place_on_the_front(tmp_path: Path) -> None:
    table = {**TABLE, ("fedavg", "sign-flip"): [math.inf, 50.0]}
    found = compared(language_runs(tmp_path, table))
    assert [dot.text[0] for dot in figures.pareto_figure(found).data] == ["krum"]


def test_detection_stays_in_percent_beside_perplexity(tmp_path: Path) -> None:
    found = compared(language_runs(tmp_path))
    panels = (("true_positive_rate", "malicious rejected"), ("perplexity", "perplexity"))
    drawing = figures.curves_figure(found, "alie", panels)
    assert drawing.layout.yaxis.tickformat == ".0%"
    assert drawing.layout.yaxis2.tickformat is None
    by_axis = {trace.yaxis: trace.hovertemplate for trace in drawing.data if trace.hovertemplate}
    assert by_axis == {"y": "%{y:.1%}", "y2": "%{y:.4g}"}


def test_heat_maps_print_numbers_and_shade_the_lowest_darkest(tmp_path: Path) -> None:
    found = compared(language_runs(tmp_path))
    grid = maps.defence_grid(found)
    assert grid.rows == ["krum", "fedavg"]
    worst = grid.columns.index("worst case")
    flip = grid.columns.index("sign-flip")
    assert grid.values[:, worst].tolist() == [15.0, 40.0]
    drawn = maps.heat_map(grid, rule=1).data[0]
    assert [row[flip] for row in drawn.text] == ["15", "40"]
    shades = maps.shades(grid)
    assert shades[1, flip] == 0.0, "40 is the highest"
    assert shades.max() == shades[1, grid.columns.index("alie")] == 1.0
    assert "2 seeds, 14 to 16" in drawn.hovertext[0][flip]


def grid_of(values: list[list[float]], headline: Headline) -> maps.Grid:
    rows, columns = len(values), len(values[0])
    notes = [[""] * columns for _ in values]
    names = [[str(place) for place in range(count)] for count in (rows, columns)]
    return maps.Grid(names[0], names[1], np.array(values), notes, headline)


PLAIN = Headline("perplexity", higher_is_better=False, unit="plain")


@pytest.mark.parametrize(
    ("values", "headline", "shades"),
    [
        ([[0.2, 0.9]], Headline(), [[0.2, 0.9]]),
        ([[0.2, 0.9]], Headline("error", higher_is_better=False), [[0.8, 0.1]]),
        ([[10.0, 20.0, 15.0]], PLAIN, [[1.0, 0.0, 0.5]]),
        ([[10.0, math.inf, 20.0]], PLAIN, [[1.0, 0.0, 0.0]]),
        ([[10.0, math.nan, 20.0]], PLAIN, [[1.0, math.nan, 0.0]]),
        ([[1.0, 100.0, 10000.0]], PLAIN, [[1.0, 0.5, 0.0]]),
        ([[7.0, 7.0]], PLAIN, [[1.0, 1.0]]),
        ([[math.inf, math.nan]], PLAIN, [[0.0, math.nan]]),
        ([[1.0, 2.0]], Headline("correlation", unit="plain"), [[0.0, 1.0]]),
    ],
)
def test_shades_say_how_good_a_cell_is(
    values: list[list[float]], headline: Headline, shades: list[list[float]]
) -> None:
    np.testing.assert_allclose(maps.shades(grid_of(values, headline)), shades)


def test_fraction_maps_keep_the_highest_perplexity(tmp_path: Path) -> None:
    for attack, value in (("alie", 10.0), ("min-max", 30.0)):
        for malicious in (0.1, 0.3):
            for alpha in (0.1, 1.0):
                finish(
                    tmp_path / f"{attack}{malicious}{alpha}",
                    attack={"name": attack},
                    malicious=malicious,
                    partition={"name": "dirichlet", "alpha": alpha},
                    perplexity=value + 10 * malicious - alpha,
                )
    cells = maps.fraction_grid(compared(tmp_path), "fedavg")
    expected = [[30 + 10 * m - a for a in (0.1, 1.0)] for m in (0.1, 0.3)]
    np.testing.assert_allclose(cells.values, expected)
    assert all("min-max" in note for row in cells.notes for note in row)


def test_spreads_in_words() -> None:
    assert spread_text(None) == "–"
    assert spread_text(Spread.of([0.5])) == "50.0"
    assert spread_text(Spread.of([0.4, 0.6])) == "50.0 ± 14.1"
    assert spread_text(Spread.of([4.0, 6.0]), PLAIN) == "5 ± 1.414"
    assert spread_text(Spread.of([4.0, math.inf]), PLAIN) == "∞"


# --- several summaries -----------------------------------------------------------------------


def test_summaries_of_two_headlines_stand_in_two_tables() -> None:
    told = {"name": "perplexity", "higher_is_better": False, "unit": "plain"}
    rows: list[dict[str, Any]] = [
        {"strategy": "krum", "final": {"accuracy": 0.9}},
        {"strategy": "median", "headline": told, "final": {"perplexity": 8.0, "accuracy": 0.3}},
        {"strategy": "fedavg", "headline": told, "final": {"perplexity": 6.0}},
    ]
    screen = io.StringIO()
    Console(file=screen, width=80, force_terminal=True).print(render_comparison(rows))
    text = screen.getvalue()
    images, language = text.split("perplexity")
    assert "90.0 %" in images
    assert "krum" not in language
    assert "30.0 %" not in text
    best = next(line for line in language.splitlines() if "fedavg" in line)
    other = next(line for line in language.splitlines() if "median" in line)
    assert "\x1b[1m" in best, "the lowest is in bold"
    assert "\x1b[1m" not in other
