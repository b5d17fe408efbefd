"""`Watch`: calls a client on a thread of its own, and gives up on one that never comes back."""

from __future__ import annotations

import ctypes
import sys
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, TypeVar

from fedguard.errors import ConfigurationError, RunError

Result = TypeVar("Result")

_PATIENCE = 2.0
"""Seconds that an interrupted call has to end before this process goes on without it."""


class ClientError(Exception):
    """A client raised, called `sys.exit`, or did not come back in time; says why in one line."""


class ClientLateError(ClientError):
    """A client had not come back when its time was up; its thread may still run."""


class _Call:
    """One call: what to do, and what became of it."""

    def __init__(self, do: Callable[[], Any]) -> None:
        self.do = do
        # Flower starts a process per message; one that needs no PyTorch should not import it.
        self.torch = sys.modules.get("torch")
        self.threads = self.torch.get_num_threads() if self.torch is not None else 0
        self.done = threading.Event()
        self.result: Any = None
        self.error: BaseException | None = None

    def run(self) -> None:
        """Do it, on the worker's thread, with as many threads per operation as the caller has."""
        try:
            if self.torch is not None and self.torch.get_num_threads() != self.threads:
                self.torch.set_num_threads(self.threads)
            self.result = self.do()
        except BaseException as error:  # a stranger's code can end in any way, sys.exit included
            self.error = error
        finally:
            self.done.set()


class Watch:
    """Calls one function after another on one daemon thread, each within its time.

    A call that outlasts its time is given up: an exception is raised in its thread, which ends a
    loop though not a wait inside the operating system, and the next call gets a new thread. No
    thread of a watch keeps the process from ending.
    """

    def __init__(self) -> None:
        self._queue: SimpleQueue[_Call | None] | None = None
        self._thread: threading.Thread | None = None

    def call(self, do: Callable[[], Result], seconds: float) -> Result:
        """Return what `do` returns.

        Parameters
        ----------
        do : callable
            A client's work.
        seconds : float
            Its time, above 0.

        Raises
        ------
        ClientError
            If it raised or called `sys.exit`.
        ClientLateError
            If it had not ended in time.
        ConfigurationError, RunError
            As they are: these are about the run, not about one client.
        """
        call = _Call(do)
        self._hand_over(call)
        try:
            ended = call.done.wait(min(seconds, threading.TIMEOUT_MAX))
        except BaseException:  # the user's interrupt
            self._give_up()
            call.done.wait(_PATIENCE)
            raise
        if not ended:
            self._give_up()
            raise ClientLateError(f"no reply within {seconds:g} s (round_timeout)")
        if call.error is not None:
            raise as_failure(call.error) from call.error
        found: Result = call.result
        return found

    def _hand_over(self, call: _Call) -> None:
        if self._queue is None:
            self._queue = SimpleQueue()
            self._thread = threading.Thread(target=_work, args=(self._queue,), daemon=True)
            self._thread.start()
        self._queue.put(call)

    def _give_up(self) -> None:
        thread, self._thread = self._thread, None
        self.close()
        if thread is not None and thread.ident is not None:
            ctypes.pythonapi.PyThreadState_SetAsyncExc(
                ctypes.c_ulong(thread.ident), ctypes.py_object(SystemExit)
            )

    def close(self) -> None:
        """Let the thread end once it has nothing to do."""
        if self._queue is not None:
            self._queue.put(None)
            self._queue = None


def _work(queue: SimpleQueue[_Call | None]) -> None:
    while (call := queue.get()) is not None:
        call.run()


def as_failure(error: BaseException) -> Exception:
    """Return a client's error as one line; what is about the whole run stays as it is."""
    if isinstance(error, ConfigurationError | RunError | ClientError):
        return error
    if isinstance(error, SystemExit):
        return ClientError(
            f"the client called sys.exit({'' if error.code is None else error.code})"
        )
    text = " ".join(f"{type(error).__name__}: {error}".split())[:200]
    return ClientError(text.removesuffix(": "))
