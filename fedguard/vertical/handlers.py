"""Registers a party's answers with a Flower ClientApp; imports little until a message arrives."""

from __future__ import annotations

from collections.abc import Callable

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

ANSWERS = {
    ("train", "embed"): "embed",
    ("train", "gradient"): "learn",
    ("train", "settle"): "settle",
    ("evaluate", "embed"): "embed_test",
}
"""Message types of a vertical federation, and the functions of `party_app` that answer them."""

SIMULATION_ANSWERS = {("query", "state"): "state", ("query", "restore"): "restore"}
"""Those that only a simulated party answers: it shows, or takes over, everything it holds."""

Place = Callable[[Context], tuple[str, int]]


def add_party_handlers(app: ClientApp, place: Place, *, simulated: bool) -> None:
    """Let a ClientApp answer a vertical federation's messages.

    Parameters
    ----------
    app : ClientApp
        The app.
    place : callable
        Returns a node's run configuration (JSON) and party index.
    simulated : bool
        Whether the party shows its state for the simulation's records, attacks and checkpoints. A
        real party never does.
    """
    answers = {**ANSWERS, **SIMULATION_ANSWERS} if simulated else ANSWERS
    for (category, action), function in answers.items():
        getattr(app, category)(action)(_handler(function, place, simulated))


def _handler(function: str, place: Place, simulated: bool) -> Callable[[Message, Context], Message]:
    def answer(message: Message, context: Context) -> Message:
        from fedguard.vertical import party_app

        config_json, index = place(context)
        lone = party_app.find_party(config_json, index)
        return party_app.ANSWERS[function](lone, message, context, simulated)

    return answer
