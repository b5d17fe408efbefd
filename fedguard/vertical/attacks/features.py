"""Feature reconstruction: a curious label holder trains a generator against released rows."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fedguard.errors import check_number
from fedguard.randomness import generator, stream_seed
from fedguard.vertical.attacks.base import Evidence, VerticalAttack
from fedguard.vertical.privacy import clip_rows
from fedguard.vertical.terms import SeenParty

_NOISE = 16


class FeatureReconstruction(VerticalAttack):
    r"""The label holder reconstructs a passive party's features from what that party released.

    A generator G maps the attacker's own features, the victim's released embedding and noise to
    the victim's features; it is trained so that the victim's model (which leaked: white box) maps
    them back, plus a pull towards the few features it knows and their spread. Gradients do flow
    through f to G. Luo et al., "Feature Inference Attack on Model Predictions in Vertical Federated
    Learning", ICDE 2021, with embeddings in place of predictions: the stronger view.

    Measured on training rows that the generator never saw, from the last round's releases:
    ``feature_mse`` per normalised feature, ``baseline_mse`` of guessing the mean, and
    ``output_mse`` between embeddings of true and of reconstructed features. `success` is the
    share of the baseline's error that is gone, at least 0.

    Parameters
    ----------
    known_rows : int
        Rows of the victim's features that the attacker knows, >= 0.
    epochs : int
        Passes over the released rows, >= 1.
    parties : tuple of int, optional
        The victims; drawn as attackers would be if left out. The attacker is the label holder.

    Notes
    -----
    .. math::
       \min_G \; t \, \left\lVert f(G(x_{\mathrm{own}}, \tilde{h}, r)) - \tilde{h} \right\rVert^2
       + \left\lVert G(x_{\mathrm{own}}, \tilde{h}, 0) - x \right\rVert_{\mathrm{known}}^2
       + \operatorname{mean} \max(0, \operatorname{var} G - \operatorname{var} x_{\mathrm{known}}),
       \qquad t = \frac{C^2}{C^2 + E \sigma^2}

    where f is the victim's model, clipped as the terms say, :math:`\tilde{h}` what it released, r
    noise, x the victim's features, E the width of an embedding, C the clipping bound and
    :math:`\sigma` the victim's noise (t = 1 without privacy terms); squares are means over rows.
    """

    def __init__(
        self, *, known_rows: int = 50, epochs: int = 30, parties: tuple[int, ...] | None = None
    ) -> None:
        super().__init__(parties=parties)
        check_number("known_rows", known_rows, at_least=0)
        check_number("epochs", epochs, at_least=1)
        self.known_rows, self.epochs = known_rows, epochs

    def measure(self, evidence: Evidence) -> dict[str, float]:
        """Train a generator per victim; return the errors, averaged over victims."""
        results = [self._attack(evidence, evidence.parties[p]) for p in evidence.attackers]
        return {name: sum(r[name] for r in results) / len(results) for name in results[0]}

    def _attack(self, evidence: Evidence, victim: SeenParty) -> dict[str, float]:
        own = evidence.parties[0].view.x_train.flatten(1)
        released = last_releases(victim, evidence.last_round)
        x = victim.view.x_train
        stream = generator(evidence.seed, 0, victim.index, "reconstruction")
        order = torch.randperm(len(x), generator=stream)
        held, seen = order[: len(x) // 5], order[len(x) // 5 :]
        known = seen[: self.known_rows]
        model = self._fit(victim, own, released, x, seen, known, evidence.seed, stream)
        model.eval()
        with torch.no_grad():
            noise = torch.zeros(len(held), _NOISE, device=x.device)
            guess = model(torch.cat([own[held], released[held], noise], dim=1)).view_as(x[held])
            truth = x[held]
            victim.bottom.eval()
            error = float((guess - truth).square().mean())
            base = float((x[seen].mean(dim=0) - truth).square().mean())
            output = float((victim.bottom(guess) - victim.bottom(truth)).square().mean())
        return {
            "feature_mse": error,
            "baseline_mse": base,
            "output_mse": output,
            "success": max(0.0, 1.0 - error / base),
        }

    @staticmethod
    def _trust(victim: SeenParty) -> float:
        """Return how much a released embedding can be trusted: 1 without noise, towards 0."""
        privacy = victim.terms.privacy
        if privacy is None:
            return 1.0
        noise = victim.terms.embedding * victim.sigma**2
        return privacy.clip**2 / (privacy.clip**2 + noise)

    def _fit(
        self,
        victim: SeenParty,
        own: Tensor,
        released: Tensor,
        x: Tensor,
        seen: Tensor,
        known: Tensor,
        seed: int,
        stream: torch.Generator,
    ) -> nn.Module:
        width = own.shape[1] + released.shape[1] + _NOISE
        features = x[0].numel()
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(stream_seed(seed, 0, victim.index, "generator"))
            model = nn.Sequential(
                nn.Linear(width, 256), nn.LayerNorm(256), nn.ReLU(), nn.Linear(256, features)
            ).to(x.device)
        optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)
        victim.bottom.eval()
        for parameter in victim.parameters:
            parameter.requires_grad_(False)
        for _ in range(self.epochs):
            order = seen[torch.randperm(len(seen), generator=stream)]
            for ids in torch.split(order, 64):
                optimiser.zero_grad()
                loss = self._loss(model, victim, own, released, x, ids, known, stream)
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
        for parameter in victim.parameters:
            parameter.requires_grad_(True)
        return model

    def _loss(
        self,
        model: nn.Module,
        victim: SeenParty,
        own: Tensor,
        released: Tensor,
        x: Tensor,
        ids: Tensor,
        known: Tensor,
        stream: torch.Generator,
    ) -> Tensor:
        noise = torch.randn((len(ids), _NOISE), generator=stream).to(x.device)
        guess = model(torch.cat([own[ids], released[ids], noise], dim=1))
        back = victim.bottom(guess.view(len(ids), *victim.view.shape))
        if victim.terms.privacy is not None:
            back = clip_rows(back, victim.terms.privacy.clip)
        loss: Tensor = self._trust(victim) * (back - released[ids]).square().sum(dim=1).mean()
        if len(known) > 1:
            facts = x[known].flatten(1)
            inputs = torch.cat(
                [own[known], released[known], torch.zeros(len(known), _NOISE, device=x.device)], 1
            )
            spread = (guess.var(dim=0) - facts.var(dim=0)).clamp_min(0.0).mean()
            loss = loss + (model(inputs) - facts).square().sum(dim=1).mean() + spread
        return loss


def last_releases(victim: SeenParty, server_round: int) -> Tensor:
    """Return (N, E) what a party's model releases of every row, noise as in its last round."""
    h = victim.clean_embeddings()
    if victim.sigma == 0.0:
        return h
    stream = generator(victim.seed, server_round, victim.index, "vertical-noise/attack")
    return h + victim.sigma * torch.randn(h.shape, generator=stream).to(h.device)
