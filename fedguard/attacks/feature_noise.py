"""Feature noise: train on examples drowned in noise."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from fedguard.attacks.base import Attack
from fedguard.attacks.toolkit.poisoning import drawn_share
from fedguard.attacks.toolkit.survey import Tags
from fedguard.errors import check_number


class FeatureNoise(Attack):
    r"""Malicious clients train on noisy examples with their right labels.

    Input noise as in Li, Diao, Chen and He, "Federated Learning on Non-IID Data Silos: An
    Experimental Study", ICDE 2022, used as an attack.

    Parameters
    ----------
    std : float
        Standard deviation, above 0; in units of the unscaled pixel values on images, relative to
        each feature's own on tables.
    poison_fraction : float
        Share of the client's examples that get noise, 0 to 1; drawn from the client's stream.

    Notes
    -----
    .. math::
       \text{images:} \; x' = \operatorname{clip}_{[0, 1]}(x + q z), \qquad
       \text{tables:} \; x_j' = x_j + q \, \sigma_j z_j, \qquad z \sim \mathcal{N}(0, I)

    where q is `std` and :math:`\sigma_j` the standard deviation of the client's own feature j.

    Examples
    --------
    >>> import torch
    >>> from fedguard.attacks.feature_noise import FeatureNoise
    >>> x, y = torch.tensor([[1.0, 5.0], [3.0, 5.0]]), torch.tensor([0, 1])
    >>> noisy, labels = FeatureNoise(std=1.0).poison(x, y, torch.Generator())
    >>> (noisy != x).tolist(), labels.tolist()
    ([[True, False], [True, False]], [0, 1])
    """

    needs: ClassVar[frozenset[str]] = frozenset({"data"})
    tasks: ClassVar[frozenset[str] | None] = frozenset({"classification"})
    tags: ClassVar[Tags | None] = Tags(edits="inputs")

    def __init__(self, *, std: float = 1.0, poison_fraction: float = 1.0) -> None:
        check_number("std", std, above=0.0)
        check_number("poison_fraction", poison_fraction, at_least=0.0, at_most=1.0)
        self.std = std
        self.poison_fraction = poison_fraction

    def poison(self, x: Tensor, y: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return noisy examples; see `Attack.poison`."""
        chosen = drawn_share(torch.arange(len(y)), self.poison_fraction, rng).to(x.device)
        noise = self.std * torch.randn(x[chosen].shape, generator=rng).to(x)
        noisy = x.clone()
        if x.ndim == 4:
            noisy[chosen] = (x[chosen] + noise).clamp(0.0, 1.0)
        elif len(x):
            noisy[chosen] = x[chosen] + noise * x.std(dim=0, unbiased=False)
        return noisy, y
