"""`CohortServer`: what the server of either scheme does: relay commitments, check replies.

What a client sends is checked in full before it is used or passed on: types, lengths and ranges,
its signature, its commitment. A reply that fails is set aside under its sender's name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from fedguard.encryption.errors import LostRoundError, ProtocolError
from fedguard.encryption.protocol.agreement import Agreement, Payload, get
from fedguard.encryption.protocol.identity import check_channel, is_signed
from fedguard.encryption.protocol.weights import MAX_EXPONENT, weight_limit

Replies = Mapping[int, Mapping[str, object]]
Check = Callable[[int, Mapping[str, object]], object]

_COMMIT_FIELDS = {"commitment": 32, "channel": 32, "signature": 64, "public": 32}


class CohortServer:
    """Relay for one cohort; holds no secret. See `RoundServer` and `SharedKeyServer`.

    Parameters
    ----------
    agreement : Agreement
        The terms.
    size : int
        Length D of an update.

    Attributes
    ----------
    faults : dict of int to str
        Party to what was wrong with its reply.
    contributors : tuple of int
        Whose ciphertexts are in the sum.
    members : tuple of int
        Who holds a key.
    """

    def __init__(self, agreement: Agreement, size: int) -> None:
        self.agreement = agreement
        self.size = size
        self.faults: dict[int, str] = {}
        self.contributors: tuple[int, ...] = ()
        self.members: tuple[int, ...] = ()
        self._commits: dict[int, Mapping[str, object]] = {}
        self._tags: dict[int, bytes] = {}

    @property
    def terms(self) -> Payload:
        """What names this round and attempt in every request."""
        return {"round": self.agreement.server_round, "attempt": self.agreement.attempt}

    @property
    def present(self) -> tuple[int, ...]:
        """Who has committed."""
        return tuple(sorted(self._commits))

    @property
    def view(self) -> bytes:
        """The digest of all commitments, as clients compute it."""
        statements = [self.agreement.commit_statement(p, self._commits[p]) for p in self.present]
        return self.agreement.view(self.present, statements)

    def commit_requests(self) -> dict[int, Payload]:
        """Return stage 1: the terms, to everyone in the cohort."""
        return {party: self.agreement.to_payload() for party in self.agreement.cohort}

    def take_commits(self, replies: Replies) -> None:
        """Take the commitments that came; the others hold no key."""
        for party in self.agreement.cohort:
            if party in replies and self._sane(party, replies[party], self._check_commit):
                self._commits[party] = replies[party]

    def _check_commit(self, party: int, reply: Mapping[str, object]) -> None:
        for name, size in _COMMIT_FIELDS.items():
            if len(get(reply, name, bytes)) != size:
                raise ProtocolError(f"{name} does not have {size} bytes")
        if not 0 <= get(reply, "exponent", int) <= MAX_EXPONENT:
            raise ProtocolError("exponent out of range")
        check_channel(get(reply, "channel", bytes))
        statement = self.agreement.commit_statement(party, reply)
        signature, public = get(reply, "signature", bytes), get(reply, "public", bytes)
        if not is_signed(public, statement, signature):
            raise ProtocolError("the signature is not by the key that came with it")

    def reveal_requests(self) -> dict[int, Payload]:
        """Return stage 2: all commitments, to everyone who made one."""
        self._need(len(self.present), "committed to a key")
        commits = [self._commits[party] for party in self.present]
        request: Payload = {
            **self.terms,
            "present": list(self.present),
            "commitments": [get(commit, "commitment", bytes) for commit in commits],
            "channels": [get(commit, "channel", bytes) for commit in commits],
            "exponents": [get(commit, "exponent", int) for commit in commits],
            "signatures": [get(commit, "signature", bytes) for commit in commits],
            "publics": [get(commit, "public", bytes) for commit in commits],
        }
        return dict.fromkeys(self.present, request)

    def _weight_limit(self) -> int:
        return weight_limit([get(self._commits[p], "exponent", int) for p in self.members])

    def _need(self, count: int, what: str) -> None:
        if not count:
            raise LostRoundError(f"no client of {len(self.agreement.cohort)} {what}")

    def _sane(self, party: int, reply: Mapping[str, object], check: Check) -> bool:
        """Run a check on a reply; note the fault and return False if it raises `ProtocolError`."""
        try:
            check(party, reply)
        except ProtocolError as error:
            self.faults[party] = str(error)
            return False
        return True
