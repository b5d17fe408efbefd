"""Audits: they look at the global model, say what they found, and change nothing."""
