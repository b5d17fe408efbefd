"""Updates that stay on the workers: the rules work there, and nothing else changes."""

from __future__ import annotations

import time
from itertools import pairwise
from pathlib import Path

import pytest
import ray
import torch

from fedguard import registry
from fedguard.assembly import stored_updates as planning
from fedguard.config import parse
from fedguard.errors import ConfigurationError, RunError
from fedguard.nodes import ray as engine
from fedguard.nodes import spread
from fedguard.nodes.spread import Shelf, SpreadStore
from fedguard.runs.simulation import Simulation
from fedguard.strategies.pre_aggregation import make_pre_aggregation
from fedguard.strategies.toolkit.distances import gram_matrix
from fedguard.testing import honest_updates, with_deltas
from fedguard.testing.strategies import prepare
from fedguard.update_store import StoredRows

VALUES = {
    "clients": 7,
    "malicious": 0.3,
    "rounds": 2,
    "local_epochs": 1,
    "executor": "reuse",
    "attack": "alie",
    "engine": "ray",
}


@pytest.fixture(scope="module", autouse=True)
def running():
    """One Ray for the module; workers of every grid start inside it."""
    started = engine.start_ray(None, 4)
    yield
    if started:
        ray.shutdown()


class Keepers:
    """Workers that keep updates and train nobody: they are handed rows as if they had trained."""

    def __init__(self, count: int) -> None:
        self.count, self.trainings = count, 0
        self.actors = [ray.remote(Shelf).options(num_cpus=0).remote() for _ in range(count)]
        self.trainer = type("Trainer", (), {"memories": {}})()

    def train_apart(self, matrix: torch.Tensor, store: SpreadStore) -> str:
        self.trainings += 1
        parts = []
        for worker in range(self.count):
            rows = list(range(worker, len(matrix), self.count))
            cuts = pairwise(store.cuts)
            slabs = [ray.put(matrix[rows, start:end].numpy()) for start, end in cuts]
            parts.append((rows, slabs))
        store.scatter(parts)
        return "report"

    def replace_lost(self) -> None:
        for worker, actor in enumerate(self.actors):
            try:
                ray.get(actor.alive.remote())
            except ray.exceptions.RayActorError:
                self.actors[worker] = ray.remote(Shelf).options(num_cpus=0).remote()


@pytest.fixture(scope="module")
def keepers():
    return Keepers(3)


def spread_out(matrix: torch.Tensor, keepers: Keepers) -> StoredRows:
    rows, report = SpreadStore(keepers, matrix.shape[1]).fill(matrix)
    assert report == "report"
    return rows


@pytest.fixture
def matrix() -> torch.Tensor:
    return torch.randn(7, 53, generator=torch.Generator().manual_seed(1))


def test_rows_blocks_and_columns_are_read_where_they_are_asked_for(matrix, keepers):
    rows = spread_out(matrix, keepers)
    assert rows.shape == matrix.shape
    assert torch.equal(rows.tensor(), matrix)
    assert torch.equal(rows[3], matrix[3])
    assert torch.equal(rows.peaks, matrix.abs().amax(dim=1))
    some = rows[[4, 0]][:, 3:41]
    assert torch.equal(some.tensor(), matrix[[4, 0], 3:41])
    places = [(at.start, at.stop) for at, _ in some.blocks()]
    assert places[0][0] == 0
    assert places[-1][1] == 38
    assert all(end == start for (_, end), (start, _) in pairwise(places))
    assert torch.equal(rows[:, torch.tensor([52, 0])], matrix[:, [52, 0]])
    shares = torch.rand(7)
    assert torch.allclose(rows.combination(shares), shares @ matrix, atol=1e-6)
    center = torch.rand(53)[3:41]
    found, wanted = (gram_matrix(one[:, 3:41], center) for one in (rows, matrix))
    torch.testing.assert_close(found, wanted)


def test_rows_that_are_written_count_and_survive_the_loss_of_a_worker(matrix):
    own = Keepers(2)
    rows = spread_out(matrix, own)
    rows[2] = torch.full((53,), 3.0)
    rows[5] = torch.full((53,), float("nan"))
    ray.kill(own.actors[1])
    wanted = matrix.clone()
    wanted[2], wanted[5] = 3.0, float("nan")
    assert torch.equal(rows.tensor().nan_to_num(9.0), wanted.nan_to_num(9.0))
    assert own.trainings == 2
    assert bool(rows.peaks[5].isnan())
    assert float(rows.peaks[2]) == 3.0


