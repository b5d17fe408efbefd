"""The ClientApp that SuperNodes and Flower's simulation load; one node is one client.

Flower starts one process per message on a SuperNode, so this module imports little; what trains is
in `fedguard.nodes.answers`.
"""

from __future__ import annotations

from collections.abc import Callable

from flwr.app import Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp.typing import Mod

from fedguard.clients.watch import Watch
from fedguard.config import SimulationConfig
from fedguard.enrolment.mod import enrolment_mod
from fedguard.grids.foreign_app import find_client_app
from fedguard.grids.identity import PARTITION_KEY, SIZE_KEY
from fedguard.nodes.encrypting import encrypting_mod, hides_updates
from fedguard.nodes.run_config import client_config, partition_of
from fedguard.vertical.handlers import add_party_handlers


def make_client_app(config_json: str | None = None) -> ClientApp:
    """Return the app of one client, honest or malicious.

    Parameters
    ----------
    config_json : str, optional
        The run's `SimulationConfig`; read from the Flower run configuration if left out.
    """
    # In a simulation the server's process encrypts for all clients; a real one encrypts for itself.
    mods: list[Mod] = [enrolment_mod]
    if config_json is None:
        mods.append(encrypting_mod)
    app = ClientApp(mods=mods)

    def setting(context: Context) -> SimulationConfig:
        if config_json is not None:
            return SimulationConfig.model_validate_json(config_json)
        return client_config(context)

    @app.query()
    def query(message: Message, context: Context) -> Message:
        place: dict[str, int | float] = {PARTITION_KEY: partition_of(context)}
        if isinstance(size := context.node_config.get(SIZE_KEY), int):
            place[SIZE_KEY] = size
        return Message(RecordDict({"metrics": MetricRecord(dict(place))}), reply_to=message)

    @app.train()
    def train(message: Message, context: Context) -> Message:
        config = setting(context)
        if config.client_app is not None:
            return _their_answer(config, message, context)
        from fedguard.nodes.answers import train_client

        alone = config_json is None and hides_updates(config)
        given, client = config.model_dump_json(), partition_of(context)
        return _in_time(config, lambda: train_client(message, context, given, client, alone=alone))

    def forget(message: Message, context: Context) -> Message:
        from fedguard.nodes.answers import forget_client

        return forget_client(message, setting(context).model_dump_json(), partition_of(context))

    def memory(message: Message, context: Context) -> Message:
        from fedguard.nodes.memory import answer_memory

        return answer_memory(message, context)

    if config_json is not None:  # a real node keeps its memory to itself
        app.query("memory")(memory)
    app.train("unlearn")(forget)
    app.query("activations")(forget)

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        config = setting(context)
        if config.client_app is not None:
            return _their_answer(config, message, context)
        from fedguard.nodes.answers import evaluate_client

        return _in_time(
            config,
            lambda: evaluate_client(
                message, context, config.model_dump_json(), partition_of(context)
            ),
        )

    add_party_handlers(
        app,
        lambda context: (setting(context).model_dump_json(), partition_of(context)),
        simulated=config_json is not None,
    )
    return app


def _their_answer(config: SimulationConfig, message: Message, context: Context) -> Message:
    """Let the user's own ClientApp answer, under its own run configuration.

    Flower does not let a client change its context's; what the app keeps in its state stays.
    """
    own = config.client_app
    assert own is not None
    theirs = Context(
        run_id=context.run_id,
        node_id=context.node_id,
        node_config=context.node_config,
        state=context.state,
        run_config=own.arguments,
    )
    return _in_time(config, lambda: find_client_app(own.name)(message, theirs))


def _in_time(config: SimulationConfig, answer: Callable[[], Message]) -> Message:
    """Return a client's answer.

    One that calls `sys.exit` or outlasts the round's timeout ends with an error of its own, not
    with the process that it shares with others.
    """
    watch = Watch()
    try:
        return watch.call(answer, config.round_timeout)
    finally:
        watch.close()
