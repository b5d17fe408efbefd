"""``fedguard audit``: from an app's folder to a verdict, an exit code and a page."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from audited import APPS

from fedguard import simulate
from fedguard.auditing.cell import Cell
from fedguard.auditing.nurses import Nursery
from fedguard.auditing.project import Project

THREATS = "scaled x100,missing array,hung,NaN"


def test_what_is_not_valid_ends_in_one_line_before_anything_runs(tmp_path, capsys):
    app = str(APPS / "numpy_app")
    for words, told in (
        ([str(tmp_path)], "a folder with pyproject.toml"),
        ([app, "--fractions", "0.1,2"], "fractions"),
        ([app, "--threats", "scaled x10"], "did you mean 'scaled x100'"),
        ([app, "--fail-below", "7"], "fail_below"),
        ([app, "--set", "rounds=3"], "num-server-rounds"),
        ([app, "--minutes", "0"], "minutes"),
        ([app, "--clients", "0"], "clients"),
        ([app, "--engine", "ray"], "inprocess, flower"),
        ([app, "--set", "num-server-rounds=three"], "a whole number"),
    ):
        assert simulate.main(["audit", *words]) == 2
        error = capsys.readouterr().err
        assert told in error
        assert "Traceback" not in error


def test_a_folder_that_holds_another_audit_is_refused(tmp_path, capsys):
    from fedguard.commands.audit import _open

    _open(tmp_path / "one", {"name": "a"}, "1")
    cell = tmp_path / "one" / "cells" / "peace.json"
    cell.parent.mkdir()
    cell.write_text("{}")
    _open(tmp_path / "one", {"name": "a"}, "1")  # the same goes on
    assert cell.exists()
    told = []
    _open(tmp_path / "one", {"name": "a"}, "2", told.append)  # a remedy was pasted, say
    assert not cell.exists()
    assert "run anew" in told[0]
    assert simulate.main(["audit", str(APPS / "numpy_app"), "--out", str(tmp_path / "one")]) == 2
    assert "holds an audit of another app" in capsys.readouterr().err


@pytest.mark.slow
def test_an_audit_ends_in_a_verdict_and_goes_on_from_its_folder(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["audit", str(APPS / "numpy_app"), "--threats", THREATS, "--fractions", "0.2"]
    words += ["--out", "found", "--fail-below", "0.8", "--minutes", "20"]
    assert simulate.main([*words, "--json"]) == 3
    told = json.loads(capsys.readouterr().out)
    assert told["verdict"] == "broken"
    verdicts = {c["threat"]: c["verdict"] for c in told["cells"] if not c["rule"]}
    assert verdicts == {
        "scaled x100": "broken",
        "missing array": "broken",
        "NaN": "broken",
        "hung": "held up",
    }
    rule = told["recommended"]["rule"]
    mine = [c for c in told["cells"] if c["rule"] == rule and c["threat"] != "peace"]
    assert {cell["threat"]: cell["verdict"] for cell in mine} == {
        **dict.fromkeys(("scaled x100", "missing array", "NaN"), "stands"),
        "hung": "held up",  # no rule makes a server wait less
    }
    for name in ("audit.html", "audit.json", "junit.xml", "audit.sarif", "project.json"):
        assert (tmp_path / "found" / name).stat().st_size < 3_000_000
    assert not (tmp_path / "found" / "scratch").exists()
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "found" / "cells").iterdir()}
    assert simulate.main(words) == 3  # nothing runs again
    assert before == {p: p.stat().st_mtime_ns for p in (tmp_path / "found" / "cells").iterdir()}


@pytest.mark.slow
def test_the_recommended_lines_turn_the_verdict(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    app = tmp_path / "numpy_app"
    shutil.copytree(APPS / "numpy_app", app)
    server = app / "numpyapp" / "server_app.py"
    lines = 'import fedguard\n\napp = fedguard.guard("multi-krum", assumed_malicious=0.3)(app)\n'
    server.write_text(server.read_text() + lines)
    words = ["audit", str(app), "--threats", THREATS.replace("hung,", ""), "--fractions", "0.2"]
    assert simulate.main([*words, "--out", "found", "--fail-below", "0.8", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["verdict"] == "standing"


BREAKING = {
    "sys.exit(4)": ("exited", "sys.exit(4)"),
    "raise KeyError('gone')": ("raised", "KeyError: 'gone'"),
    "import os; os._exit(9)": ("died", "code 9"),
    "while True: pass": ("hung", "still running"),
}


@pytest.mark.slow
def test_an_app_that_exits_breaks_dies_or_hangs_is_a_finding(tmp_path):
    app = tmp_path / "breaking"
    shutil.copytree(APPS / "numpy_app", app)
    (app / "numpyapp" / "server_app.py").write_text(
        "import sys\nfrom flwr.serverapp import ServerApp\napp = ServerApp()\n"
        "WAYS = " + repr(list(BREAKING)) + "\n\n"
        "@app.main()\ndef main(grid, context):\n"
        "    exec(WAYS[context.run_config['num-server-rounds']])\n"
    )
    for place, (ended, reason) in enumerate(BREAKING.values()):
        project = Project.read(app, settings=[f"num-server-rounds={place}"])
        (tmp_path / "out").mkdir(exist_ok=True)
        nursery = Nursery(project, tmp_path / "out")
        found = nursery.run(Cell(), tmp_path / "out" / f"{place}.json", 20.0)
        nursery.close()
        assert (found["ended"], reason in found["reason"]) == (ended, True), found["reason"]


@pytest.mark.slow
def test_an_app_that_cannot_be_imported_is_said_in_one_line(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    app = tmp_path / "lost"
    shutil.copytree(APPS / "numpy_app", app)
    (app / "numpyapp" / "server_app.py").write_text("import a_module_that_nobody_has\n")
    assert simulate.main(["audit", str(app)]) == 2
    error = capsys.readouterr().err
    assert "a_module_that_nobody_has" in error
    assert "Traceback" not in error


@pytest.mark.slow
def test_an_app_without_evaluation_is_judged_by_its_models_way(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    app = tmp_path / "mute"
    shutil.copytree(APPS / "numpy_app", app)
    client = app / "numpyapp" / "client_app.py"
    client.write_text(client.read_text().partition("@app.evaluate()")[0])
    words = ["audit", str(app), "--threats", "scaled x100,dropped", "--fractions", "0.2"]
    assert simulate.main([*words, "--out", "found", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["headline"]["name"] == ""
    verdicts = {c["threat"]: c["verdict"] for c in told["cells"] if not c["rule"]}
    assert verdicts["scaled x100"] == "broken"
    assert verdicts["dropped"] in ("stands", "harmed")
    assert told["recommended"]["rule"]


@pytest.mark.slow
def test_an_app_that_only_asks_questions_is_one_line(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert simulate.main(["audit", str(APPS / "pandas_app")]) == 1
    error = capsys.readouterr().err
    assert "the app trains nothing in peace: its server asked no client to train" in error
    assert "Traceback" not in error


@pytest.mark.slow
def test_flowers_engine_leaves_the_same_model_in_peace_and_under_attack(tmp_path):
    for engine in ("inprocess", "flower"):
        project = Project.read(APPS / "numpy_app", engine=engine, settings=["num-server-rounds=2"])
        (tmp_path / engine).mkdir()
        nursery = Nursery(project, tmp_path / engine)
        for cell in (Cell(), Cell("scaled x100", 1)):
            path = tmp_path / engine / f"{cell.threat}.json"
            assert nursery.run(cell, path, 280.0)["ended"] == "finished"
        nursery.close()
    for name in ("peace.npy", "scaled x100.npy"):
        here, there = (np.load(tmp_path / engine / name) for engine in ("inprocess", "flower"))
        np.testing.assert_allclose(there, here, rtol=1e-9, atol=1e-9)
