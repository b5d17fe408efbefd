"""Whatever a configuration says, a run ends well or with one line that says what is wrong."""

from __future__ import annotations

import io
import logging
import math
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from fedguard import registry
from fedguard.config import Faults, SimulationConfig
from fedguard.data.dataset import Dataset
from fedguard.data.digits import Digits
from fedguard.simulate import main

SECONDS_ALLOWED = 300
"""A machine may be busy; a run that never ends is what this finds."""


class TooLongError(Exception):
    """A run that did not end."""


class TinyDigits:
    """Two hundred of scikit-learn's digits, as every run here needs a data set of its own."""

    def load(self, data_dir: Path | None) -> Dataset:
        return _tiny()


@cache
def _tiny() -> Dataset:
    whole = Digits().load(None)
    return Dataset(
        name="tiny-digits",
        x_train=whole.x_train[:200],
        y_train=whole.y_train[:200],
        x_test=whole.x_test[:60],
        y_test=whole.y_test[:60],
        num_classes=10,
        class_names=whole.class_names,
        mean=whole.mean,
        std=whole.std,
    )


TINY = f"{__name__}:TinyDigits"

ODD = st.sampled_from(
    [
        None,
        True,
        "",
        "x",
        "krum",
        "builtins:dict",
        "no.such.module:Part",
        -1,
        0,
        1,
        2,
        3,
        10**30,
        -0.5,
        0.25,
        0.5,
        1.0,
        1e-300,
        1e300,
        math.nan,
        math.inf,
        -math.inf,
        [],
        [1, 2],
        [[]],
        ["a"],
        {},
        {"name": "krum"},
        {"name": None},
        {1: 2},
        "a\nb",
        "\u2028",
    ]
)
"""Values that may be right for some field and are wrong for most."""


def _arguments(kind: str, name: str) -> list[str]:
    known = registry.parameters(registry.find(kind, name))
    return sorted(key for key in known if key not in ("steps", "epochs", "iterations"))


@st.composite
def parts(draw: Any, kind: str, names: list[str]) -> Any:
    """A part by name, at times with arguments of any kind."""
    name = draw(st.sampled_from(names))
    if draw(st.integers(0, 9)) < 7:
        return name
    offered = [*_arguments(kind, name), "no_such_argument"] if ":" not in name else ["x"]
    count = draw(st.integers(1, 2))
    return {"name": name, **{draw(st.sampled_from(offered)): draw(ODD) for _ in range(count)}}


RATE = st.sampled_from([0.0, 0.1, 0.3, 0.5, 1.0])
SENSIBLE: dict[str, st.SearchStrategy[Any]] = {
    "strategy": parts("strategy", registry.names("strategy")),
    "pre": st.sampled_from([None, None, "nnm", "bucketing", "clipping", "arc"]),
    "attack": parts("attack", registry.names("attack")),
    "attack_knowledge": st.sampled_from(["partial", "full"]),
    "attack_rounds": st.sampled_from(
        ["all", {"window": [1, 2]}, {"probability": 0.5}, {"single": 1}]
    ),
    "model": parts("model", ["mlp", "mlp", "logistic", "cnn"]),
    "clients": st.integers(1, 12),
    "fraction": st.sampled_from([0.01, 0.3, 0.5, 1.0]),
    "malicious": st.sampled_from([0.0, 0.1, 0.2, 0.4, 0.9, 1.0]),
    "assumed_malicious": st.sampled_from([0.0, 0.1, 0.25, 0.4, 0.49]),
    "partition": parts("partition", registry.names("partition")),
    "server_samples": st.sampled_from([0, 1, 10, 50, 100]),
    "local_epochs": st.integers(1, 2),
    "batch_size": st.sampled_from([1, 7, 16, 10**9]),
    "lr": st.sampled_from([1e-6, 0.1, 10.0, 1000.0]),
    "momentum": st.sampled_from([0.0, 0.9]),
    "weight_decay": st.sampled_from([0.0, 0.1, 10.0]),
    "seed": st.sampled_from([0, 1, 2**63 - 1]),
    "faults": st.fixed_dictionaries(
        {}, optional=dict.fromkeys(("dropout", "straggle", "delay", "corrupt", "duplicate"), RATE)
    ),
}
"""Values that each field takes by itself; together they may still not fit."""

# A huge number of passes is no mistake, it only takes long.
_MUTABLE = sorted(set(SimulationConfig.model_fields) - {"rounds", "local_epochs", "engine"})


@st.composite
def configurations(draw: Any) -> dict[str, Any]:
    """A configuration that is valid in many cases, and odd in up to two places in others."""
    chosen = draw(st.lists(st.sampled_from(sorted(SENSIBLE)), unique=True, min_size=3, max_size=8))
    values = {"dataset": TINY, "strategy": "fedavg", "model": "logistic", "partition": "iid"}
    values |= {"clients": 6, "server_samples": 30}
    values |= {name: draw(SENSIBLE[name]) for name in chosen}
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 1, 2]))):
        place = draw(st.sampled_from([*_MUTABLE, "faults.", "no_such_field"]))
        if place == "faults.":
            field = draw(st.sampled_from([*sorted(Faults.model_fields), "no_such_field"]))
            values["faults"] = {field: draw(ODD)}
        else:
            values[place] = draw(ODD)
    return {"rounds": 1, "local_epochs": 1, **values}


@contextmanager
def _time_limit(seconds: int) -> Iterator[None]:
    def stop(number: int, frame: Any) -> None:
        raise TooLongError(f"more than {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def problem(values: dict[str, Any]) -> str | None:
    """Run a configuration through the command; return what is wrong with how it ended."""
    folder = Path(tempfile.mkdtemp(prefix="fedguard-random-"))
    err, out = io.StringIO(), io.StringIO()
    file = folder / "run.yaml"
    file.write_text(yaml.safe_dump(values), encoding="utf-8")
    try:
        with redirect_stderr(err), redirect_stdout(out), _time_limit(SECONDS_ALLOWED):
            code = main([str(file), "--out", str(folder / "run")])
        text = err.getvalue()
        if code == 0:
            rounds = (folder / "run" / "rounds.jsonl").read_text().splitlines()
            return None if len(rounds) >= 2 else f"only {len(rounds)} records"
        lines = [line for line in text.splitlines() if line.startswith("fedguard: ")]
        if code != 2:
            return f"exit {code}: {text[-300:]}"
        if len(lines) != 1 or text.split("\n") != [lines[0], ""]:
            return f"not one line: {text[-300:]!r}"
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        return f"{type(error).__name__}: {error}"
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return None


def _settings(examples: int) -> settings:
    return settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],
    )


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    logger = logging.getLogger("flwr")
    level = logger.level
    torch.manual_seed(0)
    yield
    logger.setLevel(level)


@_settings(60)
@given(configurations())
def test_a_sample_runs_or_is_refused_in_one_line(values):
    assert problem(values) is None, values


@pytest.mark.slow
@_settings(500)
@given(configurations())
def test_five_hundred_run_or_are_refused_in_one_line(values):
    assert problem(values) is None, values
