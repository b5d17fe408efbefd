from __future__ import annotations

import math
from pathlib import Path

import pytest

from fedguard.assembly import capacity
from fedguard.assembly.make import load_dataset, make_model
from fedguard.config import parse
from fedguard.errors import ConfigurationError
from fedguard.runs.simulation import Simulation
from fedguard.simulate import main


def test_a_million_clients_of_a_large_model_are_refused_in_one_line(capsys):
    assert main(["--clients", "1000000", "--model", "resnet18"]) == 2
    text = capsys.readouterr().err
    assert text.count("\n") == 1
    for word in ("clients: 1000000", "11,172,810 parameters", "TiB", "are free", "smaller model"):
        assert word in text


def test_a_model_that_does_not_fit_is_never_built(capsys):
    assert main(["--set", "model.hidden=[5000000000]"]) == 2
    text = capsys.readouterr().err
    assert text.startswith("fedguard: model: 'mlp'")
    assert text.count("\n") == 1


@pytest.mark.parametrize("model", ["mlp", "logistic", "cnn", "resnet18"])
def test_parameters_are_counted_without_the_model(model):
    config = parse({"model": model})
    dataset = load_dataset(config)
    built = make_model(config, dataset)
    expected = sum(value.numel() for value in built.state_dict().values())
    assert capacity.count_parameters(config, dataset) == expected


def test_the_estimate_is_the_documented_one():
    config = parse({"clients": 100, "fraction": 0.5})
    dataset = load_dataset(config)
    parameters = capacity.count_parameters(config, dataset)
    assert parameters is not None
    data = dataset.x_train.nbytes + dataset.x_test.nbytes
    needed = math.ceil(50 * parameters * 4 * 1.5 + data + 8 * parameters * 4)
    capacity.check_memory(config, dataset, available=needed)
    with pytest.raises(ConfigurationError, match="at most 49 clients a round"):
        capacity.check_memory(config, dataset, available=needed - 1)


@pytest.mark.parametrize("version", [1, 2])
def test_a_control_groups_limit_counts(tmp_path, monkeypatch, version):
    folder = tmp_path / "cgroup" if version == 2 else tmp_path / "cgroup" / "memory"
    inner = folder / "a" / "b"
    inner.mkdir(parents=True)
    limit, used = (
        ("memory.max", "memory.current")
        if version == 2
        else ("memory.limit_in_bytes", "memory.usage_in_bytes")
    )
    (inner / limit).write_text("max\n" if version == 2 else str(1 << 60))
    (inner / used).write_text("1000\n")
    (inner.parent / limit).write_text("5000000\n")
    (inner.parent / used).write_text("4000000\n")
    (inner.parent / "memory.stat").write_text("anon 7\ninactive_file 500000\n")
    line = "0::/a/b\n" if version == 2 else "5:cpu,memory:/a/b\n"
    real = capacity._read

    def read(path: Path) -> str:
        return line if path == Path("/proc/self/cgroup") else real(path)

    monkeypatch.setattr(capacity, "_CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(capacity, "_read", read)
    assert capacity.available_memory() == 1_500_000


def test_what_this_machine_has_is_plausible():
    assert 1 << 20 < capacity.available_memory() < 1 << 50


def test_a_disk_without_room_is_told_before_the_first_round(tmp_path, monkeypatch):
    class Usage:
        free = 1000

    monkeypatch.setattr(capacity.shutil, "disk_usage", lambda path: Usage)
    simulation = Simulation(parse({"rounds": 1}))
    with pytest.raises(ConfigurationError, match=r"out: .*room for checkpoints; it has 1000 B"):
        simulation.run(tmp_path)
    assert not (tmp_path / "rounds.jsonl").exists()


def test_memory_that_runs_out_in_a_round_is_one_line(tmp_path, monkeypatch, capsys):
    def exhaust(*arguments, **options):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1")

    monkeypatch.setattr(Simulation, "run", exhaust)
    assert main(["--out", str(tmp_path / "run")]) == 1
    *_, text = capsys.readouterr().err.splitlines()
    assert text.startswith("fedguard: out of memory; fewer clients")
