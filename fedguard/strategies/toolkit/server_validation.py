"""Which updates harm the aggregate, judged on examples that the server holds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fedguard.strategies.toolkit.averaging import average, beyond_the_others
from fedguard.strategies.toolkit.distances import shared_norms
from fedguard.strategies.toolkit.server_tools import ServerTools
from fedguard.updates import ClientUpdates

Objective = Callable[[nn.Module], Tensor]
"""A scalar of a model, smaller is better, differentiable in the model's parameters."""


def server_loss(tools: ServerTools) -> Objective:
    """Return the cross-entropy on the server's labelled examples."""
    return lambda model: cross_entropy(model(tools.x), tools.y)


def loss_among_present(tools: ServerTools) -> Objective:
    """Return the cross-entropy on the server's examples among the classes that they show.

    The logits of classes that the server holds no example of are left out, so a client that
    teaches such a class is not blamed for making it likely.
    """
    present = tools.y.bincount().nonzero().flatten()
    own = torch.searchsorted(present, tools.y)
    return lambda model: cross_entropy(model(tools.x)[:, present], own)


@dataclass(frozen=True)
class Pruned:
    """What `prune_harmful` left.

    Attributes
    ----------
    keep : Tensor
        (K,) bool.
    harm : Tensor
        (K,) float64 first-order change of the objective that each client's share of the last
        aggregate causes, relative to the objective; positive is harmful.
    """

    keep: Tensor
    harm: Tensor


def prune_harmful(
    tools: ServerTools,
    objective: Objective,
    updates: ClientUpdates,
    keep: Tensor,
    weights: Tensor,
    factors: Tensor,
    *,
    margin: float,
    fewest: int,
    evidence: float = 0.0,
) -> Pruned:
    """Take clients out of the average, one at a time, as long as the objective falls.

    With ``A(S)`` the weighted average of the clipped updates of a set S and ``L`` the objective,
    such as `server_loss`:

    1. compute ``L`` and its gradient g at ``global + A(S)``;
    2. take the client of the largest harm ``<factor_k d_k, g>``;
    3. stop unless its harm is beyond that of the others by `evidence`, see `beyond_the_others`;
    4. drop it if that lowers L by more than ``margin |g| c / |S|``, c the longest clipped update;
       else stop.

    One client's part in the average is about ``1 / |S|``, so `margin` is the cosine with the
    gradient that an update of length c would need to do that harm. The gradient is taken where all
    the others' updates are in, so a client with few classes is not blamed for what it leaves to
    others.

    Parameters
    ----------
    tools : ServerTools
        Model (overwritten).
    objective : callable
        What is to fall.
    updates : ClientUpdates
        The round.
    keep : Tensor
        (K,) bool, at least one True: where to start.
    weights : Tensor
        (K,) float64, above 0: share of each client before it is normalised over the set.
    factors : Tensor
        (K,) float64 factors that clip the updates.
    margin : float
        Cosine, 0 to below 1; 0 drops whoever harms at all.
    fewest : int
        Size of S below which nobody is dropped any more.
    evidence : float
        Robust standard deviations by which a harm must exceed the median of those still in, at
        least 0; 0 asks for none.
    """
    keep = keep.clone()
    length = float((shared_norms(updates) * factors)[keep].max())

    def judge(kept: Tensor) -> tuple[float, Tensor]:
        load_average(tools, updates, kept, weights, factors)
        return _value_and_gradient(tools, objective, updates)

    loss, gradient = judge(keep)
    harm = _harm(updates, gradient, factors)
    while int(keep.sum()) > max(fewest, 1):
        worst = int(torch.where(keep, harm, -torch.inf).argmax())
        if not float(harm[worst]) > 0.0:
            break
        if evidence > 0.0 and float(harm[worst]) <= beyond_the_others(harm[keep], evidence):
            break
        trial = keep.clone()
        trial[worst] = False
        trial_loss, trial_gradient = judge(trial)
        gain = (loss - trial_loss) * int(keep.sum())
        if not gain > margin * length * float(gradient.norm()):
            break
        keep, loss, gradient = trial, trial_loss, trial_gradient
        harm = _harm(updates, gradient, factors)
    scale = max(abs(loss), torch.finfo(torch.float32).tiny)
    return Pruned(keep, harm / (scale * int(keep.sum())))


def _harm(updates: ClientUpdates, gradient: Tensor, factors: Tensor) -> Tensor:
    return (updates.trainable @ gradient).to(torch.float64) * factors


def load_average(
    tools: ServerTools, updates: ClientUpdates, keep: Tensor, weights: Tensor, factors: Tensor
) -> None:
    """Load the global model plus the weighted average of the kept updates into the tools' model."""
    share = torch.where(keep, weights, 0.0)
    delta = average(updates, share / share.sum(), factors)
    updates.layout.load(tools.model, (updates.global_vector + delta).to(tools.x.device))
    tools.model.eval()


def _value_and_gradient(
    tools: ServerTools, objective: Objective, updates: ClientUpdates
) -> tuple[float, Tensor]:
    """Return the objective of the loaded model and its (T,) gradient."""
    layout = updates.layout
    named = dict(tools.model.named_parameters())
    wanted = [named[name] for name in layout.names[: layout.num_trainable_tensors]]
    with torch.enable_grad():
        loss = objective(tools.model)
        parts = torch.autograd.grad(loss, wanted)
    gradient = torch.cat([part.reshape(-1) for part in parts]).to(updates.deltas.device)
    return float(loss.detach()), gradient.nan_to_num(0.0, 0.0, 0.0)
