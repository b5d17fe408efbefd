"""Every command that the documents show does what it says."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from fedguard import registry, simulate

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def shown(document: Path) -> list[str]:
    blocks = re.findall(r"```sh\n(.*?)```", document.read_text(encoding="utf-8"), re.DOTALL)
    lines = [line.strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line.startswith("python -m fedguard.simulate")]


COMMANDS = sorted({command for document in DOCUMENTS for command in shown(document)})


def test_there_are_commands_to_run():
    assert len(COMMANDS) >= 4


@pytest.mark.parametrize("command", COMMANDS)
def test_command_runs(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = shlex.split(command, comments=True)[3:]
    if "--rounds" not in arguments and "--list" not in arguments:
        arguments += ["--rounds", "2"]  # what is shown must run; how long is another matter
    assert simulate.main(arguments) == 0


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_within_the_repository_lead_somewhere(document):
    for target in re.findall(r"\]\(([^)#]+)\)", document.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (document.parent / target).exists(), f"{document.name}: {target}"


def test_the_readme_names_every_strategy():
    text = (ROOT / "README.md").read_text(encoding="utf-8").lower()
    spelled = {
        "backdoor-indicator": "backdoorindicator",
        "fedavg": "plain averaging",
        "hammer-anvil": "hammer and anvil",
        "meamed": "mean around median",
        "mda": "mda",
        "caf": "caf",
        "smea": "smea",
        "dnc": "dnc",
        "ckks": "ckks with one key",
        "secagg+": "secagg+",
        "xmkckks": "xmk ckks",
        "xmkckks-cost-model": "xmk ckks",
    }
    for name in registry.names("strategy"):
        word = spelled.get(name, name.replace("-", " "))
        assert word in text.replace("-", " "), name


def test_no_document_or_file_names_a_package_registry():
    for path in [*DOCUMENTS, ROOT / "Makefile", ROOT / "constraints.txt", ROOT / ".ci" / "run"]:
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"https?://[^\s)]*(pypi|pythonhosted|npmjs)", text), path
