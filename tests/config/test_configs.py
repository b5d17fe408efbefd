"""Every ready scenario runs as it is, in a quick form: two rounds."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from fedguard import registry
from fedguard.config import SimulationConfig, load_yaml, parse
from fedguard.config.parts import OPTIONAL_PARTS, PARTS
from fedguard.config.schema import configuration_schema, schema_text
from fedguard.simulate import main

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
QUICK = ["--set", "rounds=2"]
# Convolutional networks on 60,000 images: fewer clients, a share of whom is asked.
QUICKER = ["--set", "rounds=1", "--set", "clients=1000", "--set", "fraction=0.01"]


def ids(path: Path) -> str:
    return path.stem


def test_there_are_enough_of_them():
    assert len(CONFIGS) >= 12


@pytest.mark.parametrize("path", CONFIGS, ids=ids)
def test_it_is_valid_and_says_what_it_answers(path):
    parse(load_yaml(path))
    lines = path.read_text().splitlines()
    comment = " ".join(line.lstrip("# ") for line in lines if line.startswith("#"))
    assert len(comment) > 60


@pytest.mark.parametrize("path", CONFIGS, ids=ids)
def test_it_runs(path, tmp_path, monkeypatch, capsys, request):
    values = load_yaml(path)
    arguments = [str(path), "--out", str(tmp_path / "run"), "--json", *QUICK]
    if values.get("strategy", {}) in registry.names("strategy", "vertical") or "unlearn" in values:
        pytest.skip("has its own test: needs its rounds, or data from outside")
    if values.get("dataset") in ("mnist", "fashion-mnist"):
        folder = request.getfixturevalue("torchvision_dir")
        arguments += ["--data-dir", str(folder), *QUICKER]
    elif not _has_data(values):
        pytest.skip("needs data from outside")
    monkeypatch.chdir(ROOT)
    assert main(arguments) == 0, capsys.readouterr().err
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert math.isfinite(summary["final"]["loss"])
    assert summary["final"]["accuracy"] > 0


def _has_data(values: dict) -> bool:
    dataset = values.get("dataset", "digits")
    name = dataset if isinstance(dataset, str) else dataset["name"]
    return name in ("digits", "table")


class TestSchema:
    def test_the_written_schema_is_current(self):
        written = (ROOT / "configs" / "schema.json").read_text()
        assert written == schema_text(), "run `make schema`"

    def test_the_command_prints_it(self, capsys):
        assert main(["--schema"]) == 0
        assert capsys.readouterr().out == schema_text()

    def test_every_field_is_described(self):
        schema = configuration_schema()
        assert set(schema["properties"]) == set(SimulationConfig.model_fields)
        for name, field in schema["properties"].items():
            assert field.get("description"), name
        for name, field in schema["$defs"]["Faults"]["properties"].items():
            assert field.get("description"), name

    def test_registered_names_are_suggested_and_others_allowed(self):
        for kind in (*PARTS, *OPTIONAL_PARTS, "pre"):
            choices = configuration_schema()["$defs"][kind]["anyOf"]
            assert set(registry.names(kind)) <= set(choices[0]["enum"])
            assert {"type": "string"} in choices

    def test_a_parts_own_arguments_are_suggested_and_not_those_of_its_base(self):
        mapping = configuration_schema()["$defs"]["strategy"]["anyOf"][-1]
        rules = {rule["if"]["properties"]["name"]["const"]: rule for rule in mapping["allOf"]}
        arguments = rules["norm-clipping"]["then"]["properties"]
        assert set(arguments) == {"max_norm", "noise_std"}
        assert "max_clusters" in rules["geminiguard"]["then"]["properties"]

    @pytest.mark.parametrize("path", CONFIGS, ids=ids)
    def test_the_scenarios_keep_to_it(self, path):
        jsonschema = pytest.importorskip("jsonschema")
        jsonschema.Draft202012Validator(configuration_schema()).validate(load_yaml(path))

    @pytest.mark.parametrize(
        "values",
        [
            {"rounds": "many"},
            {"ronds": 3},
            {"faults": {"dropout": 2}},
            {"strategy": {"max_clusters": 3}},
            {"strategy": {"name": "geminiguard", "max_clusters": "many"}},
            {"engine": "warp"},
        ],
    )
    def test_what_fedguard_refuses_the_schema_marks(self, values):
        jsonschema = pytest.importorskip("jsonschema")
        validator = jsonschema.Draft202012Validator(configuration_schema())
        assert not validator.is_valid(values)

    def test_the_schema_itself_is_valid(self):
        jsonschema = pytest.importorskip("jsonschema")
        jsonschema.Draft202012Validator.check_schema(configuration_schema())
