"""Leave-one-out losses: how the label holder would fare without each party's block."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedguard.vertical.models import TopModel

LOO_MODES = ("heads", "shared", "copies")


class LeaveOneOut(nn.Module):
    """P heads, head i reading every block but the i-th, evaluated and trained all at once.

    ``shared`` puts the masked blocks through the top model itself and trains nothing.
    ``heads`` gives each party its own copy of the layers above the first one, and its own bias
    of the first; the first layer's weights stay the top model's, so that the masked pre-activation
    is the full one less one block's share and the cost grows linearly in P.
    ``copies`` gives each party a whole copy of the top model, as the authors' MNIST code does;
    its cost grows with P squared.

    Heads see the blocks as they were released, noise and all: that is what the label holder has.
    They never send a gradient to a party or to the top model.

    Parameters
    ----------
    top : TopModel
        The model whose loss is compared; copied before any training.
    mode : str
        One of `LOO_MODES`.
    """

    def __init__(self, top: TopModel, mode: str) -> None:
        super().__init__()
        self.mode, self.activation = mode, top.activation
        self.parties, self.embedding = top.parties, top.embedding
        stacked: list[Tensor] = []
        if mode == "copies":
            stacked.append(self._repeat(top.first.weight))
        if mode != "shared":
            stacked.append(self._repeat(top.first.bias)[:, None])
            for layer in top.rest:
                assert isinstance(layer, nn.Linear)
                stacked += [self._repeat(layer.weight), self._repeat(layer.bias)[:, None]]
        self.stacked = nn.ParameterList(nn.Parameter(value) for value in stacked)

    def _repeat(self, value: Tensor) -> Tensor:
        return value.detach().expand(self.parties, *value.shape).clone()

    def forward(self, blocks: Tensor, top: TopModel, y: Tensor) -> Tensor:
        """Return the (P,) mean losses without each block of (B, P, E) detached blocks."""
        own = [parameter for parameter in self.stacked if isinstance(parameter, Tensor)]
        if self.mode == "copies":
            mask = 1.0 - torch.eye(self.parties, dtype=blocks.dtype, device=blocks.device)
            inputs = (blocks[None] * mask[:, None, :, None]).flatten(2)
            hidden = torch.baddbmm(own[1], inputs, own[0].transpose(1, 2))
            own = own[2:]
        else:
            shares = self._shares(blocks, top)
            bias = top.first.bias.detach() if self.mode == "shared" else own.pop(0)
            hidden = shares.sum(dim=0) - shares + bias
        if self.mode == "shared":
            own = [v.detach() for one in top.rest for v in _weights(one)]
        for weight, bias in zip(own[::2], own[1::2], strict=True):
            inner = functional.relu(hidden) if self.activation else hidden
            hidden = inner @ weight.transpose(1, 2) + bias
        labels = y.expand(self.parties, -1).flatten()
        losses = functional.cross_entropy(hidden.flatten(0, 1), labels, reduction="none")
        return losses.view(self.parties, -1).mean(dim=1)

    def _shares(self, blocks: Tensor, top: TopModel) -> Tensor:
        """Return (P, B, H): what each block adds to the first layer's pre-activation."""
        weight = top.first.weight.detach().view(-1, self.parties, self.embedding)
        return torch.bmm(blocks.transpose(0, 1), weight.permute(1, 2, 0))


def _weights(layer: nn.Module) -> tuple[Tensor, Tensor]:
    """Return a linear layer's weight and bias, shaped like one head's."""
    assert isinstance(layer, nn.Linear)
    return layer.weight[None], layer.bias[None, None]
