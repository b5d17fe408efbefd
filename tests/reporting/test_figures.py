"""What the figures show, checked against counts made from the records themselves."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from synthetic_run import CLASSES, write_run

from fedguard.records.reader import Run, read_run
from fedguard.reporting import figures
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
    figure = figures.score_figure(rng.normal(0, 1, 500), rng.normal(4, 1, 50))
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
    edges, found = figures.score_edges(np.array(values))
    assert found is logarithmic
    assert np.isfinite(edges).all()
    assert (np.diff(edges) > 0).all()


def test_one_absurd_score_does_not_squeeze_the_others() -> None:
    values = np.append(np.linspace(-1, 1, 1000), 1e12)
    edges, _ = figures.score_edges(values)
    assert edges[-1] < 50


def test_split_keeps_each_clients_counts_beside_its_label(run: Run) -> None:
    figure = figures.split_figure(run)
    counts = run.summary["split"]["counts"]
    labels = [label.removeprefix("◆ ") for label in figure.layout.yaxis.ticktext]
    assert list(figure.layout.xaxis.ticktext) == CLASSES
    for label, row in zip(labels, figure.data[0].z, strict=True):
        assert list(row) == counts[int(label)]


def test_definitions_lay_out_nested_values() -> None:
    page = definitions({"a_b": {"c": [1, 2]}, "d": [{"e": "<i>"}], "f": None, "g": True})
    assert "<dt>a b</dt><dd><dl><dt>c</dt><dd>1, 2</dd></dl></dd>" in page
    assert "&lt;i&gt;" in page
    assert "<i>" not in page
    assert "<dt>g</dt><dd>yes</dd>" in page
