"""Whether a defence knows who is malicious: a coalition that behaves honestly tells nothing else.

The coalition is drawn as ever and sends its honest updates. Whoever rejects its members more often
than others has learnt who they are by another way than their updates.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fedguard.campaigns.cells import run_cell
from fedguard.errors import RunError
from fedguard.records.reader import read_run

HARMLESS = "fedguard.attacks.base:Attack"
"""The attack that does nothing, by its class, so that the coalition is there all the same."""

SEEDS = (0, 1, 2, 3)
BASE = {
    "dataset": "digits",
    "partition": "iid",
    "clients": 12,
    "malicious": 0.25,
    "rounds": 3,
    "local_epochs": 1,
}
DRAWS = 4000
LEVEL = 0.01
"""Chance at which a defence that knows nothing is refused."""


def blindness(fields: Mapping[str, Any], folder: Path | None = None) -> float:
    """Return how likely it is that a defence which knows nothing rejects the coalition so much.

    A permutation test of the difference between the coalition's rejected share and the others',
    over who is in the coalition; below `LEVEL` the defence knows.

    Parameters
    ----------
    fields : mapping
        The defence's fields of a configuration.
    folder : Path, optional
        Where its runs lie; a temporary folder if left out.

    Returns
    -------
    float
        In (0, 1]; 1 where nobody was rejected.

    Raises
    ------
    RunError
        If a run fails.
    """
    if folder is None:
        with tempfile.TemporaryDirectory(prefix="fedguard-blindness-") as made:
            return blindness(fields, Path(made))
    shares, members = [], []
    for seed in SEEDS:
        values = {**BASE, "attack": HARMLESS, "seed": seed, **fields}
        out = folder / f"s{seed}"
        result = run_cell(values, out)
        if result.state != "done":
            raise RunError(f"the check for ground truth: {result.error}")
        found = read_run(out)
        rejected: dict[str, list[float]] = {}
        for record in found.clients:
            rejected.setdefault(record.client, []).append(float(record.outcome == "rejected"))
        shares.append(np.array([np.mean(rejected[client]) for client in sorted(rejected)]))
        members.append(np.array([client in found.malicious for client in sorted(rejected)]))
    return permutation(shares, members)


def permutation(shares: Sequence[Any], members: Sequence[Any]) -> float:
    """Return the chance of so large a difference if membership were drawn anew in each run.

    Parameters
    ----------
    shares : sequence of ndarray
        (K,) share of rounds in which each client was rejected, run by run.
    members : sequence of ndarray
        (K,) whether each client is in the coalition.
    """

    def difference(drawn: Sequence[Any]) -> float:
        inside = np.concatenate([s[m] for s, m in zip(shares, drawn, strict=True)])
        outside = np.concatenate([s[~m] for s, m in zip(shares, drawn, strict=True)])
        return float(inside.mean() - outside.mean())

    seen = difference(members)
    stream = np.random.default_rng(0)
    as_large = sum(
        difference([stream.permutation(m) for m in members]) >= seen - 1e-12 for _ in range(DRAWS)
    )
    return (as_large + 1) / (DRAWS + 1)
