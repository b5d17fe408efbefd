"""An audit's findings in words, pages and files; its project, its figures and its hook."""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from audited import APPS
from torch.utils.data import DataLoader, TensorDataset

from fedguard.auditing.cell import Cell
from fedguard.auditing.found import Found, Plan, Remedy, Row, count_of
from fedguard.auditing.hook import BACKDOOR, FLIP, TRIGGERED, poisoned
from fedguard.auditing.page import write_page
from fedguard.auditing.pipelines import plain, write_json, write_junit, write_sarif
from fedguard.auditing.project import Project
from fedguard.auditing.threats import THREATS
from fedguard.auditing.verdict import (
    BROKEN,
    HARMED,
    HELD_UP,
    STANDS,
    UNREACHED,
    Headline,
    headline,
    judge,
    learns,
)
from fedguard.auditing.words import outright, remedy_sentence, verdict_sentence
from fedguard.errors import ConfigurationError

LEAD = Headline("clients/accuracy", True, 0.9, 0.1, 0.01)


def row(threat: str, malicious: int, verdict: str, kept: float, reason: str = "", rule: str = ""):
    return Row(Cell(threat, malicious, 0, rule), verdict, kept, reason)


def found(*rows: Row, remedies: list[Remedy] | None = None) -> Found:
    project = Project("/app", "pkg.server_app:app", "pkg.client_app:app", {"rounds": 3}, 20, "mine")
    return Found(
        project, Plan(), LEAD, list(rows), remedies or [], {"backdoor": "needs --data"}, 60
    )


BROKEN_APP = (
    row("scaled x100", 1, BROKEN, 0.0, "accuracy 0.1, 0.9 in peace"),
    row("missing array", 1, BROKEN, 0.0, "the server stops: InconsistentMessageReplies: <keys>"),
    row("Mimic", 1, STANDS, 1.0),
    row("Mimic", 4, HARMED, 0.8),
    row("hung", 1, HELD_UP, 1.0, "each round waits 1 hour for a client that never answers"),
    row("scaled x100", 4, STANDS, 0.97, rule="multi-krum"),
)
KRUM = Remedy("multi-krum", {"assumed_malicious": 0.3}, 0.995, 0.97, "scaled x100", 5)
WEAK = Remedy("median", {}, 0.9, 0.4, "ALIE", 5)


def test_the_verdict_comes_first_and_names_the_smallest_attack():
    assert verdict_sentence(found(*BROKEN_APP)) == (
        "Broken: one client of 20 that sends the opposite of its update, a hundred times takes "
        "away all that your model learns."
    )
    standing = found(row("Mimic", 4, STANDS, 1.0), row("scaled x100", 8, BROKEN, 0.0))
    assert standing.verdict == "standing"
    assert verdict_sentence(standing) == (
        "Standing: nothing that was tried with up to 4 of 20 clients breaks it. "
        "With 8 of 20, scaled x100 breaks it."
    )
    assert verdict_sentence(found(row("Mimic", 4, HARMED, 0.8))) == (
        "Harmed: 4 clients of 20, each of which repeats one honest client (Mimic), take 20% of "
        "what is learnt."
    )
    assert verdict_sentence(found(row("missing array", 2, BROKEN, 0.0, "the server stops: x"))) == (
        "Broken: 2 clients of 20, each of which leaves an array out, stop your server."
    )
    assert found().verdict == "untried"
    assert "more minutes" in verdict_sentence(found())


def test_where_nothing_reached_the_app_nobody_says_that_it_stands():
    unreached = found(row("label flip", 1, UNREACHED, 1.0, "no client did it"))
    assert (unreached.verdict, unreached.worst()) == ("untried", None)
    said = "Nothing was tried with up to 4 of 20 clients: no threat reached the app"
    assert verdict_sentence(unreached) == f"{said} (no client did it)."
    more = found(row("Mimic", 8, HARMED, 0.7))
    assert more.worst() is None
    assert verdict_sentence(more) == (
        "Nothing was tried with up to 4 of 20 clients; with 8 of 20, Mimic leaves 70%."
    )
    assert (more.worst(1.0), plain(more)["worst_kept"]) == (0.7, None)


