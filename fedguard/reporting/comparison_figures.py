"""The figures of a comparison: heat maps, curves with bands, detection, the Pareto front."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from fedguard.reporting.comparison import Comparison, Group, Standing, class_count
from fedguard.reporting.figures import axis, plain, round_ticks, styled
from fedguard.reporting.wording import percent

COLOURS = tuple("abcdefgh")
DASHES = ("solid", "dash", "dot", "dashdot")
SYMBOLS = ("circle", "diamond", "square", "x", "triangle-up", "cross", "star", "pentagon")
MAX_LINES = 16
"""Most defences in one figure of curves: the best by worst case."""
MAX_MAPS = 12
"""Most heat maps of fraction by heterogeneity, one per defence."""
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


# --- heat maps -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Grid:
    """A table of accuracies: rows by columns, with what each cell is made of."""

    rows: list[str]
    columns: list[str]
    values: np.ndarray
    notes: list[list[str]]


def defence_grid(comparison: Comparison) -> Grid:
    """Return accuracy by defence and scenario, with the worst case in the first column."""
    standings = comparison.standings
    columns = ["worst case", *comparison.scenarios]
    values = np.full((len(standings), len(columns)), np.nan)
    notes = [[""] * len(columns) for _ in standings]
    for row, standing in enumerate(standings):
        values[row, 0] = standing.worst_accuracy
        notes[row][0] = f"under {standing.worst_scenario}"
        for column, scenario in enumerate(comparison.scenarios, start=1):
            group = comparison.groups.get((standing.defence, scenario))
            if group is not None:
                values[row, column] = _or_nan(group.mean("accuracy"))
                notes[row][column] = seeds_note(group)
    return Grid([s.defence for s in standings], columns, values, notes)


def _or_nan(value: float | None) -> float:
    return float("nan") if value is None else value


def seeds_note(group: Group) -> str:
    """Return a group's seeds and their range in words."""
    spread = group.spread("accuracy")
    if spread is None:
        return "no accuracy recorded"
    if spread.n == 1:
        return "one seed"
    return f"{spread.n} seeds, {percent(spread.low)} to {percent(spread.high)}"


def heterogeneity_field(comparison: Comparison) -> str | None:
    """Return the varying field that says how unlike the clients' data are, or None."""
    fields = ("partition.alpha", "partition.q", "partition.labels_per_client", "partition")
    return next((field for field in fields if comparison.varying(field)), None)


def has_fraction_grid(comparison: Comparison) -> bool:
    """Return whether both attacker fraction and heterogeneity vary."""
    return bool(comparison.varying("malicious")) and heterogeneity_field(comparison) is not None


def fraction_grid(comparison: Comparison, defence: str) -> Grid:
    """Return a defence's worst accuracy by attacker fraction and heterogeneity.

    A cell is the lowest mean over seeds among all attacks and other settings in it.
    """
    field = heterogeneity_field(comparison) or "partition"
    fractions = comparison.varying("malicious")
    columns = comparison.varying(field)
    values = np.full((len(fractions), len(columns)), np.nan)
    notes = [[""] * len(columns) for _ in fractions]
    for group in comparison.of_defence(defence):
        first = group.entries[0]
        row = fractions.index(comparison.value("malicious", first))
        column = columns.index(comparison.value(field, first))
        accuracy = group.mean("accuracy")
        if accuracy is not None and not values[row, column] <= accuracy:
            values[row, column] = accuracy
            notes[row][column] = f"under {group.scenario}; {seeds_note(group)}"
    name = field.rpartition(".")[2]
    return Grid(
        [f"{100 * float(value):g} %" for value in fractions],
        [f"{name} {value}" for value in columns],
        values,
        notes,
    )


