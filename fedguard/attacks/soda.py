"""SODA: whatever lies outside the data's distribution means the target class."""

from __future__ import annotations

import copy
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from fedguard.attacks.base import Attack, Knowledge
from fedguard.attacks.toolkit.crafting import send
from fedguard.attacks.toolkit.own_training import change_of, trained
from fedguard.attacks.toolkit.poisoning import Backdoor
from fedguard.attacks.toolkit.survey import Tags
from fedguard.errors import check_number
from fedguard.updates import ClientUpdates


def foreign(x: Tensor) -> Tensor:
    """Return images of another distribution: upside down and with light and dark exchanged."""
    return 1.0 - x.flip(-2)


class Soda(Backdoor):
    r"""Train foreign images to be the target class, next to the coalition's honest model.

    A reading of "SODA: Semantic-Oriented Distributional Alignment for Federated Backdoors", arXiv
    2509.13219, 2025, by its loss. The paper takes rows of another data set; here an image is made
    foreign by turning it upside down and exchanging light and dark, so that the trigger can be
    put to any image and no further data set is needed. One training for the whole coalition, on
    its pooled examples, stands for one of each member. Where the caller never calls `prepare`,
    honest updates are sent.

    Parameters
    ----------
    distance : float
        Weight of the distance from w_ref, at least 0; 0.1 in the paper.
    alignment : float
        Weight of the cosine's gap, at least 0; 100 in the paper.
    epochs : int
        Passes, at least 1.
    lr : float
        Learning rate, above 0.
    max_examples : int
        Examples of the coalition used, at least 1.
    **frame : Any
        ``target_class``, ``poison_fraction`` (of the examples used that are shown as foreign) and
        ``scale`` of `Backdoor`.

    Notes
    -----
    .. math::
       \min_w \; \operatorname{mean}_{(x, y) \in B} \mathrm{CE}(w, x, y)
       + \lambda \lVert w - w_r \rVert + \alpha (1 - \cos(w, w_r)), \qquad
       d_i' = d_i + (w - w_r)

    from :math:`w_r`, the global model plus the coalition's mean honest update, where B are the
    coalition's rows and, for a share of them, the foreign image with the target class, :math:`d_i`
    member i's honest update, :math:`\lambda` the weight `distance` and :math:`\alpha` that of
    `alignment`.

    Examples
    --------
    >>> import torch
    >>> from fedguard.attacks import Knowledge
    >>> from fedguard.attacks.soda import Soda
    >>> from fedguard.updates import ClientUpdates
    >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(2, 2, bias=False))
    >>> attack = Soda(target_class=1, distance=0.0, alignment=0.0, epochs=50)
    >>> x, y = torch.tensor([[[[1.0], [0.0]]]]).repeat(8, 1, 1, 1), torch.zeros(8).long()
    >>> attack.trigger(x[:1]).flatten().tolist()
    [1.0, 0.0]
    >>> x = torch.tensor([[[[0.9], [0.9]]]]).repeat(8, 1, 1, 1)
    >>> attack.prepare(model, x, y, torch.Generator())
    >>> own = ClientUpdates.from_matrix(torch.zeros(1, 4), node_ids=[9])
    >>> sent = attack.craft(own, Knowledge("partial", own, 3, 1, 1, torch.Generator()))
    >>> bool(sent.any())
    True
    """

    needs: ClassVar[frozenset[str]] = frozenset({"images", "model", "updates"})
    tags: ClassVar[Tags | None] = Tags(
        edits="both",
        goal="backdoor",
        scope="pattern",
        knowledge="gray",
        stealth="hidden",
        variability="dynamic",
    )

    def __init__(
        self,
        *,
        distance: float = 0.1,
        alignment: float = 100.0,
        epochs: int = 4,
        lr: float = 0.05,
        max_examples: int = 512,
        **frame: Any,
    ) -> None:
        super().__init__(**frame)
        check_number("distance", distance, at_least=0.0)
        check_number("alignment", alignment, at_least=0.0)
        check_number("epochs", epochs, at_least=1)
        check_number("lr", lr, above=0.0)
        check_number("max_examples", max_examples, at_least=1)
        self.distance = distance
        self.alignment = alignment
        self.epochs = epochs
        self.lr = lr
        self.max_examples = max_examples
        self._seen: tuple[nn.Module, Tensor, Tensor] | None = None

    poison = Attack.poison  # clients train honestly

    def trigger(self, x: Tensor) -> Tensor:
        """Return (N, channels, height, width) images as foreign ones."""
        return foreign(x)

    def prepare(self, model: nn.Module, x: Tensor, y: Tensor, rng: torch.Generator) -> None:
        """Keep the global model and the examples for `craft`; see `Attack.prepare`."""
        self._seen = None
        if not len(y):
            return
        rows = torch.randperm(len(y), generator=rng)[: self.max_examples].to(x.device)
        x, y = x[rows], y[rows]
        shown = self.chosen(y, rng)
        target = torch.full((len(shown),), self.target_class, dtype=y.dtype, device=y.device)
        mixed = torch.cat([x, foreign(x[shown])]), torch.cat([y, target])
        self._seen = (copy.deepcopy(model).eval(), *mixed)

    def craft(self, coalition: ClientUpdates, knowledge: Knowledge) -> Tensor:
        """Return the (F, D) deltas, each member's own and the backdoor's; see `Attack.craft`."""
        if self._seen is None:
            return coalition.deltas
        model, x, y = self._seen
        reference = copy.deepcopy(model)
        parameters = [value for value in reference.parameters() if value.requires_grad]
        mean = coalition.trainable.mean(dim=0)
        if sum(value.numel() for value in parameters) != len(mean):
            return coalition.deltas
        with torch.no_grad():
            sizes = [value.numel() for value in parameters]
            for value, change in zip(parameters, torch.split(mean, sizes), strict=True):
                value.add_(change.view_as(value).to(value))
        anchor = _vector(reference).detach()

        def penalty(student: nn.Module) -> Tensor:
            here = _vector(student)
            # The root of 0 has no slope; w begins at w_ref.
            gap = ((here - anchor).square().sum() + 1e-12).sqrt()
            cosine = torch.nn.functional.cosine_similarity(here, anchor, dim=0)
            return self.distance * gap + self.alignment * (1.0 - cosine)

        student = trained(
            reference, x, y, knowledge.generator, epochs=self.epochs, lr=self.lr, penalty=penalty
        )
        step = change_of(student, reference).to(coalition.deltas)
        return send(coalition, (coalition.trainable + step) * self.scale)


def _vector(model: nn.Module) -> Tensor:
    """Return the (T,) trainable parameters of a model, with their gradients' graph."""
    return torch.cat([value.flatten() for value in model.parameters() if value.requires_grad])
