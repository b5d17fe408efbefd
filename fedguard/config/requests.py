"""Unlearning requests: what is to be forgotten, when, and who asks for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, model_validator

from fedguard.errors import ConfigurationError

SERVER_ASKS = "server"


class UnlearnRequest(BaseModel):
    """One request to forget.

    Written ``{client: 3, round: 20}`` for a whole client, with ``label: 7`` for the rows that the
    client labels 7, with ``share: 0.2`` for a drawn fifth of its rows. ``{rejected: 3}`` stands
    for any client that the defence has rejected three times.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, defer_build=True, use_attribute_docstrings=True
    )

    client: int | None = None
    """Who is to be forgotten, or whose rows are."""
    round: int | None = None
    """Server round in which the request is carried out, from 2."""
    label: int | None = Field(None, ge=0, validation_alias=AliasChoices("label", "class"))
    """Only the rows that the client trains under this label."""
    share: float | None = Field(None, gt=0.0, lt=1.0)
    """Only this share of the client's rows, drawn from its stream."""
    rejected: int | None = Field(None, ge=1)
    """In place of client and round: forget whom the defence rejected so many times."""
    requester: int | Literal["server"] | None = None
    """Who asks; the client itself if left out. Nobody else but the server may."""

    @model_validator(mode="after")
    def _check_form(self) -> UnlearnRequest:
        if self.rejected is not None:
            others = (self.client, self.round, self.label, self.share, self.requester)
            if any(value is not None for value in others):
                allowed = "{rejected: k} alone, or a client and a round"
                raise ConfigurationError("unlearn.rejected", self.rejected, allowed)
        elif self.client is None or self.round is None:
            raise ConfigurationError("unlearn", self.told(), "a client and a round")
        if self.label is not None and self.share is not None:
            raise ConfigurationError("unlearn.share", self.share, "a label or a share, not both")
        return self

    @property
    def whole_client(self) -> bool:
        """Whether everything that the client holds is to be forgotten."""
        return self.label is None and self.share is None

    @property
    def genuine(self) -> bool:
        """Whether the requester has a say: the client itself, or the server."""
        return self.requester in (None, SERVER_ASKS) or self.requester == self.client

    def told(self) -> str:
        """Return the request in one line."""
        given = self.model_dump(exclude_none=True)
        return ", ".join(f"{name} {value}" for name, value in given.items()) or "nothing"


def check_requests(requests: Sequence[UnlearnRequest], clients: int, rounds: int) -> None:
    """Raise `ConfigurationError` for what no federation of this size and length can do."""
    forgotten: set[int] = set()
    named: set[int] = set()
    for request in requests:
        if request.client is None or request.round is None:
            continue
        if not 0 <= request.client < clients:
            raise ConfigurationError(
                "unlearn.client", request.client, f"a client from 0 to {clients - 1}"
            )
        if not 2 <= request.round <= rounds:
            past = "round 1 and before are past; " if request.round < 2 else ""
            raise ConfigurationError(
                "unlearn.round", request.round, f"{past}a round from 2 to {rounds}"
            )
        if not request.genuine:
            continue
        if request.client in named:
            raise ConfigurationError("unlearn.client", request.client, "one request per client")
        named.add(request.client)
        if request.whole_client:
            forgotten.add(request.client)
    if len(forgotten) >= clients:
        allowed = f"at most {clients - 1} of the {clients} clients: somebody must be left"
        raise ConfigurationError("unlearn", "the whole federation", allowed)
