from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def told() -> dict[str, float]:
    """Return the accuracies of the README's table, in percent, by row."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    table = text.split("<!-- begin demo -->")[1].split("<!-- end demo -->")[0]
    rows = re.findall(r"^\| (.+?) \| \**(\d+\.\d) %", table, re.MULTILINE)
    return {name.replace("`", ""): float(accuracy) for name, accuracy in rows}


def test_the_picture_ends_where_the_table_does():
    picture = (ROOT / "docs" / "demo.svg").read_text(encoding="utf-8")
    lines = re.findall(r'points="[^"]*,([\d.]+)" .*?fill="[^"]*">([^<]+)</text>', picture)
    # The picture's height stands for 0 to 100 %; see simulations/demo_picture.py.
    ends = {name: 100.0 * (1.0 - (float(y) - 16.0) / 248.0) for y, name in lines}
    ends["plain averaging, no attack"] = ends.pop("no attack")
    assert ends == pytest.approx(told(), abs=0.1)


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
    assert accuracy["geminiguard"] == pytest.approx(told()["geminiguard, attacked"], abs=2.0)
    assert accuracy["geminiguard"] > 90.0
    assert accuracy["fedavg"] < 50.0
    reports = list(tmp_path.glob("runs/demo-*/*/report.html"))
    assert len(reports) == 3
    for path in reports:
        assert path.stat().st_size > 100_000
