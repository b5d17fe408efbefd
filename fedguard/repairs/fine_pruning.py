"""Fine-pruning: shut the channels that sleep on clean rows, then fine-tune."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from fedguard.errors import check_number
from fedguard.models.channels import Unit, shut
from fedguard.repairs.toolkit.held_masks import PruningRepair
from fedguard.repairs.toolkit.passes import Passes, constant, train_on_rows
from fedguard.repairs.toolkit.rows import score, split_rows
from fedguard.strategies.toolkit.server_tools import ServerTools
from fedguard.training.attention import layer_outputs


class FinePruning(PruningRepair):
    r"""Shut channels of the last layer in order of their mean activation on clean rows.

    1. Mean over rows and positions of what wakes in each channel of the last layer that has any.
    2. Shut channels from the lowest on, until the held-out score falls by more than
       `tolerance` or a share `most` is shut.
    3. Fine-tune the rest for `epochs` passes.

    Liu, Dolan-Gavitt and Garg, "Fine-Pruning: Defending Against Backdooring Attacks on Deep Neural
    Networks", RAID 2018. The held-out fifth on which the fall is judged, and `most`, are ours.

    Parameters
    ----------
    tolerance : float
        Largest fall of the held-out score, at least 0.
    most : float
        Largest share of the layer's channels that is shut, above 0 to below 1.
    epochs : int
        Passes of fine-tuning, at least 0.
    lr : float
        Its learning rate, above 0.
    batch_size : int
        Rows per step, at least 1.

    Notes
    -----
    .. math::
       a_k = \operatorname{mean}_{x, p} \max(0, F_k(x)_p), \qquad
       S = \text{the most channels of least } a_k : \;
       s(w \text{ without } S) \ge s(w) - \epsilon, \; |S| \le q K

    where F is the output of the last layer that has channels, K of them, x clean rows, p a
    position, s the held-out score of the model w, :math:`\epsilon` the `tolerance` and q is `most`.
    """

    def __init__(
        self,
        *,
        tolerance: float = 0.04,
        most: float = 0.8,
        epochs: int = 3,
        lr: float = 0.01,
        batch_size: int = 32,
    ) -> None:
        super().__init__()
        check_number("tolerance", tolerance, at_least=0.0)
        check_number("most", most, above=0.0, below=1.0)
        check_number("epochs", epochs, at_least=0)
        check_number("lr", lr, above=0.0)
        check_number("batch_size", batch_size, at_least=1)
        self.tolerance, self.most = tolerance, most
        self.epochs, self.lr, self.batch_size = epochs, lr, batch_size

    def mend(self, tools: ServerTools, rng: torch.Generator) -> Mapping[str, Any]:
        """Prune and fine-tune; return what it cost on held-out rows; see `Repair.mend`."""
        self.hold(tools)
        units = self.units(tools)
        if not units:
            return {"pruned": 0}
        own, held = split_rows(tools, 0.2, rng)
        before = score(held, tools.model)
        order = self._sleepers(units[-1], own)
        count = self._affordable(units[-1], order, held, before)
        gone = torch.zeros(units[-1].size, dtype=torch.bool)
        gone[order[:count]] = True
        self.keep_only(units[-1:], {units[-1].layer: gone})
        self.hold(tools)
        pruned = score(held, tools.model)
        how = Passes(constant(self.lr), self.epochs, self.batch_size)
        finite = train_on_rows(own, tools.model, how, rng, after_step=lambda: self.hold(tools))
        return {
            "pruned": int(sum(int((~kept).sum()) for kept in self.kept.values())),
            "held_out_before": before,
            "held_out_pruned": pruned,
            "held_out_after": score(held, tools.model),
            **self.picture(units),
            **({} if finite else {"undone": 1.0}),
        }

    @staticmethod
    def _sleepers(unit: Unit, own: ServerTools) -> Tensor:
        """Return the channels of a layer, those that wake least first."""
        output = layer_outputs(own.model, [unit.layer], own.x)[unit.layer]
        across = [axis for axis in range(output.dim()) if axis != 1]
        return output.clamp_min(0.0).mean(dim=across).cpu().argsort(stable=True)

    def _affordable(self, unit: Unit, order: Tensor, held: ServerTools, before: float) -> int:
        """Return how many channels can be shut before the held-out score falls too far."""
        found = dict(held.model.named_parameters())
        kept = {name: found[name].detach().clone() for name in unit.tensors}
        count = 0
        for more in range(1, int(self.most * unit.size) + 1):
            open_now = torch.ones(unit.size, dtype=torch.bool)
            open_now[order[:more]] = False
            shut(held.model, [unit], {unit.layer: open_now})
            if score(held, held.model) < before - self.tolerance:
                break
            count = more
        with torch.no_grad():
            for name, value in kept.items():
                found[name].copy_(value)
        return count
