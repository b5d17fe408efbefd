"""One cell of an audit: the app, once, under one threat; what became of it as plain values."""

from __future__ import annotations

import copy
import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from flwr.app import Context, RecordDict
from flwr.clientapp import ClientApp
from flwr.compat.common.recorddict_compat import parameters_to_arrayrecord
from flwr.server.server import Server
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import Strategy

from fedguard import registry
from fedguard.auditing.clients import AnyClients
from fedguard.auditing.field import Field, Stopped
from fedguard.auditing.gathered import gathered_rounds
from fedguard.auditing.hook import TRIGGERED, DataHook
from fedguard.auditing.in_flower import with_simulated_clients
from fedguard.auditing.project import FLOWER, Project, function_of
from fedguard.auditing.threats import BY_NAME
from fedguard.errors import ConfigurationError
from fedguard.grids.foreign_app import ClientAppGrid
from fedguard.grids.guard import guard
from fedguard.grids.identity import LOCAL_RUN_ID
from fedguard.grids.opened import model_of
from fedguard.randomness import SERVER, numpy_generator

PEACE = "peace"


@dataclass(frozen=True)
class Cell:
    """What is run.

    Attributes
    ----------
    threat : str
        Name of a threat; ``"peace"`` for none.
    malicious : int
        How many clients it is.
    seed : int
        Seed of who they are, and of the app's global random states.
    rule : str
        Rule that guards the app; empty for none.
    arguments : mapping
        Its arguments.
    """

    threat: str = PEACE
    malicious: int = 0
    seed: int = 0
    rule: str = ""
    arguments: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The cell's file name."""
        words = [self.threat, f"{self.malicious}", f"s{self.seed}", self.rule or "unguarded"]
        return "-".join("".join(c if c.isalnum() else "_" for c in word) for word in words)

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Cell:
        """Return a cell from plain values."""
        return cls(**values)


@dataclass
class Watched:
    """What the servers of a run returned, as they did so."""

    figures: dict[int, dict[str, float]] = field(default_factory=dict)
    arrays: RecordDict | None = None


def perform(
    project: Project, apps: tuple[ServerApp, ClientApp], cell: Cell, hook: DataHook | None
) -> dict[str, Any]:
    """Run a cell and return its outcome; its server in this process, its clients on the engine.

    Returns
    -------
    dict
        ``ended`` (``"finished"``, ``"not finite"``, ``"raised"``, ``"exited"``), ``reason``,
        ``metrics`` and ``untrained`` (source and name to value), ``rounds``, ``waited`` and
        ``seconds``, ``applied`` (replies or data that the threat changed), ``failures``, and
        ``vector``: a (D,) array of the final model, or None.
    """
    if project.engine == FLOWER:
        found: dict[str, Any] = with_simulated_clients(
            project, lambda grid: _outcome(project, apps[0], cell, hook, grid)
        )
        return found
    inner = ClientAppGrid(AnyClients(apps[1]), project.clients, project.config)
    with closing(inner):
        return _outcome(project, apps[0], cell, hook, inner)


def _outcome(
    project: Project, app: ServerApp, cell: Cell, hook: DataHook | None, inner: Grid
) -> dict[str, Any]:
    """Run an app's server on a grid whose clients do what the cell says."""
    _seed_everything(cell.seed)
    threat = BY_NAME.get(cell.threat)
    attack = (
        registry.create("attack", threat.attack, **dict(threat.arguments))
        if (threat and threat.attack)
        else None
    )
    chosen = numpy_generator(cell.seed, 0, SERVER, "malicious").permutation(project.clients)
    grid = Field(
        inner, threat, attack, (int(node) for node in chosen[: cell.malicious]), cell.seed, hook
    )
    server = guard(cell.rule, **cell.arguments)(app) if cell.rule else app
    context = Context(LOCAL_RUN_ID, 0, {}, RecordDict(), dict(project.config))
    started = time.monotonic()
    with watched() as seen, gathered_rounds():
        ended, reason = _ended(lambda: server(grid, context))
    outcome: dict[str, Any] = {"ended": ended, "reason": reason}
    final = seen.arrays or _newest(grid)
    if ended == "finished" and not _finite(final):
        outcome["ended"] = "not finite"
    metrics, untrained = _measure(project, grid, seen, final, outcome["ended"])
    if threat is not None and threat.name == "backdoor":
        triggered = grid.evaluate(final, TRIGGERED)
        metrics.update({f"triggered/{name}": value for name, value in triggered.items()})
    vector = _vector(final)
    first = _vector(grid.first)
    return {
        **outcome,
        "seconds": time.monotonic() - started,
        "metrics": metrics,
        "untrained": untrained,
        "rounds": grid.trained,
        "waited": grid.waited,
        "applied": grid.applied,
        "failures": sorted(set(grid.failures))[:3],
        "moved": _distance(vector, first),
        "vector": vector,
        "averageable": vector is not None,
    }


