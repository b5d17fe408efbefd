"""Auctions: bids from Shapley values, winners against brute force, and what is paid."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from sklearn.tree import DecisionTreeClassifier

from fedguard.errors import ConfigurationError
from fedguard.randomness import SERVER, generator, numpy_generator, stream_seed
from fedguard.vertical.auctions import BidPriceFirst, OptimalSubset
from fedguard.vertical.label_holder import LabelHolder
from fedguard.vertical.models import make_top
from fedguard.vertical.schedule import BatchSchedule
from fedguard.vertical.strategy import VerticalRound
from fedguard.vertical.terms import Claim, Optimiser


def drawn(count, seed):
    stream = numpy_generator(seed, 0, 0, "auction")
    bids = {p: float(stream.uniform(1, 60)) for p in range(1, count + 1)}
    values = {p: float(stream.normal(0.1, 0.2)) for p in bids}
    return bids, values


@pytest.mark.parametrize("count", [1, 4, 8])
@pytest.mark.parametrize("budget", [5, 60, 150, 10_000])
def test_the_best_subset_is_the_best_of_all(count, budget):
    for seed in range(4):
        bids, values = drawn(count, seed)
        bought = OptimalSubset(budget=budget).winners(bids, values)
        assert sum(bids[p] for p in bought) <= budget
        worths = [0.0]
        for chosen in product((0, 1), repeat=count):
            members = [p for p, taken in zip(bids, chosen, strict=True) if taken]
            if sum(bids[p] for p in members) <= budget:
                worths.append(sum(values[p] for p in members))
        assert sum(values[p] for p in bought) == pytest.approx(max(worths))
        assert all(values[p] > 0 for p in bought) or not bought


@pytest.mark.parametrize("budget", [5, 60, 150, 10_000])
def test_the_cheapest_are_bought_until_the_next_one_is_too_dear(budget):
    for seed in range(4):
        bids, values = drawn(8, seed)
        bought = BidPriceFirst(budget=budget).winners(bids, values)
        assert len(bought) == len(set(bought))
        rest = [p for p in bids if p not in bought]
        spent = sum(bids[p] for p in bought)
        assert spent <= budget
        if bought and rest:
            assert max(bids[p] for p in bought) <= min(bids[p] for p in rest)
        if rest:
            assert spent + min(bids[p] for p in rest) > budget


def test_ties_go_to_the_lower_number():
    assert BidPriceFirst(budget=10).winners({3: 5.0, 1: 5.0, 2: 5.0}, {}) == [1, 2]


def test_too_many_subsets_are_refused():
    auction = OptimalSubset(budget=10)
    bids = dict.fromkeys(range(17), 1.0)
    with pytest.raises(ConfigurationError, match="at most 17"):
        auction.winners(bids, bids)


# --- a whole auction ----------------------------------------------------------------------------

ROWS, WIDTH, SAMPLE = 300, 2, 200


class Blocks:
    """Party 1 knows the label, party 2 knows half of it, party 3 knows nothing."""

    missing: dict[int, str] = {}  # noqa: RUF012

    def __init__(self, y):
        stream = torch.Generator().manual_seed(0)
        noise = torch.rand(4, len(y), WIDTH, generator=stream)
        self.blocks = noise.clone()
        self.blocks[1, :, 0] = y.float()
        self.blocks[2, :, 0] = (y >= 2).float()

    def embed(self, parties, server_round, number, ids):
        return {p: {"embedding": self.blocks[p, ids]} for p in parties}


@pytest.fixture
def market():
    y = torch.randint(4, (ROWS,), generator=torch.Generator().manual_seed(1))

    def hold(auction):
        top = make_top(4, WIDTH, 4, "modern", False, 0)
        holder = LabelHolder(y, y[:5], 4, top, Optimiser(0.1))
        auction.bind(holder, BatchSchedule(ROWS, 50, 0), 4)
        auction.claims = {p: Claim(1.0, 1.0) for p in range(4)}
        return auction

    return hold, Blocks(y), y


def test_values_are_what_a_tree_gains_by_each_party(market):
    hold, blocks, y = market
    auction = hold(BidPriceFirst(budget=100, sample=SAMPLE, seed=5))
    auction.prepare(blocks)
    ids = torch.randperm(ROWS, generator=generator(5, 0, SERVER, "auction-rows"))[:SAMPLE]

    def score(members):
        x = torch.cat([blocks.blocks[p, ids] for p in (0, *members)], dim=1).numpy()
        state = stream_seed(5, 0, SERVER, "auction-tree") % 2**32
        tree = DecisionTreeClassifier(max_depth=8, random_state=state)
        half = SAMPLE // 2
        tree.fit(x[:half], y[ids[:half]])
        return tree.score(x[half:], y[ids[half:]])

    assert sum(auction.values.values()) == pytest.approx(score((1, 2, 3)) - score(()))
    assert auction.values[1] > auction.values[2] > auction.values[3]
    expected = (
        (score((1,)) - score(())) / 3
        + (score((1, 2)) - score((2,)) + score((1, 3)) - score((3,))) / 6
        + (score((1, 2, 3)) - score((2, 3))) / 3
    )
    assert auction.values[1] == pytest.approx(expected)


def test_bids_are_shares_of_the_value_times_what_is_claimed(market):
    hold, blocks, _ = market
    auction = hold(BidPriceFirst(budget=100, asking=1.5, sample=SAMPLE))
    auction.claims[2] = Claim(1.0, 3.0)
    auction.prepare(blocks)
    total = sum(max(v, 0.0) for v in auction.values.values())
    for party, ratio in ((1, 1.0), (2, 3.0), (3, 1.0)):
        share = max(auction.values[party], 0.0) / total
        assert auction.bids[party] == pytest.approx(150 * share * ratio)
    assert all("lost the auction" in reason for reason in auction.left.values())
    bought = set(auction.active) - {0}
    assert bought == set(auction.winners(auction.bids, auction.values))


@pytest.mark.parametrize("kind", [BidPriceFirst, OptimalSubset])
def test_winners_are_paid_their_bids_within_the_budget(kind, market):
    hold, blocks, _ = market
    auction = hold(kind(budget=100, sample=SAMPLE))
    auction.prepare(blocks)
    found = VerticalRound(1, asked=tuple(auction.active))
    auction.settle(found, [0.0] * 4)
    assert set(found.tokens) == set(auction.active) - {0}
    for party, paid in found.tokens.items():
        assert abs(paid - auction.bids[party]) < 1.0
    assert sum(found.tokens.values()) == int(sum(auction.bids[p] for p in found.tokens)) <= 100
    facts = auction.round_facts(found)
    assert (facts["budget"], facts["tokens"]) == (100, sum(found.tokens.values()))


def test_a_resumed_auction_remembers_its_outcome(market):
    hold, blocks, _ = market
    one = hold(OptimalSubset(sample=SAMPLE))
    assert one.budget == 300  # 100 per passive party
    one.prepare(blocks)
    other = hold(OptimalSubset(sample=SAMPLE))
    other.load_state(one.state())
    assert (other.bids, other.values, other.claims) == (one.bids, one.values, one.claims)
    assert other.active == one.active
    empty = hold(OptimalSubset(sample=SAMPLE))
    empty.load_state(hold(OptimalSubset(sample=SAMPLE)).state())
    assert empty.bids == {}


@pytest.mark.parametrize("options", [{"budget": 0}, {"asking": 0.0}, {"sample": 19}])
def test_settings_out_of_range_are_refused(options):
    with pytest.raises(ConfigurationError, match=next(iter(options))):
        BidPriceFirst(**options)
