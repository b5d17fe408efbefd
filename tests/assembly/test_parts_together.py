"""What is made of a configuration: cohorts, roles, memory, and parts that do not fit together."""

from __future__ import annotations

import pytest

from fedguard.assembly.capacity import check_memory
from fedguard.assembly.make import load_dataset
from fedguard.assembly.strategy import cohort_of, create_strategy
from fedguard.config import parse
from fedguard.errors import ConfigurationError
from fedguard.runs.simulation import Simulation

SMALL = {"clients": 10, "rounds": 1, "attack": "none"}
HIDDEN = 64
PARAMETERS = 64 * HIDDEN + HIDDEN + HIDDEN * 10 + 10
"""Of an mlp of one hidden layer on 8 x 8 digits with 10 classes."""


@pytest.mark.parametrize(
    ("clients", "fraction", "asked"),
    [(10, 1.0, 10), (10, 0.3, 3), (10, 0.01, 1), (3, 0.5, 2), (1000, 0.001, 1), (7, 0.5, 4)],
)
def test_a_cohort_is_the_rounded_fraction_and_at_least_one(clients, fraction, asked):
    assert cohort_of(parse({"clients": clients, "fraction": fraction})) == asked


def test_roles_depend_on_the_seed_alone():
    values = {**SMALL, "malicious": 0.3, "attack": "sign-flip"}
    roles = [
        Simulation(parse({**values, "seed": seed, "strategy": strategy})).federation.malicious
        for seed, strategy in ((0, "krum"), (0, "median"), (1, "krum"), (2, "krum"))
    ]
    assert roles[0] == roles[1]
    assert len(set(roles[1:])) > 1
    assert all(len(found) == 3 for found in roles)


def test_clients_share_out_what_the_server_does_not_hold():
    config = parse({**SMALL, "partition": "iid", "server_samples": 97})
    simulation = Simulation(config)
    rows = [row for shard in simulation.federation.shards for row in shard.tolist()]
    held = simulation.federation.server_rows.tolist()
    assert len(held) == 97
    assert sorted(rows + held) == list(range(len(simulation.dataset.y_train)))


def test_a_run_fits_exactly_where_the_formula_says():
    config = parse({**SMALL, "model": {"name": "mlp", "hidden": [HIDDEN]}})
    dataset = load_dataset(config)
    data = dataset.x_train.nbytes + dataset.x_test.nbytes
    needed = int(10 * PARAMETERS * 4 * 1.5 + data + 8 * PARAMETERS * 4)
    check_memory(config, dataset, needed)
    with pytest.raises(ConfigurationError) as caught:
        check_memory(config, dataset, needed - 1)
    assert caught.value.field == "clients"
    assert f"{PARAMETERS:,} parameters" in str(caught.value)
    with pytest.raises(ConfigurationError) as caught:
        check_memory(config, dataset, data)
    assert caught.value.field == "model"


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"strategy": "fltrust", "server_samples": 0}, "server_samples"),
        ({"strategy": "flwr.serverapp.strategy:FedAvg", "pre": "nnm"}, "pre"),
        ({"repair": "finetune", "server_samples": 0}, "server_samples"),
        ({"strategy": "xmkckks", "clients": 2, "model": "logistic"}, "clients"),
        ({"training": "fedbn", "model": "logistic"}, "training"),
    ],
)
def test_what_cannot_work_together_is_refused_with_the_field_to_change(changes, field):
    with pytest.raises(ConfigurationError) as caught:
        Simulation(parse({**SMALL, **changes}))
    assert caught.value.field.partition(".")[0] == field


def test_flowers_rules_are_told_of_the_assumed_attackers():
    values = {**SMALL, "assumed_malicious": 0.3}
    krum = create_strategy(parse({**values, "strategy": "flwr.serverapp.strategy:Krum"}))
    assert krum.num_malicious_nodes == 1  # at most a quarter of 10 - 3 clients, for Bulyan's sake
    ours = create_strategy(parse({**values, "strategy": "krum"}))
    assert ours.assumed_malicious == 0.3
