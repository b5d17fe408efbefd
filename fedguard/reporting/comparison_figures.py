"""The figures of a comparison over the rounds, with bands over the seeds, and the Pareto front."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from fedguard.reporting.comparison import Comparison, Group, Standing, class_count
from fedguard.reporting.figures import (
    axis,
    number_axis,
    plain,
    round_ticks,
    share_axis,
    styled,
)
from fedguard.reporting.headline import Headline
from fedguard.reporting.wording import percent

COLOURS = tuple("abcdefgh")
DASHES = ("solid", "dash", "dot", "dashdot")
SYMBOLS = ("circle", "diamond", "square", "x", "triangle-up", "cross", "star", "pentagon")
MAX_LINES = 16
"""Most defences in one figure of curves: the best by worst case."""
SHARES = ("attack_success_rate", "true_positive_rate", "false_positive_rate")
"""Figures that are shares of 1 whatever the headline."""
MARKERS = 8
"""Markers along a line, at most; they tell lines apart without colour."""


@dataclass(frozen=True)
class Style:
    """How a defence is drawn, the same in every figure: its key, colours, dash and marker."""

    key: str
    colour: str
    band: str
    dash: str
    symbol: str


def style(place: int) -> Style:
    """Return the style of the defence at a place; colours repeat with another dash."""
    letter = COLOURS[place % len(COLOURS)]
    turn = place // len(COLOURS)
    return Style(
        str(place),
        f"var(--series-{letter})",
        f"var(--band-{letter})",
        DASHES[(place + turn) % len(DASHES)],
        SYMBOLS[place % len(SYMBOLS)],
    )


# --- curves ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Course:
    """A figure over the rounds: mean, lowest and highest of the seeds."""

    rounds: list[int]
    mean: list[float | None]
    low: list[float | None]
    high: list[float | None]


def course(group: Group, metric: str) -> Course | None:
    """Return a figure's course over a group's seeds, or None where it was never recorded."""
    values: dict[int, list[float]] = {}
    for entry in group.entries:
        rounds = [line["round"] for line in entry.run.rounds]
        for server_round, value in zip(rounds, entry.run.series(metric), strict=True):
            seen = values.setdefault(server_round, [])
            if value is not None:
                seen.append(value)
    if not any(values.values()):
        return None
    rounds = sorted(values)
    columns: list[list[float | None]] = [
        [float(f"{pick(values[r]):.6g}") if values[r] else None for r in rounds]
        for pick in (np.mean, min, max)
    ]
    return Course(rounds, *columns)


def _band(found: Course, look: Style) -> go.Scatter:
    known = [
        (r, low, high)
        for r, low, high in zip(found.rounds, found.low, found.high, strict=True)
        if low is not None
    ]
    return go.Scatter(
        x=[r for r, _, _ in known] + [r for r, _, _ in reversed(known)],
        y=[high for _, _, high in known] + [low for _, low, _ in reversed(known)],
        fill="toself",
        fillcolor=look.band,
        line={"width": 0},
        mode="lines",
        hoverinfo="skip",
        showlegend=False,
        legendgroup=look.key,
    )


def _line(found: Course, look: Style, name: str, legend: bool, share: bool) -> go.Scatter:
    step = -(-len(found.rounds) // MARKERS)
    sizes = [7 if place % step == 0 else 0 for place in range(len(found.rounds))]
    return go.Scatter(
        x=found.rounds,
        y=found.mean,
        name=plain(name),
        mode="lines+markers",
        line={"color": look.colour, "width": 2, "dash": look.dash},
        marker={"color": look.colour, "symbol": look.symbol, "size": sizes, "line": {"width": 0}},
        legendgroup=look.key,
        showlegend=legend,
        hovertemplate="%{y:.1%}" if share else "%{y:.4g}",
    )


def drawn_defences(comparison: Comparison) -> list[str]:
    """Return the defences that figures of curves show, in the comparison's order."""
    best = {standing.defence for standing in comparison.standings[:MAX_LINES]}
    return [defence for defence in comparison.defences if defence in best]


