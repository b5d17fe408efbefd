"""Verification: what a model still knows of what it should have forgotten.

Everything here reads the truth about clients and data; nothing of it reaches server or clients.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedguard.clients.federation import Federation
from fedguard.config.requests import UnlearnRequest
from fedguard.metrics.classification import attack_success_rate, predictions
from fedguard.metrics.membership import membership
from fedguard.models.flat import FlatModel
from fedguard.randomness import SERVER, generator
from fedguard.unlearning.rows import forgotten_rows

_REFERENCE_ROWS = 2000
_REFERENCE_EPOCHS = 4
_REFERENCES = 2
_PER_CLIENT = 300
_MOST_OTHERS = 10
_RELEARN_EPOCHS = 10
_RELEARNED = 0.9

Examples = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Rows:
    """The rows of a verification.

    Attributes
    ----------
    forget : tuple of Tensor
        What is to be forgotten, as its client trained with it.
    retain : dict of int to tuple of Tensor
        Up to some hundred rows of every client, without what is forgotten, with their true labels.
    members, others : tuple of Tensor
        Forgotten rows and test rows nobody saw, as large a share of both of every true and trained
        label; up to ten times as many of the latter where there are so many.
    reference : tuple of Tensor
        Test rows that reference models learn from; none of them is among `others`.
    """

    forget: Examples
    retain: dict[int, Examples]
    members: Examples
    others: Examples
    reference: Examples


def gather(federation: Federation, requests: Sequence[UnlearnRequest], seed: int) -> Rows:
    """Return the rows that tell whether requests were carried out."""
    named = {
        r.client: forgotten_rows(federation, r.client, r.label, r.share)
        for r in requests
        if r.client is not None
    }
    forget = [_pick(federation.shard(c, attacking=True), rows) for c, rows in named.items()]
    reference, members, others = _membership_rows(federation, named, seed)
    return Rows(
        forget=_joined(forget),
        retain={
            client: _retained(federation, client, named.get(client), seed)
            for client in range(federation.num_clients)
            if client not in named or len(named[client]) < len(federation.shards[client])
        },
        members=members,
        others=others,
        reference=reference,
    )


def _pick(examples: Examples, rows: Tensor) -> Examples:
    rows = rows.to(examples[1].device)
    return examples[0][rows], examples[1][rows]


def _joined(parts: list[Examples]) -> Examples:
    return torch.cat([x for x, _ in parts]), torch.cat([y for _, y in parts])


def _retained(federation: Federation, client: int, gone: Tensor | None, seed: int) -> Examples:
    x, y = federation.shard(client, attacking=False)
    kept = torch.ones(len(y), dtype=torch.bool)
    if gone is not None:
        kept[gone] = False
    rows = kept.nonzero().flatten()
    order = torch.randperm(len(rows), generator=generator(seed, 0, client, "verified rows"))
    return _pick((x, y), rows[order[:_PER_CLIENT]])


def _membership_rows(
    federation: Federation, named: dict[int, Tensor], seed: int
) -> tuple[Examples, Examples, Examples]:
    """Return reference rows, members and others; see `Rows`."""
    data = federation.dataset
    stream = generator(seed, 0, SERVER, "membership")
    order = torch.randperm(len(data.y_test), generator=stream)
    cut = min(len(order) // 2, _REFERENCE_ROWS)
    first, rest = order[:cut], order[cut:]
    reference = (federation.normalise(data.x_test[first]), data.y_test[first].to(federation.device))
    lots, keys = [], []
    for client, rows in named.items():
        x, y = data.x_test[rest], data.y_test[rest]
        true = y
        if client in federation.malicious and "data" in federation.attack.needs:
            # What the client did to its rows is done to the others: one distribution.
            poison = generator(seed, 0, client, "poisoned test rows")
            x, y = federation.attack.poison(x, y, poison)
        seen_x, seen_y = _pick(federation.shard(client, attacking=True), rows)
        seen_true = data.y_train[federation.shards[client]][rows]
        classes = data.num_classes
        lots.append(((seen_x, seen_y), (x, y)))
        keys.append((seen_true * classes + seen_y.cpu(), true * classes + y.cpu()))
    times = _times(keys)  # one for all clients, or labels would be mixed in other shares
    members, others = [], []
    for (seen, (x, y)), (a, b) in zip(lots, keys, strict=True):
        mine, theirs = _matched(a, b, times, stream)
        members.append(_pick(seen, mine))
        others.append((federation.normalise(x[theirs]), y[theirs].to(federation.device)))
    return reference, _joined(members), _joined(others)


def _times(pairs: Sequence[tuple[Tensor, Tensor]]) -> int:
    """Return how many of b's there are for each one of a's, of every key, from 1 to 10.

    Keys of which b has fewer than a do not lower it: of those one is drawn for each anyway.
    """
    found = [_MOST_OTHERS]
    for a, b in pairs:
        for key in set(a.tolist()):
            left, right = int((a == key).sum()), int((b == key).sum())
            found += [right // min(left, right)] if right else []
    return min(found)


def _matched(a: Tensor, b: Tensor, times: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return positions in both, of every key `times` of b's for each one of a's."""
    mine, theirs = [], []
    for key in sorted(set(a.tolist())):
        left, right = (a == key).nonzero().flatten(), (b == key).nonzero().flatten()
        count = min(len(left), len(right))
        mine.append(left[torch.randperm(len(left), generator=rng)[:count]])
        theirs.append(right[torch.randperm(len(right), generator=rng)[: times * count]])
    return torch.cat(mine), torch.cat(theirs)


