from __future__ import annotations

import subprocess
import sys
from functools import partial

import pytest
import task_runs
from task_runs import check_engine, check_going_on

from fedguard import simulate
from fedguard.campaigns.cells import run_cell
from fedguard.config import parse
from fedguard.errors import ConfigurationError
from fedguard.records.writer import read_jsonl
from fedguard.reporting.report import write_report
from fedguard.runs.simulation import Simulation

SHOPS = {"name": "clicks-sample", "users": 60, "items": 60, "shops": 5, "length": 8}


def config(**values):
    given = {
        "dataset": SHOPS,
        "clients": 5,
        "malicious": 0.2,
        "model": {"name": "sasrec", "width": 12},
        "rounds": 3,
        "local_epochs": 2,
        "attack": {"name": "ddsp", "item": "item-050", "length": 12, "fake_users": 0.1},
        **values,
    }
    return parse(given)


run = partial(task_runs.run, config)


def test_the_default_needs_the_data_sets_name_alone(tmp_path, capsys):
    command = ["--dataset", "clicks-sample", "--rounds", "1", "--out", str(tmp_path / "run")]
    assert simulate.main(command) == 0
    (line,) = read_jsonl(tmp_path / "run" / "rounds.jsonl")[1:]
    assert line["asked"] == 10
    assert 0.0 <= line["hr@10"] <= 1.0


def test_a_shop_of_fakes_lifts_its_item_above_the_floor(tmp_path):
    values = {
        "rounds": 8,
        "lr": 0.01,
        "attack": {"name": "random-profiles", "item": "item-050", "length": 12, "fake_users": 0.4},
    }
    floor, _ = run(tmp_path / "floor", **values, malicious=0.0)
    lifted, _ = run(tmp_path / "lifted", **values, malicious=0.4)
    assert floor["headline"]["name"] == "hr@10"
    assert lifted["final"]["target_rank"] < 0.8 * floor["final"]["target_rank"]
    assert lifted["final"]["er@10"] > floor["final"]["er@10"]
    assert lifted["aim"] == {"target": "item-050"}
    # Fakes count among the examples of the client that trains on them.
    asked = read_jsonl(tmp_path / "lifted" / "clients.jsonl")
    counts = {line["malicious"]: line["num_examples"] for line in asked if line["round"] == 1}
    assert counts == {True: 36, False: 12}
    page = write_report(tmp_path / "lifted").read_text()
    assert "Rank of the promoted item" in page
    assert "of users who never met" in page


def test_a_user_can_be_a_client(tmp_path):
    values = {"partition": {"name": "natural", "by": "user"}, "clients": 60, "malicious": 0.05}
    model = {"name": "gru4rec", "width": 8, "negatives": 10}
    summary, _ = run(tmp_path, **values, model=model, pre="touched-rows", rounds=1)
    records = read_jsonl(tmp_path / "clients.jsonl")
    assert {line["num_examples"] for line in records} == {1.0}
    assert summary["executor"] == "reuse"


def test_rows_that_few_touch_belong_to_those_few(tmp_path):
    """With few negatives, honest shops touch a rare item's row seldom."""
    values = {
        "model": {"name": "sasrec", "width": 12, "negatives": 5},
        "rounds": 6,
        "lr": 0.01,
        "batch_size": 4,
    }
    plain, _ = run(tmp_path / "plain", **values)
    rows, _ = run(tmp_path / "rows", **values, pre="touched-rows")
    assert rows["final"]["target_rank"] <= plain["final"]["target_rank"]


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"attack": {"name": "ddsp", "item": "nothing"}}, "attack.item: 'nothing'"),
        ({"attack": {"name": "badnets"}}, "attack: 'badnets'"),
        ({"strategy": "geminiguard", "server_samples": 5}, "strategy: 'geminiguard'"),
        ({"dataset": "digits", "partition": "iid", "model": "mlp"}, "attack: 'ddsp'"),
        ({"clients": 7}, "clients: 7 .*5, one for each shop"),
        ({"pre": {"name": "touched-rows", "table": "item.weight"}}, "pre.table.*'items.weight'"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_the_first_round(values, told):
    with pytest.raises(ConfigurationError, match=told):
        Simulation(config(**values))


def test_a_run_goes_on_after_a_stop_bit_for_bit(tmp_path):
    check_going_on(config, tmp_path, model={"name": "sasrec", "width": 8, "negatives": 20})


def test_compare_leads_with_the_hit_rate(tmp_path, capsys):
    for attack in ("none", "repeat-target"):
        run_cell(config(attack=attack, rounds=1).model_dump(mode="json"), tmp_path / attack)
    assert simulate.main(["compare", str(tmp_path)]) == 0
    assert "hr@10" in capsys.readouterr().out


def test_batched_training_agrees(tmp_path):
    values = {"training": "sgd", "lr": 0.5, "attack": "random-profiles", "rounds": 2}
    one, _ = run(tmp_path / "reuse", executor="reuse", **values)
    other, _ = run(tmp_path / "batched", executor="vmap", **values)
    assert other["executor"] == "vmap"
    assert other["final"]["loss"] == pytest.approx(one["final"]["loss"], rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize(("engine", "within"), [("ray", 0.0), ("flower", 1e-5)])
def test_engines_agree(tmp_path, engine, within):
    check_engine(config, tmp_path, engine, within)


@pytest.mark.slow
def test_a_log_of_ones_own_runs_from_the_command(tmp_path):
    rows = [f"u{u},i{(u + t) % 12},{t}" for u in range(40) for t in range(10)]
    (tmp_path / "log.csv").write_text("\n".join(["who,what,when", *rows]))
    command = [sys.executable, "-m", "fedguard.simulate", "--dataset", "clicks", "--data-dir", "."]
    columns = ["--set", "dataset.user=who", "--set", "dataset.item=what", "--set"]
    more = ["dataset.time=when", "--set", "dataset.shops=4", "--clients", "4", "--rounds", "1"]
    done = subprocess.run([*command, *columns, *more], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
