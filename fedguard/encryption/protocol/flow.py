"""One group's round as a generator, and what its server hears from the clients it asked.

A flow yields what to send to whom and is sent what came back, so that its code reads like the
protocol.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Generator, Mapping
from dataclasses import dataclass

from fedguard.encryption.errors import ProtocolError
from fedguard.encryption.protocol.agreement import Payload
from fedguard.encryption.protocol.cohort_server import Replies
from fedguard.encryption.protocol.records import ACCUSED, DISPUTED, REFUSED
from fedguard.encryption.protocol.weights import GroupMean

Trip = dict[int, dict[str, Payload]]
"""Party to stage to request."""
Answers = Mapping[int, Mapping[str, Mapping[str, object]]]
"""Party to stage to reply."""
Flow = Generator[Trip, Answers, GroupMean]

MAX_ATTEMPTS = 5
"""How often a round is begun because clients vanish or lie before anything can be opened."""


class BeginAnewError(ProtocolError):
    """The round must be begun anew without some clients; nothing was opened.

    Parameters
    ----------
    parties : collection of int
        Who is left out.
    """

    def __init__(self, parties: Collection[int]) -> None:
        super().__init__(f"begun anew without {len(parties)} clients")
        self.parties = tuple(parties)


def trip_of(**stages: Mapping[int, Payload]) -> Trip:
    """Return one trip that holds several stages' requests; each says who is addressed."""
    trip: Trip = {}
    for stage, requests in stages.items():
        for party, request in requests.items():
            trip.setdefault(party, {})[stage] = {**request, "you": party}
    return trip


@dataclass(frozen=True)
class Heard:
    """What came back for one stage.

    Attributes
    ----------
    replies : mapping
        Party to its reply, refusals left out.
    accusers : dict of int to set of int
        Who said of whom that its message was wrong.
    disputed : set of int
        Who refused the sum.
    """

    replies: Replies
    accusers: dict[int, set[int]]
    disputed: set[int]

    def convict(self, asked: Collection[int], faults: dict[int, str]) -> None:
        """Leave out whom more than half of those asked accuse; a single word is not enough.

        Raises
        ------
        BeginAnewError
            If there is somebody; the fault is noted, and no longer held against the accusers.
        """
        for party, by in sorted(self.accusers.items()):
            if 2 * len(by) > len(asked):
                why = Counter(faults[accuser] for accuser in by).most_common(1)[0][0]
                for accuser in by:
                    del faults[accuser]
                faults[party] = f"{len(by)} of {len(asked)} clients say: {why}"
                raise BeginAnewError([party])


def hear(answers: Answers, stage: str, faults: dict[int, str]) -> Heard:
    """Return the replies to one stage; note who refused and why."""
    heard = Heard({}, {}, set())
    replies: dict[int, Mapping[str, object]] = {}
    for party, stages in answers.items():
        reply = stages.get(stage)
        if reply is None:
            continue
        if REFUSED not in reply:
            replies[party] = reply
            continue
        faults[party] = str(reply[REFUSED])
        accused = reply.get(ACCUSED)
        if isinstance(accused, int) and accused != party:
            heard.accusers.setdefault(accused, set()).add(party)
        if DISPUTED in reply:
            heard.disputed.add(party)
    return Heard(replies, heard.accusers, heard.disputed)
