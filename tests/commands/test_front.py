"""Words lead to commands; what goes wrong is one line and a code."""

from __future__ import annotations

import json
import re
import runpy
import subprocess
import sys
from pathlib import Path

import click
import pytest

from fedguard import registry
from fedguard.commands import front, simulate
from fedguard.commands.listing import kind_of, long_lines, names_of, shown
from fedguard.config.schema import schema_text
from fedguard.errors import RunError
from fedguard.simulate import main

QUICK = ["--clients", "6", "--rounds", "1", "--local-epochs", "1", "--partition", "iid"]


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("words", "name", "rest"),
    [
        (["sweep", "c.yaml"], "fedguard sweep", ["c.yaml"]),
        (["simulate", "--rounds", "3"], "fedguard simulate", ["--rounds", "3"]),
        (["data", "check", "t.csv"], "fedguard data check", ["t.csv"]),
        (["--strategy", "krum"], "fedguard", ["--strategy", "krum"]),
        (["run.yaml", "--rounds", "3"], "fedguard", ["run.yaml", "--rounds", "3"]),
        ([], "fedguard", []),
    ],
)
def test_the_first_words_choose_the_command(words: list[str], name: str, rest: list[str]) -> None:
    command, called, left = front.chosen(words)
    assert (called, left) == (name, rest)
    assert isinstance(command, click.Command)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["swep", "c.yaml"], "did you mean 'sweep'?"),
        (["comparee"], "did you mean 'compare'?"),
        (["data", "chek"], "did you mean 'data check'?"),
        (["data"], "data check"),
        (["list", "attaks"], "did you mean 'attacks'?"),
        (["sweep", "--worker", "3"], "did you mean '--workers'?"),
        (["simulate", "--strateg", "krum"], "did you mean '--strategy'?"),
        (["list", "--log"], "did you mean '--long'?"),
        (["sweep"], "CAMPAIGN"),
    ],
)
def test_an_unknown_word_is_one_line_with_the_nearest_name(
    capsys: pytest.CaptureFixture[str], words: list[str], told: str
) -> None:
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert told.lower() in err.lower()
    assert out == ""
    assert len(err.strip().splitlines()) == 1


def test_a_file_without_an_ending_is_a_configuration(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "scenario").write_text("rounds: 0\n")
    assert main(["scenario"]) == 2
    assert "rounds: 0" in capsys.readouterr().err


def test_the_help_lists_every_command_and_imports_none_of_them() -> None:
    code = (
        "import sys; from fedguard.simulate import main\n"
        "assert main(['--help']) == 0\n"
        "late = ('torch', 'flwr', 'pandas', 'fedguard.commands.sweep', 'fedguard.commands.compare',"
        " 'fedguard.commands.data_check')\n"
        "sys.exit(' '.join(name for name in late if name in sys.modules) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    panel = done.stdout[done.stdout.index("─ Commands ") :]
    for name, (_, text) in front.COMMANDS.items():
        assert f"{name} " in panel
        assert text in panel


def test_the_help_of_a_group_lists_what_is_in_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "--help"]) == 0
    assert "check" in capsys.readouterr().out


def test_schema_is_a_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema"]) == 0
    assert capsys.readouterr().out == schema_text()


