"""`KPseudonym`: variable shared pseudonyms (k members to a label), or blindly signed tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from flwr.serverapp import Grid

from fedguard.enrolment.aggregator import Aggregator
from fedguard.enrolment.base import Enrolment
from fedguard.enrolment.blind import require_cryptography
from fedguard.enrolment.files import AGGREGATOR
from fedguard.enrolment.intake import IntakeGrid
from fedguard.enrolment.local import LocalLabels, LocalParties, LocalTokens
from fedguard.enrolment.reasons import NotAdmittedError
from fedguard.enrolment.service import RemoteRegistrar
from fedguard.enrolment.tickets import Place, aggregator_id
from fedguard.enrolment.wire import client_context, split
from fedguard.errors import ConfigurationError, RunError, check_choice, check_number


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
    registrar, door, listen, folder : str
        In a deployment alone: ``host:port`` of the registrar's process, of the aggregator's door
        as clients reach it, and as it listens (the same if left out); the folder of the
        aggregator's keys and certificates.
    """

    named = False

    def __init__(
        self,
        *,
        k: int = 16,
        variant: Literal["k-pseudonym", "blind"] = "k-pseudonym",
        epoch_rounds: int = 1,
        linkable: bool = False,
        registrar: str = "",
        door: str = "",
        listen: str = "",
        folder: str = "",
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
        self.registrar, self.door, self.listen = registrar, door, listen or door
        self.folder = Path(folder)
        self.deployable = bool(registrar)
        if self.deployable:
            self._check_deployment()
        self._grid: IntakeGrid | None = None
        self.parties: LocalParties | None = None
        self._handles: dict[tuple[int, int], str] = {}

    def enrol(self, clients: int, seed: int) -> None:
        """Enrol all clients, with keys that follow from the seed; see `Enrolment.enrol`."""
        self.clients = clients
        if self.k > clients:
            raise ConfigurationError("k", self.k, f"at most the number of clients, {clients}")
        if self.deployable:
            return  # members were enrolled by the registrar
        make = LocalTokens if self.variant == "blind" else LocalLabels
        self.parties = make(
            clients, self.k, seed, epoch_rounds=self.epoch_rounds, lasting=self.linkable
        )

    def _check_deployment(self) -> None:
        if self.variant == "blind" or self.linkable or self.epoch_rounds != 1:
            told = "variant k-pseudonym, not linkable, epoch_rounds 1 where there is a registrar"
            raise ConfigurationError("registrar", self.registrar, told)
        for name in ("registrar", "door", "listen"):
            address = str(getattr(self, name))
            host, _, port = address.rpartition(":")
            if not host or not port.isdecimal():
                raise ConfigurationError(name, address, "host:port")

    def gather(self, grid: Grid) -> Grid | None:
        """Return the grid whose updates come in at the door; see `Enrolment.gather`.

        Raises
        ------
        RunError
            If the registrar does not answer.
        """
        if not self.deployable:
            return None
        own = (self.folder / "aggregator" / name for name in ("client.pem", "client.key"))
        certificate, key = own
        context = client_context(self.folder / "public" / "ca.crt", (certificate, key))
        remote = RemoteRegistrar(self.registrar, context)
        try:
            remote.ready()
        except NotAdmittedError as error:
            raise RunError(f"registrar {self.registrar}: {error.reason}") from None
        seal = bytes.fromhex((self.folder / "aggregator" / "seal.key").read_text())
        server = self.folder / "superlink" / "server.pem", self.folder / "superlink" / "server.key"
        aggregator = Aggregator(aggregator_id(AGGREGATOR), seal, remote)
        self._grid = IntakeGrid(grid, aggregator, self.door, server, split(self.listen))
        return self._grid

    def check_cohort(self, asked: int) -> None:
        """Refuse a round that asks fewer than k: among fewer, nobody has k - 1 others."""
        if self.deployable and asked < self.clients:
            told = "1 in a deployment: nobody can tell who of all members was asked"
            raise ConfigurationError("fraction", asked / self.clients, told)
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
        known = self._handles if self._grid is None else self._grid.handles
        return known.get((client, server_round))

    def describe(self) -> str:
        """Return in one line who can link what; see `Enrolment.describe`."""
        told = f"k-pseudonym, k = {self.k}: the network sees 1 of {self.k}"
        if self.variant == "blind":
            told = "blind tokens: nobody can name who sent what, the registrar included"
        elif self.deployable:
            told += ", the registrar sees who, the aggregator does not unless it goes by addresses"
        elif self.parties is not None:
            smallest = self.parties.registrar.smallest_set
            told += f" (smallest group {smallest}), the registrar sees who, the aggregator does not"
        if self.linkable:
            return f"{told}; linkable: the aggregator can link a client's updates with each other"
        return f"{told}; handles last one round; contents of updates may still identify"
