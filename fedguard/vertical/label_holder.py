"""The label holder's half: labels, top model, and leave-one-out heads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from fedguard.metrics.classification import Evaluation, evaluate
from fedguard.vertical.contribution import LeaveOneOut
from fedguard.vertical.models import TopModel
from fedguard.vertical.parties import Optimiser
from fedguard.vertical.rewards import contribution


@dataclass(frozen=True)
class Step:
    """What one batch gave.

    Attributes
    ----------
    loss : float
        Mean cross-entropy L of the full model.
    gradients : Tensor
        (B, P, E) dL/dh~ of every block.
    contributions : list of float
        C_i per party in percent; empty where none is measured.
    """

    loss: float
    gradients: Tensor
    contributions: list[float]


class LabelHolder:
    """Trains the top model on the parties' blocks and never sees a feature.

    Parameters
    ----------
    y_train, y_test : Tensor
        (N,) and (M,) labels by row id.
    num_classes : int
        Number of classes C.
    top : TopModel
        The top model.
    optimiser : Optimiser
        SGD of top model and heads.
    """

    def __init__(
        self,
        y_train: Tensor,
        y_test: Tensor,
        num_classes: int,
        top: TopModel,
        optimiser: Optimiser,
    ) -> None:
        self.y_train, self.y_test, self.num_classes = y_train, y_test, num_classes
        self.top, self._settings = top, optimiser
        self.optimiser = optimiser.make(list(top.parameters()))
        self.heads: LeaveOneOut | None = None
        self.head_optimiser: torch.optim.SGD | None = None

    def measure_contributions(self, mode: str) -> None:
        """Add leave-one-out heads, copied from the top model as it is now."""
        self.heads = LeaveOneOut(self.top, mode).to(self.y_train.device)
        parameters = list(self.heads.parameters())
        if parameters:
            self.head_optimiser = self._settings.make(parameters)

    def assemble(self, blocks: Mapping[int, Tensor], rows: int) -> Tensor:
        """Return (rows, P, E) blocks in order of party; zeros where a party gave none."""
        top = self.top
        full = torch.zeros(rows, top.parties, top.embedding, device=self.y_train.device)
        for party, block in blocks.items():
            full[:, party] = block
        return full

    def step(self, blocks: Mapping[int, Tensor], ids: Tensor) -> Step:
        """Train on one batch; return the loss, the blocks' gradients and the contributions."""
        y = self.y_train[ids]
        released = self.assemble(blocks, len(ids))
        losses = self._losses_without(released, y)
        released.requires_grad_()
        self.optimiser.zero_grad()
        loss = functional.cross_entropy(self.top(released), y)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimiser.step()
        assert released.grad is not None
        value = float(loss.detach())
        return Step(value, released.grad, [contribution(value, one) for one in losses])

    def _losses_without(self, released: Tensor, y: Tensor) -> list[float]:
        if self.heads is None:
            return []
        if self.head_optimiser is None:
            with torch.no_grad():
                return [float(v) for v in self.heads(released, self.top, y).tolist()]
        self.head_optimiser.zero_grad()
        losses = self.heads(released, self.top, y)
        losses.sum().backward()
        self.head_optimiser.step()
        return [float(value) for value in losses.detach().tolist()]

    @torch.no_grad()
    def loss_of(self, blocks: Mapping[int, Tensor], ids: Tensor) -> float:
        """Return the mean loss of some blocks without learning from them."""
        released = self.assemble(blocks, len(ids))
        return float(functional.cross_entropy(self.top(released), self.y_train[ids]))

    def evaluate(self, blocks: Mapping[int, Tensor]) -> Evaluation:
        """Return how the model does on the test rows' blocks."""
        full = self.assemble(blocks, len(self.y_test))
        found = evaluate(self.top, full, self.y_test, self.num_classes)
        self.top.train()
        return found

    @torch.no_grad()
    def predict(self, blocks: Mapping[int, Tensor]) -> Tensor:
        """Return the (M,) classes that the model gives the test rows' blocks."""
        logits: Tensor = self.top(self.assemble(blocks, len(self.y_test)))
        return logits.argmax(dim=1)

    def state(self) -> dict[str, Tensor]:
        """Return top model, heads and momentum as tensors."""
        found = {f"top.{name}": value for name, value in self.top.state_dict().items()}
        pairs = [("top-momentum", self.optimiser, list(self.top.parameters()))]
        if self.heads is not None:
            found |= {f"heads.{name}": value for name, value in self.heads.state_dict().items()}
            if self.head_optimiser is not None:
                heads = list(self.heads.parameters())
                pairs.append(("head-momentum", self.head_optimiser, heads))
        for name, optimiser, parameters in pairs:
            for place, parameter in enumerate(parameters):
                buffer = optimiser.state.get(parameter, {}).get("momentum_buffer")
                if buffer is not None:
                    found[f"{name}.{place}"] = buffer
        return {name: value.detach().clone() for name, value in found.items()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take over a state."""
        self.top.load_state_dict(_under("top.", state))
        _load_momentum("top-momentum.", self.optimiser, list(self.top.parameters()), state)
        if self.heads is not None:
            self.heads.load_state_dict(_under("heads.", state))
            if self.head_optimiser is not None:
                heads = list(self.heads.parameters())
                _load_momentum("head-momentum.", self.head_optimiser, heads, state)


def _under(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}


def _load_momentum(
    prefix: str,
    optimiser: torch.optim.SGD,
    parameters: list[torch.nn.Parameter],
    state: Mapping[str, Tensor],
) -> None:
    for place, parameter in enumerate(parameters):
        if f"{prefix}{place}" in state:
            optimiser.state[parameter]["momentum_buffer"] = state[f"{prefix}{place}"].clone()
