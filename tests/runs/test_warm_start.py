"""Training starts from a file or from a finished run, or the first difference is named."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from fedguard.config import parse
from fedguard.errors import ConfigurationError
from fedguard.models.start import begin_from
from fedguard.records.writer import read_jsonl
from fedguard.runs.simulation import Simulation

SMALL = {
    "strategy": "fedavg",
    "attack": "none",
    "clients": 6,
    "rounds": 2,
    "local_epochs": 1,
    "server_samples": 40,
}


def run(out: Path, *, resume: bool = False, **values: Any) -> dict[str, Any]:
    return Simulation(parse({**SMALL, **values})).run(out, resume=resume)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the directory of a finished run."""
    out = tmp_path_factory.mktemp("base")
    run(out)
    return out


@pytest.mark.parametrize("of_run", [True, False])
def test_round_0_is_the_model_that_the_run_started_from(tmp_path, base, of_run):
    path = base if of_run else base / "model.safetensors"
    summary = run(tmp_path, start_from=str(path))
    first = read_jsonl(tmp_path / "rounds.jsonl")[0]
    last = read_jsonl(base / "rounds.jsonl")[-1]
    assert first["accuracy"] == last["accuracy"]
    assert first["loss"] == last["loss"]
    told = summary["start_from"]
    assert told["path"] == str(path)
    assert told["sha256"] == json.loads((base / "summary.json").read_text())["model_sha256"]


def test_two_rounds_and_two_from_their_model_are_four_of_the_same_run(tmp_path, base):
    # Plain SGD keeps nothing between rounds: but for the streams of batches, whose rounds count
    # anew, a warm start is a continuation. With a full batch no stream is left.
    whole = {"batch_size": 1000, "lr": 0.5}
    run(tmp_path / "four", **{**whole, "rounds": 4})
    run(tmp_path / "two", **whole)
    run(tmp_path / "warm", **whole, start_from=str(tmp_path / "two"))
    one, other = (load_file(tmp_path / d / "model.safetensors") for d in ("four", "warm"))
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], atol=1e-5, rtol=1e-4)


def test_a_resumed_warm_start_is_the_same_run(tmp_path, base):
    run(tmp_path / "straight", start_from=str(base), rounds=3)
    run(tmp_path / "grown", start_from=str(base), rounds=2)
    run(tmp_path / "grown", start_from=str(base), rounds=3, resume=True)
    one, other = (tmp_path / d / "model.safetensors" for d in ("straight", "grown"))
    assert one.read_bytes() == other.read_bytes()


