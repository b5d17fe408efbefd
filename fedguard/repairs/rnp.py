"""RNP: channels that must be shut to bring a forgotten clean task back are backdoor channels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from logging import WARNING
from typing import Any, ClassVar, Literal

import torch
from flwr.common.logger import log
from torch import Tensor, nn

from fedguard.errors import check_choice, check_number
from fedguard.models.channels import Unit, run_masked, shut
from fedguard.repairs.toolkit.held_masks import PruningRepair
from fedguard.repairs.toolkit.passes import Passes, constant, train_on_rows
from fedguard.repairs.toolkit.rows import FEW, score, split_rows
from fedguard.strategies.toolkit.forgetting import Climb, chance, forget
from fedguard.strategies.toolkit.server_tools import ServerTools
from fedguard.traits import Traits

Preset = Literal["paper", "hardened"]

GRID = tuple(round(0.05 * step, 2) for step in range(19))
"""Thresholds of the recorded curve, 0 to 0.9."""


@dataclass(frozen=True)
class Recovery:
    """How masks are learnt: rate, passes, factor on the loss, and whether shifts are masked."""

    lr: float
    passes: int
    alpha: float = 0.2
    batch_size: int = 128
    shift: bool = True


Preparation = tuple[Climb, float | None, Recovery]
"""The climb, where it ends (None: as good as chance), and how masks are learnt."""

PAPER: Preparation = (Climb(clip=None, running=True), 0.2, Recovery(lr=0.2, passes=20, shift=False))
HARDENED: Preparation = (Climb(lr=0.01), None, Recovery(lr=0.005, passes=60))


class Rnp(PruningRepair):
    r"""Forget the clean task, learn masks that bring it back, prune what the masks shut.

    1. Climb the loss of a copy of the model on clean rows until it is as good as chance.
    2. ``t_hat`` = the class it then predicts most, ``confidence`` = how often: a backdoor
       survives the climb, so that a backdoored model answers with the target class.
    3. With the copy frozen, learn one mask in [0, 1] per channel that brings the task back.
    4. Shut the channels with a mask of at most `threshold` in the model itself; they stay shut in
       all rounds after it.

    Li, Lyu, Ma, Koren, Lyu, Li and Jiang, "Reconstructive Neuron Pruning for Backdoor Defense",
    ICML 2023. Preset ``paper`` does what the authors' code does: accuracy of the running
    (training) mode ends the climb, no gradient is clipped, masks scale BatchNorm's scale alone,
    with rate 0.2. Preset ``hardened`` ends the climb by the accuracy in evaluation mode, clips
    gradients at 20, masks scale and shift with rate 0.005. Ours in both: the threshold is chosen
    on a held-out fifth of the rows, as the largest that costs no more than `tolerance` and no more
    than a share `most` of the channels; below `confidence` nothing is pruned; GroupNorm's channels
    are masked as BatchNorm's; layers without normalisation are masked at weight and bias.

    Parameters
    ----------
    preset : {"hardened", "paper"}
        Which of the two.
    tolerance : float
        Largest fall of the held-out accuracy, at least 0.
    most : float
        Largest share of all channels that is shut, above 0 to 1.
    threshold : float or None
        Masks at or below it are shut, 0 to 1, whatever it costs; None chooses.
    confidence : float
        Least share of the rows on `t_hat` at which anything is pruned, 0 to 1; 0 always prunes.
    finetune : int
        Passes of fine-tuning afterwards, at least 0; the paper has none.

    Notes
    -----
    .. math::
       m \leftarrow \operatorname{clip}_{[0, 1]} \left( m - \eta \nabla_m \, \alpha \,
       \mathrm{CE}(f_m(x), y) \right), \qquad m_0 = 1

    .. math::
       \text{shut } \{ k : m_k \le \theta \}

    where :math:`f_m` is the model that forgot, its channels scaled by the masks m, (x, y) are clean
    rows, :math:`\alpha` = 0.2, :math:`\eta` the preset's rate, and :math:`\theta` the `threshold`.
    """

    traits: ClassVar[Traits] = Traits(
        tasks=frozenset({"classification"}), server_data="labelled", server_model=True
    )

    def __init__(
        self,
        *,
        preset: Preset = "hardened",
        tolerance: float = 0.05,
        most: float = 0.1,
        threshold: float | None = None,
        confidence: float = 0.6,
        finetune: int = 0,
    ) -> None:
        super().__init__()
        check_choice("preset", preset, ("hardened", "paper"))
        check_number("tolerance", tolerance, at_least=0.0)
        check_number("most", most, above=0.0, at_most=1.0)
        if threshold is not None:
            check_number("threshold", threshold, at_least=0.0, at_most=1.0)
        check_number("confidence", confidence, at_least=0.0, at_most=1.0)
        check_number("finetune", finetune, at_least=0)
        self.preset, self.tolerance, self.most = preset, tolerance, most
        self.threshold, self.confidence, self.finetune = threshold, confidence, finetune
        self.climb, self.stop, self.recovery = PAPER if preset == "paper" else HARDENED
        self.shift = self.recovery.shift

    def open(self, tools: ServerTools) -> None:
        """Refuse a model without channels; warn of few rows; see `Repair.open`."""
        super().open(tools)
        if len(tools.y) < FEW:
            log(WARNING, "rnp with %d rows of the server is a gamble below %d", len(tools.y), FEW)

    def mend(self, tools: ServerTools, rng: torch.Generator) -> Mapping[str, Any]:
        """Prune; return label, confidence, what was shut and what it cost; see `Repair.mend`."""
        self.keep_shut(tools)
        own, held = split_rows(tools, 0.2, rng)
        stop = self.stop if self.stop is not None else chance(tools.num_classes)
        units = self.units(tools)
        found = forget(own, own.x, own.y, self.climb, stop, rng)
        told = {"label": found.label, "confidence": found.confidence, "forgotten": found.accuracy}
        if found.confidence < self.confidence:
            return {**told, "refused": 1, "pruned": 0}
        masks = recover(found.model, units, own, self.recovery, rng)
        self.masks = masks
        return {**told, "refused": 0, **self._prune(tools, units, masks, held, own, rng)}

    def _prune(
        self,
        tools: ServerTools,
        units: Sequence[Unit],
        masks: Mapping[str, Tensor],
        held: ServerTools,
        own: ServerTools,
        rng: torch.Generator,
    ) -> dict[str, Any]:
        before = score(held, tools.model)
        curve = [held_out_at(held, units, masks, level) for level in GRID]
        level = self.threshold
        if level is None:
            level = self._choose(held, units, masks, before)
        gone = {layer: mask <= level for layer, mask in masks.items()}
        self.keep_only(units, gone)
        self.keep_shut(tools)
        pruned = score(held, tools.model)
        if self.finetune:
            how = Passes(constant(0.01), self.finetune, 32, augment=True)
            train_on_rows(own, tools.model, how, rng, after_step=lambda: self.hold(tools))
        return {
            "pruned": sum(int((~kept).sum()) for kept in self.kept.values()),
            "channels": sum(unit.size for unit in units),
            "threshold": level,
            "held_out_before": before,
            "held_out_pruned": pruned,
            "held_out_after": score(held, tools.model),
            "curve_score": [round(s, 4) for s, _ in curve],
            "curve_channels": [count for _, count in curve],
            **self.picture(units),
        }

    def _choose(
        self,
        held: ServerTools,
        units: Sequence[Unit],
        masks: Mapping[str, Tensor],
        before: float,
    ) -> float:
        """Return the largest mask value up to which pruning is affordable; -1 for none."""
        values = sorted({float(m) for unit in units for m in masks[unit.layer] if m < 1.0})
        total = sum(unit.size for unit in units)
        best = -1.0
        for level in values:
            found, count = held_out_at(held, units, masks, level)
            if count > self.most * total:
                break
            if found >= before - self.tolerance:
                best = level
        return best


def recover(
    model: nn.Module,
    units: Sequence[Unit],
    own: ServerTools,
    how: Recovery,
    rng: torch.Generator,
) -> dict[str, Tensor]:
    """Return masks, (size,) by layer on the CPU, that bring a forgotten clean task back.

    Parameters
    ----------
    model : nn.Module
        The model that forgot; it stays as it is.
    units : sequence of Unit
        Layers whose channels are masked.
    own : ServerTools
        Clean rows and the task.
    how : Recovery
        Rate, passes and factor.
    rng : torch.Generator
        Order of the rows.
    """
    model.eval()
    device = own.x.device
    masks = {u.layer: torch.ones(u.size, device=device, requires_grad=True) for u in units}
    with torch.enable_grad():
        for _ in range(how.passes):
            order = torch.randperm(len(own.y), generator=rng).to(device)
            for rows in torch.split(order, how.batch_size):
                output = run_masked(model, units, masks, own.x[rows])
                loss = how.alpha * own.task.losses(output, own.y[rows]).mean()
                gradients = torch.autograd.grad(loss, list(masks.values()), allow_unused=True)
                with torch.no_grad():
                    for mask, gradient in zip(masks.values(), gradients, strict=True):
                        if gradient is not None:
                            step = torch.nan_to_num(gradient, 0.0, 0.0, 0.0)
                            mask.sub_(how.lr * step).clamp_(0.0, 1.0)
    return {layer: mask.detach().cpu() for layer, mask in masks.items()}


def held_out_at(
    held: ServerTools, units: Sequence[Unit], masks: Mapping[str, Tensor], level: float
) -> tuple[float, int]:
    """Return the held-out score with channels up to a mask value shut, and how many they are."""
    found = dict(held.model.named_parameters())
    kept = {name: found[name].detach().clone() for unit in units for name in unit.tensors}
    count = shut(held.model, units, {layer: mask > level for layer, mask in masks.items()})
    told = score(held, held.model)
    with torch.no_grad():
        for name, value in kept.items():
            found[name].copy_(value)
    return told, count
