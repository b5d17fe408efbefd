"""`Guarded`: a grid that decides on a round's replies before anybody's strategy reads them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from flwr.app import Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from torch import Tensor, nn

from fedguard.errors import ConfigurationError, RunError
from fedguard.grids.base import WrappedGrid
from fedguard.grids.judge import Judge, Judged, RuleLike, rule_of
from fedguard.grids.messages import ARRAYS_KEY, METRICS_KEY
from fedguard.grids.opened import (
    claims_of,
    evaluates,
    is_older,
    metrics_of,
    model_of,
    put_metrics,
    put_model,
    round_of,
    trains,
)
from fedguard.grids.reported import fitting
from fedguard.layout import ParameterLayout
from fedguard.updates import MAX_EXAMPLES, ClientUpdates

ONE_MODEL = (
    "one that sends each client a model of its own",
    "a strategy that sends all clients of a round the same model; Guarded would give every client "
    "the same update, and personal models would be lost",
)
"""What is refused, and what is allowed."""

_OLDER_CLAIM = "num_examples"


class Guarded(WrappedGrid):
    """A grid of Flower's, or of ours, whose training replies a rule has decided on.

    ``strategy.start(grid=Guarded(grid, "multi-krum"), ...)`` defends any strategy: Flower's, one
    of the user's own, on a real server and in a simulation. A training call:

    1. lets the inner grid's clients answer;
    2. sets aside what is no update of the model that was sent: error replies, missing or misshapen
       arrays, NaN, absurd claims, second replies, metrics that do not fit those of the others;
    3. lets the rule decide about the rest;
    4. hands on the accepted clients' replies, each with the same model in it: the one that was sent
       plus the rule's aggregate. However a strategy weighs them, it gets that aggregate. Where the
       rule is no more than the average of the accepted clients by their claims, their own arrays
       are handed on as they are.

    Of the replies to messages to evaluate, those that no average can read are set aside too: what
    lacks a figure that others have, says NaN or claims absurd examples, and second replies. All
    other messages pass untouched. What a strategy keeps for each client
    (SCAFFOLD's control variates, personal layers) no longer learns what that client sent.

    Parameters
    ----------
    inner : Grid
        The grid that Flower hands to a ServerApp.
    rule : str or RobustStrategy
        A registered rule's name or a rule.
    model, server_data, latent_layer : optional
        What the server lends a rule that is given by name; see `RobustStrategy`.
    **arguments : Any
        The named rule's arguments, such as ``assumed_malicious``.

    Attributes
    ----------
    rounds : list of Judged
        What was decided, round by round.

    Raises
    ------
    ConfigurationError
        If the rule cannot stand before another strategy or lacks what it needs.
    """

    def __init__(
        self,
        inner: Grid,
        rule: RuleLike = "multi-krum",
        *,
        model: nn.Module | None = None,
        server_data: tuple[Tensor, Tensor] | None = None,
        latent_layer: str | None = None,
        **arguments: Any,
    ) -> None:
        super().__init__(inner)
        self.judge = Judge(rule_of(rule, model, server_data, latent_layer, arguments))
        self.rounds: list[Judged] = []

    @property
    def rule(self) -> Any:
        """The rule that decides."""
        return self.judge.rule

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Push what is no training through the inner grid.

        Raises
        ------
        RunError
            For training: replies that come one by one cannot be judged together.
        """
        pushed = list(messages)
        if any(trains(message) for message in pushed):
            raise RunError("Guarded decides on a whole round: train with grid.send_and_receive")
        return self.inner.push_messages(pushed)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Exchange messages; replies to training are decided on first."""
        instructions = list(messages)
        training = [message for message in instructions if trains(message)]
        if not training:
            replies = self.inner.send_and_receive(instructions, timeout=timeout)
            return self._evaluated(instructions, replies)
        self._check_together(training)
        start, layout, records = self._model(training)
        replies = list(self.inner.send_and_receive(instructions, timeout=timeout))
        asked = {message.metadata.dst_node_id for message in training}
        others = {message.metadata.dst_node_id for message in instructions} - asked
        judged, figures = self._judge(
            [reply for reply in replies if reply.metadata.src_node_id not in others],
            training,
            start,
            layout,
            records,
        )
        self.rounds.append(judged)
        kept: dict[int, Message] = {}
        for reply in replies:
            node = reply.metadata.src_node_id
            if node in judged.accepted and node not in kept:
                kept[node] = reply
                put_metrics(reply.content, figures[node])
                if judged.delta is not None:
                    put_model(reply.content, layout, start + judged.delta)
        rest = [reply for reply in replies if reply.metadata.src_node_id in others]
        return [*kept.values(), *rest]

    def _evaluated(
        self, instructions: Sequence[Message], replies: Iterable[Message]
    ) -> Iterable[Message]:
        """Return the replies without those to messages to evaluate that do not fit the others."""
        asked = {m.metadata.dst_node_id for m in instructions if evaluates(m)}
        if not asked:
            return replies
        arrived = list(replies)
        first: dict[int, Message] = {}
        for reply in arrived:
            if reply.metadata.src_node_id in asked:
                first.setdefault(reply.metadata.src_node_id, reply)
        answers = {node: reply for node, reply in first.items() if reply.has_content()}
        told = {node: metrics_of(reply.content) for node, reply in answers.items()}
        key = self.rule.weighted_by_key
        figures, odd = fitting(told, frozenset({key, _OLDER_CLAIM}))
        for node, found in figures.items():
            claim = found.get(key, found.get(_OLDER_CLAIM, 1))
            if isinstance(claim, list) or not 1 <= claim <= MAX_EXAMPLES:
                odd[node] = f"an evaluation on {claim} examples"
            else:
                put_metrics(answers[node].content, found)
        for reason in sorted(set(odd.values())):
            self.judge.warn(f"a client's evaluation is set aside: {reason}")
        return [
            reply
            for reply in arrived
            if (node := reply.metadata.src_node_id) not in asked
            or (reply is first[node] and node not in odd)
        ]

    def _check_together(self, training: Sequence[Message]) -> None:
        """Refuse a server that asks its clients one by one: nothing could be compared."""
        if len(training) == 1 and is_older(training[0]) and len(list(self.get_node_ids())) > 1:
            text = (
                "a server of Flower's older API asks its clients one by one; "
                "guard the app instead: app = fedguard.guard(...)(app)"
            )
            self.judge.warn(text)
            raise RunError(text)

    def _model(self, training: Sequence[Message]) -> tuple[Tensor, ParameterLayout, list[str]]:
        """Return the (D,) model that is sent, its layout and its records' names."""
        records = list(training[0].content.array_records)
        arrays = model_of(training[0].content, records)
        layout = self.judge.settle(ParameterLayout.from_arrays(arrays))
        start = layout.vector_from_arrays(arrays)
        if len(records) > 1:
            self.judge.warn(
                f"{len(records)} array records travel; every accepted client's become the same, so "
                "state that the strategy keeps for each client (as SCAFFOLD does) learns nothing"
            )
        shared = {id(message.content) for message in training}
        if len(shared) > 1 and not self._all_sent(training, records, layout, start):
            raise ConfigurationError("strategy", *ONE_MODEL)
        if not bool(torch.isfinite(start).all()):
            self.judge.warn("the strategy sends a model that is not finite", once=False)
        return start, layout, records

    @staticmethod
    def _all_sent(
        training: Sequence[Message], records: list[str], layout: ParameterLayout, start: Tensor
    ) -> bool:
        """Return whether all clients of a round are sent the same model."""
        models = {id(m.content): m.content for m in training}
        return all(
            torch.equal(
                layout.vector_from_arrays(model_of(content, records)).nan_to_num(),
                start.nan_to_num(),
            )
            for content in models.values()
        )

    def _judge(
        self,
        replies: Sequence[Message],
        training: Sequence[Message],
        start: Tensor,
        layout: ParameterLayout,
        records: Sequence[str],
    ) -> tuple[Judged, dict[int, dict[str, Any]]]:
        """Return what is decided, and the accepted clients' metrics as they are handed on."""
        number = round_of(training[0], len(self.rounds) + 1)
        key = _OLDER_CLAIM if is_older(training[0]) else self.rule.weighted_by_key
        asked = [message.metadata.dst_node_id for message in training]
        claims = [claims_of(reply.content) for reply in replies if reply.has_content()]
        keyed = 2 * sum(key in claim for claim in claims) > len(claims)
        if claims and not keyed:
            self.judge.warn(f"no reply says {key!r}, or few do; every client counts alike")
        by_node = {message.metadata.dst_node_id: message for message in training}
        plain = [_plain(reply, by_node, records, key, keyed) for reply in replies]
        updates = ClientUpdates.from_replies(
            plain, start, layout, expected=asked, weighted_by_key=key, server_round=number
        )
        updates, figures = fit_together(
            updates,
            {
                r.metadata.src_node_id: metrics_of(r.content)
                for r in replies[::-1]
                if r.has_content()
            },
            key,
        )
        return self.judge.decide(updates, len(asked)), figures


def fit_together(
    updates: ClientUpdates, reported: dict[int, dict[str, Any]], key: str
) -> tuple[ClientUpdates, dict[int, dict[str, Any]]]:
    """Set aside the updates whose reports do not fit the others'; return the reports as well."""
    told = {node: reported.get(node, {}) for node in updates.node_ids}
    figures, odd = fitting(told, frozenset({key}))
    if not odd:
        return updates, figures
    rows = [row for row, node in enumerate(updates.node_ids) if node not in odd]
    kept = updates.select(rows)
    kept.malformed.update({**updates.malformed, **odd})
    return kept, figures


def _plain(
    reply: Message,
    asked: dict[int, Message],
    records: Sequence[str],
    key: str,
    keyed: bool,
) -> Message:
    """Return a reply as `ClientUpdates` reads it: one record of arrays, one of metrics."""
    instruction = asked.get(reply.metadata.src_node_id)
    if instruction is None or reply.has_error():
        return reply
    try:
        model = model_of(reply.content, records)
    except Exception:  # bytes from outside can fail in any way; who reads them says how
        return reply
    told = claims_of(reply.content) if keyed else {key: 1}
    claim = MetricRecord({key: told[key]} if key in told else {})
    return Message(RecordDict({ARRAYS_KEY: model, METRICS_KEY: claim}), reply_to=instruction)
