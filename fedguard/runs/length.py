"""What depends on how many rounds a run has, and so forbids an early end or more of them."""

from __future__ import annotations

from collections.abc import Mapping

from fedguard.audits.base import Audit
from fedguard.clients.training import ClientTrainer
from fedguard.config import SimulationConfig
from fedguard.config.repair_times import RepairTimes
from fedguard.errors import ConfigurationError
from fedguard.repairs.base import Repair


def bound_to(
    config: SimulationConfig,
    trainer: ClientTrainer,
    repair: Repair | None,
    planned: int,
    done: int,
) -> str:
    """Return why rounds that are done would be others in a run of `config.rounds`.

    A schedule of the learning rate is asked for what it did in each round, under the old and the
    new number; a repair, whether its turn was the same.

    Parameters
    ----------
    config : SimulationConfig
        The run as it is to go on.
    trainer : ClientTrainer
        Its training rule and hyper-parameters.
    repair : Repair or None
        What mends its model.
    planned : int
        How many rounds there were to be.
    done : int
        How many of them are done.

    Returns
    -------
    str
        The reason in a few words, empty if there is none.
    """
    numbers = range(1, done + 1)
    if config.client_app is None:
        rule, settings, rounds = trainer.rule, trainer.settings, config.rounds
        changed = any(
            rule.settings_for(settings, {}, number, planned)
            != rule.settings_for(settings, {}, number, rounds)
            for number in numbers
        )
        if rule.spans or changed:
            return f"training {config.training.name} has a schedule that ends with the last round"
    if repair is not None:
        times = RepairTimes(config.repair_at)
        if any(times.due(n, planned) != times.due(n, config.rounds) for n in numbers):
            return f"its model was repaired in round {planned}, as the last one"
    return ""


def check_audits(config: SimulationConfig, audits: Mapping[str, Audit]) -> None:
    """Refuse an early end with an audit that looks at the last round alone.

    Raises
    ------
    ConfigurationError
        On ``patience``.
    """
    for name, audit in audits.items():
        if config.patience is not None and type(audit).due is Audit.due:
            allowed = f"nothing with audit {name}, which looks at the last round alone"
            raise ConfigurationError("patience", config.patience, allowed)
