"""`SharedKeyGroup`: plain CKKS for one group of clients, round after round."""

from __future__ import annotations

from collections.abc import Callable, Generator

from fedguard.encryption.errors import LostRoundError
from fedguard.encryption.protocol.flow import (
    MAX_ATTEMPTS,
    Answers,
    BeginAnewError,
    Flow,
    Trip,
    hear,
    trip_of,
)
from fedguard.encryption.protocol.shared_key_server import SharedKeyServer

_OPENERS = 3


class SharedKeyGroup:
    """Plain CKKS for one group: four trips per round, two more when the key is made.

    A leader that makes no key is left out. Three clients open the sum, so that one of them may
    vanish or lie; where no two agree, three more do.

    Parameters
    ----------
    cohort : tuple of int
        The group, ascending.
    make_server : callable
        Returns a fresh `SharedKeyServer` for a round, an attempt and a cohort.

    Attributes
    ----------
    faults : dict of int to str
        Why a party's replies of this round did not count.
    """

    def __init__(
        self,
        cohort: tuple[int, ...],
        make_server: Callable[[int, int, tuple[int, ...]], SharedKeyServer],
    ) -> None:
        self.cohort = cohort
        self.make_server = make_server
        self.faults: dict[int, str] = {}
        self._server: SharedKeyServer | None = None

    def run(self, server_round: int, model: bytes = b"") -> Flow:
        """Return the flow of one round; the digest of the model is the clients' business."""
        self.faults = {}
        server = self._server
        if server is None or server.contributors != self.cohort:
            # Somebody was missing, and may have come back without the key.
            server = self.make_server(server_round, 0, self.cohort)
        while True:
            try:
                if not server.members:
                    yield from self._make_key(server)
                yield from self._encrypt(server, server_round)
                self._server = server
                return (yield from self._open(server))
            except BeginAnewError as error:
                server = self._without(server, server_round, error.parties)

    def _without(
        self, server: SharedKeyServer, server_round: int, parties: tuple[int, ...]
    ) -> SharedKeyServer:
        self._server, old = None, server.agreement
        attempt = old.attempt + 1 if old.server_round == server_round else 0
        if attempt >= MAX_ATTEMPTS:
            raise LostRoundError(f"clients vanished or lied in each of {MAX_ATTEMPTS} attempts")
        cohort = tuple(party for party in server.present if party not in parties)
        return self.make_server(server_round, attempt, cohort)

    def _make_key(self, server: SharedKeyServer) -> Generator[Trip, Answers, None]:
        answers = yield trip_of(commit=server.commit_requests())
        server.take_commits(hear(answers, "commit", self.faults).replies)
        asked = server.reveal_requests()
        heard = hear((yield trip_of(reveal=asked)), "reveal", self.faults)
        heard.convict(asked, self.faults)
        try:
            server.take_reveals(heard.replies)
        except LostRoundError as error:
            if server.leader not in heard.replies:
                self.faults.setdefault(server.leader, str(error))
            self.faults |= server.faults
            raise BeginAnewError([server.leader]) from error
        self.faults |= server.faults

    def _encrypt(
        self, server: SharedKeyServer, server_round: int
    ) -> Generator[Trip, Answers, None]:
        server.begin(server_round)
        asked = server.encrypt_requests()
        heard = hear((yield trip_of(encrypt=asked)), "encrypt", self.faults)
        heard.convict(asked, self.faults)
        server.take_ciphertexts(heard.replies)
        self.faults |= server.faults

    def _check(self, server: SharedKeyServer) -> Generator[Trip, Answers, None]:
        """Have the sum checked; leave out the update without which it is right, if it is not."""
        for suspect in (None, *server.contributors):
            asked = server.check_requests(suspect)
            heard = hear((yield trip_of(check=asked)), "check", {})
            if 2 * len(heard.disputed) <= len(asked):
                if suspect is not None:
                    server.leave_out(suspect)
                    self.faults |= server.faults
                return
        raise LostRoundError("clients refuse the sum, and it cannot be told who lied")

    def _open(self, server: SharedKeyServer) -> Flow:
        yield from self._check(server)
        answers = yield trip_of(confirm=server.confirm_requests())
        openers = server.take_confirmations(hear(answers, "confirm", self.faults).replies)
        self.faults |= server.faults
        lost = LostRoundError("nobody is left to open the sum")
        for chosen in (openers[:_OPENERS], openers[_OPENERS : 2 * _OPENERS]):
            asked = server.share_requests(*chosen)
            if not asked:
                break
            heard = hear((yield trip_of(share=asked)), "share", self.faults)
            try:
                return server.take_shares(asked, heard.replies)
            except LostRoundError as error:
                lost = error
            finally:
                self.faults |= server.faults
        raise lost
