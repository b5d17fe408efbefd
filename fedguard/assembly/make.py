"""Makes the parts that a configuration names, and finds what does not fit before round 1."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from flwr.serverapp.strategy import Strategy
from torch import nn

from fedguard import registry
from fedguard.attacks.base import Attack
from fedguard.attacks.toolkit.schedule import parse_schedule
from fedguard.clients.federation import Federation, draw_malicious, hold_out_for_server
from fedguard.clients.training import ClientTrainer, TrainingSettings
from fedguard.config import Part, SimulationConfig
from fedguard.data.dataset import Dataset
from fedguard.encryption.protocol.client import Guards
from fedguard.encryption.secagg import SecAggPlus
from fedguard.encryption.strategy import EncryptedStrategy
from fedguard.errors import ConfigurationError, check_number
from fedguard.grids.foreign_app import find_client_app
from fedguard.models.build import build
from fedguard.models.flat import FlatModel
from fedguard.strategies.base import RobustStrategy
from fedguard.strategies.pre_aggregation import make_pre_aggregation
from fedguard.strategies.toolkit.server_tools import ServerTools
from fedguard.unlearning.strategy import SoUL


def attacks_in(config: SimulationConfig, server_round: int) -> bool:
    """Return whether the coalition attacks in a server round."""
    return parse_schedule(config.attack_rounds).active(server_round, config.seed)


def load_dataset(config: SimulationConfig) -> Dataset:
    """Load the data set that a configuration names."""
    loader = registry.create("dataset", config.dataset.name, **config.dataset.arguments)
    dataset = loader.load(config.data_dir)
    if not isinstance(dataset, Dataset):
        raise ConfigurationError("dataset", config.dataset.name, "a loader that returns a Dataset")
    return dataset


def make_attack(config: SimulationConfig, dataset: Dataset) -> Attack:
    """Make the attack and let it check the task."""
    if getattr(registry.find("attack", config.attack.name), "vertical", False):
        raise ConfigurationError(
            "attack", config.attack.name, "it only with a vertical strategy, such as opus-vfl"
        )
    attack = registry.create("attack", config.attack.name, **config.attack.arguments)
    if not isinstance(attack, Attack):
        raise ConfigurationError("attack", config.attack.name, "a subclass of fedguard's Attack")
    if "images" in attack.needs and not dataset.is_image:
        raise ConfigurationError(
            "attack",
            config.attack.name,
            f"an attack that does not need images; {dataset.name} holds none",
        )
    if "aggregate" in attack.needs and not isinstance(create_strategy(config), RobustStrategy):
        raise ConfigurationError(
            "attack",
            config.attack.name,
            f"an attack that needs no copy of the rule; {config.strategy.name} cannot be copied",
        )
    try:
        attack.bind(dataset.num_classes, dataset.input_shape)
    except ConfigurationError as error:
        raise error if error.field.startswith("attack") else error.within("attack") from error
    return attack


def check_client_app(config: SimulationConfig, attack: Attack) -> None:
    """Check that the user's own ClientApp is there and that the attack does not need its data."""
    if config.client_app is None:
        return
    find_client_app(config.client_app.name)
    if {"data", "training", "model"} & attack.needs:
        raise ConfigurationError(
            "attack",
            config.attack.name,
            "one that rewrites updates, such as sign-flip: a client app brings data of its own",
        )


def make_federation(
    config: SimulationConfig, dataset: Dataset, attack: Attack, device: torch.device
) -> Federation:
    """Hold out the server's rows, divide the others among clients and draw the malicious ones."""
    held, rest = hold_out_for_server(
        dataset.y_train, dataset.num_classes, config.server_samples, config.seed
    )
    partition = registry.create("partition", config.partition.name, **config.partition.arguments)
    labels = dataset.y_train[rest]
    split = partition.split(labels, dataset.num_classes, config.clients, config.seed)
    return Federation(
        dataset=dataset,
        shards=[rest[rows] for rows in split.indices],
        malicious=draw_malicious(config.clients, config.malicious, config.seed),
        attack=attack,
        seed=config.seed,
        server_rows=held,
        noise_std=split.noise_std,
        device=device,
    )


