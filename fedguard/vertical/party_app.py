"""A party as a Flower client: answers questions about embeddings, keeps features and noise.

The bottom model and everything else that changes lives in the node's Flower context between
messages, so that any process may answer any of them.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message
from torch import Tensor

from fedguard.config import SimulationConfig
from fedguard.models.device import resolve_device
from fedguard.vertical import messages
from fedguard.vertical.parties import Party
from fedguard.vertical.parts import World
from fedguard.vertical.releases import LoneParty

STATE_KEY = "party-state"


class Hosts:
    """The parties that this process has answered for, each with its state before any message."""

    def __init__(self, config: SimulationConfig) -> None:
        self._world = World(config, resolve_device(config.device))
        self._hosted: dict[int, tuple[LoneParty, dict[str, Tensor]]] = {}

    def party(self, index: int) -> LoneParty:
        """Return a party as it was before its first message."""
        if index not in self._hosted:
            party = self._world.party(index)
            fresh = {name: value.clone() for name, value in party.state().items()}
            self._hosted[index] = LoneParty(party), fresh
        lone, fresh = self._hosted[index]
        lone.party.load_state(fresh)
        return lone


@lru_cache(maxsize=2)
def _hosts(config_json: str) -> Hosts:
    return Hosts(SimulationConfig.model_validate_json(config_json))


def find_party(config_json: str, index: int) -> LoneParty:
    """Return a party of this process as it was before its first message."""
    return _hosts(config_json).party(index)


def embed(lone: LoneParty, message: Message, context: Context, simulated: bool) -> Message:
    """Answer with the release of a batch."""
    _load(lone.party, context)
    facts, ids = messages.facts_of(message), messages.tensors_of(message)["ids"]
    released = lone.embed(_whole(facts, "server-round"), _whole(facts, "batch"), ids)
    _save(lone.party, context)
    return Message(messages.content(released), reply_to=message)


def learn(lone: LoneParty, message: Message, context: Context, simulated: bool) -> Message:
    """Take a step on the gradient of the batch released last."""
    _load(lone.party, context)
    facts = messages.facts_of(message)
    gradient = messages.tensors_of(message)["gradient"].to(lone.party.device)
    lone.learn(gradient, _real(facts, "loss"), _real(facts, "contribution"))
    _save(lone.party, context)
    return Message(messages.content(), reply_to=message)


def settle(lone: LoneParty, message: Message, context: Context, simulated: bool) -> Message:
    """End a round and claim epsilon and cost for the next one."""
    _load(lone.party, context)
    claim = lone.party.settle()
    _save(lone.party, context)
    facts: dict[str, messages.Fact] = {"epsilon": claim.epsilon, "cost-ratio": claim.cost_ratio}
    return Message(messages.content(None, **facts), reply_to=message)


def embed_test(lone: LoneParty, message: Message, context: Context, simulated: bool) -> Message:
    """Answer with the embeddings of the test rows."""
    _load(lone.party, context)
    facts = messages.facts_of(message)
    triggered = simulated and bool(facts["triggered"])
    found = lone.party.embed_test(_whole(facts, "server-round"), triggered=triggered)
    return Message(messages.content({"embedding": found}), reply_to=message)


def state(lone: LoneParty, message: Message, context: Context, simulated: bool) -> Message:
    """Show a simulated party's state."""
    _load(lone.party, context)
    return Message(messages.content(lone.party.state()), reply_to=message)


def restore(lone: LoneParty, message: Message, context: Context, simulated: bool) -> Message:
    """Give a simulated party a state back."""
    lone.party.load_state(messages.tensors_of(message))
    _save(lone.party, context)
    return Message(messages.content(), reply_to=message)


ANSWERS = {
    "embed": embed,
    "learn": learn,
    "settle": settle,
    "embed_test": embed_test,
    "state": state,
    "restore": restore,
}


def _load(party: Party, context: Context) -> None:
    """Bring a party to the state that its node kept, if it kept one."""
    record = context.state.array_records.get(STATE_KEY)
    if record is not None:
        party.load_state(
            {name: torch.from_numpy(array.numpy().copy()) for name, array in record.items()}
        )


def _save(party: Party, context: Context) -> None:
    context.state[STATE_KEY] = ArrayRecord(
        {name: Array(value.cpu().contiguous().numpy()) for name, value in party.state().items()}
    )


def _whole(facts: ConfigRecord, name: str) -> int:
    value = facts[name]
    if not isinstance(value, int):
        raise ValueError(f"{name} is no whole number")
    return value


def _real(facts: ConfigRecord, name: str) -> float:
    value = facts[name]
    if not isinstance(value, int | float):
        raise ValueError(f"{name} is no number")
    return float(value)
