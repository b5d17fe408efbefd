"""Slow, obvious float64 references, and random worlds, that the tests of several rules share."""

from __future__ import annotations

import numpy as np
import torch

from fedguard.updates import ClientUpdates


def random_rows(count: int, size: int, seed: int, mean: float = 0.05, std: float = 0.1):
    rng = np.random.default_rng(seed)
    return rng.normal(mean, std, (count, size)).astype(np.float32)


def updates_of(rows, **more) -> ClientUpdates:
    return ClientUpdates.from_matrix(np.asarray(rows, dtype=np.float32), **more)


def aggregate(strategy, rows) -> np.ndarray:
    return strategy.decide(updates_of(rows)).delta.numpy().astype(np.float64)


def distances64(rows) -> np.ndarray:
    wide = np.asarray(rows, dtype=np.float64)
    return np.array([[np.linalg.norm(a - b) for b in wide] for a in wide])


def relative_error(found, wanted) -> float:
    found, wanted = np.asarray(found, np.float64), np.asarray(wanted, np.float64)
    return float(np.linalg.norm(found - wanted) / max(np.linalg.norm(wanted), 1e-300))


def krum_scores64(rows, bound: int) -> np.ndarray:
    squared = distances64(rows) ** 2
    neighbours = max(len(rows) - bound - 2, 1)
    return np.array(
        [np.sort(np.delete(row, at))[:neighbours].sum() for at, row in enumerate(squared)]
    )


def hostile_world(hostile: np.ndarray | float, seed: int = 0, size: int = 2000):
    """16 honest rows N(.05, .1^2) after 4 hostile ones, and the mean and spread of the honest."""
    honest = random_rows(16, size, seed)
    rows = np.concatenate([np.broadcast_to(np.float32(hostile), (4, size)), honest])
    centre = honest.mean(axis=0)
    spread = float(np.linalg.norm(honest - centre, axis=1).mean())
    return torch.from_numpy(np.ascontiguousarray(rows)), centre, spread
