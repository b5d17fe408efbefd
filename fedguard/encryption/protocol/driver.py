"""The protocol's flow, one group of clients at a time, and the lockstep of several groups.

A group's round is a generator: it yields what to send to whom and is sent what came back, so that
its code reads like the protocol. All groups' messages of one step travel in one trip.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass

from fedguard.encryption.errors import LostRoundError, ProtocolError
from fedguard.encryption.lattice.packing import PackingName
from fedguard.encryption.protocol.agreement import Agreement, Payload
from fedguard.encryption.protocol.records import REFUSED
from fedguard.encryption.protocol.server import Replies, RoundServer
from fedguard.encryption.protocol.shared_key_server import SharedKeyServer
from fedguard.encryption.protocol.weights import GroupMean

Trip = dict[int, dict[str, Payload]]
"""Party to stage to request."""
Answers = Mapping[int, Mapping[str, Mapping[str, object]]]
"""Party to stage to reply."""
Flow = Generator[Trip, Answers, GroupMean]

MAX_ATTEMPTS = 3
"""How often a round is begun anew because clients vanish before they upload."""


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


def trip_of(**stages: Mapping[int, Payload]) -> Trip:
    """Return one trip that holds several stages' requests; each says who is addressed."""
    trip: Trip = {}
    for stage, requests in stages.items():
        for party, request in requests.items():
            trip.setdefault(party, {})[stage] = {**request, "you": party}
    return trip


