"""How a defence's scores are distributed among honest and among malicious updates."""

from __future__ import annotations

from typing import Any

import numpy as np
import plotly.graph_objects as go

from fedguard.records.reader import Run
from fedguard.reporting.figures import axis, styled

BINS = 40
MAX_SCORES = 24
"""Most scores that get a figure of their own."""
MAX_SCORE = 1e150
"""Largest size of a score on an axis; beyond it, arithmetic on the axis could overflow."""


def pooled_scores(run: Run) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return for each score its (honest, malicious) values over all clients and rounds."""
    pools: dict[str, tuple[list[float], list[float]]] = {}
    for record in run.clients:
        for name, value in record.scores.items():
            pools.setdefault(name, ([], []))[record.malicious].append(value)
    return {name: (np.array(a), np.array(b)) for name, (a, b) in pools.items()}


def score_edges(values: np.ndarray) -> tuple[np.ndarray, bool]:
    """Return the bins' edges for a score and whether they are spaced on a logarithmic scale.

    A positive score that spans a factor above 100 is binned by its logarithm. Otherwise values
    further than 20 interquartile ranges from the quartiles do not stretch the axis: the outermost
    bins take them.
    """
    values = np.clip(values, -MAX_SCORE, MAX_SCORE)
    low, high = float(values.min()), float(values.max())
    if low > 0 and high / low > 100:
        return np.geomspace(low, high, BINS + 1), True
    first, third = np.quantile(values, [0.25, 0.75])
    reach = 20 * (third - first)
    if reach > 0:
        low, high = max(low, float(first - reach)), min(high, float(third + reach))
    if high - low <= 1e-9 * max(abs(low), abs(high), 1e-300):
        pad = abs(low) * 0.05 or 0.5
        low, high = low - pad, high + pad
    return np.linspace(low, high, BINS + 1), False


def _outline(name: str, values: np.ndarray, edges: np.ndarray, **style: Any) -> go.Scatter:
    """Return a histogram's outline as shares of its own group."""
    counts, _ = np.histogram(np.clip(values, edges[0], edges[-1]), edges)
    shares = np.append(counts / max(len(values), 1), 0.0)
    return go.Scatter(
        x=np.concatenate([edges[:1], edges]),
        y=np.concatenate([[0.0], shares]),
        name=name,
        mode="lines",
        line={"shape": "hv", "color": style["colour"], "width": 2, "dash": style["dash"]},
        fill="tozeroy",
        fillcolor=style["fill"],
        fillpattern={"shape": style["pattern"], "fgcolor": style["colour"], "size": 6},
        hovertemplate="%{y:.1%}",
    )


def score_figure(honest: np.ndarray, malicious: np.ndarray) -> go.Figure:
    """Return how one score is distributed among honest and among malicious updates."""
    edges, logarithmic = score_edges(np.concatenate([honest, malicious]))
    traces = []
    if len(honest):
        style = {"colour": "var(--honest-line)", "fill": "var(--honest-fill)", "dash": "solid"}
        traces.append(_outline("honest", honest, edges, pattern="", **style))
    if len(malicious):
        style = {"colour": "var(--through)", "fill": "var(--through-fill)", "dash": "dot"}
        traces.append(_outline("malicious", malicious, edges, pattern="/", **style))
    horizontal = axis(nticks=6)
    if logarithmic:
        decades = float(np.log10(edges[-1] / edges[0]))
        horizontal = axis(type="log", exponentformat="power", dtick=max(1, round(decades / 6)))
    return styled(
        go.Figure(traces),
        240,
        hovermode="x unified",
        showlegend=True,
        margin={"l": 46, "r": 12, "t": 34, "b": 28},
        xaxis=horizontal,
        yaxis=axis(tickformat=".0%", rangemode="tozero", nticks=5),
    )
