"""A classifier from few labels: MixMatch on fixed features."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedguard.randomness import generator, stream_seed


def draw_known(y: Tensor, per_class: int, num_classes: int, seed: int) -> Tensor:
    """Return the row ids whose labels an attacker knows: `per_class` of each class, by seed."""
    stream = generator(seed, 0, 0, "known-labels")
    order = torch.randperm(len(y), generator=stream)
    labels = y.cpu()[order]
    return torch.cat([order[labels == c][:per_class] for c in range(num_classes)])


def standardised(features: Tensor) -> Tensor:
    """Return (N, F) features with mean 0 and deviation 1 per column."""
    return (features - features.mean(dim=0)) / features.std(dim=0).clamp_min(1e-6)


class FewLabelClassifier:
    """A head on fixed features, trained with few labels and many rows without.

    A reading of MixMatch on feature vectors: guess a label for each unlabelled row as the mean
    over two noisy copies, sharpen it, mix every row with another one, and weigh the unlabelled
    squared error up over time. Berthelot et al., "MixMatch: A Holistic Approach to
    Semi-Supervised Learning", NeurIPS 2019. Alpha 0.75, temperature 0.8, unlabelled weight up to
    50 as in the label inference attacks; jitter stands for image augmentation.

    Parameters
    ----------
    width, num_classes : int
        Columns of the features, and classes.
    seed : int
        Seed of initial weights, batches and jitter.
    steps : int
        Adam steps.
    """

    def __init__(self, width: int, num_classes: int, seed: int, steps: int = 600) -> None:
        self.seed, self.steps, self.num_classes = seed, steps, num_classes
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(stream_seed(seed, 0, 0, "completion"))
            self.head = nn.Sequential(
                nn.Linear(width, 64), nn.LayerNorm(64), nn.ReLU(), nn.Linear(64, num_classes)
            )

    def fit(self, x: Tensor, known: Tensor, labels: Tensor) -> FewLabelClassifier:
        """Train on (N, F) standardised features, of whose rows `known` the labels are known."""
        self.head = self.head.to(x.device)
        stream = generator(self.seed, 0, 0, "completion-batches")
        optimiser = torch.optim.Adam(self.head.parameters(), lr=2e-3)
        targets = functional.one_hot(labels, self.num_classes).float()
        for step in range(self.steps):
            pick = torch.randint(len(known), (16,), generator=stream)
            free = torch.randint(len(x), (64,), generator=stream)
            loss = self._loss(x[known[pick]], targets[pick], x[free], step, stream)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
        return self

    def _loss(
        self, x: Tensor, y: Tensor, free: Tensor, step: int, stream: torch.Generator
    ) -> Tensor:
        noise = 0.1 * torch.randn((2, *free.shape), generator=stream).to(x.device)
        with torch.no_grad():
            guess = torch.stack([self.head(free + one).softmax(1) for one in noise]).mean(0)
            sharp = guess ** (1 / 0.8)
            sharp = sharp / sharp.sum(dim=1, keepdim=True)
        rows, values = torch.cat([x, free + noise[0]]), torch.cat([y, sharp])
        partner = torch.randperm(len(rows), generator=stream)
        mix = float(torch._sample_dirichlet(torch.full((2,), 0.75), generator=stream).max())
        logits = self.head(mix * rows + (1 - mix) * rows[partner])
        wanted = mix * values + (1 - mix) * values[partner]
        supervised = functional.cross_entropy(logits[: len(x)], wanted[: len(x)])
        rest = (logits[len(x) :].softmax(1) - wanted[len(x) :]).square().mean()
        ramp = min(1.0, step / (0.5 * self.steps))
        loss: Tensor = supervised + 50.0 / self.num_classes * ramp * rest
        return loss

    @torch.no_grad()
    def predict(self, x: Tensor) -> Tensor:
        """Return (N,) classes."""
        found: Tensor = self.head(x).argmax(dim=1)
        return found
