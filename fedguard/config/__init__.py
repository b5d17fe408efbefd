"""Every knob of a run, typed and checked before anything starts."""

from fedguard.config.faults import Faults
from fedguard.config.parts import Part
from fedguard.config.reading import assign, load_yaml, parse, read_setting, scalar
from fedguard.config.requests import UnlearnRequest, check_requests
from fedguard.config.run import LENGTH, PLACE, VERTICAL_DEFAULTS, SimulationConfig

__all__ = [
    "LENGTH",
    "PLACE",
    "VERTICAL_DEFAULTS",
    "Faults",
    "Part",
    "SimulationConfig",
    "UnlearnRequest",
    "assign",
    "check_requests",
    "load_yaml",
    "parse",
    "read_setting",
    "scalar",
]
