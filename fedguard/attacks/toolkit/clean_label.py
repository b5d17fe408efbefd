"""What clean-label attacks share: chosen targets, perturbed pictures with right labels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedguard.attacks.base import Scene
from fedguard.attacks.toolkit.pictures import Pictures
from fedguard.attacks.toolkit.poisoning import check_class, drawn_share
from fedguard.data.dataset import Dataset
from fedguard.errors import ConfigurationError, check_number
from fedguard.metrics.classification import predictions
from fedguard.randomness import SERVER, generator


class CleanLabel(Pictures):
    """Frame of attacks on chosen pictures by pictures that carry their right labels.

    Some test pictures of `source_class` are the targets: they shall be taken for `target_class`,
    untouched. A share of a client's pictures of `target_class` is perturbed; labels stay right, and
    a reviewer of the labels finds nothing. Subclasses write `perturbed`.

    Parameters
    ----------
    target_class : int
        Class of the perturbed pictures, and what the targets shall be taken for.
    source_class : int
        Class of the targets; another one.
    targets : int
        Targets, at least 1; as many as the test set holds, if it holds fewer. More than one are
        hardly taken in together (``docs/repairs.md``).
    poison_fraction : float
        Share of the client's pictures of `target_class` that are perturbed, 0 to 1.
    """

    target_class: int

    def __init__(
        self,
        *,
        target_class: int = 0,
        source_class: int = 1,
        targets: int = 1,
        poison_fraction: float = 1.0,
    ) -> None:
        check_number("target_class", target_class, at_least=0)
        check_number("source_class", source_class, at_least=0)
        check_number("targets", targets, at_least=1)
        check_number("poison_fraction", poison_fraction, at_least=0.0, at_most=1.0)
        if source_class == target_class:
            allowed = f"another class than target_class ({target_class})"
            raise ConfigurationError("source_class", source_class, allowed)
        self.target_class, self.source_class = target_class, source_class
        self.targets, self.poison_fraction = targets, poison_fraction
        self.victims = torch.empty(0)

    def bind(self, num_classes: int, input_shape: tuple[int, ...]) -> None:
        """Check that the task has images and both classes; see `Attack.bind`."""
        super().bind(num_classes, input_shape)
        check_class("target_class", self.target_class, num_classes)
        check_class("source_class", self.source_class, num_classes)

    def meet(self, dataset: Dataset) -> None:
        """Draw the targets among the test pictures of their class; see `Attack.meet`."""
        super().meet(dataset)
        rows = (dataset.y_test == self.source_class).nonzero().flatten()
        if not len(rows):
            told = "a class of which the test set holds pictures"
            raise ConfigurationError("source_class", self.source_class, told)
        order = torch.randperm(len(rows), generator=generator(0, 0, SERVER, "clean-label targets"))
        self.victims = dataset.x_test[rows[order[: self.targets]]]

    def poison(self, x: Tensor, y: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return the pictures, a share of the target class perturbed; see `Attack.poison`."""
        candidates = (y.cpu() == self.target_class).nonzero().flatten()
        rows = drawn_share(candidates, self.poison_fraction, rng).to(y.device)
        if not len(rows) or not len(self.victims):
            return x, y
        with torch.enable_grad():
            changed = self.perturbed(x[rows], x, y, rng)
        poisoned = x.clone()
        poisoned[rows] = changed.detach().to(x).clamp(0.0, 1.0)
        return poisoned, y

    def perturbed(self, own: Tensor, x: Tensor, y: Tensor, rng: torch.Generator) -> Tensor:
        """Return the (M, ...) pictures `own` of the target class, perturbed, unscaled.

        Parameters
        ----------
        own : Tensor
            (M, ...) pictures that are perturbed.
        x, y : Tensor
            All of the client's pictures, unscaled, and their labels.
        rng : torch.Generator
            The client's stream.
        """
        raise NotImplementedError

    def measure(self, scene: Scene) -> dict[str, Any]:
        """Return the share of the targets that are taken for the target class.

        A model that nobody attacked takes some of them for it too: that is the floor which the
        share must be compared with.
        """
        if not len(self.victims):
            return super().measure(scene)
        device = next(scene.model.parameters()).device
        found = predictions(scene.model, self.shown(self.victims).to(device)).argmax(dim=1)
        success = float((found == self.target_class).double().mean())
        return {"attack_success_rate": success, "source_to_target": None}


class Surrogate(nn.Module):
    """A small convolutional network of the attacker's own: features, then one linear layer."""

    def __init__(self, planes: int, num_classes: int, width: int = 16) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(planes, width, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2, ceil_mode=True),
            nn.Conv2d(width, 2 * width, 3, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(4),
            nn.Flatten(),
        )
        self.output = nn.Linear(32 * width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, C) logits of (B, planes, height, width) images."""
        logits: Tensor = self.output(self.features(x))
        return logits


def trained_surrogate(
    x: Tensor, y: Tensor, num_classes: int, rng: torch.Generator, *, epochs: int, lr: float = 0.05
) -> Surrogate:
    """Return a surrogate trained from nothing on pictures as a model is shown them.

    Its weights and batches come from `rng` alone; PyTorch's own stream is left as it was.
    """
    seed = int(torch.randint(2**62, (1,), generator=rng))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Surrogate(x.shape[1], num_classes).to(x.device)
    optimiser = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    for _ in range(epochs):
        for rows in torch.split(torch.randperm(len(y), generator=rng).to(x.device), 16):
            optimiser.zero_grad()
            torch.autograd.backward(functional.cross_entropy(model(x[rows]), y[rows]))
            nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            optimiser.step()
    return model.eval()
