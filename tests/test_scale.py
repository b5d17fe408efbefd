"""A million clients: what is kept per client, and the benchmark that measures it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import fedguard
from benchmarks import scale
from fedguard.grids.veil import Handles, VeiledGrid
from fedguard.runs import records


class Nodes:
    def __init__(self, nodes):
        self.nodes = nodes

    def get_node_ids(self):
        return self.nodes


def test_handles_are_sorted_anew_where_the_nodes_have_changed():
    inner, handles = Nodes(range(50)), Handles(3)
    veiled = VeiledGrid(inner, handles)
    expected = sorted(Handles(3).of(client) for client in range(50))
    first = veiled.get_node_ids()
    assert first == expected
    first.clear()
    assert veiled.get_node_ids() == expected
    inner.nodes = [7, 3]
    assert veiled.get_node_ids() == sorted(handles.of(client) for client in (3, 7))
    inner.nodes.append(5)
    assert veiled.get_node_ids() == sorted(handles.of(client) for client in (3, 5, 7))


def test_a_summary_counts_classes_of_few_clients_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    given = {"rounds": 1, "local_epochs": 1, "attack": "none", "strategy": "fedavg"}
    few = fedguard.run(out=tmp_path / "few", clients=5, **given)
    counts = few.summary["split"]["counts"]
    assert len(counts) == 5
    tested = sum(map(sum, few.summary["confusion"]))
    assert sum(map(sum, counts)) + tested + 100 == 1797, "digits, and 100 rows of the server"
    monkeypatch.setattr(records, "MOST_COUNTED", 4)
    many = fedguard.run(out=tmp_path / "many", clients=5, **given)
    assert many.summary["split"] == {
        "counts": [],
        "told": "not kept for more than 4 clients; the seed divides the rows again",
    }
    assert many.summary["model_sha256"] == few.summary["model_sha256"]


def test_the_scale_benchmark_runs_and_judges(capsys: pytest.CaptureFixture[str]):
    scale.main(["--one-run", "60", "20", "2", "iid"])
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert len(found["rounds"]) == 1
    assert 100 < found["peak"] < 4000
    assert scale.row(60, 20, found).startswith("| 60 | 20 | ")
    slow = {"rounds": [0.3, 0.5, 0.4], "peak": 2500.0}
    told = scale.verdict({(10_000, 1_000): {"rounds": [0.19]}, (1_000_000, 1_000): slow})
    assert told[0].endswith("2.11 (bar: under 2; missed)")
    assert told[1].endswith("2500 MB (bar: under 3000; met)")
    assert scale.verdict({}) == []
    scale.main(["--split", "40", "dirichlet"])
    assert json.loads(capsys.readouterr().out)["seconds"] > 0
