"""Aggregation rules and defences, one file each; every one is a Flower strategy."""

from fedguard.strategies.base import RobustStrategy, ServerTools
from fedguard.strategies.fedavg import FedAvg
from fedguard.strategies.geminiguard import GeminiGuard
from fedguard.strategies.krum import Krum, MultiKrum
from fedguard.strategies.median import Median
from fedguard.strategies.trimmed_mean import TrimmedMean

__all__ = [
    "FedAvg",
    "GeminiGuard",
    "Krum",
    "Median",
    "MultiKrum",
    "RobustStrategy",
    "ServerTools",
    "TrimmedMean",
]
