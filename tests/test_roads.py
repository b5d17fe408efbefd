"""Roads that geminiguard did not take: runs are configurations, forms do what they say."""

from __future__ import annotations

import pytest
import torch

from fedguard.config import parse
from fedguard.strategies.toolkit.server_tools import ServerTools
from fedguard.updates import ClientUpdates, ParameterLayout
from simulations import geminiguard_roads
from simulations.road_forms import Elsewhere, OnAggregates, Representatives, Signs, groups_of


@pytest.fixture
def tools():
    model = torch.nn.Sequential(torch.nn.Linear(12, 6), torch.nn.ReLU(), torch.nn.Linear(6, 3))
    x = torch.randn(40, 12, generator=torch.Generator().manual_seed(1)) + 5.0
    return ServerTools(model, x, torch.arange(40) % 3, "1", 3)


def round_of(tools, count=12) -> ClientUpdates:
    layout = ParameterLayout.from_module(tools.model)
    deltas = torch.randn(count, layout.size, generator=torch.Generator().manual_seed(2)) + 0.5
    start = torch.zeros(layout.size)
    return ClientUpdates.from_matrix(deltas, None, None, start, layout)


def test_every_cell_is_a_configuration_and_none_is_twice():
    wanted = list(geminiguard_roads.cells("data", 1, 10))
    assert len({str(cell) for cell in wanted}) == len(wanted)
    forms = {parse(dict(cell.values)).strategy.name for cell in wanted}
    assert {"fedavg", "geminiguard"} < forms


def test_other_rows_take_the_place_of_the_servers(tools):
    """Also where the server lends them after the rule is made, as it does with plug-ins."""
    rule = Elsewhere(rows="noise")
    rule.tools = tools
    rule.combine(round_of(tools))
    assert rule.tools is not None
    assert rule.tools.x.shape == tools.x.shape
    assert abs(float(rule.tools.x.mean())) < 1.0 < float(tools.x.mean())


def test_a_cluster_counts_once_however_many_are_in_it(tools):
    updates = round_of(tools)
    rule = Representatives()
    rule.tools = tools
    labels = torch.as_tensor(groups_of(updates))
    verdict = rule.combine(updates)
    trust = verdict.scores["trust"]
    for label in labels.unique():
        share = float(verdict.weights[labels == label].sum())
        everybody = sum(float(trust[labels == one][0]) for one in labels.unique())
        assert share == pytest.approx(float(trust[labels == label][0]) / everybody)


@pytest.mark.parametrize("form", [Signs, OnAggregates])
def test_a_form_decides_on_everybody(form, tools):
    rule = form()
    rule.tools = tools
    updates = round_of(tools)
    verdict = rule.combine(updates)
    assert bool(torch.isfinite(verdict.delta).all())
    assert float(verdict.weights.sum()) == pytest.approx(1.0)
    if form is Signs:
        assert set(verdict.scores) == set(geminiguard_roads.SIGNS)
