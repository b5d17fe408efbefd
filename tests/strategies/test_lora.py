"""Low-rank adapters: Gram matrices and means of products against forming them."""

from __future__ import annotations

import pytest
import torch

from fedguard.layout import ParameterLayout
from fedguard.strategies.fedavg import FedAvg
from fedguard.strategies.lora import FedIT, FLoRA
from fedguard.strategies.toolkit.products import (
    adapter_distances,
    best_factors,
    pairs_of,
    product_gram,
)
from fedguard.updates import ClientUpdates

K, R, IN, OUT = 6, 2, 5, 7
NAMES = ("lora_a.q", "lora_b.q", "head")
LAYOUT = ParameterLayout(NAMES, ((R, IN), (OUT, R), (3,)), ("float32",) * 3, 3, NAMES)


def updates_of(deltas, start=None, layout=LAYOUT):
    whole = torch.zeros(layout.size) if start is None else start
    return ClientUpdates.from_matrix(deltas, global_vector=whole, layout=layout)


def random_updates(seed=0):
    stream = torch.Generator().manual_seed(seed)
    deltas = torch.randn(K, LAYOUT.size, generator=stream)
    return updates_of(deltas, torch.randn(LAYOUT.size, generator=stream))


def formed(updates):
    """Every client's product, and its other tensors, written out."""
    whole = (updates.global_vector + updates.deltas).double()
    a, b = whole[:, : R * IN].view(-1, R, IN), whole[:, R * IN : R * (IN + OUT)].view(-1, OUT, R)
    return a, b, b @ a, whole[:, R * (IN + OUT) :]


def test_the_gram_matrix_of_products_equals_that_of_formed_ones():
    a, b, products, _ = formed(random_updates())
    flat = products.flatten(1)
    torch.testing.assert_close(product_gram(a, b), flat @ flat.T)


def test_distances_equal_those_of_formed_products_and_other_tensors():
    updates = random_updates(1)
    _, _, products, head = formed(updates)
    rows = torch.cat([products.flatten(1), head], dim=1)
    wanted = torch.cdist(rows, rows).square()
    torch.testing.assert_close(adapter_distances(updates), wanted, atol=1e-6, rtol=1e-6)


def test_one_product_from_other_factors_is_at_no_distance():
    stream = torch.Generator().manual_seed(2)
    a, b = torch.randn(R, IN, generator=stream), torch.randn(OUT, R, generator=stream)
    turn = torch.tensor([[2.0, 1.0], [0.0, -0.5]])
    rows = [
        torch.cat([left.flatten(), right.flatten(), torch.zeros(3)])
        for left, right in ((a, b), (turn @ a, b @ torch.linalg.inv(turn)))
    ]
    found = adapter_distances(updates_of(torch.stack(rows)))
    assert float(found[0, 1]) == pytest.approx(0.0, abs=1e-4)
    assert float((rows[0] - rows[1]).norm()) > 1.0


def test_adapters_are_found_by_name_also_as_peft_writes_them():
    names = ("l.lora_A.weight", "l.lora_B.weight", "lora_a.x", "lora_b.x")
    more = ("e.lora_embedding_A", "e.lora_embedding_B")
    shapes = ((R, IN), (OUT, R), (3, IN), (OUT, 2), (R, IN), (OUT, R))
    layout = ParameterLayout((*names, *more), shapes, ("float32",) * 6, 6, (*names, *more))
    found = pairs_of(layout)
    assert [(pair.a, pair.b) for pair in found] == [(0, 1), (4, 5)]  # the middle two do not fit
    assert pairs_of(ParameterLayout.flat(9)) == []


def test_the_cut_stack_is_the_nearest_matrix_of_its_rank():
    a, b, products, _ = formed(random_updates(3))
    weights = torch.tensor([0.3, 0.1, 0.2, 0.2, 0.1, 0.1], dtype=torch.float64)
    new_a, new_b = best_factors(a, b, weights)
    mean = (weights[:, None, None] * products).sum(dim=0)
    u, s, v = torch.linalg.svd(mean)
    nearest = u[:, :R] @ torch.diag(s[:R]) @ v[:R]
    torch.testing.assert_close(new_b @ new_a, nearest)


def test_flora_keeps_products_where_fedit_loses_them():
    one = torch.cat([torch.ones(R * IN), torch.ones(OUT * R), torch.zeros(3)])
    other = torch.cat([-torch.ones(R * IN), -torch.ones(OUT * R), torch.zeros(3)])
    updates = updates_of(torch.stack([one, other]))
    # Both products are 2 everywhere; the mean of the factors is 0.
    fedit = FedIT().decide(updates).delta
    assert not bool(fedit.any())
    flora = FLoRA().decide(updates).delta
    product = flora[R * IN : R * (IN + OUT)].view(OUT, R) @ flora[: R * IN].view(R, IN)
    torch.testing.assert_close(product, torch.full((OUT, IN), 2.0), atol=1e-5, rtol=1e-5)


def test_fedit_is_the_mean_and_all_three_are_where_there_is_no_adapter():
    updates = random_updates(4)
    torch.testing.assert_close(FedIT().decide(updates).delta, FedAvg().decide(updates).delta)
    flat = ClientUpdates.from_matrix(updates.deltas, num_examples=[1, 2, 3, 4, 5, 6])
    for rule in (FedIT(), FLoRA()):
        torch.testing.assert_close(rule.decide(flat).delta, FedAvg().decide(flat).delta)


@pytest.mark.parametrize("rule", [FedIT, FLoRA])
def test_a_far_product_is_left_out_and_other_factors_of_the_same_one_are_not(rule):
    stream = torch.Generator().manual_seed(5)
    a, b = torch.randn(R, IN, generator=stream), torch.randn(OUT, R, generator=stream)

    def client(left, right):
        return torch.cat([left.flatten(), right.flatten(), torch.zeros(3)])

    honest = [client(a + 0.01 * i, b) for i in range(4)]
    turned = client(100.0 * a, b / 100.0)  # far as a vector, the same as a function
    liar = client(a, -b)
    updates = updates_of(torch.stack([*honest, turned, liar]))
    verdict = rule(robust=True, assumed_malicious=0.15).decide(updates)
    assert sorted(verdict.reasons) == [5]
    assert float(verdict.weights[5]) == 0.0


def test_hostile_factors_break_nothing():
    deltas = torch.randn(K, LAYOUT.size)
    deltas[0] = 1e10
    verdict = FLoRA(robust=True).decide(updates_of(deltas))
    assert bool(torch.isfinite(verdict.delta).all())
    assert 0 in verdict.reasons
