from __future__ import annotations

import re
import runpy
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_the_demo_shows_averaging_fall_and_geminiguard_stand(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(ROOT / "simulations" / "demo.py"), run_name="__main__")
    out = capsys.readouterr().out
    accuracy = {
        name: float(re.search(rf"{name}\D*?(\d+\.\d)\s*%", line).group(1))
        for line in out.splitlines()
        for name in ("fedavg", "geminiguard")
        if name in line and "%" in line
    }
    assert accuracy["geminiguard"] > 90.0
    assert accuracy["fedavg"] < 50.0
    reports = list(tmp_path.glob("runs/demo-*/*/report.html"))
    assert len(reports) == 3
    for path in reports:
        assert path.stat().st_size > 100_000
