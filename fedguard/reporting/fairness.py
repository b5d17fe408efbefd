"""The report's section on how a run served single clients and groups."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from fedguard.records.reader import Run, mapping, number, whole
from fedguard.reporting import figures, tables
from fedguard.reporting.fair_words import difference
from fedguard.reporting.figures import Line, plain
from fedguard.reporting.headline import Headline
from fedguard.reporting.page import figure_card
from fedguard.reporting.wording import bounded, figure, percent

MAX_GROUPS = 50
"""Most groups in the table; those that fare worst come first."""
MAX_CLIENTS = 20
"""Most clients in the table, likewise."""
MAX_NAME = 40

LINES = (
    Line("client_mean", "mean of clients", "var(--accuracy)"),
    Line("worst_decile", "worst tenth", "var(--attack)", "dash", "square"),
    Line("minority", "minority", "var(--caught)", "dot", "diamond"),
)


def fairness_section(run: Run) -> str:
    """Return how clients and groups fared; empty where they were not evaluated."""
    found = mapping(run.summary.get("fairness"))
    if not found and not run.fairness:
        return ""
    lead = Headline.of(run.summary)
    curves = figure_card(
        figures.courses(run, LINES, lead),
        f"{lead.title} of the global model on clients' own rows",
        "Of honest clients, on rows that they do not train on: each counted once, the worst tenth "
        "of them, and the group with the fewest rows.",
    )
    return (
        f'<p class="lead">{escape(_words(found, lead))}</p><div class="grid">{curves}</div>'
        f'<div class="grid">{_groups(found, lead)}{_clients(run, lead)}</div>'
    )


def _words(found: Mapping[str, Any], lead: Headline) -> str:
    clients, rows = whole(found.get("clients")) or 0, whole(found.get("rows")) or 0
    told = (
        f"{clients:,} honest clients on {rows:,} rows, {percent(found.get('share'))} of each: mean "
        f"{lead.text(found.get('client_mean'))}, worst tenth "
        f"{lead.text(found.get('worst_decile'))}, spread "
        f"{difference(found.get('client_spread'), lead)}."
    )
    if number(found.get("group_gap")) is not None:
        told += f" Between the best and the worst group: {difference(found['group_gap'], lead)}."
    if left_out := whole(found.get("not_judged")):
        told += f" {left_out:,} with a single row are not judged."
    return told


def _groups(found: Mapping[str, Any], lead: Headline) -> str:
    groups = [(str(name), mapping(one)) for name, one in mapping(found.get("groups")).items()]
    if not groups:
        return ""
    known = sorted(groups, key=lambda item: lead.gain(_value(item[1], lead)))
    minority = str(found.get("minority_group"))
    rows = [
        [
            bounded(name, MAX_NAME) + (" (minority)" if name == minority else ""),
            figure(one.get("clients")),
            figure(one.get("rows")),
            lead.text(one.get(lead.name)),
            percent(one.get("rejected")),
        ]
        for name, one in known[:MAX_GROUPS]
    ]
    head = ["group", "honest clients", "rows", lead.words, "updates rejected"]
    by = bounded(found.get("grouped_by") or "", MAX_NAME)
    return tables.card(f"Groups, by {by}" if by else "Groups", tables.table(head, rows))


def _clients(run: Run, lead: Headline) -> str:
    """Return the clients that fare worst in the last round that was recorded."""
    if not run.fairness:
        return ""
    worst = sorted(run.fairness, key=lambda line: lead.gain(_value(line, lead)))[:MAX_CLIENTS]
    rows = [
        [
            figures.mark(plain(line.get("client")), bool(line.get("malicious"))),
            bounded(line.get("group") or "", MAX_NAME),
            figure(line.get("rows")),
            lead.text(line.get(lead.name)),
        ]
        for line in worst
    ]
    return tables.card(
        "Clients that fare worst", tables.table(["client", "group", "rows", lead.words], rows)
    )


def _value(line: Mapping[str, Any], lead: Headline) -> float:
    value = number(line.get(lead.name))
    return lead.worst_possible if value is None else value