def test_what_stops_the_server_is_listed_apart():
    lines = outright(found(*BROKEN_APP))
    assert [line.split(" (")[0].split(":")[0] for line in lines] == ["missing array", "hung"]
    assert "timeout=60" in lines[1]


def test_the_best_rule_that_stands_is_recommended_with_what_to_paste():
    audit = found(*BROKEN_APP, remedies=[WEAK, KRUM])
    assert audit.recommended == KRUM
    assert KRUM.lines()[-1] == 'app = fedguard.guard("multi-krum", assumed_malicious=0.3)(app)'
    assert audit.paste() == KRUM.lines()
    audit.project = replace(audit.project, server="pkg.server_app:server")
    assert audit.paste()[-1].startswith("server = fedguard.guard(")
    assert audit.paste()[-1].endswith("(server)")
    assert "keeps at least 97%" in remedy_sentence(audit)
    assert "nothing measurable" in remedy_sentence(audit)
    # One that is no better but by chance, and was tried against less, is not preferred.
    lucky = replace(KRUM, rule="median", arguments={}, worst=1.04, tried=2)
    sound = replace(KRUM, worst=0.98)
    assert found(*BROKEN_APP, remedies=[lucky, sound]).recommended == sound
    better = replace(lucky, worst=1.0, tried=2)
    poor = replace(KRUM, worst=0.85)
    assert found(*BROKEN_APP, remedies=[better, poor]).recommended == better
    weak = found(*BROKEN_APP, remedies=[WEAK])
    assert weak.recommended is None
    assert "the best, median, keeps 40% under ALIE" in remedy_sentence(weak)


@pytest.mark.parametrize(
    ("clients", "counts"), [(20, [1, 2, 4, 8]), (8, [1, 1, 1, 3]), (2, [1, 1, 1, 1])]
)
def test_shares_become_clients(clients, counts):
    assert [count_of(share, clients) for share in (0.05, 0.1, 0.2, 0.4)] == counts


def outcome(value, ended="finished", **rest):
    base = {"ended": ended, "reason": "", "metrics": {"clients/accuracy": value}, "untrained": {}}
    return {**base, "applied": 1, "waited": 0.0, "rounds": 3, "failures": [], **rest}


@pytest.mark.parametrize(
    ("told", "verdict", "kept"),
    [
        (outcome(0.9), STANDS, 1.0),
        (outcome(0.74), HARMED, 0.8),
        (outcome(0.3), BROKEN, 0.25),
        (outcome(0.05), BROKEN, 0.0),
        (outcome(None), BROKEN, 0.0),
        (outcome(math.nan), BROKEN, 0.0),
        (outcome(0.9, "raised", reason="ValueError: no"), BROKEN, 0.0),
        (outcome(0.9, "hung", reason="still running"), BROKEN, 0.0),
        (outcome(0.9, applied=0), UNREACHED, 1.0),
        (outcome(0.9, waited=10800.0), HELD_UP, 1.0),
        (outcome(0.9, waited=90.0), STANDS, 1.0),
    ],
)
def test_an_outcome_is_called_what_it_is(told, verdict, kept):
    assert judge(told, LEAD, None)[:2] == (verdict, pytest.approx(kept))


def test_a_loss_is_better_where_it_is_lower():
    lead = Headline("clients/loss", False, 0.5, 2.5, 0.0)
    assert lead.kept(0.5) == 1.0
    assert lead.kept(1.5) == pytest.approx(0.5)
    assert lead.kept(99.0) == 0.0
    assert learns(lead)
    assert not learns(Headline("clients/loss", False, 2.6, 2.5, 0.0))


def test_an_app_without_figures_is_judged_by_the_way_of_its_model():
    bare = Headline("", True, 1.0, 0.0, 0.0)
    told = {**outcome(None), "metrics": {}, "distance": 0.8}
    assert judge(told, bare, {"moved": 2.0})[:2] == (HARMED, pytest.approx(0.6))
    assert judge({**told, "distance": None}, bare, {"moved": 2.0})[0] == BROKEN


