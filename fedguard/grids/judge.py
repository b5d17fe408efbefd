"""`Judge`: what a rule decides about one round's replies, and what a foreign strategy gets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from logging import INFO, WARNING
from typing import Any

import torch
from flwr.common.logger import log
from torch import Tensor, nn

from fedguard import registry
from fedguard.errors import ConfigurationError
from fedguard.layout import ParameterLayout
from fedguard.strategies.base import RobustStrategy
from fedguard.strategies.legacy import ALL_SAME
from fedguard.traits import traits_of
from fedguard.updates import ClientUpdates

RuleLike = str | RobustStrategy
"""A rule: an instance, or its registered name with its arguments beside it."""


@dataclass(frozen=True)
class Judged:
    """What was decided about one round's replies.

    Attributes
    ----------
    server_round : int
        The round.
    asked : int
        How many clients were asked.
    accepted : frozenset of int
        Node ids whose replies are handed on.
    rejected : dict of int to str
        Node id to why the rule gave it no weight.
    set_aside : dict of int to str
        Node id to why its reply could not be judged.
    delta : Tensor or None
        (D,) what every accepted reply's model becomes, from the model that was sent; None where
        the rule does no more than average the accepted replies as they are, so that they pass
        unchanged.
    """

    server_round: int
    asked: int
    accepted: frozenset[int]
    rejected: dict[int, str]
    set_aside: dict[int, str]
    delta: Tensor | None

    def line(self, name: str) -> str:
        """Return the round in one line, for the log."""
        told = [f"{name} accepts {len(self.accepted)} of {self.asked}"]
        for word, nodes in (("rejects", self.rejected), ("set aside", self.set_aside)):
            if nodes:
                first, reason = next(iter(nodes.items()))
                told.append(f"{word} {len(nodes)} (node {first}: {reason})")
        return "; ".join(told)


def rule_of(
    rule: RuleLike,
    model: nn.Module | None = None,
    server_data: tuple[Tensor, Tensor] | None = None,
    latent_layer: str | None = None,
    arguments: Mapping[str, Any] | None = None,
) -> RobustStrategy:
    """Return a rule that can decide for another strategy.

    Raises
    ------
    ConfigurationError
        If it is no rule of fedguard's, needs what it was not given, or does more on the server
        than to decide about updates.
    """
    given = dict(arguments or {})
    lent = {"model": model, "server_data": server_data, "latent_layer": latent_layer}
    lent = {name: value for name, value in lent.items() if value is not None}
    if isinstance(rule, str):
        made = registry.create("strategy", rule, **given, **lent)
    elif given or lent:
        raise ConfigurationError("rule", rule, "arguments beside a rule's name, not an instance")
    else:
        made = rule
    name = rule if isinstance(rule, str) else type(rule).__name__
    traits = traits_of(made)
    if not isinstance(made, RobustStrategy) or not traits.rule:
        raise ConfigurationError("rule", name, "one of fedguard's rules, such as 'multi-krum'")
    whole = traits.world == "horizontal" and traits.visible == "updates"
    if not whole or traits.client_side or traits.requests or _sends_more(made):
        allowed = "a rule that reads clients' updates and sends the model alone, as 'multi-krum'"
        raise ConfigurationError("rule", name, allowed)
    if traits.tools and made.tools is None:
        lends = "model=net, server_data=(x, y)"
        raise ConfigurationError("rule", name, f"{name} with {lends}: it judges by the server's")
    return made


def _sends_more(rule: RobustStrategy) -> bool:
    """Return whether a rule's server does something of its own outside `combine`."""
    own = type(rule)
    return (
        own.configure_train is not RobustStrategy.configure_train
        or own.aggregate_train is not RobustStrategy.aggregate_train
    )


