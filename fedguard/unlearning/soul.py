"""SoUL: bounded ascent, a mix with the global model, selective pruning."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor

from fedguard.config.requests import UnlearnRequest
from fedguard.unlearning.climbing import AscentSettings
from fedguard.unlearning.method import (
    Erased,
    Options,
    Situation,
    UnlearningMethod,
)
from fedguard.unlearning.pruning import PruningRule, keep_mask, select_units

_RETRIES = 3

_NEEDED: dict[PruningRule, tuple[str, ...]] = {
    "attribution-ratio": ("contributions",),
    "activation-ratio": ("activations",),
}
"""What rules ask of clients beside the ascent."""


class SoulMethod(UnlearningMethod):
    """Mix the global with the client's unlearned model, then silence the units it needs most.

    ``theta' = alpha theta + (1 - alpha) theta_u``; units chosen by the rule ``pruning`` are zeroed,
    in each hidden layer, and stay zero.

    Uz Zaman, Yao and Sun, "Sky of Unlearning (SoUL): Rewiring Federated Machine Unlearning via
    Selective Pruning", ICC 2025. A reading of: the paper's text is not public. Ours are that the
    unlearned model comes from bounded ascent, with held-out rows to stop and to repair by, that
    mixing comes before pruning, and every pruning rule but ``paper``. Several requesters' steps
    are added.
    """

    held_out: ClassVar[bool] = True

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        wants = {"ascent", *_NEEDED.get(options.pruning, ())}
        self.asks = frozenset(wants)  # type: ignore[misc]  # depends on the pruning rule

    def erase(self, situation: Situation) -> Erased:
        """Mix, then prune; see `UnlearningMethod.erase`."""
        step = torch.zeros_like(situation.vector)
        for delta in situation.climbed.values():
            step += delta
        mixed = situation.vector + (1.0 - self.options.alpha) * step
        keep = silenced(situation, situation.vector + step, self.options)
        return Erased(mixed, keep)

    def settings(self, situation: Situation, request: UnlearnRequest) -> AscentSettings:
        """Return the configured ascent, which may go back and on with smaller steps."""
        return replace(self.options.ascent, retries=_RETRIES)


def silenced(situation: Situation, unlearned: Tensor, options: Options) -> Tensor | None:
    """Return the mask of what a pruning rule leaves, None where it prunes nothing."""
    if options.pruning in _NEEDED and situation.both_sides() is None:
        return None
    chosen = {
        layer: select_units(options.pruning, evidence, options.beta, situation.rng)
        for layer, evidence in zip(situation.layers, situation.evidence(unlearned), strict=True)
    }
    if not any(len(units) for units in chosen.values()):
        return None
    return keep_mask(situation.layout, chosen)