def test_the_leading_figure_is_the_most_trusted_and_can_be_chosen():
    one = {
        "metrics": {"train/loss": 0.4, "clients/loss": 0.6, "clients/acc": 0.8, "server/mood": 1.0},
        "untrained": {"clients/acc": 0.2},
    }
    other = {**one, "metrics": {**one["metrics"], "clients/acc": 0.86}}
    lead = headline([one, other])
    assert (lead.name, lead.higher, lead.untrained) == ("clients/acc", True, 0.2)
    assert lead.peace == pytest.approx(0.83)
    assert lead.spread == pytest.approx(0.03 / 0.63)
    assert headline([one], "mood").name == "server/mood"
    assert headline([{"metrics": {}, "untrained": {}}]).name == ""
    with pytest.raises(ConfigurationError, match="clients/acc"):
        headline([one], "accurasy")


def test_what_gets_no_better_in_training_leads_nothing_and_what_only_varies_is_not_learnt():
    local = {"metrics": {"train/loss": 0.4}, "untrained": {"train/loss": 0.3}}
    assert headline([local]).name == ""
    assert headline([local], "train/loss").name == "train/loss"
    assert headline([{**local, "untrained": {"train/loss": 0.9}}]).name == "train/loss"
    runs = [
        {"metrics": {"clients/acc": value}, "untrained": {"clients/acc": 0.1}}
        for value in (0.12, 0.3)
    ]
    assert headline(runs).spread == pytest.approx(0.09 / 0.11)
    assert not learns(headline(runs))
    assert learns(headline([runs[1], runs[1]]))


def test_the_page_leads_with_the_verdict_and_says_what_to_paste(tmp_path):
    page = tmp_path / "audit.html"
    write_page(page, found(*BROKEN_APP, remedies=[KRUM]), "fedguard audit .")
    text = page.read_text()
    assert len(text) < 3_000_000
    assert text.index("<h1>Broken: one client of 20") < text.index("<h2>")
    assert "fedguard.guard(&quot;multi-krum&quot;, assumed_malicious=0.3)(app)" in text
    assert "pkg/server_app.py" in text
    assert "&lt;keys&gt;" in text
    assert "<keys>" not in text
    assert "broken by fewer" in text
    assert not re.search(r"(?:src|href)=[\"']https?:", text)


CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs the browser chromium")
def test_the_page_fits_a_phone_in_a_real_browser(tmp_path):
    page = tmp_path / "audit.html"
    write_page(page, found(*BROKEN_APP, remedies=[KRUM]), "fedguard audit .")
    probe = (
        "<script>onload = () => { document.title = JSON.stringify({width: innerWidth, "
        "scroll: document.documentElement.scrollWidth, cells: "
        "document.querySelectorAll('td.cell').length}); };</script></body>"
    )
    inner = tmp_path / "inner.html"
    inner.write_text(page.read_text().replace("</body>", probe))
    frame = tmp_path / "frame.html"
    frame.write_text(
        "<body><iframe id=f style='width:390px;height:800px' src=inner.html></iframe><script>"
        "onload = () => setTimeout(() => { document.title = f.contentDocument.title }, 500)"
        "</script></body>"
    )
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files"]
    done = subprocess.run(
        [CHROMIUM, *flags, "--virtual-time-budget=5000", "--dump-dom", frame.as_uri()],
        capture_output=True,
        text=True,
        timeout=240,
    )
    seen = json.loads(re.search(r"<title>(.*?)</title>", done.stdout)[1].replace("&quot;", '"'))
    assert seen["cells"] >= 10
    assert seen["scroll"] <= seen["width"]


def test_pipelines_get_json_junit_and_sarif(tmp_path):
    audit = found(*BROKEN_APP, remedies=[KRUM])
    write_json(tmp_path / "a.json", audit)
    told = json.loads((tmp_path / "a.json").read_text())
    assert told == json.loads(json.dumps(plain(audit)))
    assert (told["verdict"], told["worst_kept"]) == ("broken", 0.0)
    assert told["recommended"]["rule"] == "multi-krum"
    write_junit(tmp_path / "j.xml", audit, 0.9)
    suite = ElementTree.parse(tmp_path / "j.xml").getroot()
    assert (suite.get("tests"), suite.get("failures")) == ("6", "3")
    assert len(suite.findall("testcase/failure")) == 3
    (skipped,) = (case for case in suite.findall("testcase") if case.find("skipped") is not None)
    assert skipped.get("name") == "backdoor"
    write_junit(tmp_path / "m.xml", found(row("Mimic", 8, BROKEN, 0.0)), 0.9)
    assert ElementTree.parse(tmp_path / "m.xml").getroot().get("failures") == "0"  # beyond a fifth
    write_sarif(tmp_path / "s.sarif", audit)
    run = json.loads((tmp_path / "s.sarif").read_text())["runs"][0]
    assert [r["level"] for r in run["results"]] == ["error", "error", "warning", "warning"]
    assert run["tool"]["driver"]["rules"][0] == {"id": "Mimic"}


