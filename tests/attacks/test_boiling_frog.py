"""Boiling frog: pushes grow by one factor, add up, and step back where a copy turns them away."""

from __future__ import annotations

import pytest
import torch

from fedguard.attacks.boiling_frog import BoilingFrog
from fedguard.updates import Verdict
from tests.attacks.worlds import a_round, rows


def lengths_of_pushes(attack, rounds, deltas=None, **known):
    """Return the push of each round in mean lengths of the others' updates."""
    deltas = rows(8) if deltas is None else deltas
    found = []
    for at in range(1, rounds + 1):
        coalition, seen = a_round(deltas, 2, server_round=at, **known)
        push = attack.craft(coalition, seen) - coalition.deltas
        assert torch.allclose(push[0], push[1], atol=1e-6)
        found.append(float(push[0].norm() / seen.updates.deltas.norm(dim=1).mean()))
    return found


def mean_of(updates):
    return Verdict(updates.deltas.mean(dim=0), torch.ones(len(updates)) / len(updates))


def known(rule):
    """Return what an attacker has that may copy a rule without memory."""
    return {
        "aggregate": lambda updates: rule(updates).delta,
        "verdicts": lambda rounds: [rule(updates) for updates in rounds],
    }


def test_without_a_copy_it_grows_by_one_factor_up_to_the_most():
    found = lengths_of_pushes(BoilingFrog(start=0.1, growth=2.0, most=0.5), 5)
    assert found == pytest.approx([0.1, 0.2, 0.4, 0.5, 0.5], rel=1e-4)


def test_it_grows_on_a_copy_that_lets_all_pass():
    found = lengths_of_pushes(BoilingFrog(start=0.1, growth=2.0), 4, **known(mean_of))
    assert found == pytest.approx([0.1, 0.2, 0.4, 0.8], rel=1e-4)


def test_pushes_go_back_along_what_honest_clients_have_gone():
    attack, gone = BoilingFrog(start=0.3), torch.zeros(300)
    for at, drift in enumerate((1.0, -0.4, 2.0), 1):
        turned = rows(8) * drift + at * 0.01
        coalition, seen = a_round(turned, 2, server_round=at)
        gone += seen.updates.deltas.mean(dim=0)
        push = (attack.craft(coalition, seen) - coalition.deltas)[0]
        assert float(torch.cosine_similarity(push, -gone, dim=0)) == pytest.approx(1.0, abs=1e-5)


def limited(most):
    """Return a rule that turns away what is longer than `most`."""

    def rule(updates):
        keep = (updates.deltas.norm(dim=1) < most).float()
        share = keep / keep.sum()
        return Verdict(share @ updates.deltas, share)

    return rule


def test_it_steps_back_where_the_next_rounds_would_be_turned_away():
    deltas = rows(8)
    usual = float(deltas.norm(dim=1).mean())
    rule = known(limited(1.6 * usual))
    found = lengths_of_pushes(BoilingFrog(start=0.4, growth=1.5), 8, deltas, **rule)
    assert max(found) < 2.5
    blind = lengths_of_pushes(BoilingFrog(start=0.4, growth=1.5), 8, deltas)
    assert blind[-1] > 2.0 * max(found)


def test_rounds_ahead_are_asked_in_a_row_with_all_before_them():
    seen_rounds = []

    def verdicts(rounds):
        seen_rounds.append([updates.server_round for updates in rounds])
        return [mean_of(updates) for updates in rounds]

    asked = {"aggregate": lambda updates: mean_of(updates).delta, "verdicts": verdicts}
    lengths_of_pushes(BoilingFrog(ahead=4), 2, **asked)
    assert seen_rounds == [[2, 3, 4, 5]] * 4


def test_honest_updates_that_go_nowhere_are_sent_as_they_are():
    deltas = torch.cat([rows(2), torch.zeros(3, 300)])
    coalition, seen = a_round(deltas, 2)
    assert torch.equal(BoilingFrog().craft(coalition, seen), coalition.deltas)


def test_what_it_remembers_goes_on_in_another_process():
    first, second = BoilingFrog(), BoilingFrog()
    whole = lengths_of_pushes(BoilingFrog(), 4)
    half = lengths_of_pushes(first, 2)
    second.load_state({name: value.clone() for name, value in first.state().items()})
    assert half + lengths_of_pushes(second, 2) == pytest.approx(whole)
