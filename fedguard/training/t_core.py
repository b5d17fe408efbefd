"""T-Core: find rows that are surely clean, and grow the training set from them."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor

from fedguard.errors import check_choice, check_number
from fedguard.randomness import generator
from fedguard.training.attention import feature_stages, layer_outputs
from fedguard.training.base import Local, TrainingRule
from fedguard.training.judging import judged
from fedguard.training.reopening import channel_masks, lowest, make_anew
from fedguard.training.sifting import seed_rows
from fedguard.traits import Traits

QUANTILES = (0.3, 0.5, 0.7, 0.9, 1.0)
"""Share of a class's losses below which a row is admitted, one bootstrapping round after another;
the last stays."""

POOL, SEEN, GROWN = "pool", "seen", "grown"


class TCore(TrainingRule):
    r"""Bootstrap: sift a seed of surely clean rows, filter channels by it, grow a pool from it.

    By the rounds in which a client trains, on the model that the server sent:

    1. The first `warmup` rounds are plain SGD over all rows: a model to look through.
    2. *Sift*: the rows whose company in features is the same at every stage; see `seed_rows`.
    3. *Channels*: on the seed, climb the loss down to chance and learn the masks that bring the
       task back; channels with a mask below `mask` (at most a tenth of all) are drawn anew in the
       client's copy, so that the mean of clients that agree forgets them. Frozen ones stay.
    4. *Train* on the pool alone; at the beginning of every later round *expand* it by the rows
       that the model takes for their own label, with a loss below a quantile of their class's:
       30, 50, 70, 90 %, then any. Once the pool grows by less than 1 %, it is closed. Rows that
       were never admitted are dropped.

    "T-Core-style": a reading of Mo et al., "A Dual Defense Against Backdoor Attacks on Pre-trained
    Encoders and Downstream Data" (Trusted Core Bootstrapping), arXiv 2504.11990, IEEE S&P 2025, of
    which the abstract and notes were at hand: stages are theirs, losses, ratios and thresholds
    ours, and a pass there is a round here. The expansion is by loss alone, without a model that is
    confused on purpose. Rows out of the pool carry no loss, but BatchNorm's statistics see them.
    No rule to sift by is safe against every trigger (``docs/repairs.md``): where most rows of a
    class are poisoned, the majority is the attacker.

    Parameters
    ----------
    sift : {"within-class", "cross-class"}
        How rows are judged; see `seed_rows`.
    share : float
        Share of each class that is seed, above 0 to 1.
    warmup : int
        Rounds of plain SGD, at least 0; 0 with a pre-trained encoder. Every one of them plants the
        backdoor a little deeper.
    mask : float
        Mask below which a channel is drawn anew, 0 to 1; 0 leaves all.
    stages : int
        Stages of features, counted from the output, at least 1.

    Notes
    -----
    .. math::
       P \leftarrow P \cup \left\{ i : \hat{y}_i = y_i, \;
       \ell_i \le Q_q(\ell_j : y_j = y_i) \right\}, \qquad
       q = 0.3, \, 0.5, \, 0.7, \, 0.9, \, 1, \, 1, \ldots

    .. math::
       c_i = \operatorname{mean}_{l < m} \frac{|N_l(i) \cap N_m(i)|}{10}

    where P is the pool, :math:`\hat{y}_i` and :math:`\ell_i` what the model says of row i and its
    loss, :math:`Q_q` the quantile, and :math:`c_i` the company by which the seed is sifted
    ``within-class``: :math:`N_l(i)` are the 10 rows of its class nearest to row i at stage l.
    """

    remembers: ClassVar[bool] = True
    traits: ClassVar[Traits] = Traits(tasks=frozenset({"classification"}))

    def __init__(
        self,
        *,
        sift: Literal["within-class", "cross-class"] = "within-class",
        share: float = 0.4,
        warmup: int = 1,
        mask: float = 0.0,
        stages: int = 4,
    ) -> None:
        check_choice("sift", sift, ("within-class", "cross-class"))
        check_number("share", share, above=0.0, at_most=1.0)
        check_number("warmup", warmup, at_least=0)
        check_number("mask", mask, at_least=0.0, at_most=1.0)
        check_number("stages", stages, at_least=1)
        self.sift, self.share, self.warmup = sift, share, warmup
        self.mask, self.stages = mask, stages

    def begin(self, local: Local) -> None:
        """Sift, or expand the pool; see the class."""
        own = local.rows
        seen = int(local.memory.get(SEEN, torch.zeros(1))[0])
        local.memory[SEEN] = torch.tensor([seen + 1.0])
        local.scratch["kept"] = None
        if seen < self.warmup:
            return
        x, y = local.x[own], local.y[own]
        if POOL not in local.memory:
            self._sift(local, x, y)
        else:
            self._expand(local, x, y)
        pool = local.memory[POOL].bool()
        if bool(pool.any()):  # a client none of whose classes can be judged trains on all
            local.scratch["kept"] = own[pool.to(own.device)]

    def _sift(self, local: Local, x: Tensor, y: Tensor) -> None:
        """Find the seed, and draw channels anew that it does not vouch for."""
        names = feature_stages(local.module, x[:2], self.stages)
        shown = layer_outputs(local.module, names, x) if names else {}
        stages = list(shown.values()) or [x.flatten(1)]
        seed, _ = seed_rows(stages, y, self.share, self.sift)
        local.memory[POOL] = seed.float()
        local.memory[GROWN] = torch.zeros(1)
        if self.mask and bool(seed.any()):
            rng = generator(local.seed, local.server_round, local.client, "t-core channels")
            rows = seed.to(x.device)
            masks = channel_masks(local.module, x[rows], y[rows], rng)
            if masks:
                make_anew(local.module, lowest(masks, self.mask, 0.1), rng)

    def _expand(self, local: Local, x: Tensor, y: Tensor) -> None:
        """Admit rows that the model takes for their own label with a low loss."""
        done = int(local.memory[GROWN][0])
        if done < 0:
            return
        pool = local.memory[POOL].bool()
        admitted = admissible(*judged(local, x, y), y, QUANTILES[min(done, len(QUANTILES) - 1)])
        grown = pool | admitted.cpu()
        more = int(grown.sum()) - int(pool.sum())
        closed = done >= len(QUANTILES) - 1 and more < 0.01 * max(int(pool.sum()), 1)
        local.memory[POOL] = grown.float()
        local.memory[GROWN] = torch.tensor([-1.0 if closed else done + 1.0])

    def loss(self, local: Local, losses: Tensor) -> Tensor:
        """Return the mean loss of the batch's rows that are in the pool; 0 where none is."""
        kept = local.scratch["kept"]
        if kept is None:
            return losses.mean()
        inside = torch.isin(local.rows, kept)
        return (losses * inside).sum() / inside.sum().clamp_min(1)


def admissible(losses: Tensor, hits: Tensor, y: Tensor, quantile: float) -> Tensor:
    """Return which rows are taken for their label with a loss up to a quantile of their class's.

    Parameters
    ----------
    losses : Tensor
        (N,) losses; a row whose loss is not finite is never admitted.
    hits : Tensor
        (N,) bool: whether the label is predicted.
    y : Tensor
        (N,) labels.
    quantile : float
        0 to 1.
    """
    found = torch.zeros(len(y), dtype=torch.bool, device=y.device)
    finite = torch.isfinite(losses)
    for label in sorted(set(y.tolist())):
        rows = (y == label) & finite
        if bool(rows.any()):
            limit = losses[rows].double().quantile(quantile)
            found |= rows & hits & (losses.double() <= limit)
    return found
