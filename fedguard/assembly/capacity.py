"""What a run will need of memory and disk, against what this machine has: told before round 1."""

from __future__ import annotations

import os
import resource
import shutil
from pathlib import Path

import torch

from fedguard import registry
from fedguard.assembly.fits import model_arguments
from fedguard.config import SimulationConfig
from fedguard.config.sizes import bytes_of
from fedguard.data.dataset import Dataset
from fedguard.errors import ConfigurationError

_BYTES = 4
_MATRIX_FACTOR = 1.5
"""The matrix of updates, and half as much again that a rule may work with."""

_MODEL_COPIES = 8
"""Models, gradients, momentum, the global model, the one before, and what is checkpointed."""

_CHECKPOINTS = 3
"""Two are kept while a third is written."""

_CGROUPS = Path("/sys/fs/cgroup")


def check_memory(config: SimulationConfig, dataset: Dataset, available: int | None = None) -> None:
    """Refuse a run whose updates, data and model do not fit into memory.

    The estimate is cohort x parameters x 4 bytes x 1.5 for the updates of a round, as much again
    as the data for the clients' copies of them, and eight vectors of the model's size. The model
    is counted without being built.

    Parameters
    ----------
    config : SimulationConfig
        The run.
    dataset : Dataset
        Its data, already in memory.
    available : int, optional
        Bytes that may still be used; asked of the machine if left out.

    Raises
    ------
    ConfigurationError
        On ``clients``, or on ``model`` where one client is too much, in one line with the figures
        and what to change.
    """
    parameters = count_parameters(config, dataset)
    if parameters is None:
        return
    free = available_memory() if available is None else available
    row = parameters * _BYTES * _MATRIX_FACTOR
    fixed = dataset.x_train.nbytes + dataset.x_test.nbytes + _MODEL_COPIES * parameters * _BYTES
    cohort = max(1, round(config.fraction * config.clients))
    updates = cohort * row
    if config.update_memory is not None:
        updates = min(updates, _MATRIX_FACTOR * bytes_of("update_memory", config.update_memory))
    elif config.updates_on == "workers" and config.ray_address is not None:
        updates = 0  # they lie on other machines
    needed = updates + fixed
    if needed <= free:
        return
    most = int((free - fixed) // row)
    figures = (
        f"{cohort:,} updates of {parameters:,} parameters need {said_bytes(needed)} of memory, "
        f"{said_bytes(free)} are free"
    )
    if config.update_memory is not None and updates < cohort * row:
        allowed = f"at most {said_bytes(max(free - fixed, 0) / _MATRIX_FACTOR)}; {figures}"
        raise ConfigurationError("update_memory", config.update_memory, allowed)
    if most < 1:
        raise ConfigurationError("model", config.model.name, f"a smaller one; {figures}")
    raise ConfigurationError(
        "clients",
        config.clients,
        f"at most {most:,} clients a round with this model (fewer clients, a smaller fraction, a "
        f"smaller model, or update_memory, beyond which updates lie in a file); {figures}",
    )


def count_parameters(config: SimulationConfig, dataset: Dataset) -> int | None:
    """Return the length D of the model's vector without allocating it, or None if unknown."""
    known = registry.parameters(registry.find("model", config.model.name))
    shapes = {"input_shape": dataset.input_shape, "num_classes": dataset.num_classes}
    given = {name: value for name, value in shapes.items() if name in known}
    own = model_arguments(config, dataset)
    try:
        with torch.device("meta"):
            model = registry.create("model", config.model.name, **given, **own)
        return sum(int(value.numel()) for value in model.state_dict().values())
    except ConfigurationError:
        raise
    except Exception:  # a model of a third party that cannot be made without memory
        return None


def check_disk(out: Path, parameters: int) -> None:
    """Refuse a run directory without room for its checkpoints, its last and its best model.

    Raises
    ------
    ConfigurationError
        On ``out``, with the figures.
    """
    needed = (2 * _CHECKPOINTS + 2) * parameters * _BYTES
    free = shutil.disk_usage(out).free
    if needed > free:
        raise ConfigurationError(
            "out",
            str(out),
            f"a folder with {said_bytes(needed)} of room for checkpoints; "
            f"it has {said_bytes(free)}",
        )


def available_memory() -> int:
    """Return how many bytes this process may still take: machine, control group and limits."""
    return max(0, min(_machine(), *_groups(), _address_space()))


def _machine() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _groups() -> list[int]:
    """Return what every control group around this process still allows."""
    found = []
    for line in _read(Path("/proc/self/cgroup")).splitlines():
        number, controllers, path = line.split(":", 2)
        if number == "0":
            base, limit, used = _CGROUPS, "memory.max", "memory.current"
        elif "memory" in controllers.split(","):
            base, limit, used = (
                _CGROUPS / "memory",
                "memory.limit_in_bytes",
                "memory.usage_in_bytes",
            )
        else:
            continue
        group = base / path.lstrip("/")
        for folder in (group, *group.parents):
            most, now = _read(folder / limit).strip(), _read(folder / used).strip()
            if most.isdigit() and now.isdigit():
                found.append(int(most) - int(now) + _reclaimable(folder))
            if folder == base:
                break
    return found or [1 << 62]


def _reclaimable(folder: Path) -> int:
    """Return the bytes of file cache in a control group, which give way when memory is short."""
    for line in _read(folder / "memory.stat").splitlines():
        if line.startswith(("inactive_file ", "total_inactive_file ")):
            return int(line.split()[1])
    return 0


def _address_space() -> int:
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    if soft == resource.RLIM_INFINITY:
        return 1 << 62
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    return soft - pages * os.sysconf("SC_PAGE_SIZE")


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def said_bytes(count: float) -> str:
    """Return a number of bytes as people say it."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:,.1f} TiB"
