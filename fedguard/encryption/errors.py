"""What goes wrong in an encrypted round, and who says so."""

from __future__ import annotations


class ProtocolError(RuntimeError):
    """A message of the protocol is malformed, missing or does not fit the others."""


class RefusedError(ProtocolError):
    """A client's guard refuses what the server asks for; nothing was sent.

    Parameters
    ----------
    reason : str
        Why.
    accused : int, optional
        The client whose message was wrong, where it can be told.
    """

    def __init__(self, reason: str, accused: int | None = None) -> None:
        super().__init__(reason)
        self.accused = accused


class DisputedError(RefusedError):
    """What the server calls the sum is not the sum of what the contributors tagged."""


class ChecksumError(ProtocolError):
    """The fused sum is garbage: a decryption share is missing, wrong or of another sum."""


class LostRoundError(ProtocolError):
    """Too few clients are left to decrypt the sum; nothing of it was decrypted."""


class BackendUnavailableError(RuntimeError):
    """A backend cannot be used here: not installed, or its byte format is not the known one."""
