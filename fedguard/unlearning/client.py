"""What a client does when it is told to forget; shared by the simulator and the Flower app."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from flwr.app import ConfigRecord, Message, MetricRecord, RecordDict
from torch import Tensor

from fedguard.clients.training import ClientTrainer
from fedguard.grids.messages import (
    ARRAYS_KEY,
    EXAMPLES_KEY,
    METRICS_KEY,
    model_reply_content,
    server_round_of,
)
from fedguard.randomness import generator
from fedguard.unlearning.attribution import contributions
from fedguard.unlearning.climbing import AscentSettings, ascend
from fedguard.unlearning.instructions import (
    ASCEND,
    CONTRIBUTIONS,
    COUNTS,
    HELD_OUT,
    from_record,
    named_epochs,
    named_rows,
    to_record,
)
from fedguard.unlearning.pruning import class_activations, prunable_layers
from fedguard.unlearning.rows import forgotten_rows

_CONTRIBUTING = 500
"""Rows on which a client measures contributions."""


@contextmanager
def instructed(trainer: ClientTrainer, messages: Iterable[tuple[int, Message]]) -> Iterator[None]:
    """Let clients train without the rows that their instructions name, for as long as they say.

    Parameters
    ----------
    trainer : ClientTrainer
        Trains them; its settings are put back afterwards.
    messages : iterable of tuple of int and Message
        Each client and its instruction.
    """
    federation, settings = trainer.federation, trainer.settings
    epochs: int | None = None
    for client, message in messages:
        forgets, label, share = named_rows(message.content)
        if forgets:
            trainer.left_out[client] = forgotten_rows(federation, client, label, share)
        epochs = named_epochs(message.content) or epochs
    if epochs is not None:
        trainer.settings = replace(settings, local_epochs=epochs)
    try:
        yield
    finally:
        trainer.settings = settings


def answer(message: Message, trainer: ClientTrainer, client: int) -> Message:
    """Return a client's reply to an instruction of unlearning."""
    layout, device = trainer.layout, trainer.federation.device
    arrays = message.content.array_records[ARRAYS_KEY]
    start = layout.vector_from_arrays(arrays).to(device)
    if message.metadata.message_type == ASCEND:
        return _climb(message, trainer, client, start)
    return _measure(message, trainer, client, start)


def _split(
    trainer: ClientTrainer, client: int, message: Message
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Return a client's rows to forget and the others."""
    x, y = trainer.federation.shard(client, attacking=True)
    forgets, label, share = named_rows(message.content)
    gone = torch.zeros(len(y), dtype=torch.bool)
    if forgets:
        gone[forgotten_rows(trainer.federation, client, label, share)] = True
    gone = gone.to(y.device)
    return (x[gone], y[gone]), (x[~gone], y[~gone])


def _climb(message: Message, trainer: ClientTrainer, client: int, start: Tensor) -> Message:
    forget, _ = _split(trainer, client, message)
    device = trainer.federation.device
    record = message.content.array_records.get(HELD_OUT)
    held = (torch.empty(0), torch.empty(0, dtype=torch.long))
    if record is not None:
        tensors = from_record(record)
        held = (tensors["x"].to(device), tensors["y"].to(device))
    config = message.content.config_records["config"]
    settings = AscentSettings.from_config(config)
    server_round = server_round_of(message, 1)
    rng = generator(trainer.seed, server_round, client, "ascent")
    found = ascend(trainer.model, start, forget, held, settings, rng)
    content = model_reply_content(
        trainer.layout, (start + found.delta).cpu(), {EXAMPLES_KEY: max(len(forget[1]), 1)}
    )
    counts: dict[str, int] = {"trained": found.trained, "forwarded": found.forwarded}
    if config.get(CONTRIBUTIONS):
        trainer.model.load(start)
        x, y = _sampled(forget, generator(trainer.seed, server_round, client, "contributions"))
        layers = prunable_layers(trainer.model.module)
        mean = contributions(trainer.model.module, layers, x, y)
        content[CONTRIBUTIONS] = ConfigRecord({"mean": mean.tolist()})
        counts["trained"] += len(y)
    content[COUNTS] = ConfigRecord({**counts, "stopped": found.stopped})
    return Message(content, reply_to=message)


def _sampled(examples: tuple[Tensor, Tensor], rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return at most some hundred drawn examples."""
    x, y = examples
    rows = torch.randperm(len(y), generator=rng)[:_CONTRIBUTING].to(y.device)
    return x[rows], y[rows]


def _measure(message: Message, trainer: ClientTrainer, client: int, start: Tensor) -> Message:
    trainer.model.load(start)
    module = trainer.model.module
    layers = prunable_layers(module)
    classes = trainer.federation.dataset.num_classes
    tensors: dict[str, Tensor] = {}
    rows = 0
    parts = zip(("forget", "retain"), _split(trainer, client, message), strict=True)
    for side, (x, y) in parts:
        sums, counts = class_activations(module, layers, x, y, classes)
        tensors[f"{side}-sums"], tensors[f"{side}-counts"] = sums, counts
        rows += len(y)
    metrics = MetricRecord({EXAMPLES_KEY: rows})
    counts_record = ConfigRecord({"trained": 0, "forwarded": rows})
    content = RecordDict(
        {"activations": to_record(tensors), METRICS_KEY: metrics, COUNTS: counts_record}
    )
    return Message(content, reply_to=message)
