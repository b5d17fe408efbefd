"""BTU at the server: tokens that few clients move far are taken out of the embedding."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from fedguard.errors import check_number
from fedguard.repairs.base import Repair
from fedguard.strategies.toolkit.server_tools import ServerTools
from fedguard.training.btu import PAD, embedding_name
from fedguard.traits import Traits
from fedguard.updates import ClientUpdates


class Btu(Repair):
    r"""Set the embeddings of suspicious tokens to that of filling; needs no data of the server.

    In every round, by the length of each client's change of each token's embedding, ranked within
    the client:

    1. a token is *suspected* if it moves far for some client and not for most;
    2. it is *marked* once it was suspected in `rounds` rounds, and stays so;
    3. where a repair is due and in every round after it, marked tokens are those of filling.

    The server's form of "Backdoor Token Unlearning", arXiv 2501.03272, AAAI 2025, whose exposures
    need the poisoned rows; the vote over clients' updates is ours, and whole rows are cut, which
    was equivalent to the paper's rule where both were tried. It trusts that a word which matters
    moves at most clients. Which words a client uses can be read off its update, here and always.

    Parameters
    ----------
    alpha : float
        Share of the vocabulary that counts as moved far by a client, above 0 to 0.1.
    common : float
        Median rank, as a share of V, up to which a token is common, above 0 to below 1. Chosen on
        SST-2's words, seed 0: with ten times k, 52 common words were cut beside the trigger.
    rounds : int
        Rounds in which a token must be suspected, at least 1.
    special : int
        Tokens from 0 on that are never cut, at least 1.

    Notes
    -----
    .. math::
       t \text{ is suspected if } \; \min_k r_k(t) < \max(1, \lfloor \alpha V \rfloor) \; \text{
       and } \; \operatorname{med}_k r_k(t) > c V

    .. math::
       E_t \leftarrow E_{\mathrm{pad}} \quad \text{for } t \text{ suspected in at least } R
       \text{ rounds}

    where :math:`r_k(t)` is the rank, from 0, of the change of token t's embedding E among the V
    tokens of client k, the longest first, c is `common` and R `rounds`.
    """

    traits: ClassVar[Traits] = Traits(
        tasks=frozenset({"text-classification"}), server_model=True, server_data="none"
    )
    reads_updates: ClassVar[bool] = True

    def __init__(
        self, *, alpha: float = 0.0005, common: float = 0.1, rounds: int = 2, special: int = 3
    ) -> None:
        check_number("alpha", alpha, above=0.0, at_most=0.1)
        check_number("common", common, above=0.0, below=1.0)
        check_number("rounds", rounds, at_least=1)
        check_number("special", special, at_least=1)
        self.alpha, self.common = alpha, common
        self.rounds, self.special = rounds, special
        self._votes = torch.empty(0, dtype=torch.int64)
        self._begun = False
        self._embedding = ""

    def open(self, tools: ServerTools) -> None:
        """Find the embedding; see `Repair.open`."""
        self._embedding = embedding_name(tools.model)

    def see(self, updates: ClientUpdates) -> None:
        """Suspect tokens by a round's updates; see the class."""
        if len(updates) < 3:
            return
        at = updates.layout.names.index(self._embedding)
        vocabulary, width = updates.layout.shapes[at]
        start, end = updates.layout.offsets[at : at + 2]
        rows = updates.deltas[:, start:end]
        found = suspected(
            rows.view(len(rows), vocabulary, width), self.alpha, self.common, self.special
        )
        if not len(self._votes):
            self._votes = torch.zeros(vocabulary, dtype=torch.int64)
        self._votes[found] += 1

    @property
    def marked(self) -> Tensor:
        """(m,) tokens that are marked, ascending."""
        return (self._votes >= self.rounds).nonzero().flatten()

    def mend(self, tools: ServerTools, rng: torch.Generator) -> Mapping[str, Any]:
        """Cut the marked tokens; see `Repair.mend`."""
        self._begun = True
        self._cut(tools)
        return {"cut": len(self.marked), "tokens": self.marked.tolist()[:50]}

    def hold(self, tools: ServerTools) -> bool:
        """Cut them again; see `Repair.hold`."""
        if not self._begun or not len(self.marked):
            return False
        self._cut(tools)
        return True

    def _cut(self, tools: ServerTools) -> None:
        table = dict(tools.model.named_parameters())[self._embedding]
        with torch.no_grad():
            table[self.marked.to(table.device)] = table[PAD].clone()

    def state(self) -> dict[str, Tensor]:
        """Return the votes; see `Repair.state`."""
        return {"votes": self._votes, "begun": torch.tensor(int(self._begun))}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take them back."""
        self._votes = state["votes"].clone()
        self._begun = bool(state["begun"])


def suspected(moved: Tensor, alpha: float, common: float, special: int) -> Tensor:
    """Return the tokens that move far for some client and not for most, ascending.

    Parameters
    ----------
    moved : Tensor
        (K, V, d) the clients' changes of the embedding.
    alpha, common : float
        See `Btu`.
    special : int
        Tokens from 0 on that are left out.
    """
    norms = moved.double().norm(dim=2)
    norms[:, :special] = -1.0
    vocabulary = norms.shape[1]
    first = max(1, int(alpha * vocabulary))
    # Ties, such as tokens that do not move at all, share the last of their places.
    ascending = norms.sort(dim=1).values
    ranks = vocabulary - torch.searchsorted(ascending, norms, right=False) - 1
    far = ((ranks < first) & (norms > 0)).any(dim=0)
    rare = ranks.double().quantile(0.5, dim=0) > common * vocabulary
    rare[:special] = False
    found: Tensor = (far & rare).nonzero().flatten()
    return found
