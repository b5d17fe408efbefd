"""The server's rows in two parts: to repair on, and to judge what it cost."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from fedguard.strategies.toolkit.server_tools import ServerTools

FEW = 300
"""Rows below which a repair by channels or attention is a gamble."""


def split_rows(
    tools: ServerTools, share: float, rng: torch.Generator
) -> tuple[ServerTools, ServerTools]:
    """Return the tools with the rows to repair on, and with those held out.

    Every stratum gives the same share, rounded down, so that a class with few rows keeps them for
    the repair; at least one row is held out in all.

    Parameters
    ----------
    tools : ServerTools
        What the server lends.
    share : float
        Share of the rows held out, above 0 to below 1.
    rng : torch.Generator
        Who is drawn.
    """
    strata = tools.task.strata(tools.y).cpu()
    order = torch.randperm(len(strata), generator=rng)
    held = torch.zeros(len(strata), dtype=torch.bool)
    for stratum in sorted(set(strata.tolist())):
        rows = order[strata[order] == stratum]
        held[rows[: int(share * len(rows))]] = True
    if not bool(held.any()):
        held[order[0]] = True
    if bool(held.all()):
        held[order[0]] = False
    away, kept = held.nonzero().flatten(), (~held).nonzero().flatten()
    return _with(tools, kept), _with(tools, away)


def _with(tools: ServerTools, rows: Tensor) -> ServerTools:
    rows = rows.to(tools.x.device)
    return replace(tools, x=tools.x[rows], y=tools.y[rows])


def score(tools: ServerTools, model: nn.Module) -> float:
    """Return the task's headline of a model on the tools' rows; higher is better, always."""
    model.eval()
    told = float(tools.task.evaluate(model, tools.x, tools.y)[tools.task.headline])
    return told if tools.task.higher_is_better else -told
