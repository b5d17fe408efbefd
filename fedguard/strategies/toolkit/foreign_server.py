"""What a rule does in a Flower server of somebody else's: tells reasons, joins clients' metrics."""

from __future__ import annotations

from collections.abc import Callable
from logging import INFO, WARNING

from flwr.app import MetricRecord, RecordDict
from flwr.common.logger import log

from fedguard.updates import ClientUpdates, Verdict

TOLD = 10
"""Reasons that are told in a round; a federation can be large."""


def tell(updates: ClientUpdates, verdict: Verdict) -> None:
    """Log who was set aside or rejected and why, as Flower's own strategies log errors."""
    reasons = {**updates.malformed, **verdict.reasons}
    for node, reason in sorted(reasons.items())[:TOLD]:
        log(INFO, "\t> node %d is out of round %d: %s", node, updates.server_round, reason)
    if len(reasons) > TOLD:
        log(INFO, "\t> and %d more", len(reasons) - TOLD)
    if updates.malformed and not len(updates):
        told = set(updates.malformed.values())
        why = f"all for one reason: {told.pop()}" if len(told) == 1 else f"for {len(told)} reasons"
        log(
            WARNING,
            "no reply of round %d was usable, %s; the model stays as it is",
            updates.server_round,
            why,
        )


def client_metrics(
    contents: list[RecordDict],
    join: Callable[[list[RecordDict], str], MetricRecord],
    weighted_by_key: str,
) -> MetricRecord:
    """Return what Flower's function for clients' metrics makes of replies; never raises.

    Clients decide what their metrics are called and hold; where they do not fit each other, the
    round goes on without them and says so.

    Parameters
    ----------
    contents : list of RecordDict
        The accepted clients' replies.
    join : callable
        Flower's ``train_metrics_aggr_fn``.
    weighted_by_key : str
        Name of the metric that weighs.
    """
    if not contents:
        return MetricRecord()
    try:
        return join(contents, weighted_by_key)
    except Exception as error:
        told = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        log(WARNING, "the clients' metrics could not be joined: %s", told)
        return MetricRecord()
