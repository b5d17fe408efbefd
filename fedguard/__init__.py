"""fedguard: what happens to a federated model when some clients lie, and which defence saves it."""

from fedguard._moved import keep_old_paths

__version__ = "0.1.0"

keep_old_paths()
