from __future__ import annotations

import torch

from fedguard.attacks.toolkit.crafting import (
    benign_updates,
    centred_gram,
    gram_distances,
    norm,
    send,
    spread,
    visible_updates,
)
from fedguard.updates import ClientUpdates, ParameterLayout
from tests.attacks.worlds import a_round, rows


def test_gram_distances_equal_differences_late_in_training():
    near = 0.05 + 1e-5 * rows(7, 200_000, mean=0.0, std=1.0)
    found = gram_distances(centred_gram(near))
    wide = near.double()
    expected = (wide[:, None] - wide[None]).square().sum(-1)
    assert torch.allclose(found, expected, rtol=1e-9)


def test_send_replaces_trainable_parameters_and_keeps_buffers():
    layout = ParameterLayout(("w", "bn.running_var"), ((3,), (2,)), ("float32",) * 2, 1, ("w",))
    coalition, _ = a_round(rows(2, 5), 2, layout=layout)
    crafted = send(coalition, torch.tensor([1.0, 2.0, 3.0]))
    assert torch.equal(crafted[:, :3], torch.tensor([[1.0, 2.0, 3.0]] * 2))
    assert torch.equal(crafted[:, 3:], coalition.deltas[:, 3:])


def test_send_stays_finite():
    coalition, _ = a_round(rows(2, 3), 2)
    crafted = send(coalition, torch.full((3,), 1e30) * 1e30)
    assert torch.isfinite(crafted).all()


def test_updates_are_read_in_order_of_node_id():
    shuffled = ClientUpdates.from_matrix(rows(3, 4), node_ids=[5, 1, 3])
    coalition, knowledge = a_round(rows(3, 4), 1)
    object.__setattr__(knowledge, "updates", shuffled)
    assert visible_updates(coalition, knowledge).node_ids == (1, 3, 5)


def test_benign_updates_leave_the_coalition_out_unless_it_sees_no_others():
    everything = ClientUpdates.from_matrix(rows(4, 5), node_ids=[10, 13, 16, 19])
    coalition, knowledge = a_round(rows(4, 5), 2)
    object.__setattr__(knowledge, "updates", everything)
    assert benign_updates(coalition, knowledge).node_ids == (16, 19)
    coalition, knowledge = a_round(rows(4, 5), 2, scope="partial")
    assert benign_updates(coalition, knowledge).node_ids == coalition.node_ids


def test_spread_of_one_row_is_its_size():
    one = torch.tensor([[1.0, -2.0, 0.0]])
    assert torch.equal(spread(one), torch.tensor([1.0, 2.0, 0.0]))
    assert torch.equal(spread(torch.cat([one, one])), torch.zeros(3))


def test_norm_accumulates_in_float64():
    assert norm(torch.full((1000,), 1e30)) > 1e31
