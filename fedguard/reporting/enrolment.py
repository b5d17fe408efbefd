"""The report's section on enrolment: who can link what, and who was not admitted, and why."""

from __future__ import annotations

from collections import Counter
from html import escape

from fedguard.records.reader import Run, mapping
from fedguard.reporting.tables import card, table
from fedguard.reporting.wording import bounded, counted

REFUSED = "not admitted: "
"""What a reason says before why a client's message was not admitted."""

MAX_REASONS = 20


def enrolment_section(run: Run) -> str:
    """Return what the door of an enrolled run let in and what it did not; empty without enrolment.

    A client counts as admitted in a round if its update went on to the defence, whatever the
    defence then made of it. Of what was not admitted, the truth about the sender stands beside,
    where the run knows it.
    """
    name = run.summary.get("enrolment")
    if not name:
        return ""
    told = str(mapping(run.threat_model.get("defence")).get("enrolment") or name)
    admitted = sum(record.outcome in ("accepted", "rejected") for record in run.clients)
    refused: Counter[str] = Counter()
    honest: Counter[str] = Counter()
    for record in run.clients:
        _, found, why = record.reason.partition(REFUSED)
        if found:
            refused[why] += 1
            honest[why] += not record.malicious
    rows = [
        (bounded(why, 120), str(count), str(honest[why]))
        for why, count in refused.most_common(MAX_REASONS)
    ]
    words = f"{counted(admitted, 'update')} admitted, {refused.total():,} not."
    ways = "".join(f"<li>{escape(bounded(way.strip(), 200))}</li>" for way in told.split(";"))
    cards = card("Who can link what", f"<ul>{ways}</ul>")
    if rows:
        cards += card("Not admitted", table(("why", "times", "honest"), rows, words=(0,)))
    return f'<p class="lead">{escape(words)}</p><div class="grid">{cards}</div>'
