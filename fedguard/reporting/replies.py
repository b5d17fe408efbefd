"""What became of the clients' replies: counted by outcome, with the reasons that were told.

A client that failed (no reply, or an error) and a reply whose content was set aside are nobody the
defence rejected, so they are counted apart.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fedguard.records.reader import (
    ACCEPTED,
    FAILED,
    MALFORMED,
    REJECTED,
    SET_ASIDE,
    ClientRecord,
    Run,
    mapping,
    whole,
)
from fedguard.reporting.tables import COUNTS, card, table
from fedguard.reporting.wording import bounded, counted, percent, spoken

MAX_REASON_SHOWN = 48
"""Characters of a reason on a terminal's line."""
MAX_REASONS = 12
"""Most reasons in the report's table; all of them are in ``clients.jsonl``."""


@dataclass(frozen=True)
class Replies:
    """Counts of one round or of a whole run.

    Attributes
    ----------
    asked, answered : int
        Clients that were sent a model, and those that sent a usable message back.
    failed, set_aside : int
        Clients without a reply or with an error reply, and replies with malformed content.
    rejected, accepted : int
        What the defence did with the rest.
    reason : str
        The commonest reason of failure, on one line; empty without any.
    """

    asked: int
    answered: int
    failed: int
    set_aside: int
    rejected: int
    accepted: int
    reason: str

    @classmethod
    def of(cls, counts: Mapping[str, Any]) -> Replies | None:
        """Return the counts of a line of ``rounds.jsonl`` or of a summary's ``replies``.

        None for an older run, which did not tell them apart.
        """
        if whole(counts.get("asked")) is None:
            return None
        found = {name: whole(counts.get(name)) or 0 for name in COUNTS}
        return cls(**found, reason=_commonest(counts))

    @property
    def unusable(self) -> int:
        """Clients asked that gave nothing to aggregate."""
        return self.failed + self.set_aside

    @property
    def troubles(self) -> str:
        """The unusable ones in words; empty without any."""
        parts = [("failed", self.failed), ("set aside", self.set_aside)]
        return " · ".join(f"{name} {count}" for name, count in parts if count)

    @property
    def why(self) -> str:
        """The unusable ones in words with the commonest reason; empty without any."""
        words = self.troubles
        return f"{words}: {self.reason}" if words and self.reason else words


def _commonest(counts: Mapping[str, Any]) -> str:
    named = counts.get("commonest_reason")
    if not named:
        told = {reason: whole(n) or 0 for reason, n in mapping(counts.get("reasons")).items()}
        named = max(told, key=lambda reason: told[reason], default="")
    return bounded(named, MAX_REASON_SHOWN)


def first_failure(server_round: int, replies: Replies) -> str:
    """Return a line about a round in which clients failed for the first time."""
    reason = f": {replies.reason}" if replies.reason else ""
    counts = f"{replies.unusable} of {counted(replies.asked)}"
    return f"round {server_round}: {counts} sent no usable update{reason}"


def replies_tables(run: Run) -> str:
    """Return the report's tables: replies by outcome, and the reasons of those not accepted."""
    outcomes = [record.outcome for record in run.clients]
    if all(outcome in (ACCEPTED, None) for outcome in outcomes):
        return ""
    rows = [
        [name, f"{count:,}", percent(count / max(asked, 1))] for name, count, asked in _counts(run)
    ]
    by_outcome = table(["outcome", "replies", "of those asked"], rows, words=(0,))
    return f'<div class="grid">{card("Replies by outcome", by_outcome)}{_reasons(run)}</div>'


def _counts(run: Run) -> list[tuple[str, int, int]]:
    """Return (outcome, replies, asked) over all rounds, from the summary or from the records."""
    replies = Replies.of(mapping(run.summary.get("replies")))
    tally = Counter(record.outcome for record in run.clients)
    if replies is not None:
        told = vars(replies)
        return [(spoken(name), told[name], replies.asked) for name in COUNTS]
    asked = len(run.clients)
    kinds = [kind for kind in (FAILED, SET_ASIDE, MALFORMED) if tally[kind]]
    names = [*kinds, REJECTED, ACCEPTED]
    return [("asked", asked, asked), *((name, tally[name], asked) for name in names)]


def _reasons(run: Run) -> str:
    groups: dict[tuple[str, str], list[ClientRecord]] = defaultdict(list)
    for record in run.clients:
        if record.outcome not in (ACCEPTED, None) and record.reason:
            groups[str(record.outcome), bounded(record.reason, 160)].append(record)
    if not groups:
        return ""
    ordered = sorted(groups.items(), key=lambda item: (-len(item[1]), item[0]))
    rows = [
        [outcome, reason, f"{len(members):,}", len({record.client for record in members})]
        for (outcome, reason), members in ordered[:MAX_REASONS]
    ]
    left = len(ordered) - MAX_REASONS
    more = f'<p class="caption">{left} more reasons are in clients.jsonl.</p>' if left > 0 else ""
    head = ["outcome", "reason", "replies", "clients"]
    return card("Reasons", table(head, rows, words=(0, 1)) + more)
