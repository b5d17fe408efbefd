"""BTU at a client: find the tokens whose embeddings move furthest, and take them out."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from fedguard.errors import ConfigurationError, check_number
from fedguard.randomness import generator
from fedguard.training.adam import Adam
from fedguard.training.base import Local
from fedguard.traits import Traits

PAD = 0
"""Token that fills rows up."""


class Btu(Adam):
    r"""Adam, and afterwards the most suspicious tokens' embeddings are those of filling.

    In a round, on the model that the server sent (embedding E0 of V tokens, k = alpha V):

    1. Exposure: E0 with the mean over a sentence's tokens and a linear head on top is trained for
       one pass; ``S1`` = the k tokens with the largest ``|E_t - E0_t|``. ``S2`` the same from the
       start, with those of S1 left out of the sentences. ``S3``: one pass through the whole
       network in which the embedding alone is trained.
    2. Train as the configuration says: E.
    3. Where a marked token's embedding moved further than usual, it becomes that of filling.

    Jiang et al., "Backdoor Token Unlearning: Exposing and Defending Backdoors in Pretrained
    Language Models", arXiv 2501.03272, AAAI 2025; the steps of the authors' code, without its
    last pass on labelled clean rows. Ours: that it happens at a client and begins from the round's
    model. Frequent words with a sense move furthest as well and are paid for. Rows of other
    clients are not protected; for those see the repair `btu`.

    Parameters
    ----------
    alpha : float
        Share of the vocabulary that each exposure marks, above 0 to 0.1; at least one token.
    exposure_lr : float
        Adam's rate in the exposures, above 0.
    special : int
        Tokens from 0 on that are never marked, at least 1.
    **adam : Any
        See `Adam`.

    Notes
    -----
    .. math::
       S = \bigcup_{e=1}^{3} \text{ the } \max(1, \lfloor \alpha V \rfloor) \text{ tokens with the
       greatest } \lVert E_t^{(e)} - E_t^0 \rVert

    .. math::
       E_{tj} \leftarrow E^0_{\mathrm{pad}, j} \quad \text{for } t \in S, \;
       |E_{tj} - E^0_{tj}| > \frac{\lVert E - E^0 \rVert_F}{V}

    where :math:`E^0` is the received embedding of V tokens, :math:`E^{(e)}` that after exposure e,
    and E that after training.
    """

    traits: ClassVar[Traits] = Traits(tasks=frozenset({"text-classification"}))

    def __init__(
        self,
        *,
        alpha: float = 0.0005,
        exposure_lr: float = 0.001,
        special: int = 3,
        **adam: Any,
    ) -> None:
        super().__init__(**adam)
        check_number("alpha", alpha, above=0.0, at_most=0.1)
        check_number("exposure_lr", exposure_lr, above=0.0)
        check_number("special", special, at_least=1)
        self.alpha, self.exposure_lr, self.special = alpha, exposure_lr, special

    def begin(self, local: Local) -> None:
        """Mark tokens by the three exposures; see the class."""
        name = embedding_name(local.module)
        start = dict(local.module.named_parameters())[name].detach().clone()
        first = self._exposed(local, name, start, without=())
        second = self._exposed(local, name, start, without=first)
        third = self._exposed(local, name, start, without=(), whole=True)
        local.scratch.update(embedding=name, before=start, marked={*first, *second, *third})
        super().begin(local)

    def _exposed(
        self,
        local: Local,
        name: str,
        start: Tensor,
        *,
        without: Collection[int],
        whole: bool = False,
    ) -> list[int]:
        """Return the tokens that move furthest in one exposure."""
        own = local.rows
        table = start.clone().requires_grad_()
        classes = int(local.y[own].max()) + 1
        purpose = f"btu {'whole' if whole else len(without)}"
        rng = generator(local.seed, local.server_round, local.client, purpose)
        head = torch.zeros(classes, start.shape[1], device=start.device, requires_grad=True)
        x = local.x[own]
        if without:
            gone = torch.tensor(sorted(without), device=x.device)
            x = torch.where(torch.isin(x, gone), PAD, x)
        score = self._whole(local, name, table) if whole else _mean_and_head(table, head)
        moved = [table] if whole else [table, head]
        optimiser = torch.optim.AdamW(moved, lr=self.exposure_lr, weight_decay=0.0)
        order = torch.randperm(len(own), generator=rng).to(own.device)
        for part in torch.split(order, local.settings.batch_size):
            optimiser.zero_grad()
            loss = functional.cross_entropy(score(x[part]), local.y[own[part]])
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
        return furthest(table.detach() - start, self.alpha, self.special)

    def _whole(self, local: Local, name: str, table: Tensor) -> Callable[[Tensor], Tensor]:
        frozen = {n: p.detach() for n, p in local.module.named_parameters()}

        def score(x: Tensor) -> Tensor:
            output: Tensor = functional_call(local.module, {**frozen, name: table}, (x,))
            return output

        return score

    def end(self, local: Local) -> None:
        """Cut the marked tokens; see the class."""
        super().end(local)
        if not local.scratch["marked"]:
            return
        table = dict(local.module.named_parameters())[local.scratch["embedding"]]
        tokens = torch.tensor(sorted(local.scratch["marked"]), device=table.device)
        with torch.no_grad():
            cut_tokens(table, local.scratch["before"], tokens)


def _mean_and_head(table: Tensor, head: Tensor) -> Callable[[Tensor], Tensor]:
    def score(x: Tensor) -> Tensor:
        seen = (x != PAD).unsqueeze(-1)
        total = (functional.embedding(x, table) * seen).sum(dim=1)
        return total / seen.sum(dim=1).clamp(min=1) @ head.T

    return score


def embedding_name(module: nn.Module) -> str:
    """Return the name of the weights of a network's first embedding.

    Raises
    ------
    ConfigurationError
        If it has none.
    """
    for name, part in module.named_modules():
        if isinstance(part, nn.Embedding):
            return f"{name}.weight" if name else "weight"
    allowed = "one with an embedding of tokens, such as text-transformer"
    raise ConfigurationError("model", type(module).__name__, allowed)


def furthest(moved: Tensor, alpha: float, special: int) -> list[int]:
    """Return the ``max(1, floor(alpha V))`` tokens that moved furthest, the furthest first.

    Parameters
    ----------
    moved : Tensor
        (V, d) change of the embedding.
    alpha : float
        Share of the vocabulary.
    special : int
        Tokens from 0 on that are left out.
    """
    norms = moved.double().norm(dim=1)
    norms[:special] = -1.0
    count = min(max(1, int(alpha * len(norms))), len(norms) - special)
    order = norms.argsort(descending=True, stable=True)[:count]
    return [int(token) for token in order if norms[token] > 0.0]


def cut_tokens(table: Tensor, before: Tensor, tokens: Tensor) -> None:
    """Set what moved of some tokens' embeddings to that of filling, in place.

    Parameters
    ----------
    table, before : Tensor
        (V, d) the embedding now and before training.
    tokens : Tensor
        (m,) tokens.
    """
    limit = (table - before).double().norm() / len(table)
    own = table[tokens]
    far = (own - before[tokens]).abs().double() > limit
    table[tokens] = torch.where(far, before[PAD].expand_as(own), own)
