"""Disguised: members' updates differ, their mean is what the inner attack crafted."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fedguard.attacks import Knowledge
from fedguard.attacks.disguised import Disguised
from fedguard.attacks.min_max import MinMax
from fedguard.config import parse
from fedguard.errors import ConfigurationError
from fedguard.runs.simulation import Simulation
from fedguard.strategies.toolkit.weight_view import copy_votes
from fedguard.updates import ClientUpdates, ParameterLayout


def world(members: int = 4, size: int = 400) -> tuple[ClientUpdates, Knowledge]:
    stream = torch.Generator().manual_seed(1)
    deltas = torch.randn(12, size, generator=stream) + 1.0
    everybody = ClientUpdates.from_matrix(deltas)
    seen = Knowledge("full", everybody, 12, members, 1, torch.Generator().manual_seed(2))
    return everybody.select(range(members)), seen


def test_members_are_no_copies_and_their_mean_is_the_inner_attacks():
    coalition, seen = world()
    plain = MinMax().craft(coalition, seen)
    sent = Disguised(attack="min-max", noise=0.3).craft(coalition, seen)
    torch.testing.assert_close(sent.mean(dim=0), plain.mean(dim=0), atol=1e-5, rtol=1e-4)
    noise = (sent - plain).norm(dim=1) / plain.norm(dim=1)
    wanted = 0.3 * (1.0 - 1.0 / 4.0) ** 0.5  # of random directions, less their mean
    torch.testing.assert_close(noise, torch.full((4,), wanted), atol=0.02, rtol=0.0)
    together = torch.cat([sent, seen.updates.deltas[4:]])
    votes = copy_votes(
        np.asarray(torch.cdist(together, together)), np.asarray(together.norm(dim=1))
    )
    assert len(set(votes.tolist())) == 12
    copies = torch.cat([plain, seen.updates.deltas[4:]])
    assert (
        len(
            set(
                copy_votes(
                    np.asarray(torch.cdist(copies, copies)), np.asarray(copies.norm(dim=1))
                ).tolist()
            )
        )
        == 9
    )


def test_one_member_sends_what_the_inner_attack_crafts():
    coalition, seen = world(members=1)
    sent = Disguised(attack={"name": "sign-flip", "scale": 2.0}).craft(coalition, seen)
    torch.testing.assert_close(sent, -2.0 * coalition.deltas)


def test_buffers_stay_what_they_were():
    layout = ParameterLayout.from_module(torch.nn.BatchNorm1d(3))
    assert layout.num_trainable < layout.size
    deltas = torch.ones(5, layout.size)
    everybody = ClientUpdates.from_matrix(deltas, layout=layout)
    seen = Knowledge("full", everybody, 5, 2, 1, torch.Generator().manual_seed(0))
    sent = Disguised(attack="ipm").craft(everybody.select([0, 1]), seen)
    assert bool((sent[:, layout.num_trainable :] == 1.0).all())


def test_the_inner_attack_keeps_its_data_poison_its_trigger_and_its_needs():
    attack = Disguised(attack={"name": "badnets", "target_class": 2})
    assert {"data", "images", "updates"} <= set(attack.needs)
    assert attack.backdoor
    assert attack.target_class == 2
    x = torch.zeros(3, 1, 8, 8)
    attack.bind(10, (1, 8, 8))
    assert float(attack.trigger(x).abs().sum()) > 0.0
    assert Disguised.needs == frozenset({"updates"})


@pytest.mark.parametrize("inner", ["none", "feature-noise", "disguised"])
def test_an_inner_attack_that_crafts_nothing_is_refused(inner):
    with pytest.raises(ConfigurationError, match="crafts updates"):
        Disguised(attack=inner)


def test_it_runs_by_name(tmp_path):
    attack = {"name": "disguised", "attack": {"name": "alie", "z": 2.0}, "noise": 0.5}
    values = {"clients": 8, "malicious": 0.4, "rounds": 1, "partition": "iid", "attack": attack}
    summary = Simulation(parse({**values, "strategy": "fedavg"})).run(tmp_path)
    assert summary["attack"] == "disguised"
