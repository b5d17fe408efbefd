"""WaNet: one smooth warp of the image means the target class."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional

from fedguard.attacks.toolkit.poisoning import Backdoor, drawn_share
from fedguard.attacks.toolkit.survey import Tags
from fedguard.errors import check_choice, check_number
from fedguard.randomness import SERVER, generator

PRESETS = {
    "strong": {"strength": 8.0, "cross_ratio": 0.5, "poison_fraction": 0.5},
    "paper": {"strength": 0.5, "cross_ratio": 2.0, "poison_fraction": 0.25},
}
"""What is not given is filled in from one of these."""


class WaNet(Backdoor):
    r"""Warp a share of the examples by one fixed smooth field and relabel them.

    A further ``cross_ratio`` times as many examples
    are warped by the field plus fresh noise and keep their labels, so that the model learns this
    warp and not warps as such.

    Nguyen and Tran, "WaNet - Imperceptible Warping-based Backdoor Attack", ICLR 2021. The field
    is drawn once from `pattern_seed` and is the same for every client, round and call. A fifth of
    the clients with the paper's setting teach plain averaging nothing (4 % success on
    Fashion-MNIST, 6,000 rows, 20 clients, 15 rounds, a small network); with the ``"strong"``
    preset, whose warp can be seen, 71 %.

    Parameters
    ----------
    preset : str
        ``"strong"`` or ``"paper"``: what `strength`, `cross_ratio` and `poison_fraction` are where
        they are left out (8, 0.5, 0.5 and 0.5, 2, 0.25).
    strength : float, optional
        s, above 0.
    control_points : int
        k, at least 2; 4 in the paper.
    cross_ratio : float, optional
        Examples of the noise mode per poisoned example, at least 0. At most the examples that are
        left.
    pattern_seed : int
        Which field, at least 0.
    poison_fraction : float, optional
        Share of the client's examples that are warped and relabelled, 0 to 1.
    **frame : Any
        ``target_class`` and ``scale`` of `Backdoor`.

    Notes
    -----
    .. math::
       x'(p) = x\left( \operatorname{clip}_{[-1, 1]} \left( p + \frac{s}{H}
       \operatorname{up}\left( \frac{P}{\operatorname{mean} |P|} \right)(p) \right) \right), \qquad
       P \sim U[-1, 1]^{k \times k \times 2}, \qquad y' = t

    where p is a place of the image in [-1, 1], read bilinearly, H its height, up the bicubic
    enlargement of k x k points, s the `strength`, and t the target class.

    Examples
    --------
    >>> import torch
    >>> from fedguard.attacks.wanet import WaNet
    >>> attack, x = WaNet(strength=0.5), torch.full((1, 1, 8, 8), 0.5)
    >>> bool(torch.allclose(attack.trigger(x), x))
    True
    >>> slope = torch.linspace(0, 1, 8).expand(1, 1, 8, 8)
    >>> 0.0 < float((attack.trigger(slope) - slope).abs().max()) < 0.25
    True
    """

    tags: ClassVar[Tags | None] = Tags(
        edits="both", goal="backdoor", scope="pattern", stealth="hidden"
    )

    def __init__(
        self,
        *,
        preset: Literal["strong", "paper"] = "strong",
        strength: float | None = None,
        control_points: int = 4,
        cross_ratio: float | None = None,
        pattern_seed: int = 0,
        poison_fraction: float | None = None,
        **frame: Any,
    ) -> None:
        check_choice("preset", preset, PRESETS)
        usual = PRESETS[preset]
        strength = usual["strength"] if strength is None else strength
        cross_ratio = usual["cross_ratio"] if cross_ratio is None else cross_ratio
        poison_fraction = usual["poison_fraction"] if poison_fraction is None else poison_fraction
        super().__init__(poison_fraction=poison_fraction, **frame)
        check_number("strength", strength, above=0.0)
        check_number("control_points", control_points, at_least=2)
        check_number("cross_ratio", cross_ratio, at_least=0.0)
        check_number("pattern_seed", pattern_seed, at_least=0)
        self.strength = strength
        self.control_points = control_points
        self.cross_ratio = cross_ratio
        self.pattern_seed = pattern_seed

    def grid(self, height: int, width: int) -> Tensor:
        """Return the (height, width, 2) sampling grid of the warp, x before y, in [-1, 1]."""
        stream = generator(self.pattern_seed, 0, SERVER, "wanet field")
        points = self.control_points
        field = 2.0 * torch.rand(1, 2, points, points, generator=stream) - 1.0
        field /= field.abs().mean()
        field = functional.interpolate(
            field, size=(height, width), mode="bicubic", align_corners=True
        )
        warp = field[0].permute(1, 2, 0) * self.strength / height
        return (_identity(height, width) + warp).clamp(-1.0, 1.0)

    def poison(self, x: Tensor, y: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return the examples, warped as the class says; see `Attack.poison`."""
        poisoned, labels = super().poison(x, y, rng)
        changed = (poisoned != x).flatten(1).any(dim=1) | (labels != y)
        rest = (~changed).cpu().nonzero()[:, 0]
        wanted = self.cross_ratio * self.poison_fraction * len(y)
        share = min(1.0, wanted / max(len(rest), 1))
        noisy = drawn_share(rest, share, rng).to(y.device)
        poisoned[noisy] = self._noise_mode(x[noisy], rng)
        return poisoned, labels

    def _noise_mode(self, x: Tensor, rng: torch.Generator) -> Tensor:
        height, width = x.shape[-2:]
        noise = 2.0 * torch.rand(len(x), height, width, 2, generator=rng) - 1.0
        return _sample(x, (self.grid(height, width) + noise / height).clamp(-1.0, 1.0))

    def trigger(self, x: Tensor) -> Tensor:
        """Return (N, channels, height, width) images, warped."""
        height, width = x.shape[-2:]
        return _sample(x, self.grid(height, width).expand(len(x), -1, -1, -1))


def _identity(height: int, width: int) -> Tensor:
    rows, columns = torch.linspace(-1.0, 1.0, height), torch.linspace(-1.0, 1.0, width)
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    return torch.stack([x, y], dim=-1)


def _sample(x: Tensor, grid: Tensor) -> Tensor:
    if not len(x):
        return x.clone()
    return functional.grid_sample(x, grid.to(x), align_corners=True)
