"""DBA: distributed backdoor attack."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from fedguard.attacks.toolkit.poisoning import Backdoor, check_images
from fedguard.attacks.toolkit.survey import Tags
from fedguard.errors import ConfigurationError, check_number

PARTS = 4
"""Number of parts that the trigger is cut into."""


class Dba(Backdoor):
    r"""Cut the trigger into four bars; each malicious client stamps one, tests show all.

    The bars stand two above two at the image's top left.

    Xie, Huang, Chen and Li, "DBA: Distributed Backdoor Attacks against Federated Learning",
    ICLR 2020. A client's bar is drawn from its own stream rather than dealt out, so that it does
    not depend on who else belongs to the coalition; with few malicious clients a bar may go
    unused. Bars and gaps left out follow the paper's CIFAR-10 trigger (bars of 1 x 6 pixels, 3
    columns between and 4 rows below, on 32 x 32), in proportion to the image.

    Parameters
    ----------
    length : int, optional
        Length of a bar in pixels, at least 1.
    gap : int, optional
        Columns between two bars, at least 1.
    shift : int, optional
        Rows from the upper pair to the lower, at least 1.
    value : float
        Brightness of the bars, 0 to 1, in every channel.
    **frame : Any
        ``target_class``, ``poison_fraction`` and ``scale`` of `Backdoor`.

    Notes
    -----
    .. math::
       x' = (1 - m_{b(i)}) \odot x + v \, m_{b(i)}, \qquad
       x_{\mathrm{test}}' = (1 - m) \odot x + v \, m, \qquad
       m = m_1 + m_2 + m_3 + m_4, \qquad y' = t

    where x is an unscaled image, :math:`m_b` is 1 on bar b and 0 elsewhere, :math:`b(i)` the bar
    that client i drew, v the `value`, and t the target class.

    Examples
    --------
    >>> import torch
    >>> from fedguard.attacks.dba import Dba
    >>> attack, x = Dba(length=1, gap=1, shift=2), torch.zeros(1, 1, 3, 3)
    >>> attack.stamp(x, [1]).tolist()
    [[[[0.0, 0.0, 1.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]]]
    >>> attack.trigger(x).tolist()
    [[[[1.0, 0.0, 1.0], [0.0, 0.0, 0.0], [1.0, 0.0, 1.0]]]]
    """

    tags: ClassVar[Tags | None] = Tags(
        edits="both", goal="backdoor", scope="pattern", stealth="hidden"
    )

    def __init__(
        self,
        *,
        length: int | None = None,
        gap: int | None = None,
        shift: int | None = None,
        value: float = 1.0,
        **frame: Any,
    ) -> None:
        super().__init__(**frame)
        for name, number in (("length", length), ("gap", gap), ("shift", shift)):
            if number is not None:
                check_number(name, number, at_least=1)
        check_number("value", value, at_least=0.0, at_most=1.0)
        self.length = length
        self.gap = gap
        self.shift = shift
        self.value = value

    def bind(self, num_classes: int, input_shape: tuple[int, ...]) -> None:
        """Check that the bars fit the images; see `Attack.bind`."""
        super().bind(num_classes, input_shape)
        height, width = check_images(self, input_shape)
        rows, columns = self.bars(height, width)[-1]
        if columns.stop > width:
            raise ConfigurationError("length", self.length, f"bars that fit a width of {width}")
        if rows.stop > height:
            raise ConfigurationError("shift", self.shift, f"bars that fit a height of {height}")

    def bars(self, height: int, width: int) -> list[tuple[slice, slice]]:
        """Return rows and columns of the four bars on an image of this size."""
        length = self.length or max(1, round(width * 6 / 32))
        gap = self.gap or max(1, round(width * 3 / 32))
        shift = self.shift or max(1, round(height * 4 / 32))
        return [
            (slice(top, top + 1), slice(left, left + length))
            for top in (0, shift)
            for left in (0, length + gap)
        ]

    def poison(self, x: Tensor, y: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return the examples, a share of them with this client's bar; see `Attack.poison`."""
        part = int(torch.randint(PARTS, (), generator=rng))
        chosen = self.chosen(y, rng)
        poisoned, labels = x.clone(), y.clone()
        poisoned[chosen] = self.stamp(x[chosen], [part])
        labels[chosen] = self.target_class
        return poisoned, labels

    def stamp(self, x: Tensor, parts: list[int]) -> Tensor:
        """Return images with the given bars, 0 to 3, stamped on."""
        stamped = x.clone()
        bars = self.bars(x.shape[-2], x.shape[-1])
        for part in parts:
            rows, columns = bars[part]
            stamped[..., rows, columns] = self.value
        return stamped

    def trigger(self, x: Tensor) -> Tensor:
        """Return (N, channels, height, width) images with all four bars stamped on."""
        return self.stamp(x, list(range(PARTS)))
