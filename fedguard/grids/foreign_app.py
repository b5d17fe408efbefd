"""A Flower ClientApp of the user's own: found by its path, and run in this process."""

from __future__ import annotations

import importlib
import math
import sys
import threading
from collections.abc import Iterable, Mapping
from copy import copy, deepcopy
from functools import cache
from pathlib import Path
from typing import Any

from flwr.app import Array, ArrayRecord, Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp

from fedguard.clients.watch import Watch, as_failure
from fedguard.errors import ConfigurationError
from fedguard.grids.base import LocalGrid
from fedguard.grids.identity import LOCAL_RUN_ID, PARTITION_KEY, SIZE_KEY
from fedguard.grids.legacy_app import legacy_app

_FAILED = 1


@cache
def find_client_app(path: str) -> ClientApp:
    """Return the ClientApp that a path names; modules in the current folder are found too.

    A ``client_fn`` or `NumPyClient` of Flower's older API is adapted; see `legacy_app`.

    Raises
    ------
    ConfigurationError
        If there is none under that path.
    """
    module_name, colon, attribute = path.partition(":")
    allowed = "package.module:app, a Flower ClientApp, client_fn or NumPyClient"
    if not (module_name and colon and attribute):
        raise ConfigurationError("client_app", path, allowed)
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    try:
        found = importlib.import_module(module_name)
        for part in attribute.split("."):
            found = getattr(found, part)
    except Exception as error:  # importing a stranger's module can fail in any way
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ConfigurationError("client_app", path, f"{allowed} ({reason})") from error
    if (older := legacy_app(found)) is not None:
        return older
    if not isinstance(found, ClientApp):
        raise ConfigurationError("client_app", path, f"{allowed}; this is {type(found).__name__}")
    return found


class ClientAppGrid(LocalGrid):
    """Answer instructions with a plain Flower ClientApp, one client after another.

    Each client has a context of its own, whose node configuration names its ``partition-id`` and
    ``num-partitions``, and whose state lasts from round to round. A client that raises, or calls
    `sys.exit`, answers with an error, as it would on a SuperNode; one that outlasts the timeout of
    a call, which each client has for itself, is lost in that round, and in later ones for as long
    as its thread does not end.

    Parameters
    ----------
    app : ClientApp
        The user's app.
    num_clients : int
        Number of clients K.
    run_config : mapping
        What the app finds in ``context.run_config``.
    """

    def __init__(self, app: ClientApp, num_clients: int, run_config: Mapping[str, Any]) -> None:
        super().__init__()
        self.app = app
        self._watch = Watch()
        self._busy: dict[int, threading.Event] = {}
        self.contexts = [
            Context(
                run_id=LOCAL_RUN_ID,
                node_id=client,
                node_config={PARTITION_KEY: client, SIZE_KEY: num_clients},
                state=RecordDict(),
                run_config=dict(run_config),
            )
            for client in range(num_clients)
        ]

    def get_node_ids(self) -> Iterable[int]:
        """Return the client ids, 0 to K - 1."""
        return range(len(self.contexts))

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Let the app answer each instruction; each client has `timeout` for itself."""
        return [self._answer(message, timeout) for message in messages]

    def _answer(self, message: Message, timeout: float | None) -> Message:
        client = message.metadata.dst_node_id
        if client in self._busy and not self._busy[client].is_set():
            reason = "it has not come back from an earlier round (round_timeout)"
            return Message(Error(_FAILED, reason), reply_to=message)
        ended = self._busy[client] = threading.Event()
        # The instructions of a round share their content; what an app writes to is its own copy.
        own = copy_of(message)

        def do() -> Message:
            try:
                answer: Message = self.app(own, self.contexts[client])
            finally:
                ended.set()
            return answer

        try:
            answer = self._watch.call(do, math.inf if timeout is None else timeout)
            if answer.has_error():
                return Message(answer.error, reply_to=message)
            return Message(answer.content, reply_to=message)
        except Exception as error:  # a stranger's code can fail in any way
            return Message(Error(_FAILED, str(as_failure(error))), reply_to=message)

    def close(self) -> None:
        """End the thread on which clients answer."""
        self._watch.close()


def copy_of(message: Message) -> Message:
    """Return a copy of an instruction, whose content is nobody else's."""
    own = copy(message)
    own.content = _copy(message.content)
    return own


def _copy(content: RecordDict) -> RecordDict:
    """Return a copy of a message's content with arrays of Flower's own class."""
    copied = RecordDict()
    for name, record in content.items():
        copied[name] = (
            ArrayRecord({key: Array(array.numpy().copy()) for key, array in record.items()})
            if isinstance(record, ArrayRecord)
            else deepcopy(record)
        )
    return copied
