"""Progress of a campaign on standard error: a live bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TextColumn
from rich.progress import Progress as Bar
from rich.text import Text

from fedguard.reporting.wording import duration, percent

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
    clock : callable, optional
        Seconds that only grow.
    """

    def __init__(
        self,
        total: int,
        pace: Pace,
        to_do: Sequence[Cell],
        workers: int,
        console: Console,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._total, self._pace, self._workers = total, pace, max(workers, 1)
        self._left = {cell.digest: cell for cell in to_do}
        self._failed = 0
        self._console, self._clock = console, clock
        self._started = clock()
        columns = (SpinnerColumn(), BarColumn(bar_width=16), MofNCompleteColumn())
        said = TextColumn("{task.fields[said]}", markup=False)
        live = console.is_terminal
        self._bar = Bar(*columns, said, console=console, transient=True) if live else None

    def __enter__(self) -> SweepProgress:
        """Start the live line where there is a terminal."""
        done = self._total - len(self._left)
        if self._bar is not None:
            said = self._said()
            self._task = self._bar.add_task("", total=self._total, completed=done, said=said)
            self._bar.start()
        elif self._left:
            self._print(f"{done} of {self._total} runs are there, {len(self._left)} to do")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Take the live line away; errors pass through."""
        if self._bar is not None:
            self._bar.stop()

    def ended(self, cell: Cell, result: CellResult) -> None:
        """Take note that a run has ended."""
        self._left.pop(cell.digest, None)
        self._failed += result.state == "failed"
        if result.state == "done" and result.seconds > 0:
            self._pace.add(cell, result.seconds, cell.config.rounds)
        outcome = (
            f"failed: {result.error}"
            if result.state == "failed"
            else f"accuracy {percent(result.accuracy)} in {duration(result.seconds)}"
        )
        done = self._total - len(self._left)
        if self._bar is not None:
            self._bar.update(self._task, completed=done, said=self._said())
            if result.state == "failed":
                self._bar.console.print(Text(f"{cell.directory} {outcome}"), soft_wrap=True)
        else:
            self._print(f"run {done}/{self._total} · {cell.directory} · {outcome}{self._tail()}")

    def waiting(self, count: int) -> None:
        """Say that only runs of another process are left."""
        if self._bar is not None:
            self._bar.update(self._task, said=f"waiting for {count} runs of another process")

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
        shared = seconds / min(self._workers, len(self._left))
        return f"{max(round(shared), 1)} s left" if shared < 59 else f"{duration(shared)} left"

    def _print(self, text: str) -> None:
        self._console.print(Text(text), soft_wrap=True)
