"""Fine-tuning: a few more passes over the server's own clean rows."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from fedguard.errors import check_number
from fedguard.layout import ParameterLayout
from fedguard.repairs.base import Repair
from fedguard.strategies.toolkit.server_tools import ServerTools


class FineTuning(Repair):
    r"""Train the global model on the server's labelled rows, by SGD with momentum 0.9.

    The simplest repair and the control of all others: what it cures needs nothing cleverer. A
    model that leaves the finite numbers is put back as it was.

    Parameters
    ----------
    epochs : int
        Passes over the server's rows, at least 1.
    lr : float
        Learning rate, above 0.
    batch_size : int
        Rows per step, at least 1.

    Notes
    -----
    .. math::
       v \leftarrow 0.9 \, v + \nabla \ell(w), \qquad w \leftarrow w - \eta v

    from v = 0, where :math:`\ell` is the mean loss of a batch of the server's rows, w the global
    model, and :math:`\eta` is `lr`.
    """

    def __init__(self, *, epochs: int = 3, lr: float = 0.01, batch_size: int = 32) -> None:
        check_number("epochs", epochs, at_least=1)
        check_number("lr", lr, above=0.0)
        check_number("batch_size", batch_size, at_least=1)
        self.epochs, self.lr, self.batch_size = epochs, lr, batch_size

    def mend(self, tools: ServerTools, rng: torch.Generator) -> Mapping[str, float]:
        """Train, and return the loss on the server's rows before and after; see `Repair.mend`."""
        layout = ParameterLayout.from_module(tools.model)
        before = layout.flatten({n: v.cpu() for n, v in tools.model.state_dict().items()})
        first = self._loss(tools)
        optimiser = torch.optim.SGD(
            [p for p in tools.model.parameters() if p.requires_grad], lr=self.lr, momentum=0.9
        )
        tools.model.train()
        for _ in range(self.epochs):
            order = torch.randperm(len(tools.y), generator=rng).to(tools.x.device)
            for rows in torch.split(order, self.batch_size):
                optimiser.zero_grad(set_to_none=False)
                losses = tools.task.losses(tools.model(tools.x[rows]), tools.y[rows])
                torch.autograd.backward(losses.mean())
                optimiser.step()
        after = layout.flatten({n: v.cpu() for n, v in tools.model.state_dict().items()})
        if not bool(torch.isfinite(after).all()):
            layout.load(tools.model, before)
            return {"loss_before": first, "loss_after": first, "undone": 1.0}
        moved = float((after - before)[: layout.num_trainable].double().norm())
        return {"loss_before": first, "loss_after": self._loss(tools), "moved": moved}

    @staticmethod
    def _loss(tools: ServerTools) -> float:
        tools.model.eval()
        with torch.no_grad():
            return float(tools.task.losses(tools.model(tools.x), tools.y).mean())
