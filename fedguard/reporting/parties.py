"""The report's curves of vertical learning: what every party earned, round by round."""

from __future__ import annotations

from collections.abc import Mapping

import plotly.graph_objects as go

from fedguard.records.reader import Run
from fedguard.reporting.figures import MARKERS_UP_TO, axis, mark, over_rounds

CURVES: Mapping[str, tuple[str, str]] = {
    "tokens": ("Tokens", "What each party was paid; together exactly the round's budget."),
    "contribution": (
        "Contribution",
        "Percent by which the loss would grow without the party's embeddings.",
    ),
    "epsilon": ("Epsilon per release", "Each party moves its own along the slope of its reward."),
    "total_epsilon": ("Epsilon in total", "Of one training row, over all rounds so far."),
    "utility": ("Utility", "Tokens less what the round cost the party."),
}
"""Scores of ``clients.jsonl`` that a vertical run has, with title and caption."""

MOST = 25
"""Most parties that get a curve of their own."""


def party_figure(run: Run, name: str) -> go.Figure | None:
    """Return one score of every party over the rounds, or None where no party has it."""
    points: dict[str, tuple[list[int], list[float]]] = {}
    for record in run.clients:
        if name in record.scores:
            rounds, values = points.setdefault(record.client, ([], []))
            rounds.append(record.round)
            values.append(record.scores[name])
    if not points:
        return None
    drawn = [party for party in run.client_ids if party in points][:MOST]
    traces = [_curve(party, party in run.malicious, *points[party]) for party in drawn]
    return over_rounds(traces, [record.round for record in run.clients], axis())


def _curve(party: str, malicious: bool, rounds: list[int], values: list[float]) -> go.Scatter:
    return go.Scatter(
        x=rounds,
        y=values,
        name=f"party {mark(party, malicious)}",
        mode="lines+markers" if len(rounds) <= MARKERS_UP_TO else "lines",
        line={"width": 2.5, "dash": "dash" if malicious else "solid"},
        hovertemplate="%{y:.4g}",
    )
