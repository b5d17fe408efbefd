"""Lines of tests per line of source, room by room.

python tests/room_sizes.py
"""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

SHARED = {
    "encrypted_clients.py": "encryption",
    "references.py": "strategies",
    "synthetic_run.py": "reporting",
    "campaign_runs.py": "campaigns",
    "field/test_yaml_files.py": "config",
    "field/test_networks.py": "models",
    "test_encrypted_deployment.py": "encryption",
    "test_deployment.py": "nodes",
}
"""Files outside their room's folder, and whose they are."""

ELSEWHERE = {"field": "data", "plug_in": "nodes", "door": "commands"}
"""Folders of tests that have another name than the room."""


def lines(paths: list[Path]) -> int:
    """Return the number of lines of some files."""
    return sum(len(path.read_text(encoding="utf-8").splitlines()) for path in paths)


def sizes() -> dict[str, tuple[int, int]]:
    """Return lines of source and of tests for every room."""
    rooms = sorted(p.name for p in (ROOT / "fedguard").iterdir() if (p / "__init__.py").exists())
    found = {}
    for room in rooms:
        source = lines(list((ROOT / "fedguard" / room).rglob("*.py")))
        folders = [room, *(folder for folder, own in ELSEWHERE.items() if own == room)]
        tests = [p for folder in folders for p in (ROOT / "tests" / folder).rglob("*.py")]
        tests = [p for p in tests if str(p.relative_to(ROOT / "tests")) not in SHARED]
        tests += [ROOT / "tests" / name for name, own in SHARED.items() if own == room]
        found[room] = (source, lines(tests))
    return found


if __name__ == "__main__":
    table = sizes()
    for room, (source, tests) in table.items():
        print(f"{room:12} {source:6} {tests:6}  {tests / source:.2f}")
    source = lines(list((ROOT / "fedguard").rglob("*.py")))
    tests = lines(list((ROOT / "tests").rglob("*.py")))
    print(f"{'all':12} {source:6} {tests:6}  {tests / source:.2f}")
