"""`KPseudonym`: variable shared pseudonyms (k members to a label), or blindly signed tokens."""

from __future__ import annotations

from typing import Literal

from fedguard.enrolment.base import Enrolment
from fedguard.enrolment.blind import require_cryptography
from fedguard.enrolment.local import LocalLabels, LocalParties, LocalTokens
from fedguard.enrolment.reasons import NotAdmittedError
from fedguard.enrolment.tickets import Place
from fedguard.errors import ConfigurationError, check_choice, check_number


class KPseudonym(Enrolment):
    """Admit members whom the aggregator cannot name, one update each per round.

    ``k-pseudonym``: a ticket holds a label ``P = HMAC(s_g, "label", epoch, slot)`` that k members
    share, and ``HMAC(K_u, "access", P, N_u, aggregator, round, digest)``. The registrar tries the
    group's k keys and tells the aggregator ``h_r = HMAC(registrar's key, u, round)`` alone. The
    aggregator admits one update per h_r. The registrar can name everybody.

    ``blind``: the registrar signs one key per member and round without seeing it (RFC 9474); the
    member signs its update with that key. Nobody can name anybody, not even registrar and
    aggregator together; nor can anybody be traced.

    Neither hides what an update's contents, its size, its time or its network address say.

    A reading of: Ma, Lyu, Zou, "Variable k-pseudonym anonymous access authentication", arXiv
    2106.07158, 2021, of which
    abstract and introduction were at hand. The messages, the window of two epochs, the handles and
    the search over all keys are ours; so is the blind variant.

    Parameters
    ----------
    k : int
        Members that share their labels, at least 2; groups are filled, and a short last one joins
        the one before.
    variant : str
        ``"k-pseudonym"`` or ``"blind"``.
    epoch_rounds : int
        Rounds in an epoch, at least 1; labels are new in every epoch.
    linkable : bool
        Keep handles for the whole run, for defences that judge clients by earlier rounds. The
        aggregator can then link a member's updates with each other, though still not name it.
    """

    named = False

    def __init__(
        self,
        *,
        k: int = 16,
        variant: Literal["k-pseudonym", "blind"] = "k-pseudonym",
        epoch_rounds: int = 1,
        linkable: bool = False,
    ) -> None:
        check_number("k", k, at_least=2)
        check_choice("variant", variant, ("k-pseudonym", "blind"))
        check_number("epoch_rounds", epoch_rounds, at_least=1)
        if linkable and variant == "blind":
            raise ConfigurationError("linkable", linkable, "false with variant blind")
        if variant == "blind":
            require_cryptography()
        self.k = k
        self.variant = variant
        self.epoch_rounds = epoch_rounds
        self.linkable = linkable
        self.parties: LocalParties | None = None
        self._handles: dict[tuple[int, int], str] = {}

    def enrol(self, clients: int, seed: int) -> None:
        """Enrol all clients, with keys that follow from the seed; see `Enrolment.enrol`."""
        if self.k > clients:
            raise ConfigurationError("k", self.k, f"at most the number of clients, {clients}")
        make = LocalTokens if self.variant == "blind" else LocalLabels
        self.parties = make(
            clients, self.k, seed, epoch_rounds=self.epoch_rounds, lasting=self.linkable
        )

    def check_cohort(self, asked: int) -> None:
        """Refuse a round that asks fewer than k: among fewer, nobody has k - 1 others."""
        if asked < self.k:
            raise ConfigurationError(
                "fraction",
                f"{asked} clients a round",
                f"a share that asks at least {self.k}; among fewer nobody is one of {self.k}",
            )

    @property
    def _all(self) -> LocalParties:
        if self.parties is None:
            raise RuntimeError("nobody is enrolled yet")
        return self.parties

    def ticket(self, client: int, server_round: int, digest: bytes, exchange: int = 0) -> bytes:
        """Return a client's ticket; see `Enrolment.ticket`."""
        return self._all.ticket(client, Place(server_round, exchange), digest)

    def refusal(
        self, client: int, server_round: int, digest: bytes, ticket: bytes, exchange: int = 0
    ) -> str | None:
        """Return why a reply is not admitted; see `Enrolment.refusal`."""
        try:
            place = Place(server_round, exchange)
            handle = self._all.receive(place, ticket, digest)
        except NotAdmittedError as error:
            return error.reason
        self._handles[client, server_round] = handle.hex()
        return None

    def handle_of(self, client: int, server_round: int) -> str | None:
        """Return the handle of a client's reply; see `Enrolment.handle_of`."""
        return self._handles.get((client, server_round))

    def describe(self) -> str:
        """Return in one line who can link what; see `Enrolment.describe`."""
        told = f"k-pseudonym, k = {self.k}: the network sees 1 of {self.k}"
        if self.variant == "blind":
            told = "blind tokens: nobody can name who sent what, the registrar included"
        elif self.parties is not None:
            smallest = self.parties.registrar.smallest_set
            told += f" (smallest group {smallest}), the registrar sees who, the aggregator does not"
        if self.linkable:
            return f"{told}; linkable: the aggregator can link a client's updates with each other"
        return f"{told}; handles last one round; contents of updates may still identify"
