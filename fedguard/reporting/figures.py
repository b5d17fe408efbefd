"""The report's figures, drawn by plotly.

Colours are names of the page's CSS variables, such as ``var(--accuracy)``; the page's script puts
in the colours of the theme. Texts from a run are escaped, since plotly reads a subset of HTML.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go

from fedguard.records.reader import Run, number, sequence
from fedguard.reporting.headline import Headline
from fedguard.reporting.wording import bounded

MAX_LABEL = 40
MARKERS_UP_TO = 40
"""Most rounds that are drawn with a marker each."""

_TRANSPARENT = "rgba(0,0,0,0)"


def plain(text: object, limit: int = MAX_LABEL) -> str:
    """Return a text that plotly shows as it is: escaped, on one line, of bounded length."""
    return html.escape(bounded(text, limit), quote=False)


def axis(title: str = "", **more: Any) -> dict[str, Any]:
    """Return an axis in the page's style."""
    return {
        "title": {"text": title, "standoff": 8},
        "gridcolor": "var(--line)",
        "linecolor": "var(--line)",
        "zeroline": False,
        "automargin": True,
        **more,
    }


def styled(figure: go.Figure, height: int, **layout: Any) -> go.Figure:
    """Give a figure the page's fonts, margins and colours; returns it."""
    base = {
        "template": "none",
        "height": height,
        "margin": {"l": 46, "r": 12, "t": 34, "b": 42},
        "paper_bgcolor": _TRANSPARENT,
        "plot_bgcolor": _TRANSPARENT,
        "font": {"color": "var(--muted)", "size": 12, "family": "system-ui, sans-serif"},
        "hoverlabel": {
            "bgcolor": "var(--card)",
            "bordercolor": "var(--line)",
            "font": {"color": "var(--ink)"},
            "align": "left",
        },
        "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
        "dragmode": "zoom",
    }
    return figure.update_layout({**base, **layout})


@dataclass(frozen=True)
class Line:
    """A figure of ``rounds.jsonl`` that is drawn over the rounds: field, name and looks."""

    key: str
    name: str
    colour: str
    dash: str = "solid"
    symbol: str = "circle"


SUCCESS = Line("attack_success_rate", "attack success", "var(--attack)", "dash", "diamond")


def trace(
    line: Line, rounds: Sequence[int], values: Sequence[float | None], template: str
) -> go.Scatter:
    """Return values over the rounds as a trace; few of them are marked one by one."""
    return go.Scatter(
        x=list(rounds),
        y=list(values),
        name=line.name,
        mode="lines+markers" if len(rounds) <= MARKERS_UP_TO else "lines",
        line={"color": line.colour, "width": 2.5, "dash": line.dash},
        marker={"color": line.colour, "symbol": line.symbol, "size": 7},
        connectgaps=False,
        hovertemplate=template,
    )


def over_rounds(
    traces: Sequence[go.Scatter], rounds: Sequence[int], vertical: dict[str, Any]
) -> go.Figure | None:
    """Return traces in one figure over the rounds, None without any."""
    if not traces:
        return None
    return styled(
        go.Figure(list(traces)),
        320,
        hovermode="x unified",
        showlegend=True,
        xaxis=axis("round", **round_ticks(rounds)),
        yaxis=vertical,
    )


def courses(run: Run, lines: Sequence[Line], headline: Headline | None = None) -> go.Figure | None:
    """Return figures of the rounds as lines, None where none has a value.

    Parameters
    ----------
    run : Run
        The run.
    lines : sequence of Line
        What to draw; lines without a value are left out.
    headline : Headline, optional
        Gives the unit; shares if left out.
    """
    rounds = [line["round"] for line in run.rounds]
    drawn = [(line, run.series(line.key)) for line in lines]
    known = [(line, values) for line, values in drawn if any(v is not None for v in values)]
    share = headline is None or headline.is_share
    template = "%{y:.1%}" if share else "%{y:.4g}"
    vertical = share_axis() if share else number_axis(v for _, values in known for v in values)
    traces = [trace(line, rounds, values, template) for line, values in known]
    return over_rounds(traces, rounds, vertical)


def share_axis(**more: Any) -> dict[str, Any]:
    """Return an axis from 0 to 100 percent."""
    base = {"range": [-0.02, 1.04], "tickformat": ".0%", "dtick": 0.2, "fixedrange": True}
    return axis(**{**base, **more})


def number_axis(values: Iterable[float | None]) -> dict[str, Any]:
    """Return an axis from 0, or a logarithmic one where values span a factor above 100."""
    known = [value for value in values if value is not None]
    if known and min(known) > 0 and max(known) / min(known) > 100:
        return axis(type="log", dtick=1, exponentformat="power")
    return axis(rangemode="tozero")


