from __future__ import annotations

import json
from pathlib import Path

import pytest

from fedguard import simulate
from fedguard.records.writer import read_jsonl

QUICK = ["--clients", "6", "--rounds", "2", "--local-epochs", "1", "--partition", "iid"]


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def call(capsys, *arguments: str) -> tuple[int, str, str]:
    code = simulate.main(arguments)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--strategy", "gemniguard"], "did you mean 'geminiguard'?"),
        (["--attack", "min-mx"], "did you mean 'min-max'?"),
        (["--dataset", "digit"], "did you mean 'digits'?"),
        (["--model", "cnnn"], "did you mean 'cnn'?"),
        (["--partition", "dirchlet"], "did you mean 'dirichlet'?"),
        (["--strateg", "krum"], "did you mean '--strategy'?"),
        (["--rounds", "0"], "rounds: 0"),
        (["--rounds", "many"], "rounds: 'many'"),
        (["--malicious", "2"], "malicious: 2"),
        (["--alpha", "-1"], "partition.alpha: -1"),
        (["--partition", "iid", "--alpha", "1"], "partition.alpha: 1"),
        (["--set", "strategy.max_cluster=3"], "did you mean 'max_clusters'?"),
        (["--set", "nonsense"], "--set: 'nonsense'"),
        (["--set", "ronds=3"], "did you mean 'rounds'?"),
        (["--pre", "nmm"], "pre: 'nmm'"),
        (["--strategy", "krum", "--set", "strategy.num_selected=3"], "num_selected"),
        (["--list", "strategie"], "did you mean 'strategies'?"),
        (["--engine", "flowr"], "did you mean 'flower'?"),
        (["--device", "cuda:77"], "device: 'cuda:77'"),
        (["missing.yaml"], "missing.yaml"),
        (["--clients", "100000"], "clients"),
        (["--dataset", "mnist", "--set", "dataset.download=false"], "data_dir"),
        (["--dataset", "table"], "dataset"),
        (["--rounds"], "--rounds"),
    ],
)
def test_bad_arguments_end_in_one_line_and_code_2(capsys, arguments, words):
    code, out, err = call(capsys, *arguments)
    assert code == 2
    assert out == ""
    assert words in err
    lines = [line for line in err.splitlines() if line.startswith("fedguard:")]
    assert len(lines) == 1
    assert "Traceback" not in err


def test_json_is_the_last_line_of_standard_output(capsys):
    code, out, err = call(capsys, "--strategy", "krum", *QUICK, "--out", "here", "--json")
    assert code == 0
    summary = json.loads(out.splitlines()[-1])
    assert summary["strategy"] == "krum"
    assert summary["rounds"] == 2
    assert "krum" in err


def test_a_configuration_file_with_flags_over_it(capsys, tmp_path):
    path = tmp_path / "scenario.yaml"
    path.write_text("strategy: median\nrounds: 1\nclients: 6\npartition: iid\nlocal_epochs: 1\n")
    code, out, _ = call(capsys, str(path), "--strategy", "trimmed-mean", "--json")
    assert code == 0
    summary = json.loads(out.splitlines()[-1])
    assert (summary["strategy"], summary["rounds"]) == ("trimmed-mean", 1)


def test_numbers_in_any_spelling(capsys):
    code, out, _ = call(capsys, *QUICK, "--strategy", "fedavg", "--lr", "1e-2", "--json")
    assert code == 0
    assert json.loads(out.splitlines()[-1])["final"]["round"] == 2


@pytest.mark.parametrize("kind", ["strategies", "attacks", "datasets", "models", "partitions"])
def test_lists_hold_names_that_work(capsys, kind):
    code, out, _ = call(capsys, "--list", kind)
    assert code == 0
    names = out.split()
    assert names == sorted(names)
    assert len(names) >= 4


def test_help_teaches(capsys):
    code, out, _ = call(capsys, "--help")
    assert code == 0
    for word in ("--strategy", "geminiguard", "--resume", "--set"):
        assert word in out


class TestNothingIsLost:
    def test_a_finished_run_is_not_overwritten(self, capsys):
        assert call(capsys, *QUICK, "--strategy", "krum", "--out", "one")[0] == 0
        before = read_jsonl(Path("one/rounds.jsonl"))
        code, _, err = call(capsys, *QUICK, "--strategy", "median", "--out", "one")
        assert code == 2
        assert "out: 'one'" in err
        assert read_jsonl(Path("one/rounds.jsonl")) == before

    def test_without_out_the_same_run_twice_has_two_folders(self, capsys, tmp_path):
        for _ in range(2):
            assert call(capsys, *QUICK, "--strategy", "krum")[0] == 0
        assert len(list((tmp_path / "runs").iterdir())) == 2

    def test_resuming_with_another_configuration_names_the_field(self, capsys):
        assert call(capsys, *QUICK, "--strategy", "krum", "--out", "one")[0] == 0
        arguments = [*QUICK, "--strategy", "krum", "--lr", "0.5", "--out", "one", "--resume"]
        code, _, err = call(capsys, *arguments)
        assert code == 2
        assert "lr: 0.5" in err

    def test_resuming_a_finished_run_changes_nothing(self, capsys):
        arguments = [*QUICK, "--strategy", "krum", "--out", "one", "--json"]
        first = json.loads(call(capsys, *arguments)[1].splitlines()[-1])
        again = json.loads(call(capsys, *arguments, "--resume")[1].splitlines()[-1])
        assert first["model_sha256"] == again["model_sha256"]
        assert first["final"] == again["final"]

    def test_an_unwritable_place_is_named(self, capsys, tmp_path):
        (tmp_path / "file").write_text("")
        code, _, err = call(capsys, *QUICK, "--out", "file/below")
        assert code == 2
        assert "out" in err
