"""The house: rooms use only rooms below, no circles, no guest known by name."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "fedguard"

FLOORS = [
    {"errors", "randomness", "_moved", "late_imports", "part_names"},
    {"layout", "traits", "update_store"},
    {"metrics", "training"},
    {"updates", "registry", "data"},
    {"attacks", "models", "tasks", "config"},
    {"strategies", "clients", "records"},
    {"grids", "reporting", "testing", "repairs", "audits"},
    {"encryption", "unlearning", "vertical", "enrolment", "assembly", "auditing"},
    {"nodes"},
    {"runs"},
    {"campaigns", "flower_app"},
    {"commands"},
    {"simulate", "__main__", "door", "__init__"},
]
"""Rooms from the ground up; those of one floor do not know each other."""

ROOT_FILES = {
    "__init__",
    "_moved",
    "door",
    "errors",
    "flower_app",
    "late_imports",
    "layout",
    "part_names",
    "randomness",
    "registry",
    "simulate",
    "__main__",
    "traits",
    "update_store",
    "updates",
}

FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}


def modules() -> dict[str, Path]:
    """Return every module of the package by its dotted name."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = path
    return found


def room_of(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def imports_of(path: Path, known: dict[str, Path]) -> set[str]:
    """Return the package's modules that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in known else node.module for name in names]
        else:
            continue
        found.update(name for name in names if name in known)
    return found


@pytest.fixture(scope="module")
def arrows() -> dict[str, set[str]]:
    known = modules()
    return {name: imports_of(path, known) - {name} for name, path in known.items()}


def test_every_room_has_its_floor():
    rooms = {room_of(name) for name in modules()}
    assert rooms == set(FLOOR_OF) & rooms, rooms - set(FLOOR_OF)
    loose = {path.stem for path in PACKAGE.glob("*.py")}
    assert loose <= ROOT_FILES, loose - ROOT_FILES


def test_rooms_use_only_rooms_on_floors_below(arrows):
    upward = [
        f"{name} -> {other}"
        for name, others in arrows.items()
        for other in others
        # The package itself is imported for its version alone.
        if room_of(name) != room_of(other) and room_of(other) != "__init__"
        if FLOOR_OF[room_of(other)] >= FLOOR_OF[room_of(name)]
    ]
    assert not upward, upward


def test_no_files_import_each_other_in_a_circle(arrows):
    packages = {name for name, path in modules().items() if path.name == "__init__.py"}
    graph = {n: {o for o in others if o not in packages} for n, others in arrows.items()}
    done: set[str] = set()

    def visit(name: str, way: list[str]) -> None:
        assert name not in way, " -> ".join([*way[way.index(name) :], name])
        if name in done:
            return
        for other in sorted(graph.get(name, ())):
            visit(other, [*way, name])
        done.add(name)

    for name in sorted(graph):
        if name not in packages:
            visit(name, [])


CORE = ("assembly", "nodes", "runs", "campaigns", "commands")
"""What reads declarations and never asks who somebody is; with it the doors."""

SPECIAL = re.compile(
    r"isinstance\([^)]*(SoUL|Encrypted\w*|SecAgg\w*|Ckks|Vertical\w*|GeminiGuard|WeiDetect|FedEraser)"
    r"|hasattr\(\s*(strategy|part|attack|self\.strategy)"
    r"|name\s*==\s*[\"'](soul|geminiguard|ckks|xmkckks|secagg|opus)"
)


def test_the_core_asks_no_special_part_who_it_is():
    files = [path for room in CORE for path in (PACKAGE / room).rglob("*.py")]
    files += [PACKAGE / "simulate.py", PACKAGE / "flower_app.py"]
    asked = [
        f"{path.relative_to(ROOT)}: {found.group(0)}"
        for path in files
        for found in SPECIAL.finditer(path.read_text(encoding="utf-8"))
    ]
    assert not asked, asked


def test_the_search_for_special_parts_would_find_one():
    assert SPECIAL.search("if isinstance(strategy, SoUL):")
    assert SPECIAL.search("isinstance(x, EncryptedStrategy | SecAggPlus)")
    assert SPECIAL.search('if hasattr(strategy, "due"):')


def test_old_paths_lead_to_the_modules_that_they_became():
    import importlib

    from fedguard._moved import MOVED

    for old, new in MOVED.items():
        assert (PACKAGE / Path(*new.split(".")[1:])).with_suffix(".py").exists(), new
        with pytest.warns(FutureWarning, match=re.escape(new)):
            assert importlib.import_module(old) is importlib.import_module(new)
