from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "engine.py"


def test_the_engines_benchmark_runs():
    works = ["noop", "logistic", "mlp", "cnn", "memory"]
    command = [sys.executable, str(SCRIPT), "--quick", "--no-flower", "--repeats", "1", "--only"]
    done = subprocess.run([*command, *works], capture_output=True, text=True, check=True)
    for name in ("no-op", "logistic", "mlp", "cnn", "memory"):
        assert re.search(f"^{name}:", done.stdout, re.MULTILINE), done.stdout
    assert "executor dense" in done.stdout
    assert "GFLOP/s" in done.stdout