def make_model(config: SimulationConfig, dataset: Dataset) -> nn.Module:
    """Build the network, with initial weights that depend on the seed alone."""
    return build(
        config.model.name,
        dataset.input_shape,
        dataset.num_classes,
        config.seed,
        latent_layer=config.latent_layer,
        **config.model.arguments,
    )


def make_trainer(
    config: SimulationConfig, model: nn.Module, federation: Federation
) -> ClientTrainer:
    """Return a trainer with the configuration's hyper-parameters."""
    settings = TrainingSettings(
        lr=config.lr,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        local_epochs=config.local_epochs,
        batch_size=config.batch_size,
    )
    return ClientTrainer(model, federation, settings, config.seed)


def create_strategy(config: SimulationConfig) -> Strategy:
    """Make the strategy, with what the configuration itself decides filled in."""
    part: Part = config.strategy
    known = registry.parameters(registry.find("strategy", part.name))
    cohort = max(1, round(config.fraction * config.clients))
    decided: dict[str, Any] = {
        "seed": config.seed,
        "assumed_malicious": config.assumed_malicious,
        "fraction_train": config.fraction,
        "fraction_evaluate": 0.0,
        "min_train_nodes": cohort,
        "min_evaluate_nodes": 0,
        "min_available_nodes": config.clients,
    }
    filled = {name: value for name, value in decided.items() if name in known}
    _check_sampling(config, part.arguments)
    strategy = registry.create("strategy", part.name, **{**filled, **part.arguments})
    _check_cohort(config, strategy, cohort)
    if not isinstance(strategy, Strategy):
        raise ConfigurationError(
            "strategy", part.name, "a subclass of flwr.serverapp.strategy.Strategy"
        )
    return strategy


def _check_sampling(config: SimulationConfig, arguments: Mapping[str, Any]) -> None:
    """Refuse arguments of Flower's sampling that no round could meet."""
    for name in ("fraction_train", "fraction_evaluate"):
        if name in arguments:
            check_number(f"strategy.{name}", arguments[name], at_least=0.0, at_most=1.0)
    for name in ("min_train_nodes", "min_evaluate_nodes", "min_available_nodes"):
        if name in arguments:
            check_number(f"strategy.{name}", arguments[name], at_least=0, at_most=config.clients)


def _check_cohort(config: SimulationConfig, strategy: Any, cohort: int) -> None:
    """Refuse a cohort that clients of an encrypted strategy would not encrypt for."""
    guards = getattr(strategy, "guards", None)
    fewest = guards.minimum_participants if isinstance(guards, Guards) else 3
    if isinstance(strategy, EncryptedStrategy | SecAggPlus) and cohort < fewest:
        raise ConfigurationError(
            "clients",
            config.clients,
            f"at least {fewest} asked per round with {config.strategy.name}, not {cohort}; "
            "a smaller cohort hides nobody",
        )


def make_strategy(
    config: SimulationConfig, dataset: Dataset, federation: Federation, server_model: FlatModel
) -> Strategy:
    """Make the strategy and give one of ours what it may use: layout, server data, `pre`."""
    strategy = create_strategy(config)
    if not isinstance(strategy, RobustStrategy):
        if config.pre is not None:
            raise ConfigurationError("pre", config.pre, "a fedguard strategy to put it in front of")
        return strategy
    if config.pre is not None:
        strategy.pre = make_pre_aggregation(
            config.pre, assumed_malicious=config.assumed_malicious, seed=config.seed
        )
    strategy.layout = server_model.layout
    if isinstance(strategy, SoUL):
        strategy.requests, strategy.local_epochs = config.unlearn, config.local_epochs
    if strategy.needs_server_tools:
        strategy.tools = _server_tools(config, dataset, federation, server_model.module)
    return strategy


def _server_tools(
    config: SimulationConfig, dataset: Dataset, federation: Federation, model: nn.Module
) -> ServerTools:
    if config.server_samples == 0:
        raise ConfigurationError(
            "server_samples", 0, f"at least 1 with strategy {config.strategy.name}"
        )
    x, y = federation.server_examples()
    return ServerTools(
        model=model,
        x=x,
        y=y,
        latent_layer=str(model.latent_layer),
        num_classes=dataset.num_classes,
    )
