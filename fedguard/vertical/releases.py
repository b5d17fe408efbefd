"""What parties release and how they learn from the answer: one alone, or all of a process at once.

Each party's numbers are the same bit for bit whether it is computed alone, behind a message, or
stacked with others: what is stacked is elementwise or a sum within one row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedguard.vertical.parties import Party
from fedguard.vertical.privacy import clip_factors, clip_gradient
from fedguard.vertical.terms import Batch

Opened = list[tuple[Party, Batch]]
"""Parties, each with the batch that it works on."""


@dataclass(frozen=True)
class Stack:
    """One batch of the parties that clip, K of them.

    Attributes
    ----------
    opened : list of (Party, Batch)
        Whose.
    clipped : Tensor
        (K, B, E) embeddings after clipping, without a graph.
    factors : Tensor
        (K, B, 1) what their rows were divided by, 1 or more.
    noise : Tensor
        (K, B, E) noise sigma z; zeros for a party that adds none.
    """

    opened: Opened
    clipped: Tensor
    factors: Tensor
    noise: Tensor

    @property
    def clip(self) -> float:
        """The L2 bound of the rows."""
        privacy = self.opened[0][0].terms.privacy
        assert privacy is not None
        return privacy.clip

    def by_party(self, blocks: Tensor) -> dict[int, Tensor]:
        """Return (K, B, E) blocks by party."""
        return {
            party.index: block
            for (party, _), block in zip(self.opened, blocks.unbind(), strict=True)
        }


class PartyGroup:
    """Parties of one process that release and learn together.

    What they clip and add as noise is computed for all of them at once, the noise of a round is
    drawn at its first batch (4 N E bytes for each party that adds any), and one backward pass goes
    through all bottom models. Where parties have privacy terms, these are the same.

    Parameters
    ----------
    parties : sequence of Party
        In any order.
    """

    def __init__(self, parties: Sequence[Party]) -> None:
        self.parties = {party.index: party for party in parties}
        self._noise: tuple[object, Tensor] | None = None
        self._stack: Stack | None = None

    def release(
        self, indices: Sequence[int], server_round: int, number: int, ids: Tensor
    ) -> dict[int, dict[str, Tensor]]:
        """Return the (B, E) release of each party for a batch, and more where terms ask for it.

        ``h~ = clip(f(x), C) + sigma z``, without clipping and noise where the terms say so.
        """
        parties = [self.parties[index] for index in indices]
        opened = [(party, party.open(server_round, number, ids)) for party in parties]
        found = {party.index: batch.known_output.detach() for party, batch in opened}
        self._stack = stack = self._stacked(opened)
        if stack is not None:
            found |= stack.by_party(stack.clipped)
        liars = [(party, batch) for party, batch in opened if party.attack is not None]
        found |= {party.index: party.lie(batch, found[party.index]) for party, batch in liars}
        if stack is not None:
            meant = torch.stack([found[p.index] for p, _ in stack.opened]) if liars else None
            noisy = (stack.clipped if meant is None else meant) + stack.noise
            found |= stack.by_party(noisy)
        return {
            party.index: party.with_perturbed(batch, found[party.index]) for party, batch in opened
        }

    def learn(
        self, gradients: Mapping[int, Tensor], loss: float, contributions: Mapping[int, float]
    ) -> None:
        """Let each party take its step on what came back for the batch that it released last.

        Parameters
        ----------
        gradients : mapping of int to Tensor
            (B, E) dL/dh~ by party, or the (1,) loss difference of zeroth-order training.
        loss : float
            The batch's L.
        contributions : mapping of int to float
            C_i by party; NaN where none is measured.
        """
        parties = [self.parties[index] for index in gradients]
        opened = [(party, batch) for party in parties if (batch := party.close()) is not None]
        found = {p.index: p.receive(batch, gradients[p.index]) for p, batch in opened}
        by_gradient = [(p, batch) for p, batch in opened if not p.terms.zeroth_order]
        for party, batch in by_gradient:
            party.compute_again(batch)
        stack = self._stack_of(by_gradient)
        if stack is not None:
            stacked = torch.stack([found[party.index] for party, _ in stack.opened])
            _follow_rewards(stack, stacked, loss, contributions)
            found |= stack.by_party(
                clip_gradient(stack.clipped, stack.factors, stacked, stack.clip)
            )
        if by_gradient:
            outputs = [batch.known_output for _, batch in by_gradient]
            torch.autograd.backward(outputs, [found[party.index] for party, _ in by_gradient])
        for party, _ in opened:
            party.take_step()

    def _stacked(self, opened: Opened) -> Stack | None:
        """Clip the batches of the parties that clip, and look their noise up."""
        private = [(party, batch) for party, batch in opened if party.terms.privacy is not None]
        if not private:
            return None
        privacy, batch = private[0][0].terms.privacy, private[0][1]
        assert privacy is not None
        h = torch.stack([batch.known_output.detach() for _, batch in private])
        factors = clip_factors(h, privacy.clip)
        noise = self._noise_of_round([party for party, _ in private], batch.server_round)
        return Stack(private, h / factors, factors, noise.index_select(1, batch.ids))

    def _stack_of(self, opened: Opened) -> Stack | None:
        """Return the stack of the last release if these are its batches, or a new one."""
        stack, self._stack = self._stack, None
        private = [batch for party, batch in opened if party.terms.privacy is not None]
        if stack is not None and len(stack.opened) == len(private):
            pairs = zip(stack.opened, private, strict=True)
            if all(one is other for (_, one), other in pairs):
                return stack
        return self._stacked(opened)

    def _noise_of_round(self, parties: Sequence[Party], server_round: int) -> Tensor:
        """Return (K, N, E) noise sigma z of every row, drawn once a round."""
        key = (server_round, [(party.index, party.sigma) for party in parties])
        if self._noise is None or self._noise[0] != key:
            self._noise = None  # before the next one is drawn: it may be large
            drawn = torch.stack([party.noise_of_round(server_round) for party in parties])
            self._noise = key, drawn
        return self._noise[1]


class LoneParty:
    """A party by itself, as it is behind a message: a group of one.

    Parameters
    ----------
    party : Party
        Who.
    """

    def __init__(self, party: Party) -> None:
        self.party = party
        self._group = PartyGroup([party])

    def embed(self, server_round: int, number: int, ids: Tensor) -> dict[str, Tensor]:
        """Return what the party releases for a batch: (B, E) ``embedding``, and more where asked.

        Zeroth-order training also releases ``perturbed``, the embedding at weights moved by mu u.
        """
        index = self.party.index
        return self._group.release([index], server_round, number, ids)[index]

    def learn(self, gradient: Tensor, loss: float, contributed: float) -> None:
        """Take the step for the batch released last.

        Parameters
        ----------
        gradient : Tensor
            (B, E) dL/dh~, or in zeroth-order training the (1,) loss difference of the
            perturbation.
        loss, contributed : float
            The batch's L and C_i; NaN where the strategy measures no contribution.
        """
        index = self.party.index
        self._group.learn({index: gradient}, loss, {index: contributed})


def _follow_rewards(
    stack: Stack, gradients: Tensor, loss: float, contributions: Mapping[int, float]
) -> None:
    """Add the batch's slope dR_i / d epsilon_i of each party's own reward."""
    if not any(party.follows_reward for party, _ in stack.opened):
        return
    rows = torch.linalg.vecdot(gradients, stack.noise).double()
    along = rows.sum(dim=1).tolist()  # <dL/dh~, sigma z>
    for (party, _), value in zip(stack.opened, along, strict=True):
        if party.follows_reward:
            party.follow_reward(loss, contributions[party.index], value)