@dataclass(frozen=True)
class Trainer:
    """Plain SGD for reference models and for relearning."""

    lr: float
    batch_size: int

    def epoch(self, model: FlatModel, examples: Examples, rng: torch.Generator) -> None:
        """Take one pass."""
        x, y = examples
        model.module.train()
        order = torch.randperm(len(y), generator=rng).to(y.device)
        for rows in torch.split(order, self.batch_size):
            loss = functional.cross_entropy(model.module(x[rows]), y[rows])
            model.gradient.zero_()
            loss.backward()  # type: ignore[no-untyped-call]
            model.vector.add_(model.gradient, alpha=-self.lr)


def make_references(
    fresh: Callable[[int], FlatModel], rows: Examples, trainer: Trainer, seed: int
) -> list[nn.Module]:
    """Return models trained on test rows alone."""
    found = []
    for number in range(_REFERENCES):
        model = fresh(number)
        rng = generator(seed, 0, SERVER, f"reference {number}")
        for _ in range(_REFERENCE_EPOCHS):
            trainer.epoch(model, rows, rng)
        found.append(model.module)
    return found


def accuracy(module: nn.Module, examples: Examples) -> float | None:
    """Return the share classified as labelled, None without examples."""
    x, y = examples
    if not len(y):
        return None
    return float((predictions(module, x).argmax(dim=1) == y).double().mean())


@dataclass(frozen=True)
class Bench:
    """Measures one model after another on the same rows.

    Attributes
    ----------
    rows : Rows
        What is measured on.
    references : list of nn.Module
        Models that never saw any of it.
    test : tuple of Tensor
        The whole test set.
    triggered : tuple of Tensor or None
        Triggered test rows of the classes a backdoor does not aim at.
    target_class : int or None
        The class it aims at.
    """

    rows: Rows
    references: list[nn.Module]
    test: Examples
    triggered: Examples | None
    target_class: int | None

    def brief(self, module: nn.Module) -> dict[str, float | None]:
        """Return accuracy on what is forgotten and on the rest."""
        every = _joined(list(self.rows.retain.values()))
        return {
            "forget_accuracy": accuracy(module, self.rows.forget),
            "retain_accuracy": accuracy(module, every),
        }

    def measure(self, module: nn.Module) -> dict[str, Any]:
        """Return everything that verification knows of a model."""
        told = membership(module, self.references, self.rows.members, self.rows.others)
        by_loss = membership(module, [], self.rows.members, self.rows.others)
        return {
            **self.brief(module),
            "test_accuracy": accuracy(module, self.test),
            "backdoor_success": self.backdoor(module),
            "membership_auc": told and told.auc,
            "membership_tpr": told and told.tpr_at_low_fpr,
            "membership_auc_by_loss": by_loss and by_loss.auc,
            "clients": {str(c): accuracy(module, rows) for c, rows in self.rows.retain.items()},
        }

    def backdoor(self, module: nn.Module) -> float | None:
        """Return a backdoor's success, None where there is none."""
        if self.triggered is None or self.target_class is None:
            return None
        return attack_success_rate(module, *self.triggered, self.target_class)

    def relearn_epochs(
        self, model: FlatModel, vector: Tensor, wanted: float, trainer: Trainer, seed: int
    ) -> int | None:
        """Return the epochs on the forgotten rows until they are known so well again.

        None if that takes more than ten. Few epochs betray hidden memory.
        """
        model.load(vector)
        rng = generator(seed, 0, SERVER, "relearning")
        for epoch in range(_RELEARN_EPOCHS + 1):
            found = accuracy(model.module, self.rows.forget)
            if found is not None and found >= _RELEARNED * wanted:
                return epoch
            trainer.epoch(model, self.rows.forget, rng)
        return None


def output_distance(model: FlatModel, a: Tensor, b: Tensor, x: Tensor) -> float:
    """Return the mean L2 distance between two models' class probabilities on examples."""
    found = []
    for vector in (a, b):
        model.load(vector.to(x.device))
        found.append(predictions(model.module, x).softmax(dim=1))
    return float((found[0] - found[1]).norm(dim=1).mean())
