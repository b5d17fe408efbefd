"""Gradient matching: pictures whose gradients are those of mistaking the targets."""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedguard.attacks.toolkit.clean_label import CleanLabel, trained_surrogate
from fedguard.attacks.toolkit.matching import matched, mismatch
from fedguard.attacks.toolkit.survey import Tags
from fedguard.errors import check_number


class GradientMatching(CleanLabel):
    r"""Perturb pictures of the target class so that training on them moves the targets there.

    Their gradient towards their own right label becomes that of the targets towards the same:
    whoever learns the pictures learns to mistake the targets.

    Geiping, Fowl, Huang, Czaja, Taylor, Moeller and Goldstein, "Witches' Brew: Industrial Scale
    Data Poisoning via Gradient Matching", ICLR 2021. The gradients are those of a small network
    that the attacker trains on the client's pictures; signed Adam with a rate that falls to a
    tenth, as there; no restarts and no augmentation, and one set of poisons for all targets. `eps`
    is large by default: a client holds few pictures, and small networks need more.

    Parameters
    ----------
    eps : float
        Largest change of a pixel, above 0 to 1, on images from 0 to 1; 16 / 255 in the paper.
    steps : int
        Steps of the matching, at least 1; 250 in the paper.
    epochs : int
        Passes of the surrogate, at least 1; it should not converge, or its gradients vanish.
    **frame : Any
        ``target_class``, ``source_class``, ``targets`` and ``poison_fraction`` of `CleanLabel`.

    Notes
    -----
    .. math::
       \min_{\lVert d \rVert_\infty \le \varepsilon} \; 1 - \cos(G_t, G_p), \qquad
       G_t = \nabla_\theta \ell(x_t, t), \qquad G_p = \nabla_\theta \ell(x + d, t)

    where x are pictures of the target class t, d their changes, :math:`x_t` the targets,
    :math:`\ell` the mean loss over them and :math:`\theta` the surrogate's weights.

    Examples
    --------
    >>> import torch
    >>> from fedguard.attacks.gradient_matching import GradientMatching
    >>> from fedguard.data.digits import Digits
    >>> attack, data = GradientMatching(steps=5, epochs=1, eps=0.2), Digits().load(None)
    >>> attack.bind(data.num_classes, data.input_shape)
    >>> attack.meet(data)
    >>> x, y = data.x_train[:60], data.y_train[:60]
    >>> poisoned, labels = attack.poison(x, y, torch.Generator().manual_seed(0))
    >>> bool((labels == y).all()), 0.0 < float((poisoned - x).abs().max()) <= 0.2 + 1e-6
    (True, True)
    >>> bool((poisoned[y != 0] == x[y != 0]).all())
    True
    """

    tags: ClassVar[Tags | None] = Tags(
        edits="inputs", goal="targeted", stealth="hidden", scope="instance", by=("bilevel",)
    )

    def __init__(
        self, *, eps: float = 0.25, steps: int = 100, epochs: int = 10, **frame: Any
    ) -> None:
        super().__init__(**frame)
        check_number("eps", eps, above=0.0, at_most=1.0)
        check_number("steps", steps, at_least=1)
        check_number("epochs", epochs, at_least=1)
        self.eps, self.steps, self.epochs = eps, steps, epochs

    def perturbed(self, own: Tensor, x: Tensor, y: Tensor, rng: torch.Generator) -> Tensor:
        """Return the pictures with matched gradients; see `CleanLabel.perturbed`."""
        surrogate = trained_surrogate(self.shown(x), y, self._num_classes, rng, epochs=self.epochs)
        wanted = [part.detach() for part in self._gradients(surrogate, self.victims.to(own))]
        start = torch.randn(own.shape, generator=rng).to(own) * self.eps / 2.0
        gap = partial(mismatch, wanted, weight=0.0)
        return own + matched(
            own, start, lambda shown: gap(self._gradients(surrogate, shown)), self.eps, self.steps
        )

    def _gradients(self, model: nn.Module, x: Tensor) -> list[Tensor]:
        """Return the gradients of the mean loss of pictures towards the target class."""
        y = torch.full((len(x),), self.target_class, device=x.device)
        loss = functional.cross_entropy(model(self.shown(x)), y)
        return list(torch.autograd.grad(loss, list(model.parameters()), create_graph=True))
