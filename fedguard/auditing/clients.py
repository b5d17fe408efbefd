"""`AnyClients`: a user's ClientApp, whichever of Flower's two APIs it was made for."""

from __future__ import annotations

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from fedguard.grids.legacy_app import legacy_app

_OLDER = ("fitins", "evaluateins", "getparametersins", "getpropertiesins")
"""How the records of an older server's messages begin."""


class AnyClients(ClientApp):
    """A ClientApp that answers both kinds of messages, whichever of the two APIs it was made for.

    Parameters
    ----------
    inner : ClientApp
        The user's app.
    """

    def __init__(self, inner: ClientApp) -> None:
        super().__init__()
        self.inner = inner
        self.adapted = legacy_app(inner)

    def __call__(self, message: Message, context: Context) -> Message:
        """Answer a message as the app does."""
        older = any(name.partition(".")[0] in _OLDER for name in message.content)
        app = self.inner if older or self.adapted is None else self.adapted
        answer: Message = app(message, context)
        return answer
