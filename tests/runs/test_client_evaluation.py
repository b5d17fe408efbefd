"""The global model on clients' held-out rows: who holds them, what is told, on which engine."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from fedguard.clients.federation import hold_out_of_clients
from fedguard.config import parse
from fedguard.data.dataset import Dataset
from fedguard.errors import ConfigurationError
from fedguard.records.writer import read_jsonl
from fedguard.runs.client_evaluation import ClientEvaluation
from fedguard.runs.simulation import Simulation
from fedguard.tasks.classification import Classification
from fedguard.tasks.next_word import NextWord

SMALL = {
    "strategy": "multi-krum",
    "attack": {"name": "sign-flip", "scale": 3.0},
    "clients": 10,
    "malicious": 0.2,
    "rounds": 2,
    "local_epochs": 1,
    "server_samples": 40,
    "evaluate_clients": 0.25,
}


def simulation(**values: Any) -> Simulation:
    return Simulation(parse({**SMALL, **values}))


def hits(model: nn.Module, x: Tensor, y: Tensor) -> float:
    model.eval()
    with torch.no_grad():
        return float((model(x).argmax(dim=1) == y).double().mean())


class TestWhoIsJudgedOnWhat:
    def test_held_out_rows_are_nobodys_training_rows(self):
        whole = simulation(evaluate_clients=0.0).federation
        found = simulation().federation
        assert found.held_out is not None
        for client in range(10):
            kept, held = found.shards[client], found.held_out[client]
            assert torch.equal(torch.cat([kept, held]).sort().values, whole.shards[client])
            assert len(held) == round(0.25 * len(whole.shards[client]))
        assert whole.held_out is None
        # The server's rows and the test set are what they were.
        assert torch.equal(found.server_rows, whole.server_rows)

    def test_every_client_draws_for_itself_and_by_the_seed(self):
        strata = torch.zeros(300, dtype=torch.long)
        shards = [torch.arange(100), torch.arange(100, 200)]
        first = hold_out_of_clients(strata, shards, 0.2, seed=1)[1]
        again = hold_out_of_clients(strata, [*shards, torch.arange(5)], 0.2, seed=1)[1]
        other = hold_out_of_clients(strata, shards, 0.2, seed=2)[1]
        assert torch.equal(first[0], again[0])
        assert torch.equal(first[1], again[1])
        assert not torch.equal(first[0], other[0])
        assert not torch.equal(first[0], first[1] - 100)

    def test_classes_are_held_out_in_proportion(self):
        strata = torch.tensor([0] * 80 + [1] * 40 + [2] * 20)
        order = torch.randperm(140, generator=torch.Generator().manual_seed(0))
        held = hold_out_of_clients(strata[order], [torch.arange(140)], 0.25, seed=5)[1][0]
        counts = strata[order][held].bincount().tolist()
        assert sum(counts) == 35
        assert counts == pytest.approx([20, 10, 5], abs=1)

    def test_a_client_keeps_a_row_and_one_with_a_single_row_is_not_judged(self):
        strata = torch.zeros(10, dtype=torch.long)
        shards = [torch.tensor([0]), torch.tensor([1, 2]), torch.arange(3, 10)]
        kept, held = hold_out_of_clients(strata, shards, 0.9, seed=0)
        assert [len(rows) for rows in kept] == [1, 1, 1]
        assert [len(rows) for rows in held] == [0, 1, 6]
        kept, held = hold_out_of_clients(strata, shards, 0.01, seed=0)
        assert [len(rows) for rows in held] == [0, 1, 1]

    def test_a_clients_own_noise_is_on_its_held_out_rows(self):
        federation = simulation(partition={"name": "noise", "sigma": 0.3}).federation
        assert federation.noise_std is not None
        clean = federation.dataset.x_train[federation.held_out[9]]
        seen, _ = federation.held_out_examples(9)
        noise = seen - federation.normalise(clean)
        std = torch.tensor(federation.dataset.std[0])
        assert float((noise * std).std()) == pytest.approx(federation.noise_std[9], rel=0.1)

    def test_poison_is_not(self):
        attack = {"name": "label-flip", "poison_fraction": 1.0}
        federation = simulation(attack=attack, malicious=0.5).federation
        for client in range(10):
            _, y = federation.held_out_examples(client)
            assert torch.equal(y, federation.dataset.y_train[federation.held_out[client]])


def test_the_figures_are_those_of_the_model_worked_out_by_hand(tmp_path):
    run = simulation()
    summary = run.run(tmp_path)
    lines = [r for r in read_jsonl(tmp_path / "fairness.jsonl") if r["round"] == 2]
    federation = run.federation
    model = run.server_model.module
    model.load_state_dict(load_file(tmp_path / "model.safetensors"))
    values = {}
    for line in lines:
        client = line["client"]
        x, y = federation.held_out_examples(client)
        values[client] = hits(model, x, y)
        assert line["accuracy"] == pytest.approx(values[client], abs=1e-12)
        assert line["rows"] == len(y)
        assert line["malicious"] == (client in federation.malicious)
        everything = torch.cat([federation.shards[client], federation.held_out[client]])
        most = np.bincount(federation.dataset.y_train[everything].numpy()).argmax()
        assert line["group"] == f"mostly {most}"
    assert sorted(values) == list(range(10))
    honest = {c: v for c, v in values.items() if c not in federation.malicious}
    found = summary["fairness"]
    assert found["clients"] == len(honest) == 8
    assert found["client_mean"] == pytest.approx(np.mean(list(honest.values())))
    assert found["client_spread"] == pytest.approx(np.std(list(honest.values())))
    assert found["worst_decile"] == pytest.approx(min(honest.values()))
    last = read_jsonl(tmp_path / "rounds.jsonl")[-1]
    for name in ("client_mean", "worst_decile", "client_spread", "group_gap", "minority"):
        assert found[name] == last[name] == summary["final"][name]
    groups: dict[str, list[float]] = {}
    for line in lines:
        if not line["malicious"]:
            groups.setdefault(line["group"], []).append(line["accuracy"])
    means = {name: np.mean(own) for name, own in groups.items()}
    assert {name: one["accuracy"] for name, one in found["groups"].items()} == pytest.approx(means)
    assert found["group_gap"] == pytest.approx(max(means.values()) - min(means.values()))
    assert found["minority"] == pytest.approx(means[found["minority_group"]])


def test_who_was_rejected_is_counted_by_group(tmp_path):
    summary = simulation(clients=12).run(tmp_path)
    clients = read_jsonl(tmp_path / "clients.jsonl")
    group_of = {line["client"]: line["group"] for line in read_jsonl(tmp_path / "fairness.jsonl")}
    for name, one in summary["fairness"]["groups"].items():
        own = [c for c in clients if not c["malicious"] and group_of[c["client"]] == name]
        assert one["rejected"] == pytest.approx(np.mean([c["outcome"] == "rejected" for c in own]))
    assert any(one["rejected"] for one in summary["fairness"]["groups"].values())


def sites(tmp_path: Path) -> Path:
    """Write a table of three hospitals, of which the smallest knows another rule."""
    rng = np.random.default_rng(4)
    lines = ["a,b,site,y"]
    for site, count in {"north": 120, "south": 90, "tiny": 30}.items():
        for _ in range(count):
            a, b = rng.normal(size=2)
            label = (a > 0) ^ (site == "tiny")
            lines.append(f"{a:.4f},{b:.4f},{site},{'ill' if label else 'well'}")
    path = tmp_path / "sites.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_natural_groups_carry_their_names_and_the_minority_is_seen(tmp_path):
    table = {"name": "table", "path": str(sites(tmp_path)), "label": "y"}
    natural = {"name": "natural", "by": "site"}
    summary = simulation(
        dataset=table,
        partition=natural,
        clients=3,
        malicious=0.0,
        attack="none",
        strategy="fedavg",
        model="logistic",
        rounds=5,
        server_samples=0,
    ).run(tmp_path / "run")
    found = summary["fairness"]
    assert found["grouped_by"] == "natural"
    assert set(found["groups"]) == {"north", "south", "tiny"}
    assert found["minority_group"] == "tiny"
    # The mean hides that the model is wrong for the hospital whose rule is the other way round.
    assert summary["final"]["accuracy"] > 0.75
    assert found["minority"] < 0.3
    assert found["group_gap"] > 0.6
    assert found["minority"] == found["worst_decile"]


class Halves(Classification):
    """A task of a user's own, whose headline is not accuracy."""

    name = "halves"
    headline = "half"

    def evaluate(self, module: nn.Module, x: Tensor, y: Tensor) -> dict[str, Any]:
        return {**super().evaluate(module, x, y), "half": len(y) / 2}


