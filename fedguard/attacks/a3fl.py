"""A3FL: a trigger optimised against the global model and against its own unlearning."""

from __future__ import annotations

import copy
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedguard.attacks.badnets import BadNets
from fedguard.attacks.toolkit.survey import Tags
from fedguard.errors import check_number
from fedguard.randomness import SERVER, generator

_BATCH = 64


class A3fl(BadNets):
    r"""Optimise the patch so that the model takes to it and does not unlearn it.

    It is optimised on the global model and on a copy that was trained with right labels, which is
    what a cleaning server might do. The patch moves by signed
    gradient steps and stays in [0, 1].

    Zhang et al., "A3FL: Adversarially Adaptive Backdoor Attacks to Federated Learning", NeurIPS
    2023. `prepare` optimises the patch in every round it is called in, each time from the same
    starting pattern, so that a resumed run repeats an uninterrupted one. Where the caller never
    calls `prepare` the starting pattern, uniform noise, is the trigger. G' is rebuilt every
    `refresh` steps rather than in each one, in evaluation mode so that BatchNorm statistics stay.

    Parameters
    ----------
    size : int
        Side of the patch in pixels, at least 1; 5 in the paper.
    steps : int
        Steps of the patch, at least 1; 200 in the authors' setting.
    step_size : float
        Size of a signed step, above 0.
    balance : float
        Weight of the unlearned model's loss, at least 0.
    refresh : int
        Steps of the patch between two rebuildings of G', at least 1.
    unlearning_epochs : int
        Passes of G' over the examples, at least 0.
    unlearning_lr : float
        Learning rate of G', above 0.
    max_examples : int
        Examples drawn from the coalition's data for the optimisation, at least 1.
    **frame : Any
        Other options of `BadNets`; ``value`` has no meaning here.

    Notes
    -----
    .. math::
       \min_p \; \mathrm{CE}(G(x \oplus p), t) + \lambda \cos(g, g') \, \mathrm{CE}(G'(x \oplus p),
       t), \qquad p \leftarrow \operatorname{clip}_{[0, 1]}(p - \eta \operatorname{sign} \nabla_p)

    where :math:`x \oplus p` is an image with the patch p, t the target class, G the global model,
    G' the same trained on :math:`(x \oplus p, y)` with right labels, g and g' the gradients of the
    two losses, :math:`\lambda` the `balance` and :math:`\eta` the `step_size`.

    Examples
    --------
    >>> import torch
    >>> from fedguard.attacks.a3fl import A3fl
    >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2, bias=False))
    >>> with torch.no_grad():
    ...     _ = model[1].weight.copy_(torch.tensor([[0.0, 0.0, 0.0, 5.0], [0.0, 0.0, 0.0, -5.0]]))
    >>> attack = A3fl(size=1, steps=50, balance=0.0, target_class=0)
    >>> x, y = torch.full((6, 1, 2, 2), 0.5), torch.ones(6, dtype=torch.int64)
    >>> attack.prepare(model, x, y, torch.Generator())
    >>> attack.pattern(1).tolist()
    [[[1.0]]]
    """

    needs: ClassVar[frozenset[str]] = BadNets.needs | {"model"}
    tags: ClassVar[Tags | None] = Tags(
        edits="both",
        goal="backdoor",
        scope="pattern",
        knowledge="gray",
        variability="dynamic",
        by=("bilevel",),
    )

    def __init__(
        self,
        *,
        size: int = 5,
        steps: int = 50,
        step_size: float = 0.02,
        balance: float = 0.01,
        refresh: int = 10,
        unlearning_epochs: int = 1,
        unlearning_lr: float = 0.01,
        max_examples: int = 256,
        **frame: Any,
    ) -> None:
        super().__init__(size=size, **frame)
        check_number("steps", steps, at_least=1)
        check_number("step_size", step_size, above=0.0)
        check_number("balance", balance, at_least=0.0)
        check_number("refresh", refresh, at_least=1)
        check_number("unlearning_epochs", unlearning_epochs, at_least=0)
        check_number("unlearning_lr", unlearning_lr, above=0.0)
        check_number("max_examples", max_examples, at_least=1)
        self.steps = steps
        self.step_size = step_size
        self.balance = balance
        self.refresh = refresh
        self.unlearning_epochs = unlearning_epochs
        self.unlearning_lr = unlearning_lr
        self.max_examples = max_examples
        self._pattern: Tensor | None = None

    def pattern(self, channels: int) -> Tensor:
        """Return the (channels, size, size) patch: optimised, or the one it starts from."""
        if self._pattern is not None and len(self._pattern) == channels:
            return self._pattern
        stream = generator(0, 0, SERVER, "a3fl patch")
        return torch.rand(channels, self.size, self.size, generator=stream)

    def trigger(self, x: Tensor) -> Tensor:
        """Return (N, channels, height, width) images with the patch stamped on."""
        return self._stamp(x, self.pattern(x.shape[1]).to(x))

    def _stamp(self, x: Tensor, pattern: Tensor) -> Tensor:
        stamped = x.clone()
        rows, columns = self.patch(x.shape[-2], x.shape[-1])
        stamped[..., rows, columns] = pattern
        return stamped

    def prepare(self, model: nn.Module, x: Tensor, y: Tensor, rng: torch.Generator) -> None:
        """Optimise the patch against the global model; see `Attack.prepare`."""
        if not len(y):
            return
        rows = torch.randperm(len(y), generator=rng)[: self.max_examples].to(x.device)
        x, y = x[rows], y[rows]
        self._pattern = None
        pattern = self.pattern(x.shape[1]).to(x)
        current = copy.deepcopy(model).eval()
        adversary = current
        with torch.enable_grad():
            for step in range(self.steps):
                if self.balance and step % self.refresh == 0:
                    adversary = self._unlearned(current, self._stamp(x, pattern), y)
                slope = self._slope(current, adversary, x, pattern)
                pattern = (pattern - self.step_size * slope.sign()).clamp(0.0, 1.0)
        self._pattern = pattern.cpu()

    def _unlearned(self, model: nn.Module, x: Tensor, y: Tensor) -> nn.Module:
        """Return a copy of the model trained to see through the patch."""
        adversary = copy.deepcopy(model)
        optimiser = torch.optim.SGD(adversary.parameters(), lr=self.unlearning_lr, momentum=0.9)
        for _ in range(self.unlearning_epochs):
            for start in range(0, len(y), _BATCH):
                batch = slice(start, start + _BATCH)
                optimiser.zero_grad()
                loss = functional.cross_entropy(adversary(x[batch]), y[batch])
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
        return adversary

    def _slope(
        self, current: nn.Module, adversary: nn.Module, x: Tensor, pattern: Tensor
    ) -> Tensor:
        """Return the gradient of the objective with respect to the patch."""
        patch = pattern.detach().requires_grad_()
        stamped = self._stamp(x, patch)
        target = torch.full((len(x),), self.target_class, device=x.device)
        loss = functional.cross_entropy(current(stamped), target)
        if self.balance:
            other = functional.cross_entropy(adversary(stamped), target)
            loss = loss + self.balance * _agreement(loss, current, other, adversary) * other
        return torch.autograd.grad(loss, patch)[0]


def _agreement(loss: Tensor, model: nn.Module, other: Tensor, adversary: nn.Module) -> float:
    """Return the cosine between two models' gradients of their losses; 0 if one is zero."""
    sides = []
    for value, owner in ((loss, model), (other, adversary)):
        parameters = list(owner.parameters())
        grads = torch.autograd.grad(value, parameters, retain_graph=True, materialize_grads=True)
        sides.append(torch.cat([grad.flatten() for grad in grads]).to(torch.float64))
    return float(functional.cosine_similarity(sides[0], sides[1], dim=0))
