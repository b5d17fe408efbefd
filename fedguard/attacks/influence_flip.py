"""Influence flip: wrong labels where they hurt held-out rows most."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from fedguard.attacks.base import Attack
from fedguard.attacks.toolkit.poisoning import drawn_share
from fedguard.attacks.toolkit.survey import Tags
from fedguard.errors import check_number

_STEPS = 60
_HELD = 0.3


class InfluenceFlip(Attack):
    r"""Flip those labels whose flip raises the loss on held-out rows most, by influence functions.

    A multinomial logistic model with an L2 term is fitted to part of the client's rows; the rows
    and classes are chosen whose flip moves the loss on the rest most.

    Koh and Liang, "Understanding Black-box Predictions via Influence Functions", ICML 2017; flips
    of labels in place of changed pictures, as suits tables too, and a logistic model whatever the
    federation trains. H is never formed: V is found by conjugate gradients. 30 % of a client's rows
    are held out; they may be flipped as well, by the same V. The control is ``label-flip`` with
    ``mode: random`` and the same ``poison_fraction``.

    Parameters
    ----------
    poison_fraction : float
        Share of the client's rows whose labels are flipped, 0 to 1.
    weight_decay : float
        Weight of the L2 term, above 0; H is far from singular with it.

    Notes
    -----
    .. math::
       (x, y) \to (x, y') \text{ with the greatest } \frac{(V x)_{y'} - (V x)_y}{n}, \qquad
       V = H^{-1} g

    where H is the second derivative of the logistic model's loss on the n rows that it is fitted
    to, and g the slope of its loss on the rows that are held out.

    Examples
    --------
    >>> import torch
    >>> from fedguard.attacks.influence_flip import InfluenceFlip
    >>> from fedguard.data.digits import Digits
    >>> attack, data = InfluenceFlip(poison_fraction=0.1), Digits().load(None)
    >>> attack.bind(data.num_classes, data.input_shape)
    >>> x, y = data.x_train[:100], data.y_train[:100]
    >>> _, flipped = attack.poison(x, y, torch.Generator().manual_seed(0))
    >>> int((flipped != y).sum())
    10
    """

    needs: ClassVar[frozenset[str]] = frozenset({"data"})
    tasks: ClassVar[frozenset[str] | None] = frozenset({"classification"})
    alone: ClassVar[bool] = True
    tags: ClassVar[Tags | None] = Tags(edits="labels", by=("influence", "label flip"))

    def __init__(self, *, poison_fraction: float = 0.2, weight_decay: float = 0.01) -> None:
        check_number("poison_fraction", poison_fraction, at_least=0.0, at_most=1.0)
        check_number("weight_decay", weight_decay, above=0.0)
        self.poison_fraction, self.weight_decay = poison_fraction, weight_decay
        self._num_classes = 0

    def bind(self, num_classes: int, input_shape: tuple[int, ...]) -> None:
        """Learn the number of classes; see `Attack.bind`."""
        self._num_classes = num_classes

    def poison(self, x: Tensor, y: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return the rows with the most harmful labels flipped; see `Attack.poison`."""
        count = len(drawn_share(torch.arange(len(y)), self.poison_fraction, rng))
        if not count or len(y) < 2:
            return x, y
        gains = self.gains(x, y, rng)
        best, label = gains.max(dim=1)
        chosen = best.argsort(descending=True, stable=True)[:count]
        flipped = y.clone()
        flipped[chosen] = label[chosen].to(y)
        return x, flipped

    def gains(self, x: Tensor, y: Tensor, rng: torch.Generator) -> Tensor:
        """Return the (N, C) rise of the held-out loss, times the rows, by every flip.

        A row's own label has ``-inf``: that is no flip.
        """
        rows = _standardised(x.flatten(1).double())
        order = torch.randperm(len(y), generator=rng).to(y.device)
        held = order[: max(1, round(_HELD * len(y)))]
        kept = order[len(held) :] if len(held) < len(y) else order
        model = _Fitted.of(rows[kept], y[kept], self._num_classes, self.weight_decay)
        slope = model.slope(rows[held], y[held])
        moved = rows @ model.solved(slope).T
        gains = moved - moved.gather(1, y[:, None])
        return gains.scatter(1, y[:, None], -torch.inf)


class _Fitted:
    """A fitted multinomial logistic model: its slopes, and products with its second derivative."""

    def __init__(self, rows: Tensor, weights: Tensor, decay: float) -> None:
        self.rows, self.weights, self.decay = rows, weights, decay
        self.shares = (rows @ weights.T).softmax(dim=1)

    @classmethod
    def of(cls, rows: Tensor, y: Tensor, num_classes: int, decay: float) -> _Fitted:
        """Fit by Newton's steps, each solved by conjugate gradients and halved while it climbs."""
        wanted = functional.one_hot(y, num_classes).to(rows)
        model = cls(rows, rows.new_zeros(num_classes, rows.shape[1]), decay)
        for _ in range(10):
            slope = (model.shares - wanted).T @ rows / len(rows) + decay * model.weights
            step, before = model.solved(slope), model.loss(y)
            for _ in range(20):
                ahead = cls(rows, model.weights - step, decay)
                if ahead.loss(y) <= before:
                    model = ahead
                    break
                step = step / 2.0
        return model

    def loss(self, y: Tensor) -> float:
        """Return the mean cross-entropy of the rows, with the L2 term."""
        own = functional.cross_entropy(self.rows @ self.weights.T, y)
        return float(own + self.decay / 2.0 * self.weights.square().sum())

    def slope(self, rows: Tensor, y: Tensor) -> Tensor:
        """Return the (C, D) slope of other rows' mean cross-entropy."""
        shares = (rows @ self.weights.T).softmax(dim=1)
        return (shares - functional.one_hot(y, len(self.weights)).to(rows)).T @ rows / len(rows)

    def curved(self, direction: Tensor) -> Tensor:
        """Return ``H v`` of a (C, D) direction."""
        pushed = self.rows @ direction.T
        inner = self.shares * (pushed - (self.shares * pushed).sum(dim=1, keepdim=True))
        return inner.T @ self.rows / len(self.rows) + self.decay * direction

    def solved(self, wanted: Tensor) -> Tensor:
        """Return ``H^-1 b`` by conjugate gradients."""
        found, rest = torch.zeros_like(wanted), wanted.clone()
        way, size = rest.clone(), float(rest.square().sum())
        start = size
        for _ in range(_STEPS):
            if size <= 1e-16 * start or size == 0.0:
                break
            bent = self.curved(way)
            step = size / float((way * bent).sum())
            found, rest = found + step * way, rest - step * bent
            after = float(rest.square().sum())
            way, size = rest + after / size * way, after
        return found


def _standardised(rows: Tensor) -> Tensor:
    """Return rows with mean 0 and deviation 1 in every feature that varies, and a constant 1."""
    std = rows.std(dim=0, unbiased=False)
    told = (rows - rows.mean(dim=0)) / torch.where(std > 1e-9, std, 1.0)
    return torch.cat([told, torch.ones(len(rows), 1).to(rows)], dim=1)