class TestParts:
    def test_parts_of_one_pass_are_those_of_single_passes(self):
        torch.manual_seed(0)
        module, task = nn.Linear(4, 3), Classification()
        x, y = torch.randn(2500, 4), torch.randint(3, (2500,))
        sizes = [1200, 0, 3, 1297]
        found = task.evaluate_parts(module, x, y, sizes)
        starts = [0, 1200, 1200, 1203]
        for value, start, size in zip(found, starts, sizes, strict=True):
            part = slice(start, start + size)
            if not size:
                assert np.isnan(value)
                continue
            single = task.evaluate(module, x[part], y[part])["accuracy"]
            assert value == pytest.approx(single, abs=1e-12)

    def test_a_tasks_own_headline_is_kept(self):
        found = Halves().evaluate_parts(
            nn.Linear(2, 2), torch.zeros(7, 2), torch.ones(7).long(), [3, 4]
        )
        assert found == [1.5, 2.0]

    def test_perplexity_is_told_client_by_client(self):
        class Uniform(nn.Module):
            def forward(self, x: Tensor) -> Tensor:
                return torch.zeros(*x.shape, 5)

        rows = torch.zeros(6, 4, dtype=torch.long)
        assert NextWord().evaluate_parts(Uniform(), rows, rows, [2, 4]) == pytest.approx([5.0, 5.0])


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"strategy": "vfl", "attack": "none"}, "vertical"),
        ({"client_app": "tests.plug_in.sklearn_app:app"}, "rows of their own"),
        ({"evaluate_clients": 1.0}, "less than or equal to 0.9"),
    ],
)
def test_where_there_is_nothing_to_judge_on_it_is_refused(values, told):
    given = {"evaluate_clients": 0.25, "clients": 4, **values}
    with pytest.raises(ConfigurationError) as error:
        Simulation(parse(given))
    assert error.value.field == "evaluate_clients"
    assert told in str(error.value)