def _seed_everything(seed: int) -> None:
    """Begin the random states that apps and Flower's sampling read."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def _ended(run: Callable[[], Any]) -> tuple[str, str]:
    """Run somebody's server; return how it ended, and its reason in one line."""
    try:
        run()
    except Stopped:
        return "not finite", "the server sent a model with NaN or infinity in it"
    except SystemExit as error:
        return (
            "exited",
            f"the ServerApp called sys.exit({'' if error.code is None else error.code})",
        )
    except Exception as error:  # a stranger's code can fail in any way
        text = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        return "raised", text
    return "finished", ""


@contextmanager
def watched() -> Iterator[Watched]:
    """Note what Flower's own training loops return while the block runs."""
    seen = Watched()
    start, fit = Strategy.start, Server.fit

    def noted_start(self: Strategy, *rest: Any, **more: Any) -> Any:
        result = start(self, *rest, **more)
        for number, record in result.evaluate_metrics_serverapp.items():
            seen.figures[number] = _numbers(record)
        if len(result.arrays):
            seen.arrays = RecordDict({"arrays": result.arrays})
        return result

    def noted_fit(self: Server, num_rounds: int, timeout: float | None) -> Any:
        history, seconds = fit(self, num_rounds, timeout)
        for number, loss in history.losses_centralized:
            seen.figures.setdefault(number, {})["loss"] = float(loss)
        for name, values in history.metrics_centralized.items():
            for number, value in values:
                seen.figures.setdefault(number, {}).update(_numbers({name: value}))

        record = parameters_to_arrayrecord(self.parameters, keep_input=True)
        seen.arrays = RecordDict({"fitins.parameters": record})
        return history, seconds

    Strategy.start, Server.fit = noted_start, noted_fit  # type: ignore[method-assign]
    try:
        yield seen
    finally:
        Strategy.start, Server.fit = start, fit  # type: ignore[method-assign]


def _numbers(record: Mapping[str, Any]) -> dict[str, float]:
    return {
        name: float(value)
        for name, value in record.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }


def _newest(grid: Field) -> RecordDict | None:
    """Return the newest message with a model in it; that to evaluate comes after training."""
    if grid.to_evaluate is not None and grid.to_evaluate.content.array_records:
        return grid.to_evaluate.content
    return grid.last


def _measure(
    project: Project, grid: Field, seen: Watched, final: RecordDict | None, ended: str
) -> tuple[dict[str, float], dict[str, float]]:
    """Return what is said of the final model, and of the first one, by source and name."""
    found: dict[str, float] = {}
    untrained: dict[str, float] = {}
    if seen.figures:
        found.update(_under("server", seen.figures[max(seen.figures)]))
        untrained.update(_under("server", seen.figures.get(0, {})))
    if project.evaluate is not None:
        for content, place in ((final, found), (grid.first, untrained)):
            if content is not None:
                place.update(_under("yours", _said_by(project.evaluate, content)))
    if ended in ("finished", "not finite"):
        found.update(_under("clients", grid.evaluate(final)))
        if not grid.malicious:
            untrained.update(_under("clients", grid.evaluate(grid.first)))
    if grid.train_metrics:
        found.update(_under("train", grid.train_metrics[-1]))
        untrained.update(_under("train", grid.train_metrics[0]))
    return found, untrained


def _said_by(path: str, content: RecordDict) -> dict[str, float]:
    """Return the figures of the user's own function."""
    function = function_of("evaluate", path)
    arrays = model_of(content, list(content.array_records))
    try:
        return _numbers(dict(function({name: array.numpy() for name, array in arrays.items()})))
    except Exception as error:  # a stranger's code can fail in any way
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        allowed = f"a function of arrays by name that returns figures by name ({reason})"
        raise ConfigurationError("evaluate", path, allowed) from error


def _under(source: str, figures: Mapping[str, float]) -> dict[str, float]:
    return {f"{source}/{name}": value for name, value in figures.items()}


def _vector(content: RecordDict | None) -> np.ndarray | None:
    """Return a model's (D,) floating-point numbers; None where it has none."""
    if content is None or not content.array_records:
        return None
    try:
        arrays = model_of(content, list(content.array_records)).values()
        parts = [array.numpy().reshape(-1) for array in arrays]
    except Exception:  # bytes that are no arrays
        return None
    floats = [part.astype(np.float64) for part in parts if part.dtype.kind == "f"]
    return np.concatenate(floats) if floats else None


def _finite(content: RecordDict | None) -> bool:
    vector = _vector(content)
    return vector is None or bool(np.isfinite(vector).all())


def _distance(one: np.ndarray | None, other: np.ndarray | None) -> float | None:
    if one is None or other is None or one.shape != other.shape:
        return None
    return float(np.linalg.norm(one - other))


def save(outcome: dict[str, Any], path: Path) -> dict[str, Any]:
    """Write the final model beside a cell's file; return the outcome without it."""
    plain = copy.copy(outcome)
    vector = plain.pop("vector")
    if vector is not None:
        np.save(path.with_suffix(".npy"), vector)
    return plain
