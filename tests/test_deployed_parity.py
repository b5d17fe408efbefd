"""Every strategy that can be deployed, between three SuperNodes, against the simulation.

One set of processes serves all runs, as a standing federation does. An hour on two idle cores; one
strategy: ``python -m pytest -m slow tests/test_deployed_parity.py -k geminiguard``.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from safetensors.torch import load_file
from test_deployment import Federation, in_process, verdicts

from fedguard import registry
from fedguard.records.writer import read_jsonl
from fedguard.traits import traits_of

pytestmark = pytest.mark.slow

SMALL_STEPS = "lr=0.01 batch_size=128 local_epochs=1"
"""With large steps SGD amplifies the last bit of a float."""

NAMES = registry.names("strategy", "horizontal")
OPEN = [n for n in NAMES if traits_of(registry.find("strategy", n)).visible == "updates"]
HIDDEN = [
    name
    for name in NAMES
    if name not in OPEN and traits_of(registry.find("strategy", name)).deployable
]
NORMS = ["bnguard"]
"""What asks for a network with BatchNorm."""

GROUPS = [
    name for name in NAMES if traits_of(registry.find("strategy", name)).visible == "group means"
]


def standing(folder, supernodes: int, **settings: object) -> Iterator[Federation]:
    made = Federation(folder, supernodes, ROUNDS="2", RUN_CONFIG=SMALL_STEPS, **settings)
    try:
        made.start_superlink()
        for place in range(supernodes):
            made.start_supernode(place)
        yield made
    finally:
        made.close()


@pytest.fixture(scope="module")
def three(tmp_path_factory) -> Iterator[Federation]:
    """A standing federation of three, one of them malicious."""
    yield from standing(tmp_path_factory.mktemp("three"), 3, MALICIOUS="0.34")


@pytest.fixture(scope="module")
def four(tmp_path_factory) -> Iterator[Federation]:
    """A standing federation of four, one of whose SuperNodes is started anew before each run."""
    yield from standing(tmp_path_factory.mktemp("four"), 4, MALICIOUS="0")


def assert_parity(world: Federation, folder, within: float, **settings: object) -> tuple:
    """Run a federation and its simulation, compare them, and return both run directories."""
    before = set(world.folder.glob("runs/*"))
    done = world.do("run", **settings)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    (run,) = set(world.folder.glob("runs/*")) - before
    simulated = in_process(run, folder)
    assert verdicts(run) == verdicts(simulated)
    ours, theirs = (load_file(path / "model.safetensors") for path in (run, simulated))
    assert ours.keys() == theirs.keys()
    apart = max(float((value - theirs[name]).abs().max()) for name, value in ours.items())
    print(f"{settings['STRATEGY']}: {apart:.1e}")
    assert apart < within
    return run, simulated


def test_the_two_tables_hold_every_strategy_that_can_be_deployed():
    assert len(OPEN) >= 38
    assert sorted(HIDDEN) == ["ckks", "secagg+", "xmkckks"]
    assert not GROUPS


@pytest.mark.parametrize("strategy", OPEN)
def test_a_strategy_ends_where_its_simulation_ends(strategy, three, tmp_path):
    given = {"RUN_CONFIG": f'{SMALL_STEPS} model="conv-bn"'} if strategy in NORMS else {}
    assert_parity(three, tmp_path / "here", 1e-5, STRATEGY=strategy, **given)


def test_a_repaired_model_is_the_one_that_its_simulation_repairs(three, tmp_path):
    rnp = "set='repair.confidence=0.0 repair.threshold=0.9999'"
    more = f'model="conv-bn" server_samples=60 repair="rnp" repair_at="every:1" {rnp}'
    given = {"STRATEGY": "fedavg", "RUN_CONFIG": f"{SMALL_STEPS} {more}"}
    ran = assert_parity(three, tmp_path / "here", 1e-5, **given)
    deployed, simulated = (read_jsonl(run / "repairs.jsonl") for run in ran)
    for one, other in zip(deployed, simulated, strict=True):
        assert one["pruned"] > 0
        assert one["shut_channels"] == other["shut_channels"]


@pytest.mark.parametrize(
    ("strategy", "settings"),
    [("ckks", ""), ("xmkckks", ""), ("xmkckks", "set='strategy.threshold=3'"), ("secagg+", "")],
)
def test_an_encrypted_one_does_too_with_a_supernode_started_anew(
    strategy, settings, four, tmp_path
):
    if strategy == "ckks":
        pytest.importorskip("tenseal")
    four.kill("supernode-2")
    four.start_supernode(2)
    given = {"STRATEGY": strategy, "RUN_CONFIG": f"{SMALL_STEPS} {settings}"}
    assert_parity(four, tmp_path / "here", 1e-4, **given)
