"""FLDetector."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedguard.errors import check_number
from fedguard.randomness import SERVER, numpy_generator
from fedguard.strategies.base import RobustStrategy
from fedguard.strategies.toolkit.averaging import equal_weights, rejections
from fedguard.strategies.toolkit.coordinates import coordinate_median
from fedguard.strategies.toolkit.distances import row_norms
from fedguard.strategies.toolkit.sketch import sketch
from fedguard.updates import ClientUpdates, Verdict

Scores = NDArray[np.float64]


def hessian_product(steps: Tensor, changes: Tensor, vector: Tensor) -> Tensor:
    """Return B v, with B the L-BFGS approximation of the Hessian.

    ``B = sigma I - [sigma S, Y] M^-1 [sigma S, Y]^T``, ``M = [[sigma S'S, L], [L', -D]]`` with L
    the strictly lower and D the diagonal part of S'Y (Byrd, Nocedal and Schnabel, 1994).

    Parameters
    ----------
    steps, changes : Tensor
        (N, T) float64 model steps S and gradient changes Y, oldest first; pairs without positive
        curvature are left out. With none left, B = 0.
    vector : Tensor
        (T,) float64.
    """
    curvature = (steps * changes).sum(dim=1)
    useful = curvature > 1e-12 * steps.norm(dim=1) * changes.norm(dim=1)
    steps, changes = steps[useful], changes[useful]
    if len(steps) == 0:
        return torch.zeros_like(vector)
    sigma = (changes[-1] @ steps[-1]) / (steps[-1] @ steps[-1])
    products = steps @ changes.T
    lower = products.tril(-1)
    middle = torch.cat(
        [
            torch.cat([sigma * (steps @ steps.T), lower], dim=1),
            torch.cat([lower.T, -torch.diag(products.diagonal())], dim=1),
        ]
    )
    both = torch.cat([sigma * steps, changes])
    inner: Tensor = torch.linalg.lstsq(middle, (both @ vector)[:, None]).solution[:, 0]
    return sigma * vector - inner @ both


def best_split(scores: Scores) -> tuple[int, float]:
    """Return where to cut sorted scores in two and the within-cluster sum of squares then."""
    sums = [
        float(((low := scores[:cut]) - low.mean()) @ (low - low.mean()))
        + float(((high := scores[cut:]) - high.mean()) @ (high - high.mean()))
        for cut in range(1, len(scores))
    ]
    cut = int(np.argmin(sums))
    return cut + 1, sums[cut]


def has_two_groups(scores: Scores, rng: np.random.Generator, references: int = 20) -> bool:
    """Return whether the gap statistic finds more than one cluster in the scores.

    Tibshirani, Walther and Hastie, 2001, against uniform references: more than one cluster if
    ``Gap(1) < Gap(2) - s(2)``.

    Parameters
    ----------
    scores : ndarray
        (K,) suspicion, any scale.
    rng : numpy.random.Generator
        Draws the references.
    references : int
        How many.
    """
    if len(scores) < 4 or float(np.ptp(scores)) <= 1e-9 * float(np.abs(scores).max()):
        return False

    def dispersion(values: Scores) -> tuple[float, float]:
        ordered = np.sort(values)
        one = float(((ordered - ordered.mean()) ** 2).sum())
        return float(np.log(one + 1e-12)), float(np.log(best_split(ordered)[1] + 1e-12))

    found = dispersion((scores - scores.min()) / float(np.ptp(scores)))
    drawn = np.array([dispersion(rng.uniform(size=len(scores))) for _ in range(references)])
    gaps = drawn.mean(axis=0) - np.array(found)
    error = float(drawn[:, 1].std() * np.sqrt(1.0 + 1.0 / references))
    return bool(gaps[0] < gaps[1] - error)


class FLDetector(RobustStrategy):
    r"""Reject clients whose updates do not follow from their earlier ones.

    1. predict each client's update from its last one, with a Hessian by L-BFGS;
    2. suspicious score: distance from the prediction, divided by the sum over clients, averaged
       over the last `window` rounds;
    3. if the gap statistic finds more than one group of scores, reject the higher of two;
    4. coordinate-wise median of the rest.

    Zhang et al., "FLDetector: Defending Federated Learning Against Model Poisoning Attacks via
    Detecting Malicious Clients", KDD 2022. g is minus the update. A client is predicted from the
    round before only, so one that skipped a round is accepted unscored; rejection holds for the
    round, without the paper's restart of the training. The median, one of the paper's base rules,
    guards the first rounds, in which there is nothing to predict from. Keeps the
    round's updates and ``2 window`` vectors, those of more than 65,536 parameters as a `sketch` of
    an eighth of their length, which knows distances to about 0.4 % or better.

    Parameters
    ----------
    window : int
        N >= 1 rounds.

    Notes
    -----
    .. math::
       s_k^t = \frac{d_k^t}{\sum_j d_j^t}, \qquad
       d_k^t = \left\lVert g_k^t - g_k^{t-1} - H (w_t - w_{t-1}) \right\rVert, \qquad
       g_k^t = -\delta_k^t

    where :math:`\delta_k^t` is client k's update in round t, :math:`w_t` the global model, and H
    the L-BFGS Hessian of the last N rounds' model steps and changes of the median gradient; a
    client's score is the mean of its last N :math:`s_k`.

    Examples
    --------
    >>> import torch
    >>> from fedguard.strategies import FLDetector
    >>> from fedguard.updates import ClientUpdates
    >>> rows = [[1.0, 2.0], [1.2, 2.0], [0.8, 2.3], [90.0, -90.0]]
    >>> updates = ClientUpdates.from_matrix(torch.tensor(rows))
    >>> verdict = FLDetector().decide(updates)
    >>> [round(value, 3) for value in verdict.delta.tolist()]
    [1.1, 2.0]
    >>> verdict.scores["suspicious_score"].tolist()
    [0.0, 0.0, 0.0, 0.0]
    """

    properties: ClassVar[frozenset[str]] = frozenset({"robust", "scale"})
    traits = RobustStrategy.traits.but(history=True)

    def __init__(self, *, window: int = 10, **base: Any) -> None:
        super().__init__(**base)
        check_number("window", window, at_least=1)
        self.window = window
        self.reset()

    def reset(self) -> None:
        """Forget all rounds."""
        self._nodes: list[int] = []
        self._rows = torch.zeros(0, 0)
        self._model = torch.zeros(0)
        self._mean = torch.zeros(0)
        self._steps = torch.zeros(0, 0)
        self._changes = torch.zeros(0, 0)
        self._scores: dict[int, list[float]] = {}

    def combine(self, updates: ClientUpdates) -> Verdict:
        """Return the median of the unsuspicious; see `RobustStrategy.combine`."""
        rows, model = self._views(updates)
        self._score(updates, rows, model)
        past = [self._scores.get(node, []) for node in updates.node_ids]
        scores = np.array([float(np.mean(found)) if found else 0.0 for found in past])
        known = np.array([bool(found) for found in past])
        keep = torch.ones(len(updates), dtype=torch.bool)
        stream = numpy_generator(self.seed, updates.server_round, SERVER, "gap statistic")
        if has_two_groups(scores[known], stream):
            ordered = np.sort(scores[known])
            limit = ordered[best_split(ordered)[0] - 1]
            keep = torch.from_numpy(~known | (scores <= limit))
        weights = equal_weights(keep)
        middle = coordinate_median(updates.deltas)
        self._learn(updates, rows, model, middle)
        reasons = rejections(
            updates, weights, lambda row: f"suspicious score {scores[row]:.3g}, in the higher group"
        )
        if not bool(keep.all()):
            middle = coordinate_median(updates.deltas, keep.nonzero().flatten())
        named = {"suspicious_score": torch.from_numpy(scores)}
        return Verdict(middle, weights, named, reasons)

    def _views(self, updates: ClientUpdates) -> tuple[Tensor, Tensor]:
        """Return the updates (K, m) and the model (m,) as they are compared between rounds."""
        model = updates.global_vector[None, : updates.layout.num_trainable]
        return sketch(updates.trainable, self.seed), sketch(model, self.seed)[0]

    def _score(self, updates: ClientUpdates, seen: Tensor, model: Tensor) -> None:
        """Compare what came with what the last round lets expect."""
        before = {node: at for at, node in enumerate(self._nodes)}
        rows = [row for row, node in enumerate(updates.node_ids) if node in before]
        if len(rows) < 2:
            return
        step = model.double() - self._model.double()
        shift = -hessian_product(self._steps.double(), self._changes.double(), step)
        gaps = [seen[row] - self._rows[before[updates.node_ids[row]]] for row in rows]
        distances = torch.cat([row_norms(gap[None, :], shift) for gap in gaps])
        shares = distances / distances.sum().clamp(min=1e-300)
        for row, share in zip(rows, shares.tolist(), strict=True):
            found = self._scores.setdefault(updates.node_ids[row], [])
            found.append(share)
            del found[: -self.window]

    def _learn(self, updates: ClientUpdates, rows: Tensor, model: Tensor, middle: Tensor) -> None:
        mean = sketch(middle[None, : updates.layout.num_trainable], self.seed)[0]
        if len(self._model):
            pair = (model - self._model)[None, :], (self._mean - mean)[None, :]
            old = self._steps.reshape(-1, len(model)), self._changes.reshape(-1, len(model))
            self._steps = torch.cat([old[0], pair[0]])[-self.window :]
            self._changes = torch.cat([old[1], pair[1]])[-self.window :]
        self._nodes = list(updates.node_ids)
        self._rows, self._model, self._mean = rows, model, mean

    def state(self) -> dict[str, Tensor]:
        """Return the last round, the curvature pairs and the scores."""
        history = [(node, score) for node, found in self._scores.items() for score in found]
        return {
            "nodes": torch.tensor(self._nodes, dtype=torch.int64),
            "rows": self._rows,
            "model": self._model,
            "mean": self._mean,
            "steps": self._steps,
            "changes": self._changes,
            "score_nodes": torch.tensor([node for node, _ in history], dtype=torch.int64),
            "score_values": torch.tensor([score for _, score in history], dtype=torch.float64),
        }

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Take back what `state` returned."""
        self.reset()
        self._nodes = state["nodes"].tolist()
        self._rows, self._model, self._mean = state["rows"], state["model"], state["mean"]
        self._steps, self._changes = state["steps"], state["changes"]
        pairs = zip(state["score_nodes"].tolist(), state["score_values"].tolist(), strict=True)
        for node, score in pairs:
            self._scores.setdefault(node, []).append(score)
