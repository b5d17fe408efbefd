"""``python -m fedguard``: the command ``fedguard``; see `fedguard.commands`."""

from __future__ import annotations

import sys

from fedguard.commands.front import main

if __name__ == "__main__":
    sys.exit(main())
