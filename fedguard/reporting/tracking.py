"""Experiment tracking by what people already use: TensorBoard, MLflow, Weights & Biases.

Off by default; ``--track tensorboard`` switches one on. What is tracked is what the run directory
holds anyway, so tracking is no part of a run's identity and changes no result. Each tracker is an
optional extra of the package: ``pip install 'fedguard[tensorboard]'``.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from fedguard.config import SimulationConfig
from fedguard.errors import ConfigurationError, unknown_name
from fedguard.records.reader import number
from fedguard.records.writer import write_atomically

PACKAGES = {"tensorboard": "tensorboard", "mlflow": "mlflow", "wandb": "wandb"}
"""Name of a tracker and the module that it needs."""


class Tracker(Protocol):
    """Where a run's course is sent."""

    def log(self, server_round: int, metrics: Mapping[str, float]) -> None:
        """Take one round's metrics."""

    def close(self, completed: bool) -> None:
        """End the run there."""


def check_trackers(names: Iterable[str]) -> tuple[str, ...]:
    """Return the names of trackers, each once; ``a,b`` counts as two.

    Raises
    ------
    ConfigurationError
        If there is no such tracker, or its package is not installed.
    """
    wanted = [part.strip() for name in names for part in name.split(",") if part.strip()]
    for name in wanted:
        if name not in PACKAGES:
            raise unknown_name("--track", name, PACKAGES)
        if importlib.util.find_spec(PACKAGES[name]) is None:
            raise ConfigurationError(
                "--track", name, f"an installed package; pip install 'fedguard[{name}]'"
            )
    return tuple(dict.fromkeys(wanted))


class Tracking:
    """The trackers of one run, as a context: an error ends the run there as failed.

    Parameters
    ----------
    names : sequence of str
        Trackers; none is the default everywhere.
    config : SimulationConfig
        The run.
    directory : Path
        Run directory; keeps the ids under which a resumed run goes on.
    """

    def __init__(self, names: Sequence[str], config: SimulationConfig, directory: Path) -> None:
        self._names, self._config, self._directory = check_trackers(names), config, directory
        self._trackers: list[Tracker] = []
        self._completed = False

    def __enter__(self) -> Tracking:
        """Open every tracker."""
        makers: dict[str, Callable[[SimulationConfig, Path], Tracker]] = {
            "tensorboard": _TensorBoard,
            "mlflow": _MLflow,
            "wandb": _WandB,
        }
        if self._names:
            self._directory.mkdir(parents=True, exist_ok=True)
        for name in self._names:
            self._trackers.append(makers[name](self._config, self._directory))
        return self

    def on_round(self, record: Mapping[str, Any]) -> None:
        """Send the numbers of a round's line of ``rounds.jsonl``, whatever the task's headline."""
        values = {name: number(value) for name, value in record.items() if name != "round"}
        known = {name: value for name, value in values.items() if value is not None}
        for tracker in self._trackers:
            tracker.log(int(record["round"]), known)

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Take note that the run has ended well."""
        self._completed = True

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close every tracker."""
        for tracker in self._trackers:
            tracker.close(self._completed)


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested settings under dotted names."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat.update(_flat(value, f"{prefix}{name}."))
        else:
            flat[prefix + name] = value
    return flat


def _title(config: SimulationConfig) -> str:
    return f"{config.strategy.name}-{config.attack.name}-s{config.seed}-{config.digest()[:8]}"


class _TensorBoard:
    """Event files in the run directory's ``tensorboard/``; one colour per run in the viewer."""

    def __init__(self, config: SimulationConfig, directory: Path) -> None:
        module = importlib.import_module("torch.utils.tensorboard")
        self._writer: Any = module.SummaryWriter(str(directory / "tensorboard"))
        settings = json.dumps(config.resolved(), indent=2)
        self._writer.add_text("config", f"```\n{settings}\n```", 0)

    def log(self, server_round: int, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, server_round)
        self._writer.flush()

    def close(self, completed: bool) -> None:
        self._writer.close()


class _MLflow:
    """A run of the experiment ``fedguard`` at MLFLOW_TRACKING_URI, or in MLflow's own default."""

    def __init__(self, config: SimulationConfig, directory: Path) -> None:
        self._client: Any = importlib.import_module("mlflow.tracking").MlflowClient()
        known = self._client.get_experiment_by_name("fedguard")
        experiment = (
            self._client.create_experiment("fedguard") if known is None else known.experiment_id
        )
        self._id = _remembered(directory, "mlflow")
        if self._id is None:
            run = self._client.create_run(experiment, run_name=_title(config))
            self._id = str(run.info.run_id)
            _remember(directory, "mlflow", self._id)
            for name, value in _flat(config.resolved()).items():
                self._client.log_param(self._id, name, value)
        else:
            self._client.update_run(self._id, status="RUNNING")

    def log(self, server_round: int, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            self._client.log_metric(self._id, name, value, step=server_round)

    def close(self, completed: bool) -> None:
        self._client.set_terminated(self._id, "FINISHED" if completed else "FAILED")


class _WandB:
    """A run of the project ``fedguard``; WANDB_MODE=offline keeps it in the run directory."""

    def __init__(self, config: SimulationConfig, directory: Path) -> None:
        name = _title(config)
        self._run: Any = importlib.import_module("wandb").init(
            project="fedguard",
            name=name,
            id=name,
            resume="allow",
            dir=str(directory),
            config=_flat(config.resolved()),
            reinit="create_new",
        )

    def log(self, server_round: int, metrics: Mapping[str, float]) -> None:
        self._run.log(dict(metrics), step=server_round)

    def close(self, completed: bool) -> None:
        self._run.finish(exit_code=0 if completed else 1)


_IDS = "tracking.json"


def _remembered(directory: Path, tracker: str) -> str | None:
    try:
        return str(json.loads((directory / _IDS).read_text(encoding="utf-8"))[tracker])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _remember(directory: Path, tracker: str, run_id: str) -> None:
    try:
        ids = json.loads((directory / _IDS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        ids = {}
    write_atomically(directory / _IDS, json.dumps({**ids, tracker: run_id}).encode())