class Net(nn.Module):
    """A frozen layer, tied names, a buffer that counts."""

    def __init__(self, num_classes: int = 10, width: int = 8) -> None:
        super().__init__()
        self.frozen = nn.Linear(64, width)
        for value in self.frozen.parameters():
            value.requires_grad = False
        self.norm = nn.BatchNorm1d(width)
        self.head = nn.Linear(width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(torch.relu(self.norm(self.frozen(x.flatten(1)))))
        return out


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
        self.b.weight = self.a.weight


def state_of(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def test_frozen_layers_and_buffers_are_started_from_too(tmp_path):
    torch.manual_seed(3)
    state = state_of(Net())
    state["norm.num_batches_tracked"] = torch.tensor(17)
    state["norm.running_mean"] = torch.arange(8.0)
    save_file(state, tmp_path / "own.safetensors")
    simulation = Simulation(
        parse(
            {
                **SMALL,
                "model": f"{__name__}:Net",
                "start_from": str(tmp_path / "own.safetensors"),
            }
        )
    )
    for module in (simulation.model, simulation.server_model.module):
        for name, value in module.state_dict().items():
            assert torch.equal(value, state[name]), name
    simulation.run(tmp_path / "run")
    after = load_file(tmp_path / "run" / "model.safetensors")
    assert torch.equal(after["frozen.weight"], state["frozen.weight"])
    assert not torch.equal(after["head.weight"], state["head.weight"])


def test_half_precision_is_read_as_the_models_own(tmp_path):
    net = Net()
    state = {
        name: value.half() if value.is_floating_point() else value
        for name, value in state_of(net).items()
    }
    save_file(state, tmp_path / "half.safetensors")
    begin_from(net, tmp_path / "half.safetensors", ())
    assert net.head.weight.dtype == torch.float32
    assert torch.equal(net.head.weight, state["head.weight"].float())


def changed(**changes: Tensor | None) -> dict[str, Tensor]:
    """Return a network's tensors with some replaced, or taken away where None stands."""
    named = {name.replace("__", "."): value for name, value in changes.items()}
    state = {**state_of(Net()), **named}
    return {name: value for name, value in state.items() if value is not None}


DIFFERENT = [
    (changed(head__bias=None), "it lacks 'head.bias'"),
    (changed(head__bias=None, heads__bias=torch.zeros(10)), "did you mean 'heads.bias'?"),
    (changed(more=torch.zeros(1)), "it has 'more', which the model has not"),
    (changed(head__weight=torch.zeros(7, 8)), "'head.weight' has shape (7, 8) there and (10, 8)"),
    (
        changed(head__bias=torch.zeros(10, dtype=torch.int64)),
        "'head.bias' holds torch.int64 there and torch.float32 here",
    ),
    (changed(head__bias=torch.full((10,), torch.nan)), "'head.bias' holds NaN or infinity"),
    (
        changed(head__bias=torch.full((10,), 1e300, dtype=torch.float64)),
        "'head.bias' holds NaN or infinity",
    ),
]


@pytest.mark.parametrize(("state", "told"), DIFFERENT, ids=[told for _, told in DIFFERENT])
def test_the_first_difference_is_named_and_nothing_is_changed(tmp_path, state, told):
    save_file(state, tmp_path / "other.safetensors")
    net = Net()
    before = state_of(net)
    with pytest.raises(ConfigurationError) as error:
        begin_from(net, tmp_path / "other.safetensors", ())
    assert error.value.field == "start_from"
    assert told in str(error.value)
    assert "\n" not in str(error.value)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_tensors_that_are_tied_here_must_not_differ(tmp_path):
    save_file({"a.weight": torch.ones(4, 4), "b.weight": torch.zeros(4, 4)}, tmp_path / "t")
    with pytest.raises(ConfigurationError, match="tied to another tensor"):
        begin_from(Tied(), tmp_path / "t", ())


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (["0", "1", "3", "2", *"456789"], "class 2 is '3' there and '2' here"),
        (["0", "1"], "that run has 2 classes, this one 10"),
    ],
)
def test_a_run_on_other_classes_is_refused(tmp_path, base, names, told):
    shutil.copytree(base, tmp_path / "other")
    path = tmp_path / "other" / "summary.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "class_names": names}))
    with pytest.raises(ConfigurationError) as error:
        Simulation(parse({**SMALL, "start_from": str(tmp_path / "other")}))
    assert told in str(error.value)


def test_what_holds_no_model_is_refused_in_a_line(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "text.safetensors").write_text("not a model")
    torch.save({"w": torch.zeros(1)}, tmp_path / "pickled.pt")
    for name, told in {
        "nowhere": "there is no such file",
        "folder": "holds no model.safetensors",
        "text.safetensors": "can be read",
        "pickled.pt": "can be read",
    }.items():
        with pytest.raises(ConfigurationError) as error:
            Simulation(parse({**SMALL, "start_from": str(tmp_path / name)}))
        assert error.value.field == "start_from"
        assert told in str(error.value)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "values",
    [
        {"strategy": "soul", "unlearn": [{"client": 1, "round": 2}]},
        {"strategy": "vfl"},
    ],
)
def test_it_is_refused_where_it_would_mean_nothing(base, values):
    given = {"rounds": 4, "attack": "none", "clients": 6, **values}
    with pytest.raises(ConfigurationError) as error:
        Simulation(parse({**given, "start_from": str(base)}))
    assert error.value.field == "start_from"


def test_models_that_an_audit_compares_with_are_untrained(base):
    world = Simulation(parse({**SMALL, "start_from": str(base)})).world
    fresh, bare = world._fresh(0), Simulation(parse(SMALL)).world._fresh(0)
    assert torch.equal(fresh.whole_vector(), bare.whole_vector())
    assert not torch.equal(fresh.whole_vector(), world._first_vector())
