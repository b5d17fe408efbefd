"""Updates that are larger than the memory they may take lie in a file, and nothing else changes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fedguard import registry
from fedguard.assembly import stored_updates as planning
from fedguard.assembly.capacity import count_parameters
from fedguard.clients.executors import Cohort, Trained
from fedguard.config import parse
from fedguard.config.sizes import bytes_of
from fedguard.errors import ConfigurationError
from fedguard.grids.update_room import UpdateRoom
from fedguard.runs.simulation import Simulation
from fedguard.strategies.pre_aggregation import make_pre_aggregation
from fedguard.testing import honest_updates, with_deltas
from fedguard.traits import traits_of
from fedguard.update_store import StoredRows, UpdateStore
from fedguard.updates import ClientUpdates

ROOT = Path(__file__).resolve().parents[2]

RUN = {
    "strategy": "median",
    "attack": "sign-flip",
    "clients": 40,
    "rounds": 2,
    "local_epochs": 1,
    "partition": "iid",
    "model": {"name": "mlp", "hidden": [128]},
    "executor": "reuse",
    "server_samples": 40,
}
"""40 x 9,610 parameters are 1.5 MB; one mebibyte is the least that may be allowed."""


def stored(matrix: torch.Tensor, folder: Path, kind: str = "float32") -> StoredRows:
    store = UpdateStore(folder, *matrix.shape, memory=8 * len(matrix) * 7, kind=kind)
    rows = store.begin(len(matrix))
    store.write(0, matrix)
    return rows


@pytest.fixture
def matrix() -> torch.Tensor:
    return torch.randn(5, 23, generator=torch.Generator().manual_seed(1))


def test_what_was_written_is_read_by_rows_blocks_and_columns(tmp_path, matrix):
    rows = stored(matrix, tmp_path)
    assert os.listdir(tmp_path) == [], "the file has no name"
    assert rows.shape == matrix.shape
    assert torch.equal(rows.tensor(), matrix)
    assert torch.equal(rows[3], matrix[3])
    assert torch.equal(torch.stack(list(rows)), matrix)
    found = [(at.start, at.stop, block.clone()) for at, block in rows.blocks()]
    assert [(start, end) for start, end, _ in found] == [(0, 7), (7, 14), (14, 21), (21, 23)]
    assert torch.equal(torch.cat([block for *_, block in found], dim=1), matrix)
    some = rows[[4, 0]][:, 3:11]
    assert torch.equal(some.tensor(), matrix[[4, 0], 3:11])
    read = torch.cat([block.clone() for _, block in some.blocks()], dim=1)
    assert torch.equal(read, matrix[[4, 0], 3:11])
    assert torch.equal(rows[torch.tensor([False, True, True, False, False])].tensor(), matrix[1:3])
    assert torch.equal(rows[:, torch.tensor([22, 0])], matrix[:, [22, 0]])
    shares = torch.rand(5)
    assert torch.allclose(rows.combination(shares), shares @ matrix, atol=1e-6)


def test_a_row_that_is_written_again_counts_and_is_judged_anew(tmp_path, matrix):
    rows = stored(matrix, tmp_path)
    rows[1] = torch.full((23,), float("nan"))
    rows[2] = torch.full((23,), -1e12)
    updates = ClientUpdates.from_matrix(rows)
    assert updates.node_ids == (0, 3, 4)
    assert updates.malformed == {
        1: "not a number (NaN) in the update",
        2: "value of size 1.0e+12 in the update",
    }
    assert torch.equal(updates.select([0, 2]).deltas, matrix[[0, 4]])
    with pytest.raises(IndexError, match="whole rows"):
        rows[:, 1:3][0] = torch.zeros(2)


def test_rows_of_an_earlier_round_are_not_read_as_if_they_were_still_there(tmp_path, matrix):
    rows = stored(matrix, tmp_path)
    assert rows.store.begin(3).shape == (3, 23)
    with pytest.raises(RuntimeError, match="earlier round"):
        rows.tensor()


def test_bfloat16_takes_half_the_room_and_rounds_to_eight_bits(tmp_path, matrix):
    rows = stored(matrix, tmp_path, "bfloat16")
    read = rows.tensor()
    assert not torch.equal(read, matrix)
    assert torch.equal(read, matrix.to(torch.bfloat16).float())
    assert float(((read - matrix) / matrix).abs().max()) <= 2.0**-8
    assert os.fstat(rows.store._file.fileno()).st_size == 5 * 23 * 2


def test_clients_are_trained_as_many_at_a_time_as_the_memory_holds(tmp_path):
    seen = []

    def train(part: Cohort, deltas: torch.Tensor) -> Trained:
        seen.append(part.clients)
        deltas[:] = torch.tensor(part.clients)[:, None]
        failed = {row: "lost" for row, client in enumerate(part.clients) if client == 7}
        examples = torch.tensor(part.clients, dtype=torch.float64) * 2
        return Trained(examples, [float(client) for client in part.clients], failed)

    room = UpdateRoom(memory=64, folder=tmp_path)
    assert room.holds(4, 4)
    assert not room.holds(5, 4)
    cohort = Cohort((3, 9, 4, 7, 8), 1, torch.zeros(4), configs=tuple({"lr": c} for c in range(5)))
    rows, trained = room.train(cohort, 4, train)
    assert seen == [(3, 9), (4, 7), (8,)]
    assert torch.equal(rows.tensor(), torch.tensor([[c] * 4 for c in (3.0, 9, 4, 7, 8)]))
    assert trained.examples.tolist() == [6, 18, 8, 14, 16]
    assert trained.losses == [3.0, 9.0, 4.0, 7.0, 8.0]
    assert trained.failed == {3: "lost"}
    room.close()


BLOCKWISE = sorted(planning.rules(("columns",)))


@pytest.mark.parametrize("pre", ["clipping", "nnm", "bucketing", "arc"])
def test_rules_read_mixtures_of_rows_in_a_file_as_of_a_matrix(tmp_path, pre):
    for name in ("median", "krum", "geometric-median", "bulyan", "centered-clipping"):
        updates = honest_updates(10, seed=3)
        rule = registry.create("strategy", name)
        rule.pre = make_pre_aggregation(pre)
        wanted = rule.decide(updates)
        rule.reset()
        rows = stored(updates.deltas, tmp_path)
        found = rule.decide(with_deltas(updates, rows))
        torch.testing.assert_close(found.delta, wanted.delta, rtol=1e-5, atol=1e-6)


def test_rules_that_need_the_matrix_say_so_and_the_others_are_many():
    assert {"median", "trimmed-mean", "krum", "geometric-median", "flame"} <= set(BLOCKWISE)
    assert "geminiguard" not in BLOCKWISE
    assert "geminiguard" in planning.rules()
    assert "foolsgold" not in planning.rules()
    assert traits_of(registry.find("pre", "touched-rows")).blocks == "none"


@pytest.mark.parametrize(
    "strategy", ["median", "krum", pytest.param("fltrust", marks=pytest.mark.slow)]
)
def test_a_run_whose_updates_lie_in_a_file_ends_with_the_same_model(tmp_path, strategy):
    told: list[str] = []
    plain = Simulation(parse({**RUN, "strategy": strategy})).run(tmp_path / "memory")
    config = parse({**RUN, "strategy": strategy, "update_memory": "1MiB"})
    made = Simulation(config)
    kept = made.run(tmp_path / "file", on_opening=told.append)
    assert made.world.stored is not None
    if strategy == "median":
        assert kept["model_sha256"] == plain["model_sha256"]
    assert kept["final"]["accuracy"] == pytest.approx(plain["final"]["accuracy"], abs=0.01)
    assert kept["replies"] == plain["replies"]
    assert "40 x 9,610 lie in a file of 1.5 MiB" in told[0]
    assert "s a round" in told[0]
    assert Simulation(parse({**RUN, "update_memory": "2MB"})).world.stored is None


def test_a_fault_that_spoils_a_row_spoils_it_in_the_file_as_well(tmp_path):
    spoilt = {**RUN, "faults": {"corrupt": 0.5}}
    plain = Simulation(parse(spoilt)).run(tmp_path / "memory")
    kept = Simulation(parse({**spoilt, "update_memory": "1MiB"})).run(tmp_path / "file")
    assert kept["model_sha256"] == plain["model_sha256"]
    assert kept["replies"] == plain["replies"]


@pytest.mark.parametrize(
    ("change", "field", "told"),
    [
        ({"strategy": "foolsgold"}, "strategy", "reads updates in blocks .*median.*at least 1.5"),
        ({"strategy": "fltrust", "pre": "clipping"}, "strategy", "after a pre-aggregation"),
        (
            {"pre": [{"name": "touched-rows", "table": "output.weight"}]},
            "pre",
            "another one, or update_memory of at least 1.5 MiB",
        ),
        ({"attack_knowledge": "full"}, "attack_knowledge", "partial, or"),
        ({"malicious": 0.9}, "malicious", "at most 13 attackers"),
        ({"engine": "flower"}, "engine", "inprocess or ray"),
        ({"audit": "raven"}, "audit", "none with updates in a file"),
        ({"model": {"name": "mlp", "hidden": [4096]}}, "update_memory", "two updates"),
        ({"update_memory": "4 bananas"}, "update_memory", "4GB or 500MB"),
        ({"update_memory": "9KB"}, "update_memory", "at least 1MiB"),
        ({"update_memory": None, "update_type": "bfloat16"}, "update_type", "nothing without"),
        ({"update_memory": None, "update_dir": "/tmp"}, "update_dir", "nothing without"),
    ],
)
def test_what_cannot_work_on_a_file_is_refused_before_round_1(change, field, told):
    with pytest.raises(ConfigurationError, match=told) as error:
        Simulation(parse({**RUN, "update_memory": "1MiB", **change}))
    assert error.value.field == field


def test_a_deployment_whose_server_has_no_file_is_refused():
    world = Simulation(parse({**RUN, "update_memory": "1MiB"})).world
    with pytest.raises(ConfigurationError, match="nothing in a deployment"):
        world.check_deployed()


def test_a_place_without_room_is_refused_before_round_1(tmp_path, monkeypatch):
    monkeypatch.setattr(planning, "_free", lambda _: 1000)
    config = parse({**RUN, "update_memory": "1MiB", "update_dir": str(tmp_path / "scratch")})
    with pytest.raises(ConfigurationError, match=r"1\.5 MiB of room; it has 1000 B"):
        Simulation(config).run(tmp_path / "run")
    blocked = tmp_path / "file"
    blocked.write_text("")
    config = parse({**RUN, "update_memory": "1MiB", "update_dir": str(blocked / "x")})
    with pytest.raises(ConfigurationError, match="update_dir"):
        Simulation(config).run(tmp_path / "run")


def test_sizes_are_read_as_people_write_them():
    found = [bytes_of("f", text) for text in ("4GB", "1.5 GiB", "2mb", "3000000")]
    assert found == [4 * 10**9, 3 * 2**29, 2 * 10**6, 3_000_000]


def test_the_estimate_counts_what_the_run_has(tmp_path):
    made = Simulation(parse({**RUN, "update_memory": "1MiB"})).world
    assert made.stored.parameters == count_parameters(made.config, made.dataset) == 9_610
    assert made.stored.bytes == 40 * 9_610 * 4


KILLED = """
import os, sys, tempfile
from pathlib import Path
import torch
from fedguard.update_store import UpdateStore
store = UpdateStore(Path(sys.argv[1]), 4, 1 << 20, 1 << 20)
store.write(0, torch.ones(4, 1 << 20))
os.kill(os.getpid(), 9)
"""


@pytest.mark.slow
def test_a_process_that_is_killed_leaves_no_file(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path)], env=environment, check=False
    )
    assert done.returncode == -9
    assert os.listdir(tmp_path) == []
