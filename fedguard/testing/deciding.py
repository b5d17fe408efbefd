"""How a check makes a strategy, asks it for a verdict and compares two."""

from __future__ import annotations

from collections.abc import Callable
from unittest import SkipTest

import torch
from torch import Tensor

from fedguard.strategies.base import RobustStrategy
from fedguard.testing.worlds import small_tools
from fedguard.updates import ClientUpdates, Verdict

StrategyFactory = Callable[[], RobustStrategy]


def prepare(make: StrategyFactory) -> RobustStrategy:
    """Return a fresh strategy, with a server's model and examples where it needs them."""
    strategy = make()
    if strategy.needs_server_tools and strategy.tools is None:
        strategy.tools = small_tools()
    return strategy


def decide(make: StrategyFactory, updates: ClientUpdates) -> Verdict:
    """Return a fresh strategy's verdict."""
    return prepare(make).decide(updates)


def declared(make: StrategyFactory) -> frozenset[str]:
    """Return the properties that the strategy declares."""
    return frozenset(getattr(make(), "properties", frozenset()))


def only_if(make: StrategyFactory, name: str) -> None:
    """Skip the check unless the strategy declares the property `name`."""
    if name not in declared(make):
        raise SkipTest(f"the rule does not declare {name!r}")


def assert_close(found: Tensor, wanted: Tensor, name: str, tolerance: float = 1e-4) -> None:
    """Raise `AssertionError` unless the largest difference is small beside the largest entry."""
    scale = float(wanted.abs().max().clamp(min=1e-12))
    gap = float((found - wanted).abs().max()) / scale
    assert gap <= tolerance, f"{name}: relative difference {gap:.2g}, allowed {tolerance:g}"


def check_verdict(verdict: Verdict, updates: ClientUpdates, name: str = "verdict") -> None:
    """Raise `AssertionError` unless a verdict has the shapes and ranges it promises."""
    count, size = len(updates), updates.layout.size
    delta, weights = verdict.delta, verdict.weights
    assert tuple(delta.shape) == (size,), f"{name}: delta is {tuple(delta.shape)}, not {size}"
    assert delta.dtype == torch.float32, f"{name}: delta is {delta.dtype}, not float32"
    assert bool(delta.isfinite().all()), f"{name}: delta is not finite"
    assert tuple(weights.shape) == (count,), f"{name}: {tuple(weights.shape)} weights"
    assert bool((weights >= 0).all()), f"{name}: a weight is negative or NaN"
    total = float(weights.sum())
    assert abs(total - 1) < 1e-6 or total == 0, f"{name}: the weights add up to {total:g}"
    for key, score in verdict.scores.items():
        assert tuple(score.shape) == (count,), f"{name}: {key} has shape {tuple(score.shape)}"
        # A client that was rejected early may not have been measured at all.
        unknown = score.isnan() & (weights > 0)
        assert not bool(unknown.any()), f"{name}: score {key} holds NaN"
    _check_reasons(verdict, updates, name)


def _check_reasons(verdict: Verdict, updates: ClientUpdates, name: str) -> None:
    weight = dict(zip(updates.node_ids, verdict.weights.tolist(), strict=True))
    for node, reason in verdict.reasons.items():
        assert node in weight, f"{name}: a reason for client {node}, who sent nothing"
        assert weight[node] == 0, f"{name}: client {node} has a reason and a weight"
        assert reason.strip(), f"{name}: the reason for client {node} is empty"
    silent = [node for node, share in weight.items() if share == 0 and node not in verdict.reasons]
    assert not silent, f"{name}: client {silent[:1]} was rejected without a reason"
