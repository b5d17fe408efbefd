"""The report's tables and definition lists, as HTML; every text from a run is escaped here."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from fedguard.records.reader import (
    FAILED,
    MALFORMED,
    MAX_REASON,
    REJECTED,
    SET_ASIDE,
    ClientRecord,
    Run,
    number,
)
from fedguard.reporting.headline import Headline
from fedguard.reporting.wording import MISSING, bounded, duration, figure, percent, spoken

MAX_DEPTH = 4
"""How deep nested values are laid out; deeper ones are shown as text."""


def table(head: Sequence[str], rows: Iterable[Sequence[object]], words: Sequence[int] = ()) -> str:
    """Return a table in a box of its own that scrolls; columns in `words` are set as text."""
    kinds = ["text" if column in words else "num" for column in range(len(head))]
    top = "".join(
        f'<th scope="col" class="{kind}">{escape(str(cell))}</th>'
        for kind, cell in zip(kinds, head, strict=True)
    )
    body = "".join(
        "<tr>"
        + "".join(
            f'<td class="{kind}">{escape(str(cell))}</td>'
            for kind, cell in zip(kinds, row, strict=True)
        )
        + "</tr>"
        for row in rows
    )
    return (
        f'<div class="scroll" tabindex="0"><table><thead><tr>{top}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def card(title: str, content: str) -> str:
    """Return HTML in a box under a title, which is plain text."""
    return f'<div class="card"><h3>{escape(title)}</h3>{content}</div>'


def definitions(values: Mapping[str, Any], depth: int = 0) -> str:
    """Return a mapping as a definition list; nested mappings become nested lists."""
    rows = "".join(
        f"<dt>{escape(spoken(str(name)))}</dt><dd>{value_html(value, depth)}</dd>"
        for name, value in values.items()
    )
    return f"<dl>{rows}</dl>"


def value_html(value: object, depth: int = 0) -> str:
    """Return any JSON value as HTML: mappings as definitions, lists as lists, the rest as text."""
    if value is None or value in ("", [], {}):
        return f'<span class="missing">{MISSING}</span>'
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping) and depth < MAX_DEPTH:
        return definitions(value, depth + 1)
    if isinstance(value, list | tuple) and depth < MAX_DEPTH:
        return _list(value, depth)
    real = number(value)
    return escape(str(value) if real is None else f"{real:.10g}")


def _list(values: Sequence[object], depth: int) -> str:
    """Return short values on one line, and sentences or nested values as a list."""
    short = all(not isinstance(v, Mapping | list | tuple) and len(str(v)) < 24 for v in values)
    parts = [value_html(value, depth + 1) for value in values]
    if short:
        return ", ".join(parts)
    return "<ul>" + "".join(f"<li>{part}</li>" for part in parts) + "</ul>"


COUNTS = ("asked", "answered", "failed", "set_aside", "rejected", "accepted")
"""What a round counts of its clients; older runs count `OLD_COUNTS`."""
OLD_COUNTS = ("accepted", "rejected", "malformed")

SELDOM_FIGURES = (
    "accuracy",
    "train_loss",
    "ndcg@10",
    "er@10",
    "er@50",
    "target_rank",
    "ap",
    "known_auc",
    "edges_added",
    "edges_removed",
)
"""Figures of a round that get a column only where the run has them."""


def rounds_table(run: Run) -> str:
    """Return every round's figures, the headline first."""
    lead = Headline.of(run.summary)
    own = [
        name
        for name in SELDOM_FIGURES
        if name != lead.name and any(value is not None for value in run.series(name))
    ]
    counts = COUNTS if run.counts_replies else OLD_COUNTS
    head = ["round", lead.words, "attack success", "loss", *map(spoken, own), *map(spoken, counts)]
    head += ["malicious rejected", "honest rejected", "time"]
    rows = [
        [
            line["round"],
            lead.text(line.get(lead.name)),
            percent(line.get("attack_success_rate")),
            figure(line.get("loss")),
            *(_seldom(name, line) for name in own),
            *(figure(line.get(name)) for name in counts),
            percent(line.get("true_positive_rate")),
            percent(line.get("false_positive_rate")),
            duration(line.get("seconds")),
        ]
        for line in run.rounds
    ]
    return table(head, rows)


def _seldom(name: str, line: Mapping[str, Any]) -> str:
    return percent(line.get(name)) if name == "accuracy" else figure(line.get(name))


def clients_table(run: Run) -> str:
    """Return one line per client: its role, what became of its rounds and the last reason."""
    records: dict[str, list[ClientRecord]] = defaultdict(list)
    for record in run.clients:
        records[record.client].append(record)
    kinds = [REJECTED, *((FAILED, SET_ASIDE) if run.counts_replies else (MALFORMED,))]
    head = ["client", "role", "asked", *kinds, "mean weight", "samples claimed", "latest reason"]
    rows = [
        _client_row(client, client in run.malicious, records[client], kinds)
        for client in run.client_ids
    ]
    return table(head, rows, words=(1, len(head) - 1))


def _client_row(
    client: str, malicious: bool, records: list[ClientRecord], kinds: Sequence[str]
) -> list[object]:
    tally = Counter(record.outcome for record in records)
    weights = [record.weight for record in records if record.weight is not None]
    claims = [record.num_examples for record in records if record.num_examples is not None]
    reasons = [record.reason for record in records if record.reason]
    return [
        client,
        "◆ malicious" if malicious else "honest",
        len(records),
        *(tally[kind] for kind in kinds),
        figure(sum(weights) / len(weights)) if weights else MISSING,
        figure(claims[-1]) if claims else MISSING,
        bounded(reasons[-1], MAX_REASON) if reasons else "",
    ]
