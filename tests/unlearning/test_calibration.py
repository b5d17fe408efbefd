"""FedEraser's rounds against its formulas."""

from __future__ import annotations

import pytest
import torch
from unlearning_worlds import flat, network, request, situation

from fedguard.layout import ParameterLayout
from fedguard.unlearning.federaser import FedEraser, UpdateStore
from fedguard.unlearning.method import Options
from fedguard.updates import ClientUpdates

LAYOUT, VECTOR = flat(network())


def updates(seed, examples, nodes, server_round=1, layout=LAYOUT):
    rng = torch.Generator().manual_seed(seed)
    deltas = torch.randn(len(nodes), layout.size, generator=rng)
    return ClientUpdates.from_matrix(
        deltas, examples, nodes, layout=layout, server_round=server_round
    )


def test_calibrated_updates_are_weighted_by_the_stored_examples():
    stored = updates(1, [10.0, 30.0, 60.0], [0, 1, 2])
    fresh = updates(2, [99.0, 1.0, 7.0], [5, 2, 1])
    expected = torch.zeros(LAYOUT.size, dtype=torch.float64)
    for node, weight in ((1, 30.0 / 90.0), (2, 60.0 / 90.0)):
        old = stored.deltas[stored.node_ids.index(node)].double()
        new = fresh.deltas[fresh.node_ids.index(node)].double()
        expected += weight * old.norm() * new / new.norm()
    found = FedEraser(Options()).calibrate(stored, fresh)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)


def test_nobody_in_both_rounds_means_no_step():
    found = FedEraser(Options()).calibrate(updates(1, [1.0], [0]), updates(2, [1.0], [3]))
    assert found.shape == (LAYOUT.size,)
    assert not found.any()


def test_an_answer_of_nothing_gives_no_direction():
    stored = updates(1, [1.0, 1.0], [0, 1])
    still = ClientUpdates.from_matrix(torch.zeros(2, LAYOUT.size), None, [0, 1], layout=LAYOUT)
    found = FedEraser(Options()).calibrate(stored, still)
    assert not found.any()


def erased(tmp_path, *requests, nodes=(0, 1, 2)):
    method = FedEraser(Options())
    method.store = UpdateStore(tmp_path, 1, 10**9)
    first = updates(1, [10.0, 20.0, 30.0][: len(nodes)], nodes)
    method.store.add(first)
    method.store.add(updates(2, [1.0] * len(nodes), nodes, server_round=2))
    return method.erase(situation(*requests)), first


def test_the_walk_starts_with_the_others_of_the_first_stored_round(tmp_path):
    found, first = erased(tmp_path, request(1))
    step = (10.0 * first.deltas[0] + 30.0 * first.deltas[2]) / 40.0
    torch.testing.assert_close(found.vector, situation().initial + step)
    assert found.keep is None


def test_who_forgets_a_part_is_walked_with(tmp_path):
    found, first = erased(tmp_path, request(1, share=0.5))
    step = (torch.tensor([10.0, 20.0, 30.0]) / 60.0) @ first.deltas
    torch.testing.assert_close(found.vector, situation().initial + step)


@pytest.mark.parametrize("nodes", [(1,), ()])
def test_where_nobody_else_is_stored_it_starts_from_nothing(tmp_path, nodes):
    if nodes:
        found, _ = erased(tmp_path, request(1), nodes=nodes)
    else:
        found = FedEraser(Options()).erase(situation(request(1)))
    assert torch.equal(found.vector, situation().initial)


@pytest.mark.parametrize(
    ("ratio", "epochs", "expected"), [(0.5, 5, 2), (0.5, 3, 2), (0.01, 9, 1), (1.0, 4, 4)]
)
def test_calibration_trains_the_share_rounded_and_one_epoch_at_least(ratio, epochs, expected):
    method = FedEraser(Options(calibration_ratio=ratio))
    assert method.calibration_epochs(epochs) == expected
    assert method.calibrates


def test_a_round_without_updates_and_rounds_in_between_are_not_stored(tmp_path):
    store = UpdateStore(tmp_path / "new" / "folder", 3, 10**9)
    layout = ParameterLayout.flat(4)
    for server_round in range(1, 9):
        store.add(updates(1, [2.0], [6], server_round, layout))
    empty = updates(1, [2.0], [6], 10, layout).select([])
    store.add(empty)
    assert store.rounds == [1, 4, 7]
    back = store.read(7, layout)
    assert (back.node_ids, back.num_examples.tolist(), back.server_round) == ((6,), [2.0], 7)
    assert store.size == sum(p.stat().st_size for p in (tmp_path / "new/folder").glob("round*"))


def test_one_round_larger_than_the_bound_is_kept(tmp_path):
    store = UpdateStore(tmp_path, 1, 10)
    layout = ParameterLayout.flat(100)
    for server_round in range(1, 5):
        store.add(updates(1, [2.0], [6], server_round, layout))
    assert store.rounds == [1]
    assert store.interval >= 2
    store.clear()
    assert UpdateStore(tmp_path, 1, 10).interval == 1
