"""Runs are grouped by all but their seed; figures match plain arithmetic; nothing is dropped."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from campaign_runs import finish, write_grid

from fedguard.errors import ConfigurationError
from fedguard.reporting.comparison import Spread, compare, find_runs
from fedguard.simulate import main


def grouped(folder: Path) -> Any:
    entries, _ = find_runs([folder])
    (found,) = compare(entries)
    return found


def test_groups_by_all_but_the_seed(tmp_path: Path) -> None:
    write_grid(tmp_path, defences=["fedavg", "krum"], attacks=["alie", "min-max"], seeds=3)
    found = grouped(tmp_path)
    assert found.defences == ["fedavg", "krum"]
    assert found.scenarios == ["alie", "min-max"]
    assert found.seeds == [0, 1, 2]
    assert {key: len(group.entries) for key, group in found.groups.items()} == {
        (d, a): 3 for d in ("fedavg", "krum") for a in ("alie", "min-max")
    }


def test_labels_name_what_tells_parts_apart_and_nothing_else(tmp_path: Path) -> None:
    for place, bound in enumerate([0.1, 0.3]):
        for malicious in (0.1, 0.2):
            strategy = {"name": "krum", "assumed_malicious": bound, "keep": 1}
            finish(tmp_path / f"{place}-{malicious}", strategy=strategy, malicious=malicious)
    finish(tmp_path / "other", strategy={"name": "fedavg"}, malicious=0.1)
    found = grouped(tmp_path)
    assert set(found.defences) == {
        "krum assumed_malicious=0.1",
        "krum assumed_malicious=0.3",
        "fedavg",
    }
    assert set(found.scenarios) == {"alie malicious=0.1", "alie malicious=0.2"}


def test_worlds_are_compared_separately(tmp_path: Path) -> None:
    for rounds in (5, 10):
        for dataset in ("digits", "mnist"):
            finish(tmp_path / f"{dataset}-{rounds}", dataset={"name": dataset}, rounds=rounds)
    entries, _ = find_runs([tmp_path])
    titles = {one.title for one in compare(entries)}
    assert titles == {f"{d}, {r} rounds" for d in ("digits", "mnist") for r in (5, 10)}


def test_standings_by_hand(tmp_path: Path) -> None:
    table = {
        ("fedavg", "alie"): [0.9, 0.8],
        ("fedavg", "min-max"): [0.2, 0.4],
        ("krum", "alie"): [0.6, 0.7],
        ("krum", "min-max"): [0.5, 0.6],
    }
    for (defence, attack), accuracies in table.items():
        for seed, accuracy in enumerate(accuracies):
            finish(
                tmp_path / f"{defence}-{attack}-{seed}",
                strategy={"name": defence},
                attack={"name": attack},
                seed=seed,
                accuracy=accuracy,
                seconds=1.0 if defence == "fedavg" else 2.0,
                success=0.9 if (defence, attack) == ("fedavg", "alie") else None,
            )
    first, second = grouped(tmp_path).standings
    assert (first.defence, second.defence) == ("krum", "fedavg")
    assert first.worst_accuracy == pytest.approx(0.55)
    assert first.worst_scenario == "min-max"
    assert first.worst_run == pytest.approx(0.5)
    assert second.worst_accuracy == pytest.approx(0.3)
    assert second.accuracy == pytest.approx((0.85 + 0.3) / 2)
    assert second.worst_success == pytest.approx(0.9)
    assert first.mean_rank == second.mean_rank == 1.5
    assert first.front
    assert second.front, "it is the cheaper one"


def test_tests_pair_by_scenario_and_seed(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    gaps = []
    for seed in range(12):
        low, gap = rng.uniform(0.2, 0.4), rng.uniform(0.05, 0.2)
        gaps.append(gap)
        finish(tmp_path / f"a{seed}", strategy={"name": "fedavg"}, seed=seed, accuracy=low)
        finish(tmp_path / f"b{seed}", strategy={"name": "krum"}, seed=seed, accuracy=low + gap)
    finish(tmp_path / "unpaired", strategy={"name": "krum"}, seed=99, accuracy=0.9)
    ((first, second, test),) = grouped(tmp_path).tests
    assert (first, second) == ("fedavg", "krum")
    assert test.n == 12
    assert test.mean_difference == pytest.approx(-np.mean(gaps))
    assert test.verdict == "lower"


def test_three_seeds_of_one_attack_show_nothing(tmp_path: Path) -> None:
    for seed in range(3):
        finish(tmp_path / f"a{seed}", strategy={"name": "fedavg"}, seed=seed, accuracy=0.1)
        finish(tmp_path / f"b{seed}", strategy={"name": "krum"}, seed=seed, accuracy=0.9)
    ((_, _, test),) = grouped(tmp_path).tests
    assert test.verdict == "too few pairs to say anything"


def test_a_defence_that_skipped_a_scenario_is_marked_and_not_ranked(tmp_path: Path) -> None:
    write_grid(tmp_path, defences=["fedavg", "krum"], attacks=["alie", "min-max"], seeds=2)
    finish(tmp_path / "lucky", strategy={"name": "median"}, attack={"name": "alie"}, accuracy=0.99)
    found = grouped(tmp_path)
    assert found.complete == ["fedavg", "krum"]
    last = found.standings[-1]
    assert (last.defence, last.complete, last.mean_rank, last.front) == (
        "median",
        False,
        None,
        None,
    )


def test_unfinished_failed_and_planned_runs_are_listed(tmp_path: Path) -> None:
    finish(tmp_path / "good")
    finish(tmp_path / "cut")
    (tmp_path / "cut" / "summary.json").unlink()
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "error.json").write_text(json.dumps({"error": "it broke"}))
    runs = [{"directory": name} for name in ("good", "cut", "bad", "later")]
    (tmp_path / "campaign.json").write_text(json.dumps({"runs": runs}))
    entries, missing = find_runs([tmp_path])
    assert len(entries) == 1
    assert {(one.directory, one.why) for one in missing} == {
        ("cut", "unfinished: 3 rounds recorded"),
        ("bad", "failed: it broke"),
        ("later", "not started"),
    }


def test_one_run_named_twice_counts_once(tmp_path: Path) -> None:
    finish(tmp_path / "a")
    entries, _ = find_runs([tmp_path, tmp_path / "a", tmp_path / "." / "a"])
    assert len(entries) == 1


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"final": {"accuracy": "x"}}', "{}"])
def test_a_damaged_run_is_listed(tmp_path: Path, content: str) -> None:
    finish(tmp_path / "good")
    finish(tmp_path / "damaged")
    (tmp_path / "damaged" / "summary.json").write_text(content)
    if content.startswith('{"final"'):
        (tmp_path / "damaged" / "rounds.jsonl").unlink()
    entries, missing = find_runs([tmp_path])
    assert [entry.run.path.name for entry in entries] == ["good"]
    assert [one.directory for one in missing] == ["damaged"]


def test_nothing_to_compare_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", str(tmp_path)]) == 2
    assert main(["compare", str(tmp_path / "nowhere")]) == 2
    assert main(["compare"]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 3
    assert "a run directory or a campaign's folder" in lines[0]
    finish(tmp_path / "cut")
    (tmp_path / "cut" / "summary.json").unlink()
    with pytest.raises(ConfigurationError, match="cut: unfinished"):
        find_runs([tmp_path])


def test_spread_of_one_value_has_no_deviation() -> None:
    assert Spread.of([None]) is None
    assert Spread.of([0.5, None]) == Spread(1, 0.5, None, 0.5, 0.5)


def test_command_writes_table_csv_json_and_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = tmp_path / "runs"
    write_grid(runs, defences=["fedavg", "krum", "median"], attacks=["alie", "badnets"], seeds=2)
    page, table = tmp_path / "new" / "page.html", tmp_path / "new" / "table.csv"
    words = ["compare", str(runs), "--out", str(page), "--csv", str(table), "--json"]
    assert main(words) == 0
    out, err = capsys.readouterr()
    found = json.loads(out)["comparisons"][0]
    assert len(found["runs"]) == 12
    assert found["ranking"]["blocks"] == 4
    for text in ("fedavg", "krum", "median", "Kendall's W"):
        assert text in err
    rows = list(csv.DictReader(table.open()))
    assert len(rows) == 6
    accuracies = [
        run["accuracy"]
        for run in found["runs"]
        if (run["defence"], run["scenario"]) == ("krum", "alie")
    ]
    (row,) = [r for r in rows if (r["defence"], r["scenario"]) == ("krum", "alie")]
    assert float(row["accuracy_mean"]) == pytest.approx(np.mean(accuracies))
    assert float(row["accuracy_std"]) == pytest.approx(np.std(accuracies, ddof=1))
    assert page.stat().st_size > 100_000


def test_terminal_table_fits_a_screen(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    names = ["geminiguard", "fedavg", "krum", "median", "trimmed-mean", "[bold]x"]
    write_grid(tmp_path, defences=names, attacks=["a-rather-long-attack-name", "alie"], seeds=2)
    assert main(["compare", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert len(lines) <= 40
    assert any("geminiguard" in line for line in lines)
    assert any("[bold]x" in line for line in lines)


def test_reading_runs_needs_no_torch(tmp_path: Path) -> None:
    finish(tmp_path / "a")
    code = (
        "import sys; from fedguard.simulate import main\n"
        f"assert main(['compare', {str(tmp_path)!r}]) == 0\n"
        "sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()


def test_a_config_that_is_no_mapping_is_listed(tmp_path: Path) -> None:
    finish(tmp_path / "good")
    finish(tmp_path / "odd")
    (tmp_path / "odd" / "config.yaml").write_text(yaml.safe_dump([1, 2]))
    _, missing = find_runs([tmp_path])
    assert [(one.directory, one.why) for one in missing] == [
        ("odd", "its config.yaml cannot be read")
    ]
