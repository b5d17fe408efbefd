"""The label holder's half: labels, top model, and leave-one-out heads."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from fedguard.metrics.classification import Evaluation, evaluate
from fedguard.vertical.contribution import LeaveOneOut
from fedguard.vertical.models import TopModel, losses_and_gradients
from fedguard.vertical.rewards import contribution
from fedguard.vertical.terms import Optimiser


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

    def measure_contributions(self, mode: str) -> None:
        """Add leave-one-out heads, copied from the top model as it is now."""
        self.heads = LeaveOneOut(self.top, mode).to(self.y_train.device)
        self.optimiser = self._settings.make([*self.top.parameters(), *self.heads.parameters()])

    def assemble(self, blocks: Mapping[int, Tensor], rows: int) -> Tensor:
        """Return (rows, P, E) blocks in order of party; zeros where a party gave none."""
        top, device = self.top, self.y_train.device
        if len(blocks) == top.parties:
            every = [blocks[party] for party in range(top.parties)]
            return torch.stack(every, dim=1).to(device)
        full = torch.zeros(rows, top.parties, top.embedding, device=device)
        for party, block in blocks.items():
            full[:, party] = block
        return full

    @torch.no_grad()
    def step(self, blocks: Mapping[int, Tensor], ids: Tensor) -> Step:
        """Train on one batch; return the loss, the blocks' gradients and the contributions.

        The top model and all leave-one-out heads are computed as one stack of networks; no head's
        loss reaches the top model or the blocks. A batch whose loss or step is not finite, as
        blocks of 1e38 make it, teaches nobody: no weight moves and all gradients are zero.
        """
        top, heads, y = self.top, self.heads, self.y_train[ids]
        released = self.assemble(blocks, len(ids))
        flat = released.flatten(1)
        full: Tensor = top.first(flat)
        hidden, layers, trained = full[None], top.layers(), 1
        if heads is not None:
            hidden = torch.cat([hidden, heads.first(released, full, top)])
            pairs = zip(layers, heads.layers(top), strict=True)
            layers = [(torch.cat([w, ws]), torch.cat([b, bs])) for (w, b), (ws, bs) in pairs]
            trained += top.parties if heads.trained else 0
        losses, slope, gradients = losses_and_gradients(
            hidden, layers, y, activation=top.activation, trained=trained
        )
        top.set_gradients(flat, slope[0], [(w[:1], b[:1]) for w, b in gradients])
        if heads is not None and heads.trained:
            heads.set_gradients(released, slope[1:], [(w[1:], b[1:]) for w, b in gradients])
        back = (slope[0] @ top.first.weight).view_as(released)
        loss, *without = losses.tolist()
        if not (math.isfinite(loss) and self._finite(back)):
            return Step(loss, torch.zeros_like(released), [0.0 for _ in without])
        self.optimiser.step()
        return Step(loss, back, [contribution(loss, one) for one in without])

    def _finite(self, back: Tensor) -> bool:
        """Return whether a step would leave everything finite; sums tell, unless they overflow."""
        first = [back, self.top.first.weight.grad]
        if self.heads is not None and self.heads.trained:
            first.append(next(self.heads.parameters()).grad)
        return all(g is not None and math.isfinite(float(g.sum())) for g in first)

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

    def _trained(self) -> dict[str, list[torch.nn.Parameter]]:
        found = {"top-momentum": list(self.top.parameters())}
        if self.heads is not None:
            found["head-momentum"] = list(self.heads.parameters())
        return found

    def state(self) -> dict[str, Tensor]:
        """Return top model, heads and momentum as tensors."""
        found = {f"top.{name}": value for name, value in self.top.state_dict().items()}
        if self.heads is not None:
            found |= {f"heads.{name}": value for name, value in self.heads.state_dict().items()}
        for name, parameters in self._trained().items():
            for place, parameter in enumerate(parameters):
                buffer = self.optimiser.state.get(parameter, {}).get("momentum_buffer")
                if buffer is not None:
                    found[f"{name}.{place}"] = buffer
        return {name: value.detach().clone() for name, value in found.items()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take over a state."""
        self.top.load_state_dict(_under("top.", state))
        if self.heads is not None:
            self.heads.load_state_dict(_under("heads.", state))
        for name, parameters in self._trained().items():
            for place, parameter in enumerate(parameters):
                if f"{name}.{place}" in state:
                    buffer = state[f"{name}.{place}"].to(parameter.device, copy=True)
                    self.optimiser.state[parameter]["momentum_buffer"] = buffer


def _under(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
