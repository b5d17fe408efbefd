"""Semantic entropy, disagreement with peers, and how far groups of clients lie apart."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

CERTAINTY, DISAGREEMENT = 0.4, 0.6
"""Weights of the two parts of a suspicion score."""


@dataclass(frozen=True)
class Opinion:
    """What a model answered to one question.

    Attributes
    ----------
    shares : dict of str to float
        By meaning, its share of the answers.
    samples : int
        How many answers there were.
    """

    shares: dict[str, float]
    samples: int

    @property
    def entropy(self) -> float:
        """Semantic entropy, in nats: 0 where all answers mean the same."""
        return -sum(p * math.log(p) for p in self.shares.values())

    @property
    def main(self) -> str:
        """The commonest meaning; of several, the first by name."""
        return min(self.shares, key=lambda meaning: (-self.shares[meaning], meaning))


def opinion_of(meanings: Sequence[str]) -> Opinion:
    """Return the opinion that some answers' meanings make."""
    counts = Counter(meanings)
    return Opinion({m: n / len(meanings) for m, n in counts.items()}, len(meanings))


def suspicion(own: Opinion, peers: Sequence[Opinion]) -> tuple[float, float]:
    """Return the share of peers that disagree, and the score S from 0 to 100.

    Both are 0 and S is its certainty part alone where there is no peer.
    """
    certain = 100.0 * (1.0 - own.entropy / math.log(own.samples))
    if not peers:
        return 0.0, CERTAINTY * certain
    share = sum(peer.main != own.main for peer in peers) / len(peers)
    degree = sum(1.0 - peer.shares.get(own.main, 0.0) for peer in peers) / len(peers)
    return share, CERTAINTY * certain + DISAGREEMENT * 100.0 * (share + degree) / 2.0


def scored(
    own: Sequence[Opinion],
    peers: Sequence[Sequence[Opinion]],
    certain: float,
    disagree: float,
    above: float,
) -> dict[str, float]:
    """Return means over questions of entropy, disagreement and score, and the share flagged.

    Parameters
    ----------
    own : sequence of Opinion
        The model's, one per question.
    peers : sequence of sequence of Opinion
        Each peer's, in the same order.
    certain, disagree, above : float
        A question is flagged at an entropy of at most the first, a share of disagreeing peers of
        at least the second and a score above the third.
    """
    entropies, shares, scores, flags = [], [], [], 0
    for place, opinion in enumerate(own):
        share, score = suspicion(opinion, [peer[place] for peer in peers])
        entropies.append(opinion.entropy)
        shares.append(share)
        scores.append(score)
        sure = opinion.entropy <= certain and share >= disagree and score > above
        flags += bool(peers) and sure
    count = max(len(own), 1)
    return {
        "entropy": sum(entropies) / count,
        "disagreement": sum(shares) / count,
        "score": sum(scores) / count,
        "flag_rate": flags / count,
    }


def divergences(chances: Tensor) -> Tensor:
    """Return each group's (G,) largest distance from the median group, of (G, S) probabilities."""
    middle = chances.quantile(0.5, dim=0)
    return (chances - middle).abs().max(dim=1).values
