"""Progress of a run on standard error: a live bar on a terminal, a few plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TaskID, TextColumn
from rich.progress import Progress as Bar
from rich.text import Text

from fedguard.records.reader import number, whole
from fedguard.reporting.wording import duration, percent

QUIET_SECONDS = 10.0
"""Without a terminal: a line at least this often, as rounds end, and one per tenth of the run."""


class Progress:
    """Shows how far a run is, round by round.

    A terminal gets one live line with a bar; anything else gets plain lines: one per tenth of the
    run, one whenever ten seconds have passed since the last, and the last round's.

    Parameters
    ----------
    total_rounds : int
        Number of the last round, at least 0.
    enabled : bool
        False shows nothing at all.
    console : Console, optional
        Where to write; standard error if left out.
    clock : callable, optional
        Seconds that only grow.
    """

    def __init__(
        self,
        total_rounds: int,
        enabled: bool = True,
        *,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.total_rounds = max(int(total_rounds), 0)
        self._console = (Console(stderr=True) if console is None else console) if enabled else None
        self._clock = clock
        self._bar: Bar | None = None
        self._task = TaskID(0)
        self._started = clock()
        self._first: int | None = None
        self._printed_tenth = 0
        self._printed_at = self._started

    def __enter__(self) -> Progress:
        """Start the live line where there is a terminal."""
        self._started = self._printed_at = self._clock()
        if self._console is not None and self._console.is_terminal:
            columns = (SpinnerColumn(), BarColumn(bar_width=16), MofNCompleteColumn())
            said = TextColumn("{task.fields[said]}", markup=False)
            self._bar = Bar(*columns, said, console=self._console, transient=True)
            self._task = self._bar.add_task("", total=self.total_rounds, said="starting")
            self._bar.start()
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
            self._bar = None

    def update(self, round_record: Mapping[str, Any]) -> None:
        """Take note that a round has ended.

        Parameters
        ----------
        round_record : mapping
            The round's line of ``rounds.jsonl``; round 0 is the initial model.
        """
        done = whole(round_record.get("round")) or 0
        if self._console is None:
            return
        if self._first is None:
            # After a resumed run's first round only the rounds from here on tell the pace.
            self._first = max(done - 1, 0) if done else 0
        words = " · ".join([*_figures(round_record), *self._left(done)])
        if self._bar is not None:
            self._bar.update(self._task, completed=done, said=words)
        elif self._due(done):
            self._console.print(Text(f"round {done}/{self.total_rounds} · {words}"), soft_wrap=True)

    def note(self, text: str) -> None:
        """Show a line of text that stays, above the live line where there is one."""
        if self._console is not None:
            console = self._console if self._bar is None else self._bar.console
            console.print(Text(text), soft_wrap=True)

    def _left(self, done: int) -> list[str]:
        covered = done - (self._first or 0)
        remaining = self.total_rounds - done
        if covered <= 0 or remaining <= 0:
            return []
        seconds = (self._clock() - self._started) / covered * remaining
        return [f"{max(round(seconds), 1)} s left" if seconds < 59 else f"{duration(seconds)} left"]

    def _due(self, done: int) -> bool:
        """Return whether a plain line is due, and remember that it was printed."""
        now = self._clock()
        tenth = 10 * done // self.total_rounds if self.total_rounds else 10
        last = done >= self.total_rounds
        if tenth <= self._printed_tenth and now - self._printed_at < QUIET_SECONDS and not last:
            return False
        self._printed_tenth, self._printed_at = tenth, now
        return True


def _figures(record: Mapping[str, Any]) -> list[str]:
    """Return a round's figures as short texts; those it lacks are left out."""
    parts = []
    if number(record.get("accuracy")) is not None:
        parts.append(f"accuracy {percent(record['accuracy'])}")
    if number(record.get("attack_success_rate")) is not None:
        parts.append(f"attack {percent(record['attack_success_rate'])}")
    accepted, rejected = whole(record.get("accepted")), whole(record.get("rejected"))
    if accepted is not None and rejected is not None and accepted + rejected:
        parts.append(f"rejected {rejected}/{accepted + rejected}")
    return parts
