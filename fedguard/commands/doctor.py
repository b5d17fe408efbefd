"""``fedguard doctor``: what is installed, which devices and data are there, what is missing."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Annotated, Literal

import typer

from fedguard import registry
from fedguard.errors import ConfigurationError

app = typer.Typer(add_completion=False, rich_markup_mode="rich", pretty_exceptions_enable=False)

State = Literal["ok", "optional", "missing"]

_PURPOSES = {
    "excel": "tables in .xlsx files",
    "encryption": "ckks and xmkckks",
    "vertical": "privacy accounts of vertical learning",
    "metrics": "a deployment's metrics for Prometheus",
    "mlflow": "--track mlflow",
    "tensorboard": "--track tensorboard",
    "wandb": "--track wandb",
    "docs": "make docs",
    "notebooks": "make notebooks",
    "package": "make package",
    "test": "make test",
}
"""What each extra of the package is for."""

_PROGRAMS = {
    "docker": "containers of docker/compose.yaml; install Docker",
    "chromium": "the browser tests of the report; install chromium",
}

CACHE = Path("~/.cache/fedguard")
"""Where data are looked for where no folder is given, as the data sets themselves do."""


@dataclass(frozen=True)
class Finding:
    """One line of what was found.

    Attributes
    ----------
    room : str
        What it belongs to: packages, devices, data, ...
    name : str
        What was looked for.
    state : str
        ``ok``, ``optional``: not there and not needed, or ``missing``: nothing runs without it.
    told : str
        Its version or place; how to get it where it is not there.
    """

    room: str
    name: str
    state: State
    told: str


@app.command()
def doctor(
    data_dir: Annotated[
        Path | None, typer.Option(help="Folder to look for data in; ~/.cache/fedguard else.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Say what is installed, which devices and data are there, and how to get what is not.

    Exit codes: 0 everything that is needed is there, 1 something is missing.
    """
    if data_dir is not None and not data_dir.is_dir():
        raise ConfigurationError("--data-dir", str(data_dir), "an existing folder")
    found = list(findings(data_dir))
    if as_json:
        print(json.dumps({"findings": [asdict(one) for one in found]}))
    else:
        print("\n".join(as_lines(found)))
    raise typer.Exit(int(any(one.state == "missing" for one in found)))


def as_lines(found: list[Finding]) -> list[str]:
    """Return findings as plain lines, room by room."""
    lines: list[str] = []
    width = max((len(one.name) for one in found), default=0)
    marks = {"ok": " ", "optional": "-", "missing": "!"}
    for room in dict.fromkeys(one.room for one in found):
        lines.append(room)
        lines += [
            f"{marks[one.state]} {one.name:{width}}  {one.told}"
            for one in found
            if one.room == room
        ]
    missing = sum(one.state == "missing" for one in found)
    lines.append("!: nothing runs without it; -: optional, not there")
    lines.append(f"{missing} missing" if missing else "all that is needed is there")
    return lines


def findings(data_dir: Path | None = None) -> Iterator[Finding]:
    """Yield all that is looked for, with what was found."""
    yield from _system()
    yield from _packages()
    yield from _devices()
    yield from _data(data_dir)
    yield from _extras()
    for name, purpose in _PROGRAMS.items():
        path = shutil.which(name)
        yield Finding("programs", name, "ok" if path else "optional", path or f"for {purpose}")
    yield from _third_parties()


def _system() -> Iterator[Finding]:
    from fedguard import __version__

    yield Finding("system", "fedguard", "ok", f"{__version__} in {Path(__file__).parents[1]}")
    yield Finding("system", "python", "ok", platform.python_version())
    yield Finding("system", "platform", "ok", f"{platform.system()} {platform.machine()}")


def _declared() -> list[tuple[str, str]]:
    """Return (package, extra) of every requirement that fedguard declares; extra "" for its own."""
    try:
        lines = requires("fedguard") or []
    except PackageNotFoundError:
        return []
    found = []
    for line in lines:
        name = re.match(r"[A-Za-z0-9._-]+", line)
        extra = re.search(r"extra\s*==\s*[\"']([^\"']+)", line)
        if name is not None:
            found.append((name[0], extra[1] if extra else ""))
    return found


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _packages() -> Iterator[Finding]:
    for package in [name for name, extra in _declared() if not extra]:
        there = _version(package)
        told = there or f"pip install {package}"
        yield Finding("packages", package, "ok" if there else "missing", told)


def _devices() -> Iterator[Finding]:
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield Finding("devices", "cpu", "ok", f"{cores} cores, {torch.get_num_threads()} threads")
    for index in range(torch.cuda.device_count()):
        yield Finding("devices", f"cuda:{index}", "ok", torch.cuda.get_device_name(index))
    if not torch.cuda.device_count():
        built = torch.version.cuda
        how = "no NVIDIA GPU or driver" if built else "this PyTorch is built for the CPU alone"
        yield Finding("devices", "cuda", "optional", f"{how}; everything runs on the CPU")


def _data(data_dir: Path | None) -> Iterator[Finding]:
    root = (CACHE if data_dir is None else data_dir).expanduser()
    room = f"data in {root}"
    for name in registry.names("dataset"):
        wanted = getattr(registry.find("dataset", name), "looks_for", None)
        if wanted is None:
            yield Finding(
                room, name, "optional", "your own files; see its page in the documentation"
            )
        elif not wanted:
            yield Finding(room, name, "ok", "needs no files")
        elif (path := first_match(root, wanted)) is not None:
            yield Finding(room, name, "ok", str(path))
        else:
            yield Finding(room, name, "optional", f"--data-dir DIR that holds {wanted[0]}")


def first_match(root: Path, patterns: tuple[str, ...]) -> Path | None:
    """Return a file in a folder, or one folder down, whose path ends as a pattern says."""
    for pattern in patterns:
        for place in (pattern, f"*/{pattern}"):
            found = next(iter(sorted(root.glob(place))), None) if root.is_dir() else None
            if found is not None:
                return found
    return None


def _extras() -> Iterator[Finding]:
    declared = _declared()
    for extra in dict.fromkeys(extra for _, extra in declared if extra):
        lacking = [name for name, of in declared if of == extra and _version(name) is None]
        purpose = _PURPOSES.get(extra, extra)
        how = f"for {purpose}: pip install 'fedguard[{extra}]' (lacks {', '.join(lacking)})"
        told = f"for {purpose}" if not lacking else how
        yield Finding("extras", extra, "optional" if lacking else "ok", told)


def _third_parties() -> Iterator[Finding]:
    for kind in registry.KINDS:
        own = registry.own_parts(kind)
        for name in registry.names(kind):
            if name not in own:
                yield Finding("third parties", name, "ok", f"{kind}, by an entry point")
