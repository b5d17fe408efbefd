from __future__ import annotations

import torch

from fedguard.randomness import generator
from fedguard.unlearning.federaser import FedEraser, UpdateStore
from fedguard.unlearning.method import Options
from fedguard.updates import ClientUpdates, ParameterLayout

SIZE = 50


def updates(server_round, clients=4):
    deltas = torch.randn(clients, SIZE, generator=generator(0, server_round, 0, "updates"))
    return ClientUpdates.from_matrix(deltas, [10.0] * clients, server_round=server_round)


def test_every_other_round_is_stored_and_read_back(tmp_path):
    store = UpdateStore(tmp_path, 2, 10**9)
    for server_round in range(1, 8):
        store.add(updates(server_round))
    assert store.rounds == [1, 3, 5, 7]
    back = store.read(5, ParameterLayout.flat(SIZE))
    assert torch.equal(back.deltas, updates(5).deltas)
    assert back.node_ids == (0, 1, 2, 3)
    store.drop_after(3)
    assert store.rounds == [1, 3]
    store.clear()
    assert store.rounds == []


def test_the_store_is_bounded_and_stays_even(tmp_path):
    store = UpdateStore(tmp_path, 1, 8 * 1024)
    for server_round in range(1, 65):
        store.add(updates(server_round))
        assert store.size <= 8 * 1024
    gaps = {b - a for a, b in zip(store.rounds, store.rounds[1:], strict=False)}
    assert store.rounds[0] == 1
    assert len(store.rounds) >= 3
    assert gaps == {store.interval}
    # A restarted run goes on with the wider interval.
    assert UpdateStore(tmp_path, 1, 8 * 1024).interval == store.interval


def test_calibration_keeps_old_sizes_and_new_directions():
    method = FedEraser(Options())
    old, new = updates(1), updates(2)
    fresh = ClientUpdates.from_matrix(new.deltas[1:], [10.0] * 3, [1, 2, 3])
    expected = torch.stack(
        [old.deltas[k].norm() * new.deltas[k] / new.deltas[k].norm() for k in (1, 2, 3)]
    ).mean(dim=0)
    assert torch.allclose(method.calibrate(old, fresh), expected, atol=1e-5)


def test_calibration_trains_a_share_of_the_epochs():
    assert FedEraser(Options(calibration_ratio=0.5)).calibration_epochs(4) == 2
    assert FedEraser(Options(calibration_ratio=0.1)).calibration_epochs(4) == 1
