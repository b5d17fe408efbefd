"""The API reference: a page for every public room, every public name of it on the page."""

from __future__ import annotations

import importlib
import inspect

import fedguard

ROOMS: dict[str, tuple[str, ...]] = {
    "updates": ("fedguard.updates",),
    "strategies": (
        "fedguard.strategies.base",
        "fedguard.strategies.legacy",
        "fedguard.strategies.toolkit.server_tools",
        "fedguard.strategies.pre_aggregation",
    ),
    "attacks": (
        "fedguard.attacks.base",
        "fedguard.attacks.toolkit.crafting",
        "fedguard.attacks.toolkit.rehearsal",
    ),
    "tasks": ("fedguard.tasks.base", "fedguard.tasks.classification", "fedguard.tasks.next_word"),
    "training": ("fedguard.training.base",),
    "repairs": ("fedguard.repairs.base",),
    "audits": ("fedguard.audits.base",),
    "enrolment": ("fedguard.enrolment.base", "fedguard.enrolment.attacks"),
    "encryption": (
        "fedguard.encryption.attacks",
        "fedguard.encryption.lattice.sampling",
        "fedguard.encryption.mod",
        "fedguard.encryption.protocol.client",
        "fedguard.encryption.protocol.endpoint",
        "fedguard.encryption.protocol.identity",
        "fedguard.encryption.protocol.server",
    ),
    "vertical": ("fedguard.vertical.parties",),
    "clients": ("fedguard.clients.training",),
    "grids": ("fedguard.grids.base", "fedguard.grids.guard"),
    "data": (
        "fedguard.data.dataset",
        "fedguard.data.partitions",
        "fedguard.data.partitions.base",
        "fedguard.data.digits",
    ),
    "traits": ("fedguard.traits",),
    "testing": ("fedguard.testing",),
    "registry": ("fedguard.registry",),
    "config": ("fedguard.config",),
    "layout": ("fedguard.layout",),
    "randomness": ("fedguard.randomness",),
    "errors": ("fedguard.errors",),
    "metrics": (
        "fedguard.metrics.classification",
        "fedguard.metrics.detection",
        "fedguard.metrics.fairness",
        "fedguard.metrics.membership",
        "fedguard.metrics.significance",
    ),
    "campaigns": ("fedguard.campaigns.campaign",),
    "simulate": ("fedguard.simulate",),
}
"""What users import, page by page; strategies and attacks have pages of their own beside it."""


def public_names(module_name: str) -> dict[str, str]:
    """Return a module's public names, each with the path where it is defined.

    They are those of ``__all__``, else every class, function and constant that the module defines.
    """
    module = importlib.import_module(module_name)
    listed = getattr(module, "__all__", None)
    if listed is None:
        listed = [name for name in vars(module) if _is_own(module, name)]
    return {name: _home(module, name) for name in listed if not name.startswith("__")}


def _is_own(module: object, name: str) -> bool:
    if name.startswith("_"):
        return False
    value = getattr(module, name)
    own = getattr(value, "__module__", None) == getattr(module, "__name__", "")
    return own and _is_written(value)


def _is_written(value: object) -> bool:
    """Return whether a value is a class or a function, one behind a cache too."""
    return callable(value) and hasattr(value, "__qualname__")


def _home(module: object, name: str) -> str:
    value = getattr(module, name)
    where = getattr(value, "__module__", None)
    if _is_written(value) and str(where).startswith("fedguard"):
        return f"{where}.{value.__qualname__}"
    return f"{_defined_in(module, name)}.{name}"


def _defined_in(module: object, name: str) -> str:
    """Return the module whose text gives a constant its value."""
    own = str(getattr(module, "__name__", ""))
    source = inspect.getsource(importlib.import_module(own))
    for line in source.replace("(\n", "(").splitlines():
        if line.startswith("from fedguard") and name in line.replace(",", " ").split():
            return line.split()[1]
    return own


def pages() -> dict[str, str]:
    """Return every page of the reference as Markdown, by its place in the site."""
    found = {"reference/fedguard.md": _door()}
    for room, modules in ROOMS.items():
        blocks = [f"# fedguard.{room}"]
        for name in modules:
            text = (inspect.getdoc(importlib.import_module(name)) or "").strip()
            blocks += [f"## `{name}`", text, *map(_entry, sorted(public_names(name).values()))]
        found[f"reference/{room}.md"] = "\n\n".join(blocks) + "\n"
    return found


def once(pages: dict[str, str]) -> dict[str, str]:
    """Return pages on which every name is documented once, where it comes first; links else."""
    seen: set[str] = set()
    found = {}
    for place, text in pages.items():
        lines = []
        for line in text.splitlines():
            path = line.removeprefix("::: ")
            if path != line and path in seen:
                line = f"See [`{path}`][{path}]."
            elif path != line:
                seen.add(path)
            lines.append(line)
        found[place] = "\n".join(lines) + "\n"
    return found


def _door() -> str:
    names = {name: path for name, path in public_names("fedguard").items() if name != "__version__"}
    blocks = ["# fedguard", inspect.getdoc(fedguard) or ""]
    for name, path in names.items():
        blocks += [f"## `fedguard.{name}` {{ #fedguard.{name} }}", _entry(path)]
    return "\n\n".join(blocks) + "\n"


def _entry(path: str) -> str:
    return f"::: {path}"