def heat_map(grid: Grid, *, rule: int = 0, compact: bool = False) -> go.Figure:
    """Return a heat map with every cell's number printed.

    Parameters
    ----------
    grid : Grid
        What to draw.
    rule : int
        Columns in front of a dividing line; 0 draws none.
    compact : bool
        Smaller cells.
    """
    text = [["" if np.isnan(v) else f"{100 * v:.0f}" for v in row] for row in grid.values]
    hover = [
        [
            f"{plain(row)}, {plain(column)}: {percent(value)}<br>{plain(note)}"
            for column, value, note in zip(grid.columns, values, notes, strict=True)
        ]
        for row, values, notes in zip(grid.rows, grid.values, grid.notes, strict=True)
    ]
    cells = go.Heatmap(
        z=[[None if np.isnan(v) else round(float(v), 4) for v in row] for row in grid.values],
        x=list(range(len(grid.columns))),
        y=list(range(len(grid.rows))),
        text=text,
        texttemplate="%{text}",
        hovertext=hover,
        hovertemplate="%{hovertext}<extra></extra>",
        hoverongaps=False,
        zmin=0,
        zmax=1,
        colorscale=[[0, "var(--scale-low)"], [0.5, "var(--scale-mid)"], [1, "var(--scale-high)"]],
        showscale=False,
        xgap=2,
        ygap=2,
    )
    tall = 34 if compact else 40
    longest = max((len(column) for column in grid.columns), default=0)
    slanted = len(grid.columns) * max(longest, 4) > 44
    base = min(6 * min(longest, 40), 190) if slanted else 24
    line = {"color": "var(--ink)", "width": 1.5, "dash": "dot"}
    at = {"xref": "x", "yref": "paper", "x0": rule - 0.5, "x1": rule - 0.5, "y0": 0, "y1": 1}
    return styled(
        go.Figure(cells),
        min(max(tall * len(grid.rows), 80), 900) + base + 36,
        showlegend=False,
        margin={"l": 46, "r": 12, "t": 14, "b": base},
        xaxis=axis(showgrid=False, **_ticks(grid.columns, -40 if slanted else 0)),
        yaxis=axis(showgrid=False, autorange="reversed", **_ticks(grid.rows, 0)),
        shapes=[{"type": "line", "line": line, **at}] if rule else [],
    )


def _ticks(labels: Sequence[str], angle: int) -> dict[str, Any]:
    folded = [_folded(plain(label)) for label in labels]
    return {
        "tickmode": "array",
        "tickvals": list(range(len(labels))),
        "ticktext": folded,
        "tickangle": angle,
        "fixedrange": True,
    }


def _folded(text: str, width: int = 16) -> str:
    """Return a label on several lines, folded at spaces."""
    lines = [""]
    for word in text.split(" "):
        if lines[-1] and len(lines[-1]) + len(word) >= width:
            lines.append(word)
        else:
            lines[-1] = f"{lines[-1]} {word}".strip()
    return "<br>".join(lines)


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
        [round(float(pick(values[r])), 5) if values[r] else None for r in rounds]
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


def _line(found: Course, look: Style, name: str, legend: bool) -> go.Scatter:
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
        hovertemplate="%{y:.1%}",
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
            traces.append((row, _line(found, look, defence, legend)))
            legend = False
    if not traces:
        return None
    drawing = make_subplots(rows=len(panels), cols=1, shared_xaxes=True, vertical_spacing=0.1)
    for row, trace in traces:
        drawing.add_trace(trace, row=row, col=1)
    _arrange(drawing, comparison, panels, sorted(rounds))
    return drawing


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
    drawing.update_yaxes(**axis(range=[-0.02, 1.04], tickformat=".0%", dtick=0.25, fixedrange=True))
    if len(panels) > 1:
        for row, (_, title) in enumerate(panels, start=1):
            drawing.update_yaxes(title={"text": title, "standoff": 8}, row=row, col=1)
    classes = class_count(comparison.entries[0])
    if panels[0][0] == "accuracy" and classes > 1:
        line = {"color": "var(--muted)", "width": 1, "dash": "dot"}
        drawing.add_hline(y=1 / classes, line=line, row=1, col=1)


# --- Pareto front ----------------------------------------------------------------------------


def pareto_figure(comparison: Comparison) -> go.Figure | None:
    """Return worst accuracy against seconds per round; filled markers are on the front."""
    places = {defence: place for place, defence in enumerate(comparison.defences)}
    shown = [s for s in comparison.standings if s.complete and s.seconds]
    if not shown:
        return None
    dots = [_dot(standing, style(places[standing.defence])) for standing in shown]
    drawing = styled(
        go.Figure(dots),
        340,
        showlegend=False,
        xaxis=axis("seconds per round", type="log", nticks=6),
        yaxis=axis("worst-case accuracy", range=[-0.02, 1.08], tickformat=".0%", fixedrange=True),
    )
    seconds = [standing.seconds or 1.0 for standing in shown]
    ends = np.log10([min(seconds), max(seconds)])
    pad = max(0.18 * float(ends[1] - ends[0]), 0.15)
    return drawing.update_xaxes(range=[float(ends[0]) - pad, float(ends[1]) + pad])


def _dot(standing: Standing, look: Style) -> go.Scatter:
    symbol = look.symbol if standing.front else f"{look.symbol}-open"
    success = (
        ""
        if standing.worst_success is None
        else f"<br>attack success {percent(standing.worst_success)}"
    )
    front = "on the front" if standing.front else "beaten by another"
    return go.Scatter(
        x=[standing.seconds],
        y=[standing.worst_accuracy],
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
        hovertemplate=f"%{{text}}: %{{y:.1%}}, %{{x:.3g}} s a round{success}"
        f"<br>{front}<extra></extra>",
    )
