"""Vertical federated learning: parties hold different features of the same rows."""
