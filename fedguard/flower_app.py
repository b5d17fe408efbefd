"""The ServerApp and ClientApp that `flwr run`, SuperNodes and Flower's simulation load."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from fedguard.assembly import (
    attacks_in,
    load_dataset,
    make_attack,
    make_federation,
    make_model,
    make_trainer,
    resolve_device,
)
from fedguard.clients.training import ClientTrainer
from fedguard.config import SimulationConfig, assign, load_yaml, parse
from fedguard.grids.flower import PARTITION_KEY, FlowerGrid
from fedguard.grids.messages import (
    EXAMPLES_KEY,
    METRICS_KEY,
    arrays_of,
    model_reply_content,
    server_round_of,
)
from fedguard.metrics.classification import evaluate
from fedguard.simulation import Simulation

_PREVIOUS = "previous-global"


@lru_cache(maxsize=1)
def workplace(config_json: str) -> tuple[SimulationConfig, ClientTrainer]:
    """Return configuration and trainer of this process; made once, shared by its clients."""
    config = SimulationConfig.model_validate_json(config_json)
    device = resolve_device(config.device)
    dataset = load_dataset(config)
    attack = make_attack(config, dataset)
    federation = make_federation(config, dataset, attack, device)
    model = make_model(config, dataset).to(device)
    return config, make_trainer(config, model, federation)


def make_client_app(config_json: str | None = None) -> ClientApp:
    """Return the app of one client, honest or malicious.

    Parameters
    ----------
    config_json : str, optional
        The run's `SimulationConfig`; read from the Flower run configuration if left out.
    """
    app = ClientApp()

    def setting(context: Context) -> tuple[SimulationConfig, ClientTrainer, int]:
        text = config_json or config_from_run(context.run_config).model_dump_json()
        config, trainer = workplace(text)
        return config, trainer, partition_of(context)

    @app.query()
    def query(message: Message, context: Context) -> Message:
        metrics = MetricRecord({PARTITION_KEY: partition_of(context)})
        return Message(RecordDict({METRICS_KEY: metrics}), reply_to=message)

    @app.train()
    def train(message: Message, context: Context) -> Message:
        config, trainer, client = setting(context)
        return train_client(message, context, config, trainer, client)

    @app.evaluate()
    def evaluate_client(message: Message, context: Context) -> Message:
        _, trainer, client = setting(context)
        x, y = trainer.federation.examples(client, attacking=False)
        trainer.model.load(trainer.layout.vector_from_arrays(arrays_of(message)))
        found = evaluate(trainer.model.module, x, y, trainer.federation.dataset.num_classes)
        metrics = MetricRecord(
            {EXAMPLES_KEY: len(y), "loss": found.loss, "accuracy": found.accuracy}
        )
        return Message(RecordDict({METRICS_KEY: metrics}), reply_to=message)

    return app


def train_client(
    message: Message,
    context: Context,
    config: SimulationConfig,
    trainer: ClientTrainer,
    client: int,
) -> Message:
    """Train one client on the model in a message and reply with its model."""
    device = trainer.federation.device
    global_vector = trainer.layout.vector_from_arrays(arrays_of(message)).to(device)
    previous = context.state.array_records.get(_PREVIOUS)
    last_update = (
        None if previous is None else global_vector - trainer.layout.vector_from_arrays(previous)
    )
    if "training" in trainer.federation.attack.needs:
        context.state[_PREVIOUS] = ArrayRecord(dict(arrays_of(message)))
    server_round = server_round_of(message, 1)
    delta = torch.empty_like(global_vector)
    count, loss = trainer.train(
        client,
        server_round,
        global_vector,
        delta,
        attacking=attacks_in(config, server_round),
        last_update=last_update,
    )
    content = model_reply_content(
        trainer.layout,
        (global_vector + delta).cpu(),
        {EXAMPLES_KEY: count, "train-loss": loss},
    )
    return Message(content, reply_to=message)


def partition_of(context: Context) -> int:
    """Return the partition id in a node's configuration."""
    value = context.node_config.get(PARTITION_KEY)
    if not isinstance(value, int):
        raise ValueError(f"start the SuperNode with --node-config '{PARTITION_KEY}=0'")
    return value


def config_from_run(run_config: Mapping[str, Any]) -> SimulationConfig:
    """Return the simulation's configuration from a Flower run configuration.

    ``config`` names a YAML file; every other key is a configuration field, dotted for a part's
    arguments (``strategy.max_clusters``), and wins over the file.
    """
    values: dict[str, Any] = {}
    if path := run_config.get("config"):
        values = load_yaml(Path(str(path)))
    for key, value in sorted(run_config.items()):
        if key not in ("config", "out"):
            assign(values, key, value)
    return parse(values)


def make_server_app(listen: Callable[[dict[str, Any]], None] = lambda _: None) -> ServerApp:
    """Return the app that runs a configured strategy on Flower's grid."""
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        config = config_from_run(context.run_config)
        out = Path(str(context.run_config.get("out") or f"runs/flower-{context.run_id}"))
        Simulation(config).run(out, on_round=listen, grid=FlowerGrid(grid))

    return app


client_app = make_client_app()
server_app = make_server_app()
