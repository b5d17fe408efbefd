"""Updates that are not in the server's memory: what is refused, and what it will cost."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from fedguard import registry
from fedguard.assembly.capacity import said_bytes
from fedguard.assembly.strategy import cohort_of
from fedguard.attacks.base import Attack
from fedguard.config import SimulationConfig
from fedguard.config.sizes import bytes_of
from fedguard.errors import ConfigurationError
from fedguard.traits import traits_of
from fedguard.update_store import TYPES

_PROBE = 1 << 25
"""Bytes that are written and read to see how fast the place of the file is."""

_READINGS = 2
"""How often a rule reads the file in a round: most once, some twice."""


@dataclass(frozen=True)
class StoredUpdates:
    """A round's updates as they will lie in a file, or on the workers of engine ray.

    Attributes
    ----------
    cohort, parameters : int
        Rows and columns.
    memory : int
        Bytes they may take in memory.
    kind : str
        How a number is kept.
    place : str
        ``"file"`` or ``"workers"``.
    """

    cohort: int
    parameters: int
    memory: int
    kind: Literal["float32", "bfloat16"]
    place: Literal["file", "workers"] = "file"

    @property
    def bytes(self) -> int:
        """Size of the file."""
        return self.cohort * self.parameters * TYPES[self.kind].itemsize

    def undeployable(self, config: SimulationConfig) -> ConfigurationError:
        """Return what is said where clients are machines of their own."""
        field = "updates_on" if self.place == "workers" else "update_memory"
        allowed = "nothing in a deployment, whose server keeps a round's updates in memory"
        return ConfigurationError(field, getattr(config, field), allowed)

    def opening(self, folder: Path) -> str:
        """Return what is told before round 1; refuse a place without room."""
        check_room(self, folder)
        return self.told(folder)

    def told(self, folder: Path) -> str:
        """Return in one line what the updates will take; measures the place of a file."""
        if self.place == "workers":
            return (
                f"updates: {self.cohort:,} x {self.parameters:,} stay on the workers, "
                f"{said_bytes(self.bytes)} on all of them together and twice that while they are "
                "handed out"
            )
        seconds = self.bytes * (1 + _READINGS) / rate_of(folder)
        lost = (
            ", rounded to bfloat16 (relative error up to 0.4 %)" if self.kind != "float32" else ""
        )
        return (
            f"updates: {self.cohort:,} x {self.parameters:,} lie in a file of "
            f"{said_bytes(self.bytes)} in {folder} ({said_bytes(_free(folder))} free){lost}; "
            f"{said_bytes(self.memory)} of them in memory at a time; writing and reading them "
            f"takes about {seconds:.0f} s a round"
        )


def stored_updates(
    config: SimulationConfig, strategy: object, attack: Attack, parameters: int
) -> StoredUpdates | None:
    """Return how a round's updates will lie elsewhere; None where they stay in memory.

    Raises
    ------
    ConfigurationError
        On what cannot work on updates that are not in memory, in one line that says what can.
    """
    if config.updates_on == "workers":
        enough = "updates_on=server"
        _check_rule(config, strategy, enough)
        _check_company(config, attack, enough)
        return StoredUpdates(cohort_of(config), parameters, 0, "float32", "workers")
    if config.update_memory is None:
        return None
    memory, cohort = bytes_of("update_memory", config.update_memory), cohort_of(config)
    whole = 4 * cohort * parameters
    if whole <= memory:
        return None
    enough = f"update_memory of at least {said_bytes(whole)}"
    if 8 * parameters > memory:
        allowed = f"at least {said_bytes(8 * parameters)}, two updates of this model"
        raise ConfigurationError("update_memory", config.update_memory, allowed)
    _check_rule(config, strategy, enough)
    _check_company(config, attack, enough)
    if "updates" in attack.needs:
        _check_coalition(config, memory, parameters, enough)
    return StoredUpdates(cohort, parameters, memory, config.update_type)


def _check_rule(config: SimulationConfig, strategy: object, enough: str) -> None:
    """Refuse a rule, or a pre-aggregation in front of one, that needs the matrix in memory."""
    for part in config.pre:
        if traits_of(registry.find("pre", part.name)).blocks != "columns":
            raise ConfigurationError("pre", part.name, f"another one, or {enough}")
    wanted = ("columns",) if config.pre else ("rows", "columns")
    if traits_of(strategy).blocks not in wanted:
        after = " after a pre-aggregation" if config.pre else ""
        known = ", ".join(rules(wanted))
        allowed = f"a rule that reads updates in blocks{after} ({known}), or {enough}"
        raise ConfigurationError("strategy", config.strategy.name, allowed)


def _check_company(config: SimulationConfig, attack: Attack, enough: str) -> None:
    """Refuse engines and parts beside the rule that need the matrix in memory."""
    if config.engine == "flower" or config.client_app is not None:
        what = "engine" if config.engine == "flower" else "client_app"
        raise ConfigurationError(what, "flower", f"engine inprocess or ray, or {enough}")
    where = "on the workers" if config.updates_on == "workers" else "in a file"
    for field in ("repair", "audit", "enrolment"):
        part = getattr(config, field)
        if part is not None:
            allowed = f"none with updates {where}, or {enough}"
            raise ConfigurationError(field, part.name, allowed)
    if "updates" in attack.needs and config.attack_knowledge == "full":
        raise ConfigurationError("attack_knowledge", "full", f"partial, or {enough}")


def _check_coalition(config: SimulationConfig, memory: int, parameters: int, enough: str) -> None:
    """Refuse an attack that holds more updates at a time than the memory."""
    own = min(cohort_of(config), round(config.malicious * config.clients))
    if 8 * own * parameters > memory:
        most = memory // (8 * parameters)
        allowed = f"at most {most} attackers, whose updates are crafted in memory, or {enough}"
        raise ConfigurationError("malicious", config.malicious, allowed)


def rules(wanted: Collection[str] = ("rows", "columns")) -> list[str]:
    """Return the registered rules that read updates in one of the wanted ways."""
    names = registry.names("strategy")
    return [n for n in names if traits_of(registry.find("strategy", n)).blocks in wanted]


def check_room(plan: StoredUpdates, folder: Path) -> None:
    """Refuse a place without room for the file; workers say themselves what they have.

    Raises
    ------
    ConfigurationError
        On ``update_dir``, with the figures.
    """
    if plan.place != "file":
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        free = _free(folder)
    except OSError as error:
        allowed = f"a folder that can be written ({error.strerror})"
        raise ConfigurationError("update_dir", str(folder), allowed) from error
    if plan.bytes > free:
        allowed = f"a folder with {said_bytes(plan.bytes)} of room; it has {said_bytes(free)}"
        raise ConfigurationError("update_dir", str(folder), allowed)


def rate_of(folder: Path) -> float:
    """Return the bytes a second that a file in a folder is written and read with."""
    content = torch.zeros(_PROBE, dtype=torch.uint8).numpy()
    with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
        started = time.perf_counter()
        os.pwrite(file.fileno(), content.data, 0)
        os.fsync(file.fileno())
        os.preadv(file.fileno(), [content.data], 0)
        return 2 * _PROBE / max(time.perf_counter() - started, 1e-6)


def _free(folder: Path) -> int:
    return shutil.disk_usage(folder).free
