"""The public terms of one encrypted round, and how protocol messages are read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar, cast

from fedguard.encryption.errors import ProtocolError
from fedguard.encryption.lattice.packing import PackingName
from fedguard.encryption.lattice.profiles import PROFILES, Profile, profile
from fedguard.encryption.protocol.transcript import digest
from fedguard.encryption.protocol.weights import MAX_EXPONENT

Payload = dict[str, int | float | str | bytes | list[int] | list[bytes]]
"""One protocol message: fits a Flower `ConfigRecord` as it is."""

T = TypeVar("T")

MAX_ANSWERS = 4
"""Answers to one sum with a threshold; each doubling costs one of the statistical bits."""

MAX_ROUND = 1 << 62
"""Rounds and attempts lie below this; parties fit 8 bytes."""


def get(payload: Mapping[str, object], key: str, kind: type[T]) -> T:
    """Return a field of a message.

    Raises
    ------
    ProtocolError
        If it is missing or of another type.
    """
    value = payload.get(key)
    if not isinstance(value, kind) or isinstance(value, bool):
        raise ProtocolError(f"message field {key!r} is missing or no {kind.__name__}")
    return value


def get_count(payload: Mapping[str, object], key: str) -> int:
    """Return a field that holds a round or an attempt, 0 to below `MAX_ROUND`."""
    value = get(payload, key, int)
    if not 0 <= value < MAX_ROUND:
        raise ProtocolError(f"message field {key!r} is out of range")
    return value


def get_bytes(payload: Mapping[str, object], key: str, count: int) -> list[bytes]:
    """Return a field that lists `count` byte strings; raises `ProtocolError` otherwise."""
    values = get(payload, key, list)
    if len(values) != count or not all(isinstance(value, bytes) for value in values):
        raise ProtocolError(f"message field {key!r} does not list {count} byte strings")
    return cast("list[bytes]", values)


def get_ints(payload: Mapping[str, object], key: str) -> tuple[int, ...]:
    """Return a field that lists integers; raises `ProtocolError` otherwise."""
    values = get(payload, key, list)
    if not all(isinstance(value, int) and not isinstance(value, bool) for value in values):
        raise ProtocolError(f"message field {key!r} does not list integers")
    return tuple(cast("list[int]", values))


def get_exponents(payload: Mapping[str, object], key: str) -> tuple[int, ...]:
    """Return a field that lists logarithms of numbers of examples, 0 to `MAX_EXPONENT`."""
    values = get_ints(payload, key)
    if not all(0 <= value <= MAX_EXPONENT for value in values):
        raise ProtocolError(f"message field {key!r} is out of range")
    return values


def get_parties(payload: Mapping[str, object], key: str, among: Iterable[int]) -> tuple[int, ...]:
    """Return a field that lists parties in ascending order, each once, all of them `among`."""
    parties = get_ints(payload, key)
    if list(parties) != sorted(set(parties)) or not set(parties) <= set(among):
        raise ProtocolError(f"message field {key!r} does not list members of the cohort once each")
    return parties


@dataclass(frozen=True)
class Agreement:
    """What server and clients agree on before a key is made.

    Parameters
    ----------
    server_round : int
        The round.
    attempt : int
        0, or how often the round was begun anew because clients vanished.
    cohort : tuple of int
        Parties, ascending.
    profile_name : str
        A name in `PROFILES`.
    packing : str
        ``"coefficients"`` or ``"slots"``.
    threshold : int
        How many clients decrypt; 0 means all of them.
    """

    server_round: int
    attempt: int
    cohort: tuple[int, ...]
    profile_name: str
    packing: PackingName
    threshold: int = 0

    def to_payload(self) -> Payload:
        """Return the terms as message fields."""
        return {
            "round": self.server_round,
            "attempt": self.attempt,
            "cohort": list(self.cohort),
            "profile": self.profile_name,
            "packing": self.packing,
            "threshold": self.threshold,
        }

    @classmethod
    def from_payload(cls, payload: Mapping[str, object]) -> Agreement:
        """Read the terms; raises `ProtocolError` if they make no sense."""
        cohort = get_ints(payload, "cohort")
        name, packing = get(payload, "profile", str), get(payload, "packing", str)
        threshold = get(payload, "threshold", int)
        if list(cohort) != sorted(set(cohort)) or not cohort:
            raise ProtocolError("the cohort does not list each member once, in ascending order")
        if cohort[0] < 0 or cohort[-1] >= 1 << 64:
            raise ProtocolError("the cohort lists ids of more than 8 bytes")
        if name not in PROFILES or packing not in ("coefficients", "slots"):
            raise ProtocolError(f"unknown profile {name!r} or packing {packing!r}")
        if threshold and not len(cohort) < 2 * threshold <= 2 * len(cohort):
            # Two disjoint quorums could decrypt two sums that differ by one client.
            raise ProtocolError(
                f"a threshold of {threshold} among {len(cohort)} clients; it must be more than half"
            )
        return cls(
            get_count(payload, "round"),
            get_count(payload, "attempt"),
            cohort,
            name,
            cast("PackingName", packing),
            threshold,
        )

    @property
    def profile(self) -> Profile:
        """The parameter set."""
        return profile(self.profile_name)

    @property
    def max_answers(self) -> int:
        """How often a client may answer for one sum: more where a quorum may fall apart or lie."""
        return MAX_ANSWERS if self.threshold else 1

    @property
    def label(self) -> str:
        """Names the round and attempt in a client's memory."""
        return f"{self.server_round}.{self.attempt}"

    @cached_property
    def context(self) -> bytes:
        """Digest of all terms; signatures, commitments and the common polynomial depend on it."""
        return digest("agreement", repr(self).encode(), self.profile.digest)

    def point(self, party: int) -> int:
        """Return the evaluation point of a party's threshold shares."""
        return self.cohort.index(party) + 1

    def commit_statement(self, party: int, reply: Mapping[str, object]) -> bytes:
        """Return what a client signs when it commits to its key."""
        return digest(
            "commit",
            self.context,
            party.to_bytes(8, "little"),
            get(reply, "commitment", bytes),
            get(reply, "channel", bytes),
            get(reply, "exponent", int).to_bytes(2, "little"),
        )

    def view(self, present: Sequence[int], statements: Iterable[bytes]) -> bytes:
        """Return the digest of who committed to what; equal for all clients, or tags fail."""
        return digest("view", self.context, repr(tuple(present)).encode(), *statements)
