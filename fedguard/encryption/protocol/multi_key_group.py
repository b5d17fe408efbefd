"""`MultiKeyGroup`: multi-key CKKS for one group of clients, round after round."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass

from fedguard.encryption.errors import ChecksumError, LostRoundError
from fedguard.encryption.lattice.packing import PackingName
from fedguard.encryption.protocol.agreement import Agreement, Payload
from fedguard.encryption.protocol.flow import (
    MAX_ATTEMPTS,
    Answers,
    BeginAnewError,
    Flow,
    Heard,
    Trip,
    hear,
    trip_of,
)
from fedguard.encryption.protocol.server import RoundServer
from fedguard.encryption.protocol.weights import GroupMean


@dataclass(frozen=True)
class Terms:
    """What all groups of a run have in common.

    Attributes
    ----------
    profile_name, packing, threshold
        See `Agreement`; `threshold` is cut to a group's size.
    size : int
        Length D of an update.
    """

    profile_name: str
    packing: PackingName
    threshold: int
    size: int


class MultiKeyGroup:
    """Multi-key CKKS for one group across rounds.

    Two trips per round once the group stands: ``encrypt`` travels with the next round's
    ``commit``, ``share`` with its ``reveal``. The first round, and one after somebody was missing,
    takes two more; a threshold takes a short one that asks who is still there. Whoever vanishes or
    is caught lying before anything can be opened is left out, and the round begun anew.

    Parameters
    ----------
    cohort : tuple of int
        The group, ascending.
    terms : Terms
        Common terms.

    Attributes
    ----------
    faults : dict of int to str
        Why a party's replies of this round did not count.
    """

    def __init__(self, cohort: tuple[int, ...], terms: Terms) -> None:
        self.cohort = cohort
        self.terms = terms
        self.faults: dict[int, str] = {}
        self._upcoming: RoundServer | None = None
        self._model = b""

    def run(self, server_round: int, model: bytes = b"") -> Flow:
        """Return the flow of one round, in which the model of this digest is trained from."""
        self.faults, self._model = {}, model
        server, self._upcoming = self._upcoming, None
        ahead = server is not None and server.agreement.server_round == server_round
        if server is None or not ahead or server.members != self.cohort:
            # Attempt 0 has the keys that were made ahead, by this group or by others with some of
            # its clients; somebody is missing there.
            server = self._server(server_round, 1, self.cohort)
        while True:
            try:
                if not server.members:
                    yield from self._exchange_keys(server)
                yield from self._encrypt(server)
                if server.agreement.threshold:
                    return (yield from self._open_by_quorum(server))
                return (yield from self._open(server))
            except BeginAnewError as error:
                server = self._without(server, error.parties)

    def _server(self, server_round: int, attempt: int, cohort: tuple[int, ...]) -> RoundServer:
        terms = self.terms
        threshold = min(terms.threshold, len(cohort))
        agreement = Agreement(
            server_round, attempt, cohort, terms.profile_name, terms.packing, threshold
        )
        return RoundServer(agreement, terms.size)

    def _without(self, server: RoundServer, parties: tuple[int, ...]) -> RoundServer:
        old = server.agreement
        if old.attempt + 1 >= MAX_ATTEMPTS:
            raise LostRoundError(f"clients vanished or lied in each of {MAX_ATTEMPTS} attempts")
        there = server.members or server.present
        cohort = tuple(party for party in there if party not in parties)
        return self._server(old.server_round, old.attempt + 1, cohort)

    def _exchange_keys(self, server: RoundServer) -> Generator[Trip, Answers, None]:
        answers = yield trip_of(commit=server.commit_requests())
        server.take_commits(self._hear(answers, "commit").replies)
        asked = server.reveal_requests()
        heard = self._hear((yield trip_of(reveal=asked)), "reveal")
        self.faults |= server.faults
        heard.convict(asked, self.faults)
        server.take_reveals(heard.replies)

    def _encrypt(self, server: RoundServer) -> Generator[Trip, Answers, None]:
        """Collect ciphertexts; commitments for the next round come with them."""
        asked = server.encrypt_requests()
        requests: dict[str, Mapping[int, Payload]] = {"encrypt": asked}
        upcoming = None
        if self._upcoming is None:
            upcoming = self._server(server.agreement.server_round + 1, 0, self.cohort)
            self._upcoming = upcoming
            requests["commit"] = upcoming.commit_requests()
        answers = yield trip_of(**requests)
        if upcoming is not None:
            upcoming.take_commits(hear(answers, "commit", {}).replies)
        heard = self._hear(answers, "encrypt")
        heard.convict(asked, self.faults)
        server.take_ciphertexts(heard.replies)
        self.faults |= server.faults
        if server.missing and not server.agreement.threshold:
            raise BeginAnewError(server.missing)

    def _open(self, server: RoundServer) -> Flow:
        """Collect everyone's share; the next round's keys come with them."""
        asked = server.share_requests()
        answers = yield trip_of(share=asked, reveal=self._reveals_to_come())
        self._take_reveals_to_come(answers)
        heard = self._hear(answers, "share")
        if 2 * len(heard.disputed) > len(asked):
            requests = server.dispute_requests()
            heard = hear((yield trip_of(dispute=requests)), "dispute", {})
            liars = server.take_disputes(heard.replies, self._model)
            for party in asked:
                self.faults.pop(party, None)
            self.faults |= server.faults
            if liars:
                raise BeginAnewError(liars)
            raise LostRoundError("clients refuse the sum, and it cannot be told who lied")
        return self._fused(server, asked, heard)

    def _fused(self, server: RoundServer, asked: Mapping[int, Payload], heard: Heard) -> GroupMean:
        try:
            return server.take_shares(asked, heard.replies)
        finally:
            self.faults |= server.faults

    def _open_by_quorum(self, server: RoundServer) -> Flow:
        """Collect the shares of one quorum, of another where it falls apart or lies.

        Of a quorum whose sum fails the checksum one member at least has lied; the next one has as
        few of them as it can until the sum opens, then some of them until one suspect is left.
        """
        suspects: set[int] = set()
        found: GroupMean | None = None
        alive = server.members
        for _ in range(server.agreement.max_answers):
            answers = yield trip_of(probe={party: {} for party in alive})
            alive = tuple(p for p in alive if p in self._hear(answers, "probe").replies)
            ordered = _tell_apart(alive, suspects, opened=found is not None)
            asked = server.share_requests(ordered)
            answers = yield trip_of(share=asked, reveal=self._reveals_to_come())
            self._take_reveals_to_come(answers)
            heard = self._hear(answers, "share")
            if 2 * len(heard.disputed) > len(asked):
                heard, asked = yield from self._leave_one_out(server, ordered)
            try:
                found = self._fused(server, asked, heard)
                suspects -= set(asked)
            except ChecksumError:
                suspects = suspects & set(asked) if suspects else set(asked)
            except LostRoundError:
                alive = tuple(p for p in alive if p not in asked or p in heard.replies)
                alive = tuple(p for p in alive if p not in server.faults)
            if found is not None and len(suspects) <= 1:
                break
        if found is None:
            raise LostRoundError("no quorum has opened the sum; nothing was decrypted")
        for party in suspects if len(suspects) == 1 else ():
            self.faults[party] = "sent a decryption share that is not of the sum"
        return found

    def _leave_one_out(
        self, server: RoundServer, alive: tuple[int, ...]
    ) -> Generator[Trip, Answers, tuple[Heard, dict[int, Payload]]]:
        """Find the ciphertext without which the tag is right; clients that refuse open nothing."""
        for suspect in server.contributors:
            asked = server.share_requests(alive, without=suspect)
            heard = hear((yield trip_of(share=asked)), "share", {})
            if 2 * len(heard.disputed) <= len(asked):
                for party in asked:
                    self.faults.pop(party, None)
                server.leave_out(suspect, "its tag is not that of its ciphertext")
                return heard, asked
        raise LostRoundError("clients refuse the sum, and it cannot be told who lied")

    def _reveals_to_come(self) -> dict[int, Payload]:
        upcoming = self._upcoming
        if upcoming is None or upcoming.members:
            return {}
        try:
            return upcoming.reveal_requests()
        except LostRoundError:
            self._upcoming = None
            return {}

    def _take_reveals_to_come(self, answers: Answers) -> None:
        if self._upcoming is not None and not self._upcoming.members:
            self._upcoming.take_reveals(hear(answers, "reveal", {}).replies)

    def _hear(self, answers: Answers, stage: str) -> Heard:
        return hear(answers, stage, self.faults)


def _tell_apart(alive: tuple[int, ...], suspects: set[int], *, opened: bool) -> tuple[int, ...]:
    """Return who should be in the next quorum, the first ones first."""
    under = [party for party in alive if party in suspects]
    clear = [party for party in alive if party not in suspects]
    half = len(under) // 2 if opened else 0
    return (*under[:half], *clear, *under[half:])
