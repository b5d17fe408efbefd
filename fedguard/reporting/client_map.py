"""The client-by-round map: who was rejected, who lied."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go

from fedguard.records.reader import FAILED, MALFORMED, REJECTED, SET_ASIDE, ClientRecord, Run
from fedguard.reporting.figures import (
    axis,
    group_marks,
    label_ticks,
    mark,
    plain,
    round_ticks,
    rows_height,
    styled,
)

MAX_REASONS = 4000
"""Most cells whose reason is shown on the map; all of them are in ``clients.jsonl``."""
MAX_REASON_LENGTH = 160


@dataclass(frozen=True)
class Status:
    """What a cell of the map can say: its sign, its words and its colour on the page."""

    symbol: str
    words: str
    colour: str


STATUSES = (
    Status("", "not asked", "rgba(0,0,0,0)"),
    Status("·", "honest, accepted", "var(--fine)"),
    Status("×", "honest, rejected", "var(--wronged)"),
    Status("▲", "malicious, accepted", "var(--through)"),
    Status("■", "malicious, rejected", "var(--caught-cell)"),
    Status("?", "malformed or no reply", "var(--malformed)"),
    Status("○", "took part, no verdict told", "var(--untold)"),
    Status("–", "failed: no reply or an error", "var(--failed)"),
    Status("!", "set aside: a malformed reply", "var(--set-aside)"),
)
"""The statuses in the order of their codes."""

NOT_ASKED = 0
MALICIOUS_CODES = (3, 4)
SELDOM: dict[str | None, int] = {MALFORMED: 5, None: 6, FAILED: 7, SET_ASIDE: 8}
"""Outcomes that many runs never have, with their codes."""


def status_of(record: ClientRecord, malicious: bool) -> int:
    """Return the code of a record: its place in `STATUSES`."""
    if record.outcome in SELDOM:
        return SELDOM[record.outcome]
    return 1 + 2 * malicious + (record.outcome == REJECTED)


def status_matrix(run: Run) -> tuple[np.ndarray, list[int]]:
    """Return the (clients, rounds) int8 codes in the order of `run.client_ids`, and the rounds."""
    rounds = sorted({record.round for record in run.clients})
    columns = {server_round: column for column, server_round in enumerate(rounds)}
    rows = {client: row for row, client in enumerate(run.client_ids)}
    codes = np.full((len(rows), len(rounds)), NOT_ASKED, dtype=np.int8)
    for record in run.clients:
        malicious = record.client in run.malicious
        codes[rows[record.client], columns[record.round]] = status_of(record, malicious)
    return codes, rounds


def _reasons(run: Run, rounds: list[int]) -> dict[str, str]:
    """Return the reasons that cells have, keyed by their place in the flattened map."""
    columns = {server_round: column for column, server_round in enumerate(rounds)}
    rows = {client: row for row, client in enumerate(run.client_ids)}
    told: dict[str, str] = {}
    for record in run.clients:
        if record.reason and len(told) < MAX_REASONS:
            place = rows[record.client] * len(rounds) + columns[record.round]
            told[str(place)] = plain(record.reason, MAX_REASON_LENGTH)
    return told


def _colours() -> list[list[Any]]:
    """Return a colour scale of equal steps, one per status."""
    count = len(STATUSES)
    steps: list[list[Any]] = []
    for code, status in enumerate(STATUSES):
        steps += [[code / count, status.colour], [(code + 1) / count, status.colour]]
    return steps


def client_map_figure(run: Run) -> go.Figure | None:
    """Return the map of clients (rows, malicious ones on top) by rounds (columns)."""
    if not run.clients:
        return None
    codes, rounds = status_matrix(run)
    labels = [mark(client, client in run.malicious) for client in run.client_ids]
    cells = go.Heatmap(
        x=rounds,
        y=list(range(len(labels))),
        z=codes,
        zmin=-0.5,
        zmax=len(STATUSES) - 0.5,
        colorscale=_colours(),
        showscale=False,
        xgap=1 if len(rounds) <= 120 else 0,
        ygap=1 if len(labels) <= 60 else 0,
        hovertemplate="client %{y}, round %{x}<extra></extra>",
        meta={"celltext": "%{text}", "cellwidth": 8, "cellheight": 9},
    )
    ticks = round_ticks(rounds)
    ticks["range"] = [rounds[0] - 0.5, rounds[-1] + 0.5]
    return styled(
        go.Figure(cells),
        rows_height(len(labels)),
        showlegend=False,
        margin={"l": 46, "r": 12, "t": 14, "b": 42},
        xaxis=axis("round", showgrid=False, **ticks),
        yaxis=axis(
            "client (◆ malicious)" if run.malicious else "client",
            range=[len(labels) - 0.5, -0.5],
            showgrid=False,
            **label_ticks(labels),
        ),
        shapes=group_marks(sum(c in run.malicious for c in run.client_ids), len(labels)),
        meta={
            "map": {
                "labels": labels,
                "symbols": [status.symbol for status in STATUSES],
                "words": [status.words for status in STATUSES],
                "reasons": _reasons(run, rounds),
            }
        },
    )
