"""The table of WeiDetect in a small form: one data set, two rounds, generated flows."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from fedguard.config import load_yaml, parse
from fedguard.runs.simulation import Simulation
from simulations import weidetect_table as table
from simulations.common import ROOT, run_cell, write_page

SHARED = ROOT.parent / "shared" / "data"


@pytest.fixture
def data_dir(tmp_path):
    rng = np.random.default_rng(0)
    labels = np.array(["Benign", "DDoS attacks-LOIC-HTTP"])[np.arange(400) % 2]
    frame = pd.DataFrame(rng.normal(size=(400, 24)), columns=[f"Feature {k}" for k in range(24)])
    frame["Feature 0"] += 4.0 * (np.arange(400) % 2)
    frame["Label"] = labels
    folder = tmp_path / "cse-cic-ids2018"
    folder.mkdir()
    frame.to_csv(folder / "02-14-2018.csv", index=False)
    return tmp_path


def test_cells_run_resume_and_make_one_page(data_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(
        table,
        "STRATEGIES",
        {
            name: table.STRATEGIES[name]
            for name in ("weidetect", "fedavg", "krum", "median", "trimmed-mean")
        },
    )
    base = {**table.BASE, **table.QUICK, "rounds": 1, "clients": 6, "server_samples": 40}
    base["partition"] = "iid"
    wanted = list(table.cells(base, ["cse-cic-ids2018"], 1, 0, (0.2,), data_dir))
    assert len(wanted) == 10
    out = tmp_path / "runs"
    grouped = {}
    for cell in wanted:
        grouped.setdefault(cell.key, []).append(run_cell(cell.values, out))
        assert table.is_finished(cell, out)
    text = table.report(grouped, base)
    for word in (
        "source-class recall",
        "attackers rejected",
        "trimmed-mean",
        "| 20% | weidetect |",
    ):
        assert word in text
    write_page("WeiDetect", table.figures(grouped), text, out / "table.html")
    assert "Plotly.newPlot" in (out / "table.html").read_text()


def test_the_whole_table_has_every_cell():
    wanted = list(table.cells(table.BASE, list(table.DATASETS), 3, 1))
    assert len({cell.key for cell in wanted}) == 2 * 7 * (3 * 5 + 1)
    assert len(wanted) == 2 * 7 * (3 * 5 + 3 + 2 * 5)
    for cell in wanted[:: len(wanted) // 5]:
        parse(cell.values)


def test_the_ready_scenario_runs_and_says_the_metrics(tmp_path):
    if not (SHARED / "nsl-kdd").is_dir():
        pytest.skip("needs the files of NSL-KDD")
    values = load_yaml(ROOT / "configs" / "weidetect_nsl_kdd.yaml")
    values |= {"data_dir": str(SHARED / "nsl-kdd"), "rounds": 2, "clients": 8}
    final = Simulation(parse(values)).run(tmp_path)["final"]
    assert 0.0 <= final["macro_f1"] <= 1.0
    assert 0.0 <= final["source_to_target"] <= 1.0
    assert len(final["per_class_recall"]) == 5
