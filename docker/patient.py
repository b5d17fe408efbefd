"""Runs one of Flower's commands with another patience for the processes of its apps.

``patient.py SECONDS flower-supernode ...``. Flower 1.41 starts a process for each message and gives
it 30 s to start and 60 s between signs of life, which a busy machine takes to load Python alone;
then the app fails with "401" or "No heartbeat". There is no option for it. Only the patience with
an app's process changes, in this process; how soon a node is taken for lost does not.
"""

from __future__ import annotations

import importlib
import sys
from importlib.metadata import entry_points

NAME = "HEARTBEAT_DEFAULT_INTERVAL"
PLACES = (
    "flwr.supercore.corestate.in_memory_corestate",
    "flwr.supercore.corestate.sql_corestate",
)
FEWEST = 30
"""Seconds; Flower's own, and what its apps' signs of life are timed for."""


def be_patient(seconds: int) -> None:
    """Give the processes of apps as many seconds to start, and twice that between signs of life."""
    for place in PLACES:
        module = importlib.import_module(place)
        if getattr(module, NAME, None) != FEWEST:
            sys.exit(f"patient.py: {place} has changed with Flower; set APP_PATIENCE={FEWEST}")
        setattr(module, NAME, seconds)


def main() -> None:
    """Run the command in this process."""
    seconds, command = sys.argv[1], sys.argv[2]
    if not seconds.isdecimal() or int(seconds) < FEWEST:
        sys.exit(f"APP_PATIENCE={seconds} is not valid; allowed: {FEWEST} or more seconds")
    if int(seconds) != FEWEST:
        be_patient(int(seconds))
    (script,) = entry_points(group="console_scripts", name=command)
    sys.argv = sys.argv[2:]
    sys.exit(script.load()())


if __name__ == "__main__":
    main()
