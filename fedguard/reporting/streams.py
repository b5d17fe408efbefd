"""What is written to a terminal, a pipe and a log file: no colour and no control where unwanted."""

from __future__ import annotations

import io
import logging
import os
import sys


def settle_streams() -> None:
    """Let what a stream's encoding lacks become ``?``, so that no sign ends a run."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.encoding.lower() != "utf-8":
            stream.reconfigure(errors="replace")


def settle_flower(level: int = logging.WARNING) -> None:
    """Let Flower's log say only what matters, coloured on a terminal alone.

    Parameters
    ----------
    level : int
        Of `logging`; what is below it is not shown.
    """
    logging.getLogger("flwr").setLevel(level)
    from flwr.common.logger import update_console_handler

    update_console_handler(colored=sys.stderr.isatty() and not os.environ.get("NO_COLOR"))
