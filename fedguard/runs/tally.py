"""Counts of a round's replies: asked, answered, failed, set aside, rejected, accepted; apart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from fedguard.config import SimulationConfig
from fedguard.errors import RunError
from fedguard.metrics.detection import detection
from fedguard.runs.observed import Outcome

COUNTS = ("asked", "answered", "failed", "set_aside", "rejected", "accepted")


def outcomes(outcome: Outcome) -> dict[int, str | None]:
    """Return what became of each client that was asked.

    Returns
    -------
    dict of int to (str or None)
        ``"failed"``: no reply, or an error reply; ``"set aside"``: a reply that is no update;
        ``"rejected"``: an update without a share in the aggregate; ``"accepted"``: one with a
        share; None where a strategy that is not fedguard's did not say.
    """
    found: dict[int, str | None] = dict.fromkeys(outcome.asked)
    for node in outcome.failed:
        if node in found:
            found[node] = "failed"
    if outcome.updates is None or outcome.verdict is None:
        return found
    for node in outcome.updates.malformed:
        if node in found and found[node] is None:
            found[node] = "set aside"
    weights = outcome.verdict.weights.tolist()
    for node, weight in zip(outcome.updates.node_ids, weights, strict=True):
        found[node] = "accepted" if weight > 0 else "rejected"
    return found


def tally(outcome: Outcome | None, malicious: frozenset[int]) -> dict[str, Any]:
    """Return a round's counts, the reasons of what failed, and how rightly clients were kept out.

    ``true_positive_rate`` is the share of malicious clients that answered and whose update was
    rejected or set aside; ``false_positive_rate`` that of honest clients with an update which was
    rejected. Failures count in neither.
    """
    if outcome is None:
        return {
            **dict.fromkeys((*COUNTS, "malformed"), 0),
            "true_positive_rate": None,
            "false_positive_rate": None,
        }
    became = outcomes(outcome)
    counts = Counter(became.values())
    decided = outcome.verdict is not None
    unknown = counts[None]
    failed, aside = counts["failed"], counts["set aside"]
    answered = [node for node, what in became.items() if what != "failed"]
    out = {node for node, what in became.items() if what in ("rejected", "set aside")}
    judged = [n for n in answered if n in malicious or became[n] != "set aside"]
    rates = detection(judged, out, malicious) if decided and judged else None
    found: dict[str, Any] = {
        "asked": len(became),
        "answered": len(answered),
        "failed": failed,
        "set_aside": aside,
        "rejected": counts["rejected"],
        "accepted": counts["accepted"] + unknown,
        "malformed": failed + aside,
        "true_positive_rate": rates.true_positive_rate if rates else None,
        "false_positive_rate": rates.false_positive_rate if rates else None,
    }
    if reasons := _reasons(outcome, became):
        found["reasons"] = reasons
    return found


def _reasons(outcome: Outcome, became: Mapping[int, str | None]) -> dict[str, int]:
    """Return why replies failed or were set aside, the commonest reason first."""
    told = dict(outcome.failed)
    if outcome.updates is not None:
        told = {**outcome.updates.malformed, **told}
    wanted = ("failed", "set aside")
    counts = Counter(text for node, text in told.items() if became.get(node) in wanted)
    return dict(counts.most_common())


def total(rounds: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the counts of all rounds together, and the commonest reason."""
    sums: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    for record in rounds:
        sums.update({name: int(record.get(name) or 0) for name in COUNTS})
        reasons.update(record.get("reasons") or {})
    commonest = reasons.most_common(1)[0][0] if reasons else None
    return {**{name: sums[name] for name in COUNTS}, "commonest_reason": commonest}


def check_usable(summary: Mapping[str, Any]) -> None:
    """Refuse to call a run done in which no reply of any client was usable.

    Raises
    ------
    RunError
        With the commonest reason; what was recorded stays.
    """
    replies = summary.get("replies") or {}
    usable = replies.get("accepted", 0) + replies.get("rejected", 0)
    if replies.get("asked", 0) and not usable:
        why = replies.get("commonest_reason") or "no reason was given"
        raise RunError(
            f"no reply of any client was usable in any of {summary['rounds']} rounds; the model is "
            f"as it began; most often: {why}"
        )


def check_hopeful(record: Mapping[str, Any], config: SimulationConfig) -> None:
    """Stop after round 1 where nobody's reply was usable and all had one reason.

    What fails alike at every client will fail in every round. Silence is no reason: who did not
    answer may come late; nor are faults that the run itself simulates.

    Raises
    ------
    RunError
        With the reason; what was recorded stays.
    """
    usable = record.get("accepted", 0) + record.get("rejected", 0)
    reasons = dict(record.get("reasons") or {})
    if usable or len(reasons) != 1 or config.faults.active or config.rounds == 1:
        return
    [(why, count)] = reasons.items()
    if count == record.get("asked") and why != "no reply":
        raise RunError(
            f"no reply of any client was usable in round 1, all {count} for one reason: {why}; "
            f"the other {config.rounds - 1} rounds were not begun"
        )
