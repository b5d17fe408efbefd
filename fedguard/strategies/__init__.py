# ruff: noqa: F401 (type checkers read the imports; at run time each name is imported when used)
"""Aggregation rules and defences, one file each; every one is a Flower strategy.

A name is imported from its file when it is first used: ``from fedguard.strategies import Krum``
loads neither the other rules nor what they need.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedguard.strategies.alignins import AlignIns
    from fedguard.strategies.backdoor_indicator import BackdoorIndicator
    from fedguard.strategies.base import RobustStrategy
    from fedguard.strategies.bnguard import BNGuard
    from fedguard.strategies.bulyan import Bulyan
    from fedguard.strategies.caf import CAF
    from fedguard.strategies.centered_clipping import CenteredClipping
    from fedguard.strategies.crfl import CRFL
    from fedguard.strategies.deepsight import DeepSight
    from fedguard.strategies.dnc import DnC
    from fedguard.strategies.fedavg import FedAvg
    from fedguard.strategies.fedrdf import FedRDF
    from fedguard.strategies.fedseca import FedSECA
    from fedguard.strategies.flame import FLAME
    from fedguard.strategies.flare import FLARE
    from fedguard.strategies.fldetector import FLDetector
    from fedguard.strategies.fltrust import FLTrust
    from fedguard.strategies.foolsgold import FoolsGold
    from fedguard.strategies.foundationfl import FoundationFL
    from fedguard.strategies.freqfed import FreqFed
    from fedguard.strategies.geminiguard import GeminiGuard
    from fedguard.strategies.geometric_median import GeometricMedian
    from fedguard.strategies.hammer_anvil import HammerAnvil
    from fedguard.strategies.krum import Krum, MultiKrum
    from fedguard.strategies.lasa import LASA
    from fedguard.strategies.legacy import LegacyStrategy
    from fedguard.strategies.mda import MDA
    from fedguard.strategies.meamed import MeaMed
    from fedguard.strategies.median import Median
    from fedguard.strategies.monna import MoNNA
    from fedguard.strategies.multi_metrics import MultiMetrics
    from fedguard.strategies.norm_clipping import NormClipping
    from fedguard.strategies.rlr import RLR
    from fedguard.strategies.sentinel import Sentinel
    from fedguard.strategies.signguard import SignGuard
    from fedguard.strategies.skymask import SkyMask
    from fedguard.strategies.smea import SMEA
    from fedguard.strategies.toolkit.server_tools import ServerTools
    from fedguard.strategies.trimmed_mean import TrimmedMean

_BASES = {
    "RobustStrategy": "base",
    "ServerTools": "toolkit.server_tools",
    "LegacyStrategy": "legacy",
}


def _homes() -> dict[str, str]:
    """Return each class's module: the bases' and every registered strategy's, of any room."""
    from fedguard.registry import own_parts

    paths = (path.partition(":") for path in own_parts("strategy").values())
    found = {name: module for module, _, name in paths}
    return {**found, **{name: f"{__name__}.{module}" for name, module in _BASES.items()}}


def __getattr__(name: str) -> Any:
    """Import a strategy's class from its own file."""
    if name.startswith("_") or name not in (homes := _homes()):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(import_module(homes[name]), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *_homes()})
