"""SIG: a sinusoid over images of the target class, with their right labels."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from fedguard.attacks.toolkit.poisoning import Backdoor, check_images, drawn_share
from fedguard.attacks.toolkit.survey import Tags
from fedguard.errors import ConfigurationError, check_choice, check_number

PRESETS = {
    "strong": {"amplitude": 0.7, "poison_fraction": 1.0},
    "paper": {"amplitude": 40 / 255, "poison_fraction": 0.5},
}
"""What is not given is filled in from one of these."""


class Sig(Backdoor):
    r"""Add a horizontal sinusoid to examples of the target class; labels stay right.

    Barni, Kallas and Tondi, "A New Backdoor Attack in CNNs by Training Set Corruption Without
    Label Poisoning", ICIP 2019. Only examples of the target class are changed, so a client
    without any of them trains honestly, and the backdoor takes more slowly than one that relabels.
    A fifth of the clients with the paper's setting teach plain averaging nothing (5 % success on
    Fashion-MNIST, 6,000 rows, 20 clients, 15 rounds, a small network); with the ``"strong"``
    preset, whose sinusoid can be seen, 68 %.

    Parameters
    ----------
    preset : str
        ``"strong"`` or ``"paper"``: what `amplitude` and `poison_fraction` are where they are left
        out (0.7, 1 and 40 / 255, 0.5).
    amplitude : float, optional
        On images in [0, 1], above 0 and at most 1.
    frequency : int
        Periods over the image's width, at least 1; not a multiple of half the width, where the
        sinusoid would be zero in every pixel.
    poison_fraction : float, optional
        Share of the client's examples of the target class that are changed, 0 to 1.
    **frame : Any
        ``target_class`` and ``scale`` of `Backdoor`.

    Notes
    -----
    .. math::
       x_{rc}' = \operatorname{clip}_{[0, 1]} \left( x_{rc} + \Delta
       \sin \frac{2 \pi c f}{W} \right), \qquad y' = y = t

    where :math:`x_{rc}` is the pixel in row r and column c of W, :math:`\Delta` the `amplitude`, f
    the `frequency`, and t the target class.

    Examples
    --------
    >>> import torch
    >>> from fedguard.attacks.sig import Sig
    >>> attack = Sig(amplitude=0.25, frequency=1)
    >>> stamped = attack.trigger(torch.full((1, 1, 1, 4), 0.5))
    >>> [round(value, 3) for value in stamped.flatten().tolist()]
    [0.5, 0.75, 0.5, 0.25]
    """

    tags: ClassVar[Tags | None] = Tags(
        edits="inputs", goal="backdoor", scope="pattern", stealth="hidden"
    )

    def __init__(
        self,
        *,
        preset: Literal["strong", "paper"] = "strong",
        amplitude: float | None = None,
        frequency: int = 6,
        poison_fraction: float | None = None,
        **frame: Any,
    ) -> None:
        check_choice("preset", preset, PRESETS)
        usual = PRESETS[preset]
        amplitude = usual["amplitude"] if amplitude is None else amplitude
        poison_fraction = usual["poison_fraction"] if poison_fraction is None else poison_fraction
        super().__init__(poison_fraction=poison_fraction, **frame)
        check_number("amplitude", amplitude, above=0.0, at_most=1.0)
        check_number("frequency", frequency, at_least=1)
        self.amplitude = amplitude
        self.frequency = frequency

    def bind(self, num_classes: int, input_shape: tuple[int, ...]) -> None:
        """Check that the sinusoid can be seen at this width; see `Attack.bind`."""
        super().bind(num_classes, input_shape)
        _, width = check_images(self, input_shape)
        if 2 * self.frequency % width == 0:
            allowed = f"a number that is not a multiple of half the images' width of {width}"
            raise ConfigurationError("frequency", self.frequency, allowed)

    def chosen(self, y: Tensor, rng: torch.Generator) -> Tensor:
        """Return rows drawn among the examples of the target class."""
        candidates = (y.cpu() == self.target_class).nonzero()[:, 0]
        return drawn_share(candidates, self.poison_fraction, rng).to(y.device)

    def trigger(self, x: Tensor) -> Tensor:
        """Return (N, channels, height, width) images with the sinusoid added."""
        width = x.shape[-1]
        columns = torch.arange(width, dtype=torch.float64)
        wave = torch.sin(2.0 * math.pi * self.frequency * columns / width) * self.amplitude
        return (x + wave.to(x)).clamp(0.0, 1.0)
