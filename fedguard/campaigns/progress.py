"""Progress of a campaign on standard error: a live bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Protocol

from rich.console import Console

from fedguard.reporting.headline import Headline
from fedguard.reporting.live import LiveLine
from fedguard.reporting.wording import duration, time_left

if TYPE_CHECKING:
    from fedguard.campaigns.campaign import Cell
    from fedguard.campaigns.cells import CellResult


class Pace(Protocol):
    """What is known of the runs' time."""

    def add(self, cell: Cell, seconds: float, rounds: int) -> None:
        """Take note of a run's time."""

    def estimate(self, cells: Sequence[Cell]) -> float | None:
        """Return the seconds that runs will take one after another."""


class SweepProgress:
    """Shows how far a campaign is, run by run, with the time left.

    Parameters
    ----------
    total : int
        Runs of the campaign, finished ones included.
    pace : Pace
        What finished runs say about time; grows as runs end.
    to_do : sequence of Cell
        Runs that are left.
    workers : int
        Runs at a time.
    console : Console
        Where to write.
    """

    def __init__(
        self,
        total: int,
        pace: Pace,
        to_do: Sequence[Cell],
        workers: int,
        console: Console,
    ) -> None:
        self._total, self._pace, self._workers = total, pace, max(workers, 1)
        self._left = {cell.digest: cell for cell in to_do}
        self._failed = 0
        self._line = LiveLine(total, console)

    def __enter__(self) -> SweepProgress:
        """Start the live line where there is a terminal."""
        done = self._total - len(self._left)
        self._line.start(self._said(), done)
        if self._left and not self._line.live:
            self._line.say(f"{done} of {self._total} runs are there, {len(self._left)} to do")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Take the live line away; errors pass through."""
        self._line.stop()

    def ended(self, cell: Cell, result: CellResult) -> None:
        """Take note that a run has ended."""
        self._left.pop(cell.digest, None)
        self._failed += result.state == "failed"
        if result.state == "done" and result.seconds > 0:
            self._pace.add(cell, result.seconds, cell.config.rounds)
        outcome = (
            f"failed: {result.error}"
            if result.state == "failed"
            else f"{_headline(result)} in {duration(result.seconds)}"
        )
        done = self._total - len(self._left)
        if self._line.live:
            self._line.move(self._said(), done)
            if result.state == "failed":
                self._line.say(f"{cell.directory} {outcome}")
        else:
            self._line.say(f"run {done}/{self._total} · {cell.directory} · {outcome}{self._tail()}")

    def waiting(self, count: int) -> None:
        """Say that only runs of another process are left."""
        self._line.move(f"waiting for {count} runs of another process")

    def _said(self) -> str:
        failed = f"{self._failed} failed" if self._failed else ""
        return " · ".join(part for part in (failed, self._time_left()) if part) or "starting"

    def _tail(self) -> str:
        left = self._time_left()
        return f" · {left}" if left else ""

    def _time_left(self) -> str:
        seconds = self._pace.estimate(list(self._left.values())) if self._left else None
        if seconds is None:
            return ""
        return time_left(seconds / min(self._workers, len(self._left)))


def _headline(result: CellResult) -> str:
    """Return a finished run's headline; results that name none are accuracies."""
    headline = Headline.of({"headline": result.headline})
    return headline.labelled(result.accuracy)
