"""Attack 5: linking by what comes with an update, and by the update itself."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from fedguard.enrolment.attacks.outcome import AttackOutcome, advantage
from fedguard.enrolment.attacks.world import matches, stream

CLIENTS, ROUNDS = 200, 11


def reused_keys(guarded: bool) -> AttackOutcome:
    """Link clients by the public keys that their protocol sends.

    Control: a client keeps its key pair. Protocol: it makes one for every round; the number of
    examples is inside the encrypted part.
    """
    rng = stream("keys")
    lasting = [rng.bytes(32) for _ in range(CLIENTS)]
    shown = [
        [_public(rng.bytes(32) if guarded else lasting[client]) for client in range(CLIENTS)]
        for _ in range(ROUNDS)
    ]
    return _linked("reused-keys", guarded, shown, rng, "public keys")


def example_counts(guarded: bool) -> AttackOutcome:
    """Link clients by how many examples they say they hold.

    Control: the count is sent in the clear. Protocol: it is encrypted with the update, and all
    that is seen is a ciphertext of one length.
    """
    rng = stream("counts")
    held = np.maximum(rng.lognormal(5.0, 0.8, CLIENTS).astype(int), 1)
    shown: list[list[object]] = [
        [rng.bytes(24) if guarded else int(held[client]) for client in range(CLIENTS)]
        for _ in range(ROUNDS)
    ]
    return _linked("example-counts", guarded, shown, rng, "example counts")


def _linked(
    name: str,
    guarded: bool,
    shown: Sequence[Sequence[object]],
    rng: np.random.Generator,
    what: str,
) -> AttackOutcome:
    pairs = list(pairwise(shown))
    hits = sum(matches(before, after, rng) for before, after in pairs)
    found = advantage(hits, CLIENTS * len(pairs), CLIENTS)
    told = f"advantage {found:.3f} over guessing, by {what}"
    return AttackOutcome(name, guarded, found > 0.02, found, told)


def _public(secret: bytes) -> bytes:
    """Return a public key of a secret; a hash stands for the curve, whose outputs look alike."""
    return hashlib.sha256(b"public" + secret).digest()


def update_similarity(guarded: bool) -> AttackOutcome:
    """Link clients by the cosine of their updates in two rounds. This is *not* prevented.

    40 clients fit a linear model of the handwritten digits. Control: each holds mostly two
    classes. "Protocol": the same with enrolment, which changes no update, and data spread evenly,
    the best case.
    """
    first, second = _updates(even=guarded)
    found = linking_by_cosine(first, second)
    told = f"advantage {found:.3f} by cosine, data spread {'evenly' if guarded else 'unevenly'}"
    return AttackOutcome("update-similarity", guarded, found > 0.02, found, told)


def linking_by_cosine(first: Tensor, second: Tensor) -> float:
    """Return a linker's advantage that takes the most similar update for the same client's.

    Parameters
    ----------
    first, second : Tensor
        (K, D) updates of the same clients in two rounds; each round's mean is taken off.
    """
    one, two = (functional.normalize(each - each.mean(0), dim=1) for each in (first, second))
    guesses = (one @ two.T).argmax(1)
    hits = float((guesses == torch.arange(len(one))).sum())
    return advantage(hits, len(one), len(one))


def _updates(*, even: bool, clients: int = 40, lr: float = 0.5) -> tuple[Tensor, Tensor]:
    from fedguard.data.digits import Digits

    data = Digits().load(None)
    rng = stream("similarity")
    x, y = data.x_train.flatten(1), data.y_train
    order = rng.permutation(len(y))
    if not even:
        order = order[np.argsort(y.numpy()[order], kind="stable")]
    shards = np.array_split(order, 2 * clients)
    pairs = rng.permutation(2 * clients).reshape(clients, 2)
    rows = [torch.from_numpy(np.concatenate([shards[a], shards[b]])) for a, b in pairs]
    weights = torch.zeros(10, x.shape[1])
    found = []
    for _ in range(2):
        deltas = torch.stack([-lr * _gradient(weights, x[each], y[each]) for each in rows])
        found.append(deltas.flatten(1))
        weights = weights + deltas.mean(0)
    return found[0], found[1]


def _gradient(weights: Tensor, x: Tensor, y: Tensor) -> Tensor:
    wrong = functional.softmax(x @ weights.T, dim=1) - functional.one_hot(y, 10)
    return wrong.T @ x / len(y)