def test_a_worker_that_is_lost_while_a_rule_works_costs_time_alone(matrix):
    def slowly(block: torch.Tensor) -> torch.Tensor:
        time.sleep(0.3)
        return block.clone()

    own = Keepers(2)
    rows = spread_out(matrix, own)
    found = rows.each(lambda at: slowly)
    first = next(found)
    ray.kill(own.actors[0])
    assert torch.equal(torch.cat([first, *found], dim=1), matrix)
    assert own.trainings == 2


def test_workers_that_are_lost_whenever_they_are_asked_end_the_run(matrix, monkeypatch):
    own = Keepers(1)
    rows = spread_out(matrix, own)
    monkeypatch.setattr(own, "replace_lost", lambda: None)
    ray.kill(own.actors[0])
    with pytest.raises(RunError, match="lost workers that kept updates 3 times"):
        rows.tensor()


@pytest.mark.parametrize(
    ("name", "pre"),
    [
        *((name, None) for name in planning.rules(("columns",))),
        *(("median", pre) for pre in ("bucketing", "nnm", "clipping", "arc")),
        ("krum", "bucketing"),
        ("geometric-median", "clipping"),
    ],
)
def test_rules_decide_on_the_workers_as_on_a_matrix(name, pre, keepers, monkeypatch):
    updates = honest_updates(10, seed=3)
    rule = prepare(lambda: registry.create("strategy", name))
    rule.pre = make_pre_aggregation(pre) if pre else None
    wanted = rule.decide(updates)
    rule.reset()
    rows = spread_out(updates.deltas, keepers)
    travelled = []
    monkeypatch.setattr(
        spread, "_got", lambda answer: travelled.append(ray.get(answer)) or travelled[-1]
    )
    found = rule.decide(with_deltas(updates, rows))
    torch.testing.assert_close(found.delta, wanted.delta, rtol=1e-5, atol=1e-6)
    assert torch.equal(found.weights > 0, wanted.weights > 0)
    # Blocks of all rows stay where they are: a slab of one row travels, or clients squared. The
    # buffers do, once, behind a pre-aggregation.
    count, buffers = len(updates), updates.layout.size - updates.layout.num_trainable
    small = max(updates.layout.size / spread.SLABS + 1, count**2)
    sizes = [torch.as_tensor(one).numel() for one in travelled]
    assert sum(size for size in sizes if size > small) <= (count * buffers if pre else 0)


@pytest.mark.parametrize(
    ("workers", "strategy"), [(1, "median"), (3, "trimmed-mean"), (3, "multi-krum")]
)
def test_a_run_ends_in_the_model_of_one_process(tmp_path, workers, strategy):
    values = {**VALUES, "strategy": strategy, "attack": "neurotoxin", "faults": {"corrupt": 0.2}}
    here = Simulation(parse({**values, "engine": "inprocess"})).run(tmp_path / "here")
    values.update(updates_on="workers", workers=workers)
    there = Simulation(parse(values)).run(tmp_path / "there")
    assert there["model_sha256"] == here["model_sha256"]
    assert there["replies"] == here["replies"]


def test_a_worker_that_is_lost_in_a_run_leaves_the_model_as_it_was(tmp_path, monkeypatch):
    values = {**VALUES, "strategy": "median", "updates_on": "workers", "workers": 2}
    here = Simulation(parse(values)).run(tmp_path / "here")
    each, lost = SpreadStore.each, []

    def kill_once(self, *arguments):
        if not lost:
            lost.append(self.executor.actors[1])
            ray.kill(lost[0])
        return each(self, *arguments)

    monkeypatch.setattr(SpreadStore, "each", kill_once)
    there = Simulation(parse(values)).run(tmp_path / "there")
    assert len(lost) == 1
    assert there["model_sha256"] == here["model_sha256"]


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"engine": "inprocess"}, "updates_on"),
        ({"update_memory": "1MB"}, "update_memory"),
        ({"strategy": "foolsgold"}, "strategy"),
        ({"repair": "finetune"}, "repair"),
        (
            {"strategy": "median", "attack": "min-max", "attack_knowledge": "full"},
            "attack_knowledge",
        ),
    ],
)
def test_what_needs_the_matrix_is_refused_before_round_one(values, field):
    with pytest.raises(ConfigurationError) as refused:
        Simulation(parse({**VALUES, "strategy": "median", "updates_on": "workers", **values}))
    assert refused.value.field == field
    assert "\n" not in str(refused.value)


def test_a_run_says_where_its_updates_stay():
    made = Simulation(parse({**VALUES, "strategy": "median", "updates_on": "workers"}))
    (line,) = made.world.opening(Path())
    assert "stay on the workers" in line
    assert made.world.stored.bytes == 7 * made.world.layout.size * 4
