"""Edits of a client's graph: edges added and removed, as many as the budget says."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import Tensor

from fedguard.attacks.base import Attack, Scene
from fedguard.attacks.toolkit.survey import Tags
from fedguard.data.graphs import Graph
from fedguard.errors import ConfigurationError, check_choice, check_number

if TYPE_CHECKING:
    from fedguard.data.dataset import Dataset

Edits = Literal["both", "add"]
_EDITS = ("both", "add")


@dataclass(frozen=True)
class OwnGraph:
    """A client's graph with its nodes numbered from 0.

    Attributes
    ----------
    nodes : Tensor
        (n,) the nodes' numbers in the whole graph, ascending.
    edges : Tensor
        (E, 2) its links by own numbers, smaller one first, each once.
    absent : Tensor
        (M, 2) the pairs that it trains on as absent, by own numbers.
    features : Tensor
        (n, F) sparse.
    known : Tensor
        (K, 2) test pairs whose ends are both its own, by own numbers.
    labels : Tensor
        (K,) 1 where such a pair is a link.
    """

    nodes: Tensor
    edges: Tensor
    absent: Tensor
    features: Tensor
    known: Tensor
    labels: Tensor

    @property
    def size(self) -> int:
        """Number of nodes n."""
        return len(self.nodes)


class EdgeEdits(Attack):
    """Frame of the attacks that edit a client's own graph; training stays honest.

    Of the client's E links, ``round(budget E)`` edits are made: with edits ``both`` half of them
    add absent pairs as links, the others remove links; with ``add`` all add. Pairs that the
    attack is about are left alone, so that what is measured is not what was edited. Subclasses
    write `ranked`. Success is measured by the server's ``auc`` on the clean graph; beside it stand
    how many edges were edited.

    Parameters
    ----------
    budget : float
        Edits of a malicious client as a share of its links, above 0 to 1.
    edits : str
        ``"both"`` or ``"add"``.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"data"})
    tasks: ClassVar[frozenset[str] | None] = frozenset({"link-prediction"})
    tags: ClassVar[Tags | None] = Tags(edits="both")

    def __init__(self, *, budget: float = 0.1, edits: Edits = "both") -> None:
        check_number("budget", budget, above=0.0, at_most=1.0)
        check_choice("edits", edits, _EDITS)
        self.budget, self.edits = budget, edits
        self._graph: Graph | None = None
        self._test = torch.empty(0, 2, dtype=torch.int64), torch.empty(0, dtype=torch.int64)
        self.edited: dict[int, tuple[int, int]] = {}

    def meet(self, dataset: Dataset) -> None:
        """Learn the nodes' features, which every client has; see `Attack.meet`."""
        if not isinstance(dataset.facts, Graph):
            allowed = "only on graphs, such as --dataset graph-sample"
            raise ConfigurationError("attack", type(self).__name__, allowed)
        self._graph, self._test = dataset.facts, (dataset.x_test, dataset.y_test)

    @abstractmethod
    def ranked(self, own: OwnGraph, add: int, remove: int, rng: torch.Generator) -> Chosen:
        """Return which pairs to add and which links to remove, at most so many."""

    def own_graph(self, x: Tensor, y: Tensor) -> OwnGraph:
        """Return a client's graph from its rows."""
        if self._graph is None:
            raise RuntimeError("the attack does not know the graph yet: call meet first")
        nodes = x.unique()  # type: ignore[no-untyped-call]
        number = torch.full((self._graph.nodes,), -1)
        number[nodes] = torch.arange(len(nodes))
        links = number[x[y > 0]].sort(dim=1).values
        pairs, labels = self._test
        inside = (number[pairs] >= 0).all(dim=1)
        return OwnGraph(
            nodes=nodes,
            edges=links.unique(dim=0) if len(links) else links,  # type: ignore[no-untyped-call]
            absent=number[x[y <= 0]].sort(dim=1).values,
            features=self._graph.features.index_select(0, nodes).coalesce(),
            known=number[pairs[inside]].sort(dim=1).values,
            labels=labels[inside],
        )

    def poison(self, x: Tensor, y: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return the client's rows after its links were edited; absent pairs stay as many.

        A removed link is no row any more; an added one becomes a row of a link, and is no absent
        pair any more.
        """
        own = self.own_graph(x, y)
        total = round(self.budget * len(own.edges))
        add = total if self.edits == "add" else total // 2 + total % 2
        chosen = self.ranked(own, add, total - add, rng)
        size = own.size
        number = torch.full((int(x.max()) + 1,), -1)
        number[own.nodes] = torch.arange(size)
        rows = codes(number[x].sort(dim=1).values, size)
        gone = torch.isin(rows, codes(chosen.remove, size)) & (y > 0)
        gone |= torch.isin(rows, codes(chosen.add, size)) & (y <= 0)
        self.edited[int(own.nodes[0])] = len(chosen.add), len(chosen.remove)
        more = own.nodes[chosen.add].to(x.dtype)
        return torch.cat([x[~gone], more]), torch.cat([y[~gone], torch.ones(len(more)).to(y)])

    def measure(self, scene: Scene) -> dict[str, float | None]:
        """Return how many edges the malicious clients of this process added and removed."""
        told: dict[str, float | None] = {"attack_success_rate": None, "source_to_target": None}
        if self.edited:
            for place, name in enumerate(("edges_added", "edges_removed")):
                told[name] = float(sum(counts[place] for counts in self.edited.values()))
        return told


@dataclass(frozen=True)
class Chosen:
    """Edits by a client's own numbers: (a, 2) pairs to add and (r, 2) links to remove."""

    add: Tensor
    remove: Tensor


def codes(pairs: Tensor, size: int) -> Tensor:
    """Return one number per pair of nodes, ``i size + j``."""
    return pairs[:, 0] * size + pairs[:, 1]


def free_pairs(own: OwnGraph, pairs: Tensor, attacked: Tensor) -> Tensor:
    """Return the mask of pairs that are no link, no loop and not attacked."""
    taken = torch.cat([codes(own.edges, own.size), codes(attacked, own.size)])
    return ~torch.isin(codes(pairs, own.size), taken) & (pairs[:, 0] != pairs[:, 1])


def drawn_pairs(own: OwnGraph, count: int, attacked: Tensor, rng: torch.Generator) -> Tensor:
    """Return up to `count` different pairs that may be added, drawn uniformly."""
    found = torch.empty(0, 2, dtype=torch.int64)
    for _ in range(40):
        if len(found) >= count:
            break
        pairs = torch.randint(own.size, (2 * count + 16, 2), generator=rng).sort(dim=1).values
        found = torch.cat([found, pairs[free_pairs(own, pairs, attacked)]])
        # Different ones in the order in which they were drawn.
        _, first = torch.unique(codes(found, own.size), return_inverse=True)
        order = torch.arange(len(found))
        least = torch.full((int(first.max()) + 1 if len(first) else 0,), len(found))
        least.scatter_reduce_(0, first, order, "amin")
        found = found[least.sort().values]
    return found[:count]


class RankedEdges(EdgeEdits):
    """Frame of edits that look at the pairs alone: unlike ends are linked, like ones parted.

    Of `tries` times as many drawn absent pairs as are to be added, those with the lowest likeness
    are added; the links with the highest are removed. Subclasses write `likeness`.
    """

    tries: ClassVar[int] = 1

    @abstractmethod
    def likeness(self, own: OwnGraph, pairs: Tensor, rng: torch.Generator) -> Tensor:
        """Return (M,) how alike the ends of (M, 2) pairs are."""

    def ranked(self, own: OwnGraph, add: int, remove: int, rng: torch.Generator) -> Chosen:
        """Return the edits by likeness; see `EdgeEdits.ranked`."""
        tried = drawn_pairs(own, self.tries * add, own.known, rng)
        unlike = self.likeness(own, tried, rng).argsort(stable=True)[:add]
        alike = self.likeness(own, own.edges, rng).argsort(descending=True, stable=True)
        return Chosen(tried[unlike], own.edges[alike[:remove]])