def curves_figure(
    comparison: Comparison, scenario: str, panels: Sequence[tuple[str, str]]
) -> go.Figure | None:
    """Return figures over the rounds under one scenario, a line with a band per defence.

    Parameters
    ----------
    comparison : Comparison
        The runs.
    scenario : str
        Label of what the defences face.
    panels : sequence of (str, str)
        Metric and title of each panel, one above the other.
    """
    traces: list[tuple[int, go.Scatter]] = []
    rounds: set[int] = set()
    for place, defence in enumerate(drawn_defences(comparison)):
        group = comparison.groups.get((defence, scenario))
        legend = True
        for row, (metric, _) in enumerate(panels, start=1):
            found = None if group is None else course(group, metric)
            if found is None:
                continue
            rounds.update(found.rounds)
            look = style(place)
            if group is not None and len(group.entries) > 1:
                traces.append((row, _band(found, look)))
            share = metric in SHARES or comparison.headline.is_share
            traces.append((row, _line(found, look, defence, legend, share)))
            legend = False
    if not traces:
        return None
    drawing = make_subplots(rows=len(panels), cols=1, shared_xaxes=True, vertical_spacing=0.1)
    for row, trace in traces:
        drawing.add_trace(trace, row=row, col=1)
    _arrange(drawing, comparison, panels, sorted(rounds))
    return drawing


def _axis_name(row: int) -> str:
    return "y" if row == 1 else f"y{row}"


def _arrange(
    drawing: go.Figure, comparison: Comparison, panels: Sequence[tuple[str, str]], rounds: list[int]
) -> None:
    lines = -(-len(drawn_defences(comparison)) // 2)
    styled(
        drawing,
        90 + 210 * len(panels) + 20 * lines,
        showlegend=True,
        hovermode="x unified" if len(panels) == 1 else "x",
        margin={"l": 46, "r": 12, "t": 22, "b": 42 + 20 * lines},
        legend={"orientation": "h", "x": 0, "y": 0, "yref": "container", "yanchor": "bottom"},
    )
    drawing.update_xaxes(**axis(**round_ticks(rounds)))
    drawing.update_xaxes(title={"text": "round", "standoff": 8}, row=len(panels), col=1)
    for row, (metric, _) in enumerate(panels, start=1):
        drawn = (y for t in drawing.data if t.yaxis == _axis_name(row) for y in t.y)
        share = metric in SHARES or comparison.headline.is_share
        drawing.update_yaxes(
            **share_axis(dtick=0.25) if share else number_axis(drawn), row=row, col=1
        )
    if len(panels) > 1:
        for row, (_, title) in enumerate(panels, start=1):
            drawing.update_yaxes(title={"text": title, "standoff": 8}, row=row, col=1)
    classes = class_count(comparison.entries[0])
    if panels[0][0] == "accuracy" and classes > 1:
        line = {"color": "var(--muted)", "width": 1, "dash": "dot"}
        drawing.add_hline(y=1 / classes, line=line, row=1, col=1)


# --- Pareto front ----------------------------------------------------------------------------


def pareto_figure(comparison: Comparison) -> go.Figure | None:
    """Return the worst case against seconds per round; filled markers are on the front."""
    lead = comparison.headline
    places = {defence: place for place, defence in enumerate(comparison.defences)}
    finite = [s for s in comparison.standings if math.isfinite(s.worst)]
    shown = [s for s in finite if s.complete and s.seconds]
    if not shown:
        return None
    dots = [_dot(standing, style(places[standing.defence]), lead) for standing in shown]
    name = f"worst-case {plain(lead.words)}"
    vertical = share_axis(range=[-0.02, 1.08], dtick=None) if lead.is_share else axis()
    vertical["title"] = {"text": name, "standoff": 8}
    if not lead.higher_is_better:
        vertical |= {"autorange": "reversed", "range": None}
    drawing = styled(
        go.Figure(dots),
        340,
        showlegend=False,
        xaxis=axis("seconds per round", type="log", nticks=6),
        yaxis=vertical,
    )
    seconds = [standing.seconds or 1.0 for standing in shown]
    ends = np.log10([min(seconds), max(seconds)])
    pad = max(0.18 * float(ends[1] - ends[0]), 0.15)
    return drawing.update_xaxes(range=[float(ends[0]) - pad, float(ends[1]) + pad])


def _dot(standing: Standing, look: Style, lead: Headline) -> go.Scatter:
    symbol = look.symbol if standing.front else f"{look.symbol}-open"
    success = (
        ""
        if standing.worst_success is None
        else f"<br>attack success {percent(standing.worst_success)}"
    )
    front = "on the front" if standing.front else "beaten by another"
    return go.Scatter(
        x=[standing.seconds],
        y=[standing.worst],
        mode="markers+text",
        text=[plain(standing.defence)],
        textposition="top center",
        textfont={"color": "var(--ink)", "size": 11},
        cliponaxis=False,
        marker={
            "color": look.colour,
            "size": 13,
            "symbol": symbol,
            "line": {"width": 2, "color": look.colour},
        },
        hovertemplate=f"%{{text}}: {lead.text(standing.worst)}, %{{x:.3g}} s a round{success}"
        f"<br>{front}<extra></extra>",
    )
