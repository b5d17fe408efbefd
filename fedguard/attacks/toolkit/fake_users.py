"""Fake users: invented histories that promote one item of a recommender."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from fedguard.attacks.base import Attack, Scene
from fedguard.attacks.toolkit.survey import Tags
from fedguard.data.histories import Histories, training_row
from fedguard.errors import ConfigurationError, check_number, nearest
from fedguard.metrics.ranking import mean_ranks

if TYPE_CHECKING:
    from fedguard.data.dataset import Dataset

_BATCH = 256
RARE = (5, 12)
"""Occurrences in training of the items among which a target is drawn where none is named."""


class FakeUsers(Attack):
    """Frame of the attacks that promote an item by invented histories; training stays honest.

    A malicious client that holds several users, a shop, adds fake ones to them; one that holds a
    single user becomes a fake one. Subclasses write `invented`. Success is measured over the test
    users who never met the item: the shares in whose list it is among the first 10 and 50
    (``er@10``, ``er@50``) and its median rank from 1 (``target_rank``). The same figures of a
    model that was never attacked are those of a run with ``--malicious 0``.

    Parameters
    ----------
    item : str, optional
        The promoted item, by its title or by its id in the file. If left out, one that is rare in
        training (5 to 12 times) is drawn.
    target_seed : int
        Which rare item is drawn, at least 0.
    fake_users : float
        Fake users that each malicious client adds, as a share of all users of the data set, above
        0 to 1; rounded, at least one.
    length : int
        Items of a fake history, at least 4.
    every : int
        The target is every so many items of a fake history, at least 1.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"data"})
    tasks: ClassVar[frozenset[str] | None] = frozenset({"recommendation"})
    tags: ClassVar[Tags | None] = Tags(edits="both", goal="targeted", scope="instance")

    def __init__(
        self,
        *,
        item: str | None = None,
        target_seed: int = 0,
        fake_users: float = 0.02,
        length: int = 40,
        every: int = 4,
    ) -> None:
        check_number("target_seed", target_seed, at_least=0)
        check_number("fake_users", fake_users, above=0.0, at_most=1.0)
        check_number("length", length, at_least=4)
        check_number("every", every, at_least=1)
        self.item, self.target_seed = item, target_seed
        self.fake_users, self.length, self.every = fake_users, length, every
        self.target_class: int | None = None
        self._histories: Histories | None = None
        self._test = torch.empty(0, 0, dtype=torch.int64)

    def meet(self, dataset: Dataset) -> None:
        """Find the promoted item; see `Attack.meet`.

        Raises
        ------
        ConfigurationError
            On ``item`` if there is none of that title or id (names the nearest), or several.
        """
        if not isinstance(dataset.facts, Histories):
            allowed = "only on histories of items, such as --dataset clicks"
            raise ConfigurationError("attack", type(self).__name__, allowed)
        self._histories, self._test = dataset.facts, dataset.x_test
        self.target_class = find_item(dataset.facts, self.item, self.target_seed)

    @property
    def target(self) -> int:
        """Number of the promoted item."""
        if self.target_class is None:
            raise RuntimeError("the attack does not know the items yet: call meet first")
        return self.target_class

    @property
    def histories(self) -> Histories:
        """What is known of the items."""
        assert self._histories is not None
        return self._histories

    def count(self, rows: int) -> int:
        """Return how many fake users a malicious client of so many users invents."""
        return 1 if rows == 1 else max(1, round(self.fake_users * self.histories.users))

    @abstractmethod
    def invented(self, count: int, rng: torch.Generator) -> list[list[int]]:
        """Return `count` histories of `length` items each."""

    def poison(self, x: Tensor, y: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return the users with fake ones added, or a fake one in place of a client's only one."""
        profiles = self.invented(self.count(len(x)), rng)
        rows = [training_row(profile, x.shape[1], -1) for profile in profiles]
        fake_x, fake_y = (torch.tensor(part).to(x) for part in zip(*rows, strict=True))
        if len(x) == 1:
            return fake_x, fake_y
        return torch.cat([x, fake_x]), torch.cat([y, fake_y])

    def is_target(self, place: int) -> bool:
        """Return whether the target stands at this place, from 0, of a fake history."""
        return place % self.every == self.every - 1

    def filled(self, others: list[int]) -> list[int]:
        """Return a fake history: the target at its places, `others` in order at the rest."""
        rest = iter(others)
        return [self.target if self.is_target(p) else next(rest) for p in range(self.length)]

    @property
    def others(self) -> int:
        """Number of places of a fake history that are not the target's."""
        return sum(not self.is_target(place) for place in range(self.length))

    @torch.no_grad()
    def measure(self, scene: Scene) -> dict[str, float | None]:
        """Return how far the item got among users who never met it; see `FakeUsers`."""
        told: dict[str, float | None] = {"attack_success_rate": None, "source_to_target": None}
        users = torch.arange(len(self._test))
        places, items = self.histories.met_by(users)
        fresh = torch.ones(len(users), dtype=torch.bool)
        fresh[places[items == self.target]] = False
        users = users[fresh]
        ranks = torch.cat([self._ranks(scene.model, part) for part in torch.split(users, _BATCH)])
        if not len(ranks):
            return told
        told["er@10"], told["er@50"] = (float((ranks < k).double().mean()) for k in (10, 50))
        told["target_rank"] = float(ranks.quantile(0.5)) + 1.0
        told["attack_success_rate"] = told["er@10"]
        return told

    def _ranks(self, model: nn.Module, users: Tensor) -> Tensor:
        device = next(model.parameters()).device
        model.eval()
        scores = scored(model, self._test[users].to(device)).cpu().clone()
        places, items = self.histories.met_by(users)
        scores[:, 0] = -math.inf
        scores[places, items] = -math.inf
        return mean_ranks(scores, torch.full((len(users),), self.target))


def scored(model: nn.Module, x: Tensor) -> Tensor:
    """Return (B, V + 1) logits of what follows (B, L) histories."""
    shortcut: Any = getattr(model, "following", None)
    found: Tensor = model(x)[:, -1] if shortcut is None else shortcut(x)
    return found


def find_item(histories: Histories, item: str | None, seed: int) -> int:
    """Return the number of an item by its title or id, or of a rare one that is drawn.

    Raises
    ------
    ConfigurationError
        On ``item``.
    """
    if item is None:
        counts = histories.popularity[1:]
        rare = ((counts >= RARE[0]) & (counts <= RARE[1])).nonzero().flatten() + 1
        if not len(rare):
            rare = counts.argsort(stable=True)[: max(len(counts) // 10, 1)] + 1
        stream = torch.Generator().manual_seed(seed)
        return int(rare[torch.randint(len(rare), (), generator=stream)])
    wanted = item.strip().casefold()
    for names in (histories.titles, histories.ids):
        found = [n for n, name in enumerate(names) if n and name.casefold() == wanted]
        if len(found) == 1:
            return found[0]
        if found:
            ids = ", ".join(histories.ids[number] for number in found[:5])
            raise ConfigurationError("item", item, f"one item by its id: {ids} have this title")
    lower = {name.casefold(): name for name in (*histories.titles[1:], *histories.ids[1:])}
    close = nearest(wanted, lower)
    raise ConfigurationError("item", item, f"{close}an item's title or id")
