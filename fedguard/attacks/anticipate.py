"""Anticipate: a backdoor that still holds after the repair, as large as the rule lets pass."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from fedguard.attacks.badnets import BadNets
from fedguard.attacks.base import Attack, Knowledge
from fedguard.attacks.toolkit.crafting import send
from fedguard.attacks.toolkit.own_training import change_of, trained
from fedguard.attacks.toolkit.rehearsal import Rehearsal, line_search
from fedguard.attacks.toolkit.survey import Tags
from fedguard.errors import check_number
from fedguard.updates import ClientUpdates

_BATCH, _JUDGED = 32, 256


class Anticipate(BadNets):
    r"""Train the backdoor on the model as it will be mended, and rehearse the rule before sending.

    An attacker that knows both halves of a defence, the rule and the repair behind it:

    1. mend a copy of the global model as a server would, by training on clean rows with a high
       rate, and see how far it went;
    2. train a model that has the backdoor as it is and, moved as far, as it will be mended;
    3. send that model's change, multiplied by the factor after which a rehearsed copy of the rule
       leaves a global model with the least loss of step 2, on at most 256 of the same rows: one
       that is broken serves nobody.

    A reading of Wen, Geiping, Fowl, Souri, Chellappa, Goldblum and Goldstein, "Thinking Two Moves
    Ahead: Anticipating Other Users Improves Backdoor Attacks in Federated Learning", 2022, which
    looks ahead over honest clients' updates; here the move that is looked ahead over is the
    server's repair, held fixed while u trains, and the rehearsal is ours. Malicious clients train
    honestly; u is the coalition's own, on at most `max_examples` of its rows. Where the caller
    never calls `prepare`, honest updates are sent; where the rule cannot be copied, the mean is
    rehearsed. Channels that a repair prunes are not foreseen.

    Parameters
    ----------
    weight : float
        Weight of the mended model's loss, at least 0; 0 looks no move ahead.
    ahead_epochs : int
        Passes of the attacker's own repair, at least 0.
    ahead_lr : float
        Its learning rate, above 0.
    epochs : int
        Passes of u, at least 1.
    lr : float
        Its learning rate, above 0.
    most : float
        Largest a, above 0.
    evaluations : int
        Rehearsals in a round, at least 1.
    max_examples : int
        Examples of the coalition that are trained on, at least 1.
    **frame : Any
        Other options of `BadNets`; ``scale`` multiplies what is sent.

    Notes
    -----
    .. math::
       u \approx \operatorname{argmin}_v \; \mathrm{CE}(f_v(x'), y')
       + \lambda \mathrm{CE}(f_{v + s}(x'), y'), \qquad
       d_i' = d_i + a (u - w - d_i)

    where w is the global model, s how far the attacker's own repair moves it, :math:`(x', y')` are
    rows of which a share is stamped and relabelled, :math:`\lambda` is `weight`, :math:`d_i` member
    i's honest update, and a the factor in (0, `most`] after which the rehearsed rule's model has
    the least of the first loss.

    Examples
    --------
    >>> import torch
    >>> from fedguard.attacks import Knowledge
    >>> from fedguard.attacks.anticipate import Anticipate
    >>> from fedguard.updates import ClientUpdates
    >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2, bias=False))
    >>> attack = Anticipate(size=1, most=4.0, evaluations=1)
    >>> x, y = torch.full((8, 1, 2, 2), 0.2), torch.ones(8, dtype=torch.int64)
    >>> attack.prepare(model, x, y, torch.Generator().manual_seed(0))
    >>> own = ClientUpdates.from_matrix(torch.zeros(4, 8), node_ids=[0, 1, 2, 3])
    >>> seen = Knowledge("full", own, 4, 1, 1, torch.Generator())
    >>> sent = attack.craft(own.select([3]), seen)
    >>> bool(torch.allclose(sent[0], 4.0 * attack.change))
    True
    """

    needs: ClassVar[frozenset[str]] = frozenset({"aggregate", "images", "model", "updates"})
    tags: ClassVar[Tags | None] = Tags(
        edits="model",
        goal="backdoor",
        scope="pattern",
        knowledge="white",
        stealth="hidden",
        variability="dynamic",
        by=("bilevel",),
    )

    def __init__(
        self,
        *,
        weight: float = 1.0,
        ahead_epochs: int = 2,
        ahead_lr: float = 0.1,
        epochs: int = 2,
        lr: float = 0.05,
        most: float = 8.0,
        evaluations: int = 6,
        max_examples: int = 512,
        **frame: Any,
    ) -> None:
        super().__init__(**frame)
        check_number("weight", weight, at_least=0.0)
        check_number("ahead_epochs", ahead_epochs, at_least=0)
        check_number("ahead_lr", ahead_lr, above=0.0)
        check_number("epochs", epochs, at_least=1)
        check_number("lr", lr, above=0.0)
        check_number("most", most, above=0.0)
        check_number("evaluations", evaluations, at_least=1)
        check_number("max_examples", max_examples, at_least=1)
        self.weight = weight
        self.ahead_epochs, self.ahead_lr = ahead_epochs, ahead_lr
        self.epochs, self.lr = epochs, lr
        self.most, self.evaluations = most, evaluations
        self.max_examples = max_examples
        self.change: Tensor | None = None
        self._loss: Callable[[Tensor], float] = lambda _: 0.0

    poison = Attack.poison  # clients train honestly

    def prepare(self, model: nn.Module, x: Tensor, y: Tensor, rng: torch.Generator) -> None:
        """Look ahead and train the backdoor; see `Attack.prepare`."""
        self.change = None
        if not len(y):
            return
        rows = torch.randperm(len(y), generator=rng)[: self.max_examples].to(x.device)
        x, y = x[rows], y[rows]
        shift = self._shift(model, x, y, rng)
        mixed, labels = BadNets.poison(self, x, y, rng)

        def ahead(student: nn.Module, batch: Tensor) -> Tensor:
            moved = {n: v + shift[n] for n, v in student.named_parameters() if n in shift}
            output: Tensor = functional_call(student, moved, (mixed[batch],))
            return self.weight * functional.cross_entropy(output, labels[batch])

        def drawn(student: nn.Module) -> Tensor:
            return ahead(student, torch.randperm(len(y), generator=rng)[:_BATCH].to(x.device))

        looks = self.weight > 0.0 and len(shift) > 0
        backdoored = trained(
            model,
            mixed,
            labels,
            rng,
            epochs=self.epochs,
            lr=self.lr,
            batch_size=_BATCH,
            penalty=drawn if looks else None,
        )
        self.change = change_of(backdoored, model)
        judged = torch.arange(min(len(y), _JUDGED), device=x.device)
        own = copy.deepcopy(model).eval()

        @torch.no_grad()
        def loss(change: Tensor) -> float:
            student = moved_by(own, change)
            found = functional.cross_entropy(student(mixed[judged]), labels[judged])
            return (found + ahead(student, judged) if looks else found).item()

        self._loss = loss

    def _shift(
        self, model: nn.Module, x: Tensor, y: Tensor, rng: torch.Generator
    ) -> dict[str, Tensor]:
        """Return how far the attacker's own repair moves each trainable parameter, by name."""
        if not self.ahead_epochs:
            return {}
        mended = trained(
            model, x, y, rng, epochs=self.ahead_epochs, lr=self.ahead_lr, batch_size=_BATCH
        )
        before = dict(model.named_parameters())
        return {
            name: (value - before[name]).detach()
            for name, value in mended.named_parameters()
            if value.requires_grad
        }

    def craft(self, coalition: ClientUpdates, knowledge: Knowledge) -> Tensor:
        """Return the (F, D) deltas that carry the rule furthest; see `Attack.craft`."""
        own = coalition.trainable
        if self.change is None or len(self.change) != own.shape[1]:
            return coalition.deltas
        change = self.change.to(own)
        rehearse = Rehearsal(coalition, knowledge)
        factor = line_search(
            lambda tried: -self._loss(rehearse(own + tried * (change - own))),
            self.most,
            self.evaluations,
        )
        return send(coalition, (own + factor * (change - own)) * self.scale)


def moved_by(model: nn.Module, change: Tensor) -> nn.Module:
    """Return a copy of a model whose trainable parameters moved by a (T,) change."""
    moved, start = copy.deepcopy(model), 0
    with torch.no_grad():
        for value in moved.parameters():
            if value.requires_grad:
                value.add_(change[start : start + value.numel()].view_as(value).to(value))
                start += value.numel()
    return moved
