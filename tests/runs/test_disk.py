"""What happens to a run whose disk fills up or whose checkpoint is damaged."""

from __future__ import annotations

import errno
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from fedguard.config import parse
from fedguard.errors import ConfigurationError, RunError
from fedguard.records.writer import read_jsonl, write_atomically
from fedguard.runs.simulation import Simulation
from fedguard.simulate import main

VALUES = {
    "strategy": "geminiguard",
    "clients": 6,
    "rounds": 3,
    "local_epochs": 1,
    "partition": "iid",
    "model": "logistic",
    "server_samples": 40,
}


class StopError(Exception):
    pass


def interrupted(out: Path, after: int = 2) -> None:
    def stop(record):
        if record["round"] == after:
            raise StopError

    with pytest.raises(StopError):
        Simulation(parse(VALUES)).run(out, on_round=stop)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> str:
    return Simulation(parse(VALUES)).run(tmp_path_factory.mktemp("whole"))["model_sha256"]


@pytest.fixture(scope="module")
def cut(tmp_path_factory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("cut")
    interrupted(folder)
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def lay_out(files: dict[str, bytes], folder: Path) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def resumed(folder: Path) -> str | None:
    """Return the finished model's hash, or None where the checkpoint was refused in one line."""
    try:
        return Simulation(parse(VALUES)).run(folder, resume=True)["model_sha256"]
    except RunError as error:
        return _refused(str(error))


def _refused(text: str) -> None:
    assert "\n" not in text
    assert "checkpoint" in text


@pytest.mark.parametrize("damage", ["truncated", "flipped"])
@pytest.mark.parametrize("file", ["round-000002.safetensors", "manifest.json"])
def test_a_damaged_checkpoint_never_gives_a_wrong_model(tmp_path, cut, whole, damage, file):
    stream = random.Random(f"{damage} {file}")
    outcomes = []
    for attempt in range(10):
        folder = tmp_path / str(attempt)
        lay_out(cut, folder)
        content = bytearray(cut[f"checkpoint/{file}"])
        if damage == "truncated":
            content = content[: stream.randrange(len(content))]
        else:
            content[stream.randrange(len(content))] ^= 1 << stream.randrange(8)
        (folder / "checkpoint" / file).write_bytes(bytes(content))
        found = resumed(folder)
        outcomes.append(found)
        assert found in (None, whole)
        if found is not None:
            rounds = [record["round"] for record in read_jsonl(folder / "rounds.jsonl")]
            assert rounds == [0, 1, 2, 3]
    # Damaged tensors give way to the checkpoint before; a damaged manifest is refused.
    assert set(outcomes) == ({whole} if file.startswith("round") else {None})


def test_where_both_checkpoints_are_damaged_the_run_is_refused(tmp_path, cut):
    lay_out(cut, tmp_path)
    for path in (tmp_path / "checkpoint").glob("*.safetensors"):
        path.write_bytes(path.read_bytes()[:-3])
    assert resumed(tmp_path) is None


def full_disk(after: int):
    """Return an fsync that finds the disk full from its `after`-th call on."""
    calls = iter(range(10**6))
    real = os.fsync

    def fsync(descriptor: int) -> None:
        if next(calls) >= after:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(descriptor)

    return fsync


@pytest.mark.parametrize("after", [0, 3, 8, 9, 10, 11, 14, 17])
def test_a_disk_that_fills_up_loses_nothing(tmp_path, monkeypatch, whole, after):
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full_disk(after))
        with pytest.raises(RunError, match="No space left on device; put that right") as caught:
            Simulation(parse(VALUES)).run(tmp_path)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.rglob("*.tmp"))
    assert resumed(tmp_path) == whole
    assert [record["round"] for record in read_jsonl(tmp_path / "rounds.jsonl")] == [0, 1, 2, 3]
    assert len(read_jsonl(tmp_path / "clients.jsonl")) == 18


_UNDER_A_LIMIT = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), resource.RLIM_INFINITY))
from fedguard.simulate import main
sys.exit(main(sys.argv[2:]))
"""


def test_files_that_may_not_grow_end_the_command_in_one_line(tmp_path):
    """A real limit of the operating system: a line of clients.jsonl is cut in the middle."""
    arguments = [f"--set={key}={value}" for key, value in VALUES.items()]
    out = ["--out", str(tmp_path / "run")]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-c", _UNDER_A_LIMIT]
    failed = subprocess.run(
        [*command, "8192", *arguments, *out],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert failed.returncode == 1, failed.stderr
    assert "Traceback" not in failed.stderr
    last = failed.stderr.strip().splitlines()[-1]
    assert last.startswith("fedguard: ")
    assert "File too large" in last
    assert main([*arguments, *out, "--resume"]) == 0


def test_a_file_that_cannot_be_written_stays_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_atomically(path, b"old")
    monkeypatch.setattr(os, "fsync", full_disk(0))
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert [one.name for one in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("out", ["/proc/fedguard/run", "/dev/null/run"])
def test_an_unwritable_directory_is_told_before_the_first_round(out):
    with pytest.raises(ConfigurationError, match=r"out: .* a folder that can be written"):
        Simulation(parse(VALUES)).run(Path(out))
