"""The heat maps of a comparison: defences by scenarios, attacker fractions by heterogeneity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go

from fedguard.reporting.comparison import Comparison, Group
from fedguard.reporting.figures import axis, plain, styled
from fedguard.reporting.headline import Headline

MAX_MAPS = 12
"""Most heat maps of fraction by heterogeneity, one per defence."""


@dataclass(frozen=True)
class Grid:
    """A table of headlines: rows by columns, with what each cell is made of."""

    rows: list[str]
    columns: list[str]
    values: np.ndarray
    notes: list[list[str]]
    headline: Headline


def defence_grid(comparison: Comparison) -> Grid:
    """Return the headline by defence and scenario, with the worst case in the first column."""
    standings = comparison.standings
    columns = ["worst case", *comparison.scenarios]
    values = np.full((len(standings), len(columns)), np.nan)
    notes = [[""] * len(columns) for _ in standings]
    for row, standing in enumerate(standings):
        values[row, 0] = standing.worst
        notes[row][0] = f"under {standing.worst_scenario}"
        for column, scenario in enumerate(comparison.scenarios, start=1):
            group = comparison.groups.get((standing.defence, scenario))
            if group is not None:
                values[row, column] = _or_nan(group.mean(group.headline.name))
                notes[row][column] = seeds_note(group)
    return Grid([s.defence for s in standings], columns, values, notes, comparison.headline)


def _or_nan(value: float | None) -> float:
    return float("nan") if value is None else value


def seeds_note(group: Group) -> str:
    """Return a group's seeds and their range in words."""
    lead = group.headline
    spread = group.spread(lead.name)
    if spread is None:
        return f"no {lead.words} recorded"
    if spread.n == 1:
        return "one seed"
    return f"{spread.n} seeds, {lead.text(spread.low)} to {lead.text(spread.high)}"


def heterogeneity_field(comparison: Comparison) -> str | None:
    """Return the varying field that says how unlike the clients' data are, or None."""
    fields = ("partition.alpha", "partition.q", "partition.labels_per_client", "partition")
    return next((field for field in fields if comparison.varying(field)), None)


def has_fraction_grid(comparison: Comparison) -> bool:
    """Return whether both attacker fraction and heterogeneity vary."""
    return bool(comparison.varying("malicious")) and heterogeneity_field(comparison) is not None


def fraction_grid(comparison: Comparison, defence: str) -> Grid:
    """Return a defence's worst headline by attacker fraction and heterogeneity.

    A cell is the worst mean over seeds among all attacks and other settings in it.
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
        lead = group.headline
        value = group.mean(lead.name)
        if value is not None and not lead.gain(values[row, column]) <= lead.gain(value):
            values[row, column] = value
            notes[row][column] = f"under {group.scenario}; {seeds_note(group)}"
    name = field.rpartition(".")[2]
    return Grid(
        [f"{100 * float(value):g} %" for value in fractions],
        [f"{name} {value}" for value in columns],
        values,
        notes,
        comparison.headline,
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
    lead = grid.headline
    text = [[lead.cell(float(v), 0) for v in row] for row in grid.values]
    hover = [
        [
            f"{plain(row)}, {plain(column)}: {lead.text(float(value))}<br>{plain(note)}"
            for column, value, note in zip(grid.columns, values, notes, strict=True)
        ]
        for row, values, notes in zip(grid.rows, grid.values, grid.notes, strict=True)
    ]
    cells = go.Heatmap(
        z=[[None if np.isnan(v) else round(float(v), 4) for v in row] for row in shades(grid)],
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


def shades(grid: Grid) -> np.ndarray:
    """Return how good each cell is, 0 to 1, for its colour; NaN where nothing was measured.

    A share is its own shade. Of plain numbers the worst and the best finite one are the ends, on a
    logarithmic scale where they span a factor above 100; an infinite one is as dark as the worst.
    """
    if grid.headline.is_share:
        return grid.values if grid.headline.higher_is_better else 1 - grid.values
    values = np.where(np.isinf(grid.values), np.nan, grid.values)
    if np.isnan(values).all():
        return np.where(np.isnan(grid.values), np.nan, 0.0)
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    if low > 0 and high / low > 100:
        values, low, high = np.log(values), float(np.log(low)), float(np.log(high))
    place = (values - low) / (high - low) if high > low else np.where(np.isnan(values), values, 1.0)
    shade = place if grid.headline.higher_is_better or high == low else 1 - place
    return np.where(np.isinf(grid.values), 0.0, shade)


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
