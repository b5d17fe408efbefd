"""Super-fine-tuning: a learning rate that climbs high and falls again, on the server's rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from fedguard.errors import check_number
from fedguard.layout import ParameterLayout
from fedguard.repairs.base import Repair
from fedguard.repairs.toolkit.passes import Passes, cycles, train_on_rows
from fedguard.repairs.toolkit.rows import score
from fedguard.strategies.toolkit.server_tools import ServerTools


class SuperFineTuning(Repair):
    r"""Fine-tune with a rate that climbs to `high` and falls to `low`, `cycles` times.

    SGD with momentum 0.9, images moved by a few pixels with a small square cut out. High rates
    shake a backdoor out of the weights that ordinary fine-tuning leaves alone.

    A reading of Sha, He, Humbert, Berrang and Zhang, "Fine-Tuning Is All You Need to Mitigate
    Backdoor Attacks", 2022 (the idea), and of "Hammer and Anvil", arXiv 2509.08089, which bounds
    the change (`most`); the paper's schedules were not at hand: this one is ours.

    Parameters
    ----------
    low, high : float
        Lowest and highest learning rate; ``low`` above 0, ``high`` above `low`.
    cycles : int
        How often the rate climbs, at least 1.
    epochs : int
        Passes over the server's rows, at least 1.
    batch_size : int
        Rows per step, at least 1.
    augment : bool
        Whether images are moved and cut.
    flip : bool
        Whether half of them are mirrored too; wrong for digits and traffic signs.
    most : float or None
        Longest change of the weights, as a multiple of their own norm; a longer one is scaled
        down. None for any.

    Notes
    -----
    .. math::
       \eta(t) = \eta_{\min} + \frac{\eta_{\max} - \eta_{\min}}{2}
       \left( 1 - \cos \frac{2 \pi c \, t}{T} \right)

    .. math::
       w \leftarrow w_0 + (w - w_0) \min\left( 1, \frac{q \lVert w_0 \rVert}{\lVert w - w_0 \rVert}
       \right) \quad \text{at the end}

    where :math:`\eta(t)` is the rate in step t of T, between `low` and `high`, c is `cycles`,
    :math:`w_0` the model before, and q is `most`.
    """

    def __init__(
        self,
        *,
        low: float = 0.001,
        high: float = 0.1,
        cycles: int = 2,
        epochs: int = 10,
        batch_size: int = 32,
        augment: bool = True,
        flip: bool = False,
        most: float | None = None,
    ) -> None:
        check_number("low", low, above=0.0)
        check_number("high", high, above=low)
        check_number("cycles", cycles, at_least=1)
        check_number("epochs", epochs, at_least=1)
        check_number("batch_size", batch_size, at_least=1)
        if most is not None:
            check_number("most", most, above=0.0)
        self.low, self.high, self.cycles, self.epochs = low, high, cycles, epochs
        self.batch_size, self.augment, self.flip, self.most = batch_size, augment, flip, most

    def mend(self, tools: ServerTools, rng: torch.Generator) -> Mapping[str, Any]:
        """Train; return scores on the server's rows and how far it went; see `Repair.mend`."""
        layout = ParameterLayout.from_module(tools.model)
        before = layout.flatten({n: v.cpu() for n, v in tools.model.state_dict().items()})
        first = score(tools, tools.model)
        how = Passes(
            cycles(self.low, self.high, self.cycles),
            self.epochs,
            self.batch_size,
            augment=self.augment,
            flip=self.flip,
        )
        finite = train_on_rows(tools, tools.model, how, rng)
        if not finite:
            return {"score_before": first, "score_after": first, "undone": 1.0}
        after = layout.flatten({n: v.cpu() for n, v in tools.model.state_dict().items()})
        trained = slice(0, layout.num_trainable)
        moved = float((after - before)[trained].double().norm())
        longest = moved if self.most is None else self.most * float(before[trained].norm())
        if moved > longest:
            after = before + (after - before) * (longest / moved)
            layout.load(tools.model, after)
        told = {"score_before": first, "score_after": score(tools, tools.model)}
        return {**told, "moved": min(moved, longest)}
