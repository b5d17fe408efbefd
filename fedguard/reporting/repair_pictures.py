"""Pictures of a repair: which channels it shut, and where the model looked before and after."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from fedguard.records.reader import number, sequence, whole
from fedguard.reporting.figures import axis, styled

MAX_LAYERS, MAX_CHANNELS = 64, 1024
"""Most layers and channels of a layer that are drawn."""

MAX_PICTURES, MAX_SIDE = 4, 32

_OPEN, _SHUT = 0.0, 1.0


def channel_picture(line: Mapping[str, Any]) -> go.Figure | None:
    """Return a map of layers by channels, shut ones marked; None where a line has none.

    Parameters
    ----------
    line : mapping
        A line of ``repairs.jsonl``; from outside, so that anything may be in it.
    """
    sizes = [whole(size) or 0 for size in sequence(line.get("layer_sizes"))][:MAX_LAYERS]
    shut = sequence(line.get("shut_channels"))[: len(sizes)]
    widest = min(max(sizes, default=0), MAX_CHANNELS)
    if widest < 1:
        return None
    z = np.full((len(sizes), widest), np.nan)
    for layer, size in enumerate(sizes):
        z[layer, : max(size, 0)] = _OPEN
        for channel in sequence(shut[layer]) if layer < len(shut) else ():
            place = whole(channel)
            if place is not None and 0 <= place < min(size, widest):
                z[layer, place] = _SHUT
    names = [f"layer {layer + 1}" for layer in range(len(sizes))]
    drawn = go.Heatmap(
        z=z,
        y=names,
        zmin=_OPEN,
        zmax=_SHUT,
        showscale=False,
        xgap=1,
        ygap=2,
        colorscale=[[0, "var(--scale-low)"], [1, "var(--through)"]],
        hovertemplate="%{y}, channel %{x}: %{z}<extra>1 is shut</extra>",
    )
    figure = styled(go.Figure(drawn), 90 + 24 * len(sizes))
    return figure.update_layout(
        xaxis=axis("channel"), yaxis=axis(autorange="reversed", showgrid=False)
    )


def attention_picture(line: Mapping[str, Any]) -> go.Figure | None:
    """Return the attention on some pictures before (above) and after a repair; None without it."""
    before, after = (_maps(line.get(f"attention_{when}")) for when in ("before", "after"))
    count = min(len(before), len(after))
    if not count:
        return None
    figure = make_subplots(rows=2, cols=count, row_titles=["before", "after"])
    for row, maps in enumerate((before, after), start=1):
        for column, values in enumerate(maps[:count], start=1):
            drawn = go.Heatmap(
                z=values[::-1],
                zmin=0.0,
                zmax=1.0,
                showscale=False,
                colorscale=[[0, "var(--scale-low)"], [1, "var(--scale-high)"]],
                hovertemplate="%{z:.2f}<extra></extra>",
            )
            figure.add_trace(drawn, row=row, col=column)
    styled(figure, 320)
    return figure.update_xaxes(visible=False).update_yaxes(visible=False)


def _maps(found: object) -> list[np.ndarray]:
    """Return the (H, W) maps of a line, as many as can be read from the first on."""
    maps = []
    for one in sequence(found)[:MAX_PICTURES]:
        rows = [[number(value) for value in sequence(row)] for row in sequence(one)]
        sides = {len(row) for row in rows}
        values = [value for row in rows for value in row]
        if len(sides) != 1 or not values or max(len(rows), *sides) > MAX_SIDE or None in values:
            break
        maps.append(np.array(rows, dtype=float).clip(0.0, 1.0))
    return maps
