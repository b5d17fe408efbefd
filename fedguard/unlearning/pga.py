"""Projected gradient ascent around the model of the others."""

from __future__ import annotations

from statistics import fmean
from typing import ClassVar

import torch
from torch import Tensor

from fedguard.config.requests import UnlearnRequest
from fedguard.unlearning.climbing import AscentSettings
from fedguard.unlearning.method import Erased, Situation, UnlearningMethod

_RANDOM_MODELS = 10


class ProjectedAscent(UnlearningMethod):
    """Climb from the model of the others, inside a ball around it.

    ``w_ref = (w - p w_i) / (1 - p)`` with p the client's share in the last aggregate, which is
    ``(N w - w_i) / (N - 1)`` for equal shares; ascent from w_ref, projected to the ball of radius a
    third of the mean distance between w_ref and ten random models.

    Halimi et al., "Federated Unlearning: How to Efficiently Erase a Client in FL?", UpML workshop
    at ICML 2022. Departures: the server computes w_ref, from the model that the client sent last;
    a random model is the initial one with the entries of every tensor permuted; the ascent ends
    where `forget_target` says, earlier than at the paper's 12 %; several requesters' results are
    averaged.
    """

    asks: ClassVar[frozenset[str]] = frozenset({"ascent"})
    ascent_lr: ClassVar[float] = 0.02

    def origin(self, situation: Situation, request: UnlearnRequest) -> Tensor:
        """Return w_ref; the global model where the client never took part."""
        last = situation.last_models.get(request.client if request.client is not None else -1)
        if last is None or last.share >= 1.0:
            return situation.vector
        return (situation.vector - last.share * last.model) / (1.0 - last.share)

    def settings(self, situation: Situation, request: UnlearnRequest) -> AscentSettings:
        """Return the configured ascent inside the ball."""
        reference = self.origin(situation, request)
        trainable = situation.layout.num_trainable
        random = [_shuffled(situation) for _ in range(_RANDOM_MODELS)]
        away = [float((reference - one)[:trainable].double().norm()) for one in random]
        return self.options.ascent.plain(radius=fmean(away) / 3.0)

    def erase(self, situation: Situation) -> Erased:
        """Return the mean of the requesters' models; see `UnlearningMethod.erase`."""
        found = [
            self.origin(situation, request) + situation.climbed[request.client]
            for request in situation.requests
            if request.client is not None and request.client in situation.climbed
        ]
        return Erased(torch.stack(found).mean(dim=0) if found else situation.vector)


def _shuffled(situation: Situation) -> Tensor:
    """Return a random model: the initial one's entries, permuted within every tensor."""
    parts = []
    for tensor in situation.layout.unflatten(situation.initial).values():
        flat = tensor.reshape(-1)
        parts.append(flat[torch.randperm(len(flat), generator=situation.rng)])
    return torch.cat(parts)
