"""`ObservedStrategy`: any Flower strategy, continued from a round, watched, and repaired after."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from fedguard.errors import ConfigurationError, RunError
from fedguard.grids.veil import Handles
from fedguard.randomness import SERVER, stream_seed
from fedguard.strategies.base import RobustStrategy
from fedguard.updates import ClientUpdates, Verdict


@dataclass(frozen=True)
class Outcome:
    """What one round's aggregation did.

    Attributes
    ----------
    server_round : int
        The round.
    asked : tuple of int
        Node ids that were asked to train.
    updates, verdict : ClientUpdates and Verdict, or None
        What came in and what was decided; None for strategies that are not fedguard's.
    failed : dict of int to str
        Node id to why there is no reply, or why it is an error.
    """

    server_round: int
    asked: tuple[int, ...]
    updates: ClientUpdates | None
    verdict: Verdict | None
    failed: dict[int, str] = field(default_factory=dict)


def unveiled(outcome: Outcome, handles: Handles) -> Outcome:
    """Return what happened by client, which the strategy knows by handle."""
    return Outcome(
        outcome.server_round,
        tuple(sorted(handles.client(node) for node in outcome.asked)),
        None if outcome.updates is None else handles.updates(outcome.updates),
        None if outcome.verdict is None else handles.verdict(outcome.verdict),
        handles.keys(outcome.failed),
    )


Mend = Callable[[int, ArrayRecord], ArrayRecord | None]
"""Returns a round's model after its repair, or None where it is not repaired."""


