"""`ClientEndpoint`: one client's answers to protocol messages, whatever carries them."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fedguard.encryption.errors import DisputedError, ProtocolError, RefusedError
from fedguard.encryption.lattice.backend import Backend, BackendName, make_backend
from fedguard.encryption.lattice.sampling import InsecureSeededRandom, RandomSource, SystemRandom
from fedguard.encryption.protocol.agreement import Payload
from fedguard.encryption.protocol.client import ClientSession
from fedguard.encryption.protocol.guards import Guards
from fedguard.encryption.protocol.identity import Identity, Roster
from fedguard.encryption.protocol.ledger import Training
from fedguard.encryption.protocol.records import ACCUSED, DISPUTED, REFUSED, STAGES, Requests
from fedguard.encryption.protocol.shared_key import SharedKeyClient

Scheme = Literal["xmkckks", "ckks"]


@dataclass(frozen=True)
class ClientOptions:
    """How a client encrypts.

    Parameters
    ----------
    scheme : str
        ``"xmkckks"`` (a key per client) or ``"ckks"`` (one key for all clients).
    backend : str
        See `make_backend`.
    guards : Guards
        What the client insists on.
    insecure_seed : int, optional
        Makes all keys and noise reproducible, and known to whoever knows the seed.
    """

    scheme: Scheme = "xmkckks"
    backend: BackendName = "auto"
    guards: Guards = field(default_factory=Guards)
    insecure_seed: int | None = None

    def source(self, label: str) -> RandomSource:
        """Return where a client's randomness comes from."""
        if self.insecure_seed is None:
            return SystemRandom()
        return InsecureSeededRandom(self.insecure_seed, label)


@dataclass(frozen=True)
class Update:
    """What a client has trained: its delta (D,), its number of examples, and what for."""

    delta: NDArray[np.float32]
    num_examples: float
    training: Training


class ClientEndpoint:
    """Answers the stages in a message, in protocol order; a refusal is an answer as well.

    Parameters
    ----------
    options : ClientOptions
        How it encrypts.
    party : int
        Its id.
    identity : Identity
        Its signing key.
    roster : Roster
        The other clients' keys.
    memory : MutableMapping
        Where the protocol's state lives between messages.
    label : str
        Tells apart the reproducible streams of endpoints that are made anew for every message.
    run : bytes
        Names the run that is under way.
    """

    def __init__(
        self,
        options: ClientOptions,
        party: int,
        identity: Identity,
        roster: Roster,
        memory: MutableMapping[str, Payload],
        label: str = "",
        run: bytes = b"",
    ) -> None:
        source = options.source(f"client {party} {label}")
        self.session: ClientSession | SharedKeyClient = (
            SharedKeyClient(party, identity, roster, source, memory, options.guards, run)
            if options.scheme == "ckks"
            else ClientSession(
                party, identity, roster, _backend(options), source, memory, options.guards, run
            )
        )

    def answer(self, requests: Requests, update: Update | None) -> dict[str, Payload]:
        """Return a reply to every stage that was asked for.

        Parameters
        ----------
        requests : mapping
            Stage to request.
        update : Update, optional
            What the client trained last.
        """
        return {
            stage: self._answer(stage, requests[stage], update)
            for stage in STAGES
            if stage in requests
        }

    def _answer(self, stage: str, request: Mapping[str, object], update: Update | None) -> Payload:
        try:
            return self._dispatch(stage, request, update)
        except ProtocolError as error:
            refusal: Payload = {REFUSED: str(error)}
            if isinstance(error, RefusedError) and error.accused is not None:
                refusal[ACCUSED] = error.accused
            if isinstance(error, DisputedError):
                refusal[DISPUTED] = 1
            return refusal

    def _dispatch(
        self, stage: str, request: Mapping[str, object], update: Update | None
    ) -> Payload:
        if stage == "probe":
            return {}
        session = self.session
        without_update = {
            "reveal": session.reveal,
            "check": session.check,
            "confirm": session.confirm,
            "share": session.share,
            "dispute": session.dispute,
        }
        if stage in without_update:
            return without_update[stage](request)
        if update is None:
            raise RefusedError("this client has trained nothing yet")
        if stage == "commit":
            return session.commit(request, update.num_examples)
        delta = update.delta.astype(np.float64)
        return session.encrypt(request, delta, update.num_examples, update.training)


@lru_cache(maxsize=8)
def _shared_backend(name: BackendName) -> Backend:
    return make_backend(name, SystemRandom())


def _backend(options: ClientOptions) -> Backend:
    if options.insecure_seed is None:
        return _shared_backend(options.backend)
    return make_backend(options.backend, options.source("backend"))
