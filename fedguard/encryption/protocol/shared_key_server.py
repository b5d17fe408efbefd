"""`SharedKeyServer`: the server's side of plain CKKS.

It adds residues and holds no key, no context and no library: nothing that a client sends reaches
native code here.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

import numpy as np

from fedguard.encryption.errors import LostRoundError, ProtocolError
from fedguard.encryption.lattice import tenseal_vectors as vectors
from fedguard.encryption.lattice.modular import Residues
from fedguard.encryption.lattice.packing import Values
from fedguard.encryption.protocol.agreement import Agreement, Payload, get, get_bytes
from fedguard.encryption.protocol.cohort_server import CohortServer, Replies
from fedguard.encryption.protocol.identity import is_signed
from fedguard.encryption.protocol.shared_key import RECIPE, list_statement, most
from fedguard.encryption.protocol.transcript import SumTag
from fedguard.encryption.protocol.weights import EXTRAS, GroupMean, group_mean

_MOST_SEALED = 1 << 14
_CHECKERS = 3
"""Clients that check the sum; one of them may lie."""
_APART = 8.0
"""Standard deviations that two openings of one sum may be apart: less than 1e-8 for 10^7 values."""


class SharedKeyServer(CohortServer):
    """Relay, add and ask an opener, for one cohort and as many rounds as it stays together.

    Parameters
    ----------
    agreement : Agreement
        The terms of the round in which the key is made.
    size : int
        Length D of an update.
    """

    def __init__(self, agreement: Agreement, size: int) -> None:
        super().__init__(agreement, size)
        self.server_round = agreement.server_round
        self._sealed: dict[int, bytes] = {}
        self._signatures: dict[int, bytes] = {}
        self._ciphertexts: dict[int, bytes] = {}
        self._sum: Residues | None = None
        self._released: dict[int, Values] = {}

    @property
    def leader(self) -> int:
        """Who draws the key."""
        return self.present[0]

    def begin(self, server_round: int) -> None:
        """Start another round under the same key."""
        self.server_round = server_round
        self.faults = {}
        self.contributors = ()
        self._tags, self._signatures, self._ciphertexts, self._sum = {}, {}, {}, None
        self._released = {}

    def take_reveals(self, replies: Replies) -> None:
        """Take the sealed keys that the leader sent.

        Raises
        ------
        LostRoundError
            If it sent none, or nonsense.
        """
        reply = replies.get(self.leader, {})
        try:
            sealed = get_bytes(reply, "sealed", len(self.present))
            if max(map(len, sealed)) > _MOST_SEALED:
                raise ProtocolError("a sealed key is too long")
        except ProtocolError as error:
            self.faults.setdefault(self.leader, f"made no key: {error}")
            raise LostRoundError(
                f"client {self.leader}, who was to make the key, did not: {error}"
            ) from error
        self.members = self.present
        self._sealed = dict(zip(self.members, sealed, strict=True))

    def encrypt_requests(self) -> dict[int, Payload]:
        """Return stage 3; the sealed key goes along until the client has used it."""
        return {
            party: {"round": self.server_round, "sealed": self._sealed.get(party, b"")}
            for party in self.members
        }

    def take_ciphertexts(self, replies: Replies) -> None:
        """Add up the encrypted updates that came."""
        for party in self.members:
            if party in replies and self._sane(party, replies[party], self._add_ciphertext):
                self._tags[party] = get(replies[party], "tag", bytes)
                self._ciphertexts[party] = get(replies[party], "ciphertext", bytes)
                self._sealed.pop(party, None)
        self.contributors = tuple(sorted(self._tags))

    def _add_ciphertext(self, _: int, reply: Mapping[str, object]) -> None:
        SumTag.add_tags(RECIPE.ring, [get(reply, "tag", bytes)])
        count = RECIPE.count(self.size + EXTRAS)
        found = vectors.read_vector(RECIPE, count, get(reply, "ciphertext", bytes))
        self._sum = found if self._sum is None else vectors.add_vectors(RECIPE, self._sum, found)

    def check_requests(self, without: int | None = None) -> dict[int, Payload]:
        """Return stage 4: the sum, to three contributors; `without` one of the updates."""
        self._need(len(self.contributors), "sent a ciphertext")
        turn = self.server_round % len(self.contributors)
        checkers = (self.contributors[turn:] + self.contributors[:turn])[:_CHECKERS]
        return dict.fromkeys(checkers, self._sum_request(without))

    def leave_out(self, party: int) -> None:
        """Take an update out of the sum again."""
        assert self._sum is not None
        self._sum = vectors.subtract_vectors(RECIPE, self._sum, self._polynomials(party))
        self.faults[party] = "its tag is not that of its ciphertext"
        del self._tags[party], self._ciphertexts[party]
        self.contributors = tuple(sorted(self._tags))

    def _polynomials(self, party: int) -> Residues:
        count = RECIPE.count(self.size + EXTRAS)
        return vectors.read_vector(RECIPE, count, self._ciphertexts[party])

    def _sum_request(self, without: int | None = None) -> Payload:
        assert self._sum is not None
        contributors = [party for party in self.contributors if party != without]
        total = self._sum
        if without is not None:
            total = vectors.subtract_vectors(RECIPE, total, self._polynomials(without))
        return {
            "round": self.server_round,
            "contributors": contributors,
            "size": self.size + EXTRAS,
            "sum": vectors.write_vector(RECIPE, total),
            "tag": SumTag.add_tags(RECIPE.ring, [self._tags[p] for p in contributors]),
        }

    def confirm_requests(self) -> dict[int, Payload]:
        """Return stage 5: whose updates are in the sum, to these."""
        self._need(len(self.contributors), "sent a ciphertext")
        request: Payload = {"round": self.server_round, "contributors": list(self.contributors)}
        return dict.fromkeys(self.contributors, request)

    def take_confirmations(self, replies: Replies) -> tuple[int, ...]:
        """Take the signatures that came; return who can open the sum, the next opener first.

        Raises
        ------
        LostRoundError
            If fewer than most members have signed.
        """
        for party in self.contributors:
            if party in replies and self._sane(party, replies[party], self._check_confirmation):
                self._signatures[party] = get(replies[party], "signature", bytes)
        signers = tuple(sorted(self._signatures))
        if len(signers) < most(self.members):
            raise LostRoundError(
                f"{len(signers)} of {len(self.members)} clients confirmed the sum, "
                f"{most(self.members)} are needed; nothing was decrypted"
            )
        turn = self.server_round % len(signers)
        return signers[turn:] + signers[:turn]

    def _check_confirmation(self, party: int, reply: Mapping[str, object]) -> None:
        statement = list_statement(self.view, self.server_round, self.contributors)
        public = get(self._commits[party], "public", bytes)
        if not is_signed(public, statement, get(reply, "signature", bytes)):
            raise ProtocolError("the confirmation is not signed by its sender")

    def share_requests(self, *openers: int) -> dict[int, Payload]:
        """Return stage 6: the sum and who confirmed it, to those who open it."""
        signers = sorted(self._signatures)
        signatures = [self._signatures[party] for party in signers]
        request = {**self._sum_request(), "signers": signers, "signatures": signatures}
        return dict.fromkeys(openers, request)

    def take_shares(self, asked: Collection[int], replies: Replies) -> GroupMean:
        """Return the mean that two openers agree on, these and earlier ones, or the only one tells.

        Every opener floods the sum anew, so that values of one sum differ by that noise alone;
        who released others is noted, once two agree.

        Raises
        ------
        LostRoundError
            If nobody opened the sum, or no two alike.
        """
        for opener in asked:
            if opener in replies and self._sane(opener, replies[opener], self._read_values):
                self._released[opener] = self._read_values(opener, replies[opener])
        if not self._released:
            who = ", ".join(map(str, asked))
            raise LostRoundError(
                f"clients {who}, who were to open the sum, did not; nothing was decrypted"
            )
        bound = _APART * math.sqrt(2.0) * vectors.flooding_std(len(self.members))
        for values in self._released.values():
            apart = {p: float(np.abs(v - values).max()) for p, v in self._released.items()}
            agree = [party for party in apart if apart[party] <= bound]
            if len(agree) < min(2, len(self._released)):
                continue
            for party in set(apart) - set(agree):
                self.faults[party] = "released other values than the other openers"
            return group_mean(
                values, self.size, RECIPE.clip, self._weight_limit(), self.contributors
            )
        raise LostRoundError("no two clients opened the sum alike; it cannot be told who lied")

    def _read_values(self, _: int, reply: Mapping[str, object]) -> Values:
        data = get(reply, "values", bytes)
        wanted = RECIPE.count(self.size + EXTRAS) * RECIPE.slots
        if len(data) != 8 * wanted:
            raise ProtocolError(f"{len(data)} bytes are not {wanted} values")
        values: Values = np.frombuffer(data, dtype="<f8")
        most_of_all = 2.0 * len(self.contributors) * RECIPE.clip
        if not np.isfinite(values).all() or np.abs(values).max() > most_of_all:
            raise ProtocolError("the opened sum is not finite or exceeds what clients may send")
        if values[self.size] <= 0:
            raise ProtocolError("the contributors' weights add up to nothing")
        return values
