"""An update is opened in one sum, whatever a malicious server asks its clients for."""

from __future__ import annotations

import pytest
from encrypted_clients import first_model
from hostile_server import Hostile, another_model, refusals

from fedguard.encryption.errors import ProtocolError
from fedguard.encryption.protocol.agreement import Agreement

SCHEMES = [("xmkckks", {}), ("xmkckks", {"threshold": 3}), ("ckks", {})]
EVERYBODY = (0, 1, 2, 3, 4)
OTHERS = (0, 1, 2, 3)
VICTIM = 4


@pytest.mark.parametrize(("scheme", "options"), SCHEMES)
@pytest.mark.parametrize("sent", ["no model", "the same model"])
def test_the_update_of_one_training_is_not_opened_under_two_rounds(scheme, options, sent):
    """Road 1: a later round without the victim, on what was trained for round 1."""
    if scheme == "ckks":
        pytest.importorskip("tenseal")
    server = Hostile(scheme, **options)
    whole = server.play(1, EVERYBODY, first_model())
    model = None if sent == "no model" else first_model()
    try:
        rest = server.play(3, OTHERS, model)
    except ProtocolError:
        rest = 0.0 * whole
    assert server.closeness(whole - rest, VICTIM) > 0.5, "the victim's update is open"


@pytest.mark.parametrize(("scheme", "options"), SCHEMES)
def test_a_round_with_another_model_and_another_cohort_is_an_ordinary_round(scheme, options):
    if scheme == "ckks":
        pytest.importorskip("tenseal")
    server = Hostile(scheme, **options)
    server.play(1, EVERYBODY, first_model())
    server.told = 3
    found = server.play(3, OTHERS, another_model(0.25))
    wanted = sum(server.update(party, 3) for party in OTHERS)
    assert abs(found - wanted)[:440].max() < 5e-3


@pytest.mark.parametrize(("scheme", "options"), SCHEMES)
def test_a_second_attempt_at_an_opened_round_is_refused(scheme, options):
    if scheme == "ckks":
        pytest.importorskip("tenseal")
    server = Hostile(scheme, **options)
    server.play(1, EVERYBODY, first_model())
    terms = Agreement(1, 2, OTHERS, "default", "coefficients", 3 if options else 0).to_payload()
    replies = server.send({party: {"commit": terms} for party in OTHERS}, first_model())
    assert len(refusals(replies, "commit")) == len(OTHERS)


def test_clients_that_were_sent_different_models_open_nothing():
    """Models of the server's choice can make the sum say more about one client than a mean."""
    server = Hostile("xmkckks")
    group = server.strategy.make_group(EVERYBODY, 441)
    flow = group.run(1)
    trip = next(flow)
    first = server.send({p: trip[p] for p in OTHERS}, first_model())
    kept = dict(server.grid._updates)
    first |= server.send({VICTIM: trip[VICTIM]}, another_model(1.0))
    server.grid._updates |= kept
    reveals = server.send(flow.send(first), None)
    ciphertexts = server.send(flow.send(reveals), None)
    shares = server.send(flow.send(ciphertexts), None)
    assert len(refusals(shares, "share")) == 5
    assert all("not the sum" in reason for reason in refusals(shares, "share"))


def test_a_weaker_profile_than_the_clients_own_is_refused():
    """Road 4: a downgrade to 40 statistical bits."""
    server = Hostile("xmkckks")
    terms = Agreement(1, 0, EVERYBODY, "light", "coefficients").to_payload()
    replies = server.send({party: {"commit": terms} for party in EVERYBODY}, first_model())
    reasons = refusals(replies, "commit")
    assert len(reasons) == 5
    assert all("light" in reason and "default" in reason for reason in reasons)


def test_a_stronger_profile_is_welcome_and_a_weaker_one_is_where_it_was_chosen():
    for own, offered in (("default", "wide"), ("light", "light")):
        server = Hostile("xmkckks", profile=own)
        terms = Agreement(1, 0, EVERYBODY, offered, "coefficients").to_payload()
        assert not refusals(server.send({0: {"commit": terms}}, first_model()), "commit")
