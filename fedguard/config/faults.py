"""`Faults`: how often what breaks on the way from clients to server."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class Faults(BaseModel):
    """What breaks on the way from clients to server, per client and round.

    Rates are probabilities; each client's fate is drawn on its own. No time passes: the seconds
    of stragglers are simulated.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, defer_build=True, use_attribute_docstrings=True
    )

    dropout: float = Field(0.0, ge=0.0, le=1.0)
    """Rate of clients that are down: they neither train nor answer."""
    straggle: float = Field(0.0, ge=0.0, le=1.0)
    """Rate of slow clients; one that is slower than the deadline is lost in this round."""
    straggle_seconds: float = Field(60.0, gt=0.0, le=1e9)
    """Median seconds that a slow client takes; log-normal."""
    straggle_spread: float = Field(1.0, ge=0.0, le=10.0)
    """Standard deviation of the logarithm of those seconds."""
    deadline: float = Field(60.0, gt=0.0, le=1e9)
    """Seconds that the server waits for a slow client."""
    delay: float = Field(0.0, ge=0.0, le=1.0)
    """Rate of replies that arrive in a later round, where they are set aside."""
    delay_rounds: int = Field(1, ge=1, le=1000)
    """Most rounds by which a delayed reply is late; uniform from 1."""
    corrupt: float = Field(0.0, ge=0.0, le=1.0)
    """Rate of spoilt replies: flipped bits, NaN, infinity, a wrong shape, a missing tensor, an
    absurd number of examples."""
    duplicate: float = Field(0.0, ge=0.0, le=1.0)
    """Rate of replies that arrive twice."""

    @property
    def active(self) -> bool:
        """Whether anything can break at all."""
        return any((self.dropout, self.straggle, self.delay, self.corrupt, self.duplicate))
