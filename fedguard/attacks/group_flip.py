"""Group flip: wrong labels for one group of rows, so that the model fails that group."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from fedguard.attacks.base import Attack, Scene
from fedguard.attacks.toolkit.poisoning import drawn_share
from fedguard.attacks.toolkit.survey import Tags
from fedguard.data.dataset import Dataset
from fedguard.errors import ConfigurationError, check_number
from fedguard.metrics.classification import predictions


class GroupFlip(Attack):
    r"""Malicious clients train as asked, on wrong labels for the rows of one group.

    The group are the rows whose feature is above a border. What it does is told by the accuracy in
    the group, that of the others, and the gap between them.

    The simplest of the attacks on fairness: in Solans, Biggio and Castillo, "Poisoning Attacks on
    Algorithmic Fairness", ECML PKDD 2020, whose points are found by gradients, wrong labels of the
    underprivileged group are the start of the search and its baseline. The group is of rows, not
    of clients; for those see a run's client evaluation. The control is ``label-flip`` with
    ``mode: cyclic`` and a ``poison_fraction`` that flips as many.

    Parameters
    ----------
    feature : int
        Place of the feature in a flattened row, from 0; a table's in the order of its columns.
    above : float, optional
        On unscaled values; the mean of the feature over the data set if left out.
    poison_fraction : float
        Share of the group's rows whose labels are flipped, 0 to 1.

    Notes
    -----
    .. math::
       y' = \begin{cases} (y + 1) \bmod C & \text{if } x_j > a \\ y & \text{otherwise} \end{cases}

    where :math:`x_j` is the row's `feature`, a is `above`, and C are the classes.

    Examples
    --------
    >>> import torch
    >>> from fedguard.attacks.group_flip import GroupFlip
    >>> attack = GroupFlip(feature=1, above=0.5)
    >>> attack.bind(3, (2,))
    >>> x, y = torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 1, 2])
    >>> attack.poison(x, y, torch.Generator())[1].tolist()
    [1, 1, 0]
    """

    needs: ClassVar[frozenset[str]] = frozenset({"data"})
    tasks: ClassVar[frozenset[str] | None] = frozenset({"classification"})
    alone: ClassVar[bool] = True
    tags: ClassVar[Tags | None] = Tags(
        edits="labels", goal="targeted", scope="class", impact="fairness", by=("label flip",)
    )

    def __init__(
        self, *, feature: int = 0, above: float | None = None, poison_fraction: float = 1.0
    ) -> None:
        check_number("feature", feature, at_least=0)
        if above is not None:
            check_number("above", above)
        check_number("poison_fraction", poison_fraction, at_least=0.0, at_most=1.0)
        self.feature, self.above, self.poison_fraction = feature, above, poison_fraction
        self._num_classes = 0
        self._asked: tuple[Tensor, Tensor, Tensor] | None = None

    def bind(self, num_classes: int, input_shape: tuple[int, ...]) -> None:
        """Check that rows have the feature; see `Attack.bind`."""
        size = torch.Size(input_shape).numel()
        if self.feature >= size:
            allowed = f"a place from 0 to {size - 1} in a row of this data set"
            raise ConfigurationError("feature", self.feature, allowed)
        self._num_classes = num_classes

    def meet(self, dataset: Dataset) -> None:
        """Learn the border of the group, and the test rows; see `Attack.meet`.

        Raises
        ------
        ConfigurationError
            If all test rows are in the group, or none is.
        """
        if self.above is None:
            self.above = float(dataset.x_train.flatten(1)[:, self.feature].double().mean())
        member = self.members(dataset.x_test)
        if member.all() or not member.any():
            allowed = f"a feature and a border that part the test rows; {self.above:g} does not"
            raise ConfigurationError("feature", self.feature, allowed)
        shape = (-1,) + (1,) * (len(dataset.input_shape) - 1)
        mean, std = (torch.tensor(part).view(shape) for part in (dataset.mean, dataset.std))
        self._asked = (dataset.x_test - mean) / std, dataset.y_test, member

    def members(self, x: Tensor) -> Tensor:
        """Return the (N,) mask of the rows of the group."""
        border = 0.0 if self.above is None else self.above
        return x.flatten(1)[:, self.feature] > border

    def poison(self, x: Tensor, y: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return the rows, the group's with wrong labels; see `Attack.poison`."""
        rows = self.members(x).nonzero().flatten().cpu()
        chosen = drawn_share(rows, self.poison_fraction, rng).to(y.device)
        flipped = y.clone()
        flipped[chosen] = (y[chosen] + 1) % self._num_classes
        return x, flipped

    def measure(self, scene: Scene) -> dict[str, float | None]:
        """Return the accuracy in the group, that of all others, and how much lower the first is."""
        told = super().measure(scene)
        if self._asked is None:
            return told
        x, y, member = self._asked
        device = next(scene.model.parameters()).device
        right = (predictions(scene.model, x.to(device)).argmax(dim=1).cpu() == y).double()
        inside, outside = float(right[member].mean()), float(right[~member].mean())
        return {
            **told,
            "group_accuracy": inside,
            "others_accuracy": outside,
            "accuracy_gap": outside - inside,
        }
