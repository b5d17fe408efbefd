"""Encrypted strategies between real SuperNodes: TLS, node authentication, processes that die."""

from __future__ import annotations

import json

import pytest
from safetensors.torch import load_file
from test_deployment import (
    PATIENCE,
    federation,
    in_process,
    processes_left,
    run_locally,
    verdicts,
)

from fedguard.records.writer import read_jsonl

__all__ = ["federation"]

pytestmark = pytest.mark.slow

SMALL_STEPS = "lr=0.01 batch_size=128 local_epochs=1"
"""With large steps SGD amplifies the last bit of a float; docs/encryption.md says how much."""


def apart(run, other) -> float:
    ours, theirs = (load_file(path / "model.safetensors") for path in (run, other))
    return max(float((value - theirs[name]).abs().max()) for name, value in ours.items())


@pytest.mark.parametrize(
    ("strategy", "settings"),
    [
        ("ckks", ""),
        ("xmkckks", ""),
        ("xmkckks", "set='strategy.threshold=3'"),
        ("secagg+", ""),
    ],
)
def test_five_supernodes_encrypt_and_end_where_the_simulation_ends(
    strategy, settings, federation, tmp_path
):
    if strategy == "ckks":
        pytest.importorskip("tenseal")
    world = federation(5, STRATEGY=strategy, ROUNDS="3", RUN_CONFIG=f"{SMALL_STEPS} {settings}")
    done = run_locally(world)
    assert done.returncode == 0, done.stdout + done.stderr
    assert processes_left(world.folder) == []
    run = world.newest_run
    simulated = in_process(run, tmp_path / "here")
    assert verdicts(run) == verdicts(simulated)
    assert apart(run, simulated) < 1e-4
    assert not any(record["malformed"] for record in read_jsonl(run / "rounds.jsonl")[1:])
    if strategy != "secagg+":
        ledgers = [
            json.loads(path.read_text()) for path in world.folder.glob("supernodes/*/ledger")
        ]
        assert [ledger["rounds"] for ledger in ledgers] == [[1, 2, 3]] * 5


STALLING = """
from pathlib import Path
from fedguard.flower_app import make_client_app
from fedguard.nodes.run_config import partition_of

app = make_client_app()
honest = app._registered_funcs["train.default"]

def train(message, context):
    asked = "fedguard.encryption.share" in message.content.config_records
    if asked and partition_of(context) == 1 and not Path({marker!r}).exists():
        Path({marker!r}).touch()
        time.sleep(3600)
    return honest(message, context)

app._registered_funcs["train.default"] = train
"""
"""A ClientApp that says when it is asked for its share, and waits to be killed."""


def test_a_supernode_killed_between_upload_and_share_is_survived_and_comes_back(
    federation, tmp_path
):
    """Its update of round 1 counts; it is missing in round 2, and takes part again later."""
    from fedguard.flower_app import project_file

    app, marker = tmp_path / "stalling-app", tmp_path / "asked-for-its-share"
    app.mkdir()
    text = project_file().replace('"fedguard.flower_app:client_app"', '"stalling:app"')
    (app / "pyproject.toml").write_text(text)
    (app / "stalling.py").write_text(STALLING.format(marker=str(marker)))
    settings = f"{SMALL_STEPS} set='strategy.threshold=3 strategy.trip_timeout=120'"
    world = federation(
        5,
        APP=app,
        STRATEGY="xmkckks",
        ENCRYPTION="xmkckks",
        ROUNDS="6",
        ROUND_TIMEOUT="300",
        RUN_CONFIG=settings,
    )
    world.start_superlink()
    for place in range(5):
        world.start_supernode(place)
    world.start("run", "run")
    world.wait_for(marker.exists, "the question for a share")
    world.kill("supernode-1")
    world.wait_for(lambda: world.round_done(2), "round 2")
    world.start_supernode(1)
    assert world.processes.pop("run").wait(timeout=PATIENCE) == 0
    of_one = [r for r in read_jsonl(world.newest_run / "clients.jsonl") if r["client"] == 1]
    missed = {record["round"] for record in of_one if record["num_examples"] is None}
    assert 2 in missed
    assert not missed & {1, 6}
    ledger = json.loads((world.folder / "supernodes" / "1" / "ledger").read_text())
    assert ledger["rounds"] == [number for number in range(1, 7) if number not in missed]
