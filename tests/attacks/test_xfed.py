from __future__ import annotations

import numpy as np
import torch
from worlds import a_round, rows

from fedguard.attacks.xfed import XFed


def test_turns_each_own_update_round_at_the_size_of_recent_changes():
    attack = XFed(spread=1.5, window=4)
    lengths = []
    for at, size in enumerate([1.0, 2.0, 4.0, 3.0, 8.0, 5.0], start=2):
        change = torch.zeros(300)
        change[at] = size
        deltas = rows(7) * at
        coalition, seen = a_round(deltas, 3, last_update=change, server_round=at)
        found = attack.craft(coalition, seen).double().numpy()
        lengths = [*lengths, size][-4:]
        middle = np.median(lengths)
        radius = middle + 1.5 * 1.4826 * np.median(np.abs(np.array(lengths) - middle))
        own = coalition.deltas.double().numpy()
        wanted = -radius * own / np.linalg.norm(own, axis=1, keepdims=True)
        np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-7)


def test_before_any_change_is_known_its_own_length_is_kept():
    coalition, seen = a_round(rows(5), 2)
    torch.testing.assert_close(XFed().craft(coalition, seen), -coalition.deltas)


def test_what_others_send_plays_no_part():
    deltas = rows(6)
    other = deltas.clone()
    other[1:] += 5.0
    change = torch.ones(300)
    first = XFed().craft(*a_round(deltas, 2, last_update=change))
    second = XFed().craft(*a_round(other, 2, last_update=change))
    assert torch.equal(first[0], second[0])


def test_remembers_through_state():
    attack = XFed()
    attack.craft(*a_round(rows(5), 2, last_update=torch.ones(300)))
    twin = XFed()
    twin.load_state(attack.state())
    assert twin.radius() == attack.radius()
    twin.load_state({})
    assert twin.state() == {}
