"""Sentinel: whoever harms unlike the others goes, on the evidence of the server's labels."""

from __future__ import annotations

import math

import pytest
import torch
from corners import CLASSES, attacked, make_tools, rates, trained, updates_of
from torch.nn import functional

from fedguard.errors import ConfigurationError
from fedguard.strategies import Sentinel
from fedguard.strategies.base import ServerTools
from fedguard.strategies.toolkit.averaging import beyond_the_others
from fedguard.traits import traits_of
from fedguard.updates import ClientUpdates


@pytest.fixture
def tools() -> ServerTools:
    return make_tools()


def guard(tools: ServerTools | None, **arguments) -> Sentinel:
    strategy = Sentinel(**arguments)
    strategy.tools = tools
    return strategy


def test_it_plays_in_the_league_of_labels():
    assert traits_of(Sentinel()).server_data == "labelled"


@pytest.mark.parametrize("kind", ["sign", "gaussian", "scale", "lie"])
def test_attackers_are_rejected_and_honest_clients_are_not(tools, kind):
    deltas, start, layout = trained(tools, 20)
    verdict = guard(tools).combine(updates_of(attacked(deltas, kind, 4), start, layout))
    caught, wronged = rates(verdict, 4)
    assert caught == 1.0
    assert wronged <= 0.1


@pytest.mark.parametrize("labels_per_client", [2, CLASSES])
def test_in_peace_nearly_nobody_is_rejected(tools, labels_per_client):
    deltas, start, layout = trained(tools, 20, labels_per_client=labels_per_client)
    updates = updates_of(deltas, start, layout)
    assert rates(guard(tools).combine(updates), 0)[1] <= 0.05


def without_classes(tools: ServerTools, kept: int) -> ServerTools:
    rows = tools.y < kept
    return ServerTools(tools.model, tools.x[rows], tools.y[rows], "hidden", CLASSES)


def test_who_teaches_classes_that_the_server_lacks_is_not_judged_by_them(tools):
    """Two clients push towards classes 3 and 4 alone, of which the server has no example."""
    deltas, start, layout = trained(tools, 12)
    names = layout.unflatten(deltas[0])
    assert "output.bias" in names
    at = layout.offsets[layout.names.index("output.bias")]
    deltas[:2] = 0.0
    deltas[:2, at + 3 : at + 5] = float(deltas[2:].norm(dim=1).median()) / 2.0**0.5
    deltas[1, at + 4] *= 0.9  # no copies
    updates = updates_of(deltas, start, layout)
    seen = guard(without_classes(tools, 3), trigger_margin=0.0).combine(updates)
    assert float(seen.scores["harm"][:2].abs().max()) == pytest.approx(0.0, abs=1e-9)
    assert not {0, 1} & seen.reasons.keys()
    lacking = without_classes(tools, 3)
    loss = functional.cross_entropy  # among all classes they would be blamed
    with torch.no_grad():
        layout.load(lacking.model, start)
        before = loss(lacking.model(lacking.x), lacking.y)
        for row in (0, 1):
            layout.load(lacking.model, start + deltas[row])
            assert loss(lacking.model(lacking.x), lacking.y) > before + 1e-3


def test_without_evidence_nobody_goes_for_the_loss(tools):
    deltas, start, layout = trained(tools, 20)
    deltas[:4] *= -1.0
    updates = updates_of(deltas, start, layout)
    assert not guard(tools, evidence=1e6, confirm=1.0).combine(updates).reasons
    for rule in (guard(tools, evidence=0.0, confirm=1.0), guard(tools, evidence=1e6, confirm=0.01)):
        reasons = rule.combine(updates).reasons
        assert set(reasons) == {0, 1, 2, 3}
        assert set(reasons.values()) == {"raises the loss on the server's examples"}


@pytest.mark.parametrize("evidence", [0.0, 1.0, 2.5])
def test_the_spread_of_harms_is_that_of_the_better_half(evidence):
    """Median 5; the gaps below it are 5, 4, 3, 1, 0, of median 3; the top is free."""
    harm = torch.tensor([1.0, 0.0, 2.0, 4.0, 5.0, 50.0, 60.0, 1e9, 6.0], dtype=torch.float64)
    wanted = 5.0 + evidence * 1.4826 * 3.0
    assert beyond_the_others(harm, evidence) == pytest.approx(wanted)


@pytest.mark.parametrize(
    ("evidence", "confirm", "found"), [(3.0, 0.01, 1.0), (2.5, 1.0, 1.0), (3.0, 1.0, 0.5)]
)
def test_harmful_updates_of_ordinary_size_are_found_on_server_data(tools, evidence, confirm, found):
    """Where clients hold two labels each, honest harm is spread wide: each one's shows less."""
    deltas, start, layout = trained(tools, 20, labels_per_client=2)
    deltas[:4] *= -1.0
    rule = guard(tools, evidence=evidence, confirm=confirm)
    caught, wronged = rates(rule.combine(updates_of(deltas, start, layout)), 4)
    assert caught == found
    assert wronged == 0.0


def test_verification_lowers_the_servers_loss(tools):
    deltas, start, layout = trained(tools, 12)
    deltas[:3] *= -1.0
    verified = guard(tools).combine(updates_of(deltas, start, layout)).delta
    losses = []
    for delta in (verified, deltas.mean(dim=0)):
        layout.load(tools.model, start + delta)
        with torch.no_grad():
            losses.append(float(functional.cross_entropy(tools.model(tools.x), tools.y)))
    assert losses[0] < losses[1]


@pytest.mark.parametrize(("useful", "cap"), [(True, 10.0), (False, 3.0)])
def test_large_claims_count_only_where_they_lower_the_servers_loss(tools, useful, cap):
    deltas, start, layout = trained(tools, 8)
    if not useful:
        deltas[7] = 0.0
    claims = [10.0] * 7 + [1e6]
    updates = ClientUpdates.from_matrix(deltas, claims, None, start, layout)
    weights = guard(tools, margin=0.999).combine(updates).weights
    assert float(weights[7] / weights[0]) == pytest.approx(cap)


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("margin", -1.0),
        ("confirm", 1.5),
        ("evidence", -0.5),
        ("evidence", math.nan),
        ("trigger_margin", 1.0),
        ("trigger_budget", 0.0),
        ("max_norm_ratio", 1.0),
    ],
)
def test_bad_arguments_are_named(argument, value):
    with pytest.raises(ConfigurationError, match=argument):
        Sentinel(**{argument: value})


@pytest.mark.parametrize(
    ("length", "opposition", "gone"),
    [(2.0, 3.0, 2), (1.5, 3.0, 2), (0.5, 3.0, 0), (2.0, 0.0, 0)],
)
def test_who_pulls_against_the_others_goes_if_that_is_asked_for(length, opposition, gone):
    """Half a length is below the floor; see `reject_opposed`."""
    deltas = torch.randn(10, 300, generator=torch.Generator().manual_seed(1)) + 0.5
    deltas[:2] *= -length
    verdict = Sentinel(opposition=opposition).combine(ClientUpdates.from_matrix(deltas))
    told = [row for row, why in verdict.reasons.items() if "pulls against" in why]
    assert told == list(range(gone))
