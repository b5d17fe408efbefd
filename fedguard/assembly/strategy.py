"""Makes the strategy, gives it what it may use, and refuses what no round could meet."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord
from flwr.common import ndarrays_to_parameters
from flwr.server.strategy import Strategy as OlderStrategy
from flwr.serverapp.strategy import Strategy

from fedguard import registry
from fedguard.assembly.fits import check_task
from fedguard.assembly.make import make_training, server_tools
from fedguard.assembly.plugins import check_plugin
from fedguard.clients.federation import Federation
from fedguard.config import Part, SimulationConfig
from fedguard.config.filled_in import check_not_filled_in
from fedguard.data.dataset import Dataset
from fedguard.errors import ConfigurationError
from fedguard.grids.messages import ROUND_KEY, training_configs
from fedguard.grids.roll_call import RollCall
from fedguard.models.build import latent_activations
from fedguard.models.flat import FlatModel
from fedguard.strategies.base import RobustStrategy
from fedguard.strategies.from_legacy import FromLegacy
from fedguard.strategies.pre_aggregation import PreAggregation, chain
from fedguard.strategies.toolkit.server_tools import ServerTools
from fedguard.tasks.base import task_of
from fedguard.traits import traits_of


def cohort_of(config: SimulationConfig) -> int:
    """Return how many clients are asked per round."""
    return max(1, round(config.fraction * config.clients))


def _decided(config: SimulationConfig) -> dict[str, Any]:
    """Return the arguments of strategies that the configuration's own fields decide.

    Of Flower's rules that want a number of attackers, Bulyan takes least: a quarter of the cohort.
    """
    cohort = cohort_of(config)
    assumed = max(0, min(int(config.assumed_malicious * cohort), (cohort - 3) // 4))
    return {
        "num_malicious_nodes": assumed,
        "num_malicious_clients": assumed,
        "fraction_fit": config.fraction,
        "min_fit_clients": cohort,
        "min_evaluate_clients": 0,
        "min_available_clients": config.clients,
        "seed": config.seed,
        "assumed_malicious": config.assumed_malicious,
        "fraction_train": config.fraction,
        "fraction_evaluate": 0.0,
        "min_train_nodes": cohort,
        "min_evaluate_nodes": 0,
        "min_available_nodes": config.clients,
    }


def create_strategy(config: SimulationConfig, arrays: ArrayRecord | None = None) -> Strategy:
    """Make the strategy, with what the configuration itself decides filled in.

    Parameters
    ----------
    config : SimulationConfig
        The run.
    arrays : ArrayRecord, optional
        The first model, for strategies of Flower's older API that begin with one.
    """
    part: Part = config.strategy
    check_not_filled_in("strategy", part.arguments)
    strategy = _create(config, part.name, part.arguments, arrays)
    cohort = cohort_of(config)
    fewest = traits_of(strategy).smallest_cohort
    if cohort < fewest:
        raise ConfigurationError(
            "clients",
            config.clients,
            f"at least {fewest} asked per round with {part.name}, not {cohort}; "
            "a smaller cohort hides nobody",
        )
    return strategy


def _create(
    config: SimulationConfig, name: str, arguments: Mapping[str, Any], arrays: ArrayRecord | None
) -> Strategy:
    """Make one strategy; an argument that is itself a strategy is made from its name."""
    known = registry.parameters(registry.find("strategy", name))
    decided = _decided(config)
    if arrays is not None and "initial_parameters" in known:
        numbers = [array.numpy() for array in arrays.values()]
        decided["initial_parameters"] = ndarrays_to_parameters(numbers)
    filled = {name: value for name, value in decided.items() if name in known}
    given = dict(arguments)
    for argument, value in arguments.items():
        wanted = known[argument].annotation if argument in known else None
        inner = isinstance(wanted, type) and issubclass(wanted, Strategy | OlderStrategy)
        if inner and isinstance(value, str | Mapping):
            own = {"name": value} if isinstance(value, str) else dict(value)
            found = _create(config, str(own.pop("name", "")), own, arrays)
            given[argument] = getattr(found, "inner", found) if wanted is OlderStrategy else found
    try:
        strategy = registry.create("strategy", name, **{**filled, **given})
    except ConfigurationError:
        raise
    except Exception as error:  # a stranger's constructor can fail in any way
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise ConfigurationError("strategy", name, f"one that can be made ({reason})") from error
    if isinstance(strategy, OlderStrategy):
        return FromLegacy(strategy)
    if not isinstance(strategy, Strategy):
        allowed = "a subclass of flwr.serverapp.strategy.Strategy, or of flwr.server.strategy's"
        raise ConfigurationError("strategy", name, allowed)
    if type(strategy).start is not Strategy.start:
        allowed = "one that leaves start to Flower: this one has its own, which would not be called"
        raise ConfigurationError("strategy", name, allowed)
    return strategy


def make_strategy(
    config: SimulationConfig, dataset: Dataset, federation: Federation, server_model: FlatModel
) -> Strategy:
    """Make the strategy and give one of ours what it may use: layout, server data, `pre`."""
    model = server_model
    strategy = create_strategy(config, model.layout.to_arrays(model.whole_vector()))
    declared = traits_of(strategy)
    check_task("strategy", config.strategy.name, declared, task_of(dataset))
    if not isinstance(strategy, RobustStrategy):
        if config.pre:
            names = ",".join(part.name for part in config.pre)
            raise ConfigurationError("pre", names, "a fedguard strategy to put it in front of")
        _check_messages(config, strategy, server_model)
        return strategy
    if config.check_plugins:
        check_plugin("strategy", config.strategy.name, strategy)
    strategy.pre = make_pre(config)
    if strategy.pre is not None:
        strategy.pre.bind(server_model.layout)
    strategy.bind(server_model.layout)
    strategy.take(config.unlearn, local_epochs=config.local_epochs)
    if declared.tools:
        strategy.tools = lent(config, dataset, federation, server_model)
        if declared.latent and not strategy.tools.latent_layer:
            latent_activations(server_model.module, strategy.tools.x[:1])
    return strategy


def lent(
    config: SimulationConfig, dataset: Dataset, federation: Federation, model: FlatModel
) -> ServerTools:
    """Return what the server lends to a strategy that asks for it.

    Raises
    ------
    ConfigurationError
        On ``server_samples`` where the server holds nothing.
    """
    if config.server_samples == 0:
        raise ConfigurationError(
            "server_samples", 0, f"at least 1 with strategy {config.strategy.name}"
        )
    return server_tools(config, dataset, federation, model)


def make_pre(config: SimulationConfig) -> PreAggregation | None:
    """Make what stands in front of the rule, None for nothing; several become one chain."""
    made = []
    for part in config.pre:
        known = registry.parameters(registry.find("pre", part.name))
        decided = {"assumed_malicious": config.assumed_malicious, "seed": config.seed}
        filled = {name: value for name, value in decided.items() if name in known}
        one = registry.create("pre", part.name, **{**filled, **part.arguments})
        if not isinstance(one, PreAggregation):
            raise ConfigurationError("pre", part.name, "a subclass of PreAggregation")
        made.append(one)
    return chain(made) if made else None


def _check_messages(config: SimulationConfig, strategy: Strategy, model: FlatModel) -> None:
    """Refuse a strategy of a third party whose messages say what no client of ours would obey.

    A copy of the strategy is asked for the messages of round 1. One that cannot be copied, or
    does not answer without a federation, is found out in round 1 instead.
    """
    if config.client_app is not None:
        return
    rule = make_training(config)
    try:
        twin = copy.deepcopy(strategy)
        record = ConfigRecord({ROUND_KEY: 1, **train_config(config)})
        arrays = model.layout.to_arrays(model.whole_vector())
        messages = list(twin.configure_train(1, arrays, record, RollCall(config.clients)))
    except ConfigurationError:
        raise
    except Exception:  # a stranger's strategy may want more than a list of nodes
        return
    said = {key for config in training_configs(messages) for key in config}
    unread = sorted(said - rule.reads)
    if unread:
        raise ConfigurationError(
            "strategy",
            config.strategy.name,
            f"one whose messages training {config.training.name} obeys; it sends "
            f"{', '.join(unread)}, and the rule reads {', '.join(sorted(rule.reads))}",
        )


def train_config(config: SimulationConfig) -> dict[str, Any]:
    """Return what the server's training messages say, beside what the strategy says.

    Flower's quickstart clients read ``lr``, ``local-epochs`` and ``batch-size`` there; fedguard's
    own client has them from the configuration. ``client_config`` wins.
    """
    told: dict[str, Any] = {}
    if config.client_app is not None:
        told = {
            "lr": config.lr,
            "local-epochs": config.local_epochs,
            "batch-size": config.batch_size,
        }
    return {**told, **config.client_config}
