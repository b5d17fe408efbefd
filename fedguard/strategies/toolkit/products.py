"""Low-rank adapters: what clients' products B A have to do with each other, never formed."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fedguard.layout import ParameterLayout
from fedguard.updates import ClientUpdates

_NAMES = (
    ("lora_a", "lora_b"),
    ("lora_A", "lora_B"),
    ("lora_embedding_A", "lora_embedding_B"),
)


@dataclass(frozen=True)
class Pair:
    """Where the two factors of one adapter lie among the trainable tensors."""

    a: int
    b: int


def pairs_of(layout: ParameterLayout) -> list[Pair]:
    """Return a layout's adapters: tensors named alike but for ``lora_a`` and ``lora_b``.

    A is (r, d_in) and B (d_out, r); names as the library peft gives them count as well.
    """
    trained = layout.names[: layout.num_trainable_tensors]
    places = {name: place for place, name in enumerate(trained)}
    found = []
    for name, a in places.items():
        for one, other in _NAMES:
            b = places.get(name.replace(one, other)) if one in name else None
            if b is None:
                continue
            shape_a, shape_b = layout.shapes[a], layout.shapes[b]
            if len(shape_a) == len(shape_b) == 2 and shape_a[0] == shape_b[1]:
                found.append(Pair(a, b))
    return found


def factor(updates: ClientUpdates, place: int) -> Tensor:
    """Return one (K, rows, columns) float64 tensor of all clients' models, not of their deltas."""
    layout = updates.layout
    start, end = layout.offsets[place : place + 2]
    whole = updates.global_vector[start:end].double() + updates.deltas[:, start:end].double()
    return whole.view(len(updates), *layout.shapes[place])


def product_gram(a: Tensor, b: Tensor) -> Tensor:
    """Return the (K, K) inner products ``<B_i A_i, B_j A_j>``, without forming a product.

    ``sum of (B_i^T B_j) * (A_i A_j^T)``, entry by entry: r^2 (d_in + d_out) multiplications for
    each two clients in place of r d_in d_out for each client and d_in d_out for each two.

    Parameters
    ----------
    a, b : Tensor
        (K, r, d_in) and (K, d_out, r).
    """
    left = torch.einsum("kor,los->klrs", b, b)
    right = torch.einsum("kri,lsi->klrs", a, a)
    return (left * right).sum(dim=(2, 3))


def adapter_distances(updates: ClientUpdates) -> Tensor:
    """Return the (K, K) float64 squared distances of clients' models as functions.

    Of every adapter the distance of the products counts; of all other trainable tensors their
    own. Factors that differ but have one product are at no distance.
    """
    pairs = pairs_of(updates.layout)
    inside = {place for pair in pairs for place in (pair.a, pair.b)}
    gram = torch.zeros(len(updates), len(updates), dtype=torch.float64)
    for pair in pairs:
        gram += product_gram(factor(updates, pair.a), factor(updates, pair.b))
    offsets = updates.layout.offsets
    for place in range(updates.layout.num_trainable_tensors):
        if place not in inside:
            part = updates.deltas[:, offsets[place] : offsets[place + 1]].double()
            gram += part @ part.T
    squares = gram.diagonal()
    found = squares[:, None] + squares[None] - 2.0 * gram
    return found.clamp(min=0.0).fill_diagonal_(0.0)


def best_factors(a: Tensor, b: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Return (r, d_in) and (d_out, r) whose product is nearest to the mean of the products.

    Factors are stacked, ``sum w_k B_k A_k = [w_1 B_1, ...] [A_1; ...]``, and the stack, of rank
    K r at most, is cut back to rank r by the singular values of a small matrix between two
    orthogonal ones. Both get the root of each singular value.

    Parameters
    ----------
    a, b : Tensor
        (K, r, d_in) and (K, d_out, r) float64.
    weights : Tensor
        (K,), adding up to 1.
    """
    count, rank, _ = a.shape
    tall = (b * weights.to(b)[:, None, None]).permute(1, 0, 2).reshape(b.shape[1], count * rank)
    wide = a.reshape(count * rank, a.shape[2])
    left, small = torch.linalg.qr(tall)
    right, other = torch.linalg.qr(wide.T)
    u, values, v = torch.linalg.svd(small @ other.T)
    kept = min(rank, len(values))
    root = values[:kept].sqrt()
    new_a, new_b = torch.zeros_like(a[0]), torch.zeros_like(b[0])
    new_b[:, :kept] = left @ (u[:, :kept] * root)
    new_a[:kept] = (right @ (v[:kept].T * root)).T
    return new_a, new_b
