"""What a real node puts around its training where the server must not see its update.

The strategy says which mods its clients need, the node's own configuration what it insists on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import cast

from flwr.app import ConfigRecord, Context, Message, MessageType
from flwr.clientapp.typing import ClientAppCallable, Mod

from fedguard import registry
from fedguard.config import SimulationConfig
from fedguard.errors import ConfigurationError
from fedguard.nodes.run_config import client_config
from fedguard.traits import traits_of

INSISTS = "fedguard-encryption"
"""Key of a SuperNode's ``--node-config``: the one strategy that the client takes part in."""


_MODS = "fedguard.client-mods"


def hides_updates(config: SimulationConfig) -> bool:
    """Return whether the strategy's server is not to see a single client's update."""
    return traits_of(registry.find("strategy", config.strategy.name)).visible != "updates"


def encrypting_mod(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """Train and answer as the run's strategy wants of its clients; refuse what would undo it.

    An encrypting client answers nothing else but which place it holds and how good a model is.

    Raises
    ------
    ConfigurationError
        If the node insists on another strategy, or the strategy cannot be deployed.
    ValueError
        If a message asks an encrypting client for something that would show its data.
    """
    kind = message.metadata.message_type
    if kind == MessageType.QUERY:
        return call_next(message, context)
    if kind == MessageType.TRAIN and not message.content.array_records:
        mods = _remembered(context)
        if mods:
            return _within(mods, call_next)(message, context)
    config = client_config(context)
    _check_insisted(config.strategy.name, context)
    if kind == MessageType.EVALUATE or not hides_updates(config):
        return call_next(message, context)
    if kind != MessageType.TRAIN:
        raise ValueError(f"a client that encrypts does not answer {kind!r}")
    return _within(_mods(config, context), call_next)(message, context)


def _check_insisted(strategy: str, context: Context) -> None:
    insists = context.node_config.get(INSISTS)
    if insists is not None and strategy != insists:
        raise ConfigurationError("strategy", strategy, f"{insists} ({INSISTS})")


def _remembered(context: Context) -> list[Mod]:
    """Return the mods that answered this run's last training message, if they can be made again.

    Most messages of a protocol train nothing. Flower starts a process for each, and reading the
    configuration and making the strategy would take most of that process's time.
    """
    found = context.state.config_records.get(_MODS)
    if found is None:
        return []
    _check_insisted(str(found["strategy"]), context)
    pairs = zip(cast("list[str]", found["makers"]), cast("list[str]", found["given"]), strict=True)
    return [_maker(name)(given) for name, given in pairs]


def _maker(name: str) -> Callable[[str], Mod]:
    module, _, function = name.partition(":")
    made: Callable[[str], Mod] = getattr(import_module(module), function)
    return made


def _mods(config: SimulationConfig, context: Context) -> list[Mod]:
    from fedguard.assembly.strategy import create_strategy

    strategy = create_strategy(config)
    deployable = traits_of(strategy).rule and traits_of(strategy).deployable
    mods = strategy.client_mods(context.node_config) if deployable else []  # type: ignore[attr-defined]
    if not mods:
        raise undeployable(config)
    origins = [getattr(mod, "origin", None) for mod in mods]
    if all(origins):
        makers, given = zip(*origins, strict=True)
        context.state[_MODS] = ConfigRecord(
            {"strategy": config.strategy.name, "makers": list(makers), "given": list(given)}
        )
    return mods


def _within(mods: Sequence[Mod], inmost: ClientAppCallable) -> ClientAppCallable:
    """Return what answers a message with every mod around it, the first one outermost."""
    if not mods:
        return inmost
    inner = _within(mods[1:], inmost)
    return lambda message, context: mods[0](message, context, inner)


def undeployable(config: SimulationConfig) -> ConfigurationError:
    """Return the error for a strategy that only makes sense in a simulation."""
    return ConfigurationError(
        "strategy",
        config.strategy.name,
        "in a deployment, one whose clients encrypt for themselves, and without insecure_seed",
    )
