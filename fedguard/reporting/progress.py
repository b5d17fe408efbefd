"""Progress of a run on standard error: a live bar on a terminal, a few plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

from rich.console import Console

from fedguard.records.reader import number, whole
from fedguard.reporting.headline import Headline
from fedguard.reporting.live import LiveLine
from fedguard.reporting.replies import Replies, first_failure
from fedguard.reporting.wording import percent, time_left

QUIET_SECONDS = 10.0
"""Without a terminal: a line at least this often, as rounds end, and one per tenth of the run."""


class Progress:
    """Shows how far a run is, round by round.

    A terminal gets one live line with a bar; anything else gets plain lines: one per tenth of the
    run, one whenever ten seconds have passed since the last, and the last round's. The first round
    in which clients failed is told at once, with the reason.

    Parameters
    ----------
    total_rounds : int
        Number of the last round, at least 0.
    enabled : bool
        False shows nothing at all.
    headline : Headline, optional
        What the lines lead with; accuracy if left out.
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
        headline: Headline | None = None,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.total_rounds = max(int(total_rounds), 0)
        self._enabled = enabled
        self._headline = Headline() if headline is None else headline
        shown = Console(stderr=True) if enabled and console is None else console
        self._line = LiveLine(self.total_rounds, shown if enabled else None)
        self._clock = clock
        self._failures_told = False
        self._started = clock()
        self._first: int | None = None
        self._printed_tenth = 0
        self._printed_at = self._started

    def __enter__(self) -> Progress:
        """Start the live line where there is a terminal."""
        self._started = self._printed_at = self._clock()
        self._line.start("starting")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Take the live line away; errors pass through."""
        self._line.stop()

    def update(self, round_record: Mapping[str, Any]) -> None:
        """Take note that a round has ended.

        Parameters
        ----------
        round_record : mapping
            The round's line of ``rounds.jsonl``; round 0 is the initial model.
        """
        done = whole(round_record.get("round")) or 0
        if not self._enabled:
            return
        if self._first is None:
            # After a resumed run's first round only the rounds from here on tell the pace.
            self._first = max(done - 1, 0) if done else 0
        replies = Replies.of(round_record)
        if replies is not None and replies.unusable and not self._failures_told:
            self._failures_told = True
            self.note(first_failure(done, replies))
        words = [*self._figures(round_record, replies), *self._left(done)]
        if self._line.live:
            self._line.move(" · ".join(words), done)
        elif self._due(done):
            self._line.say(" · ".join([f"round {done}/{self.total_rounds}", *words]))

    def note(self, text: str) -> None:
        """Show a line of text that stays, above the live line where there is one."""
        self._line.say(text)

    def _figures(self, record: Mapping[str, Any], replies: Replies | None) -> list[str]:
        """Return a round's figures as short texts; those it lacks are left out."""
        parts = []
        if self._headline.of_run(record) is not None:
            parts.append(self._headline.labelled(record[self._headline.name]))
        if number(record.get("attack_success_rate")) is not None:
            parts.append(f"attack {percent(record['attack_success_rate'])}")
        rejected, accepted = whole(record.get("rejected")), whole(record.get("accepted"))
        if rejected is not None and accepted is not None:
            asked = accepted + rejected if replies is None else replies.asked
            parts += [f"rejected {rejected}/{asked}"] if asked else []
        if replies is not None and replies.unusable:
            # A live line has one row, and the reason was told above it.
            parts.append(replies.troubles if self._line.live else replies.why)
        return parts

    def _left(self, done: int) -> list[str]:
        covered = done - (self._first or 0)
        remaining = self.total_rounds - done
        if covered <= 0 or remaining <= 0:
            return []
        return [time_left((self._clock() - self._started) / covered * remaining)]

    def _due(self, done: int) -> bool:
        """Return whether a plain line is due, and remember that it was printed."""
        now = self._clock()
        tenth = 10 * done // self.total_rounds if self.total_rounds else 10
        last = done >= self.total_rounds
        if tenth <= self._printed_tenth and now - self._printed_at < QUIET_SECONDS and not last:
            return False
        self._printed_tenth, self._printed_at = tenth, now
        return True