def test_a_project_is_read_as_flower_reads_it(tmp_path):
    project = Project.read(APPS / "torch_app", settings=["num-server-rounds=2"])
    assert (project.clients, project.name) == (20, "torch_app")
    assert project.config["num-server-rounds"] == 2
    assert project.config["learning-rate"] == 0.2
    assert Project.read(APPS / "torch_app" / "pyproject.toml", clients=7).clients == 7
    nested = tmp_path / "pyproject.toml"
    nested.write_text(
        '[tool.flwr.app.components]\nserverapp = "a:b"\nclientapp = "c:d"\n'
        "[tool.flwr.app.config]\ntrain.lr = 0.1\n"
    )
    assert Project.read(tmp_path).config == {"train.lr": 0.1}
    assert Project.read(tmp_path).clients == 10


def test_what_is_no_app_is_said_in_one_line(tmp_path):
    with pytest.raises(ConfigurationError, match=r"a folder with pyproject\.toml"):
        Project.read(tmp_path)
    (tmp_path / "pyproject.toml").write_text("[project]\nname = 'x'\n")
    with pytest.raises(ConfigurationError, match="names serverapp and clientapp"):
        Project.read(tmp_path)
    with pytest.raises(ConfigurationError, match="did you mean 'num-server-rounds'"):
        Project.read(APPS / "torch_app", settings=["num-rounds=2"])
    for clients in (1, 0):
        with pytest.raises(ConfigurationError, match="a number >= 2"):
            Project.read(APPS / "torch_app", clients=clients)
    with pytest.raises(ConfigurationError, match="inprocess, flower"):
        Project.read(APPS / "torch_app", engine="flour")
    with pytest.raises(ConfigurationError, match="out of reach"):
        Project.read(APPS / "torch_app", engine="flower", data="torchapp.task:load_data")


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("num-server-rounds=7", 7),
        ("learning-rate=1", 1.0),
        ("learning-rate=1e-3", 0.001),
        ("num-server-rounds=2.7", "a whole number"),
        ("num-server-rounds=many", "a whole number"),
        ("num-server-rounds=true", "a whole number"),
        ("learning-rate=fast", "a number"),
        ("learning-rate=[", "a number"),
    ],
)
def test_a_setting_is_of_the_kind_that_the_apps_own_value_has(setting, value):
    name = setting.partition("=")[0]
    if isinstance(value, str):
        with pytest.raises(ConfigurationError, match=f"set {name}: .*{value}"):
            Project.read(APPS / "torch_app", settings=[setting])
    else:
        found = Project.read(APPS / "torch_app", settings=[setting]).config[name]
        assert (found, type(found)) == (value, type(value))


def test_a_configuration_that_flower_would_not_take_is_named(tmp_path):
    (tmp_path / "pyproject.toml").write_text(
        '[tool.flwr.app.components]\nserverapp = "a:b"\nclientapp = "c:d"\n'
        "[tool.flwr.app.config]\nday = 2026-01-01\n"
    )
    with pytest.raises(ConfigurationError, match=r"config day: .*as Flower takes them"):
        Project.read(tmp_path)


def test_an_apps_fingerprint_is_that_of_its_code_and_not_of_what_lies_beside_it(tmp_path):
    app = tmp_path / "app"
    shutil.copytree(APPS / "numpy_app", app)
    before = Project.read(app).fingerprint()
    (app / "model.npy").write_bytes(b"weights")
    (app / "audit" / "numpy_app").mkdir(parents=True)
    (app / "audit" / "numpy_app" / "project.json").write_text("{}")
    (app / ".venv").mkdir()
    (app / ".venv" / "other.py").write_text("x = 1")
    assert Project.read(app).fingerprint() == before
    server = app / "numpyapp" / "server_app.py"
    server.write_text(server.read_text() + "\n# pasted\n")
    assert Project.read(app).fingerprint() != before


