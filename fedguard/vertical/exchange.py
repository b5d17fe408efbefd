"""How label holder and parties reach each other: directly in one process, or by messages."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

import torch
from flwr.app import Message, RecordDict
from flwr.serverapp import Grid
from torch import Tensor

from fedguard.vertical import messages
from fedguard.vertical.parties import Party
from fedguard.vertical.releases import PartyGroup
from fedguard.vertical.terms import Claim

Released = dict[int, dict[str, Tensor]]


class Exchange(Protocol):
    """The label holder's view of the parties; blocks are keyed by party, never by order."""

    missing: dict[int, str]
    """Why a party did not answer the last question."""

    def embed(
        self, parties: Sequence[int], server_round: int, number: int, ids: Tensor
    ) -> Released:
        """Ask for the releases of a batch."""
        ...

    def learn(
        self, gradients: Mapping[int, Tensor], loss: float, contributions: Sequence[float]
    ) -> None:
        """Send each party the gradient of its block, the loss and its contribution."""
        ...

    def settle(self, parties: Sequence[int], tokens: Mapping[int, int]) -> dict[int, Claim]:
        """End a round: tell the tokens, hear what holds for the next round."""
        ...

    def embed_test(
        self, parties: Sequence[int], server_round: int, *, triggered: bool = False
    ) -> dict[int, Tensor]:
        """Ask for the embeddings of the test rows."""
        ...

    def states(self, parties: Sequence[int]) -> dict[int, dict[str, Tensor]]:
        """Ask for everything a party holds; only simulated parties answer."""
        ...

    def restore(self, states: Mapping[int, dict[str, Tensor]]) -> None:
        """Give parties a state back; only simulated parties take it."""
        ...


def contribution_of(contributions: Sequence[float], party: int) -> float:
    """Return one party's contribution; NaN where none is measured."""
    return contributions[party] if contributions else float("nan")


class FusedExchange:
    """Parties in this process, called without messages: the engine of simulations.

    It computes the same numbers as the message path, so model and tokens agree bit for bit; what
    it saves is serialisation, state keeping, the second forward pass and, since a `PartyGroup`
    clips and blurs all parties' embeddings at once, most of the small steps.

    Parameters
    ----------
    parties : sequence of Party
        By index.
    """

    def __init__(self, parties: Sequence[Party]) -> None:
        self.parties, self.group = list(parties), PartyGroup(parties)
        self.missing: dict[int, str] = {}

    def embed(
        self, parties: Sequence[int], server_round: int, number: int, ids: Tensor
    ) -> Released:
        """Ask for the releases of a batch."""
        self.missing = {}
        return self.group.release(parties, server_round, number, ids)

    def learn(
        self, gradients: Mapping[int, Tensor], loss: float, contributions: Sequence[float]
    ) -> None:
        """Hand each party the gradient of its block."""
        shares = {p: contribution_of(contributions, p) for p in gradients}
        self.group.learn(gradients, loss, shares)

    def settle(self, parties: Sequence[int], tokens: Mapping[int, int]) -> dict[int, Claim]:
        """End a round."""
        claims = {p: self.parties[p].settle() for p in parties}
        reasons = {p: claim_fault(claim) for p, claim in claims.items()}
        self.missing = {p: reason for p, reason in reasons.items() if reason is not None}
        return {p: claim for p, claim in claims.items() if p not in self.missing}

    def embed_test(
        self, parties: Sequence[int], server_round: int, *, triggered: bool = False
    ) -> dict[int, Tensor]:
        """Return the embeddings of the test rows."""
        return {p: self.parties[p].embed_test(server_round, triggered=triggered) for p in parties}

    def states(self, parties: Sequence[int]) -> dict[int, dict[str, Tensor]]:
        """Return each party's state, copied."""
        return {
            p: {name: value.clone() for name, value in self.parties[p].state().items()}
            for p in parties
        }

    def restore(self, states: Mapping[int, dict[str, Tensor]]) -> None:
        """Give parties a state back."""
        for p, state in states.items():
            self.parties[p].load_state(state)


