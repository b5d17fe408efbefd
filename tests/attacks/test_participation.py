"""Attacks on participation: many identities, copies, and clients that come late."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from worlds import a_round, rows

from fedguard.attacks.copycat import Copycat
from fedguard.attacks.sybils import Sybils
from fedguard.attacks.toolkit.schedule import parse_schedule
from fedguard.errors import ConfigurationError


def test_every_identity_sends_the_first_ones_update_in_its_own_disguise():
    coalition, seen = a_round(rows(9), 4)
    found = Sybils(noise=0.25).craft(coalition, seen).double().numpy()
    own = coalition.deltas[0].double().numpy()
    np.testing.assert_array_equal(found[0], own)
    away = np.linalg.norm(found[1:] - own, axis=1) / np.linalg.norm(own)
    np.testing.assert_allclose(away, 0.25, rtol=1e-5)
    assert len({row.tobytes() for row in found}) == 4


def test_a_disguise_belongs_to_an_identity_for_good_and_not_to_a_round():
    first, seen = a_round(rows(9), 4, server_round=3)
    second, later = a_round(rows(9).flip(0), 4, server_round=8)
    attack = Sybils(noise=0.5)
    one = attack.craft(first, seen)
    two = attack.craft(second, later)
    noises = (one[2] - one[0], two[2] - two[0])
    assert float(torch.nn.functional.cosine_similarity(*noises, dim=0)) > 0.999


@pytest.mark.parametrize("source", ["last-change", "peer"])
def test_copies_what_it_says(source):
    last = torch.linspace(-1.0, 1.0, 300)
    coalition, seen = a_round(rows(8), 3, last_update=last)
    found = Copycat(source=source, noise=0.2).craft(coalition, seen)
    copied = last if source == "last-change" else seen.updates.deltas[0]
    away = (found - copied).norm(dim=1) / copied.norm()
    torch.testing.assert_close(away, torch.full((3,), 0.2), rtol=1e-4, atol=1e-5)
    exact = Copycat(source=source, noise=0.0).craft(coalition, seen)
    torch.testing.assert_close(exact, copied.expand(3, -1))


def test_has_nothing_to_copy_in_the_first_round_and_no_peer_with_partial_knowledge():
    coalition, seen = a_round(rows(8), 3)
    assert not Copycat().craft(coalition, seen).any()
    last = torch.ones(300)
    coalition, seen = a_round(rows(8), 3, scope="partial", last_update=last)
    found = Copycat(source="peer", noise=0.0).craft(coalition, seen)
    torch.testing.assert_close(found, last.expand(3, -1))


def test_a_late_coalition_neither_joins_nor_attacks_before_its_round():
    late = parse_schedule({"join": 4})
    assert [late.joined(at) for at in (1, 3, 4, 9)] == [False, False, True, True]
    assert [late.active(at, 0) for at in (1, 3, 4, 9)] == [False, False, True, True]
    sleeper = parse_schedule({"join": 2, "window": [6, 8]})
    assert [at for at in range(1, 12) if sleeper.active(at, 0)] == [6, 7, 8]
    assert [at for at in range(1, 12) if not sleeper.joined(at)] == [1]
    assert parse_schedule("all").joined(1)
    with pytest.raises(ConfigurationError, match="join"):
        parse_schedule({"join": 0})