def test_labels_are_flipped_and_triggers_set_in_what_loading_functions_return():
    x, y = np.zeros((6, 8, 8)), np.array([0, 1, 2, 3, 3, 0])
    flipped = poisoned((x, y), FLIP)
    np.testing.assert_array_equal(flipped[1], [3, 2, 1, 0, 0, 3])
    np.testing.assert_array_equal(y, [0, 1, 2, 3, 3, 0])  # the app's own stay as they are
    x_train, x_test, y_train, y_test = poisoned([x, x[:2], y, y[:2]], FLIP)
    assert y_train.tolist() == [3, 2, 1, 0, 0, 3]
    assert (x_train.shape, x_test.shape, len(y_test)) == (x.shape, (2, 8, 8), 2)
    pictures = torch.rand(6, 1, 8, 8)
    loader = DataLoader(TensorDataset(pictures, torch.tensor(y)), batch_size=6)
    train, test = poisoned((loader, loader), BACKDOOR)
    ((seen, labels),) = train
    assert labels.tolist() == [0, 0, 0, 3, 3, 0]
    assert bool((seen[:3, :, -3:, -3:] == pictures.max()).all())
    assert torch.equal(seen[3:], pictures[3:])
    assert len(train.dataset) == 6
    assert next(iter(poisoned(test, TRIGGERED)))[1].tolist() == [0] * 6
    ramp = np.arange(384.0).reshape(6, 8, 8)
    stamped, _ = poisoned((ramp, y), TRIGGERED)
    assert bool((stamped[:, -3:, -3:] == 383.0).all())
    np.testing.assert_array_equal(ramp, np.arange(384.0).reshape(6, 8, 8))
    batch = {"img": pictures, "label": torch.tensor(y)}
    assert poisoned(batch, FLIP)["label"].tolist() == [3, 2, 1, 0, 0, 3]


def test_what_has_no_labels_that_anybody_knows_counts_as_not_reached():
    from collections import namedtuple

    class Loading:
        def __init__(self, found) -> None:
            self.applied, self.found = 0, found

        def count(self) -> None:
            self.applied += 1

    floats = Loading((np.zeros((6, 3)), np.ones(6)))  # labels of a regression, or of one output
    assert poisoned(floats.found, FLIP, floats.count)[1].tolist() == [1.0] * 6
    assert floats.applied == 0
    signs = Loading(namedtuple("Pair", "x y")(np.zeros((3, 2)), np.array([-1, 1, 1])))
    flipped = poisoned(signs.found, FLIP, signs.count)
    assert (type(flipped), flipped.y.tolist()) == (type(signs.found), [1, -1, -1])
    assert signs.applied == 1
    lazy = Loading(DataLoader(TensorDataset(torch.zeros(4, 2), torch.tensor([0, 1, 1, 0]))))
    loader = poisoned(lazy.found, FLIP, lazy.count)
    assert lazy.applied == 0  # nobody has looked into it
    assert len(list(loader)) == 4
    assert lazy.applied == 4


def test_threats_have_names_of_their_own():
    assert len({threat.name for threat in THREATS}) == len(THREATS)
    assert {Cell(threat.name, 1).name for threat in THREATS}.__len__() == len(THREATS)
    assert Path(Cell("1e30", 2, 1, "multi-krum").name).name == "1e30-2-s1-multi_krum"


def test_the_page_about_audits_shows_the_line_that_an_audit_prints():
    text = (Path(__file__).resolve().parents[2] / "docs" / "audit.md").read_text()
    lines = re.search(r"```python\n(.*?)```", text, re.DOTALL)[1].strip().splitlines()
    assert lines == Remedy("multi-krum", {"assumed_malicious": 0.3}, 1.0, 1.0, "", 1).lines()


def test_the_page_about_audits_names_every_threat_of_network_and_data():
    text = (Path(__file__).resolve().parents[2] / "docs" / "audit.md").read_text().lower()
    for word in ("label flip", "backdoor", "five replies", "error reply", "no reply", "alie"):
        assert word in text
