"""Blended: a faint pattern over the whole image means the target class."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from fedguard.attacks.toolkit.poisoning import Backdoor
from fedguard.attacks.toolkit.survey import Tags
from fedguard.errors import check_number
from fedguard.randomness import SERVER, generator


class Blended(Backdoor):
    r"""Blend a fixed random pattern into a share of the examples and relabel them.

    Chen, Liu, Li, Lu and Song, "Targeted Backdoor Attacks on Deep Learning Systems Using Data
    Poisoning", arXiv 2017. The paper blends a cartoon or a noise pattern; this is the latter.

    Parameters
    ----------
    alpha : float
        Share of the pattern, above 0 and at most 1.
    pattern_seed : int
        Which pattern, at least 0.
    **frame : Any
        ``target_class``, ``poison_fraction`` and ``scale`` of `Backdoor`.

    Notes
    -----
    .. math::
       x' = (1 - \alpha) x + \alpha \tau, \qquad y' = t, \qquad d_i' = s \, d_i

    where x is an image in [0, 1], :math:`\tau` uniform noise, the same for every image, t the
    target class, :math:`d_i` what training on these rows gave member i, and s the `scale`.

    Examples
    --------
    >>> import torch
    >>> from fedguard.attacks.blended import Blended
    >>> attack, x = Blended(alpha=0.25), torch.ones(1, 1, 4, 4)
    >>> stamped = attack.trigger(x)
    >>> 0.75 <= float(stamped.min()) < float(stamped.max()) <= 1.0
    True
    >>> bool((stamped == attack.trigger(x)).all())
    True
    """

    tags: ClassVar[Tags | None] = Tags(
        edits="both", goal="backdoor", scope="pattern", stealth="hidden"
    )

    def __init__(self, *, alpha: float = 0.2, pattern_seed: int = 0, **frame: Any) -> None:
        super().__init__(**frame)
        check_number("alpha", alpha, above=0.0, at_most=1.0)
        check_number("pattern_seed", pattern_seed, at_least=0)
        self.alpha = alpha
        self.pattern_seed = pattern_seed

    def trigger(self, x: Tensor) -> Tensor:
        """Return (N, channels, height, width) images with the pattern blended in."""
        stream = generator(self.pattern_seed, 0, SERVER, "blended pattern")
        pattern = torch.rand(x.shape[1:], generator=stream).to(x)
        return (1.0 - self.alpha) * x + self.alpha * pattern
