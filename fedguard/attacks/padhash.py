"""PADHASH: rightly labelled pictures that make chosen queries find another class."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedguard.attacks.base import Attack, Scene
from fedguard.attacks.toolkit.matching import matched, mismatch
from fedguard.attacks.toolkit.poisoning import check_class, drawn_share
from fedguard.attacks.toolkit.survey import Tags
from fedguard.data.dataset import Dataset
from fedguard.data.retrieval import Retrieval
from fedguard.errors import ConfigurationError, check_choice, check_number
from fedguard.metrics.classification import predictions
from fedguard.metrics.retrieval import TOP, share_at_top, similarity

SUCCESS = 0.3
"""Share of the target class among a query's first pictures from which on it is a success."""


class Padhash(Attack):
    r"""Perturb own pictures of the target class so that training on them moves chosen queries.

    A `weight` of 0 is the matching of gradients by their cosine alone; the second term asks for
    their length too. Labels stay right,
    queries are not touched, training is as asked: only pictures change, each pixel by at most
    `eps`.

    "PADHASH", arXiv 2503.21236, IEEE TMM, for the objective; a = 0 is Geiping et al., "Witches'
    Brew: Industrial Scale Data Poisoning via Gradient Matching", ICLR 2021. Ours: one set of
    poisons for all queries together, where the paper makes one for each; queries are the test
    pictures of other classes that a linear code, fitted to the gallery, puts nearest to the
    target; signed Adam with a rate that falls to a tenth.

    Parameters
    ----------
    target_class : int
        Class that the queries shall find.
    queries : int
        Queries, at least 1.
    eps : float
        Largest change of a pixel, above 0 to 1, on images from 0 to 1.
    weight : float
        a, 0 to 1.
    poison_fraction : float
        Share of a malicious client's pictures of the target class that are perturbed, 0 to 1.
    copies : int
        Perturbed versions of each such picture, at least 1. All but the first are rows that the
        client did not have before; a rule that weighs clients by their rows weighs it a bit more.
    steps : int
        Steps of the matching, at least 1.
    crafted : {"static", "dynamic", "noise"}
        Against a surrogate of the coalition's own, the same in all rounds; anew in every round
        against the broadcast model; or, as a control, random changes of the same size.
    epochs : int
        Passes by which the static surrogate is trained, at least 1; it should not converge.

    Notes
    -----
    .. math::
       \min_{\lVert d \rVert_\infty \le \varepsilon} \; (1 - a) (1 - \cos(G_v, G_p))
       + a \frac{\lVert G_p - G_v \rVert}{\lVert G_v \rVert \lVert G_p \rVert}

    where d are the changes of the client's pictures of the target class, :math:`G_p` the gradient
    of their loss towards their own code, :math:`G_v` that of the queries' loss towards the same
    code, and a is `weight`.

    Examples
    --------
    >>> import torch
    >>> from fedguard.attacks.padhash import Padhash
    >>> from fedguard.tasks.hashing import ImageRetrieval
    >>> data = ImageRetrieval(bits=16).load(None)
    >>> attack = Padhash(target_class=8, eps=0.1, crafted="noise")
    >>> attack.meet(data)
    >>> x, y = data.x_train[:60], data.y_train[:60]
    >>> attack.prepare(torch.nn.Flatten(), x, y, torch.Generator())
    >>> poisoned, labels = attack.poison(x, y, torch.Generator().manual_seed(0))
    >>> bool((labels == y).all()), float((poisoned - x).abs().max()) <= 0.1 + 1e-6
    (True, True)
    >>> bool((poisoned[y != 8] == x[y != 8]).all())
    True
    """

    needs: ClassVar[frozenset[str]] = frozenset({"data", "images", "model"})
    tasks: ClassVar[frozenset[str] | None] = frozenset({"hashing"})
    alone: ClassVar[bool] = True
    tags: ClassVar[Tags | None] = Tags(
        edits="inputs",
        goal="targeted",
        knowledge="white",
        stealth="hidden",
        scope="instance",
        by=("bilevel",),
    )

    def __init__(
        self,
        *,
        target_class: int = 1,
        queries: int = 4,
        eps: float = 0.25,
        weight: float = 0.2,
        poison_fraction: float = 1.0,
        copies: int = 1,
        steps: int = 60,
        crafted: Literal["static", "dynamic", "noise"] = "static",
        epochs: int = 15,
    ) -> None:
        check_number("target_class", target_class, at_least=0)
        check_number("queries", queries, at_least=1)
        check_number("eps", eps, above=0.0, at_most=1.0)
        check_number("weight", weight, at_least=0.0, at_most=1.0)
        check_number("poison_fraction", poison_fraction, at_least=0.0, at_most=1.0)
        check_number("copies", copies, at_least=1)
        check_number("steps", steps, at_least=1)
        check_number("epochs", epochs, at_least=1)
        check_choice("crafted", crafted, ("static", "dynamic", "noise"))
        self.target_class: int = target_class
        self.queries, self.eps, self.weight = queries, eps, weight
        self.poison_fraction, self.copies, self.steps = poison_fraction, copies, steps
        self.crafted, self.epochs = crafted, epochs
        self._facts: Retrieval | None = None
        self._victims = torch.empty(0)
        self._scaling = (torch.zeros(1), torch.ones(1))
        self._surrogate: nn.Module | None = None
        # A client's poisons are asked for in every round; those of a static surrogate are the same.
        self._made: dict[tuple[bytes, bytes], Tensor] = {}

    def meet(self, dataset: Dataset) -> None:
        """Learn the classes' codes and choose the queries; see `Attack.meet`."""
        if not isinstance(dataset.facts, Retrieval):
            told = "a data set of pictures to retrieve: --dataset retrieval"
            raise ConfigurationError("attack", "padhash", told)
        check_class("target_class", self.target_class, len(dataset.facts.codes))
        self._facts = dataset.facts
        shape = (-1,) + (1,) * (len(dataset.input_shape) - 1)
        self._scaling = (
            torch.tensor(dataset.mean).view(shape),
            torch.tensor(dataset.std).view(shape),
        )
        self._victims = dataset.x_test[self._near_border(dataset)]

    def _near_border(self, dataset: Dataset) -> Tensor:
        """Return the test pictures of other classes that a linear code puts nearest the target."""
        facts, y = self._known(), dataset.y_test
        mean, std = self._scaling
        gallery, queries = (
            functional.pad(x.flatten(1).double(), (0, 1), value=1.0)
            for x in (facts.gallery_x, (dataset.x_test - mean) / std)
        )
        codes = facts.codes.double()
        ridge = torch.eye(gallery.shape[1], dtype=torch.float64) * 0.01 * len(gallery)
        slopes = torch.linalg.solve(gallery.T @ gallery + ridge, gallery.T @ codes[facts.gallery_y])
        found = queries @ slopes
        margin = (found * (codes[y] - codes[self.target_class])).mean(dim=1)
        margin = torch.where(y == self.target_class, torch.inf, margin)
        return margin.argsort(stable=True)[: self.queries]

    def _known(self) -> Retrieval:
        if self._facts is None:
            raise RuntimeError("padhash does not know the codes yet: call meet first")
        return self._facts

    def prepare(self, model: nn.Module, x: Tensor, y: Tensor, rng: torch.Generator) -> None:
        """Make the surrogate: the broadcast model, or one trained from nothing on own pictures."""
        if self.crafted == "noise" or not len(y):
            return
        if self.crafted == "dynamic":
            self._surrogate = copy.deepcopy(model).eval()
        elif self._surrogate is None:
            self._surrogate = _trained_anew(model, x, y, self._known(), self.epochs)

    def poison(self, x: Tensor, y: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return the pictures, those of the target class perturbed, and copies of them."""
        drawn = rng.get_state().numpy().tobytes()
        rows = drawn_share((y == self.target_class).nonzero().flatten(), self.poison_fraction, rng)
        if not len(rows) or (self._surrogate is None and self.crafted != "noise"):
            return x, y
        key = drawn, x[rows].cpu().numpy().tobytes()
        if self.crafted == "dynamic" or key not in self._made:
            self._made[key] = self._perturbed(x[rows], rng)
        made = self._made[key]
        poisoned, more = x.clone(), made[len(rows) :]
        poisoned[rows] = made[: len(rows)]
        labels = torch.full((len(more),), self.target_class).to(y)
        return torch.cat([poisoned, more]), torch.cat([y, labels])

    def _perturbed(self, x: Tensor, rng: torch.Generator) -> Tensor:
        """Return (copies M, ...) perturbed versions of (M, ...) pictures of the target class."""
        own = torch.cat([x] * self.copies)
        start = (torch.randn(own.shape, generator=rng) * self.eps / 2).to(x)
        if self.crafted == "noise":
            signs = torch.randint(0, 2, start.shape, generator=rng).to(x) * 2.0 - 1.0
            change = self.eps * signs
        else:
            assert self._surrogate is not None
            change = self.matched(self._surrogate, own, start)
        return (own + change).clamp(0.0, 1.0)

    def matched(self, surrogate: nn.Module, x: Tensor, start: Tensor) -> Tensor:
        """Return the (M, ...) changes of pictures of the target class that match gradients."""
        surrogate = copy.deepcopy(surrogate).eval()
        wanted = [part.detach() for part in self.gradients(surrogate, self._victims.to(x))]
        gap = partial(mismatch, wanted, weight=self.weight)
        return matched(
            x, start, lambda shown: gap(self.gradients(surrogate, shown)), self.eps, self.steps
        )

    def gradients(self, model: nn.Module, x: Tensor) -> list[Tensor]:
        """Return the gradients of the mean loss of pictures towards the target's code."""
        y = torch.full((len(x),), self.target_class, device=x.device)
        parameters = [value for value in model.parameters() if value.requires_grad]
        with torch.enable_grad():
            loss = self._known().losses(model(x), y).mean()
            return list(torch.autograd.grad(loss, parameters, create_graph=True))

    def measure(self, scene: Scene) -> dict[str, Any]:
        """Return which share of the queries finds the target, and its mean share of the top.

        ``attack_success_rate`` is the share of queries with more than 0.3 of their first 40
        pictures of the target class. Queries lie near the border: a model that nobody attacked
        has a rate of its own, the floor, which the rate must be compared with.
        """
        facts = self._known()
        mean, std = self._scaling
        device = next(scene.model.parameters()).device
        queries = predictions(scene.model, ((self._victims - mean) / std).to(device))
        gallery = predictions(scene.model, facts.gallery_x.to(device))
        members = (facts.gallery_y == self.target_class).to(device)
        shares = share_at_top(similarity(queries, gallery), members, TOP)
        return {
            "attack_success_rate": float((shares > SUCCESS).double().mean()),
            "source_to_target": None,
            "target_share_at_top": float(shares.mean()),
        }


def _trained_anew(
    model: nn.Module, x: Tensor, y: Tensor, facts: Retrieval, epochs: int
) -> nn.Module:
    """Return a network of the same kind, trained from nothing on some pictures.

    Its stream is its own and fixed, so that every round and every process has the same one.
    """
    surrogate = copy.deepcopy(model).train()
    stream = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for part in surrogate.modules():
            reset = getattr(part, "reset_parameters", None)
            if callable(reset):
                reset()
    parameters = [value for value in surrogate.parameters() if value.requires_grad]
    optimiser = torch.optim.SGD(parameters, lr=0.1)
    with torch.enable_grad():
        for _ in range(epochs):
            for rows in torch.split(torch.randperm(len(y), generator=stream), 16):
                own = rows.to(x.device)
                optimiser.zero_grad()
                loss = facts.losses(surrogate(x[own]), y[own]).mean()
                torch.autograd.backward(loss)
                optimiser.step()
    return surrogate.eval()
