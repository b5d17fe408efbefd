"""Auctions for features: the label holder buys parties before training, at the prices they bid."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from itertools import combinations

import torch
from sklearn.tree import DecisionTreeClassifier
from torch import Tensor

from fedguard.errors import ConfigurationError, check_number
from fedguard.randomness import SERVER, generator, numpy_generator, stream_seed
from fedguard.vertical.exchange import Exchange
from fedguard.vertical.rewards import gini, largest_remainder
from fedguard.vertical.shapley import MOST_EXACT, exact_shapley, sampled_shapley
from fedguard.vertical.strategy import OWN_PARTY, VerticalRound, VerticalStrategy

_MOST_SUBSETS = 16


class FeatureAuction(VerticalStrategy):
    """Buys a subset of the passive parties and trains with them alone.

    1. Every passive party releases untrained embeddings of `sample` rows. Its Shapley value phi is
       that of a decision tree's accuracy on half of them, trained on the other half: exact up to 8
       parties, from 100 random orders beyond.
    2. It bids ``asking * budget * phi_i / sum phi`` times its claimed cost ratio.
    3. The rule picks the winners; each is paid its bid every round. Losers leave.

    A reading of FRAIM's auctions as rebuilt in the OPUS-VFL authors' code, without FRAIM's
    interpolated data: the label holder looks at embeddings instead. Madabushi et al., "OPUS-VFL:
    Incentivizing Optimal Privacy-Utility Tradeoffs in Vertical Federated Learning", arXiv 2025.

    Parameters
    ----------
    budget : int, optional
        Tokens per round; 100 per passive party if left out.
    asking : float
        Sum of all honest bids relative to the budget, > 0; above 1 not everyone can be bought.
    sample : int
        Rows looked at, >= 20.
    arch, embedding, seed
        As for `VerticalStrategy`.
    """

    def __init__(
        self,
        *,
        budget: int | None = None,
        asking: float = 1.5,
        sample: int = 600,
        arch: str = "modern",
        embedding: int = 32,
        seed: int = 0,
    ) -> None:
        super().__init__(arch=arch, embedding=embedding, seed=seed)
        if budget is not None:
            check_number("budget", budget, at_least=1)
        check_number("asking", asking, above=0.0)
        check_number("sample", sample, at_least=20)
        self.fixed_budget, self.asking, self.sample = budget, asking, sample
        self.bids: dict[int, float] = {}
        self.values: dict[int, float] = {}

    @property
    def budget(self) -> int:
        """Tokens of a round."""
        return 100 * (self.parties - 1) if self.fixed_budget is None else self.fixed_budget

    @abstractmethod
    def winners(self, bids: Mapping[int, float], values: Mapping[int, float]) -> list[int]:
        """Return the parties to buy, the sum of whose bids is within the budget."""

    def prepare(self, exchange: Exchange) -> None:
        """Hold the auction."""
        self.values = self._values(exchange)
        total = sum(max(v, 0.0) for v in self.values.values()) or 1.0
        for party, value in self.values.items():
            claim = self.claims.get(party)
            ratio = 1.0 if claim is None else claim.cost_ratio
            self.bids[party] = self.asking * self.budget * max(value, 0.0) / total * ratio
        bought = self.winners(self.bids, self.values)
        for party in range(1, self.parties):
            if party not in bought:
                self.left[party] = f"lost the auction with a bid of {self.bids[party]:.0f}"

    def _values(self, exchange: Exchange) -> dict[int, float]:
        holder = self._holder
        stream = generator(self.seed, 0, SERVER, "auction-rows")
        ids = torch.randperm(len(holder.y_train), generator=stream)[: self.sample]
        players = list(range(1, self.parties))
        released = exchange.embed(range(self.parties), 0, 0, ids)
        blocks = {p: one["embedding"].cpu() for p, one in released.items() if "embedding" in one}
        labels = holder.y_train[ids].cpu()
        half = len(ids) // 2

        def accuracy(coalition: frozenset[int]) -> float:
            members = [p for p in (OWN_PARTY, *sorted(coalition)) if p in blocks]
            if not members:
                return 0.0
            x = torch.cat([blocks[p] for p in members], dim=1).numpy()
            state = stream_seed(self.seed, 0, SERVER, "auction-tree") % 2**32
            tree = DecisionTreeClassifier(max_depth=8, random_state=state)
            tree.fit(x[:half], labels[:half].numpy())
            return float(tree.score(x[half:], labels[half:].numpy()))

        if len(players) <= MOST_EXACT:
            return exact_shapley(players, accuracy)
        orders = numpy_generator(self.seed, 0, SERVER, "auction-orders")
        return sampled_shapley(players, accuracy, 100, orders)

    def settle(self, found: VerticalRound, contributions: Sequence[float]) -> None:
        """Pay the winners their bids."""
        super().settle(found, contributions)
        paid = [p for p in found.asked if p != OWN_PARTY]
        bids = [self.bids[p] for p in paid]
        spent = min(self.budget, int(sum(bids)))
        found.tokens = dict(zip(paid, largest_remainder(bids, spent), strict=True))
        found.scores |= {
            "bid": {p: self.bids[p] for p in paid},
            "contribution": {p: self.values[p] for p in paid},
            "tokens": {p: float(t) for p, t in found.tokens.items()},
        }

    def round_facts(self, found: VerticalRound) -> dict[str, float]:
        """Return what a round's record says besides accuracy."""
        values = [float(v) for v in found.tokens.values()]
        return {"budget": self.budget, "tokens": sum(found.tokens.values()), "gini": gini(values)}

    def state(self) -> dict[str, Tensor]:
        """Return claims and the auction's outcome."""
        rows = [[p, self.bids[p], self.values[p]] for p in sorted(self.bids)]
        return {**super().state(), "bids": torch.tensor(rows, dtype=torch.float64).view(-1, 3)}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state` returned."""
        super().load_state(state)
        self.bids = {int(p): bid for p, bid, _ in state["bids"].tolist()}
        self.values = {int(p): value for p, _, value in state["bids"].tolist()}


class BidPriceFirst(FeatureAuction):
    r"""Bid price first: buys the cheapest parties one after the other until the budget ends.

    See `FeatureAuction` for the bids. Madabushi et al., "OPUS-VFL: Incentivizing Optimal
    Privacy-Utility Tradeoffs in Vertical Federated Learning", arXiv 2025, has it as a baseline.

    Notes
    -----
    .. math::
       b_i = \frac{a B \max(\phi_i, 0)}{\sum_j \max(\phi_j, 0)} r_i, \qquad
       W = \{ i_1, \ldots, i_m \} \text{ with the largest } m : \; \sum_{l=1}^{m} b_{i_l} \le B

    where :math:`\phi_i` is party i's Shapley value, :math:`r_i` the cost ratio that it claims, a
    `asking`, B the budget, and :math:`b_{i_1} \le b_{i_2} \le \ldots` the bids in order.
    """

    def winners(self, bids: Mapping[int, float], values: Mapping[int, float]) -> list[int]:
        """Return the cheapest parties within the budget."""
        bought: list[int] = []
        left = float(self.budget)
        for party in sorted(bids, key=lambda p: (bids[p], p)):
            if bids[party] > left:
                break
            bought.append(party)
            left -= bids[party]
        return bought


class OptimalSubset(FeatureAuction):
    r"""O2S: buys the subset of parties with the largest summed Shapley value within the budget.

    Every subset is tried; see `FeatureAuction` for the bids. Madabushi et al., "OPUS-VFL:
    Incentivizing Optimal Privacy-Utility Tradeoffs in Vertical Federated Learning", arXiv 2025,
    has it as a baseline.

    Notes
    -----
    .. math::
       W = \operatorname{argmax}_S \sum_{i \in S} \phi_i \quad
       \text{so that} \quad \sum_{i \in S} b_i \le B

    where :math:`\phi_i` is party i's Shapley value, :math:`b_i` its bid, and B the budget; nobody
    is bought where no subset is worth more than 0.
    """

    def winners(self, bids: Mapping[int, float], values: Mapping[int, float]) -> list[int]:
        """Return the best subset within the budget."""
        players = sorted(bids)
        if len(players) > _MOST_SUBSETS:
            raise ConfigurationError("clients", self.parties, f"at most {_MOST_SUBSETS + 1}")
        best: tuple[float, tuple[int, ...]] = (0.0, ())
        for size in range(1, len(players) + 1):
            for chosen in combinations(players, size):
                worth = sum(values[p] for p in chosen)
                if worth > best[0] and sum(bids[p] for p in chosen) <= self.budget + 1e-9:
                    best = (worth, chosen)
        return list(best[1])
