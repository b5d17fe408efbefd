"""Flower's older server asks its clients one by one; here it asks a round's clients together."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from flwr.app import Message, MessageType
from flwr.common import Code
from flwr.compat.common import recorddict_compat as compat
from flwr.server import server as older


@contextmanager
def gathered_rounds() -> Iterator[None]:
    """Let a round's instructions reach the grid in one call while the block runs.

    An attack that looks at all clients of a round needs them together. What the server sees is the
    same: a result, or a failure, for each client.
    """
    original = older.fit_clients

    def fit_clients(
        client_instructions: Any, max_workers: Any, timeout: Any, group_id: int
    ) -> tuple[list[Any], list[Any]]:
        proxies = [proxy for proxy, _ in client_instructions]
        if not all(hasattr(proxy, "grid") for proxy in proxies):
            found: tuple[list[Any], list[Any]] = original(
                client_instructions, max_workers, timeout, group_id
            )
            return found
        messages = [
            Message(
                compat.fitins_to_recorddict(instruction, keep_input=True),
                dst_node_id=proxy.node_id,
                message_type=MessageType.TRAIN,
                group_id=str(group_id),
                ttl=timeout,
            )
            for proxy, instruction in client_instructions
        ]
        replies: dict[int, list[Message]] = {}
        for reply in proxies[0].grid.send_and_receive(messages, timeout=timeout):
            replies.setdefault(reply.metadata.src_node_id, []).append(reply)
        results: list[Any] = []
        failures: list[Any] = []
        for proxy in proxies:
            try:
                result = _result(replies.get(proxy.node_id, []))
            except Exception as error:  # as the older server's own threads do
                failures.append(error)
                continue
            whole = result.status.code == Code.OK
            (results if whole else failures).append((proxy, result))
        return results, failures

    older.fit_clients = fit_clients
    try:
        yield
    finally:
        older.fit_clients = original


def _result(replies: list[Message]) -> Any:
    """Return one client's result; a proxy of the older API takes one reply, not none, nor two."""
    if not replies:
        raise ValueError("Expected one Message but got: 0")
    if replies[0].has_error():
        raise ValueError(str(replies[0].error.reason))
    return compat.recorddict_to_fitres(replies[0].content, keep_input=True)
