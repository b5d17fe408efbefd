"""The command: ``python -m fedguard.simulate`` and ``fedguard``; see `fedguard.commands`."""

from __future__ import annotations

import sys

from fedguard.commands.front import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())