def round_ticks(rounds: Sequence[int]) -> dict[str, Any]:
    """Return axis settings that keep to whole rounds and never show more than about ten."""
    if not rounds:
        return {}
    first, last = min(rounds), max(rounds)
    step = next((s for s in (1, 2, 5, 10, 20, 25, 50, 100) if (last - first) / s <= 10), None)
    pad = 0.5 + 0.01 * (last - first)
    return {"range": [first - pad, last + pad], "tick0": 0, **({"dtick": step} if step else {})}


def headline_figure(run: Run) -> go.Figure | None:
    """Return the headline by round, with attack success where both are shares."""
    headline = Headline.of(run.summary)
    lead = Line(headline.name, plain(headline.words), "var(--accuracy)")
    figure = courses(run, [lead, SUCCESS] if headline.is_share else [lead], headline)
    classes = len(run.class_names)
    if figure is not None and headline.name == "accuracy" and classes > 1:
        figure.add_hline(
            y=1 / classes,
            line={"color": "var(--muted)", "width": 1, "dash": "dot"},
            annotation={"text": "guessing", "font": {"color": "var(--muted)", "size": 11}},
            annotation_position="top right",
        )
    return figure


def detection_figure(run: Run) -> go.Figure | None:
    """Return the shares of malicious and of honest updates rejected, by round."""
    caught = Line("true_positive_rate", "malicious", "var(--caught)")
    wronged = Line("false_positive_rate", "honest", "var(--wronged-line)", "dash", "x")
    return courses(run, [caught, wronged])


def loss_figure(run: Run) -> go.Figure | None:
    """Return the loss on test rows and, where it was recorded, on training rows by round."""
    test = Line("loss", "test", "var(--accuracy)")
    train = Line("train_loss", "training", "var(--caught)", "dash", "square")
    figure = courses(run, [test, train], Headline("loss", higher_is_better=False, unit="plain"))
    if figure is not None and len(figure.data) == 1:
        figure.update_layout(showlegend=False, hovermode="closest")
        figure.update_traces(hovertemplate="round %{x}: %{y:.4g}<extra></extra>")
    return figure


def recall_figure(run: Run) -> go.Figure | None:
    """Return the final model's recall of each class, with the accuracy as a line."""
    recall = [number(value) for value in sequence(run.final.get("per_class_recall"))]
    if not any(value is not None for value in recall):
        return None
    labels = [plain(name) for name in run.class_names[: len(recall)]]
    bars = go.Bar(
        x=recall,
        y=list(range(len(recall))),
        customdata=labels,
        orientation="h",
        marker={"color": "var(--accuracy)"},
        texttemplate="%{x:.1%}" if len(recall) <= 50 else "",
        textposition="outside",
        cliponaxis=False,
        hovertemplate="%{customdata}: %{x:.1%}<extra></extra>",
    )
    figure = styled(
        go.Figure(bars),
        min((32 if len(recall) <= 16 else 22) * len(recall) + 60, 1000),
        showlegend=False,
        bargap=0.25,
        margin={"l": 46, "r": 12, "t": 14, "b": 42},
        xaxis=axis(
            range=[0, 1.24], tickformat=".0%", tickvals=[0, 0.25, 0.5, 0.75, 1], fixedrange=True
        ),
        yaxis=axis(autorange="reversed", showgrid=False, **label_ticks(labels, most=50)),
    )
    return figure


def confusion_figure(run: Run) -> go.Figure | None:
    """Return the final model's (C, C) confusion of classes, None where a run does not tell."""
    rows = [
        [number(value) or 0.0 for value in sequence(row)]
        for row in sequence(run.summary.get("confusion"))
    ]
    count = len(rows)
    if not 1 < count <= 50 or any(len(row) != count for row in rows):
        return None
    names = [plain(name) for name in run.class_names[:count]]
    names += [str(label) for label in range(len(names), count)]
    totals = [max(sum(row), 1.0) for row in rows]
    hover = [
        [f"{one} taken for {other}: {value:,.0f}" for other, value in zip(names, row, strict=True)]
        for one, row in zip(names, rows, strict=True)
    ]
    shares = [[v / total for v in row] for row, total in zip(rows, totals, strict=True)]
    drawing = go.Heatmap(
        z=np.array(shares, dtype=np.float32),
        hovertext=hover,
        hovertemplate="%{hovertext}<extra></extra>",
        zmin=0,
        zmax=1,
        colorscale=[[0, "var(--scale-low)"], [0.5, "var(--scale-mid)"], [1, "var(--scale-high)"]],
        colorbar={"thickness": 10, "outlinewidth": 0, "len": 0.6, "tickformat": ".0%"},
        xgap=1,
        ygap=1,
    )
    return styled(
        go.Figure(drawing),
        min(26 * count + 90, 630),
        showlegend=False,
        margin={"l": 46, "r": 12, "t": 14, "b": 42},
        xaxis=axis("taken for", showgrid=False, **label_ticks(names, most=30)),
        yaxis=axis("class", autorange="reversed", showgrid=False, **label_ticks(names, most=50)),
    )


