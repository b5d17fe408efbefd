"""`Personalised`: what a run with personal parts says of its clients' models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from fedguard.clients.federation import Federation
from fedguard.clients.personal import OWN
from fedguard.clients.training import ClientTrainer
from fedguard.models.flat import FlatModel
from fedguard.randomness import generator
from fedguard.records.writer import write_atomically

MOST_CLIENTS = 100
"""Clients whose models are evaluated in a round; the first that many honest ones."""

MOST_ROWS = 500
"""Test rows on which each of them is."""

FILE = "personal.safetensors"
"""Every client's own part, as ``CLIENT/NAME``."""


class Personalised:
    """Evaluates what clients make of the shared part, beside what nobody's own part makes of it.

    A client's rows are test rows drawn so that their classes (strata) are as frequent as among its
    training rows. The *global* model of such a run, which nobody sends, is the shared part with the
    mean of the honest clients' own parts; the first part of all where no client has trained, or
    where they are on real nodes, which keep theirs. Only metrics read any of this.

    Parameters
    ----------
    module : nn.Module
        A network of the federation, of nobody else's.
    trainer : ClientTrainer
        Whose clients' memories hold their own parts.
    test : tuple of Tensor
        (N, ...) test examples as the model sees them and their (N,) labels.
    """

    def __init__(
        self, module: nn.Module, trainer: ClientTrainer, test: tuple[Tensor, Tensor]
    ) -> None:
        assert trainer.personal is not None
        self.model = FlatModel(module)
        self.trainer, self.parts = trainer, trainer.personal
        self.x, self.y = test
        self._rows: dict[int, Tensor] = {}

    def load(self, vector: Tensor) -> nn.Module:
        """Load the global model with a (S,) shared part; return the network."""
        own = [self.trainer.memories[client][OWN] for client in self._honest()]
        mean = torch.stack(own).mean(dim=0) if own else self.trainer.own_part(None)
        self.model.load(self.parts.whole(vector, mean))
        return self.model.module

    def of_client(self, vector: Tensor, client: int) -> nn.Module:
        """Load a client's model, a (S,) shared part with its own; return the network."""
        self.model.load(self.parts.whole(vector, self.trainer.own_part(client)))
        return self.model.module

    def _honest(self) -> list[int]:
        memories, malicious = self.trainer.memories, self.trainer.federation.malicious
        return sorted(c for c, memory in memories.items() if OWN in memory and c not in malicious)

    def figures(self, vector: Tensor) -> dict[str, Any]:
        """Return the headline of clients' models on their rows: mean, worst, the global model's.

        Returns
        -------
        dict of str to float
            ``personal_H``, ``personal_worst_H`` and ``global_H``, H the task's headline; empty
            where no client has an own part yet.
        """
        task = self.trainer.federation.task
        clients = [c for c in self._honest()[:MOST_CLIENTS] if len(self.rows(c))]
        if not clients:
            return {}
        own = []
        for client in clients:
            self.of_client(vector, client)
            own.append(self._headline(client))
        self.load(vector)
        common = [self._headline(client) for client in clients]
        worst = min(own) if task.higher_is_better else max(own)
        return {
            f"personal_{task.headline}": sum(own) / len(own),
            f"personal_worst_{task.headline}": worst,
            f"global_{task.headline}": sum(common) / len(common),
        }

    def _headline(self, client: int) -> float:
        rows, task = self.rows(client), self.trainer.federation.task
        return float(task.evaluate(self.model.module, self.x[rows], self.y[rows])[task.headline])

    def rows(self, client: int) -> Tensor:
        """Return a client's test rows, the same in every round."""
        if client not in self._rows:
            self._rows[client] = _like(self.trainer.federation, client, self.y)
        return self._rows[client]

    def tensors(self, vector: Tensor) -> dict[str, Tensor]:
        """Return the global model by name."""
        state = self.load(vector.to(self.model.vector.device)).state_dict()
        return {name: value.detach().cpu().clone() for name, value in state.items()}

    def save(self, out: Path) -> None:
        """Write every client's own part into the run directory."""
        tensors = {
            f"{client}/{name}": value.contiguous()
            for client, memory in sorted(self.trainer.memories.items())
            if OWN in memory
            for name, value in self.parts.named(memory[OWN]).items()
        }
        if tensors:
            write_atomically(out / FILE, save(tensors))


def _like(federation: Federation, client: int, y: Tensor) -> Tensor:
    """Return at most `MOST_ROWS` test rows whose strata are as frequent as a client's own."""
    strata = federation.task.strata(y.cpu())
    mine = federation.task.strata(federation.dataset.y_train[federation.shards[client]])
    if not len(strata) or not len(mine):
        return torch.empty(0, dtype=torch.long)
    size = int(strata.max()) + 1
    held = mine.bincount(minlength=size)[:size].double()
    there = strata.bincount(minlength=size).double()
    held[there == 0] = 0
    if not held.any():
        return torch.empty(0, dtype=torch.long)
    share = held / held.sum()
    most = min(MOST_ROWS, float((there[held > 0] / share[held > 0]).min()))
    wanted = (share * most).floor().clamp(min=1).long() * (held > 0)
    stream = generator(federation.seed, 0, client, "rows of its own kind")
    order = torch.randperm(len(strata), generator=stream)
    chosen = [order[strata[order] == s][: int(n)] for s, n in enumerate(wanted) if n]
    return torch.cat(chosen).sort().values.to(y.device)
