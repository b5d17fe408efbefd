"""Apps that nobody wrote for fedguard, attacked as they are: the findings are the right ones."""

from __future__ import annotations

import gc
from logging import ERROR, getLogger

import numpy as np
import pytest
from audited import Audited, forget

from fedguard.auditing.verdict import BROKEN, HELD_UP, STANDS, UNREACHED, learns

PACKAGES = {
    "torch_app": "torchapp",
    "numpy_app": "numpyapp",
    "sklearn_app": "sklearnapp",
    "older_client_app": "olderclient",
    "older_server_app": "olderserver",
    "bytes_app": "bytesapp",
}
OTHERS = ("treesapp", "tabularapp", "pandasapp")
LED_BY = {
    "torch_app": "clients/eval_acc",
    "numpy_app": "clients/accuracy",
    "sklearn_app": "clients/accuracy",
    "older_client_app": "server/accuracy",
    "older_server_app": "clients/accuracy",
    "bytes_app": "clients/accuracy",
}


@pytest.fixture(autouse=True)
def quiet():
    getLogger("flwr").setLevel(ERROR)
    gc.freeze()
    yield
    gc.unfreeze()
    getLogger("flwr").setLevel("INFO")
    for package in (*PACKAGES.values(), *OTHERS):
        forget(package)


@pytest.fixture
def audited(monkeypatch, tmp_path):
    return lambda name, **rest: Audited(name, monkeypatch, tmp_path, **rest)


HEAVIER = ("torch_app", "sklearn_app", "bytes_app")


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[pytest.mark.slow] if n in HEAVIER else []) for n in sorted(PACKAGES)],
)
def test_an_app_runs_unchanged_and_is_judged_by_what_it_reports(audited, name):
    app = audited(name)
    assert app.peaceful["ended"] == "finished", app.peaceful["reason"]
    assert app.headline.name == LED_BY[name]
    assert app.headline.untrained < 0.3 < 0.6 < app.headline.peace
    assert learns(app.headline)
    assert app.peaceful["rounds"] == app.project.config["num-server-rounds"]


@pytest.mark.parametrize("name", ["numpy_app", "older_server_app"])
def test_one_client_takes_all_and_the_recommended_line_keeps_it(audited, name):
    app = audited(name)
    assert app.verdict("scaled x100", 1)[0] == BROKEN
    verdict, kept, _ = app.verdict("scaled x100", 1, "multi-krum", assumed_malicious=0.3)
    assert verdict == STANDS
    assert kept > 0.9


@pytest.mark.parametrize(
    ("threat", "words"),
    [
        ("missing array", "the server stops: InconsistentMessageReplies"),
        ("other metrics", "the server stops: InconsistentMessageReplies"),
        ("wrong shape", "the server stops: ValueError"),
        ("NaN", "the server sent a model with NaN or infinity"),
        ("examples NaN", "NaN or infinity"),
    ],
)
def test_what_breaks_flowers_fedavg_outright_is_said_and_a_rule_sets_it_aside(
    audited, threat, words
):
    app = audited("numpy_app")
    verdict, kept, reason = app.verdict(threat, 1)
    assert (verdict, kept) == (BROKEN, 0.0)
    assert words in reason
    assert app.verdict(threat, 1, "median")[0] == STANDS


def test_a_client_that_never_answers_holds_each_round_for_as_long_as_flower_waits(audited):
    app = audited("numpy_app")
    found = app.outcome("hung", 1)
    assert found["waited"] == 3 * 3600.0  # Strategy.start waits an hour unless told otherwise
    verdict, _, reason = app.verdict("hung", 1)
    assert verdict == HELD_UP
    assert "1 hour" in reason
    older = audited("older_server_app").outcome("hung", 1)
    assert older["waited"] == 3 * 43200.0  # the older server names no timeout at all


@pytest.mark.slow
def test_a_model_of_bytes_is_attacked_where_bytes_can_be(audited):
    app = audited("bytes_app")
    assert not app.peaceful["averageable"]
    verdict, _, reason = app.verdict("garbled bytes", 1)
    assert verdict == BROKEN
    assert reason.startswith("the server stops: ")
    assert app.verdict("duplicate", 1)[0] == STANDS


def test_a_client_that_fails_is_no_finding_for_fedavg(audited):
    found = audited("numpy_app").verdict("dropped", 1)
    assert found[0] == STANDS


@pytest.mark.slow
def test_the_same_cell_gives_the_same_outcome(audited):
    app = audited("numpy_app")
    one, other = (app.outcome("gaussian", 2, seed=4) for _ in range(2))
    np.testing.assert_array_equal(one["vector"], other["vector"])
    assert one["metrics"] == other["metrics"]


@pytest.mark.slow
def test_the_data_hook_reaches_loaders_and_flips_their_labels(audited):
    app = audited("torch_app", data="torchapp.task:load_data", num_server_rounds=2)
    assert app.peaceful["applied"] == 0
    flipped = app.outcome("label flip", 8)
    assert flipped["applied"] == 16  # eight clients, two rounds
    assert flipped["metrics"]["clients/eval_acc"] < app.headline.peace - 0.05
    forgotten = audited("numpy_app", data="numpyapp.client_app:load").outcome("backdoor", 2)
    assert forgotten["applied"] == 6
    assert "triggered/accuracy" in forgotten["metrics"]


@pytest.mark.slow
def test_what_an_app_writes_lands_where_the_audit_is(audited, tmp_path):
    audited("torch_app", num_server_rounds=1)
    assert (tmp_path / "final_model.pt").exists()


@pytest.mark.slow
def test_flowers_own_bagging_of_trees_is_judged_and_falls_to_what_is_no_tree(audited):
    app = audited("trees_app")
    assert app.peaceful["ended"] == "finished", app.peaceful["reason"]
    assert (app.headline.name, app.headline.untrained) == ("clients/auc", None)
    assert app.headline.peace > 0.9
    assert not app.peaceful["averageable"]
    assert app.verdict("garbled bytes", 1)[0] == BROKEN
    assert app.verdict("dropped", 1)[0] == STANDS


@pytest.mark.slow
def test_a_table_with_one_probability_is_attacked_and_its_labels_are_out_of_reach(audited):
    app = audited("tabular_app", data="tabularapp.task:load_data")
    assert app.headline.name == "clients/accuracy"
    assert app.headline.peace > 0.85
    assert app.verdict("scaled x100", 1)[0] == BROKEN
    assert app.verdict("scaled x100", 1, "multi-krum", assumed_malicious=0.3)[0] == STANDS
    # One output's labels are floating-point numbers, which nobody can tell from a measurement.
    assert app.verdict("label flip", 1)[0] == UNREACHED


def test_an_app_that_only_asks_questions_trains_nothing(audited):
    app = audited("pandas_app")
    assert (app.peaceful["ended"], app.peaceful["rounds"]) == ("finished", 0)
