from __future__ import annotations

from functools import partial

import pytest
import task_runs
from task_runs import check_engine, check_going_on

from fedguard import simulate
from fedguard.config import parse
from fedguard.errors import ConfigurationError
from fedguard.records.writer import read_jsonl
from fedguard.reporting.report import write_report
from fedguard.runs.simulation import Simulation

SMALL = {"name": "graph-sample", "nodes": 120, "communities": 4}


def config(**values):
    given = {
        "dataset": SMALL,
        "clients": 4,
        "malicious": 0.25,
        "rounds": 3,
        "local_epochs": 5,
        "attack": {"name": "meta-edges", "epochs": 10},
        **values,
    }
    return parse(given)


run = partial(task_runs.run, config)


def test_links_are_learnt_and_edits_are_counted(tmp_path):
    summary, rounds = run(tmp_path, rounds=6, attack={"name": "random-edges", "budget": 0.2})
    assert summary["headline"]["name"] == "auc"
    assert rounds[-1]["auc"] > rounds[0]["auc"] + 0.05
    assert rounds[-1]["edges_added"] > 0
    records = read_jsonl(tmp_path / "clients.jsonl")
    assert len({line["client"] for line in records}) == 4
    assert "Edges added and removed" in write_report(tmp_path).read_text()


def test_the_default_needs_the_data_sets_name_alone(tmp_path):
    command = ["--dataset", "graph-sample", "--rounds", "1", "--out", str(tmp_path / "run")]
    assert simulate.main(command) == 0
    assert read_jsonl(tmp_path / "run" / "rounds.jsonl")[-1]["asked"] == 5


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"dataset": "digits", "partition": "iid", "model": "mlp"}, "attack: 'meta-edges'"),
        ({"strategy": "geminiguard", "server_samples": 5}, "strategy: 'geminiguard'"),
        ({"model": {"name": "vgae", "features": -1}}, "features"),
        ({"clients": 9}, "clients: 9 .*4, one for each community"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_the_first_round(values, told):
    with pytest.raises(ConfigurationError, match=told):
        Simulation(config(**values))


def test_a_run_goes_on_after_a_stop_bit_for_bit(tmp_path):
    check_going_on(config, tmp_path)


def test_a_third_party_may_edit_an_honest_clients_graph(tmp_path):
    values = {"malicious": 0.0, "poisoned_clients": 0.5, "rounds": 1}
    _, rounds = run(tmp_path, **values, dataset={**SMALL, "clean": "jaccard"})
    assert rounds[-1]["edges_added"] > 0
    assert any(line["poisoned"] for line in read_jsonl(tmp_path / "clients.jsonl"))


@pytest.mark.slow
@pytest.mark.parametrize(("engine", "within"), [("ray", 0.0), ("flower", 1e-5)])
def test_engines_agree(tmp_path, engine, within):
    check_engine(config, tmp_path, engine, within)


@pytest.mark.slow
def test_a_graph_of_ones_own_runs_from_the_command(tmp_path):
    nodes = [f"n{i},{'red' if i < 12 else 'blue'},{i % 3},{int(i < 12)}" for i in range(24)]
    edges = [f"n{12 * c + i},n{12 * c + j}" for c in range(2) for i in range(12) for j in range(i)]
    kept = [edge for place, edge in enumerate(edges) if place % 3]
    (tmp_path / "nodes.csv").write_text("\n".join(["node,club,a,b", *nodes]))
    (tmp_path / "edges.csv").write_text("\n".join(["source,target", *kept]))
    command = ["--dataset", "edge-list", "--data-dir", str(tmp_path), "--clients", "2", "--set"]
    more = ["dataset.group=club", "--rounds", "1", "--out", str(tmp_path / "run")]
    assert simulate.main([*command, *more]) == 0
