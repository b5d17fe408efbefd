"""What the figures show, checked against counts made from the records themselves."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import plotly.graph_objects as go
import pytest
from synthetic_run import CLASSES, write_run

from fedguard.records.reader import Run, read_run
from fedguard.reporting import figures, scores
from fedguard.reporting.client_map import STATUSES, client_map_figure, status_matrix
from fedguard.reporting.tables import definitions


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return read_run(write_run(tmp_path / "run", clients=15, malicious=4, rounds=8, fraction=0.6))


def test_map_counts_every_record_once_and_leaves_the_rest_blank(run: Run) -> None:
    codes, rounds = status_matrix(run)
    assert codes.shape == (15, 8)
    assert rounds == list(range(1, 9))
    expected = Counter(
        "malformed or no reply"
        if record.num_examples is None
        else f"{'malicious' if record.malicious else 'honest'}, "
        f"{'accepted' if record.accepted else 'rejected'}"
        for record in run.clients
    )
    expected["not asked"] = codes.size - len(run.clients)
    found = Counter(STATUSES[int(code)].words for code in codes.flat)
    assert found == expected


def test_statuses_differ_by_sign_and_by_colour() -> None:
    assert len({status.symbol for status in STATUSES}) == len(STATUSES)
    assert len({status.colour for status in STATUSES}) == len(STATUSES)


def test_map_marks_malicious_clients_on_the_axis(run: Run) -> None:
    figure = client_map_figure(run)
    labels = figure.layout.meta["map"]["labels"]
    assert {label[2:] for label in labels if label.startswith("◆ ")} == run.malicious
    assert all(label.startswith("◆ ") for label in labels[:4])


def test_map_colours_every_code_in_its_own_band(run: Run) -> None:
    trace = client_map_figure(run).data[0]
    for code, status in enumerate(STATUSES):
        place = (code - trace.zmin) / (trace.zmax - trace.zmin)
        band = [colour for edge, colour in trace.colorscale if edge <= place][-1]
        assert band == status.colour


def test_curves_hold_the_recorded_values(run: Run) -> None:
    accuracy, success = figures.headline_figure(run).data
    assert list(accuracy.y) == run.series("accuracy")
    assert list(success.y) == run.series("attack_success_rate")
    assert list(accuracy.x) == list(range(9))


def test_histograms_are_shares_of_each_group() -> None:
    rng = np.random.default_rng(0)
    figure = scores.score_figure(rng.normal(0, 1, 500), rng.normal(4, 1, 50))
    for trace in figure.data:
        assert sum(trace.y) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("values", "logarithmic"),
    [
        ([1e-3, 1.0, 1e3], True),
        ([0.0, 1.0, 1e3], False),
        ([0.5, 0.5, 0.5], False),
        ([0.0], False),
        ([-3.0], False),
        ([1e300, 1.0], True),
        ([-1e308, 1e308, 0.0], False),
    ],
)
def test_score_edges_always_ascend(values: list[float], logarithmic: bool) -> None:
    edges, found = scores.score_edges(np.array(values))
    assert found is logarithmic
    assert np.isfinite(edges).all()
    assert (np.diff(edges) > 0).all()


def test_one_absurd_score_does_not_squeeze_the_others() -> None:
    values = np.append(np.linspace(-1, 1, 1000), 1e12)
    edges, _ = scores.score_edges(values)
    assert edges[-1] < 50


def test_split_keeps_each_clients_counts_beside_its_label(run: Run) -> None:
    figure = figures.split_figure(run)
    counts = run.summary["split"]["counts"]
    labels = [label.removeprefix("◆ ") for label in figure.layout.yaxis.ticktext]
    assert list(figure.layout.xaxis.ticktext) == CLASSES
    for label, row in zip(labels, figure.data[0].z, strict=True):
        assert list(row) == counts[int(label)]


def test_split_of_one_group_is_a_bar_per_client(tmp_path: Path) -> None:
    counts = [[30], [10], [None], [20]]
    path = write_run(tmp_path / "lm", clients=4, malicious=1, split={"counts": counts})
    found = read_run(path)
    figure = figures.split_figure(found)
    (bars,) = figure.data
    assert isinstance(bars, go.Bar)
    (liar,) = found.malicious
    order = [liar, *(str(client) for client in range(4) if str(client) != liar)]
    assert [label.removeprefix("◆ ") for label in bars.customdata] == order
    assert list(bars.x) == [counts[int(client)][0] for client in order]
    assert figure.layout.xaxis.title.text == "training rows"


def test_split_counts_of_damaged_rows_are_not_numbers() -> None:
    found = figures.split_counts(Run(Path(), {"split": {"counts": [[1, 2], [], [3, "x"], "y"]}}))
    expected = [[1, 2], [np.nan] * 2, [3, np.nan], [np.nan] * 2]
    np.testing.assert_array_equal(found, expected)
    assert figures.split_counts(Run(Path())).shape == (0, 0)


def test_headline_figure_of_a_share_other_than_accuracy_knows_no_guessing(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run", rounds=3, headline={"name": "loss", "unit": "share"})
    figure = figures.headline_figure(read_run(path))
    assert [trace.name for trace in figure.data] == ["loss", "attack success"]
    assert not figure.layout.shapes
    guess = figures.headline_figure(read_run(write_run(tmp_path / "other", rounds=3)))
    assert [shape.y0 for shape in guess.layout.shapes] == [1 / 10]


def test_detection_figure_holds_the_recorded_rates(run: Run) -> None:
    caught, wronged = figures.detection_figure(run).data
    assert list(caught.y) == run.series("true_positive_rate")
    assert list(wronged.y) == run.series("false_positive_rate")
    assert (caught.name, wronged.name) == ("malicious", "honest")


def test_recall_figure_holds_each_classs_recall(run: Run) -> None:
    (bars,) = figures.recall_figure(run).data
    assert list(bars.x) == run.final["per_class_recall"]
    assert list(bars.customdata) == CLASSES


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([1.0, 100.0], None),
        ([1.0, 101.0], "log"),
        ([0.0, 1e9], None),
        ([-1.0, 1e9], None),
        ([None, 5.0], None),
        ([], None),
    ],
)
def test_axes_are_logarithmic_beyond_a_factor_of_a_hundred(
    values: list[float | None], kind: str | None
) -> None:
    assert figures.number_axis(values).get("type") == kind


@pytest.mark.parametrize(
    ("rounds", "step", "edges"),
    [([0, 5], 1, (-0.55, 5.55)), ([0, 20], 2, (-0.7, 20.7)), ([7], 1, (6.5, 7.5))],
)
def test_rounds_on_an_axis_are_whole(
    rounds: list[int], step: int, edges: tuple[float, float]
) -> None:
    found = figures.round_ticks(rounds)
    assert found["dtick"] == step
    assert found["range"] == pytest.approx(edges)
    assert figures.round_ticks([]) == {}


def test_labels_are_thinned_out_evenly() -> None:
    labels = [str(place) for place in range(100)]
    found = figures.label_ticks(labels, most=30)
    assert found["tickvals"] == list(range(0, 100, 4))
    assert found["ticktext"] == labels[::4]


def test_definitions_lay_out_nested_values() -> None:
    page = definitions({"a_b": {"c": [1, 2]}, "d": [{"e": "<i>"}], "f": None, "g": True})
    assert "<dt>a b</dt><dd><dl><dt>c</dt><dd>1, 2</dd></dl></dd>" in page
    assert "&lt;i&gt;" in page
    assert "<i>" not in page
    assert "<dt>g</dt><dd>yes</dd>" in page
