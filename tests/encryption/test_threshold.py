from __future__ import annotations

import itertools

import numpy as np
import pytest
from lattice_worlds import World

from fedguard.encryption.errors import LostRoundError, ProtocolError, RefusedError
from fedguard.encryption.lattice import threshold
from fedguard.encryption.lattice.backend import make_backend
from fedguard.encryption.lattice.multikey import SecretKey
from fedguard.encryption.lattice.profiles import profile
from fedguard.encryption.lattice.sampling import SystemRandom

SOURCE = SystemRandom()
DEFAULT = profile("default")
RING = DEFAULT.data_ring


def test_any_quorum_rebuilds_the_key_and_one_less_does_not():
    secret = SecretKey.generate(DEFAULT, SOURCE).transform(DEFAULT)
    points = [1, 2, 3, 4, 5]
    shares = dict(zip(points, threshold.deal(DEFAULT, secret, points, 3, SOURCE), strict=True))
    for quorum in itertools.combinations(points, 3):
        total = RING.zeros(1)
        for point in quorum:
            total = RING.add(total, threshold.quorum_key(DEFAULT, shares[point], quorum, point))
        assert np.array_equal(total, secret)
    few = [1, 4]
    total = RING.zeros(1)
    for point in few:
        total = RING.add(total, threshold.quorum_key(DEFAULT, shares[point], few, point))
    assert float(np.mean(total == secret)) < 0.01


def test_shares_below_the_threshold_are_uniform():
    zero = RING.zeros(1)
    shares = threshold.deal(DEFAULT, zero, range(1, 6), 3, SOURCE)
    for share in shares:
        scaled = share[1] / RING.primes[1]
        assert abs(float(scaled.mean()) - 0.5) < 0.03


def test_a_quorum_lists_each_member_once():
    share = RING.uniform(b"x", 1)
    for quorum in ([1, 2, 2], [1, 3]):
        with pytest.raises(ProtocolError, match="once"):
            threshold.quorum_key(DEFAULT, share, quorum, 2)


def test_dealt_shares_survive_the_wire():
    share = RING.uniform(b"x", 1)
    data = threshold.write_secret_share(DEFAULT, share)
    assert np.array_equal(threshold.read_secret_share(DEFAULT, data), share)


@pytest.fixture(scope="module")
def fifty() -> World:
    """50 clients, threshold 34, all uploaded."""
    world = World(50, 2000, threshold=34, backend=make_backend("auto", SOURCE))
    world.commit()
    world.reveal()
    world.encrypt()
    return world


def test_seventeen_lost_after_upload_is_one_clear_error_and_nothing_is_asked(fifty):
    alive = fifty.parties[17:]
    with pytest.raises(LostRoundError) as caught:
        fifty.server.share_requests(alive)
    message = str(caught.value)
    assert "33 of 50 clients are left, 34 are needed" in message
    assert "nothing was decrypted" in message
    assert "\n" not in message
    answered = [s for s in fifty.sessions.values() if s.memory["1.0"]["answers"]]
    assert not answered, "a client was asked for a share of a sum that cannot be opened"


def test_sixteen_lost_after_upload_leave_the_sum_correct(fifty):
    found = fifty.server.take_shares(*fifty.share(alive=fifty.parties[16:]))
    assert np.abs(found.mean - fifty.weighted_mean()).max() < 1e-5
    assert found.contributors == fifty.parties


def test_clients_lost_before_upload_are_simply_not_in_the_sum():
    world = World(7, 500, threshold=4)
    lost = world.parties[1:3]
    world.commit()
    world.reveal()
    world.encrypt(lost)
    assert world.server.missing == lost
    alive = [p for p in world.parties if p not in lost]
    found = world.server.take_shares(*world.share(alive=tuple(alive)))
    assert found.contributors == tuple(alive)
    assert np.abs(found.mean - world.weighted_mean(alive)).max() < 2e-5


def test_a_quorum_that_falls_apart_may_be_replaced_and_no_client_answers_a_fifth_time():
    world = World(7, 500, threshold=4)
    world.commit()
    world.reveal()
    world.encrypt()
    asked, replies = world.share(alive=world.parties, lost=world.parties[:1])
    with pytest.raises(LostRoundError, match="nothing was decrypted"):
        world.server.take_shares(asked, replies)
    found = world.server.take_shares(*world.share(alive=world.parties[1:]))
    assert np.abs(found.mean - world.weighted_mean()).max() < 2e-5
    for _ in range(2):
        world.share(alive=world.parties[1:])
    with pytest.raises(RefusedError, match="has answered"):
        world.share(alive=world.parties[1:])


def test_two_disjoint_quorums_cannot_exist():
    world = World(8, 100, threshold=4)
    with pytest.raises(ProtocolError, match="more than half"):
        world.commit()
