"""Model-weight analysis: copies, clusters and outliers among a round's updates."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from fedguard.strategies.toolkit.averaging import beyond_the_others, clip_factors, median
from fedguard.strategies.toolkit.claims import claimed_reach
from fedguard.strategies.toolkit.clustering import Labels, off_diagonal_median
from fedguard.strategies.toolkit.coordinates import coordinate_median
from fedguard.strategies.toolkit.judged_round import JudgedRound
from fedguard.updates import ClientUpdates

COPY_RADIUS = 0.05
"""Updates closer than this share of `usual_distance`, and of their length, are one vote."""

FEWEST_TO_OPPOSE = 5
"""Clients still in with fewer of which none is told to oppose the others."""

OPPOSED = 0.4
"""Median norms by which an update may pull against the others, whatever the evidence."""

ALIKE = 0.9
"""Cosine above which an update goes the same way as another."""

AGREES = 0.5
"""Cosine with the average of the others from which an update may be as long as lengths differ."""

FEWEST_TO_SPREAD = 5
"""Lengths of so many clients tell how much lengths differ."""

COPY_BLOCK = 3
"""So many updates or more that are alike make a block; near-identical ones are rejected."""


def scaled(distances: np.ndarray) -> np.ndarray:
    """Return half the distances in units of their median; zeros where the median is 0."""
    middle = off_diagonal_median(distances)
    return distances / (2.0 * middle) if middle > 0.0 else np.zeros_like(distances)


def central_largest_cluster(labels: Labels, updates: ClientUpdates) -> int:
    """Return the largest cluster; of equally large ones that nearest to the median update."""
    sizes = np.bincount(labels)
    gaps = _gaps_to_median(labels, updates)
    return min(range(len(sizes)), key=lambda label: (-sizes[label], gaps[label]))


def _gaps_to_median(labels: Labels, updates: ClientUpdates) -> list[float]:
    """Return each cluster's median distance to the coordinate-wise median of its members."""
    centre = coordinate_median(updates.trainable)
    gaps = torch.stack([(row - centre).to(torch.float64).norm() for row in updates.trainable])
    return [float(gaps[torch.as_tensor(labels == k)].median()) for k in range(labels.max() + 1)]


