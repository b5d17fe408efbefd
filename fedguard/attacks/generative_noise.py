"""Generative noise: an encoder-decoder learns which noise teaches a network nothing."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from fedguard.attacks.toolkit.clean_label import Surrogate
from fedguard.attacks.toolkit.pictures import Pictures
from fedguard.attacks.toolkit.poisoning import drawn_share
from fedguard.attacks.toolkit.survey import Tags
from fedguard.errors import check_number

_RATE = 0.2
_BATCH = 16


class GenerativeNoise(Pictures):
    r"""Add noise that a network makes of each picture, so that training on it misleads.

    In each of `trials` trials:

    1. a fresh classifier is trained on what g makes now, and its course is written down;
    2. along that course, g is moved so that one more step of the classifier on its pictures makes
       the loss on clean ones larger, with the slope through that step.

    Feng, Cai and Zhou, "Learning to Confuse: Generating Training Time Adversarial Data with
    Auto-Encoder", NeurIPS 2019, on all of the data; here a client's own pictures, a small
    classifier, a small encoder-decoder, and 10 trials in place of hundreds. Untargeted: what falls
    is the accuracy. On 200 digits, 20 trials cost a small network trained on them 20 points, noise
    of an untaught encoder-decoder none (one seed).

    Parameters
    ----------
    eps : float
        Largest change of a pixel, above 0 to 1, on images from 0 to 1.
    trials : int
        Trials, at least 1.
    epochs : int
        Passes of the classifier in each, at least 1.
    width : int
        Width of the encoder-decoder, at least 1.
    poison_fraction : float
        Share of the client's pictures that get noise, 0 to 1.

    Notes
    -----
    .. math::
       \max_\xi \sum_t L\left( f_{\theta_t - \eta \nabla_\theta L(f_{\theta_t}(x_\xi), y)}(x), y
       \right), \qquad
       x_\xi = \operatorname{clip}_{[0, 1]}(x + \varepsilon g_\xi(x)), \quad |g_\xi| \le 1

    where :math:`\theta_t` is the course of a fresh classifier f that is trained on the pictures
    :math:`x_\xi` with their right labels y, L the cross-entropy, :math:`\eta` the rate of that
    training and :math:`g_\xi` the encoder-decoder.

    Examples
    --------
    >>> import torch
    >>> from fedguard.attacks.generative_noise import GenerativeNoise
    >>> from fedguard.data.digits import Digits
    >>> attack, data = GenerativeNoise(trials=1, epochs=1, eps=0.2), Digits().load(None)
    >>> attack.bind(data.num_classes, data.input_shape)
    >>> attack.meet(data)
    >>> x, y = data.x_train[:60], data.y_train[:60]
    >>> poisoned, labels = attack.poison(x, y, torch.Generator().manual_seed(0))
    >>> bool((labels == y).all()), 0.0 < float((poisoned - x).abs().max()) <= 0.2 + 1e-6
    (True, True)
    """

    tags: ClassVar[Tags | None] = Tags(
        edits="inputs", stealth="hidden", by=("generative", "bilevel")
    )

    def __init__(
        self,
        *,
        eps: float = 0.3,
        trials: int = 10,
        epochs: int = 8,
        width: int = 16,
        poison_fraction: float = 1.0,
    ) -> None:
        check_number("eps", eps, above=0.0, at_most=1.0)
        check_number("trials", trials, at_least=1)
        check_number("epochs", epochs, at_least=1)
        check_number("width", width, at_least=1)
        check_number("poison_fraction", poison_fraction, at_least=0.0, at_most=1.0)
        self.eps, self.trials, self.epochs, self.width = eps, trials, epochs, width
        self.poison_fraction = poison_fraction

    def poison(self, x: Tensor, y: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return the pictures, a share of them with made noise; see `Attack.poison`."""
        rows = drawn_share(torch.arange(len(y)), self.poison_fraction, rng).to(y.device)
        if not len(rows):
            return x, y
        with torch.enable_grad():
            maker = self.learnt(x, y, rng)
        poisoned = x.clone()
        with torch.no_grad():
            poisoned[rows] = self._noisy(maker, x[rows])
        return poisoned, y

    def learnt(self, x: Tensor, y: Tensor, rng: torch.Generator) -> NoiseMaker:
        """Return the encoder-decoder after all trials on a client's pictures."""
        seeds = torch.randint(2**62, (self.trials + 1,), generator=rng).tolist()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seeds[0])
            maker = NoiseMaker(x.shape[1], self.width).to(x.device)
        optimiser = torch.optim.Adam(maker.parameters(), lr=1e-3)
        for seed in seeds[1:]:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                model = Surrogate(x.shape[1], self._num_classes).to(x.device)
            for start, rows in self._course(model, maker, x, y, rng):
                optimiser.zero_grad()
                ahead = _one_step(model, start, self.shown(self._noisy(maker, x[rows])), y[rows])
                clean = functional_call(model, ahead, (self.shown(x[rows]),))
                torch.autograd.backward(-functional.cross_entropy(clean, y[rows]))
                optimiser.step()
        return maker

    def _course(
        self, model: Surrogate, maker: NoiseMaker, x: Tensor, y: Tensor, rng: torch.Generator
    ) -> list[tuple[dict[str, Tensor], Tensor]]:
        """Train a classifier on noisy pictures; return its parameters before each batch."""
        with torch.no_grad():
            noisy = self.shown(self._noisy(maker, x))
        state = {name: value.detach() for name, value in model.named_parameters()}
        course = []
        for _ in range(self.epochs):
            for rows in torch.split(torch.randperm(len(y), generator=rng).to(x.device), _BATCH):
                course.append((state, rows))
                state = {
                    name: value.detach()
                    for name, value in _one_step(model, state, noisy[rows], y[rows]).items()
                }
        return course

    def _noisy(self, maker: NoiseMaker, x: Tensor) -> Tensor:
        noisy: Tensor = (x + self.eps * maker(x)).clamp(0.0, 1.0)
        return noisy