class TestExitCodes:
    @pytest.mark.parametrize(
        ("error", "code", "told"),
        [
            (RunError("no client answered"), 1, "no client answered"),
            (OSError("disk full"), 1, "disk full"),
            (MemoryError(), 1, "out of memory"),
            (RuntimeError("CUDA out of memory."), 1, "out of memory"),
            (KeyboardInterrupt(), 130, "--resume with the same --out goes on"),
        ],
    )
    def test_what_goes_wrong_has_its_code(
        self,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
        error: BaseException,
        code: int,
        told: str,
    ) -> None:
        def fails(*_: object, **__: object) -> None:
            raise error

        monkeypatch.setattr(simulate, "run", fails)
        assert main(["--strategy", "krum"]) == code
        err = capsys.readouterr().err
        assert told in err
        assert len(err.strip().splitlines()) == 1

    def test_a_fault_of_our_own_is_not_hidden(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def fails(*_: object, **__: object) -> None:
            raise RuntimeError("a bug")

        monkeypatch.setattr(simulate, "run", fails)
        with pytest.raises(RuntimeError, match="a bug"):
            main(["--strategy", "krum"])

    def test_a_run_without_a_usable_reply_fails(self, capsys: pytest.CaptureFixture[str]) -> None:
        words = [*QUICK, "--strategy", "fedavg", "--faults", "{dropout: 1.0}"]
        assert main(words) == 1
        assert "fedguard:" in capsys.readouterr().err.splitlines()[-1]

    def test_a_stopped_campaign_goes_on_with_the_same_command(self) -> None:
        assert front._again(["sweep", "c.yaml"]) == "the same command"


@pytest.mark.parametrize("words", [[], ["simulate"]], ids=["implicit", "named"])
def test_the_main_job_runs_in_a_process_of_its_own(words: list[str], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "fedguard.simulate", *words, "--strategy", "geminiguard"]
    done = subprocess.run(
        [*command, *QUICK, "--json", "--out", "here"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["strategy"] == "geminiguard"
    assert (tmp_path / "here" / "report.html").stat().st_size > 100_000


def test_a_sweep_and_its_comparison_run_in_processes_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(
        "base: {rounds: 1, clients: 6, local_epochs: 1}\ngrid: {strategy: [krum, fedavg]}\n"
    )
    for words in (["sweep", "c.yaml", "--workers", "1"], ["compare", "runs/c"]):
        done = subprocess.run(
            [sys.executable, "-m", "fedguard.simulate", *words, "--json"],
            capture_output=True,
            text=True,
            check=False,
            cwd=tmp_path,
        )
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout.splitlines()[-1])
    assert {run["defence"] for run in found["comparisons"][0]["runs"]} == {"krum", "fedavg"}


class TestList:
    def test_without_a_kind_it_names_the_kinds(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["list"]) == 0
        words = capsys.readouterr().out.split()
        assert [kind_of(word, "KIND") for word in words] == list(registry.KINDS)

    @pytest.mark.parametrize("kind", registry.KINDS)
    def test_old_and_new_words_list_the_same(
        self, capsys: pytest.CaptureFixture[str], kind: str
    ) -> None:
        for words in (["list", shown(kind)], ["list", kind], ["--list", shown(kind)]):
            assert main(words) == 0
            assert capsys.readouterr().out.split() == names_of(kind)

    def test_names_of_both_worlds_are_listed(self) -> None:
        assert {"krum", "opus-vfl"} <= set(names_of("strategy"))

    @pytest.mark.parametrize("kind", ["strategy", "attack", "pre", "dataset"])
    def test_long_has_a_line_for_each_name(self, kind: str) -> None:
        lines = long_lines(kind)
        assert [line.split()[0] for line in lines] == names_of(kind)
        papers = [re.split(r"  +", line)[-1] for line in lines]
        starts = {len(line) - len(paper) for line, paper in zip(lines, papers, strict=True)}
        assert len(starts) == 1, "papers stand in one column"

    def test_long_says_what_is_needed_and_whose_idea_it_is(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["list", "attacks", "--long"]) == 0
        lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
        assert "poisons data, images only" in lines["badnets"]
        assert lines["alie"].endswith(
            'Baruch, Baruch and Goldberg, "A Little Is Enough: Circumventing Defenses For '
            'Distributed Learning", NeurIPS 2019'
        )
        assert "parties with different features" in lines["lying-cost"]
        assert lines["numerical"].endswith("-")


def test_the_package_itself_is_the_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["fedguard", "schema"])
    with pytest.raises(SystemExit) as done:
        runpy.run_module("fedguard", run_name="__main__")
    assert not done.value.code
    assert json.loads(capsys.readouterr().out)["title"] == "fedguard configuration"