class ObservedStrategy(Strategy):
    """Pass everything on to a Flower strategy, shifted by the rounds already done.

    Flower's own strategies sample clients from Python's global random state; it is set from the
    run's seed before each round and put back afterwards, so that they repeat as well.

    Parameters
    ----------
    inner : Strategy
        Flower's, the user's or ours.
    seed : int
        Seed of the run.
    rounds_done : int
        Rounds finished before; `start` counts from 1 again.
    on_train : callable
        Called with the `Outcome` after each aggregation.
    mend : callable
        Repairs a round's model, before the next round's clients receive it.
    survive : bool
        Close a round that an encrypted strategy cannot open, the model unchanged, and go on; for
        networks that are meant to fail. Otherwise such a round stops the run.
    """

    def __init__(
        self,
        inner: Strategy,
        *,
        seed: int,
        rounds_done: int = 0,
        on_train: Callable[[Outcome], None] = lambda _: None,
        mend: Mend = lambda _, __: None,
        survive: bool = False,
    ) -> None:
        self.inner = inner
        self.seed = seed
        self.rounds_done = rounds_done
        self.on_train = on_train
        self.mend = mend
        self.survive = survive
        self._asked: tuple[int, ...] = ()
        self._sent: ArrayRecord | None = None
        self._failed: dict[int, str] = {}
        self._seen: tuple[ClientUpdates, Verdict] | None = None
        if isinstance(inner, RobustStrategy):
            inner.observers.append(self._see)

    def _see(self, _: int, updates: ClientUpdates, verdict: Verdict) -> None:
        self._seen = (updates, verdict)

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Let the inner strategy configure the round; note who is asked."""
        current = server_round + self.rounds_done
        self._sent = arrays
        before = random.getstate()
        random.seed(stream_seed(self.seed, current, SERVER, "sampling"))
        try:
            with self._strangers_errors(current):
                messages = list(self.inner.configure_train(current, arrays, config, grid))
        finally:
            random.setstate(before)
        self._asked = tuple(sorted(message.metadata.dst_node_id for message in messages))
        return messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Let the inner strategy aggregate; report the outcome; repair the new model."""
        current = server_round + self.rounds_done
        self._seen = None
        # A list of our own kind carries a matrix, and must stay what it is.
        arrived = replies if isinstance(replies, list) else list(replies)
        self._failed = _failures(arrived, self._asked)
        try:
            with self._strangers_errors(current):
                arrays, metrics = self.inner.aggregate_train(current, arrived)
        except RunError as error:
            if isinstance(self.inner, RobustStrategy) and self.survive:
                self._close_unopened(self.inner, current, error)
                return self._mended(current, None), None
            raise
        arrays = self._in_form(current, arrays)
        updates, verdict = self._seen or (None, None)
        if arrays is None and not isinstance(self.inner, RobustStrategy):
            self._note_no_model()
        self.on_train(Outcome(current, self._asked, updates, verdict, self._failed))
        return self._mended(current, arrays), metrics

    @contextmanager
    def _strangers_errors(self, current: int) -> Iterator[None]:
        """Let an error of a strategy that is not fedguard's end the run in one line."""
        try:
            yield
        except (ConfigurationError, RunError):
            raise
        except (Exception, SystemExit) as error:
            if isinstance(self.inner, RobustStrategy):
                raise
            raise self._stranger_failed(current, error) from error

    def _stranger_failed(self, current: int, error: BaseException) -> RunError:
        name = _name_of(self.inner)
        why = f"; a client said: {next(iter(self._failed.values()))}" if self._failed else ""
        told = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        return RunError(f"{name} failed in round {current}: {told}{why}")

    def _note_no_model(self) -> None:
        """Say of every client that answered in vain why its reply changed nothing."""
        why = f"{_name_of(self.inner)} made no new model of the round's replies"
        for node in self._asked:
            self._failed.setdefault(node, why)

    def _in_form(self, current: int, arrays: ArrayRecord | None) -> ArrayRecord | None:
        """Return a new model in the types of the one that was sent, as a checkpoint holds it.

        Refuse one that lacks arrays of the one that was sent, or has others in place. Flower's
        FedAdam makes float64 of float32: a resumed run would go on from other numbers.
        """
        if arrays is None or self._sent is None or isinstance(self.inner, RobustStrategy):
            return arrays
        for name, sent in self._sent.items():
            found = tuple(arrays[name].shape) if name in arrays else None
            if found != tuple(sent.shape):
                told = "is missing" if found is None else f"has shape {found}"
                error = ValueError(f"array {name!r} of the new model {told}")
                raise self._stranger_failed(current, error)
        if all(arrays[name].dtype == sent.dtype for name, sent in self._sent.items()):
            return arrays
        return ArrayRecord(
            {
                name: Array(array.numpy().astype(self._sent[name].dtype))
                if name in self._sent
                else array
                for name, array in arrays.items()
            }
        )

    def _mended(self, current: int, arrays: ArrayRecord | None) -> ArrayRecord | None:
        """Return the round's model after its repair; one that stayed as it was is repaired too."""
        model = arrays if arrays is not None else self._sent
        repaired = self.mend(current, model) if model is not None else None
        return arrays if repaired is None else repaired

    def _close_unopened(self, inner: RobustStrategy, current: int, error: RunError) -> None:
        """Report a round that could not be opened: every client is missing, the model stays."""
        size = inner.layout.size if inner.layout is not None else 0
        nothing = ClientUpdates.from_matrix(
            torch.empty(0, size),
            layout=inner.layout,
            malformed=dict.fromkeys(self._asked, f"not opened: {error}"),
            server_round=current,
        )
        verdict = inner.decide(nothing)
        self.on_train(Outcome(current, self._asked, nothing, verdict, self._failed))

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Let the inner strategy configure the evaluation on clients."""
        current = server_round + self.rounds_done
        with self._strangers_errors(current):
            return list(self.inner.configure_evaluate(current, arrays, config, grid))

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """Let the inner strategy aggregate what clients evaluated."""
        current = server_round + self.rounds_done
        with self._strangers_errors(current):
            found: MetricRecord | None = self.inner.aggregate_evaluate(current, replies)
        return found

    def summary(self) -> None:
        """Let the inner strategy log its configuration."""
        self.inner.summary()


def _name_of(strategy: Strategy) -> str:
    """Return a strategy's name; an adapter's with that of the strategy in it."""
    plain = type(strategy).__repr__ is object.__repr__
    return type(strategy).__name__ if plain else repr(strategy)[:80]


def _failures(replies: list[Message], asked: tuple[int, ...]) -> dict[int, str]:
    """Return who did not answer, or with an error, and why."""
    failed = {
        reply.metadata.src_node_id: f"error reply: {reply.error.reason}"[:200]
        for reply in replies
        if reply.has_error()
    }
    good = {reply.metadata.src_node_id for reply in replies if not reply.has_error()}
    answered = good | failed.keys()
    failed = {node: why for node, why in failed.items() if node not in good}
    return {**failed, **{node: "no reply" for node in asked if node not in answered}}
