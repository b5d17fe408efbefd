"""`import fedguard`: runs, campaigns and comparisons as Python values."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import numpy as np
import pandas as pd
import pytest
import torch
from campaign_runs import finish, write_grid

import fedguard
from fedguard.config import SimulationConfig
from fedguard.config.parts import OPTIONAL_PARTS, PARTS
from fedguard.door import Fields, PartLike
from fedguard.records.writer import read_jsonl
from fedguard.runs.simulation import Simulation
from fedguard.simulate import main

ROOT = Path(__file__).resolve().parents[2]
QUICK: dict[str, Any] = {"clients": 6, "rounds": 2, "local_epochs": 1, "progress": False}


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> fedguard.Result:
    out = tmp_path_factory.mktemp("door") / "run"
    settings = {"partition.alpha": 1.0, "strategy.max_clusters": 4}
    return fedguard.run(strategy="geminiguard", attack="alie", out=out, settings=settings, **QUICK)


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> fedguard.Sweep:
    campaign = {
        "base": {"rounds": 1, "clients": 6, "local_epochs": 1},
        "grid": {
            "strategy": ["fedavg", {"name": "geminiguard", "max_clusters": 4}],
            "malicious": [0.0, 0.2],
        },
    }
    folder = tmp_path_factory.mktemp("sweep") / "campaign"
    return fedguard.sweep(campaign, out=folder, workers=1, progress=False)


class TestFields:
    def test_they_are_those_of_the_configuration_in_its_order(self) -> None:
        assert list(Fields.__annotations__) == list(SimulationConfig.model_fields)

    def test_each_has_the_type_of_its_field(self) -> None:
        hints = typing.get_type_hints(Fields)
        for name, field in SimulationConfig.model_fields.items():
            wanted: Any = field.annotation
            if name in PARTS:
                wanted = PartLike
            elif name in (*OPTIONAL_PARTS, "client_app"):
                wanted = PartLike | None
            elif name == "pre":
                wanted = PartLike | Sequence[PartLike] | None
            elif name == "client_config":
                wanted = Mapping[str, bool | int | float | str]
            elif name in ("data_dir", "start_from", "update_dir"):
                wanted = Path | str | None
            elif name in ("faults", "unlearn"):
                rates = Mapping[str, Any]
                wanted = rates if name == "faults" else Sequence[rates]
            assert hints[name] == wanted, name

    def test_choices_are_the_same(self) -> None:
        hints = typing.get_type_hints(Fields)
        for name, field in SimulationConfig.model_fields.items():
            if get_origin(field.annotation) is Literal:
                assert get_args(hints[name]) == get_args(field.annotation)


class TestPackage:
    def test_importing_it_is_instant_and_functions_stay_functions(self) -> None:
        code = (
            "import sys, fedguard\n"
            "late = ('torch', 'pandas', 'pydantic', 'typer', 'flwr', 'fedguard.door')\n"
            "assert not [name for name in late if name in sys.modules]\n"
            "import fedguard.commands.sweep, fedguard.commands.compare, fedguard.simulate\n"
            "assert all(type(f).__name__ == 'function' for f in "
            "(fedguard.run, fedguard.sweep, fedguard.compare, fedguard.load))\n"
            "from fedguard import ConfigurationError, RunError"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr

    def test_editors_are_told_of_all_that_it_offers(self) -> None:
        stub = ast.parse((ROOT / "fedguard" / "__init__.pyi").read_text(encoding="utf-8"))
        told = {
            (alias.asname, node.module)
            for node in stub.body
            if isinstance(node, ast.ImportFrom)
            for alias in node.names
        }
        assert told == set(fedguard._OFFERED.items())
        assert set(fedguard._OFFERED) <= set(dir(fedguard))

    def test_an_unknown_name_is_an_attribute_error(self) -> None:
        with pytest.raises(AttributeError, match="'runn'"):
            fedguard.runn  # noqa: B018


class TestRun:
    def test_it_does_what_the_command_does(
        self, result: fedguard.Result, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        words = "--strategy geminiguard --attack alie --clients 6 --rounds 2 --local-epochs 1"
        more = ["--alpha", "1.0", "--set", "strategy.max_clusters=4", "--json"]
        assert main([*words.split(), *more, "--out", str(tmp_path / "run")]) == 0
        told = json.loads(capsys.readouterr().out.splitlines()[-1])
        assert told["model_sha256"] == result.summary["model_sha256"]
        assert told["config_digest"] == result.summary["config_digest"]

    def test_frames_hold_what_was_recorded(self, result: fedguard.Result) -> None:
        rounds = read_jsonl(result.directory / "rounds.jsonl")
        clients = read_jsonl(result.directory / "clients.jsonl")
        assert list(result.rounds["round"]) == [0, 1, 2]
        assert list(result.rounds["accuracy"]) == [line["accuracy"] for line in rounds]
        assert len(result.clients) == len(clients) == 12

    def test_the_model_is_the_one_that_was_measured(self, result: fedguard.Result) -> None:
        from safetensors.torch import load

        saved = load((result.directory / "model.safetensors").read_bytes())
        assert set(result.model) == set(saved)
        assert all(torch.equal(result.model[name], value) for name, value in saved.items())

    def test_the_report_shows_inside_a_notebook(self, result: fedguard.Result) -> None:
        page = result.report(height=321)
        assert page.path == result.directory / "report.html"
        shown = page._repr_html_()
        assert shown.startswith("<iframe")
        assert "height:321px" in shown

    def test_its_name_is_short_and_says_what_came_out(self, result: fedguard.Result) -> None:
        accuracy = result.summary["final"]["accuracy"]
        assert f"accuracy {100 * accuracy:.1f}" in repr(result)
        assert "geminiguard under alie" in repr(result)
        assert "\n" not in repr(result)

    def test_parts_are_names_or_mappings_and_files_come_first(self, tmp_path: Path) -> None:
        path = tmp_path / "run.yaml"
        path.write_text("strategy: median\nrounds: 1\nclients: 6\n")
        found = fedguard.run(
            path,
            strategy={"name": "trimmed-mean"},
            pre=["nnm", {"name": "clipping"}],
            local_epochs=1,
            out=tmp_path / "run",
            progress=False,
        )
        assert (found.summary["strategy"], found.summary["rounds"]) == ("trimmed-mean", 1)
        written = (found.directory / "config.yaml").read_text()
        assert re.search(r"nnm,\s*clipping", written)

    def test_settings_win_over_fields(self, tmp_path: Path) -> None:
        with pytest.raises(fedguard.ConfigurationError, match="rounds: -1"):
            fedguard.run(rounds=1, settings={"rounds": -1})

    def test_without_out_it_goes_where_the_command_goes(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        found = [fedguard.run(strategy="krum", **{**QUICK, "rounds": 1}) for _ in range(2)]
        first, second = (one.directory for one in found)
        assert first.parent == Path("runs")
        assert second == Path(f"{first}-2")

    def test_progress_can_be_shown_and_silenced(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        quick = {**QUICK, "strategy": "fedavg", "rounds": 1}
        fedguard.run(out=tmp_path / "a", **quick)
        assert capsys.readouterr() == ("", "")
        fedguard.run(out=tmp_path / "b", **{**quick, "progress": True})
        assert "round 1/1" in capsys.readouterr().err

    def test_a_finished_run_is_resumed_and_not_overwritten(self, result: fedguard.Result) -> None:
        same: dict[str, Any] = {
            "strategy": "geminiguard",
            "attack": "alie",
            "settings": {"partition.alpha": 1.0, "strategy.max_clusters": 4},
            "out": result.directory,
            **QUICK,
        }
        with pytest.raises(fedguard.ConfigurationError, match="without a run"):
            fedguard.run(**same)
        again = fedguard.run(resume=True, **same)
        assert again.summary["model_sha256"] == result.summary["model_sha256"]

    def test_errors_name_the_field(self, tmp_path: Path) -> None:
        misspelt: Any = {"stratgy": "krum"}
        with pytest.raises(fedguard.ConfigurationError, match="did you mean 'strategy'"):
            fedguard.run(**misspelt)
        with pytest.raises(fedguard.ConfigurationError, match=r"strategy\.max_cluster"):
            fedguard.run(settings={"strategy.max_cluster": 3})
        with pytest.raises(fedguard.RunError):
            fedguard.run(faults={"dropout": 1.0}, out=tmp_path / "run", **QUICK)


class TestLoad:
    def test_an_old_run_is_read(self, tmp_path: Path) -> None:
        found = fedguard.load(finish(tmp_path / "old", accuracy=0.5, rounds=3, clients=8))
        assert found.summary["final"]["accuracy"] == 0.5
        assert list(found.rounds["round"]) == [0, 1, 2, 3]
        assert found.clients.groupby("round").size().tolist() == [8, 8, 8]
        assert "accuracy 50.0" in repr(found)
        assert found.report().path.stat().st_size > 100_000

    def test_an_unfinished_run_says_so(self, tmp_path: Path) -> None:
        (finish(tmp_path / "cut") / "summary.json").unlink()
        found = fedguard.load(tmp_path / "cut")
        assert found.summary == {}
        assert "unfinished" in repr(found)
        with pytest.raises(fedguard.RunError, match="not finished"):
            _ = found.model

    def test_a_folder_without_a_run_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(fedguard.ConfigurationError, match="run_directory"):
            fedguard.load(tmp_path)


class TestSweep:
    def test_the_table_has_a_row_for_each_run(self, swept: fedguard.Sweep) -> None:
        table = swept.table
        assert list(table["strategy"]) == ["fedavg", "fedavg", *2 * ["geminiguard(max_clusters=4)"]]
        assert list(table["malicious"]) == [0.0, 0.2, 0.0, 0.2]
        finals = [result.summary["final"]["accuracy"] for result in swept.results]
        assert list(table["accuracy"]) == finals
        assert list(table["directory"]) == [str(one.directory) for one in swept.results]

    def test_it_shows_itself(self, swept: fedguard.Sweep) -> None:
        assert repr(swept) == f"Sweep({str(swept.folder)!r}, 4 runs done)"
        assert swept._repr_html_().count("<tr") == 5

    def test_it_can_be_compared(self, swept: fedguard.Sweep) -> None:
        table = swept.compare().table
        assert set(table["defence"]) == {"fedavg", "geminiguard"}

    def test_a_file_does_as_well_and_what_is_done_is_kept(
        self, swept: fedguard.Sweep, tmp_path: Path
    ) -> None:
        before = [(one.directory / "summary.json").stat().st_mtime_ns for one in swept.results]
        again = fedguard.sweep(
            swept.folder / "campaign.yaml", out=swept.folder, workers=1, progress=False
        )
        after = [(one.directory / "summary.json").stat().st_mtime_ns for one in again.results]
        assert after == before

    def test_a_run_that_fails_does_not_stop_the_others(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run = Simulation.run

        def sometimes(simulation: Simulation, *args: Any, **more: Any) -> dict[str, Any]:
            if simulation.config.seed == 1:
                raise fedguard.RunError("the moon was full")
            return run(simulation, *args, **more)

        monkeypatch.setattr(Simulation, "run", sometimes)
        campaign = {"base": {"rounds": 1, "clients": 6, "local_epochs": 1}, "seeds": 3}
        found = fedguard.sweep(campaign, out=tmp_path / "c", workers=1, progress=False)
        assert list(found.table["seed"]) == [0, 2]
        assert list(found.failed.values()) == ["the moon was full"]
        assert "2 runs done, 1 failed" in repr(found)

    def test_a_bad_campaign_is_refused_before_anything_runs(self, tmp_path: Path) -> None:
        with pytest.raises(fedguard.ConfigurationError, match="krumm"):
            fedguard.sweep({"grid": {"strategy": ["fedavg", "krumm"]}}, out=tmp_path / "c")
        with pytest.raises(fedguard.ConfigurationError, match="--threads"):
            fedguard.sweep({"grid": {"strategy": ["fedavg"]}}, out=tmp_path / "c", threads=0)
        assert not (tmp_path / "c").exists()


class TestCompare:
    def test_the_table_is_plain_arithmetic(self, tmp_path: Path) -> None:
        reached = {("fedavg", "alie"): [0.9, 0.7], ("krum", "alie"): [0.6, 0.8]}
        reached |= {("fedavg", "ipm"): [0.2, 0.4], ("krum", "ipm"): [0.5, 0.6]}
        for (defence, attack), accuracies in reached.items():
            for seed, accuracy in enumerate(accuracies):
                finish(
                    tmp_path / f"{defence}-{attack}-{seed}",
                    strategy={"name": defence},
                    attack={"name": attack},
                    seed=seed,
                    accuracy=accuracy,
                )
        found = fedguard.compare(tmp_path)
        table = found.table.set_index("defence")
        assert table.loc["krum", "worst_accuracy"] == pytest.approx(0.55)
        assert table.loc["fedavg", "accuracy"] == pytest.approx((0.8 + 0.3) / 2)
        groups = found.groups.set_index(["defence", "scenario"])
        deviation = np.std([0.9, 0.7], ddof=1)
        assert groups.loc[("fedavg", "alie"), "accuracy_std"] == pytest.approx(deviation)
        assert "8 runs" in repr(found)
        assert found._repr_html_().count("<tr") == 3

    def test_results_paths_and_sweeps_go_together(self, tmp_path: Path) -> None:
        one = fedguard.load(finish(tmp_path / "one", strategy={"name": "krum"}))
        grid = write_grid(tmp_path / "grid", defences=["fedavg"], attacks=["alie"], seeds=2)
        sweep = fedguard.Sweep(grid, [fedguard.load(path) for path in sorted(grid.iterdir())])
        other = finish(tmp_path / "other", strategy={"name": "median"})
        found = fedguard.compare(one, sweep, str(other))
        assert set(found.table["defence"]) == {"krum", "fedavg", "median"}
        assert "4 runs" in repr(found)

    def test_the_page_is_written_and_shows_itself(self, tmp_path: Path) -> None:
        write_grid(tmp_path / "runs", defences=["fedavg", "krum"], attacks=["alie"], seeds=2)
        page = fedguard.compare(tmp_path / "runs").report(tmp_path / "new" / "page.html")
        assert page.path.stat().st_size > 100_000
        assert page._repr_html_().startswith("<iframe")

    def test_unfinished_runs_are_told(self, tmp_path: Path) -> None:
        finish(tmp_path / "good")
        (finish(tmp_path / "cut") / "summary.json").unlink()
        found = fedguard.compare(tmp_path)
        assert [one.directory for one in found.missing] == ["cut"]
        assert "1 not in it" in repr(found)
        assert isinstance(found.table, pd.DataFrame)


def test_the_example_in_the_readme_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL)
    (example,) = [block for block in blocks if "fedguard.run(" in block]
    names: dict[str, Any] = {}
    exec(compile(example, "README.md", "exec"), names)
    assert len(names["result"].rounds) == 6