def label_ticks(labels: Sequence[str], most: int = 45) -> dict[str, Any]:
    """Return tick settings for rows 0, 1, ... with these labels; every n-th where too many."""
    step = max(1, -(-len(labels) // most))
    return {
        "tickmode": "array",
        "tickvals": list(range(0, len(labels), step)),
        "ticktext": list(labels[::step]),
    }


def split_counts(run: Run) -> np.ndarray:
    """Return the (clients, groups) counts of training rows, NaN where a run does not tell.

    The groups are what the task's splits balance: the classes, or one group of all rows.
    """
    split = run.summary.get("split")
    rows = sequence(split.get("counts")) if isinstance(split, dict) else []
    rows = [[number(value) for value in sequence(row)] for row in rows]
    width = max((len(row) for row in rows), default=0)
    counts = np.full((len(rows), width), np.nan)
    for position, row in enumerate(rows):
        counts[position, : len(row)] = [np.nan if value is None else value for value in row]
    return counts


def split_figure(run: Run) -> go.Figure | None:
    """Return how many rows each client holds: of each class, or in all where there is one group."""
    counts = split_counts(run)
    count, width = counts.shape
    if width == 0:
        return None
    names = [plain(name) for name in run.class_names[:width]]
    names += [str(label) for label in range(len(names), width)]
    lies = [str(client) in run.malicious for client in range(count)]
    order = sorted(range(count), key=lambda client: not lies[client])
    clients = [mark(str(client), lies[client]) for client in order]
    if width == 1:
        drawing = go.Figure(_counts_bars(counts[order, 0], clients))
        horizontal = axis("training rows", rangemode="tozero")
    else:
        drawing = go.Figure(_counts_map(counts[order], names, clients))
        horizontal = axis("class", showgrid=False, **label_ticks(names, most=30))
    return styled(
        drawing,
        min(rows_height(count), 630),
        showlegend=False,
        margin={"l": 46, "r": 12, "t": 14, "b": 42},
        xaxis=horizontal,
        yaxis=axis("client", range=[count - 0.5, -0.5], showgrid=False, **label_ticks(clients)),
        shapes=group_marks(sum(lies), count),
    )


def _counts_bars(counts: np.ndarray, clients: list[str]) -> go.Bar:
    return go.Bar(
        x=[None if np.isnan(count) else float(count) for count in counts],
        y=list(range(len(clients))),
        customdata=clients,
        orientation="h",
        marker={"color": "var(--accuracy)"},
        hovertemplate="client %{customdata}: %{x:,.0f} rows<extra></extra>",
    )


def _counts_map(counts: np.ndarray, names: list[str], clients: list[str]) -> go.Heatmap:
    # Hundreds of columns of text would only grow the page: hover names where they fit.
    total = np.nansum(counts)
    small = counts.size <= 50_000
    hover = [[f"client {client}, class {name}" for name in names] for client in clients]
    return go.Heatmap(
        z=counts.astype(np.float32 if total else np.int8),
        hovertext=hover if small else None,
        hovertemplate="%{hovertext}: %{z:,.0f} samples<extra></extra>"
        if small
        else "client %{y}, class %{x}: %{z:,.0f} samples<extra></extra>",
        zmin=0,
        colorscale=[[0, "var(--scale-low)"], [0.5, "var(--scale-mid)"], [1, "var(--scale-high)"]],
        colorbar={"thickness": 10, "outlinewidth": 0, "len": 0.6, "title": {"text": "samples"}},
        xgap=1 if small else 0,
        ygap=1 if len(clients) <= 60 else 0,
        meta={"celltext": "%{z:,.0f}", "cellwidth": 30, "cellheight": 14},
    )


def mark(client: str, malicious: bool) -> str:
    """Return a client's label on an axis; malicious ones carry a diamond."""
    return f"◆ {plain(client)}" if malicious else plain(client)


def group_marks(malicious: int, count: int) -> list[dict[str, Any]]:
    """Return shapes for a map with malicious rows on top: a bar beside them, a line below."""
    base = {"type": "line", "xref": "paper", "yref": "y", "x0": 0, "y1": malicious - 0.5}
    bar = {**base, "x1": 0, "y0": -0.5, "line": {"color": "var(--through)", "width": 5}}
    border = {"color": "var(--ink)", "width": 1.5, "dash": "dot"}
    line = {**base, "x1": 1, "y0": malicious - 0.5, "line": border}
    return [bar] * (malicious > 0) + [line] * (0 < malicious < count)


def rows_height(count: int) -> int:
    """Return a map's height in pixels: rows tall enough to read while they fit, then thinner."""
    return int(min(max(20 * count, 150), max(560, 3 * count))) + 70
