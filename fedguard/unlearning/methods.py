"""The unlearning methods by name."""

from __future__ import annotations

from typing import Literal

from fedguard.unlearning.ascent import PlainAscent
from fedguard.unlearning.class_pruning import ClassPruning
from fedguard.unlearning.federaser import FedEraser
from fedguard.unlearning.finetune import FineTune
from fedguard.unlearning.method import UnlearningMethod
from fedguard.unlearning.not_ import NoT
from fedguard.unlearning.pga import ProjectedAscent
from fedguard.unlearning.random_prune import RandomPrune
from fedguard.unlearning.retrain import Retrain
from fedguard.unlearning.soul import SoulMethod

MethodName = Literal[
    "soul",
    "retrain",
    "finetune",
    "ascent",
    "pga",
    "federaser",
    "class-pruning",
    "not",
    "random-prune",
]

METHODS: dict[str, type[UnlearningMethod]] = {
    "soul": SoulMethod,
    "retrain": Retrain,
    "finetune": FineTune,
    "ascent": PlainAscent,
    "pga": ProjectedAscent,
    "federaser": FedEraser,
    "class-pruning": ClassPruning,
    "not": NoT,
    "random-prune": RandomPrune,
}