def _one_step(
    model: nn.Module, state: dict[str, Tensor], x: Tensor, y: Tensor
) -> dict[str, Tensor]:
    """Return a classifier's parameters after one step on a batch, with the slope through it."""
    here = {name: value.detach().requires_grad_() for name, value in state.items()}
    loss = functional.cross_entropy(functional_call(model, here, (x,)), y)
    slopes = torch.autograd.grad(loss, list(here.values()), create_graph=True)
    return {name: here[name] - _RATE * s for name, s in zip(here, slopes, strict=True)}


class NoiseMaker(nn.Module):
    """A small encoder-decoder with one bridge; noise within -1 to 1, without a mean of its own."""

    def __init__(self, planes: int, width: int) -> None:
        super().__init__()
        self.look = nn.Conv2d(planes, width, 3, padding=1)
        self.halve = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)
        self.again = nn.Conv2d(2 * width, 2 * width, 3, stride=2, padding=1)
        self.widen = nn.Conv2d(2 * width, width, 3, padding=1)
        self.decode = nn.Conv2d(2 * width, planes, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Return noise for (B, planes, height, width) pictures."""
        fine = _levelled(self.look(x)).relu()
        coarse = _levelled(self.halve(fine)).relu()
        inner = functional.interpolate(self.again(coarse).relu(), size=coarse.shape[2:])
        wide = functional.interpolate(self.widen(inner).relu(), size=fine.shape[2:])
        # Without levelling the noise soon becomes one colour, from which no slope leads back.
        return (2.0 * _levelled(self.decode(torch.cat([wide, fine], dim=1)))).tanh()


def _levelled(planes: Tensor) -> Tensor:
    """Return planes with mean 0 and deviation 1 in each picture; a plane of one colour is 0."""
    mean = planes.mean(dim=(2, 3), keepdim=True)
    spread = (planes - mean).square().mean(dim=(2, 3), keepdim=True)
    return (planes - mean) * (spread + 1e-5).rsqrt()
