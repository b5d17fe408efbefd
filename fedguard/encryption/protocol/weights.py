"""Weights under encryption: what a client adds to its vector, and the mean in the sum.

A client with n examples and delta x encrypts ``(w x, w clip, c clip)`` with weight
``w = min(n / limit, 1)`` and clipped share c; the mean is the first part of the sum over the
second. The limit must be known before anyone encrypts, so clients announce ceil(log2 n), and
nothing more, in the clear.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fedguard.encryption.errors import ProtocolError
from fedguard.encryption.lattice.packing import Values

if TYPE_CHECKING:  # a client's process that only answers the protocol does without torch
    from torch import Tensor

    from fedguard.layout import ParameterLayout

EXTRAS = 2
"""Values sent beside the parameters: the client's weight and its share of clipped entries."""

MAX_EXPONENT = 30
"""Largest logarithm of a number of examples that is taken from a client."""

_WEIGHT_SPREAD = 3
_INTEGER_SCALE = 1024.0


@dataclass(frozen=True)
class GroupMean:
    """What the server learns from one cohort.

    Attributes
    ----------
    mean : ndarray
        (D,) float64, the mean delta weighted by number of examples.
    num_examples : float
        Sum of the contributors' examples, up to the weight limit of each.
    clipped : float
        Mean share of entries that contributors had to clip.
    contributors : tuple of int
        Whose updates are in the mean.
    """

    mean: Values
    num_examples: float
    clipped: float
    contributors: tuple[int, ...]


def downscaled(delta: Tensor, layout: ParameterLayout) -> Tensor:
    """Return a (D,) delta with integer buffers, such as step counts, divided to fit the clip."""
    return _scaled(delta, layout, 1 / _INTEGER_SCALE)


def upscaled(delta: Tensor, layout: ParameterLayout) -> Tensor:
    """Undo `downscaled` on a mean of deltas."""
    return _scaled(delta, layout, _INTEGER_SCALE)


def _scaled(delta: Tensor, layout: ParameterLayout, factor: float) -> Tensor:
    integers = [
        index
        for index, dtype in enumerate(layout.dtypes)
        if not np.issubdtype(np.dtype(dtype), np.floating)
    ]
    if not integers:
        return delta
    out = delta.clone()
    for index in integers:
        out[layout.offsets[index] : layout.offsets[index + 1]] *= factor
    return out


def exponent_of(num_examples: float) -> int:
    """Return ceil(log2 n): all that a client says in the clear about its number of examples."""
    exponent = math.ceil(math.log2(max(num_examples, 1)))
    return min(exponent, MAX_EXPONENT)


def weight_limit(exponents: Sequence[int]) -> int:
    """Return the number of examples that counts as weight 1 in a round.

    The largest power of two that a client announced, but at most eight times the median one: a
    single client cannot make everyone else's weight vanish in the noise by a false claim.
    """
    ordered = sorted(exponents)
    median = ordered[(len(ordered) - 1) // 2]
    return 1 << min(ordered[-1], median + _WEIGHT_SPREAD)


def weighted_values(update: Values, num_examples: float, limit: int, clip: float) -> Values:
    """Return what a client encrypts, (D + EXTRAS,).

    Parameters
    ----------
    update : ndarray
        (D,) the delta x; clipped to [-clip, clip].
    num_examples : float
        n.
    limit : int
        Number of examples that counts as weight 1.
    clip : float
        The profile's clip.
    """
    weight = min(max(num_examples, 0.0) / limit, 1.0)
    if not np.isfinite(update).all():
        raise ProtocolError("the update is not finite; nothing is encrypted")
    clipped = np.clip(update, -clip, clip)
    share = float(np.mean(clipped != update)) if update.size else 0.0
    return np.concatenate([weight * clipped, [weight * clip, share * clip]])


def group_mean(
    total: Values, size: int, clip: float, limit: int, contributors: tuple[int, ...]
) -> GroupMean:
    """Return the mean in a decrypted sum of what `weighted_values` laid out.

    Parameters
    ----------
    total : ndarray
        (D + EXTRAS, ...) the sum.
    size : int
        D.
    clip : float
        The profile's clip.
    limit : int
        Number of examples that counts as weight 1.
    contributors : tuple of int
        Whose vectors were added.
    """
    weight = total[size] / clip
    if weight <= 0:
        raise ProtocolError("the contributors' weights add up to nothing")
    return GroupMean(
        mean=total[:size] / weight,
        num_examples=float(weight * limit),
        clipped=float(max(total[size + 1] / clip / len(contributors), 0.0)),
        contributors=contributors,
    )
