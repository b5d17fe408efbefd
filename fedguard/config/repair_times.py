"""`RepairTimes`: after which rounds the global model is repaired."""

from __future__ import annotations

from fedguard.errors import ConfigurationError


class RepairTimes:
    """When a repair runs: ``end``, ``every:R`` or ``alarm``.

    Parameters
    ----------
    text : str
        ``"end"``: after the last round; ``"every:3"``: after every third round and the last;
        ``"alarm"``: after each round whose audit raised an alarm.

    Raises
    ------
    ConfigurationError
        On ``repair_at``, for anything else.
    """

    def __init__(self, text: str) -> None:
        kind, _, number = text.partition(":")
        every = int(number) if number.isdecimal() else 0
        good = (text in ("end", "alarm")) or (kind == "every" and every >= 1)
        if not good:
            raise ConfigurationError("repair_at", text, "end, every:R with R from 1, or alarm")
        self.alarm = text == "alarm"
        self.every = every

    def due(self, server_round: int, rounds: int, *, alarmed: bool = False) -> bool:
        """Return whether the model of a round is repaired."""
        if self.alarm:
            return alarmed
        return server_round == rounds or (self.every > 0 and server_round % self.every == 0)
