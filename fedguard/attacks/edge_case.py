"""Edge-case backdoor: inputs from the tail of the distribution, wrongly labelled."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from fedguard.attacks.toolkit.poisoning import Backdoor
from fedguard.attacks.toolkit.survey import Tags


class EdgeCase(Backdoor):
    r"""Teach the target class on inputs that honest clients do not have.

    A reading of Wang et al., "Attack of the Tails: Yes, You Really Can Backdoor Federated
    Learning", NeurIPS 2020. The paper takes rare inputs from other collections (Southwest
    aeroplanes, ARDIS digits) and mixes about one of them with four clean examples. Such a
    collection belongs to one task only; here the tail is made from the task's own images: negatives
    that stand on their heads, which natural data do not hold, so that honest updates do not undo
    what they teach. They replace clean examples instead of joining them. Projection and scaling,
    which the paper combines with it, are `Pgd` and the option `scale`.

    Parameters
    ----------
    poison_fraction : float
        Share of the client's examples that become edge cases, 0 to 1.
    **frame : Any
        ``target_class`` and ``scale`` of `Backdoor`.

    Notes
    -----
    .. math::
       x_{rc}' = 1 - x_{H - 1 - r, \, W - 1 - c}, \qquad y' = t, \qquad d_i' = s \, d_i

    where :math:`x_{rc}` is the pixel in row r of H and column c of W, from 0, of an unscaled image,
    t the target class, :math:`d_i` what training on these rows gave member i, and s the `scale`.

    Examples
    --------
    >>> import torch
    >>> from fedguard.attacks.edge_case import EdgeCase
    >>> EdgeCase().trigger(torch.tensor([[[[0.0, 0.25], [0.5, 1.0]]]])).tolist()
    [[[[0.0, 0.5], [0.75, 1.0]]]]
    """

    tags: ClassVar[Tags | None] = Tags(
        edits="both", goal="backdoor", scope="pattern", stealth="hidden"
    )

    def __init__(self, *, poison_fraction: float = 0.2, **frame: Any) -> None:
        super().__init__(poison_fraction=poison_fraction, **frame)

    def trigger(self, x: Tensor) -> Tensor:
        """Return the edge-case version of (N, channels, height, width) images."""
        return 1.0 - x.flip(-1, -2)