def usual_distance(distance: np.ndarray) -> float:
    """Return how far honest clients are apart, whatever a minority sends; 0 for fewer than two.

    The lower median over clients of each one's lower median distance to the others. Unlike the
    median of all pairs, which 30 % of far-away clients have a part in more than half of, it lies
    within the distances of honest clients as long as these are more than half.

    Parameters
    ----------
    distance : ndarray
        (K, K) symmetric, zero diagonal.
    """
    count = len(distance)
    if count < 2:
        return 0.0
    others = np.sort(distance[~np.eye(count, dtype=bool)].reshape(count, count - 1), axis=1)
    return float(np.sort(others[:, (count - 2) // 2])[(count - 1) // 2])


def copy_votes(distance: np.ndarray, norms: np.ndarray) -> Labels:
    """Return which vote each client belongs to: near-identical updates share one.

    Closer than `COPY_RADIUS` of `usual_distance`, and of their own length: clients that have
    nothing left to learn send next to nothing, all of them, and are no copies for it.

    Parameters
    ----------
    distance : ndarray
        (K, K) symmetric, zero diagonal.
    norms : ndarray
        (K,) lengths of the updates.
    """
    radius = COPY_RADIUS * np.minimum(usual_distance(distance), norms)
    votes = np.full(len(distance), -1, dtype=np.int64)
    vote = 0
    for row in range(len(distance)):
        if votes[row] < 0:
            votes[(distance[row] <= radius[row]) & (votes < 0)] = vote
            vote += 1
    return votes


def reject_copies(state: JudgedRound, votes: Labels) -> None:
    """Reject blocks of copies, by `copy_votes`.

    A block of more than half of the clients stays: attackers are fewer. Where every client is in
    some block, nothing tells clients apart, and none is rejected.
    """
    sizes = np.bincount(votes)
    copies = (sizes >= COPY_BLOCK) & (2 * sizes <= len(votes))
    if copies[votes].all():
        return
    for row, vote in enumerate(votes):
        if copies[vote]:
            state.reject(row, f"one of {sizes[vote]} near-identical updates")


def majority_clusters(labels: Labels, votes: Labels, updates: ClientUpdates) -> set[int]:
    """Return the clusters nearest to the robust centre that hold more than half of the votes."""
    first = [int(np.flatnonzero(votes == vote)[0]) for vote in range(votes.max() + 1)]
    gaps = _gaps_to_median(labels[first], updates.select(first))
    sizes = np.bincount(labels[first])
    chosen: set[int] = set()
    for label in sorted(range(len(sizes)), key=lambda k: gaps[k]):
        if sum(sizes[k] for k in chosen) > len(first) // 2:
            break
        chosen.add(label)
    return chosen


def length_spread(norms: Tensor) -> float:
    """Return by what factor lengths usually differ from their median, at least 1.

    ``exp(1.48 min(a, b))`` with a and b the median distances of logarithms above and below their
    median to it: the smaller, since a minority of long liars widens the upper side alone.

    Parameters
    ----------
    norms : Tensor
        (N,) at least 0; those of 0 are left out.
    """
    logs = norms[norms > 0.0].log()
    if len(logs) < FEWEST_TO_SPREAD:
        return 1.0
    off = logs - median(logs)
    sides = [median(side) for side in (off[off > 0.0], -off[off < 0.0]) if len(side)]
    return math.exp(1.4826 * float(min(sides))) if len(sides) == 2 else 1.0


def reject_long(state: JudgedRound, gram: Tensor, ratio: float) -> Tensor:
    """Reject updates longer than `ratio` median norms, unless lengths differ and they agree.

    Where most clients hold one class they soon have little left to learn, and whoever holds more
    is many times as long as the median. So an update stays, to be clipped, that is no longer than
    the squared `length_spread` allows and goes along with the average of those within `ratio`,
    themselves clipped, from a cosine of `AGREES` on. Who claims more examples may be longer; see
    `claimed_reach`.

    Parameters
    ----------
    gram : Tensor
        (K, K) inner products of the updates, float64.
    ratio : float
        Above 1.

    Returns
    -------
    Tensor
        (K,) the `ratio` median norms of each, by its claim.
    """
    inside = torch.as_tensor(state.keep)
    norms = state.norms
    typical = float(median(norms[inside]))
    usual = typical * claimed_reach(state.updates)
    long = inside & (norms > ratio * usual) & (usual > 0.0)
    factors = torch.where(inside & ~long, clip_factors(norms, typical * state.reach), 0.0)
    along = gram @ factors
    length = (factors @ along).clamp(min=0.0).sqrt()
    agrees = (length > 0.0) & (along >= AGREES * length * norms)
    stays = agrees & (norms <= length_spread(norms[inside]) ** 2 * usual)
    for row in (long & ~stays).nonzero().flatten().tolist():
        excess = float(norms[row]) / typical
        state.reject(row, f"{excess:.1f} times as long as the median update")
    return ratio * usual


def reject_far_third(state: JudgedRound, euclidean: Tensor) -> None:
    """Of three clients reject one that is over three times as far from both as they are apart."""
    for row in range(3):
        a, b = (other for other in range(3) if other != row)
        apart = float(euclidean[a, b])
        if min(float(euclidean[row, a]), float(euclidean[row, b])) > 3.0 * apart > 0.0:
            state.reject(row, "far from the two others")


def pulls(gram: Tensor, longest: Tensor | None = None) -> Tensor:
    """Return how far each update goes along what those unlike it together do: (K,).

    ``p_i = <d_i, s_i> / (|s_i| median|d|)`` with ``s_i = sum_j u_j`` over the clients j whose
    update has a cosine of at most `ALIKE` with that of i, and ``u_j = d_j / |d_j|``, so that a long
    update is no more than one vote for the direction and is measured with its length all the same:
    in median norms, up to `longest`. Who goes the same way is no witness, or a coalition would
    vouch for itself. All others are asked where fewer than three go the same way, as two honest
    clients of the same few labels do, or more than half.

    Parameters
    ----------
    gram : Tensor
        (K, K) inner products of the updates, float64.
    longest : Tensor, optional
        (K,) norms as which longer updates count; none if left out.
    """
    norms = gram.diagonal().clamp(min=0.0).sqrt()
    scale = torch.where(norms > 0.0, 1.0 / norms.clamp(min=1e-300), 0.0)
    unit = gram * scale[:, None] * scale[None, :]
    alike = unit > ALIKE
    count = alike.sum(dim=1)
    alike[(count < COPY_BLOCK) | (2 * count > len(gram))] = False
    along, own = unit.sum(dim=1), unit.diagonal()
    left_out, squared = own.clone(), unit.sum() - 2.0 * along + own
    if (blocks := alike.any(dim=1)).any():
        same = alike[blocks].to(unit.dtype)
        left_out[blocks] = (same * unit[blocks]).sum(dim=1)
        within = ((same @ unit) * same).sum(dim=1)
        squared[blocks] = unit.sum() - 2.0 * (same @ along) + within
    rest = squared.clamp(min=1e-300).sqrt()
    lengths = norms if longest is None else torch.minimum(norms, longest)
    return (along - left_out) / rest * lengths / median(norms).clamp(min=1e-300)


def reject_opposed(state: JudgedRound, gram: Tensor, evidence: float, longest: Tensor) -> None:
    """Reject updates that pull against what those unlike them do, beyond honest disagreement.

    One at a time, the worst first, as long as its `pulls` is below -0.4, and below the median by
    `evidence` robust standard deviations, whose spread is that of the better half; half of the
    clients are kept. Where clients hold few labels an honest one can disagree with all others, by
    up to 0.8, but then others do too, and the evidence is 5 at most in what was seen
    (``docs/geminiguard.md``). Who is out already counts in none of it, and who is longer than
    `longest`, (K,), counts as that long: it is clipped.
    """
    count = len(state.keep)
    state.scores["pull"] = torch.zeros(count, dtype=torch.float64)
    while (kept := int(state.keep.sum())) > max(count // 2, FEWEST_TO_OPPOSE - 1):
        rows = torch.as_tensor(np.flatnonzero(state.keep))
        found = pulls(gram[rows][:, rows], longest[rows])
        state.scores["pull"][rows] = found
        worst = int(found.argmin())
        if float(found[worst]) >= min(-beyond_the_others(-found, evidence), -OPPOSED):
            return
        why = f"pulls against the other {kept - 1}: {float(found[worst]):.2f} median norms"
        state.reject(int(rows[worst]), why)
