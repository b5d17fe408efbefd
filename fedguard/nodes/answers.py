"""What fedguard's ClientApp does with a message; imported with the first one that needs it."""

from __future__ import annotations

import warnings
from functools import lru_cache

import torch
from flwr.app import ArrayRecord, Context, Message, RecordDict

from fedguard.assembly.make import (
    attacks_in,
    load_dataset,
    make_attack,
    make_federation,
    make_model,
    make_trainer,
)
from fedguard.clients.training import ClientTrainer
from fedguard.config import SimulationConfig
from fedguard.grids.messages import (
    EXAMPLES_KEY,
    METRICS_KEY,
    arrays_of,
    model_reply_content,
    server_round_of,
    told_metrics,
    training_config,
)
from fedguard.models.device import resolve_device
from fedguard.nodes.lone_attacker import crafted_alone
from fedguard.nodes.memory import MEMORY, memory_of, memory_record
from fedguard.unlearning.client import answer, instructed

_PREVIOUS = "previous-global"

# Arrays that arrive are read-only and are only read.
warnings.filterwarnings("ignore", message="The given NumPy array is not writable")


@lru_cache(maxsize=1)
def workplace(config_json: str) -> tuple[SimulationConfig, ClientTrainer]:
    """Return configuration and trainer of this process; made once, shared by its clients."""
    config = SimulationConfig.model_validate_json(config_json)
    device = resolve_device(config.device)
    dataset = load_dataset(config)
    attack = make_attack(config, dataset)
    federation = make_federation(config, dataset, attack, device)
    model = make_model(config, dataset, receives=True).to(device)
    return config, make_trainer(config, model, federation)


def train_client(
    message: Message, context: Context, config_json: str, client: int, *, alone: bool = False
) -> Message:
    """Train one client on the model in a message and reply with its model.

    Parameters
    ----------
    message, context : Message and Context
        What Flower hands to a ClientApp.
    config_json : str
        The run's configuration.
    client : int
        Client id.
    alone : bool
        Whether a malicious client crafts its own update: nobody can do it later for a client that
        encrypts.
    """
    config, trainer = workplace(config_json)
    device = trainer.federation.device
    global_vector = trainer.layout.vector_from_arrays(arrays_of(message)).to(device)
    _recall(trainer, context, client)
    previous = context.state.array_records.get(_PREVIOUS)
    last_update = (
        None if previous is None else global_vector - trainer.layout.vector_from_arrays(previous)
    )
    if {"training", "updates"} & trainer.federation.attack.needs:
        context.state[_PREVIOUS] = ArrayRecord(dict(arrays_of(message)))
    server_round = server_round_of(message, 1)
    trainer.report_unread([training_config(message)])
    delta = torch.empty_like(global_vector)
    with instructed(trainer, [(client, message)]):
        count, loss = trainer.train(
            client,
            server_round,
            global_vector,
            delta,
            attacking=attacks_in(config, server_round),
            last_update=last_update,
            config=training_config(message),
        )
    if alone and attacks_in(config, server_round):
        delta = crafted_alone(
            config, trainer, client, server_round, global_vector, delta, count, last_update
        )
    _keep(trainer, context, client)
    content = model_reply_content(
        trainer.layout,
        (global_vector + delta).cpu(),
        {EXAMPLES_KEY: count, "train-loss": loss},
    )
    return Message(content, reply_to=message)


def forget_client(message: Message, config_json: str, client: int) -> Message:
    """Answer an instruction of unlearning on one client's own data."""
    _, trainer = workplace(config_json)
    return answer(message, trainer, client)


def evaluate_client(message: Message, context: Context, config_json: str, client: int) -> Message:
    """Evaluate the model in a message, and what is the client's own of it, on its own data."""
    _, trainer = workplace(config_json)
    _recall(trainer, context, client)
    x, y = trainer.examples(client)
    global_vector = trainer.layout.vector_from_arrays(arrays_of(message))
    trainer.load_for(client, global_vector.to(trainer.federation.device))
    found = trainer.federation.task.evaluate(trainer.model.module, x, y)
    metrics = told_metrics(found, len(y))
    return Message(RecordDict({METRICS_KEY: metrics}), reply_to=message)


def _recall(trainer: ClientTrainer, context: Context, client: int) -> None:
    """Give the trainer what the node kept for its client; processes are shared by clients."""
    record = context.state.array_records.get(MEMORY)
    trainer.memories.pop(client, None)
    if record is not None and trainer.rule.remembers:
        device = trainer.federation.device
        trainer.memories[client] = {
            name: value.to(device) for name, value in memory_of(record).items()
        }


def _keep(trainer: ClientTrainer, context: Context, client: int) -> None:
    """Let the node keep what the training rule remembers of its client."""
    if client in trainer.memories:
        context.state[MEMORY] = memory_record(trainer.memories[client])