def test_without_groups_nothing_is_said_of_them(tmp_path):
    data = simulation().dataset
    one = Dataset(**{**vars(data), "task": Constant(), "y_train": data.y_train.float()})
    federation = replace(simulation().federation, dataset=one)
    found = ClientEvaluation(federation, 0.25)
    assert found.group_of == {}
    assert found.minority is None


class Constant(Classification):
    name = "constant"

    def strata(self, y: Tensor) -> Tensor:
        return torch.zeros(len(y), dtype=torch.long)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["ray", "flower"])
def test_every_engine_ends_in_the_same_figures(tmp_path, engine):
    pytest.importorskip("ray")
    simulation(rounds=1, clients=3, malicious=0.34).run(tmp_path / "base")
    values = {
        "clients": 3,
        "malicious": 0.34,
        "rounds": 6,
        "lr": 1e-6,
        "strategy": "fedavg",
        "patience": 1,
        "start_from": str(tmp_path / "base"),
    }
    ours = simulation(**values).run(tmp_path / "inprocess")
    theirs = simulation(**values, engine=engine).run(tmp_path / engine)
    assert ours["stopped"]["round"] == theirs["stopped"]["round"] < 6
    for name in ("best_model", "fairness"):
        assert json.dumps(ours[name]) == json.dumps(theirs[name])
    one, other = ((tmp_path / e / "fairness.jsonl").read_text() for e in ("inprocess", engine))
    assert one == other


def test_where_a_part_stays_with_clients_their_own_models_are_judged(tmp_path):
    training = {"name": "sgd", "personal": "*.bias"}
    run = simulation(
        training=training, attack="none", partition={"name": "dirichlet", "alpha": 0.3}
    )
    run.run(tmp_path)
    shared = load_file(tmp_path / "model.safetensors")
    own = load_file(tmp_path / "personal.safetensors")
    model = run.server_model.module
    differ = 0
    for line in read_jsonl(tmp_path / "fairness.jsonl"):
        if line["round"] != 2:
            continue
        mine = {name: own.get(f"{line['client']}/{name}", value) for name, value in shared.items()}
        assert any(not torch.equal(mine[name], shared[name]) for name in mine)
        model.load_state_dict(mine)
        rows = run.federation.held_out_examples(line["client"])
        assert line["accuracy"] == pytest.approx(hits(model, *rows), abs=1e-12)
        model.load_state_dict(shared)
        differ += hits(model, *rows) != line["accuracy"]
    assert differ
