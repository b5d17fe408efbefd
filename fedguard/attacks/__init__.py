"""Attacks on federated learning, one file each; `fedguard.registry` knows their names."""

from fedguard.attacks.base import Attack, Knowledge
from fedguard.training.base import LocalStep

__all__ = ["Attack", "Knowledge", "LocalStep"]
