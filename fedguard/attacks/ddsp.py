"""DDSP: fake users whose histories lead a sequential recommender to the target."""

from __future__ import annotations

import copy
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedguard.attacks.toolkit.fake_users import FakeUsers, scored
from fedguard.attacks.toolkit.survey import Tags
from fedguard.errors import ConfigurationError, check_number

_RECENT = 10


class Ddsp(FakeUsers):
    r"""Craft histories that pull the target towards what users prefer, each unlike the others.

    A transition p -> t in a history moves the target's embedding e_t by about ``(1 - P_t) h_p``,
    so that fake histories whose states h_p lie along v move e_t along v. With embeddings e of
    length 1:

    1. The broadcast model gives every user that the attacker sees (its own clients') a state and
       the first `preferred` items of a list of items not yet met, whose mean embedding is g.
    2. A fake user imitates the users nearest to a seed user's state, one m-th of those seen, m
       the number of fake users, and aims along v.
    3. Its history has the target at every `every`-th place; elsewhere, of the model's first
       `candidates` items for the history so far, the one that moves the state furthest along v
       and is not like those that are there.

    A reading of "DDSP", arXiv 2504.06586, SIGIR 2025, of which the abstract and reviews were at
    hand: dual promotion, the contrastive term and the idea of an auto-regressive generator with a
    diversity constraint are the paper's; the first-order direction v, its weights, the penalty
    and all numbers are ours. The attack is crafted anew from the broadcast model of every round.

    Parameters
    ----------
    dual : bool
        Whether to aim along v; otherwise along the mean state of the imitated users, the objective
        of earlier work, which promotes the target whatever the users prefer.
    diversity : bool
        Whether fake histories avoid repeating items, their own and each other's.
    preferred : int
        Items that a user is taken to prefer, at least 1.
    candidates : int
        Items among which the next one is chosen, at least 2.
    weight : float
        Weight of the contrastive term, at least 0.
    temperature : float
        Temperature of its softmax, above 0.
    spread : float
        Weight of the diversity penalty, 0 to 1.
    **frame : Any
        Arguments of `FakeUsers`.

    Notes
    -----
    .. math::
       v = 2 (g - e_t) + \frac{\lambda}{\theta} \left( g - \sum_k
       \operatorname{softmax}_k\left( \frac{e_t^\top e_k}{\theta} \right) e_k \right)

    .. math::
       \text{next item: } \operatorname{argmax}_k \; (1 - \rho) \, z(\cos(h_k, v)) - \rho \, z(r_k)

    where :math:`e_k` is item k's embedding at length 1, t the target, g the mean embedding of the
    items that the imitated users prefer, :math:`h_k` the state of the history with item k,
    :math:`r_k` its greatest cosine with the last 10 items plus 0.3 for every fake history that has
    it, z the score over the candidates, :math:`\lambda` `weight`, :math:`\theta` `temperature`,
    :math:`\rho` `spread`.

    Examples
    --------
    >>> import torch
    >>> from fedguard.attacks.ddsp import Ddsp
    >>> from fedguard.data.clicks_sample import ClicksSample
    >>> from fedguard.models.gru4rec import Gru4Rec
    >>> data = ClicksSample().load(None)
    >>> attack = Ddsp(item="item-007", length=8, every=4, candidates=5)
    >>> attack.meet(data)
    >>> network = Gru4Rec(data.input_shape, data.num_classes)
    >>> attack.prepare(network, data.x_train[:6], data.y_train[:6], torch.Generator())
    >>> [history] = attack.invented(1, torch.Generator().manual_seed(0))
    >>> [place for place, item in enumerate(history) if item == attack.target]
    [3, 7]
    """

    needs: ClassVar[frozenset[str]] = frozenset({"data", "model"})
    tags: ClassVar[Tags | None] = Tags(
        edits="both",
        goal="targeted",
        knowledge="gray",
        stealth="hidden",
        scope="instance",
        variability="dynamic",
    )

    def __init__(
        self,
        *,
        dual: bool = True,
        diversity: bool = True,
        preferred: int = 10,
        candidates: int = 60,
        weight: float = 0.1,
        temperature: float = 0.15,
        spread: float = 0.3,
        **frame: Any,
    ) -> None:
        super().__init__(**frame)
        check_number("preferred", preferred, at_least=1)
        check_number("candidates", candidates, at_least=2)
        check_number("weight", weight, at_least=0.0)
        check_number("temperature", temperature, above=0.0)
        check_number("spread", spread, at_least=0.0, at_most=1.0)
        self.dual, self.diversity = dual, diversity
        self.preferred, self.candidates = preferred, candidates
        self.weight, self.temperature, self.spread = weight, temperature, spread
        self._model: nn.Module | None = None
        self._seen = torch.empty(0, 0, dtype=torch.int64)

    def prepare(self, model: nn.Module, x: Tensor, y: Tensor, rng: torch.Generator) -> None:
        """Keep a copy of the global model and the histories that the coalition owns.

        Raises
        ------
        ConfigurationError
            On ``model`` if it has no item table and no states to craft against.
        """
        inner = model if hasattr(model, "states") else getattr(model, "module", model)
        if not hasattr(inner, "states") or not isinstance(
            getattr(inner, "items", None), nn.Embedding
        ):
            allowed = "one with an nn.Embedding `items` and a method `states`, such as sasrec"
            raise ConfigurationError("model", type(inner).__name__, allowed)
        self._model = copy.deepcopy(inner).eval()
        self._seen = x

    @torch.no_grad()
    def invented(self, count: int, rng: torch.Generator) -> list[list[int]]:
        """Return crafted histories; see `FakeUsers.invented`."""
        if self._model is None:
            raise RuntimeError("ddsp does not know the global model yet: call prepare first")
        table = functional.normalize(self._table, dim=1)
        states = functional.normalize(self._states(self._seen), dim=1)
        liked = self._liked()
        uses = torch.zeros(len(table))
        members = max(1, round(len(states) / max(count, self._fakes)))
        found = []
        for _ in range(count):
            seed = int(torch.randint(len(states), (), generator=rng))
            near = (states @ states[seed]).topk(min(members, len(states))).indices
            if self.dual:
                aim = self._direction(table, table[liked[near].flatten()].mean(dim=0))
            else:
                aim = functional.normalize(states[near].mean(dim=0), dim=0)
            own = self._seen[seed]
            first = own[own > 0]
            begin = int(first[torch.randint(len(first), (), generator=rng)])
            found.append(self._history(table, aim, uses, begin))
        return found

    @property
    def _table(self) -> Tensor:
        items: Any = getattr(self._model, "items")  # noqa: B009
        return items.weight.detach().cpu()  # type: ignore[no-any-return]

    @property
    def _fakes(self) -> int:
        return max(1, round(self.fake_users * self.histories.users))

    def _states(self, x: Tensor) -> Tensor:
        assert self._model is not None
        device = next(self._model.parameters()).device
        model: Any = self._model
        found: Tensor = model.states(x.to(device))[:, -1]
        return found.cpu()

    def _scores(self, x: Tensor) -> Tensor:
        assert self._model is not None
        found = scored(self._model, x.to(next(self._model.parameters()).device)).cpu()
        return found.nan_to_num(0.0)

    def _liked(self) -> Tensor:
        """Return (U, g) items that each user who is seen prefers among those not met."""
        scores = self._scores(self._seen).scatter(1, self._seen, -torch.inf)
        scores[:, 0] = scores[:, self.target] = -torch.inf
        return scores.topk(min(self.preferred, scores.shape[1] - 2), dim=1).indices

    def _direction(self, table: Tensor, liked: Tensor) -> Tensor:
        """Return v, of length 1."""
        target = table[self.target]
        pull = 2.0 * (liked - target)
        shares = (table[1:] @ target / self.temperature).softmax(dim=0)
        contrast = (liked - shares @ table[1:]) / self.temperature
        return functional.normalize(pull + self.weight * contrast, dim=0)

    def _history(self, table: Tensor, aim: Tensor, uses: Tensor, begin: int) -> list[int]:
        """Return one history, chosen item by item; counts its items in `uses`."""
        items: list[int] = []
        for place in range(self.length):
            if self.is_target(place):
                items.append(self.target)
            elif not any(item != self.target for item in items) and begin != self.target:
                items.append(begin)
            else:
                items.append(self._next(table, aim, uses, items))
        uses[list(set(items))] += 1.0
        return items

    def _next(self, table: Tensor, aim: Tensor, uses: Tensor, items: list[int]) -> int:
        length = self._seen.shape[1]
        scores = self._scores(_padded([items], length))[0]
        scores[0] = scores[self.target] = -torch.inf
        if self.diversity:
            scores[items] = -torch.inf
        known = int(torch.isfinite(scores).sum())
        if not known:
            return self.target
        options = scores.topk(min(self.candidates, known)).indices
        longer = _padded([[*items, int(option)] for option in options], length)
        states = functional.normalize(self._states(longer), dim=1)
        merit = _standard(states @ aim)
        if not self.diversity:
            return int(options[merit.argmax()])
        recent = table[items[-_RECENT:]]
        alike = (table[options] @ recent.T).max(dim=1).values + 0.3 * uses[options]
        chosen = (1.0 - self.spread) * merit - self.spread * _standard(alike)
        return int(options[chosen.argmax()])


def _padded(histories: list[list[int]], length: int) -> Tensor:
    rows = [history[-length:] for history in histories]
    return torch.tensor([[0] * (length - len(row)) + row for row in rows])


def _standard(values: Tensor) -> Tensor:
    """Return values with mean 0 and deviation 1; 0 where they are all alike."""
    return (values - values.mean()) / values.std(unbiased=False).clamp(min=1e-12)
