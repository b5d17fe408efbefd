from __future__ import annotations

import math

import pytest

from fedguard.encryption.lattice.packing import make_packing
from fedguard.encryption.lattice.profiles import PROFILES, RLWE_TABLE, Profile, profile
from fedguard.errors import ConfigurationError


@pytest.mark.parametrize("name", PROFILES)
def test_ready_profiles_keep_to_the_table_and_say_so(name):
    found = profile(name)
    assert sum(found.key_bits) <= RLWE_TABLE[found.ring_degree][0]
    assert math.log2(math.prod(found.key_ring.primes)) <= sum(found.key_bits)
    text = found.describe()
    assert "\n" not in text
    assert f"RLWE security {found.rlwe_bits} bits" in text
    assert "statistical bits" in text


def test_the_default_gives_what_it_is_chosen_for():
    found = profile("default")
    assert found.rlwe_bits == 128
    assert found.statistical_bits(50, 25) > 64
    assert found.statistical_bits(10, 245) > 64
    assert 4.5 * found.error_std(50) < 1e-5


def test_the_wide_profile_is_of_the_192_bit_class():
    assert profile("wide").rlwe_bits == 192


def test_more_answers_or_ciphertexts_cost_statistical_bits():
    found = profile("default")
    bits = found.statistical_bits(10, 10)
    assert bits - found.statistical_bits(10, 40) == pytest.approx(2)
    assert bits - found.statistical_bits(10, 10, answers=16) == pytest.approx(4)
    assert found.statistical_bits(10, 10, special_prime=False) < bits


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ((4096, (45, 45), 25, 40.0), "prime bits"),
        ((3000, (30,), 25, 40.0), "ring_degree"),
        ((4096, (51,), 25, 40.0), "prime bits"),
        ((4096, (13,), 25, 40.0), "prime bits"),
        ((8192, (30, 30, 30, 30), 25, 40.0), "data_bits"),
        ((4096, (30, 36), 37, 59.0), "flooding_bits"),
        ((4096, (30, 36), 37, math.nan), "flooding_bits"),
        ((4096, (30, 36), 37, 40.0, 0.0), "clip"),
    ],
)
def test_unsound_parameters_are_refused(arguments, field):
    with pytest.raises(ConfigurationError) as caught:
        Profile("mine", *arguments)
    assert caught.value.field == field
    assert "\n" not in str(caught.value)


def test_sums_that_would_overflow_are_refused():
    tight = Profile("tight", 4096, (20, 49), 28, 50.0)
    with pytest.raises(ConfigurationError, match="overflows"):
        tight.check(50)
    drowned = Profile("drowned", 4096, (32, 36), 37, 58.0)
    assert drowned.max_clients == 0
    with pytest.raises(ConfigurationError, match="overflows"):
        drowned.check(1)


@pytest.mark.parametrize("clients", [1, 3, 50, 1000])
def test_the_scale_leaves_room_for_the_sum_and_its_noise(clients):
    found = profile("default")
    top = clients * found.clip * found.scale(clients) + 10 * found.sum_noise(clients)
    assert top < found.message_modulus / 2
    assert 1.01 * top > found.message_modulus / 2, "room is wasted"


def test_cohorts_in_which_a_missing_share_could_hide_are_refused():
    with pytest.raises(ConfigurationError, match="unnoticed"):
        make_packing("coefficients", profile("default"), 100_000)


def test_the_nearest_profile_is_named():
    with pytest.raises(ConfigurationError, match="did you mean 'light'"):
        profile("lite")


def test_digests_tell_parameter_sets_apart():
    digests = {found.digest for found in PROFILES.values()}
    assert len(digests) == len(PROFILES)
