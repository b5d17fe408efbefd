"""`ObservedStrategy`: any Flower strategy, continued from a round, watched, and repaired after."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from fedguard.errors import ConfigurationError, RunError
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
            messages = list(self.inner.configure_train(current, arrays, config, grid))
        except (ConfigurationError, RunError):
            raise
        except Exception as error:
            if isinstance(self.inner, RobustStrategy):
                raise
            raise self._stranger_failed(current, error) from error
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
            arrays, metrics = self.inner.aggregate_train(current, arrived)
        except Exception as error:
            if isinstance(self.inner, RobustStrategy):
                if self.survive and isinstance(error, RunError):
                    self._close_unopened(self.inner, current, error)
                    return self._mended(current, None), None
                raise
            raise self._stranger_failed(current, error) from error
        self._check_form(current, arrays)
        updates, verdict = self._seen or (None, None)
        self.on_train(Outcome(current, self._asked, updates, verdict, self._failed))
        return self._mended(current, arrays), metrics

    def _stranger_failed(self, current: int, error: Exception) -> RunError:
        name = type(self.inner).__name__
        why = f"; a client said: {next(iter(self._failed.values()))}" if self._failed else ""
        return RunError(f"{name} failed in round {current}: {type(error).__name__}: {error}{why}")

    def _check_form(self, current: int, arrays: ArrayRecord | None) -> None:
        """Refuse a new model that lacks arrays of the one that was sent, or has others in place."""
        if arrays is None or self._sent is None:
            return
        for name, sent in self._sent.items():
            found = tuple(arrays[name].shape) if name in arrays else None
            if found != tuple(sent.shape):
                told = "is missing" if found is None else f"has shape {found}"
                error = ValueError(f"array {name!r} of the new model {told}")
                raise self._stranger_failed(current, error)

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
        return list(self.inner.configure_evaluate(current, arrays, config, grid))

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """Let the inner strategy aggregate what clients evaluated."""
        found: MetricRecord | None = self.inner.aggregate_evaluate(
            server_round + self.rounds_done, replies
        )
        return found

    def summary(self) -> None:
        """Let the inner strategy log its configuration."""
        self.inner.summary()


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
