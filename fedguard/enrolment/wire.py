"""Requests over TLS between registrar, aggregator and members: bytes in, bytes or a reason out."""

from __future__ import annotations

import contextlib
import http.client
import ssl
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from fedguard.enrolment.reasons import MALFORMED, NO_ANSWER, REASONS, NotAdmittedError

_REFUSED, _TOO_LARGE = 403, 413
PATIENCE = 30.0
"""Seconds that either side waits for the other's next bytes."""

Answerer = Callable[[str, bytes, str], bytes]
"""Answers a path, a body and the peer's name in its certificate, "" for none."""


def split(address: str) -> tuple[str, int]:
    """Return the host and the port of ``host:port``."""
    host, _, port = address.rpartition(":")
    return host, int(port)


def server_context(certificate: Path, key: Path, clients: Path | None = None) -> ssl.SSLContext:
    """Return the TLS side of a server; with `clients`, peers need a certificate of that CA."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(certificate, key)
    if clients is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(clients)
    return context


def client_context(authority: Path, own: tuple[Path, Path] | None = None) -> ssl.SSLContext:
    """Return the TLS side of a client; with `own`, it shows a certificate."""
    context = ssl.create_default_context(cafile=str(authority))
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    if own is not None:
        context.load_cert_chain(*own)
    return context


class TlsService:
    """Answers requests in threads, one at a time; a request that breaks harms itself alone.

    Parameters
    ----------
    address : tuple of str and int
        Host and port; port 0 for any free one.
    context : SSLContext
        See `server_context`.
    answer : callable
        What it does; `NotAdmittedError` is told to the peer.
    limit : int
        Largest body in bytes.
    """

    def __init__(
        self, address: tuple[str, int], context: ssl.SSLContext, answer: Answerer, limit: int
    ) -> None:
        self.answer = answer
        self.limit = limit
        self.context = context
        self._lock = threading.Lock()
        self._server = _Server(address, _handler_for(self))
        self.port: int = self._server.server_address[1]

    def serve_forever(self) -> None:
        """Answer until `close`."""
        self._server.serve_forever(poll_interval=0.1)

    @contextlib.contextmanager
    def running(self) -> Iterator[TlsService]:
        """Answer in the background."""
        thread = threading.Thread(target=self.serve_forever, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self.close()
            thread.join()

    def close(self) -> None:
        """Stop answering."""
        self._server.shutdown()
        self._server.server_close()

    def respond(self, path: str, body: bytes, peer: str) -> tuple[int, bytes]:
        """Return status and body of the answer to a request."""
        try:
            with self._lock:
                return 200, self.answer(path, body, peer)
        except NotAdmittedError as error:
            return _REFUSED, error.reason.encode()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: a peer that breaks off, or speaks no TLS, is no news."""


def _handler_for(service: TlsService) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = PATIENCE

        def setup(self) -> None:
            # The handshake is done here, in the request's own thread: nobody waits for a slow peer.
            self.request.settimeout(PATIENCE)
            self.request = service.context.wrap_socket(self.request, server_side=True)
            super().setup()

        def finish(self) -> None:
            super().finish()
            self.request.close()

        def do_POST(self) -> None:
            size = self.headers.get("Content-Length", "")
            if not size.isdecimal() or int(size) > service.limit:
                self._send(_TOO_LARGE, MALFORMED.encode())
                return
            body = self.rfile.read(int(size))
            self._send(*service.respond(self.path, body, _name_of(self.request)))

        def _send(self, status: int, body: bytes) -> None:
            self.send_response_only(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Write no addresses down."""

    return Handler


def _name_of(connection: Any) -> str:
    """Return the common name in the peer's certificate, "" where it showed none."""
    subject = (connection.getpeercert() or {}).get("subject", ())
    names = [value for part in subject for key, value in part if key == "commonName"]
    return str(names[0]) if names else ""


def ask(address: str, context: ssl.SSLContext, path: str, body: bytes) -> bytes:
    """Send a request on a connection of its own and return the answer.

    A connection, or a TLS session, that was kept would link what goes over it.

    Raises
    ------
    NotAdmittedError
        With the peer's reason; `NO_ANSWER` where there is no usable answer.
    """
    host, port = split(address)
    connection = http.client.HTTPSConnection(host, port, timeout=PATIENCE, context=context)
    try:
        connection.request("POST", path, body)
        response = connection.getresponse()
        found = response.read()
    except (OSError, http.client.HTTPException) as error:
        raise NotAdmittedError(NO_ANSWER) from error
    finally:
        connection.close()
    if response.status == 200:
        return found
    told = found.decode(errors="replace")
    raise NotAdmittedError(told if told in REASONS else NO_ANSWER)
