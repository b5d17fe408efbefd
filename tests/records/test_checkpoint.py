from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fedguard.errors import RunError
from fedguard.records.checkpoints import Checkpoint, CheckpointStore


def save_rounds(folder: Path, *rounds: int) -> CheckpointStore:
    store = CheckpointStore(folder, "digest")
    for number in rounds:
        model = torch.full((5,), float(number))
        state = {"memory": torch.arange(3) + number}
        store.save(Checkpoint(number, model, model - 1, state, seconds=1.5 * number))
    return store


def test_the_newest_comes_back_whole(tmp_path):
    found = save_rounds(tmp_path, 1, 2, 3).newest()
    assert found is not None
    assert found.server_round == 3
    assert found.seconds == 4.5
    assert torch.equal(found.model, torch.full((5,), 3.0))
    assert torch.equal(found.previous_model, torch.full((5,), 2.0))
    assert torch.equal(found.strategy_state["memory"], torch.tensor([3, 4, 5]))


def test_only_two_are_kept(tmp_path):
    save_rounds(tmp_path, *range(1, 8))
    assert [path.name for path in sorted(tmp_path.glob("*.safetensors"))] == [
        "round-000006.safetensors",
        "round-000007.safetensors",
    ]


def test_nothing_written_is_no_checkpoint(tmp_path):
    assert CheckpointStore(tmp_path / "none", "digest").newest() is None


@pytest.mark.parametrize("keep", [0, 1, 8, 100, 150])
def test_a_truncated_one_gives_way_to_the_one_before(tmp_path, keep):
    store = save_rounds(tmp_path, 1, 2)
    newest = tmp_path / "round-000002.safetensors"
    newest.write_bytes(newest.read_bytes()[:keep])
    found = store.newest()
    assert found is not None
    assert found.server_round == 1


def test_one_flipped_bit_is_noticed(tmp_path):
    store = save_rounds(tmp_path, 1, 2)
    newest = tmp_path / "round-000002.safetensors"
    content = bytearray(newest.read_bytes())
    content[-1] ^= 1
    newest.write_bytes(bytes(content))
    found = store.newest()
    assert found is not None
    assert found.server_round == 1


def test_when_none_is_intact_the_run_is_refused(tmp_path):
    store = save_rounds(tmp_path, 1, 2)
    for path in tmp_path.glob("*.safetensors"):
        path.write_bytes(b"")
    with pytest.raises(RunError, match="no checkpoint is intact"):
        store.newest()


def test_another_configurations_checkpoint_is_refused(tmp_path):
    save_rounds(tmp_path, 1)
    with pytest.raises(RunError, match="another configuration"):
        CheckpointStore(tmp_path, "other").newest()


@pytest.mark.parametrize("text", ["", "[]", "{}", "not json", '{"version": 1}'])
def test_a_foreign_manifest_is_refused(tmp_path, text):
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(RunError, match="manifest"):
        CheckpointStore(tmp_path, "digest").newest()
