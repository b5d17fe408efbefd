"""CRFL: certifiably robust federated learning."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from fedguard.errors import check_number
from fedguard.layout import ParameterLayout
from fedguard.randomness import SERVER, generator
from fedguard.strategies.base import RobustStrategy, uniform
from fedguard.strategies.norm_clipping import add_noise
from fedguard.strategies.toolkit.averaging import average, clip_factors, median
from fedguard.strategies.toolkit.distances import row_norms, shared_norms
from fedguard.updates import ClientUpdates, Verdict


class CRFL(RobustStrategy):
    r"""Clip the new global model's norm and add noise to it, every round.

    Xie et al., "CRFL: Certifiably Robust Federated Learning against Backdoor Attacks", ICML 2021.
    At test time the paper classifies by a vote over noisy copies of the model: `smoothed_vote`.
    The certificate speaks of bounded changes of the training data; here updates are clipped to
    their median norm as well, since a client that ignores the protocol is not bounded at all.

    Parameters
    ----------
    max_model_norm : float
        rho > 0, norm of the trainable parameters; the paper uses 15 for a small network. It has to
        fit the model: one far below the norm of a good model undoes the training.
    noise_std : float
        sigma >= 0, in units of one parameter; the paper uses 0.01.
    clip : bool
        Whether updates are clipped to the median norm of the round.

    Notes
    -----
    .. math::
       w' = w + \frac{1}{n} \sum_{k=1}^{n} \delta_k \min\left( 1, \frac{\operatorname{med}_j \lVert
       \delta_j \rVert}{\lVert \delta_k \rVert} \right)

    .. math::
       w'' = w' \min\left( 1, \frac{\rho}{\lVert w' \rVert} \right) + \mathcal{N}(0, \sigma^2 I)

    where w is the global model, :math:`\delta_k` client k's update (without the first minimum where
    `clip` is off), n the clients, :math:`\rho` the `max_model_norm`, :math:`\sigma` the
    `noise_std`.

    Examples
    --------
    >>> import torch
    >>> from fedguard.strategies import CRFL
    >>> from fedguard.updates import ClientUpdates
    >>> rows = [[3.0, 12.0], [9.0, 4.0]]
    >>> updates = ClientUpdates.from_matrix(torch.tensor(rows))
    >>> verdict = CRFL(max_model_norm=5.0, noise_std=0.0, clip=False).decide(updates)
    >>> [round(value, 3) for value in verdict.delta.tolist()]
    [3.0, 4.0]
    """

    properties: ClassVar[frozenset[str]] = frozenset({"robust", "noise"})
    traits = RobustStrategy.traits.but(blocks="columns")

    def __init__(
        self,
        *,
        max_model_norm: float = 15.0,
        noise_std: float = 0.01,
        clip: bool = True,
        **base: Any,
    ) -> None:
        super().__init__(**base)
        check_number("max_model_norm", max_model_norm, above=0.0)
        check_number("noise_std", noise_std, at_least=0.0)
        self.max_model_norm = max_model_norm
        self.noise_std = noise_std
        self.clip = clip

    def combine(self, updates: ClientUpdates) -> Verdict:
        """Return the way to the clipped, noised model; see `RobustStrategy.combine`."""
        norms = shared_norms(updates)
        weights = uniform(len(updates))
        delta = average(updates, weights, clip_factors(norms, median(norms)) if self.clip else None)
        trainable = updates.layout.num_trainable
        start = updates.global_vector[:trainable]
        model = start + delta[:trainable]
        shrink = clip_factors(row_norms(model[None, :]), self.max_model_norm)
        delta[:trainable] = model * shrink.to(model.dtype) - start
        add_noise(delta, self.noise_std, updates, self.seed)
        return Verdict(delta, weights, {"norm": norms})


@torch.no_grad()
def smoothed_vote(
    module: nn.Module,
    layout: ParameterLayout,
    vector: Tensor,
    x: Tensor,
    *,
    noise_std: float = 0.01,
    votes: int = 100,
    seed: int = 0,
) -> tuple[Tensor, Tensor]:
    """Classify by the vote of noisy copies of a model.

    Parameters
    ----------
    module : nn.Module
        A model of the architecture; overwritten.
    layout, vector : ParameterLayout, Tensor
        The trained global model, (D,).
    x : Tensor
        (N, ...) examples.
    noise_std : float
        Standard deviation of the noise on every trainable parameter.
    votes : int
        Number of noisy copies M.
    seed : int
        Seed of the noise.

    Returns
    -------
    tuple of Tensor
        (N,) winning classes, the smaller one in a tie, and (N, C) shares of the votes.
    """
    stream = generator(seed, 0, SERVER, "smoothing")
    module.eval()
    counts: Tensor | None = None
    for _ in range(votes):
        noisy = vector.clone()
        noise = torch.randn(layout.num_trainable, generator=stream)
        noisy[: layout.num_trainable] += noise_std * noise.to(vector)
        layout.load(module, noisy)
        logits = module(x)
        ballot = nn.functional.one_hot(logits.argmax(dim=1), logits.shape[1])
        counts = ballot if counts is None else counts + ballot
    if counts is None:
        raise ValueError("a vote needs at least one copy")
    return counts.argmax(dim=1), counts / votes
