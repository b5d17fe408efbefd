"""Layer poisoning: the backdoor sits in the few layers that carry it, the rest is honest."""

from __future__ import annotations

import copy
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from fedguard.attacks.badnets import BadNets
from fedguard.attacks.base import Attack, Knowledge
from fedguard.attacks.toolkit.crafting import send
from fedguard.attacks.toolkit.own_training import change_of, trained
from fedguard.attacks.toolkit.survey import Tags
from fedguard.errors import check_number
from fedguard.updates import ClientUpdates


def layer_names(model: nn.Module) -> list[str]:
    """Return the names of the modules that hold trainable parameters, in the model's order."""
    names = [name.rpartition(".")[0] for name, v in model.named_parameters() if v.requires_grad]
    return list(dict.fromkeys(names))


def with_layers(base: nn.Module, other: nn.Module, layers: set[str]) -> nn.Module:
    """Return a copy of `base` whose given layers hold the parameters of `other`."""
    mixed = copy.deepcopy(base)
    source = dict(other.named_parameters())
    with torch.no_grad():
        for name, value in mixed.named_parameters():
            if name.rpartition(".")[0] in layers:
                value.copy_(source[name])
    return mixed


class LayerPoisoning(BadNets):
    r"""Send honest updates except in the layers without which the backdoor fails.

    1. From the global model train w_b on clean examples and w_m on a patch backdoor;
    2. for each layer: the drop of the backdoor's success when w_m's layer is replaced by w_b's;
    3. put w_m's layers into w_b, largest drop first, until the success is `tau` times w_m's;
    4. in these layers send the change to w_m, boosted; elsewhere the client's own honest update.

    A reading of Zhuang et al., "Backdoor Federated Learning by Poisoning Backdoor-Critical Layers",
    ICLR 2024, by its formulas. Malicious clients train honestly; the two models of step 1 are the
    coalition's own, on at most `max_examples` of its rows. Layers are modules with parameters of
    their own. Where the caller never calls `prepare`, honest updates are sent.

    Parameters
    ----------
    tau : float
        Share of the backdoor's success to keep, above 0 and at most 1; 0.8 in the paper.
    boost : float
        Factor on the difference in the chosen layers, above 0.
    epochs : int
        Passes of the two trainings, at least 1.
    lr : float
        Their learning rate, above 0.
    max_examples : int
        Examples of the coalition that they see, at least 1.
    **frame : Any
        Other options of `BadNets`; ``scale`` multiplies what is sent.

    Notes
    -----
    .. math::
       \Delta_l = A(w_m) - A(w_m \text{ with layer } l \text{ of } w_b), \qquad
       L = \text{the fewest } l \text{ of greatest } \Delta_l : \;
       A(w_b \text{ with } L \text{ of } w_m) \ge \tau A(w_m)

    .. math::
       d_i'^{\,l} = \begin{cases} d_i^l + \beta (d_m^l - d_i^l) & \text{if } l \in L \\
       d_i^l & \text{otherwise} \end{cases}

    where :math:`w_b` and :math:`w_m` are the clean and the backdoored model, A the backdoor's
    success, :math:`d_m` the change from the global model to :math:`w_m`, :math:`d_i` client i's
    honest update, and :math:`\beta` the `boost`.

    Examples
    --------
    >>> import torch
    >>> from fedguard.attacks import Knowledge
    >>> from fedguard.attacks.layer_poisoning import LayerPoisoning
    >>> from fedguard.updates import ClientUpdates
    >>> from torch.nn import Flatten, Linear, Sequential
    >>> model = Sequential(Flatten(), Linear(4, 4, bias=False), Linear(4, 2, bias=False))
    >>> with torch.no_grad():
    ...     for value in model.parameters():
    ...         _ = value.copy_(torch.eye(*value.shape))
    >>> attack = LayerPoisoning(size=1, target_class=0, poison_fraction=0.5, epochs=40)
    >>> x, y = torch.full((8, 1, 2, 2), 0.2), torch.ones(8, dtype=torch.int64)
    >>> attack.prepare(model, x, y, torch.Generator())
    >>> attack.critical
    ['1', '2']
    >>> own = ClientUpdates.from_matrix(torch.zeros(1, 24), node_ids=[9])
    >>> sent = attack.craft(own, Knowledge("partial", own, 3, 1, 1, torch.Generator()))
    >>> bool(sent.any())
    True
    """

    needs: ClassVar[frozenset[str]] = frozenset({"images", "model", "updates"})
    tags: ClassVar[Tags | None] = Tags(
        edits="model",
        goal="backdoor",
        scope="pattern",
        knowledge="gray",
        stealth="hidden",
        variability="dynamic",
    )

    def __init__(
        self,
        *,
        tau: float = 0.8,
        boost: float = 1.0,
        epochs: int = 4,
        lr: float = 0.1,
        max_examples: int = 512,
        **frame: Any,
    ) -> None:
        super().__init__(**frame)
        check_number("tau", tau, above=0.0, at_most=1.0)
        check_number("boost", boost, above=0.0)
        check_number("epochs", epochs, at_least=1)
        check_number("lr", lr, above=0.0)
        check_number("max_examples", max_examples, at_least=1)
        self.tau = tau
        self.boost = boost
        self.epochs = epochs
        self.lr = lr
        self.max_examples = max_examples
        self.critical: list[str] = []
        self._change: Tensor | None = None
        self._mask: Tensor | None = None

    poison = Attack.poison  # clients train honestly

    def prepare(self, model: nn.Module, x: Tensor, y: Tensor, rng: torch.Generator) -> None:
        """Train both models and find the layers; see `Attack.prepare`."""
        self.critical, self._change, self._mask = [], None, None
        if not len(y):
            return
        rows = torch.randperm(len(y), generator=rng)[: self.max_examples].to(x.device)
        x, y = x[rows], y[rows]
        benign = trained(model, x, y, rng, epochs=self.epochs, lr=self.lr)
        mixed = BadNets.poison(self, x, y, rng)
        poisoned = trained(model, *mixed, rng, epochs=self.epochs, lr=self.lr)
        stamped = self.trigger(x[y != self.target_class])
        self.critical = self._critical(benign, poisoned, stamped)
        self._change = change_of(poisoned, model)
        self._mask = torch.cat(
            [
                torch.full((value.numel(),), name.rpartition(".")[0] in self.critical)
                for name, value in model.named_parameters()
                if value.requires_grad
            ]
        )

    def _critical(self, benign: nn.Module, poisoned: nn.Module, stamped: Tensor) -> list[str]:
        """Return the layers that carry the backdoor, the most important first."""
        whole = self._success(poisoned, stamped)
        if whole <= self._success(benign, stamped):
            return []
        names = layer_names(benign)
        left = {
            name: self._success(with_layers(poisoned, benign, {name}), stamped) for name in names
        }
        chosen: list[str] = []
        for name in sorted(names, key=lambda each: (left[each], names.index(each))):
            chosen.append(name)
            mixed = with_layers(benign, poisoned, set(chosen))
            if self._success(mixed, stamped) >= self.tau * whole:
                break
        return chosen

    @torch.no_grad()
    def _success(self, model: nn.Module, stamped: Tensor) -> float:
        """Return the share of triggered examples that a model takes for the target class."""
        if not len(stamped):
            return 0.0
        return float((model(stamped).argmax(dim=1) == self.target_class).double().mean())

    def craft(self, coalition: ClientUpdates, knowledge: Knowledge) -> Tensor:
        """Return the (F, D) deltas with the chosen layers exchanged; see `Attack.craft`."""
        rows = coalition.trainable
        if self._change is None or self._mask is None or len(self._mask) != rows.shape[1]:
            return coalition.deltas
        planted = rows + self.boost * (self._change.to(rows) - rows)
        return send(coalition, torch.where(self._mask.to(rows.device), planted, rows) * self.scale)
