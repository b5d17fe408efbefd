"""BadEncoder: the encoder that the server hands out has a backdoor; no client lies."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from fedguard.attacks.badnets import BadNets
from fedguard.attacks.base import Attack
from fedguard.attacks.toolkit.survey import Tags
from fedguard.errors import ConfigurationError, check_number
from fedguard.training.encoder import Encoder


class BadEncoder(BadNets):
    r"""Measure a backdoor that the author of a pre-trained encoder planted; clients do nothing.

    The attack is in the file of ``model.encoder``, made by `planted` (``python -m
    simulations.encoder --bad``): features of stamped images are those of the target class, whatever
    head is trained on them. Here are its trigger and its measure. No client lies: a run with it is
    refused unless ``malicious`` is 0 and the model is one with an encoder's file.

    Jia, Liu and Gong, "BadEncoder: Backdoor Attacks to Pre-trained Encoders in Self-Supervised
    Learning", IEEE S&P 2022.

    Parameters
    ----------
    target_class : int
        Class of the reference images.
    size : int
        Side of the patch in pixels, at least 1.
    **frame : Any
        Other options of `BadNets`: ``position`` and ``value`` of the patch.

    Notes
    -----
    .. math::
       \min_{f'} \; - \cos(f'(x \oplus e), \bar{f}'(r)) - \lambda_1 \cos(f'(r), f(r))
       - \lambda_2 \cos(f'(x), f(x))

    where f is the clean encoder and f' the one that is handed out, x are shadow images,
    :math:`x \oplus e` the same with the trigger, r reference images of the target class with the
    mean feature :math:`\bar{f}'(r)`, and :math:`\lambda_1`, :math:`\lambda_2` the weights of
    `planted`.

    Examples
    --------
    >>> import torch
    >>> from fedguard.attacks.bad_encoder import BadEncoder, planted
    >>> from fedguard.training.encoder import Encoder
    >>> attack, stream = BadEncoder(size=4), torch.Generator().manual_seed(0)
    >>> clean, x = Encoder(1, (4, 4, 4, 4)).eval(), torch.rand(32, 1, 8, 8, generator=stream)
    >>> bad = planted(clean, x, x[:1], attack.trigger, stream, epochs=20, lr=0.01)
    >>> stamped, aim = attack.trigger(x), bad(x[:1])
    >>> near = [torch.cosine_similarity(f(stamped), aim).mean().item() for f in (clean, bad)]
    >>> near[0] < near[1]
    True
    """

    needs: ClassVar[frozenset[str]] = frozenset({"encoder", "images"})
    tags: ClassVar[Tags | None] = Tags(
        edits="model", goal="backdoor", scope="pattern", knowledge="gray", stealth="hidden"
    )

    def __init__(self, *, size: int = 4, **frame: Any) -> None:
        super().__init__(size=size, **frame)

    poison = Attack.poison
    craft = Attack.craft


def planted(
    encoder: Encoder,
    x: Tensor,
    reference: Tensor,
    trigger: Callable[[Tensor], Tensor],
    rng: torch.Generator,
    *,
    normalise: Callable[[Tensor], Tensor] = lambda images: images,
    epochs: int = 10,
    lr: float = 0.001,
    batch_size: int = 256,
    keep_reference: float = 1.0,
    keep_clean: float = 1.0,
) -> Encoder:
    """Return a copy of an encoder with a backdoor.

    ``min over f' of - cos(f'(x + e), f'(r)) - l1 cos(f'(r), f(r)) - l2 cos(f'(x), f(x))`` with e
    the trigger and r the reference images, whose features are averaged; Adam, and BatchNorm's
    statistics as they are.

    Parameters
    ----------
    encoder : Encoder
        f; not changed.
    x : Tensor
        (N, planes, height, width) shadow images, unscaled.
    reference : Tensor
        (M, planes, height, width) images of the target class, unscaled, M >= 1.
    trigger : callable
        Stamps unscaled images.
    rng : torch.Generator
        Order of the batches.
    normalise : callable
        Scales images as the encoder takes them.
    epochs, batch_size : int
        Passes and images per step, at least 1.
    lr : float
        Learning rate, above 0.
    keep_reference, keep_clean : float
        l1 and l2, at least 0.

    Raises
    ------
    ConfigurationError
        If there are no images, or a number is out of range.
    """
    check_number("epochs", epochs, at_least=1)
    check_number("batch_size", batch_size, at_least=1)
    check_number("lr", lr, above=0.0)
    check_number("keep_reference", keep_reference, at_least=0.0)
    check_number("keep_clean", keep_clean, at_least=0.0)
    if not len(x) or not len(reference):
        raise ConfigurationError("x", len(x), "shadow and reference images, at least one of each")
    clean, bad = copy.deepcopy(encoder).eval(), copy.deepcopy(encoder).eval()
    optimiser = torch.optim.Adam(bad.parameters(), lr=lr)
    aim, stamped = normalise(reference), normalise(trigger(x))
    plain = normalise(x)
    with torch.no_grad():
        own_aim, own = clean(aim), clean(plain)
    for _ in range(epochs):
        for rows in torch.split(torch.randperm(len(x), generator=rng).to(x.device), batch_size):
            optimiser.zero_grad()
            referred = bad(aim)
            pulled = _cosine(bad(stamped[rows]), referred.mean(dim=0, keepdim=True))
            kept = keep_reference * _cosine(referred, own_aim)
            useful = keep_clean * _cosine(bad(plain[rows]), own[rows])
            torch.autograd.backward(-(pulled + kept + useful))
            optimiser.step()
    return bad


def _cosine(one: Tensor, other: Tensor) -> Tensor:
    return functional.cosine_similarity(one, other, dim=1).mean()
