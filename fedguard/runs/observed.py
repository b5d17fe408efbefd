"""`ObservedStrategy`: any Flower strategy, continued from a round and watched."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from fedguard.errors import RunError
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
    """

    server_round: int
    asked: tuple[int, ...]
    updates: ClientUpdates | None
    verdict: Verdict | None


class ObservedStrategy(Strategy):
    """Delegate to any Flower strategy, shifted by the rounds already done.

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
        survive: bool = False,
    ) -> None:
        self.inner = inner
        self.seed = seed
        self.rounds_done = rounds_done
        self.on_train = on_train
        self.survive = survive
        self._asked: tuple[int, ...] = ()
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
        before = random.getstate()
        random.seed(stream_seed(self.seed, current, SERVER, "sampling"))
        try:
            messages = list(self.inner.configure_train(current, arrays, config, grid))
        finally:
            random.setstate(before)
        self._asked = tuple(sorted(message.metadata.dst_node_id for message in messages))
        return messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Let the inner strategy aggregate; report the outcome."""
        current = server_round + self.rounds_done
        self._seen = None
        try:
            result = self.inner.aggregate_train(current, replies)
        except Exception as error:
            if isinstance(self.inner, RobustStrategy):
                if self.survive and isinstance(error, RunError):
                    return self._close_unopened(self.inner, current, error)
                raise
            name = type(self.inner).__name__
            raise RunError(
                f"{name} failed in round {current}: {type(error).__name__}: {error}"
            ) from error
        updates, verdict = self._seen or (None, None)
        self.on_train(Outcome(current, self._asked, updates, verdict))
        arrays, metrics = result
        return arrays, metrics

    def _close_unopened(
        self, inner: RobustStrategy, current: int, error: RunError
    ) -> tuple[None, None]:
        """Report a round that could not be opened: every client is missing, the model stays."""
        size = inner.layout.size if inner.layout is not None else 0
        nothing = ClientUpdates.from_matrix(
            torch.empty(0, size),
            layout=inner.layout,
            malformed=dict.fromkeys(self._asked, f"not opened: {error}"),
            server_round=current,
        )
        self.on_train(Outcome(current, self._asked, nothing, inner.decide(nothing)))
        return None, None

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Delegate."""
        current = server_round + self.rounds_done
        return list(self.inner.configure_evaluate(current, arrays, config, grid))

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """Delegate."""
        found: MetricRecord | None = self.inner.aggregate_evaluate(
            server_round + self.rounds_done, replies
        )
        return found

    def summary(self) -> None:
        """Delegate."""
        self.inner.summary()
