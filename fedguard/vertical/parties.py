"""A party: features, a bottom model, noise that stays with it, and its own view of epsilon."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call

from fedguard.randomness import generator
from fedguard.vertical.attacks.base import VerticalAttack
from fedguard.vertical.data import PartyView
from fedguard.vertical.privacy import clip_rows, noise_multiplier, noise_multiplier_slope
from fedguard.vertical.terms import Batch, Claim, Optimiser, PartyTerms, PrivacyTerms

__all__ = ["Batch", "Claim", "Optimiser", "Party", "PartyTerms", "PrivacyTerms"]

_BATCH = 2048


class Party:
    """One party of a vertical federation.

    Per batch it computes ``h = clip(f(x))``, releases ``h~ = h + sigma(epsilon) z`` and, once the
    gradient dL/dh~ is back, takes an SGD step on its bottom model f. It alone knows z, so it alone
    can follow the slope of its reward in epsilon. `fedguard.vertical.releases` puts these steps
    together, for one party or for all of a process at once.

    Parameters
    ----------
    index : int
        Which party; 0 is the label holder's own.
    view : PartyView
        Its features.
    bottom : nn.Module
        Its bottom model, (B, ...) to (B, E).
    terms : PartyTerms
        What the strategy asks of it.
    optimiser : Optimiser
        Its SGD.
    seed : int
        Seed of its noise. In a simulation this is the run's; in a federation of real parties each
        one should hold a secret of its own, or others could draw its noise again.
    attack : VerticalAttack, optional
        What it does besides, if it lies.
    """

    def __init__(
        self,
        index: int,
        view: PartyView,
        bottom: nn.Module,
        terms: PartyTerms,
        optimiser: Optimiser,
        seed: int,
        attack: VerticalAttack | None = None,
    ) -> None:
        self.index, self.view, self.bottom, self.terms = index, view, bottom, terms
        self.seed, self.attack = seed, attack
        self.parameters = [p for p in bottom.parameters() if p.requires_grad]
        self.optimiser = optimiser.make(self.parameters)
        self.epsilon = terms.initial_epsilon
        self.slope_sum, self.slope_count, self.slope_scale = 0.0, 0, 0.0
        self.memory: dict[str, Tensor] = {}
        self.batch: Batch | None = None

    # --- embeddings ---------------------------------------------------------------------------

    @property
    def device(self) -> torch.device:
        """Where its model and features are."""
        return self.parameters[0].device

    @property
    def sigma(self) -> float:
        """Standard deviation of its noise, per coordinate."""
        privacy = self.terms.privacy
        if privacy is None:
            return 0.0
        factor = self.attack.noise_factor if self.attack else 1.0
        return factor * privacy.sensitivity * noise_multiplier(self.epsilon, privacy.delta)

    @torch.no_grad()
    def _clean(self, x: Tensor) -> Tensor:
        h: Tensor = self.bottom(x)
        return h if self.terms.privacy is None else clip_rows(h, self.terms.privacy.clip)

    def _noise(self, server_round: int, purpose: str, shape: Sequence[int]) -> Tensor:
        stream = generator(self.seed, server_round, self.index, f"vertical-noise/{purpose}")
        drawn: Tensor = self.sigma * torch.randn(*shape, generator=stream)
        return drawn.to(self.device)

    def noise_of_round(self, server_round: int) -> Tensor:
        """Return (N, E) noise sigma z of all rows, each of which is released once in a round.

        A row asked for twice in a round would carry the same noise twice.
        """
        shape = (len(self.view.x_train), self.terms.embedding)
        if self.sigma == 0.0:
            return torch.zeros(shape, device=self.device)
        return self._noise(server_round, "train", shape)

    def open(self, server_round: int, number: int, ids: Tensor) -> Batch:
        """Begin a batch and compute its output; one that had no answer is forgotten."""
        self.batch = Batch(server_round, number, ids.to(self.device))
        self.batch.output = self.bottom(self._inputs(self.batch))
        return self.batch

    def close(self) -> Batch | None:
        """Return the open batch, if there is one, and end it."""
        batch, self.batch = self.batch, None
        return batch

    def _inputs(self, batch: Batch) -> Tensor:
        """Return what goes into the bottom model for a batch, the model set to train."""
        self.bottom.train()
        x = self.view.x_train.index_select(0, batch.ids)
        return self.attack.inputs(self, x, batch.ids) if self.attack else x

    def compute_again(self, batch: Batch) -> None:
        """Fill in a forgotten output, leaving running statistics as the first time did."""
        if batch.output is not None:
            return
        # Copies move in their place; putting the old values back would break the backward pass.
        copies = {name: value.clone() for name, value in self.bottom.named_buffers()}
        batch.output = functional_call(self.bottom, copies, (self._inputs(batch),))

    def lie(self, batch: Batch, h: Tensor) -> Tensor:
        """Return the embedding that an attacker releases for `h`, before noise, still clipped."""
        if self.attack is None:
            return h
        h = self.attack.before_release(self, h, batch.server_round, batch.ids)
        return h if self.terms.privacy is None else clip_rows(h, self.terms.privacy.clip)

    def with_perturbed(self, batch: Batch, embedding: Tensor) -> dict[str, Tensor]:
        """Return a batch's release by name, in zeroth-order training with a second one."""
        if not self.terms.zeroth_order:
            return {"embedding": embedding}
        return {"embedding": embedding, "perturbed": self._perturbed(batch)}

    @torch.no_grad()
    def clean_embeddings(self, *, test: bool = False) -> Tensor:
        """Return (N, E) clipped embeddings without noise, as only the party itself sees them."""
        self.bottom.eval()
        x = self.view.x_test if test else self.view.x_train
        return torch.cat([self._clean(part) for part in torch.split(x, _BATCH)])

    def embed_test(self, server_round: int, *, triggered: bool = False) -> Tensor:
        """Return (M, E) embeddings of the test rows; `triggered` ones carry a trigger."""
        h = self.clean_embeddings(test=True)
        if triggered and self.attack:
            h = self.attack.triggered(self, h)
        privacy = self.terms.privacy
        if privacy is None:
            return h
        h = clip_rows(h, privacy.clip)
        if privacy.at_inference and self.sigma > 0.0:
            h = h + self._noise(server_round, "test", h.shape)
        return h

    # --- learning -----------------------------------------------------------------------------

    def receive(self, batch: Batch, gradient: Tensor) -> Tensor:
        """Return the gradient to learn from; clear the weights' own."""
        if self.attack:
            gradient = self.attack.on_gradient(self, gradient, batch.server_round, batch.ids)
        self.optimiser.zero_grad()
        if self.terms.zeroth_order:
            self._estimate(batch, float(gradient.sum()))
        return gradient

    def take_step(self) -> None:
        """Step on the weights' gradients."""
        if self.attack:
            self.attack.before_step(self)
        self.optimiser.step()

    @property
    def follows_reward(self) -> bool:
        """Whether the party moves its epsilon by its reward."""
        privacy = self.terms.privacy
        if self.terms.reward is None or privacy is None:
            return False
        return privacy.step > 0.0 and self.sigma > 0.0

    def follow_reward(self, loss: float, contributed: float, along_noise: float) -> None:
        """Add a batch's slope of the party's own reward in epsilon; see `RewardRule.slope`.

        Parameters
        ----------
        loss, contributed : float
            The batch's L and C_i.
        along_noise : float
            <dL/dh~, sigma z>, the batch's gradient along the party's noise.
        """
        rule, privacy = self.terms.reward, self.terms.privacy
        assert rule is not None
        assert privacy is not None
        spread = privacy.sensitivity * noise_multiplier_slope(self.epsilon, privacy.delta)
        slope = rule.slope(
            loss=loss,
            contributed=contributed,
            loss_slope=spread * along_noise / self.sigma,
            cost_ratio=self.terms.cost_ratio,
            epsilon=self.epsilon,
        )
        if math.isfinite(slope):  # a block of 1e38 from somebody else makes the loss infinite
            self.slope_sum += slope
            self.slope_count += 1

    def settle(self) -> Claim:
        """Move epsilon by the round's mean slope, then say what holds for the next round.

        ``epsilon <- clip(epsilon + step (max - min) g / max(|g|, running |g|), min, max)``.
        """
        privacy = self.terms.privacy
        if privacy is None:
            return Claim(float("inf"), self.terms.cost_ratio)
        if self.slope_count:
            g = self.slope_sum / self.slope_count
            seen = self.slope_scale > 0.0
            self.slope_scale = 0.9 * self.slope_scale + 0.1 * abs(g) if seen else abs(g)
            room = privacy.epsilon_max - privacy.epsilon_min
            move = privacy.step * room * g / max(abs(g), self.slope_scale, 1e-12)
            moved = self.epsilon + move
            self.epsilon = min(max(moved, privacy.epsilon_min), privacy.epsilon_max)
            self.slope_sum, self.slope_count = 0.0, 0
        honest = Claim(self.epsilon, self.terms.cost_ratio)
        return self.attack.claim(self, honest) if self.attack else honest

    # --- zeroth order -------------------------------------------------------------------------

    def _direction(self, server_round: int, number: int) -> list[Tensor]:
        stream = generator(self.seed, server_round, self.index, f"zeroth-order/{number}")
        drawn = [torch.randn(p.shape, generator=stream) for p in self.parameters]
        norm = torch.stack([u.square().sum() for u in drawn]).sum().sqrt()
        return [(u / norm).to(p.device) for u, p in zip(drawn, self.parameters, strict=True)]

    @torch.no_grad()
    def _perturbed(self, batch: Batch) -> Tensor:
        mu = self.terms.zeroth_order
        direction = self._direction(batch.server_round, batch.number)
        before = [p.clone() for p in self.parameters]
        for p, u in zip(self.parameters, direction, strict=True):
            p.add_(u, alpha=mu)
        h = self._clean(self.view.x_train[batch.ids])
        for p, old in zip(self.parameters, before, strict=True):
            p.copy_(old)
        return h

    def _estimate(self, batch: Batch, difference: float) -> None:
        """Set each parameter's gradient to ``(L(theta + mu u) - L(theta)) / mu * u``."""
        slope = difference / self.terms.zeroth_order
        direction = self._direction(batch.server_round, batch.number)
        for p, u in zip(self.parameters, direction, strict=True):
            p.grad = u * slope

    # --- state --------------------------------------------------------------------------------

    def state(self) -> dict[str, Tensor]:
        """Return everything that changes, as tensors; see `load_state`."""
        found = {f"bottom.{name}": value for name, value in self.bottom.state_dict().items()}
        for place, parameter in enumerate(self.parameters):
            buffer = self.optimiser.state.get(parameter, {}).get("momentum_buffer")
            if buffer is not None:
                found[f"momentum.{place}"] = buffer
        scalars = [self.epsilon, self.slope_sum, self.slope_count, self.slope_scale]
        found["scalars"] = torch.tensor(scalars, dtype=torch.float64)
        found.update({f"memory.{name}": value for name, value in self.memory.items()})
        if self.batch is not None:
            numbers = [self.batch.server_round, self.batch.number]
            found["batch"] = torch.tensor(numbers, dtype=torch.int64)
            found["batch-ids"] = self.batch.ids
        return {name: value.detach() for name, value in found.items()}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Take over a state; what was computed for an open batch is computed again."""
        weights = {
            k.removeprefix("bottom."): v for k, v in state.items() if k.startswith("bottom.")
        }
        self.bottom.load_state_dict(weights)
        self.optimiser.state.clear()
        for place, parameter in enumerate(self.parameters):
            buffer = state.get(f"momentum.{place}")
            if buffer is not None:
                self.optimiser.state[parameter]["momentum_buffer"] = buffer.to(
                    self.device, copy=True
                )
        scalars = state["scalars"].tolist()
        self.epsilon, self.slope_sum, self.slope_scale = scalars[0], scalars[1], scalars[3]
        self.slope_count = int(scalars[2])
        own = [name for name in state if name.startswith("memory.")]
        self.memory = {name.removeprefix("memory."): state[name].clone() for name in own}
        self.batch = None
        if "batch" in state:
            server_round, number = state["batch"].tolist()
            self.batch = Batch(server_round, number, state["batch-ids"].to(self.device))