class MessageExchange:
    """Parties behind a Flower grid: one message each way per question.

    Replies are told apart by their sender. Whatever is late, broken or foreign counts as no
    answer, with the reason in `missing`.

    Parameters
    ----------
    grid : Grid
        Its node ids are party indices.
    timeout : float
        Seconds to wait for the replies to one question.
    """

    def __init__(self, grid: Grid, timeout: float = 3600.0) -> None:
        self.grid, self.timeout = grid, timeout
        self.missing: dict[int, str] = {}

    def _ask(self, kind: str, contents: Mapping[int, RecordDict]) -> dict[int, Message]:
        questions = [
            Message(body, dst_node_id=party, message_type=kind) for party, body in contents.items()
        ]
        self.missing = dict.fromkeys(contents, "no reply")
        answers: dict[int, Message] = {}
        for reply in self.grid.send_and_receive(questions, timeout=self.timeout):
            party = reply.metadata.src_node_id
            if party not in contents or party in answers:
                continue
            if reply.has_error():
                self.missing[party] = f"error reply: {reply.error.reason}"[:200]
                continue
            answers[party] = reply
            del self.missing[party]
        return answers

    def _read(self, answers: Mapping[int, Message]) -> Released:
        found: Released = {}
        for party, reply in answers.items():
            try:
                found[party] = messages.tensors_of(reply)
            except (KeyError, ValueError, TypeError, OSError, EOFError) as error:
                self.missing[party] = f"unreadable reply: {error}"[:200]
        return found

    def embed(
        self, parties: Sequence[int], server_round: int, number: int, ids: Tensor
    ) -> Released:
        """Ask for the releases of a batch."""
        body = {
            p: messages.content({"ids": ids}, **{"server-round": server_round, "batch": number})
            for p in parties
        }
        return self._read(self._ask(f"train.{messages.EMBED}", body))

    def learn(
        self, gradients: Mapping[int, Tensor], loss: float, contributions: Sequence[float]
    ) -> None:
        """Send each party the gradient of its block, the loss and its contribution."""
        body = {
            p: messages.content(
                {"gradient": gradient}, loss=loss, contribution=contribution_of(contributions, p)
            )
            for p, gradient in gradients.items()
        }
        self._ask(f"train.{messages.LEARN}", body)

    def settle(self, parties: Sequence[int], tokens: Mapping[int, int]) -> dict[int, Claim]:
        """Tell the tokens, hear the claims."""
        body = {p: messages.content(tokens=tokens.get(p, 0)) for p in parties}
        claims: dict[int, Claim] = {}
        for party, reply in self._ask(f"train.{messages.SETTLE}", body).items():
            try:
                facts = messages.facts_of(reply)
                claim = Claim(_number(facts["epsilon"]), _number(facts["cost-ratio"]))
            except (KeyError, ValueError, TypeError) as error:
                self.missing[party] = f"unreadable claim: {error}"[:200]
                continue
            reason = claim_fault(claim)
            if reason is None:
                claims[party] = claim
            else:
                self.missing[party] = reason
        return claims

    def embed_test(
        self, parties: Sequence[int], server_round: int, *, triggered: bool = False
    ) -> dict[int, Tensor]:
        """Ask for the embeddings of the test rows."""
        facts: dict[str, messages.Fact] = {"server-round": server_round, "triggered": triggered}
        body = {p: messages.content(None, **facts) for p in parties}
        found = self._read(self._ask(f"evaluate.{messages.EMBED}", body))
        return {p: tensors["embedding"] for p, tensors in found.items() if "embedding" in tensors}

    def states(self, parties: Sequence[int]) -> dict[int, dict[str, Tensor]]:
        """Ask simulated parties for everything they hold."""
        return self._read(
            self._ask(f"query.{messages.STATE}", {p: messages.content() for p in parties})
        )

    def restore(self, states: Mapping[int, dict[str, Tensor]]) -> None:
        """Give simulated parties a state back."""
        self._ask(f"query.{messages.RESTORE}", {p: messages.content(s) for p, s in states.items()})


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{value!r} is no number")
    return float(value)


def claim_fault(claim: Claim) -> str | None:
    """Return why a claim cannot be heard, or None if it can."""
    if not claim.epsilon > 0.0:
        return f"claim of epsilon {claim.epsilon}, expected above 0"
    if not 0.0 < claim.cost_ratio < math.inf:
        return f"claim of cost ratio {claim.cost_ratio}, expected above 0 and finite"
    return None


def fault_of(block: Tensor | None, rows: int, width: int) -> str | None:
    """Return why a block cannot be used, or None if it can."""
    if block is None:
        return "reply without an embedding"
    if tuple(block.shape) != (rows, width):
        return f"embedding of shape {tuple(block.shape)}, expected {(rows, width)}"
    if block.dtype != torch.float32:
        return f"embedding of type {block.dtype}, expected float32"
    # a sum is finite only if all entries are, unless it overflows; then look at each
    if not math.isfinite(float(block.sum())) and not bool(torch.isfinite(block).all()):
        return "embedding with NaN or infinite values"
    return None


def usable(
    released: Released, rows: int, width: int, names: Iterable[str]
) -> tuple[Released, dict[int, str]]:
    """Return the releases that can be used, and why each of the others cannot."""
    good: Released = {}
    faults: dict[int, str] = {}
    for party, tensors in released.items():
        reasons = [fault_of(tensors.get(name), rows, width) for name in names]
        reason = next((one for one in reasons if one), None)
        if reason is None:
            good[party] = tensors
        else:
            faults[party] = reason
    return good, faults
