"""Fields that exclude each other: what is refused before anything is loaded."""

from __future__ import annotations

from pathlib import Path

from fedguard.errors import ConfigurationError


def check_stopping(patience: int | None, repair_at: str | None, unlearn: int) -> None:
    """Refuse an early end with what needs to know which round is the last.

    Parameters
    ----------
    patience : int or None
        Rounds without a better model; None: no early end.
    repair_at : str or None
        When the model is repaired; None where it is not.
    unlearn : int
        How many requests to unlearn there are.

    Raises
    ------
    ConfigurationError
        On ``repair_at`` or ``patience``.
    """
    if patience is None:
        return
    if repair_at == "end":
        allowed = "every:R or alarm with patience: nobody knows beforehand which round is the last"
        raise ConfigurationError("repair_at", repair_at, allowed)
    if unlearn:
        allowed = "nothing with unlearn: a run that ends early may never reach a request"
        raise ConfigurationError("patience", patience, allowed)


def check_start(start_from: Path | None, unlearn: int) -> None:
    """Refuse a model to start from in a run that is to forget.

    Raises
    ------
    ConfigurationError
        On ``start_from``.
    """
    if start_from is not None and unlearn:
        allowed = "nothing with unlearn: what a model learnt before the run cannot be forgotten"
        raise ConfigurationError("start_from", str(start_from), allowed)


def check_evaluation(share: float, *, own_clients: bool) -> None:
    """Refuse an evaluation per client where the simulation holds no rows of clients.

    Raises
    ------
    ConfigurationError
        On ``evaluate_clients``.
    """
    if share and own_clients:
        allowed = "0 with a client_app, whose clients bring rows of their own"
        raise ConfigurationError("evaluate_clients", share, allowed)
