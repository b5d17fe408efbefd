"""Every attack succeeds against the naive mode and fails against the guarded one."""

from __future__ import annotations

import time

import numpy as np
import pytest

pytest.importorskip("tenseal")

from fedguard.encryption.attacks import ATTACKS
from fedguard.encryption.attacks.key_recovery import ntt_primes_of, solve
from fedguard.encryption.lattice import tenseal_vectors as vectors
from fedguard.encryption.lattice.modular import prime_field
from fedguard.encryption.lattice.seal_format import TensealContext


@pytest.mark.parametrize("name", ATTACKS)
def test_it_succeeds_on_the_naive_mode(name):
    outcome = ATTACKS[name](False)
    assert outcome.succeeded, outcome.line
    assert "naive" in outcome.line


@pytest.mark.parametrize("name", ATTACKS)
def test_it_fails_on_the_guarded_mode(name):
    outcome = ATTACKS[name](True)
    assert not outcome.succeeded, outcome.line
    assert "guarded" in outcome.line


def test_refusals_say_which_guard_held():
    evidence = {name: ATTACKS[name](True).evidence for name in ATTACKS}
    assert "not the sum" in evidence["substituted-aggregate"]
    assert "committed" in evidence["rogue-joint-key"]
    assert "answered" in evidence["differencing"]
    assert "after 1 answer" in evidence["repeated-queries"]
    assert "trained for round 1" in evidence["two-rounds"]
    assert "not the sum" in evidence["split-models"]
    assert "wants 69, those of default" in evidence["weaker-profile"]
    assert "not 2 ciphertexts of these parameters" in evidence["changed-scale"]
    assert "encrypted for it already" in evidence["encrypted-twice"]
    assert "confirmed another sum" in evidence["two-lists"]


def test_all_attacks_together_take_less_than_a_minute():
    started = time.process_time()
    for attack in ATTACKS.values():
        attack(False)
        attack(True)
    assert time.process_time() - started < 60


def test_it_is_the_noise_that_stops_key_recovery():
    """The same solver on the same stock ciphertexts, with flooding of 2^-30 on what is released."""
    recipe = vectors.STOCK
    context = vectors.make_key_pair(recipe, 3)
    rng = np.random.default_rng(0)
    encrypted = vectors.encrypt_vector(context, recipe, rng.normal(0, 0.05, 2 * recipe.slots))
    released = vectors.decrypt_vector(context, recipe, encrypted)
    field = prime_field(recipe.ring_degree, ntt_primes_of(recipe)[1])
    polynomials = encrypted[1]
    secret = TensealContext.load(vectors.private_bytes(context)).secret_key(recipe.ring_degree)
    truth = field.centred(field.intt(secret[1]))
    scale = vectors.scale_of(recipe, 3)
    for noise, recovered in ((0.0, True), (2.0**-30, False)):
        values = released + rng.normal(0, noise, released.size)
        found = solve(field, polynomials[0::2], polynomials[1::2], values, scale)
        assert bool(np.mean(found == truth) > 0.99) is recovered
