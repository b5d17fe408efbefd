"""Registrars, members and decoy sets for the attacks: seeded, so that figures repeat."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fedguard.enrolment.local import LocalLabels, LocalTokens
from fedguard.enrolment.tickets import DIGEST, Place, Ticket
from fedguard.randomness import SERVER, numpy_generator

SOME, OTHER = bytes([1]) * DIGEST, bytes([2]) * DIGEST
"""Digests of two updates."""


def labels(clients: int = 32, k: int = 16, seed: int = 0) -> LocalLabels:
    """Return a federation whose members share labels."""
    return LocalLabels(clients, k, seed)


def tokens(clients: int = 32, k: int = 16, seed: int = 0) -> LocalTokens:
    """Return a federation whose members hold tokens."""
    return LocalTokens(clients, k, seed)


def stream(purpose: str) -> np.random.Generator:
    """Return the attacker's own randomness."""
    return numpy_generator(0, 0, SERVER, f"enrolment attack {purpose}")


def seen_labels(parties: LocalLabels, server_round: int) -> list[bytes]:
    """Return the label that each member shows in a round, by member."""
    place = Place(server_round)
    raw = (parties.ticket(member, place, SOME) for member in parties.members)
    return [Ticket.from_bytes(each).label for each in raw]


def decoys(user: int, users: int, k: int, rng: np.random.Generator) -> frozenset[int]:
    """Return k pseudonyms, the user's own among them: what the basic scheme sends."""
    others = rng.choice(users - 1, size=k - 1, replace=False)
    return frozenset(int(o) + (o >= user) for o in others) | {user}


def matches(before: Sequence[object], after: Sequence[object], rng: np.random.Generator) -> float:
    """Return how many items a linker assigns rightly that goes by equality, else by chance.

    Parameters
    ----------
    before, after : sequence
        What was seen of user i in two rounds, at place i.
    """
    where: dict[object, list[int]] = {}
    for place, each in enumerate(after):
        where.setdefault(each, []).append(place)
    hits = 0
    for place, each in enumerate(before):
        candidates = where.get(each) or range(len(after))
        hits += int(candidates[int(rng.integers(len(candidates)))]) == place
    return hits
