"""What the command imports by the end of round 1, and that what waits is whole when it is asked."""

import hashlib
import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import fedguard
from fedguard import late_imports
from fedguard.late_imports import complete, hold_back, waiting

NEVER = [
    "cryptography",
    "narwhals",
    "numba",
    "pandas",
    "plotly.basedatatypes",
    "pyarrow",
    "ray",
    "scipy.stats",
    "sklearn",
    "torch._decomp",
    "torch._dynamo",
    "torch._export",
    "torch._inductor",
    "torch._refs",
    "torch.ao.quantization",
    "torch.export.exported_program",
    "torch.utils.data.dataloader",
    "torchvision",
    "transformers",
]
"""Modules that a run of a built-in defence on digits has no use for in its rounds."""

WATCHED = """
import json, sys
from fedguard import late_imports
from fedguard.simulate import main

hold = late_imports.hold_back

def held():
    hold()
    assert "torch" not in sys.modules
    from fedguard.runs.simulation import Simulation
    run = Simulation.run

    def watched(self, directory, *, on_round, **options):
        def told(record):
            waits = late_imports.waiting()
            ran = [n for n in late_imports.HELD if n in sys.modules and n not in waits]
            ran += [n for n in json.loads(sys.argv[2]) if n in sys.modules]
            print(json.dumps({"ran": ran, "waits": waits}))
            on_round(record)
        return run(self, directory, on_round=told, **options)

    Simulation.run = watched

late_imports.hold_back = held
flags = ["--strategy", "geminiguard", "--rounds", "1", "--seed", "3"]
assert main([*flags, "--out", sys.argv[1]]) == 0
late_imports.complete()
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
with FakeTensorMode():
    shape = torch.nn.functional.scaled_dot_product_attention(*[torch.empty(2, 3, 4)] * 3).shape
whole = torch.export.export(torch.nn.Linear(2, 1), (torch.ones(1, 2),)) is not None
print(json.dumps({"shape": list(shape), "whole": whole, "waits": late_imports.waiting()}))
"""


def digest(directory: Path) -> str:
    return hashlib.sha256((directory / "model.safetensors").read_bytes()).hexdigest()


def test_round_1_runs_without_what_it_does_not_need_and_changes_nothing(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, str(tmp_path / "late"), json.dumps(NEVER)],
        capture_output=True,
        text=True,
        check=True,
    )
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"')]
    by_round_1, after = lines[0], lines[-1]
    assert by_round_1["ran"] == []
    assert "torch.export" in by_round_1["waits"]
    assert after == {"shape": [2, 3, 4], "whole": True, "waits": []}
    result = fedguard.run(strategy="geminiguard", rounds=1, seed=3, out=tmp_path / "usual")
    assert digest(tmp_path / "late") == digest(result.directory)


@pytest.fixture
def held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the name of a module that waits and writes down each time that its code runs."""
    (tmp_path / "slow_room.py").write_text(
        "import time, builtins\nbuiltins.slow_room_runs.append(1)\ntime.sleep(0.05)\nANSWER = 42\n"
    )
    runs: list[int] = []
    monkeypatch.setattr("builtins.slow_room_runs", runs, raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(late_imports, "HELD", {"slow_room": None})
    monkeypatch.delitem(sys.modules, "slow_room", raising=False)
    hold_back()
    return runs


def test_a_module_waits_until_a_name_is_asked_of_it(held: list[int]) -> None:
    import slow_room

    assert slow_room.__name__ == "slow_room"
    assert held == []
    assert waiting() == ["slow_room"]
    assert slow_room.ANSWER == 42
    assert held == [1]
    assert waiting() == []
    complete()


def test_threads_that_ask_at_once_run_it_once_and_see_it_whole(held: list[int]) -> None:
    import slow_room

    seen: list[int] = []
    threads = [
        threading.Thread(target=lambda: seen.append(slow_room.ANSWER), daemon=True)
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert seen == [42] * 8
    assert held == [1]
    complete()


def test_complete_runs_all_that_waits_and_holds_nothing_back_after(held: list[int]) -> None:
    import slow_room  # noqa: F401

    complete()
    assert held == [1]
    assert not [f for f in sys.meta_path if type(f).__module__ == "fedguard.late_imports"]


def test_another_release_of_pytorch_is_imported_as_usual(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package, version in (("torn", "9.1.0"), ("worn", "2.15.3")):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text("")
        (tmp_path / package / "version.py").write_text(f"__version__ = '{version}'\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(late_imports, "RELEASES", {"torn": "2.15.", "worn": "2.15."})
    assert not late_imports._known("torn")
    assert late_imports._known("worn")


def test_a_third_partys_part_finds_everything_imported(held: list[int], tmp_path: Path) -> None:
    import slow_room  # noqa: F401

    from fedguard import registry

    assert registry.find("strategy", "fedguard.strategies.krum:Krum").__name__ == "Krum"
    assert held == [1]
