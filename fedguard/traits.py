"""What a part declares about itself, and the core reads: never who it is, only what it needs.

A part sets a class attribute, ``traits = Traits(...)``. What depends on constructor arguments is
refined by a method ``refined_traits``, which returns the instance's own. A part that declares
nothing gets `Traits()`: modest defaults that ask for nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from fedguard.errors import ConfigurationError, nearest

ServerData = Literal["none", "unlabelled", "labelled"]
"""Examples that the server lends to a part; the league in which a defence is ranked."""

World = Literal["horizontal", "vertical"]
"""Clients hold rows of the same features, or features of the same rows."""

Visible = Literal["updates", "group means", "sum"]
"""What a server reads of a round: every client's update, means of groups, or one sum."""

Blocks = Literal["none", "rows", "columns"]
"""What a rule needs of the updates at a time: all of them, single rows, or some columns."""

SERVER_DATA: tuple[ServerData, ...] = ("none", "unlabelled", "labelled")


@dataclass(frozen=True)
class Traits:
    """What a strategy, an attack, a repair or an audit needs and does.

    Attributes
    ----------
    world : str
        ``"horizontal"`` or ``"vertical"``; parts of two worlds do not meet in a run.
    tasks : frozenset of str or None
        Names of the tasks that it serves; None for every task.
    server_data : str
        Examples that the server lends it: ``"none"``, ``"unlabelled"`` or ``"labelled"``.
    server_model : bool
        Whether it needs a model of the federation's architecture.
    latent : bool
        Whether it reads the model's latent layer.
    rule : bool
        Whether it is one of fedguard's rules: `combine` on a matrix of updates.
    copyable : bool
        Whether an attacker may search against a copy of it.
    blocks : str
        How it reads updates, and so whether it decides on ones that are larger than memory:
        ``"columns"``: in blocks of columns; ``"rows"``: row by row as well, which it cannot after
        a pre-aggregation; ``"none"``: as one matrix in memory.
    history : bool
        Whether it judges a client by earlier rounds, so that clients need a lasting handle.
    lasting_keys : bool
        Whether its clients sign with keys that they keep from round to round.
    smallest_cohort : int
        Fewest clients asked per round with which it means anything.
    visible : str
        What its server reads of the clients' updates.
    client_side : bool
        Whether its clients need another side: `client_side(grid)` then wraps a grid of this
        process.
    deployable : bool
        Whether it runs on a real Flower server as it is.
    requests : bool
        Whether it takes requests to unlearn.
    audit : str or None
        Registered audit that watches every run with it.
    """

    world: World = "horizontal"
    tasks: frozenset[str] | None = None
    server_data: ServerData = "none"
    server_model: bool = False
    latent: bool = False
    rule: bool = False
    copyable: bool = False
    blocks: Blocks = "none"
    history: bool = False
    lasting_keys: bool = False
    smallest_cohort: int = 1
    visible: Visible = "updates"
    client_side: bool = False
    deployable: bool = True
    requests: bool = False
    audit: str | None = None

    def __post_init__(self) -> None:
        if self.server_data not in SERVER_DATA:
            raise ConfigurationError("server_data", self.server_data, ", ".join(SERVER_DATA))
        if self.tasks is not None:
            object.__setattr__(self, "tasks", frozenset(self.tasks))

    @property
    def tools(self) -> bool:
        """Whether the server lends it anything: a model, examples or both."""
        return self.server_model or self.server_data != "none"

    def serves(self, task: str) -> bool:
        """Return whether it serves a task of this name."""
        return self.tasks is None or task in self.tasks

    def but(self, **changes: Any) -> Traits:
        """Return these traits with some changed.

        Raises
        ------
        ConfigurationError
            If a name is no trait; names the nearest one.
        """
        known = [field.name for field in fields(self)]
        for name in changes:
            if name not in known:
                raise ConfigurationError("traits", name, nearest(name, known) + ", ".join(known))
        return replace(self, **changes)


def traits_of(part: Any) -> Traits:
    """Return what a part, or a class of parts, declares.

    Raises
    ------
    ConfigurationError
        If it declares something that is no `Traits`.
    """
    declared = getattr(part, "traits", None)
    refine = None if isinstance(part, type) else getattr(part, "refined_traits", None)
    if refine is not None:
        declared = refine()
    if declared is None:
        return Traits()
    if not isinstance(declared, Traits):
        name = getattr(part, "__name__", type(part).__name__)
        raise ConfigurationError("traits", name, "fedguard.traits.Traits(...)")
    return declared
