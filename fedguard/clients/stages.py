"""What a small convolutional network is made of, read off its graph."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import fx, nn
from torch.nn.modules.utils import _pair

from fedguard.clients.dense import FLATTENS, RELUS, Layer, straight_line


@dataclass(frozen=True)
class Conv:
    """One convolution: parameter names, its numbers, and what follows.

    `window` is that of the max-pooling behind it, whose windows do not overlap, (1, 1) where there
    is none; `relu` says whether a ReLU follows both.
    """

    weight: str
    bias: str | None
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int
    window: tuple[int, int] = (1, 1)
    relu: bool = False

    @property
    def pooled(self) -> bool:
        """Whether max-pooling follows."""
        return self.window != (1, 1)


@dataclass(frozen=True)
class Stages:
    """A network ``(convolution, max-pooling, ReLU) ..., flatten, linear, (ReLU, linear) ...``.

    Max-pooling and ReLU may be absent. A ReLU in front of a max-pooling stands behind it here: a
    maximum and a ReLU may change places, and the pooled picture is smaller. Slopes are the same
    too: where the maximum is positive its place is, and where it is not, both are 0.
    """

    pictures: tuple[Conv, ...]
    layers: tuple[Layer, ...]


def stages_of(module: nn.Module) -> Stages | None:
    """Return the stages of a network of this form, else None; it is traced with `torch.fx`."""
    nodes = straight_line(module)
    reader = _Reader(module)
    if nodes is None or not all(reader.takes(node) for node in nodes):
        return None
    return reader.found()


class _Reader:
    """Reads a graph's nodes one after another."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.pictures: list[Conv] = []
        self.layers: list[Layer] = []
        self.flat = False

    def takes(self, node: fx.Node) -> bool:
        """Take one node; return whether it fits."""
        if node.op == "call_module":
            part = self.module.get_submodule(str(node.target))
            hooked = part._forward_hooks or part._forward_pre_hooks
            return not hooked and self._part(str(node.target), part)
        if node.op not in ("call_function", "call_method"):
            return False
        if node.target in FLATTENS:
            whole = node.args[1:] == (1,) and not node.kwargs
            return self._flatten(whole or (not node.args[1:] and node.kwargs == {"start_dim": 1}))
        return node.target in RELUS and self._rectify()

    def _part(self, name: str, part: nn.Module) -> bool:
        kind = type(part)
        if kind is nn.Identity:
            return True
        if kind is nn.ReLU:
            return self._rectify()
        if isinstance(part, nn.Flatten) and kind is nn.Flatten:
            return self._flatten((part.start_dim, part.end_dim) == (1, -1))
        if isinstance(part, nn.Linear) and kind is nn.Linear:
            bias = None if part.bias is None else f"{name}.bias"
            self.layers.append(Layer(f"{name}.weight", bias, relu=False))
            return self.flat
        if isinstance(part, nn.Conv2d) and kind is nn.Conv2d:
            return self._convolution(name, part)
        return isinstance(part, nn.MaxPool2d) and kind is nn.MaxPool2d and self._pool(part)

    def _convolution(self, name: str, part: nn.Conv2d) -> bool:
        if isinstance(part.padding, str) or part.padding_mode != "zeros":
            return False
        bias = None if part.bias is None else f"{name}.bias"
        stride, padding = _pair(part.stride), _pair(part.padding)
        dilation = _pair(part.dilation)
        stage = Conv(f"{name}.weight", bias, stride, padding, dilation, part.groups)
        self.pictures.append(stage)
        return not self.flat

    def _pool(self, part: nn.MaxPool2d) -> bool:
        window = _pair(part.kernel_size)
        apart = _pair(part.stride) == window and _pair(part.dilation) == (1, 1)
        plain = _pair(part.padding) == (0, 0) and not part.ceil_mode and not part.return_indices
        if not (apart and plain and self.pictures) or self.flat or max(window) < 2:
            return False
        alone = not self.pictures[-1].pooled
        self.pictures[-1] = replace(self.pictures[-1], window=(int(window[0]), int(window[1])))
        return alone

    def _flatten(self, whole: bool) -> bool:
        first, self.flat = not self.flat, True
        return whole and first

    def _rectify(self) -> bool:
        if self.layers:
            self.layers[-1] = replace(self.layers[-1], relu=True)
        elif self.pictures and not self.flat:
            self.pictures[-1] = replace(self.pictures[-1], relu=True)
        else:
            return False
        return True

    def found(self) -> Stages | None:
        """Return the stages, if every tensor of the network is a trained one of theirs."""
        parts: list[Conv | Layer] = [*self.pictures, *self.layers]
        used = [name for part in parts for name in (part.weight, part.bias) if name is not None]
        whole = sorted(used) == sorted(self.module.state_dict())
        trained = all(parameter.requires_grad for parameter in self.module.parameters())
        if not (self.pictures and self.layers and whole and trained) or self.layers[-1].relu:
            return None
        return Stages(tuple(self.pictures), tuple(self.layers))
