"""`Guards`: what a client insists on, whatever the server asks for."""

from __future__ import annotations

from dataclasses import dataclass, replace

from fedguard.encryption.errors import RefusedError
from fedguard.encryption.lattice.profiles import profile
from fedguard.encryption.protocol.agreement import Agreement

MINIMUM_PARTICIPANTS = 3
"""With two, each learns the other's update from the mean."""


@dataclass(frozen=True)
class Guards:
    """What a client insists on. All on unless an experiment shows what each one prevents.

    Parameters
    ----------
    own_joint_key : bool
        Add up the public key shares oneself, each checked against its commitment and signature,
        instead of taking the server's sum.
    minimum_participants : int
        Smallest cohort to encrypt for, and smallest sum to answer for.
    one_answer : bool
        Answer for one sum per key and for one key per round, each message once.
    transcript : bool
        Answer only for the sum of what the contributors tagged.
    flooding : bool
        Add flooding to shares and round them.
    bound_update : bool
        Let go of an update for the round and the model it was trained for alone, and once.
    smallest_profile : str
        Name of the weakest parameter set to take part in.
    smallest_threshold : int
        Smallest number of clients that may open a sum, where not all must;
        `minimum_participants` where that is more.
    """

    own_joint_key: bool = True
    minimum_participants: int = MINIMUM_PARTICIPANTS
    one_answer: bool = True
    transcript: bool = True
    flooding: bool = True
    bound_update: bool = True
    smallest_profile: str = "default"
    smallest_threshold: int = MINIMUM_PARTICIPANTS

    @classmethod
    def none(cls) -> Guards:
        """Return the naive mode: insecure, for demonstrations."""
        return cls(False, 1, False, False, False, False, "light", 1)

    def stricter(self, other: Guards) -> Guards:
        """Return these guards with whatever bound the other ones set higher."""
        strongest = max(
            (self.smallest_profile, other.smallest_profile), key=lambda name: profile(name).strength
        )
        return replace(
            self,
            minimum_participants=max(self.minimum_participants, other.minimum_participants),
            smallest_threshold=max(self.smallest_threshold, other.smallest_threshold),
            smallest_profile=strongest,
        )

    def check_terms(self, agreement: Agreement) -> None:
        """Raise `RefusedError` if the terms promise less than this client wants."""
        self.check_size(len(agreement.cohort))
        smallest = max(self.smallest_threshold, self.minimum_participants)
        if agreement.threshold and agreement.threshold < smallest:
            raise RefusedError(
                f"a threshold of {agreement.threshold} lets so few clients decrypt; this client "
                f"wants at least {smallest}"
            )
        offered, wanted = agreement.profile, profile(self.smallest_profile)
        if offered.strength < wanted.strength:
            raise RefusedError(
                f"profile {offered.name} promises {offered.strength[0]:.0f} statistical bits, this "
                f"client wants {wanted.strength[0]:.0f}, those of {wanted.name}"
            )

    def check_size(self, participants: int) -> None:
        """Raise `RefusedError` if so few take part."""
        if participants < self.minimum_participants:
            raise RefusedError(
                f"{participants} participants, this client wants at least "
                f"{self.minimum_participants}"
            )
