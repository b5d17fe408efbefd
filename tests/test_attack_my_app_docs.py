"""docs/attack_my_app.md: the app that it shows runs as it stands, falls, and is saved."""

from __future__ import annotations

import json
import re
import shlex
import sys
from pathlib import Path

import pytest

from fedguard import simulate

PAGE = Path(__file__).resolve().parents[1] / "docs" / "attack_my_app.md"
CODE, COMMANDS = re.search(
    r"Write `quickstart\.py`.*?```python\n(.*?)```\s+```bash\n(.*?)```",
    PAGE.read_text(encoding="utf-8"),
    re.DOTALL,
).groups()


@pytest.fixture
def _app(tmp_path, monkeypatch):
    (tmp_path / "quickstart.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    sys.modules.pop("quickstart", None)


@pytest.mark.usefixtures("_app")
def test_the_shown_app_falls_under_averaging_and_is_saved_by_multi_krum(tmp_path):
    reached = []
    for number, command in enumerate(COMMANDS.strip().splitlines()):
        out = tmp_path / str(number)
        assert simulate.main([*shlex.split(command)[3:], "--out", str(out)]) == 0
        summary = json.loads((out / "summary.json").read_text())
        reached.append(summary["final"]["accuracy"])
    assert reached[1] > reached[0] + 0.2
    assert reached[1] > 0.6
