"""What fits what: checks that parts of several kinds share, made from traits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedguard import registry
from fedguard.config import SimulationConfig
from fedguard.data.dataset import Dataset
from fedguard.errors import ConfigurationError
from fedguard.tasks.base import Task
from fedguard.traits import Traits


def check_task(kind: str, name: str, declared: Traits, task: Task) -> None:
    """Refuse a part that does not serve the data set's task.

    Raises
    ------
    ConfigurationError
        On the part's kind, with the tasks that it serves.
    """
    if not declared.serves(task.name):
        serves = ", ".join(sorted(declared.tasks or ()))
        raise ConfigurationError(
            kind, name, f"one that serves {task.name}; {name} serves {serves} alone"
        )


def model_arguments(config: SimulationConfig, dataset: Dataset) -> dict[str, Any]:
    """Return a model's arguments: the configured ones, and what the data set knows for the rest.

    A data set's `facts` may hold a mapping ``for_models``, such as the size of a vocabulary.
    """
    known = registry.parameters(registry.find("model", config.model.name))
    offered: Mapping[str, Any] = getattr(dataset.facts, "for_models", {})
    given = config.model.arguments
    return {**given, **{n: v for n, v in offered.items() if n in known and given.get(n) is None}}
