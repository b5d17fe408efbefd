"""fedguard: what happens to a federated model when some clients lie, and which defence saves it."""

__version__ = "0.1.0"
