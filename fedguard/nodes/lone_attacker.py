"""What a malicious client does by itself where nobody may rewrite its reply after it left."""

from __future__ import annotations

import torch
from torch import Tensor

from fedguard.assembly.strategy import cohort_of
from fedguard.attacks.base import Knowledge
from fedguard.clients.training import ClientTrainer
from fedguard.config import SimulationConfig
from fedguard.randomness import SERVER, generator
from fedguard.updates import ClientUpdates


def crafted_alone(
    config: SimulationConfig,
    trainer: ClientTrainer,
    client: int,
    server_round: int,
    global_vector: Tensor,
    delta: Tensor,
    count: int,
    last_update: Tensor | None,
) -> Tensor:
    """Return the (D,) delta that a client sends: its own, or what a coalition of one crafts.

    A coalition of one draws from the stream that `fedguard.grids.adversarial.AdversarialGrid`
    draws from, so that a simulation and a deployment meet the same attack.

    Parameters
    ----------
    config, trainer : SimulationConfig and ClientTrainer
        The run; attack and roles are the trainer's.
    client, server_round : int
        Who, when.
    global_vector, delta : Tensor
        (D,) the model that it received, and its honest update.
    count : int
        Its number of examples.
    last_update : Tensor, optional
        (D,) what the server added in the round before.
    """
    attack = trainer.federation.attack
    if "updates" not in attack.needs or client not in trainer.federation.malicious:
        return delta
    own = ClientUpdates.from_matrix(
        delta[None],
        num_examples=[count],
        node_ids=[client],
        global_vector=global_vector,
        layout=trainer.layout,
        server_round=server_round,
    )
    knowledge = Knowledge(
        scope="partial",
        updates=own,
        cohort_size=cohort_of(config),
        num_malicious=1,
        server_round=server_round,
        generator=generator(config.seed, server_round, SERVER, "attack"),
        defence=config.strategy.name,
        last_update=last_update,
    )
    with torch.no_grad():
        return attack.craft(own, knowledge)[0]
