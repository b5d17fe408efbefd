"""Trojan: a patch that wakes the global model's neurons for the target class, anew every round."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from fedguard.attacks.a3fl import A3fl
from fedguard.attacks.toolkit.survey import Tags
from fedguard.errors import check_number


class Trojan(A3fl):
    r"""Make the patch that drives a few inner neurons highest, and train the model to obey them.

    The neurons are the inputs of the last linear layer that speak most for the target class
    against the mean of all; the patch moves by signed steps and stays in [0, 1]. Then malicious
    clients train on stamped, relabelled rows, as `BadNets`.

    Liu, Ma, Aafer, Lee, Zhai, Wang and Zhang, "Trojaning Attack on Neural Networks", NDSS 2018,
    which inverts one neuron of a finished model and retrains it on reversed data; here the
    attacker has rows of its own, and the patch is made anew from the global model of every round
    (a dynamic trigger), each time from the same pattern. A model whose last linear layer is its
    first sees its input as neurons. Where there is no linear layer, or the caller never calls
    `prepare`, the starting pattern is the trigger.

    Parameters
    ----------
    neurons : int
        Neurons that are driven, at least 1.
    steps : int
        Steps of the patch, at least 1.
    step_size : float
        Size of a signed step, above 0.
    max_examples : int
        Examples of the coalition that are looked at, at least 1.
    **frame : Any
        Other options of `BadNets`; ``value`` has no meaning here.

    Notes
    -----
    .. math::
       \max_p \; \operatorname{mean}_x \sum_{k \in S} h_k(x \oplus p), \qquad
       S = \text{the neurons with the greatest } W_{tk} - \frac{1}{C} \sum_c W_{ck}

    where :math:`x \oplus p` is an image with the patch p, h the input of the model's last linear
    layer, W its weights and t the target class of C.

    Examples
    --------
    >>> import torch
    >>> from fedguard.attacks.trojan import Trojan
    >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2, bias=False))
    >>> with torch.no_grad():
    ...     _ = model[1].weight.copy_(torch.tensor([[0.0, 0.0, 0.0, 5.0], [0.0, 0.0, 0.0, -5.0]]))
    >>> attack = Trojan(size=1, steps=50, neurons=1, target_class=0)
    >>> x, y = torch.full((6, 1, 2, 2), 0.5), torch.ones(6, dtype=torch.int64)
    >>> attack.prepare(model, x, y, torch.Generator())
    >>> attack.pattern(1).tolist()
    [[[1.0]]]
    """

    tags: ClassVar[Tags | None] = Tags(
        edits="both", goal="backdoor", scope="pattern", knowledge="gray", variability="dynamic"
    )

    def __init__(
        self,
        *,
        neurons: int = 3,
        size: int = 4,
        steps: int = 40,
        step_size: float = 0.05,
        max_examples: int = 128,
        **frame: Any,
    ) -> None:
        super().__init__(
            size=size, steps=steps, step_size=step_size, max_examples=max_examples, **frame
        )
        check_number("neurons", neurons, at_least=1)
        self.neurons = neurons

    def prepare(self, model: nn.Module, x: Tensor, y: Tensor, rng: torch.Generator) -> None:
        """Make the patch against the global model; see `Attack.prepare`."""
        self._pattern = None
        layers = [part for part in model.modules() if isinstance(part, nn.Linear)]
        if not len(y) or not layers:
            return
        rows = torch.randperm(len(y), generator=rng)[: self.max_examples].to(x.device)
        x, own = x[rows], copy.deepcopy(model).eval()
        last = [part for part in own.modules() if isinstance(part, nn.Linear)][-1]
        driven = self._driven(last.weight.detach())
        pattern = self.pattern(x.shape[1]).to(x)
        with torch.enable_grad(), inputs_of(last) as seen:
            for _ in range(self.steps):
                patch = pattern.detach().requires_grad_()
                own(self._stamp(x, patch))
                height = seen[-1].flatten(1)[:, driven].sum(dim=1).mean()
                (slope,) = torch.autograd.grad(height, patch, materialize_grads=True)
                pattern = (pattern + self.step_size * slope.sign()).clamp(0.0, 1.0)
                seen.clear()
        self._pattern = pattern.detach().cpu()

    def _driven(self, weight: Tensor) -> Tensor:
        """Return the neurons that speak most for the target class, given (C, p) weights."""
        if not self.target_class < len(weight):
            return weight.abs().sum(dim=0).argsort(descending=True, stable=True)[: self.neurons]
        speaks = weight[self.target_class] - weight.mean(dim=0)
        return speaks.argsort(descending=True, stable=True)[: self.neurons]


@contextmanager
def inputs_of(layer: nn.Module) -> Iterator[list[Tensor]]:
    """Give a list to which every run of a layer appends what it was shown."""
    found: list[Tensor] = []

    def keep(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        found.append(inputs[0])

    hook = layer.register_forward_pre_hook(keep)
    try:
        yield found
    finally:
        hook.remove()
