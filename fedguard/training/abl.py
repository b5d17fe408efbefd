"""ABL: isolate the rows that are learnt fastest, and unlearn them, at a client that is honest."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional

from fedguard.errors import check_choice, check_number
from fedguard.training.base import Local, TrainingRule
from fedguard.training.judging import judged
from fedguard.traits import Traits

LEAST = 8
"""Fewest rows that are isolated."""

ISOLATED, AGREED = "isolated", "agreed"


class Abl(TrainingRule):
    r"""Trap the loss at gamma, isolate the rows below it, train without them, climb on them.

    In a round, on the model that the server sent (n rows, K classes):

    1. Rank the client's rows by their loss in evaluation mode; ``D_b`` = the
       lowest, once the mean loss over all rows is below ``2 gamma``. Before that, the first stage:
       descend the trapped loss, by local gradient ascent or flooding.
    2. The gate: go on only if the sets of two successive rounds overlap (Jaccard index of at least
       `overlap`) and one label covers at least `purity` of the set. Otherwise the round is plain
       SGD, and the set is drawn anew in the next.
    3. Train on the rows outside ``D_b``.
    4. Climb the loss of ``D_b``, batch statistics fixed, until its accuracy is below ``1 / K`` or
       `steps` are done. If the accuracy on the *other* rows of its label falls by more than
       `harm`, the climb is taken back and the set is dropped.

    Li, Lyu, Koren, Lyu, Li and Ma, "Anti-Backdoor Learning: Training Clean Models on Poisoned
    Data", NeurIPS 2021; the sequential form of the authors' code. Ours: what a pass is there is a
    round here; the first stage ends by the mean loss, not by a number of passes; the gate, because
    an easy clean class is learnt as fast as a backdoor and unlearning it costs its accuracy.

    Parameters
    ----------
    gamma : float
        Loss in nats at which the first stage holds a batch, above 0.
    form : {"ascent", "flooding"}
        The first stage's loss.
    share : float
        Share of the client's rows that is isolated, above 0 to 0.5.
    lr : float
        Learning rate of the climb, above 0.
    steps : int
        Most steps of the climb in a round, at least 1.
    overlap, purity, harm : float
        The gate, each 0 to 1; ``overlap=0, purity=0, harm=1`` opens it.

    Notes
    -----
    .. math::
       \text{first stage:} \quad \operatorname{sign}(l - \gamma) \, l \quad \text{or} \quad
       |l - \gamma| + \gamma

    .. math::
       \text{then:} \quad \theta \leftarrow \operatorname{SGD}(\theta; D \setminus D_b), \qquad
       \theta \leftarrow \theta + \eta \nabla \ell(\theta; D_b), \qquad
       D_b = \text{the } \max(8, \lceil q n \rceil) \text{ rows of least loss}

    where l is a batch's mean loss, D the client's n rows, :math:`\ell` the mean loss of those
    isolated, q the `share` and :math:`\eta` is `lr`.
    """

    remembers: ClassVar[bool] = True
    traits: ClassVar[Traits] = Traits(tasks=frozenset({"classification"}))

    def __init__(
        self,
        *,
        gamma: float = 0.5,
        form: Literal["ascent", "flooding"] = "ascent",
        share: float = 0.01,
        lr: float = 0.0005,
        steps: int = 20,
        overlap: float = 0.5,
        purity: float = 0.8,
        harm: float = 0.2,
    ) -> None:
        check_number("gamma", gamma, above=0.0)
        check_choice("form", form, ("ascent", "flooding"))
        check_number("share", share, above=0.0, at_most=0.5)
        check_number("lr", lr, above=0.0)
        check_number("steps", steps, at_least=1)
        for name, value in (("overlap", overlap), ("purity", purity), ("harm", harm)):
            check_number(name, value, at_least=0.0, at_most=1.0)
        self.gamma, self.form, self.share = gamma, form, share
        self.lr, self.steps = lr, steps
        self.overlap, self.purity, self.harm = overlap, purity, harm

    def begin(self, local: Local) -> None:
        """Rank the client's rows and ask the gate; see the class."""
        own = local.rows
        x, y = local.x[own], local.y[own]
        losses, _ = judged(local, x, y)
        local.scratch.update(own=own, first=float(losses.mean()) >= 2.0 * self.gamma, gone=None)
        before = local.memory.get(ISOLATED)
        local.memory[AGREED] = torch.zeros(1)
        if local.scratch["first"] or not bool(torch.isfinite(losses).all()):
            local.memory[ISOLATED] = torch.empty(0, dtype=torch.long)
            return
        count = min(max(LEAST, math.ceil(self.share * len(own))), len(own))
        lowest = losses.argsort(stable=True)[:count].sort().values.cpu()
        local.memory[ISOLATED] = lowest
        if before is not None and len(before) and self._opens(lowest, before, y):
            local.scratch["gone"] = own[lowest.to(own.device)]
            local.memory[AGREED] = torch.ones(1)

    def _opens(self, now: Tensor, before: Tensor, y: Tensor) -> bool:
        """Return whether two rounds isolated alike, and rows of one label above all."""
        both = int(torch.isin(now, before).sum())
        either = len(now) + len(before) - both
        labels = y[now.to(y.device)].bincount()
        return both >= self.overlap * either and int(labels.max()) >= self.purity * len(now)

    def loss(self, local: Local, losses: Tensor) -> Tensor:
        """Return the loss of the round's stage; see the class."""
        if local.scratch["first"]:
            mean = losses.mean()
            if self.form == "flooding":
                return (mean - self.gamma).abs() + self.gamma
            return torch.sign(mean.detach() - self.gamma) * mean
        gone = local.scratch["gone"]
        if gone is None:
            return losses.mean()
        kept = ~torch.isin(local.rows, gone)
        return (losses * kept).sum() / kept.sum().clamp_min(1)

    def end(self, local: Local) -> None:
        """Climb on the isolated rows, or take it back; see the class."""
        gone = local.scratch["gone"]
        if gone is None or local.settings.lr == 0.0:
            return
        x, y = local.x[gone], local.y[gone]
        label = int(y.bincount().argmax())
        own = local.scratch["own"]
        others = own[(local.y[own] == label) & ~torch.isin(own, gone)]
        before = local.vector.clone()
        first = _accuracy(local, others)
        classes = self._climb(local, x, y)
        fallen = first - _accuracy(local, others)
        if fallen > self.harm or not bool(torch.isfinite(local.vector).all()) or classes == 0:
            local.vector.copy_(before)
            local.memory[ISOLATED] = torch.empty(0, dtype=torch.long)
            local.memory[AGREED] = torch.zeros(1)
        local.module.train()

    def _climb(self, local: Local, x: Tensor, y: Tensor) -> int:
        """Climb the loss of the isolated rows; return the number of classes."""
        local.module.eval()
        classes = 0
        for _ in range(self.steps):
            output = local.module(x)
            classes = output.shape[1]
            if float((output.argmax(dim=1) == y).double().mean()) < 1.0 / classes:
                break
            local.gradient.zero_()
            functional.cross_entropy(output, y).backward()  # type: ignore[no-untyped-call]
            local.vector.add_(local.gradient, alpha=self.lr)
        return classes


def _accuracy(local: Local, rows: Tensor) -> float:
    """Return the accuracy on rows; 0 where there are none."""
    if not len(rows):
        return 0.0
    return float(judged(local, local.x[rows], local.y[rows])[1].double().mean())