class Judge:
    """A rule with what it must know of a server that is not its own.

    Parameters
    ----------
    rule : RobustStrategy
        The rule; see `rule_of`.
    """

    def __init__(self, rule: RobustStrategy) -> None:
        self.rule = rule
        self.name = type(rule).__name__
        self._handles: dict[int, int] = {}
        self._told: set[str] = set()

    def handles(self, nodes: Iterable[int]) -> dict[int, int]:
        """Return a small number for each node that stays its own for as long as the judge lives.

        Flower's node ids are 64 bits long and random; rules with a history keep tensors of them.
        """
        for node in sorted(set(nodes)):
            self._handles.setdefault(node, len(self._handles))
        return self._handles

    def settle(self, arrays: ParameterLayout) -> ParameterLayout:
        """Return the layout in which the rule reads a model with these arrays.

        Raises
        ------
        ConfigurationError
            If the model has nothing that can be averaged, or is not the one that the rule knows.
        """
        if arrays.num_trainable_tensors == 0:
            kinds = ", ".join(sorted(set(arrays.dtypes))) or "nothing"
            allowed = "a model of floating-point arrays (trees as bytes have no average)"
            raise ConfigurationError("model", kinds, allowed)
        known = self.rule.layout
        if known is None:
            tools = self.rule.tools
            known = arrays if tools is None else ParameterLayout.from_module(tools.model)
        if known is not arrays and not _same_model(known, arrays):
            told = f"{len(arrays.names)} arrays with {arrays.size} numbers"
            allowed = f"the rule's own model, {len(known.names)} arrays with {known.size} numbers"
            raise ConfigurationError("model", told, allowed)
        if self.rule.layout is None:
            self.rule.bind(known)
        return known

    def decide(self, updates: ClientUpdates, asked: int) -> Judged:
        """Return what the rule makes of a round's updates, whose node ids are Flower's."""
        numbers = self.handles([*updates.node_ids, *updates.malformed])
        names = {number: node for node, number in numbers.items()}
        own = _renumbered(updates, numbers)
        self._check_cohort(asked)
        if updates.all_same:
            self.warn(ALL_SAME)
        self.rule.current_round = updates.server_round
        verdict = self.rule.decide(own)
        for observer in self.rule.observers:
            observer(updates.server_round, own, verdict)
        rows = [row for row, weight in enumerate(verdict.weights.tolist()) if weight > 0.0]
        accepted = frozenset(names[own.node_ids[row]] for row in rows)
        rejected = {
            names[node]: verdict.reasons.get(node, "no weight")
            for node in own.node_ids
            if names[node] not in accepted
        }
        plain = bool(rows) and _averages(own, verdict.weights, verdict.delta, rows)
        judged = Judged(
            server_round=updates.server_round,
            asked=asked,
            accepted=accepted,
            rejected=rejected,
            set_aside=dict(updates.malformed),
            delta=None if plain else verdict.delta,
        )
        log(INFO, "guarded: %s", judged.line(self.name))
        if not accepted:
            reasons = sorted({**judged.set_aside, **rejected}.values())
            why = reasons[0] if reasons else "no reply"
            self.warn(f"no reply of round {updates.server_round} counts ({why})", once=False)
        return judged

    def _check_cohort(self, asked: int) -> None:
        fewest = traits_of(self.rule).smallest_cohort
        if asked < fewest:
            raise ConfigurationError("clients", asked, f"at least {fewest} per round ({self.name})")

    def warn(self, text: str, *, once: bool = True) -> None:
        """Say something in Flower's log, the first time that it is so unless told otherwise."""
        if text not in self._told or not once:
            log(WARNING, "guarded: %s", text)
        self._told.add(text)


def _same_model(known: ParameterLayout, arrays: ParameterLayout) -> bool:
    """Return whether two layouts have the same shapes in the same order, and the same names.

    The names of a plain list, 0 to n - 1, stand for any.
    """
    listed = arrays.record_names == tuple(str(place) for place in range(len(arrays.names)))
    if not listed and arrays.record_names != known.record_names:
        return False
    shapes = [dict(zip(one.names, one.shapes, strict=True)) for one in (known, arrays)]
    first = [shapes[0][name] for name in known.record_names]
    return first == [shapes[1][name] for name in arrays.record_names]


def _renumbered(updates: ClientUpdates, numbers: Mapping[int, int]) -> ClientUpdates:
    """Return updates under other node ids, in the order of those."""
    order = sorted(range(len(updates)), key=lambda row: numbers[updates.node_ids[row]])
    same = order == list(range(len(updates)))
    return replace(
        updates,
        deltas=updates.deltas if same else updates.deltas[order],
        num_examples=updates.num_examples if same else updates.num_examples[order],
        node_ids=tuple(numbers[updates.node_ids[row]] for row in order),
        malformed={numbers[node]: text for node, text in updates.malformed.items()},
        remarks={numbers[n]: text for n, text in updates.remarks.items() if n in numbers},
    )


def _averages(updates: ClientUpdates, weights: Tensor, delta: Tensor, rows: list[int]) -> bool:
    """Return whether a verdict is no more than the accepted clients' average by their claims."""
    claims = updates.num_examples[rows].double()
    shares = claims / claims.sum()
    if not torch.allclose(weights[rows].double(), shares, rtol=1e-5, atol=1e-9):
        return False
    mean = shares.to(torch.float32) @ updates.deltas[rows]
    size = max(float(updates.deltas[rows].abs().max()), 1e-12)
    return float((mean - delta).abs().max()) <= 1e-5 * size
