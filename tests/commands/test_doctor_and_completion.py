"""The doctor finds what is there and says how to get the rest; a shell completes what exists."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fedguard.commands import doctor, front
from fedguard.commands.completion import VARIABLE
from fedguard.simulate import main


class TestDoctor:
    def test_a_file_is_found_in_the_folder_and_one_below(self, tmp_path: Path) -> None:
        deep = tmp_path / "torchvision" / "MNIST" / "raw"
        deep.mkdir(parents=True)
        (deep / "train-images-idx3-ubyte.gz").touch()
        wanted = ("MNIST/raw/train-images-idx3-ubyte*",)
        assert doctor.first_match(tmp_path, wanted) == deep / "train-images-idx3-ubyte.gz"
        assert doctor.first_match(tmp_path / "torchvision", wanted) is not None
        assert doctor.first_match(tmp_path / "nowhere", wanted) is None

    def test_data_that_are_there_differ_from_data_that_are_not(self, tmp_path: Path) -> None:
        (tmp_path / "KDDTrain+.txt").touch()
        found = {one.name: one for one in doctor._data(tmp_path)}
        assert found["nsl-kdd"].state == "ok"
        assert found["digits"].told == "needs no files"
        assert found["adult"].state == "optional"
        assert "adult.data" in found["adult"].told

    def test_a_package_that_lacks_is_missing_and_ends_in_1(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        lines = ["numpy>=2", "no-such-thing>=1", 'other-thing>=1; extra == "excel"']
        monkeypatch.setattr(doctor, "requires", lambda _: lines)
        assert main(["doctor", "--json"]) == 1
        found = {one["name"]: one for one in json.loads(capsys.readouterr().out)["findings"]}
        assert found["numpy"]["state"] == "ok"
        assert found["no-such-thing"]["state"] == "missing"
        assert found["no-such-thing"]["told"] == "pip install no-such-thing"
        assert found["excel"]["state"] == "optional"
        assert "fedguard[excel]" in found["excel"]["told"]

    def test_lines_fit_are_plain_and_say_what_lacks(self) -> None:
        found = [
            doctor.Finding("packages", "numpy", "ok", "2.4"),
            doctor.Finding("packages", "torch", "missing", "pip install torch"),
        ]
        assert doctor.as_lines(found) == [
            "packages",
            "  numpy  2.4",
            "! torch  pip install torch",
            "!: nothing runs without it; -: optional, not there",
            "1 missing",
        ]

    def test_a_folder_that_is_not_there_is_refused(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["doctor", "--data-dir", "/no/such/folder"]) == 2
        assert "--data-dir" in capsys.readouterr().err


class TestCompletion:
    def completed(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: str
    ) -> list[str]:
        monkeypatch.setenv(VARIABLE, "bash_complete")
        monkeypatch.setenv("COMP_WORDS", words)
        monkeypatch.setenv("COMP_CWORD", str(len(words.split(" ")) - 1))
        assert main([]) == 0
        return [line.partition(",")[2] for line in capsys.readouterr().out.splitlines()]

    @pytest.mark.parametrize(
        ("words", "expected"),
        [
            ("fedguard sw", ["sweep"]),
            ("fedguard data ch", ["check"]),
            ("fedguard --strategy multi-", ["multi-krum", "multi-metrics"]),
            ("fedguard simulate --attack adaptive-g", ["adaptive-gemini"]),
            ("fedguard --pre nnm,clip", ["nnm,clipping"]),
            ("fedguard sweep --dry", ["--dry-run"]),
        ],
    )
    def test_words_are_completed(
        self,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
        words: str,
        expected: list[str],
    ) -> None:
        assert self.completed(monkeypatch, capsys, words) == expected

    def test_every_command_is_offered(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        offered = self.completed(monkeypatch, capsys, "fedguard ")
        assert {name.split()[0] for name in front.COMMANDS} <= set(offered)

    @pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
    def test_the_script_asks_by_the_programs_name(
        self, capsys: pytest.CaptureFixture[str], shell: str
    ) -> None:
        assert main(["completion", shell]) == 0
        script = capsys.readouterr().out
        assert f"{VARIABLE}={shell}_complete" in script
        assert "fedguard" in script

    def test_another_shell_is_refused(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["completion", "tcsh"]) == 2
        assert "bash, zsh, fish" in capsys.readouterr().err
