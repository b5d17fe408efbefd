"""What fits what: checks that parts of several kinds share, made from traits."""

from __future__ import annotations

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
