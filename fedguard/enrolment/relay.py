"""A relay of bytes: the aggregator's door sees the relay's address in place of the clients'.

TLS runs from client to door; the relay reads nothing, and knows addresses but no update.
"""

from __future__ import annotations

import contextlib
import socket
import socketserver
import threading
from typing import cast

from fedguard.enrolment.wire import PATIENCE

_BLOCK = 1 << 16


class Relay(socketserver.ThreadingTCPServer):
    """Pass on what arrives, in both directions.

    Parameters
    ----------
    address : tuple of str and int
        Where it listens.
    target : tuple of str and int
        Whom it passes to.
    """

    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 256

    def __init__(self, address: tuple[str, int], target: tuple[str, int]) -> None:
        self.target = target
        super().__init__(address, _Passing)

    def handle_error(self, request: object, client_address: object) -> None:
        """Write no addresses down; who breaks off is no news."""


class _Passing(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        target = cast("Relay", self.server).target
        with socket.create_connection(target, timeout=PATIENCE) as onward:
            self.request.settimeout(PATIENCE)
            back = threading.Thread(target=_copy, args=(onward, self.request), daemon=True)
            back.start()
            _copy(self.request, onward)
            back.join()


def _copy(source: socket.socket, sink: socket.socket) -> None:
    """Copy until the source ends, and tell the sink so."""
    with contextlib.suppress(OSError):
        while block := source.recv(_BLOCK):
            sink.sendall(block)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)
