"""SkyMask: masks on every parameter of every client, learnt on the server's examples."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from sklearn.mixture import GaussianMixture
from torch import Tensor

from fedguard.errors import check_number
from fedguard.strategies.base import RobustStrategy
from fedguard.strategies.toolkit.averaging import average, equal_weights, rejections
from fedguard.strategies.toolkit.distances import gram_matrix
from fedguard.strategies.toolkit.server_training import require_tools
from fedguard.updates import ClientUpdates, Verdict


class SkyMask(RobustStrategy):
    r"""Keep the clients whose parameters the server's examples ask for.

    1. mix the updates, coordinate by coordinate, in proportion to the clients' masks;
    2. the masks descend the loss of the mix on the server's examples, all clients' together;
    3. a mixture of two Gaussians on the masks' two leading principal components; the mean of the
       updates of the component with the larger average mask.

    A reading of Yan et al., "SkyMask: Attack-agnostic Robust Federated Learning with Fine-grained
    Learnable Masks", ECCV 2024, of which a short description was at hand: masks on clients'
    parameters, learnt on the server's rows, and a mixture of two. Ours: the normalised form of 1,
    steps of a set length (``step`` times the largest gradient of a round's first step), principal
    components, and the gate: where the two parts are not further apart than `separation` of their
    own spreads, everybody is kept, since a mixture of two always finds two.

    The masks are a second (clients x parameters) matrix in memory.

    Parameters
    ----------
    steps : int
        Steps of the masks, at least 1.
    step : float
        Length of the first step in z at the coordinate with the largest gradient, above 0.
    separation : float
        Least distance of the two parts' means, in standard deviations within them, at least 0.

    Notes
    -----
    .. math::
       w(z) = w + \frac{\sum_k m_k \odot \delta_k}{\sum_k m_k}, \qquad
       m_k = \frac{1}{1 + e^{-z_k}}, \qquad
       z \leftarrow z - \eta \nabla_z \, \ell(w(z))

    where w is the global model, :math:`\delta_k` client k's update, :math:`z_k` one real number per
    parameter, 0 at first, :math:`\ell` the loss on the server's examples, and :math:`\eta` is
    `step` over the largest gradient of the round's first step.

    Examples
    --------
    >>> import torch
    >>> from fedguard.layout import ParameterLayout
    >>> from fedguard.strategies import SkyMask
    >>> from fedguard.updates import ClientUpdates
    >>> model = torch.nn.Sequential(torch.nn.Linear(1, 2, bias=False))
    >>> server_data = torch.ones(4, 1), torch.zeros(4, dtype=torch.int64)
    >>> updates = ClientUpdates.from_matrix(
    ...     torch.tensor([[1.0, -1.0], [1.1, -1.0], [1.0, -1.1], [1.1, -1.1], [-3.0, 3.0]]),
    ...     layout=ParameterLayout.from_module(model),
    ... )
    >>> rule = SkyMask(model=model, server_data=server_data, latent_layer="0")
    >>> sorted(rule.decide(updates).reasons)
    [4]
    """

    traits = RobustStrategy.traits.but(server_data="labelled", server_model=True)
    properties: ClassVar[frozenset[str]] = frozenset()

    def __init__(
        self, *, steps: int = 10, step: float = 1.0, separation: float = 3.0, **base: Any
    ) -> None:
        super().__init__(**base)
        check_number("steps", steps, at_least=1)
        check_number("step", step, above=0.0)
        check_number("separation", separation, at_least=0.0)
        self.steps, self.step, self.separation = steps, step, separation

    def combine(self, updates: ClientUpdates) -> Verdict:
        """Return the mean of the clients that are kept; see `RobustStrategy.combine`."""
        masks = self.learn_masks(updates)
        level = torch.stack([row.mean(dtype=torch.float64) for row in masks])
        keep = two_parts(masks, level, self.separation)
        weights = equal_weights(keep)
        reasons = rejections(
            updates, weights, lambda row: f"mask {level[row]:.3f}, in the part with the smaller"
        )
        return Verdict(average(updates, weights), weights, {"mask": level}, reasons)

    def learn_masks(self, updates: ClientUpdates) -> Tensor:
        """Return the (K, T) masks, T trainable parameters, after all steps."""
        deltas = updates.trainable
        logits = torch.zeros_like(deltas)
        rate = 0.0
        for number in range(self.steps):
            masks = torch.sigmoid(logits)
            total = masks.sum(dim=0)
            mixed = (masks * deltas).sum(dim=0) / total
            slope = self._slope(updates, mixed) / total
            # d loss / d z_k = g (delta_k - mixed) / total * m_k (1 - m_k)
            masks.mul_(1.0 - masks).mul_(slope)
            masks *= deltas - mixed
            peak = float(masks.abs().max())
            if number == 0:
                rate = self.step / peak if peak > 0.0 else 0.0
            logits.sub_(masks, alpha=rate)
        return torch.sigmoid(logits)

    def _slope(self, updates: ClientUpdates, moved: Tensor) -> Tensor:
        """Return the (T,) gradient of the loss at the global model plus `moved`."""
        tools, layout = require_tools(self), updates.layout
        vector = updates.global_vector.clone()
        vector[: layout.num_trainable] += moved
        layout.load(tools.model, vector)
        tools.model.eval()
        parameters = dict(tools.model.named_parameters(remove_duplicate=False))
        names = layout.names[: layout.num_trainable_tensors]
        with torch.enable_grad():
            loss = tools.task.losses(tools.model(tools.x), tools.y).mean()
            found = torch.autograd.grad(loss, [parameters[n] for n in names], allow_unused=True)
        sizes = layout.sizes
        rows = [
            torch.zeros(size) if grad is None else grad.detach().reshape(-1).cpu()
            for grad, size in zip(found, sizes, strict=False)
        ]
        return torch.nan_to_num(torch.cat(rows), nan=0.0, posinf=0.0, neginf=0.0)


def two_parts(masks: Tensor, level: Tensor, separation: float) -> Tensor:
    """Return (K,) who is in the part of a two-part mixture with the larger average mask.

    All where there are fewer than four clients, where masks hardly differ, or where the parts are
    not apart.

    Parameters
    ----------
    masks : Tensor
        (K, T).
    level : Tensor
        (K,) average masks.
    separation : float
        Least distance of the parts' means in standard deviations within them.
    """
    everybody = torch.ones(len(masks), dtype=torch.bool)
    centred = masks - masks.mean(dim=0)
    values, vectors = torch.linalg.eigh(gram_matrix(centred))
    if len(masks) < 4 or float(values[-1]) <= 1e-12 * masks.shape[1]:
        return everybody
    points = vectors[:, -2:] * values[-2:].clamp(min=0.0).sqrt()
    points = points / values[-1].sqrt()
    found = GaussianMixture(2, covariance_type="spherical", n_init=1, random_state=0)
    labels = torch.from_numpy(found.fit_predict(points.cpu().numpy()))
    if not 0 < int(labels.sum()) < len(labels):
        return everybody
    parts = [points[labels == side] for side in (0, 1)]
    gap = (parts[0].mean(dim=0) - parts[1].mean(dim=0)).norm()
    within = sum((part - part.mean(dim=0)).square().sum() for part in parts)
    spread = torch.as_tensor(within / max(len(points) - 2, 1)).sqrt()
    if float(gap) < separation * float(spread):
        return everybody
    means = [float(level[labels == side].mean()) for side in (0, 1)]
    return labels == int(means[1] > means[0])
