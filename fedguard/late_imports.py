"""Parts of PyTorch and Flower that a run from the command line imports only when it needs them.

Importing PyTorch and Flower is most of the time from the command to the first round, and two
fifths of that are rooms that plain training never enters: tracing and exporting of graphs,
quantisation, shapes without data, gRPC's asyncio, HTTP. `hold_back` puts an empty module in the
place of each; the first attribute that anybody asks of it runs its code. Code that was not written
here may count on what such an import does beside its names, so `complete` runs all of them, and
`fedguard.registry` calls it before it loads a third party's part. A library never does this to its
user: only the command does, and only with releases that this was tried with.
"""

from __future__ import annotations

import importlib
import re
import sys
import threading
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

RELEASES = {"torch": "2.15."}
"""What the version of a package must begin with; its rooms are imported as usual otherwise."""

HELD: dict[str, str | None] = {
    "torch._meta_registrations": "torch._prims",
    "torch.quantization": "torch.fx",
    **dict.fromkeys(
        (
            "torch.ao",
            "torch.distributions",
            "torch.export",
            "torch.masked",
            "torch.nn.attention",
            "torch.nn.intrinsic",
            "torch.nn.qat",
            "torch.nn.quantizable",
            "torch.nn.quantized",
            "torch.optim",
            "torch.profiler",
            "torch.testing",
            "torch.utils.data",
            "cuda.bindings.driver",
            "cuda.bindings.runtime",
            "flwr.agentapp",
            "flwr.client.mod",
            "flwr.server.workflow",
            "grpc.aio",
            "httpx",
        )
    ),
}
"""Modules that wait, each with what must be imported in its place: PyTorch's random generators
need what `torch._prims` registers, and `torch.func` a `torch.fx` that stands."""

WHOLE = {"accelerate", "torch._dynamo", "torch._inductor", "transformers"}
"""Who counts on PyTorch as a whole: their import runs everything first."""

_PASSED = {"__class__", "__file__", "__loader__", "__name__", "__package__", "__path__", "__spec__"}
"""What the import system itself asks of a module; asking it runs nothing."""

_LOCK, _CODE = "_fedguard_lock", "_fedguard_loader"


class _Waiting(ModuleType):
    """A module whose code runs when the first name is asked of it, once, whoever asks."""

    def __getattribute__(self, name: str) -> object:
        own: dict[str, object] = ModuleType.__getattribute__(self, "__dict__")
        if name not in _PASSED and _LOCK in own:
            _run(self, own)
        return ModuleType.__getattribute__(self, name)


def _run(module: ModuleType, own: dict[str, object]) -> None:
    """Run a waiting module's code; other threads wait for it, its own thread passes."""
    lock: Any = own[_LOCK]
    with lock:
        loader = own.pop(_CODE, None)
        if not isinstance(loader, Loader):
            return
        spec = own["__spec__"]
        own["__loader__"] = loader
        if isinstance(spec, ModuleSpec):
            spec.loader = loader
        try:
            loader.exec_module(module)
        except BaseException:
            own[_CODE] = loader
            raise
        own.pop(_LOCK, None)
        module.__class__ = ModuleType


class _Later(Loader):
    """Makes a module as its own loader would, and lets its code wait."""

    def __init__(self, loader: Loader) -> None:
        self.loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """Return the module of the loader that waits."""
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """Remember whose code is to run."""
        own = module.__dict__
        own[_LOCK], own[_CODE] = threading.RLock(), self.loader
        module.__class__ = _Waiting


class _Finder(MetaPathFinder):
    """Finds the modules that wait."""

    def __init__(self, held: set[str]) -> None:
        self.held = held

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the spec of a module that waits, else None."""
        if fullname in WHOLE:
            complete()
        if fullname not in self.held:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is None or spec.loader is None:
            return None
        if (instead := HELD[fullname]) is not None:
            importlib.import_module(instead)
        spec.loader = _Later(spec.loader)
        return spec


def hold_back() -> None:
    """Let the modules of `HELD` wait from now on; those that are imported already stay."""
    complete()
    held = {name for name in HELD if name not in sys.modules and _known(name.partition(".")[0])}
    if held:
        sys.meta_path.insert(0, _Finder(held))


def complete() -> None:
    """Import as usual from now on, and run the code of all that waits."""
    finders = [finder for finder in sys.meta_path if isinstance(finder, _Finder)]
    for finder in finders:
        sys.meta_path.remove(finder)
    for module in [sys.modules.get(name) for name in HELD]:
        if isinstance(module, _Waiting):
            _run(module, ModuleType.__getattribute__(module, "__dict__"))


def waiting() -> list[str]:
    """Return the names of the modules whose code has not run."""
    return [name for name in HELD if isinstance(sys.modules.get(name), _Waiting)]


def _known(package: str) -> bool:
    """Return whether this release of a package is one of `RELEASES`, read without importing it."""
    wanted = RELEASES.get(package)
    if wanted is None:
        return True
    if package in sys.modules:
        return False
    spec = PathFinder.find_spec(package)
    if spec is None or spec.origin is None:
        return False
    try:
        text = (Path(spec.origin).parent / "version.py").read_text(encoding="utf-8")
    except OSError:
        return False
    found = re.search(r"__version__ *= *['\"]([^'\"]+)", text)
    return found is not None and found[1].startswith(wanted)
