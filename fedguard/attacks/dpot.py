"""DPOT: each round a trigger that the global model already obeys."""

from __future__ import annotations

import copy
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedguard.attacks.toolkit.poisoning import Backdoor
from fedguard.attacks.toolkit.survey import Tags
from fedguard.errors import check_number


class Dpot(Backdoor):
    r"""Place and colour a few pixels anew in every round, so that training changes little.

    1. the places that the target's loss leans on most;
    2. their values by signed gradient steps, until `obeyed` of the rows are taken for the target
       class t or the steps are used up;
    3. training on examples with this trigger and the label t.

    A reading of Zhang, Gao and Zhang, "DPOT: A Data-Poisoning Attack with Optimized Triggers on
    Federated Learning", arXiv 2405.06206, 2024, from second-hand notes. `prepare` starts from the
    mean colour in every round, so that a resumed run repeats an uninterrupted one. Where the
    caller never calls `prepare`, the trigger is a row of white pixels in the first image line.

    Parameters
    ----------
    pixels : int
        Places of the trigger, at least 1.
    steps : int
        Steps for their values, at least 1.
    step_size : float
        Size of a signed step, above 0.
    obeyed : float
        Share of rows at which the search ends, above 0 and at most 1.
    max_examples : int
        Examples drawn from the coalition's data, at least 1.
    **frame : Any
        ``target_class``, ``poison_fraction`` and ``scale`` of `Backdoor`.

    Notes
    -----
    .. math::
       P = \text{the pixels with the greatest } \sum_c \operatorname{mean}_x
       \left| \frac{\partial \, \mathrm{CE}(w, x, t)}{\partial x_{cp}} \right|

    .. math::
       v_p \leftarrow \operatorname{clip}_{[0, 1]} \left( v_p - \eta \operatorname{sign}
       \frac{\partial \, \mathrm{CE}(w, x', t)}{\partial v_p} \right), \quad p \in P, \qquad y' = t

    where w is the global model, t the target class, :math:`x'` the image with the values v at the
    places P, :math:`x_{cp}` channel c of pixel p, and :math:`\eta` the `step_size`.

    Examples
    --------
    >>> import torch
    >>> from fedguard.attacks.dpot import Dpot
    >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2, bias=False))
    >>> with torch.no_grad():
    ...     _ = model[1].weight.copy_(torch.tensor([[0.0, 0.0, 0.0, 9.0], [0.0, 0.0, 0.0, -9.0]]))
    >>> attack = Dpot(pixels=1, target_class=1)
    >>> x, y = torch.full((6, 1, 2, 2), 0.5), torch.zeros(6, dtype=torch.int64)
    >>> attack.prepare(model, x, y, torch.Generator())
    >>> stamped = attack.trigger(x)[0, 0]
    >>> stamped[0].tolist(), round(float(stamped[1, 1]), 2)
    ([0.5, 0.5], 0.0)
    """

    needs: ClassVar[frozenset[str]] = Backdoor.needs | {"model"}
    tags: ClassVar[Tags | None] = Tags(
        edits="both",
        goal="backdoor",
        scope="pattern",
        knowledge="gray",
        stealth="hidden",
        variability="dynamic",
    )

    def __init__(
        self,
        *,
        pixels: int = 25,
        steps: int = 100,
        step_size: float = 0.05,
        obeyed: float = 0.99,
        max_examples: int = 256,
        **frame: Any,
    ) -> None:
        super().__init__(**frame)
        check_number("pixels", pixels, at_least=1)
        check_number("steps", steps, at_least=1)
        check_number("step_size", step_size, above=0.0)
        check_number("obeyed", obeyed, above=0.0, at_most=1.0)
        check_number("max_examples", max_examples, at_least=1)
        self.pixels = pixels
        self.steps = steps
        self.step_size = step_size
        self.obeyed = obeyed
        self.max_examples = max_examples
        self._found: tuple[Tensor, Tensor] | None = None

    def trigger(self, x: Tensor) -> Tensor:
        """Return (N, channels, height, width) images with the places coloured."""
        places, colours = self._places(x.shape)
        return torch.where(places.to(x.device), colours.to(x), x)

    def _places(self, shape: torch.Size) -> tuple[Tensor, Tensor]:
        """Return the (height, width) mask of the trigger and its (channels, h, w) colours."""
        if self._found is not None and self._found[1].shape == shape[1:]:
            return self._found
        mask = torch.zeros(shape[-2], shape[-1], dtype=torch.bool)
        mask[0, : self.pixels] = True
        return mask, torch.ones(shape[1:])

    def prepare(self, model: nn.Module, x: Tensor, y: Tensor, rng: torch.Generator) -> None:
        """Choose places and colours against the global model; see `Attack.prepare`."""
        rows = torch.randperm(len(y), generator=rng)[: self.max_examples].to(x.device)
        x = x[rows][y[rows] != self.target_class]
        self._found = None
        if not len(x):
            return
        current = copy.deepcopy(model).eval()
        target = torch.full((len(x),), self.target_class, device=x.device)
        with torch.enable_grad():
            places = self._largest(current, x, target)
            colours = torch.where(places, 0.5, x.mean(dim=0))
            for _ in range(self.steps):
                colours, obeyed = self._step(current, x, target, places, colours)
                if obeyed >= self.obeyed:
                    break
        self._found = (places.cpu(), colours.cpu())

    def _largest(self, model: nn.Module, x: Tensor, target: Tensor) -> Tensor:
        """Return the (height, width) mask of the places that the target's loss leans on most."""
        images = x.detach().requires_grad_()
        loss = functional.cross_entropy(model(images), target, reduction="sum")
        slope = torch.autograd.grad(loss, images)[0].abs().mean(dim=0).sum(dim=0)
        count = min(self.pixels, slope.numel())
        places = torch.zeros(slope.numel(), dtype=torch.bool, device=x.device)
        # A stable sort, so that places of equal slope are taken in the image's order.
        places[slope.flatten().argsort(descending=True, stable=True)[:count]] = True
        return places.view_as(slope)

    def _step(
        self, model: nn.Module, x: Tensor, target: Tensor, places: Tensor, colours: Tensor
    ) -> tuple[Tensor, float]:
        """Return the colours a step on, and the share of rows that obeyed before it."""
        tried = colours.detach().requires_grad_()
        logits = model(torch.where(places, tried, x))
        obeyed = float((logits.argmax(dim=1) == target).float().mean())
        if obeyed >= self.obeyed:
            return colours, obeyed
        slope = torch.autograd.grad(functional.cross_entropy(logits, target), tried)[0]
        return (colours - self.step_size * slope.sign() * places).clamp(0.0, 1.0), obeyed
