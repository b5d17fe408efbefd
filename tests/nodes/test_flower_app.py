"""What `flwr run` reads, packs and passes on."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from flwr.app import Context, Message, RecordDict
from flwr.cli.build import build_fab_from_disk
from flwr.common.config import validate_config

from fedguard import flower_app
from fedguard.config import SimulationConfig
from fedguard.errors import ConfigurationError
from fedguard.grids.identity import assume_server_identity
from fedguard.nodes.run_config import client_config, partition_of, resumes

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_the_repository_is_a_flower_app_with_every_key_of_the_configuration():
    valid, errors, warnings = validate_config(PROJECT, project_dir=ROOT)
    assert (valid, errors, warnings) == (True, [], [])
    keys = PROJECT["tool"]["flwr"]["app"]["config"]
    assert set(keys) == {"config", "set", "out", "resume", *SimulationConfig.model_fields}
    assert set(keys.values()) == {""}


def test_what_is_packed_is_small_and_holds_no_code():
    bundle = build_fab_from_disk(ROOT)
    names = zipfile.ZipFile(io.BytesIO(bundle)).namelist()
    assert len(bundle) < 100_000
    assert not [name for name in names if name.endswith(".py")]


def test_an_installed_package_writes_its_own_project_file(tmp_path, capsys):
    folder = tmp_path / "my-app"
    assert flower_app.main([str(folder)]) == 0
    project = tomllib.loads((folder / "pyproject.toml").read_text())
    ours = PROJECT["tool"]["flwr"]["app"]
    theirs = project["tool"]["flwr"]["app"]
    assert theirs["components"] == ours["components"]
    assert theirs["config"] == ours["config"]
    assert build_fab_from_disk(folder)
    assert flower_app.main([str(folder)]) == 2
    assert flower_app.main([]) == 2
    assert "exists already" in capsys.readouterr().err


def test_run_configuration_wins_over_the_file_and_empty_keys_do_not(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("rounds: 7\nlr: 0.5\nstrategy: {name: krum, assumed_malicious: 0.3}\n")
    given = dict.fromkeys(PROJECT["tool"]["flwr"]["app"]["config"], "")
    given |= {"config": str(path), "lr": 0.25, "set": "strategy.assumed_malicious=0.1 seed=3"}
    config = flower_app.config_from_run(given, federation_size=6)
    assert (config.rounds, config.lr, config.clients, config.seed) == (7, 0.25, 6, 3)
    assert config.strategy.arguments == {"assumed_malicious": 0.1}
    assert flower_app.config_from_run({**given, "clients": 4}, federation_size=6).clients == 4


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"rounds": -1}, "rounds: -1"),
        ({"strategy": "krmu"}, "did you mean 'krum'"),
        ({"stratgy": "krum"}, "did you mean 'strategy'"),
        ({"set": "strategy.numb=3"}, "strategy.numb"),
        ({"set": "rounds"}, "FIELD=VALUE"),
        ({"config": "nowhere.yaml"}, "nowhere.yaml"),
    ],
)
def test_bad_run_configuration_is_one_line(given, says):
    with pytest.raises(ConfigurationError) as caught:
        flower_app.config_from_run(given)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def node(**node_config) -> Context:
    return Context(1, 1, node_config, RecordDict(), {"rounds": 2})


def test_a_supernode_says_which_place_it_holds_and_where_its_data_are():
    assume_server_identity()
    question = Message(RecordDict(), dst_node_id=4, message_type="query")
    context = node(**{"partition-id": 2, "num-partitions": 5, "data-dir": "/data"})
    answer = flower_app.client_app(question, context)
    assert dict(answer.content["metrics"]) == {"partition-id": 2, "num-partitions": 5}
    config = client_config(context)
    assert (config.clients, config.data_dir) == (5, Path("/data"))
    with pytest.raises(ValueError, match="partition-id"):
        partition_of(node())


def test_answering_who_one_is_loads_no_torch():
    code = "import sys, fedguard.flower_app; sys.exit('torch' in sys.modules)"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    assert subprocess.run([sys.executable, "-c", code], env=environment).returncode == 0


def test_a_strategy_is_imported_without_the_others():
    code = "import sys; from fedguard.strategies import Krum; sys.exit('sklearn' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
    import fedguard.strategies as package

    assert {"Krum", "GeminiGuard", "FedAvg"} <= set(dir(package))
    with pytest.raises(AttributeError, match="no attribute 'Krumm'"):
        package.Krumm  # noqa: B018


def test_every_registered_strategy_can_be_imported_by_its_class_name():
    import fedguard.strategies as package
    from fedguard import registry

    for name in registry.names("strategy"):
        found = registry.find("strategy", name)
        if found.__module__.startswith("fedguard.strategies."):
            assert getattr(package, found.__name__) is found, name


class ProcessGoneError(Exception):
    """The ServerApp's process is gone."""


def serve(out: Path, rounds_until_killed: int | None = None, **more: object) -> str:
    """Serve a run to three nodes as a ServerApp does; return the model's digest."""
    from supernodes import SuperNodes

    given: dict[str, object] = {
        **dict.fromkeys(PROJECT["tool"]["flwr"]["app"]["config"], ""),
        **{"clients": 3, "rounds": 3, "malicious": 0.0, "local_epochs": 1},
        **{"strategy": "fldetector", "attack": "none", "out": str(out), **more},
    }
    nodes = [{"partition-id": place, "num-partitions": 3} for place in range(3)]

    def listen(record: dict[str, object]) -> None:
        if record["round"] == rounds_until_killed:
            raise ProcessGoneError

    context = Context(1, 1, {}, RecordDict(), given)
    flower_app.serve(SuperNodes(nodes, given), context, listen)
    summary = json.loads((out / "summary.json").read_text())
    return str(summary["model_sha256"])


def test_a_serverapp_that_was_killed_goes_on_and_ends_where_it_would_have(tmp_path, caplog):
    with caplog.at_level("INFO", logger="flwr"):
        whole = serve(tmp_path / "whole")
    # Flower's own lines name neither the strategy nor the folder.
    assert "fedguard: no attack: 3 clients under fldetector" in caplog.text
    assert f"fedguard: results in {tmp_path / 'whole'}" in caplog.text
    with pytest.raises(ProcessGoneError):
        serve(tmp_path / "cut", rounds_until_killed=2)
    assert not (tmp_path / "cut" / "summary.json").exists()
    with pytest.raises(ConfigurationError, match="out: "):
        serve(tmp_path / "cut")
    with pytest.raises(ConfigurationError, match="seed: 9"):
        serve(tmp_path / "cut", resume=True, seed=9)
    assert serve(tmp_path / "cut", resume=True) == whole


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"resume": True}, "out: '' is not valid; allowed: the folder of the run"),
        ({"resume": "yes", "out": "x"}, "resume: 'yes' is not valid; allowed: true or false"),
    ],
)
def test_a_run_to_go_on_with_must_be_named(given, says):
    with pytest.raises(ConfigurationError) as caught:
        resumes(given)
    assert says in str(caught.value)
    assert not resumes({"resume": "", "out": "x"})
    assert not resumes({"resume": False})