class MultiKeyGroup:
    """Multi-key CKKS for one group across rounds.

    Two trips per round once the group stands: ``encrypt`` travels with the next round's
    ``commit``, ``share`` with its ``reveal``. The first round, and one after somebody was missing,
    takes two more; a threshold takes a short one that asks who is still there.

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

    def run(self, server_round: int) -> Flow:
        """Return the flow of one round."""
        self.faults = {}
        server, self._upcoming = self._upcoming, None
        if server is None or server.agreement.server_round != server_round:
            server = self._server(server_round, 0, self.cohort)
            yield from self._begin(server)
        elif server.members != self.cohort:
            # Somebody was missing when the keys were made ahead; begin anew with everyone.
            server = self._server(server_round, 1, self.cohort)
            yield from self._begin(server)
        else:
            yield from self._encrypt(server)
        while server.missing and not server.agreement.threshold:
            server = self._without_missing(server)
            yield from self._begin(server)
        return (yield from self._share(server))

    def _server(self, server_round: int, attempt: int, cohort: tuple[int, ...]) -> RoundServer:
        terms = self.terms
        threshold = min(terms.threshold, len(cohort))
        agreement = Agreement(
            server_round, attempt, cohort, terms.profile_name, terms.packing, threshold
        )
        return RoundServer(agreement, terms.size)

    def _without_missing(self, server: RoundServer) -> RoundServer:
        old = server.agreement
        if old.attempt + 1 >= MAX_ATTEMPTS:
            raise LostRoundError(f"clients vanished in each of {MAX_ATTEMPTS} attempts")
        return self._server(old.server_round, old.attempt + 1, server.contributors)

    def _begin(self, server: RoundServer) -> Generator[Trip, Answers, None]:
        """Exchange keys and collect ciphertexts, in three trips."""
        answers = yield trip_of(commit=server.commit_requests())
        server.take_commits(self._pick(answers, "commit"))
        answers = yield trip_of(reveal=server.reveal_requests())
        server.take_reveals(self._pick(answers, "reveal"))
        yield from self._encrypt(server)

    def _encrypt(self, server: RoundServer) -> Generator[Trip, Answers, None]:
        """Collect ciphertexts; commitments for the next round come with them."""
        requests: dict[str, Mapping[int, Payload]] = {"encrypt": server.encrypt_requests()}
        first_time = self._upcoming is None
        if self._upcoming is None:
            self._upcoming = self._server(server.agreement.server_round + 1, 0, self.cohort)
            requests["commit"] = self._upcoming.commit_requests()
        answers = yield trip_of(**requests)
        server.take_ciphertexts(self._pick(answers, "encrypt"))
        self.faults |= server.faults
        if first_time:
            self._upcoming.take_commits(self._pick(answers, "commit"))

    def _share(self, server: RoundServer) -> Flow:
        """Collect shares; the next round's keys come with the first of them.

        With a threshold a second quorum may answer where the first one fell apart; clients refuse
        a third.
        """
        alive: tuple[int, ...] | None = None
        for last in [*[False] * (server.agreement.max_answers - 1), True]:
            if server.agreement.threshold:
                answers = yield trip_of(probe={party: {} for party in server.members})
                alive = tuple(sorted(self._pick(answers, "probe")))
            asked = server.share_requests(alive)
            reveals = self._reveals_to_come()
            answers = yield trip_of(share=asked, reveal=reveals)
            if reveals and self._upcoming is not None:
                self._upcoming.take_reveals(self._pick(answers, "reveal"))
            try:
                return server.take_shares(asked, self._pick(answers, "share"))
            except LostRoundError:
                if last:
                    raise
        raise AssertionError("unreachable")

    def _reveals_to_come(self) -> dict[int, Payload]:
        upcoming = self._upcoming
        if upcoming is None or upcoming.members:
            return {}
        try:
            return upcoming.reveal_requests()
        except LostRoundError:
            self._upcoming = None
            return {}

    def _pick(self, answers: Answers, stage: str) -> Replies:
        return pick(answers, stage, self.faults)


class SharedKeyGroup:
    """Plain CKKS for one group: two trips per round, two more when the key is made.

    Parameters
    ----------
    cohort : tuple of int
        The group, ascending.
    make_server : callable
        Returns a fresh `SharedKeyServer` for a round and the group.

    Attributes
    ----------
    faults : dict of int to str
        Why a party's replies of this round did not count.
    """

    def __init__(
        self, cohort: tuple[int, ...], make_server: Callable[[int], SharedKeyServer]
    ) -> None:
        self.cohort = cohort
        self.make_server = make_server
        self.faults: dict[int, str] = {}
        self._server: SharedKeyServer | None = None

    def run(self, server_round: int) -> Flow:
        """Return the flow of one round."""
        self.faults = {}
        server = self._server
        if server is None or server.members != self.cohort:
            server = self.make_server(server_round)
            answers = yield trip_of(commit=server.commit_requests())
            server.take_commits(pick(answers, "commit", self.faults))
            answers = yield trip_of(reveal=server.reveal_requests())
            server.take_reveals(pick(answers, "reveal", self.faults))
            self._server = server
        server.begin(server_round)
        answers = yield trip_of(encrypt=server.encrypt_requests())
        server.take_ciphertexts(pick(answers, "encrypt", self.faults))
        self.faults |= server.faults
        asked = server.share_requests()
        answers = yield trip_of(share=asked)
        return server.take_shares(asked, pick(answers, "share", self.faults))


Group = MultiKeyGroup | SharedKeyGroup


def pick(answers: Answers, stage: str, faults: dict[int, str]) -> Replies:
    """Return the replies to one stage; note who refused and why."""
    found = {}
    for party, stages in answers.items():
        reply = stages.get(stage)
        if reply is None:
            continue
        if REFUSED in reply:
            faults[party] = str(reply[REFUSED])
        else:
            found[party] = reply
    return found


class Lockstep:
    """Runs several groups' flows side by side, one trip at a time.

    Parameters
    ----------
    groups : iterable of Group
        Which groups; each party is in one of them.
    server_round : int
        The round.

    Attributes
    ----------
    means : dict of int to GroupMean
        Group number to what came out.
    failures : dict of int to str
        Group number to why nothing came out.
    """

    def __init__(self, groups: Iterable[Group], server_round: int) -> None:
        self.groups = list(groups)
        self.means: dict[int, GroupMean] = {}
        self.failures: dict[int, str] = {}
        self._flows = {index: group.run(server_round) for index, group in enumerate(self.groups)}
        self._waiting: dict[int, set[int]] = {}

    def begin(self) -> Trip:
        """Return the first trip."""
        return self._advance(dict.fromkeys(self._flows))

    def advance(self, answers: Answers) -> Trip:
        """Take the answers to the last trip; return the next one, empty when all are done."""
        sent: dict[int, Answers | None] = {
            index: {party: answers[party] for party in parties if party in answers}
            for index, parties in self._waiting.items()
        }
        return self._advance(sent)

    def _advance(self, sent: Mapping[int, Answers | None]) -> Trip:
        trip: Trip = {}
        self._waiting = {}
        for index, answers in sent.items():
            flow = self._flows[index]
            try:
                requests = next(flow) if answers is None else flow.send(answers)
            except StopIteration as done:
                self.means[index] = done.value
            except ProtocolError as error:
                self.failures[index] = self._explained(index, error)
            else:
                trip |= requests
                self._waiting[index] = set(requests)
        return trip

    def _explained(self, index: int, error: ProtocolError) -> str:
        faults = self.groups[index].faults
        if not faults:
            return str(error)
        party, why = min(faults.items())
        return f"{error}; client {party}: {why}"
