"""`ClientEvaluation`: the global model on each client's own held-out rows, round by round."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from fedguard.clients.federation import Federation
from fedguard.metrics.fairness import FIGURES, Fairness, fairness, minority_of
from fedguard.records.reader import ACCEPTED, REJECTED

OwnModel = Callable[[int], nn.Module]
"""Loads and returns the model that a client uses, where a part of it stays with the client."""


class ClientEvaluation:
    """What the global model is worth to every client, and to the groups that clients form.

    Where a part of the model stays with clients, it is each client's own model that is judged.

    A client's group is what the natural partition divides by (its hospital, its writer), else the
    class that most of its rows have. The minority is the group whose honest clients hold the
    fewest rows. Means, spread and gap are over honest clients; malicious ones are recorded too.

    Parameters
    ----------
    federation : Federation
        Data and roles; its `held_out` rows are judged on.
    share : float
        Share of each client's rows that is held out.
    """

    def __init__(self, federation: Federation, share: float) -> None:
        self.federation, self.share = federation, share
        self.task = federation.task
        self.held = federation.held_out or ()
        self.sizes = [len(rows) for rows in self.held]
        self.group_of = _groups(federation)
        honest = [c for c in range(federation.num_clients) if c not in federation.malicious]
        self.honest = [client for client in honest if self.sizes[client]]
        rows: Counter[str] = Counter()
        for client in honest:
            if client in self.group_of:
                rows[self.group_of[client]] += len(federation.shards[client]) + self.sizes[client]
        self.minority = minority_of(rows)
        self.last: dict[int, float] = {}

    @cached_property
    def _examples(self) -> tuple[Tensor, Tensor]:
        parts = [self.federation.held_out_examples(c) for c in range(len(self.held))]
        return torch.cat([x for x, _ in parts]), torch.cat([y for _, y in parts])

    def measure(self, module: nn.Module, own: OwnModel | None = None) -> dict[str, float | None]:
        """Evaluate a round's model on every client's rows; return the figures over clients.

        Parameters
        ----------
        module : nn.Module
            The global model.
        own : callable, optional
            Where clients use models of their own, what returns each client's; these are judged.
        """
        x, y = self._examples
        if own is None:
            values = self.task.evaluate_parts(module, x, y, self.sizes)
        else:
            cut = (torch.split(part, self.sizes) for part in (x, y))
            parts = zip(*cut, self.sizes, strict=True)
            values = [
                self.task.evaluate_parts(own(client), rows, wanted, [size])[0]
                for client, (rows, wanted, size) in enumerate(parts)
            ]
        self.last = {client: value for client, value in enumerate(values) if self.sizes[client]}
        found = self._fairness(self.last)
        return dict.fromkeys(FIGURES) if found is None else found.figures

    def _fairness(self, values: Mapping[int, float]) -> Fairness | None:
        return fairness(
            {client: values[client] for client in self.honest if client in values},
            self.group_of,
            self.minority,
            higher_is_better=self.task.higher_is_better,
        )

    def records(self, current: int) -> list[dict[str, Any]]:
        """Return the lines of ``fairness.jsonl`` of a round, one for each client that is judged."""
        return [
            {
                "round": current,
                "client": client,
                "malicious": client in self.federation.malicious,
                "group": self.group_of.get(client),
                "rows": self.sizes[client],
                self.task.headline: value,
            }
            for client, value in self.last.items()
        ]

    def summary(
        self, lines: Iterable[Mapping[str, Any]], clients: Iterable[Mapping[str, Any]], last: int
    ) -> dict[str, Any]:
        """Return what the summary says: of the last round, and who was rejected over all rounds.

        Parameters
        ----------
        lines : iterable of mapping
            The lines of ``fairness.jsonl``.
        clients : iterable of mapping
            The lines of ``clients.jsonl``.
        last : int
            The last round.
        """
        headline = self.task.headline
        told = [line for line in lines if line["round"] == last]
        values = {int(line["client"]): _number(line.get(headline)) for line in told}
        found = self._fairness(values)
        rejected = self._rejected(clients)
        groups = {
            name: {
                "clients": sum(self.group_of.get(client) == name for client in self.honest),
                "rows": sum(self.sizes[c] for c in self.honest if self.group_of.get(c) == name),
                headline: value,
                "rejected": rejected.get(name),
            }
            for name, value in (found.groups if found else {}).items()
        }
        return {
            "share": self.share,
            "clients": len(self.honest),
            "not_judged": self.federation.num_clients - sum(map(bool, self.sizes)),
            "rows": sum(self.sizes[client] for client in self.honest),
            "grouped_by": "natural"
            if self.federation.groups is not None
            else "most frequent class",
            **(dict.fromkeys(FIGURES) if found is None else found.figures),
            "minority_group": self.minority,
            "groups": groups,
        }

    def _rejected(self, clients: Iterable[Mapping[str, Any]]) -> dict[str, float]:
        """Return the share of each group's honest updates that was rejected."""
        usable: Counter[str] = Counter()
        out: Counter[str] = Counter()
        for line in clients:
            group = self.group_of.get(line["client"])
            # Under no name (None), nobody knows who is honest.
            honest = line["malicious"] is False
            if group is None or not honest or line["outcome"] not in (ACCEPTED, REJECTED):
                continue
            usable[group] += 1
            out[group] += line["outcome"] == REJECTED
        return {group: out[group] / count for group, count in usable.items()}


def _number(value: Any) -> float:
    """Return a recorded figure; one that was not finite is recorded as None."""
    return math.nan if value is None else float(value)


def _groups(federation: Federation) -> dict[int, str]:
    """Return each client's group by name: as the split says, else its most frequent class."""
    if federation.groups is not None:
        return dict(enumerate(federation.groups))
    strata = federation.task.strata(federation.dataset.y_train)
    if not len(strata) or int(strata.max()) == 0:
        return {}
    names = federation.dataset.class_names
    found = {}
    for client, rows in enumerate(federation.shards):
        held = federation.held_out[client] if federation.held_out is not None else rows[:0]
        most = int(strata[torch.cat([rows, held])].bincount().argmax())
        found[client] = f"mostly {names[most] if most < len(names) else most}"
    return found
