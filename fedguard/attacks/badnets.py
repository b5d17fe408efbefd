"""BadNets: a patch of pixels that means the target class."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor

from fedguard.attacks.toolkit.poisoning import Backdoor, check_images
from fedguard.errors import ConfigurationError, check_choice, check_number

Position = Literal["top-left", "top-right", "bottom-left", "bottom-right", "centre"]

_POSITIONS = ("top-left", "top-right", "bottom-left", "bottom-right", "centre")


class BadNets(Backdoor):
    r"""Stamp a square patch on a share of the examples and label them with the target class.

    Gu, Dolan-Gavitt and Garg, "BadNets: Identifying Vulnerabilities in the Machine Learning Model
    Supply Chain", arXiv 2017; with `scale`, the boosting of Bagdasaryan et al., "How To Backdoor
    Federated Learning", AISTATS 2020. Images only.

    Parameters
    ----------
    size : int
        Side of the patch in pixels, at least 1 and no larger than the image.
    position : str
        ``"top-left"``, ``"top-right"``, ``"bottom-left"``, ``"bottom-right"`` or ``"centre"``.
    value : float
        Brightness of the patch, 0 to 1, in every channel.
    **frame : Any
        ``target_class``, ``poison_fraction`` and ``scale`` of `Backdoor`.

    Notes
    -----
    .. math::
       x' = (1 - m) \odot x + v \, m, \qquad y' = t, \qquad d_i' = s \, d_i

    where x is an unscaled image, m is 1 on the patch and 0 elsewhere, v the `value`, t the target
    class, :math:`d_i` what training on these rows gave member i, and s the `scale`.

    Examples
    --------
    >>> import torch
    >>> from fedguard.attacks.badnets import BadNets
    >>> BadNets(size=1).trigger(torch.zeros(1, 1, 2, 2)).tolist()
    [[[[0.0, 0.0], [0.0, 1.0]]]]
    """

    def __init__(
        self,
        *,
        size: int = 3,
        position: Position = "bottom-right",
        value: float = 1.0,
        **frame: Any,
    ) -> None:
        super().__init__(**frame)
        check_number("size", size, at_least=1)
        check_choice("position", position, _POSITIONS)
        check_number("value", value, at_least=0.0, at_most=1.0)
        self.size = size
        self.position = position
        self.value = value

    def bind(self, num_classes: int, input_shape: tuple[int, ...]) -> None:
        """Check that the patch fits the images; see `Attack.bind`."""
        super().bind(num_classes, input_shape)
        side = min(check_images(self, input_shape))
        if self.size > side:
            raise ConfigurationError("size", self.size, f"a patch of at most {side} pixels")

    def patch(self, height: int, width: int) -> tuple[slice, slice]:
        """Return the rows and columns of the patch on an image of this size."""
        if self.position == "centre":
            top, left = (height - self.size) // 2, (width - self.size) // 2
        else:
            top = 0 if "top" in self.position else height - self.size
            left = 0 if "left" in self.position else width - self.size
        return slice(top, top + self.size), slice(left, left + self.size)

    def trigger(self, x: Tensor) -> Tensor:
        """Return (N, channels, height, width) images with the patch stamped on."""
        stamped = x.clone()
        rows, columns = self.patch(x.shape[-2], x.shape[-1])
        stamped[..., rows, columns] = self.value
        return stamped
