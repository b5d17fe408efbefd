from __future__ import annotations

import pytest
import torch
from torch import nn

from fedguard.clients.batched import BatchedExecutor
from fedguard.clients.executors import Cohort, ReuseExecutor
from fedguard.clients.training import counted
from fedguard.clients.vmap import VmapProgram
from fedguard.config import parse
from fedguard.errors import ConfigurationError
from fedguard.runs.simulation import Simulation


class Normalised(nn.Module):
    """A network that normalises over the rows of a batch."""

    latent_layer = "norm"

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Linear(64, 12), nn.BatchNorm1d(12)
        self.last = nn.Linear(12, 10)

    def forward(self, x):
        return self.last(self.norm(self.first(x.flatten(1))).relu())


def simulation(**values):
    given = {
        "strategy": "fedavg",
        "attack": "none",
        "model": f"{__name__}:Normalised",
        "clients": 7,
        "partition": "iid",
        "local_epochs": 2,
        "server_samples": 0,
        **values,
    }
    return Simulation(parse(given))


def sizes_and_batch(sim):
    """Return a batch size that leaves one client's last batch with one row."""
    size = len(sim.federation.shards[0])
    return size, size - 1


def test_a_last_batch_of_one_row_is_dropped_and_the_rest_is_trained_on():
    size, batch = sizes_and_batch(simulation())
    trainer = simulation(batch_size=batch).trainer
    start = trainer.model.whole_vector()
    out = torch.empty_like(start)
    count, loss = trainer.train(0, 1, start, out)
    assert count == size
    assert loss > 0
    assert bool(torch.isfinite(out).all())
    # Two epochs of one batch each: BatchNorm has seen two batches.
    steps = trainer.layout.unflatten(out)["norm.num_batches_tracked"]
    assert float(steps) == 2.0


def test_batched_training_drops_the_same_rows():
    _, batch = sizes_and_batch(simulation())
    trainer = simulation(batch_size=batch).trainer
    start = trainer.model.whole_vector()
    cohort = Cohort(tuple(range(7)), 1, start)
    found = torch.empty(2, 7, len(start))
    plain = ReuseExecutor(trainer).train(cohort, found[0])
    batched = BatchedExecutor(trainer, "vmap", VmapProgram).train(cohort, found[1])
    torch.testing.assert_close(found[0], found[1], atol=1e-5, rtol=1e-4)
    assert plain.losses == pytest.approx(batched.losses, rel=1e-4)


def test_a_batch_size_of_one_is_refused_with_the_reason():
    with pytest.raises(ConfigurationError, match=r"batch_size: 1 .* at least 2: BatchNorm1d"):
        simulation(batch_size=1)


@pytest.mark.parametrize(
    ("size", "batch", "least", "rows"), [(9, 4, 2, 8), (9, 4, 1, 9), (8, 4, 2, 8), (10, 4, 2, 10)]
)
def test_rows_of_an_epoch(size, batch, least, rows):
    assert counted(size, batch, least) == rows
