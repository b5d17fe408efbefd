"""`Lockstep`: several groups' rounds side by side; all messages of one step travel in one trip."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from fedguard.encryption.errors import ProtocolError
from fedguard.encryption.protocol.flow import Answers, Trip
from fedguard.encryption.protocol.multi_key_group import MultiKeyGroup
from fedguard.encryption.protocol.shared_key_group import SharedKeyGroup
from fedguard.encryption.protocol.weights import GroupMean

Group = MultiKeyGroup | SharedKeyGroup


class Lockstep:
    """Runs several groups' flows side by side, one trip at a time.

    Parameters
    ----------
    groups : iterable of Group
        Which groups; each party is in one of them.
    server_round : int
        The round.
    model : bytes
        Digest of the model that is trained from.

    Attributes
    ----------
    means : dict of int to GroupMean
        Group number to what came out.
    failures : dict of int to str
        Group number to why nothing came out.
    """

    def __init__(self, groups: Iterable[Group], server_round: int, model: bytes) -> None:
        self.groups = list(groups)
        self.means: dict[int, GroupMean] = {}
        self.failures: dict[int, str] = {}
        self._flows = {
            index: group.run(server_round, model) for index, group in enumerate(self.groups)
        }
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
