"""What a client remembers for good: which trainings may have been opened already.

Two sums that differ by one client give its update away, so the update of one training may be in
one opened sum alone. An update belongs to the round it was trained for and the model it was trained
from; another training from the same model gives nearly the same update and counts as the same.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fedguard.encryption.errors import RefusedError
from fedguard.encryption.protocol import transcript
from fedguard.encryption.protocol.agreement import Payload, get_bytes, get_ints

if TYPE_CHECKING:  # a client's process that only answers the protocol does without torch
    from torch import Tensor

LEDGER = "ledger"
"""Label of the ledger in a client's memory; the other labels are rounds."""

_NEVER_AGAIN = bytes(32)


@dataclass(frozen=True)
class Training:
    """Where an update comes from.

    Attributes
    ----------
    server_round : int
        The round that the client was asked to train for.
    model : bytes
        Digest of the model that it started from; see `model_digest`.
    """

    server_round: int
    model: bytes


def model_digest(vector: Tensor) -> bytes:
    """Return the digest of a model's (D,) vector."""
    data = np.ascontiguousarray(vector.detach().cpu().numpy())
    return transcript.digest("model", str(data.dtype).encode(), data.tobytes())


class Ledger:
    """The trainings that a client has let go of; must outlive keys, rounds, runs and restarts.

    Rounds count anew in every run; models do not: one that comes again in another run is the same.

    Parameters
    ----------
    memory : MutableMapping
        The client's memory.
    run : bytes
        Names the run that is under way.
    """

    def __init__(self, memory: MutableMapping[str, Payload], run: bytes = b"") -> None:
        self._memory = memory
        self._run = run
        found = memory.get(LEDGER, {})
        self.rounds = get_ints(found, "rounds") if found else ()
        self.runs = tuple(get_bytes(found, "runs", len(self.rounds))) if found else ()
        self.models = tuple(get_bytes(found, "models", len(self.rounds))) if found else ()
        self.cohorts = tuple(get_bytes(found, "cohorts", len(self.rounds))) if found else ()

    @property
    def latest(self) -> int:
        """The last round of this run with an update that may have been opened; -1 before it."""
        of_run = zip(self.runs, self.rounds, strict=True)
        return max((number for run, number in of_run if run == self._run), default=-1)

    def check_round(self, server_round: int) -> None:
        """Raise `RefusedError` unless a round is later than all that may have been opened."""
        if server_round <= self.latest:
            raise RefusedError(
                f"round {server_round}: this client has already answered for round {self.latest}"
            )

    def check(self, training: Training, server_round: int, cohort: bytes, *, once: bool) -> None:
        """Raise `RefusedError` if letting go of an update could show it alone.

        Parameters
        ----------
        training : Training
            Where the update comes from.
        server_round : int
            The round it is asked for.
        cohort : bytes
            Digest of the clients whose updates would be added to it.
        once : bool
            Whether the sum can be opened without this client, or over fewer than the cohort.
        """
        if training.server_round != server_round:
            raise RefusedError(
                f"round {server_round}: the update was trained for round {training.server_round}"
            )
        self.check_round(server_round)
        for number, model, other in zip(self.rounds, self.models, self.cohorts, strict=True):
            if model == training.model and (once or other != cohort):
                raise RefusedError(
                    f"round {server_round}: trained from the model of round {number} again; two "
                    "sums of such updates could differ by one client; start from another model"
                )

    def note(self, training: Training, cohort: bytes, *, once: bool) -> None:
        """Remember that an update may be opened from now on; see `check`."""
        self.rounds = (*self.rounds, training.server_round)
        self.runs = (*self.runs, self._run)
        self.models = (*self.models, training.model)
        self.cohorts = (*self.cohorts, _NEVER_AGAIN if once else cohort)
        self._memory[LEDGER] = {
            "rounds": list(self.rounds),
            "runs": list(self.runs),
            "models": list(self.models),
            "cohorts": list(self.cohorts),
        }


def cohort_digest(members: tuple[int, ...]) -> bytes:
    """Return the digest of who is in a cohort."""
    return transcript.digest("cohort", repr(members).encode())
