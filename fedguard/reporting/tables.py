"""The report's tables and definition lists, as HTML; every text from a run is escaped here."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from fedguard.records.reader import ClientRecord, Run, number
from fedguard.reporting.wording import MISSING, duration, figure, percent

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


def definitions(values: Mapping[str, Any], depth: int = 0) -> str:
    """Return a mapping as a definition list; nested mappings become nested lists."""
    rows = "".join(
        f"<dt>{escape(spoken(str(name)))}</dt><dd>{value_html(value, depth)}</dd>"
        for name, value in values.items()
    )
    return f"<dl>{rows}</dl>"


def spoken(name: str) -> str:
    """Return a field's name in words."""
    return name.replace("_", " ")


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


def rounds_table(run: Run) -> str:
    """Return every round's figures."""
    head = ["round", "accuracy", "attack success", "loss", "accepted", "rejected", "malformed"]
    head += ["malicious rejected", "honest rejected", "time"]
    rows = [
        [
            line["round"],
            percent(line.get("accuracy")),
            percent(line.get("attack_success_rate")),
            figure(line.get("loss")),
            *(figure(line.get(name)) for name in ("accepted", "rejected", "malformed")),
            percent(line.get("true_positive_rate")),
            percent(line.get("false_positive_rate")),
            duration(line.get("seconds")),
        ]
        for line in run.rounds
    ]
    return table(head, rows)


def clients_table(run: Run) -> str:
    """Return one line per client: its role, how often it was rejected and the last reason."""
    records: dict[str, list[ClientRecord]] = defaultdict(list)
    for record in run.clients:
        records[record.client].append(record)
    head = ["client", "role", "asked", "rejected", "malformed", "mean weight", "samples claimed"]
    rows = [
        _client_row(client, client in run.malicious, records[client]) for client in run.client_ids
    ]
    return table([*head, "latest reason"], rows, words=(1, 7))


def _client_row(client: str, malicious: bool, records: list[ClientRecord]) -> list[object]:
    tally = Counter(
        "malformed" if r.malformed else "rejected" if r.accepted is False else "accepted"
        for r in records
    )
    weights = [record.weight for record in records if record.weight is not None]
    claims = [record.num_examples for record in records if record.num_examples is not None]
    reasons = [record.reason for record in records if record.reason]
    return [
        client,
        "◆ malicious" if malicious else "honest",
        len(records),
        tally["rejected"],
        tally["malformed"],
        figure(sum(weights) / len(weights)) if weights else MISSING,
        figure(claims[-1]) if claims else MISSING,
        reasons[-1] if reasons else "",
    ]
