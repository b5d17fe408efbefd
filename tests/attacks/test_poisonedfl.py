from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import binom
from worlds import a_round, rows

from fedguard.attacks.poisonedfl import PoisonedFL, fixed_signs

SIZE = 300


class Paper:
    """The attack's recursion in float64, from its formulas."""

    def __init__(self, scale=8.0, every=50, decay=0.7, floor=0.5):
        self.scale, self.every, self.decay, self.floor = scale, every, decay, floor
        self.signs = fixed_signs(SIZE, 0).numpy().astype(np.float64)
        self.sent = self.mark = self.marked = None

    def __call__(self, here, change, at):
        if self.mark is None:
            self.mark, self.marked = here, at
        elif at - self.marked >= self.every:
            moved = (np.sign(here - self.mark) == self.signs).sum()
            if moved <= binom.ppf(0.99, SIZE, 0.5) and self.decay * self.scale >= self.floor:
                self.scale *= self.decay
            self.mark, self.marked = here, at
        length = np.linalg.norm(change)
        gaps = (
            change
            if self.sent is None
            else (change - self.sent * length / np.linalg.norm(self.sent))
        )
        gaps = np.abs(gaps)
        self.sent = self.scale * length * gaps / np.linalg.norm(gaps) * self.signs
        return self.sent


def walk(attack, rounds, drift=0.0, start=2):
    """Yield (found, model, change) of rounds in which the model moves at random, and drifts."""
    stream = torch.Generator().manual_seed(5)
    here = torch.zeros(SIZE)
    for at in range(start, start + rounds):
        change = 0.1 * torch.randn(SIZE, generator=stream) + drift * fixed_signs(SIZE, 0)
        here = here + change
        coalition, seen = a_round(
            rows(6, SIZE), 2, last_update=change, global_vector=here, server_round=at
        )
        yield attack.craft(coalition, seen), here.double().numpy(), change.double().numpy(), at


@pytest.mark.parametrize("drift", [0.0, 0.03])
def test_equals_the_recursion_over_many_rounds(drift):
    attack, paper = PoisonedFL(check_every=4, decay=0.85), Paper(every=4, decay=0.85)
    for found, here, change, at in walk(attack, 30, drift):
        wanted = paper(here, change, at)
        np.testing.assert_allclose(found[0].numpy(), wanted, rtol=1e-5, atol=1e-6)
        assert torch.equal(found[0], found[1])
    assert (paper.scale == 8.0) == (drift > 0.0)


def test_the_factor_does_not_fall_below_its_floor():
    attack = PoisonedFL(check_every=1, decay=0.5, floor=3.0)
    for _ in walk(attack, 6):
        pass
    assert float(attack.state()["factor"]) == 3.0


def test_nothing_is_known_before_the_first_change():
    coalition, seen = a_round(rows(6, SIZE), 2)
    assert PoisonedFL().craft(coalition, seen) is coalition.deltas


def test_state_carries_on_and_an_empty_one_forgets():
    whole = PoisonedFL(check_every=3)
    found = [each.clone() for each, *_ in walk(whole, 8)]
    first, second = PoisonedFL(check_every=3), PoisonedFL(check_every=3)
    again = []
    for at, (each, *_) in enumerate(walk(first, 8)):
        again.append(each.clone())
        if at == 3:
            state = {name: value.clone() for name, value in first.state().items()}
    assert all(torch.equal(a, b) for a, b in zip(found, again, strict=True))
    second.load_state(state)
    stream = list(walk(PoisonedFL(), 8))
    for at in range(4, 8):
        _, here, change, number = stream[at]
        coalition, seen = a_round(
            rows(6, SIZE),
            2,
            last_update=torch.from_numpy(change).float(),
            global_vector=torch.from_numpy(here).float(),
            server_round=number,
        )
        assert torch.equal(second.craft(coalition, seen), found[at])
    second.load_state({})
    assert second.state() == {}
