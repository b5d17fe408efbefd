"""Hypocritical noise: pictures that are easier than they are, so that small changes fool."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from fedguard.attacks.base import Scene
from fedguard.attacks.toolkit.clean_label import trained_surrogate
from fedguard.attacks.toolkit.pictures import Pictures
from fedguard.attacks.toolkit.poisoning import drawn_share
from fedguard.attacks.toolkit.survey import Tags
from fedguard.data.dataset import Dataset
from fedguard.errors import check_number
from fedguard.metrics.adversarial import pgd_accuracy, pgd_examples
from fedguard.randomness import SERVER, generator


class Hypocritical(Pictures):
    r"""Perturb a client's pictures so that a network finds their right labels easier.

    The noise strengthens the very features that small
    changes of a picture can take away, and whoever trains on it leans on them. Labels stay right,
    accuracy hardly falls; what falls is the accuracy on test pictures that an adversary moves.

    Tao, Feng, Wei, Yi, Huang and Chen, "Can Adversarial Training Be Manipulated By Non-Robust
    Features?", NeurIPS 2022: against adversarial training, f trained on all of the data. Here f is
    a small network trained on the client's own pictures, and clients train without adversarial
    examples, so that there is less to lose: compare with a run of ``malicious: 0``.

    Parameters
    ----------
    eps : float
        Largest change of a pixel, above 0 to 1, on images from 0 to 1.
    steps : int
        Steps of the search, at least 1.
    epochs : int
        Passes of the surrogate, at least 1.
    poison_fraction : float
        Share of the client's pictures that are perturbed, 0 to 1.
    pgd_eps : float
        Largest change of a test picture's pixel in the measurement, above 0 to 1.
    pgd_rows : int
        Test pictures that are measured on, at least 1; as many as there are, if fewer.

    Notes
    -----
    .. math::
       x' = x + \operatorname{argmin}_{\lVert d \rVert_\infty \le \varepsilon} \, L(f(x + d), y)

    where x is a picture in [0, 1] with its right label y, f the surrogate and L the cross-entropy.

    Examples
    --------
    >>> import torch
    >>> from fedguard.attacks.hypocritical import Hypocritical
    >>> from fedguard.data.digits import Digits
    >>> attack, data = Hypocritical(steps=3, epochs=1, eps=0.1), Digits().load(None)
    >>> attack.bind(data.num_classes, data.input_shape)
    >>> attack.meet(data)
    >>> x, y = data.x_train[:60], data.y_train[:60]
    >>> poisoned, labels = attack.poison(x, y, torch.Generator().manual_seed(0))
    >>> bool((labels == y).all()), 0.0 < float((poisoned - x).abs().max()) <= 0.1 + 1e-6
    (True, True)
    """

    tags: ClassVar[Tags | None] = Tags(edits="inputs", stealth="hidden", impact="robustness")

    def __init__(
        self,
        *,
        eps: float = 0.1,
        steps: int = 20,
        epochs: int = 10,
        poison_fraction: float = 1.0,
        pgd_eps: float = 0.1,
        pgd_rows: int = 200,
    ) -> None:
        check_number("eps", eps, above=0.0, at_most=1.0)
        check_number("steps", steps, at_least=1)
        check_number("epochs", epochs, at_least=1)
        check_number("poison_fraction", poison_fraction, at_least=0.0, at_most=1.0)
        check_number("pgd_eps", pgd_eps, above=0.0, at_most=1.0)
        check_number("pgd_rows", pgd_rows, at_least=1)
        self.eps, self.steps, self.epochs = eps, steps, epochs
        self.poison_fraction = poison_fraction
        self.pgd_eps, self.pgd_rows = pgd_eps, pgd_rows
        self._asked = torch.empty(0), torch.empty(0, dtype=torch.int64)

    def meet(self, dataset: Dataset) -> None:
        """Draw the test pictures that are measured on; see `Attack.meet`."""
        super().meet(dataset)
        stream = generator(0, 0, SERVER, "pgd rows")
        rows = torch.randperm(len(dataset.y_test), generator=stream)[: self.pgd_rows]
        self._asked = dataset.x_test[rows], dataset.y_test[rows]

    def poison(self, x: Tensor, y: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return the pictures, a share of them made easier; see `Attack.poison`."""
        rows = drawn_share(torch.arange(len(y)), self.poison_fraction, rng).to(y.device)
        if not len(rows):
            return x, y
        with torch.enable_grad():
            model = trained_surrogate(self.shown(x), y, self._num_classes, rng, epochs=self.epochs)
        poisoned = x.clone()
        poisoned[rows] = pgd_examples(
            lambda images: model(self.shown(images)),
            x[rows],
            y[rows],
            eps=self.eps,
            steps=self.steps,
            towards=True,
        )
        return poisoned, y

    def measure(self, scene: Scene) -> dict[str, float | None]:
        """Return the share of test pictures that stay right when moved against the model."""
        told = super().measure(scene)
        x, y = self._asked
        if not len(y):
            return told
        device = next(scene.model.parameters()).device
        scene.model.eval()
        told["robust_accuracy"] = pgd_accuracy(
            lambda images: scene.model(self.shown(images)),
            x.to(device),
            y.to(device),
            eps=self.pgd_eps,
            steps=10,
        )
        return told
