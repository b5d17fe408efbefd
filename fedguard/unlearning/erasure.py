"""`Erasure`: the round of a request, from what clients are asked to what may stand of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from flwr.app import ArrayRecord, Message
from torch import Tensor

from fedguard.config.requests import UnlearnRequest
from fedguard.metrics.classification import predictions
from fedguard.strategies.toolkit.server_tools import ServerTools
from fedguard.unlearning.attribution import contributions
from fedguard.unlearning.costs import ClientLoad
from fedguard.unlearning.instructions import (
    ACTIVATIONS,
    ASCEND,
    activations_content,
    ascend_content,
)
from fedguard.unlearning.memory import Memory
from fedguard.unlearning.method import Activations, Erased, Situation, UnlearningMethod
from fedguard.unlearning.replies import (
    BYTES,
    array_bytes,
    claimed_rows,
    read_activations,
    read_contributions,
)
from fedguard.updates import ClientUpdates

_HALVINGS = 4


@dataclass(frozen=True)
class Bounds:
    """How far a client's unlearned model may take the global one.

    Attributes
    ----------
    radius : float
        Largest distance between the two, as a share of the global model's norm.
    tolerance : float
        Held-out accuracy that may be lost, 0 to 1.
    """

    radius: float
    tolerance: float


class Erasure:
    """One round of a request: ask, read what was answered, erase.

    Parameters
    ----------
    method : UnlearningMethod
        Says what is asked, and makes the new model.
    memory : Memory
        Who and what is forgotten already; odd answers are noted here.
    situation : Situation
        What the server knows before it asks.
    tools : ServerTools
        The server's model and the rows that nobody trained on.
    bounds : Bounds
        For methods that hold a client's answer against the held-out rows.
    """

    def __init__(
        self,
        method: UnlearningMethod,
        memory: Memory,
        situation: Situation,
        tools: ServerTools,
        bounds: Bounds,
    ) -> None:
        self.method, self.memory, self.situation = method, memory, situation
        self.tools, self.bounds = tools, bounds

    # --- what is asked -----------------------------------------------------------------------

    def messages(
        self, arrays: ArrayRecord, nodes: Sequence[int], server_round: int
    ) -> list[Message]:
        """Return the instructions of the round."""
        requests = self.situation.requests
        by_client = {request.client: request for request in requests}
        found = []
        if "ascent" in self.method.asks:
            found += [
                self._ascend_message(request, server_round)
                for request in requests
                if request.client in nodes
            ]
        if "activations" in self.method.asks:
            gone = self.memory.forgotten_clients
            for node in nodes:
                if node not in gone:
                    request = by_client.get(node) or self.memory.partial(node)
                    content = activations_content(arrays, request, server_round)
                    found.append(Message(content, dst_node_id=node, message_type=ACTIVATIONS))
        return found

    def _ascend_message(self, request: UnlearnRequest, server_round: int) -> Message:
        situation, tools = self.situation, self.tools
        assert request.client is not None
        origin = self.method.origin(situation, request)
        settings = self.method.settings(situation, request)
        if self.method.held_out:
            norm = float(origin[: situation.layout.num_trainable].double().norm())
            settings = replace(settings, radius=self.bounds.radius * norm)
        # A model that guesses has forgotten; beyond that, ascent only destroys.
        settings = replace(settings, target=max(settings.target, 1.0 / tools.num_classes))
        content = ascend_content(
            situation.layout.to_arrays(origin),
            request,
            settings,
            (tools.x, tools.y) if self.method.held_out else None,
            server_round,
            contributions="contributions" in self.method.asks,
        )
        return Message(content, dst_node_id=request.client, message_type=ASCEND)

    # --- what was answered -------------------------------------------------------------------

    def erase(self, replies: Iterable[Message], server_round: int) -> Erased:
        """Return what the method makes of the answers; a finite model in any case."""
        found = list(replies)
        climbs, measured = _climbs(found), _measurements(found)
        situation = replace(
            self.situation,
            climbed=self._climbed(climbs),
            activations=self._measured(measured),
            contributions=self._contributed(climbs),
            held_out_contributions=self._held_out_contributions(),
        )
        erased = self.method.erase(situation)
        notes = self.memory.notes
        if "activations" in self.method.asks and not situation.activations:
            notes.append(f"round {server_round}: no client sent activations")
        if "contributions" in self.method.asks and not situation.contributions:
            notes.append(f"round {server_round}: no requester sent contributions")
        if not bool(torch.isfinite(erased.vector).all()):
            notes.append(f"round {server_round}: the erased model was not finite")
            return replace(erased, vector=situation.vector)
        return erased

    def loads(self, replies: Iterable[Message]) -> list[ClientLoad]:
        """Return what the round cost each client that answered."""
        model = BYTES * self.situation.layout.size
        held = self.tools.x.numel() * BYTES if self.method.held_out else 0
        told = 2 * BYTES * self._units if "contributions" in self.method.asks else 0
        found = list(replies)
        loads: dict[int, ClientLoad] = {}
        for message, down, up in [
            *((m, model + held, model + told) for m in _climbs(found)),
            *((m, model, array_bytes(m)) for m in _measurements(found)),
        ]:
            node = message.metadata.src_node_id
            trained, forwarded = claimed_rows(message)
            entry = loads.get(node, ClientLoad(node, 0.0, 0.0, 0, 0))
            loads[node] = ClientLoad(
                node,
                entry.trained + trained,
                entry.forwarded + forwarded,
                # The global model travels once to a client that is asked two things.
                max(entry.down, down),
                entry.up + up,
            )
        return list(loads.values())

    @property
    def _units(self) -> int:
        return sum(layer.units for layer in self.situation.layers)

    def _measured(self, replies: list[Message]) -> dict[int, Activations]:
        """Return the activations that make sense, by client."""
        found = {}
        for message in replies:
            node = message.metadata.src_node_id
            activations = read_activations(message, self.tools.num_classes, self._units)
            if activations is None:
                self.memory.notes.append(f"client {node}'s activations make no sense: set aside")
            else:
                found[node] = activations
        return found

    def _contributed(self, replies: list[Message]) -> dict[int, Tensor]:
        """Return the requesters' contributions that make sense, by client."""
        asked = {request.client for request in self.situation.requests}
        found: dict[int, Tensor] = {}
        if "contributions" not in self.method.asks:
            return found
        for message in replies:
            node = message.metadata.src_node_id
            values = read_contributions(message, self._units)
            if values is not None and node in asked:
                found[node] = values
        return found

    def _held_out_contributions(self) -> Tensor | None:
        if "contributions" not in self.method.asks:
            return None
        situation, tools = self.situation, self.tools
        situation.layout.load(tools.model, situation.vector.to(tools.x.device))
        return contributions(tools.model, situation.layers, tools.x, tools.y)

    def _climbed(self, replies: list[Message]) -> dict[int, Tensor]:
        """Return the unlearned models' deltas that may stand, hostile ones bounded or dropped."""
        situation, notes = self.situation, self.memory.notes
        found: dict[int, Tensor] = {}
        if "ascent" not in self.method.asks:
            return found
        for request in situation.requests:
            mine = [m for m in replies if m.metadata.src_node_id == request.client]
            if not mine or request.client is None:
                notes.append(f"client {request.client} did not unlearn")
                continue
            origin = self.method.origin(situation, request)
            updates = ClientUpdates.from_replies(mine[:1], origin, situation.layout)
            if not len(updates):
                reason = updates.malformed.get(request.client, "")
                notes.append(f"client {request.client} did not unlearn: {reason}")
                continue
            delta = updates.deltas[0]
            found[request.client] = (
                self.bounded(delta, request.client) if self.method.held_out else delta
            )
        return found

    def bounded(self, delta: Tensor, client: int) -> Tensor:
        """Bring a client's (D,) step into the ball, then halve it until non-members bear it."""
        situation = self.situation
        trainable = situation.layout.num_trainable
        limit = self.bounds.radius * float(situation.vector[:trainable].double().norm())
        size = float(delta[:trainable].double().norm())
        if size > limit:
            delta = delta * (limit / size)
        before = self.held_out_accuracy(situation.vector)
        # The mix is what will stand; it lies between the model and one that the client stopped at.
        share = 1.0 - self.method.options.alpha
        for _ in range(_HALVINGS):
            mixed = situation.vector + share * delta
            if self.held_out_accuracy(mixed) >= before - self.bounds.tolerance:
                return delta
            delta = delta / 2.0
        self.memory.notes.append(f"client {client}'s unlearned model would have done harm: dropped")
        return torch.zeros_like(delta)

    def held_out_accuracy(self, vector: Tensor) -> float:
        """Return a (D,) model's accuracy on the server's rows."""
        tools = self.tools
        self.situation.layout.load(tools.model, vector.to(tools.x.device))
        found = predictions(tools.model, tools.x).argmax(dim=1)
        return float((found == tools.y).double().mean())


def _climbs(replies: list[Message]) -> list[Message]:
    return [m for m in replies if not m.has_error() and "arrays" in m.content]


def _measurements(replies: list[Message]) -> list[Message]:
    return [m for m in replies if not m.has_error() and "activations" in m.content]


def training_loads(updates: ClientUpdates, epochs: int) -> list[ClientLoad]:
    """Return what clients did and sent in a round in which they trained for some epochs."""
    model = BYTES * updates.layout.size
    claims = updates.num_examples.tolist()
    return [
        ClientLoad(node, epochs * examples, 0.0, model, model)
        for node, examples in zip(updates.node_ids, claims, strict=True)
    ]
