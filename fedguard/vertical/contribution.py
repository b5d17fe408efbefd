"""Leave-one-out losses: how the label holder would fare without each party's block."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedguard.vertical.models import Layers, TopModel

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
    They never send a gradient to a party or to the top model. Training goes through
    `LabelHolder.step`, which computes the top model and all heads together.

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

    @property
    def trained(self) -> bool:
        """Whether the heads have weights of their own."""
        return len(self.stacked) > 0

    def forward(self, blocks: Tensor, top: TopModel, y: Tensor) -> Tensor:
        """Return the (P,) mean losses of (B, P, E) detached blocks without each block."""
        hidden = self.first(blocks, top.first(blocks.flatten(1)).detach(), top)
        for weight, bias in self.layers(top):
            inner = functional.relu(hidden) if self.activation else hidden
            hidden = torch.baddbmm(bias, inner, weight.transpose(1, 2))
        labels = y.expand(self.parties, -1).flatten()
        losses = functional.cross_entropy(hidden.flatten(0, 1), labels, reduction="none")
        return losses.view(self.parties, -1).mean(dim=1)

    def first(self, blocks: Tensor, full: Tensor, top: TopModel) -> Tensor:
        """Return the first layer's (P, B, H) pre-activation without each block.

        Parameters
        ----------
        blocks : Tensor
            (B, P, E) detached blocks.
        full : Tensor
            (B, H) pre-activation of the top model, with all blocks.
        top : TopModel
            The top model.
        """
        own = list(self.stacked)
        if self.mode == "copies":
            return torch.baddbmm(own[1], self._masked(blocks), own[0].transpose(1, 2))
        weight = top.first.weight.detach().view(-1, self.parties, self.embedding)
        start = full.expand(self.parties, -1, -1)
        if self.mode == "heads":
            start = start + (own[0] - top.first.bias.detach())
        # what all blocks add to the first layer, less what the one left out adds
        return torch.baddbmm(start, blocks.transpose(0, 1), weight.permute(1, 2, 0), alpha=-1)

    def layers(self, top: TopModel) -> Layers:
        """Return (P, out, in) weights and (P, 1, out) biases of the layers above the first."""
        if self.mode == "shared":
            return [
                (w.expand(self.parties, -1, -1), b.expand(self.parties, -1, -1))
                for w, b in top.layers()
            ]
        own = list(self.stacked)[2 if self.mode == "copies" else 1 :]
        return list(zip(own[::2], own[1::2], strict=True))

    def set_gradients(self, blocks: Tensor, slope: Tensor, above: Layers) -> None:
        """Set the weights' gradients.

        Parameters
        ----------
        blocks : Tensor
            (B, P, E) blocks.
        slope : Tensor
            (P, B, H) gradient of each head's loss with respect to what `first` returned.
        above : list of (Tensor, Tensor)
            Gradients of `layers`.
        """
        gradients = [slope.sum(dim=1, keepdim=True)]
        if self.mode == "copies":
            gradients.insert(0, torch.bmm(slope.transpose(1, 2), self._masked(blocks)))
        gradients += [one for pair in above for one in pair]
        for parameter, gradient in zip(self.stacked, gradients, strict=True):
            parameter.grad = gradient

    def _masked(self, blocks: Tensor) -> Tensor:
        """Return (P, B, P * E): all blocks side by side, one of them zero."""
        mask = 1.0 - torch.eye(self.parties, dtype=blocks.dtype, device=blocks.device)
        return (blocks[None] * mask[:, None, :, None]).flatten(2)
