"""Feature collision: pictures that look like their class and lie where a target lies."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.func import functional_call

from fedguard.attacks.toolkit.clean_label import CleanLabel, trained_surrogate
from fedguard.attacks.toolkit.survey import Tags
from fedguard.data.dataset import Dataset
from fedguard.errors import ConfigurationError, check_number
from fedguard.training.encoder import Encoder, read_encoder


class FeatureCollision(CleanLabel):
    r"""Move pictures of the target class to the targets in a frozen network's features.

    Shafahi, Huang, Najibi, Suciu, Studer, Dumitras and Goldstein, "Poison Frogs! Targeted
    Clean-Label Poisoning Attacks on Neural Networks", NeurIPS 2018; `opacity` is their watermark.
    Ours: both terms relative, so that one beta fits any network; Adam in place of forward-backward
    splitting; several targets at once. phi is the pre-trained encoder of a file, as it is handed
    out to the federation (``model: encoder-head``); without one, the features of a small network
    that the attacker trains on the client's pictures. Against a network that is trained whole, a
    collision under another network's features says little: there the watermark does the work.

    Parameters
    ----------
    encoder : str or None
        The ``.safetensors`` file of the encoder; None trains a surrogate.
    beta : float
        Weight of the pictures' look, at least 0.
    opacity : float
        Share of the target that shines through at the start, 0 to below 1.
    steps : int
        Steps of Adam, at least 1.
    epochs : int
        Passes of the surrogate, at least 1.
    **frame : Any
        ``target_class``, ``source_class``, ``targets`` and ``poison_fraction`` of `CleanLabel`.

    Notes
    -----
    .. math::
       \min_{x \in [0, 1]} \; \frac{\lVert \varphi(x) - \varphi(x_t) \rVert^2}
       {\lVert \varphi(x_t) \rVert^2}
       + \beta \frac{\lVert x - b \rVert^2}{\lVert b \rVert^2}, \qquad
       x_0 = (1 - o) b + o \, x_t

    where b is a picture of the target class, :math:`x_t` one of the targets, in turn,
    :math:`\varphi` the frozen network's features, :math:`x_0` where the search begins, and o the
    `opacity`; labels stay right.

    Examples
    --------
    >>> import torch
    >>> from fedguard.attacks.feature_collision import FeatureCollision
    >>> from fedguard.data.digits import Digits
    >>> attack, data = FeatureCollision(steps=20, epochs=1), Digits().load(None)
    >>> attack.bind(data.num_classes, data.input_shape)
    >>> attack.meet(data)
    >>> x, y = data.x_train[:60], data.y_train[:60]
    >>> poisoned, labels = attack.poison(x, y, torch.Generator().manual_seed(0))
    >>> bool((labels == y).all()), bool((poisoned[y != 0] == x[y != 0]).all())
    (True, True)
    >>> bool((poisoned[y == 0] == x[y == 0]).all())
    False
    """

    tags: ClassVar[Tags | None] = Tags(
        edits="inputs",
        goal="targeted",
        stealth="hidden",
        scope="instance",
        by=("feature collision",),
    )

    def __init__(
        self,
        *,
        encoder: str | None = None,
        beta: float = 0.1,
        opacity: float = 0.3,
        steps: int = 100,
        epochs: int = 10,
        **frame: Any,
    ) -> None:
        super().__init__(**frame)
        check_number("beta", beta, at_least=0.0)
        check_number("opacity", opacity, at_least=0.0, below=1.0)
        check_number("steps", steps, at_least=1)
        check_number("epochs", epochs, at_least=1)
        self.encoder, self.beta, self.opacity = encoder, beta, opacity
        self.steps, self.epochs = steps, epochs
        self._known: Encoder | None = None

    def meet(self, dataset: Dataset) -> None:
        """Draw the targets and read the encoder; see `Attack.meet`."""
        super().meet(dataset)
        if self.encoder is None:
            return
        self._known = read_encoder(Path(self.encoder))
        if self._known.planes != dataset.input_shape[0]:
            told = f"an encoder of images with {dataset.input_shape[0]} channels"
            raise ConfigurationError("encoder", self.encoder, told)

    def perturbed(self, own: Tensor, x: Tensor, y: Tensor, rng: torch.Generator) -> Tensor:
        """Return the pictures, moved to the targets; see `CleanLabel.perturbed`."""
        phi = self._features(x, y, rng)
        turn = torch.arange(len(own)) % len(self.victims)
        aims = self.victims[turn].to(own)
        with torch.no_grad():
            wanted = phi(self.shown(aims))
        scale = wanted.square().sum(dim=1).clamp_min(1e-12)
        size = own.flatten(1).square().sum(dim=1).clamp_min(1e-12)
        moved = ((1.0 - self.opacity) * own + self.opacity * aims).detach().requires_grad_()
        optimiser = torch.optim.Adam([moved], lr=0.02)
        for _ in range(self.steps):
            optimiser.zero_grad()
            near = (phi(self.shown(moved)) - wanted).square().sum(dim=1) / scale
            alike = (moved - own).flatten(1).square().sum(dim=1) / size
            torch.autograd.backward((near + self.beta * alike).sum())
            optimiser.step()
            with torch.no_grad():
                moved.clamp_(0.0, 1.0)
        return moved.detach()

    def _features(self, x: Tensor, y: Tensor, rng: torch.Generator) -> Callable[[Tensor], Tensor]:
        """Return the features that are collided in: the encoder's, or a surrogate's own."""
        if self._known is not None:
            network = self._known.to(x.device)
            still = {name: value.detach() for name, value in network.named_parameters()}
            return lambda images: functional_call(network, still, (images,))
        surrogate = trained_surrogate(
            self.shown(x), y, self._num_classes, rng, epochs=self.epochs
        ).requires_grad_(requires_grad=False)
        return surrogate.features
