"""The report's sections about repairs and audits: their figures, as a table and over the rounds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import plotly.graph_objects as go

from fedguard.records.reader import Run, mapping, number
from fedguard.reporting import tables
from fedguard.reporting.figures import Line, number_axis, over_rounds, plain, trace
from fedguard.reporting.page import figure_card
from fedguard.reporting.repair_pictures import attention_picture, channel_picture
from fedguard.reporting.wording import MISSING, bounded, counted, duration, figure, spoken

MAX_CURVES = 6
"""Most figures of one repair or audit that are drawn; the table has them all."""
MAX_COLUMNS = 24
MAX_NAME = 60
PICTURED = ("layer_sizes", "shut_channels", "attention_before", "attention_after")
"""Fields of a repair that are drawn as pictures of the last round, not listed."""


def repairs_section(run: Run) -> str:
    """Return what the repairs did, an empty string for a run without ``repairs.jsonl``."""
    when = run.summary.get("repair_at")
    lead = f"What a repair measured and took, asked for {when}." if when else ""
    return _section(run.repairs, "repair", lead, {})


def audits_section(run: Run) -> str:
    """Return what the audits saw, an empty string for a run without ``audits.jsonl``."""
    lead = "Audits look at the run and change nothing."
    return _section(run.audits, "audit", lead, mapping(run.summary.get("audits")))


def _section(
    lines: Sequence[Mapping[str, Any]], kind: str, lead: str, ends: Mapping[str, Any]
) -> str:
    """Return a block per repair or audit: what it found in the end, its curves and its table."""
    if not lines:
        return ""
    by_name: dict[str, list[Mapping[str, Any]]] = {}
    for line in lines:
        by_name.setdefault(str(line[kind]), []).append(line)
    blocks = "".join(
        _block(name, kind, members, ends.get(name)) for name, members in by_name.items()
    )
    words = f'<p class="lead">{escape(bounded(lead, 200))}</p>' if lead else ""
    return f'{words}<div class="stack">{blocks}</div>'


def _block(name: str, kind: str, lines: Sequence[Mapping[str, Any]], end: object) -> str:
    names = [field for field in _fields(lines) if field not in ("round", kind, *PICTURED)]
    rounds = [line["round"] for line in lines]
    curves = "".join(
        figure_card(event_figure(field, rounds, lines), bounded(spoken(field), MAX_NAME))
        for field in [f for f in names if _drawable(f, lines)][:MAX_CURVES]
    )
    found = tables.value_html(end) if end else ""
    shown = names[:MAX_COLUMNS]
    rows = [[line["round"], *(_cell(field, line.get(field)) for field in shown)] for line in lines]
    listed = tables.table(["round", *(bounded(spoken(field), MAX_NAME) for field in shown)], rows)
    times = f'<p class="caption">{counted(len(lines), "time")}</p>'
    own = tables.card(bounded(name, MAX_NAME), times + found + listed)
    drawn = "".join(
        figure_card(picture, title)
        for picture, title in (
            (channel_picture(lines[-1]), "channels that are shut after the last repair"),
            (attention_picture(lines[-1]), "where the model looks, before and after"),
        )
        if picture is not None
    )
    return f'{own}<div class="grid small">{curves}</div>{drawn}'


def _fields(lines: Sequence[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(field for line in lines for field in line))


def _drawable(field: str, lines: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether a field has numbers of two rounds or more; how long it took is no figure."""
    return field != "seconds" and sum(number(line.get(field)) is not None for line in lines) > 1


def event_figure(
    field: str, rounds: Sequence[int], lines: Sequence[Mapping[str, Any]]
) -> go.Figure | None:
    """Return one figure of a repair or an audit over the rounds in which it was due."""
    values = [number(line.get(field)) for line in lines]
    look = Line(field, plain(spoken(field)), "var(--accuracy)")
    drawn = over_rounds([trace(look, rounds, values, "%{y:.4g}")], rounds, number_axis(values))
    return None if drawn is None else drawn.update_layout(height=240, showlegend=False)


def _cell(field: str, value: object) -> str:
    if field == "seconds":
        return duration(value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if number(value) is not None:
        return figure(value)
    return MISSING if value is None else bounded(value, 120)
