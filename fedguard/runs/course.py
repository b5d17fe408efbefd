"""`Course`: which round's model is the best so far, and whether a run has come to its end."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from fedguard.config import SimulationConfig, load_yaml
from fedguard.errors import ConfigurationError
from fedguard.records import writer as files
from fedguard.records.reader import number
from fedguard.records.writer import write_atomically
from fedguard.runs.judging import Judge

_ABOUT = "about"
"""Key of the file's metadata, under which JSON tells its round and how it was chosen."""

JUDGED = "judged"
"""Field of a round's record: the figure by which its model is judged."""


class Ended(Exception):  # noqa: N818 (nothing went wrong)
    """A run has come to its end before its last round."""


class Course:
    """The best model of a run, in ``best.safetensors``, and the end of its patience.

    The best is the first round, from round 1, whose figure no later one betters. What is best and
    when to stop follows from the records alone, so that a run that goes on decides as one that
    was never interrupted. The file is written after the round's checkpoint: where it is missing
    after a crash, the checkpoint's model is the best.

    Parameters
    ----------
    judge : Judge or None
        What judges; None: nothing is kept and nothing ends early.
    patience : int or None
        Rounds without a better model after which `stalled` is true.
    out : Path
        Run directory.
    """

    def __init__(self, judge: Judge | None, patience: int | None, out: Path) -> None:
        self.judge, self.patience = judge, patience
        self.path = out / files.BEST
        self.round: int | None = None
        self.value: float | None = None
        self.last = 0

    def add(self, record: Mapping[str, Any]) -> bool:
        """Take a round's record into account; return whether its model is the best so far."""
        current = int(record["round"])
        value = number(record.get(JUDGED))
        self.last = max(self.last, current)
        if self.judge is None or current < 1 or value is None:
            return False
        if self.value is not None and not self._better(value, self.value):
            return False
        self.round, self.value = current, value
        return True

    def _better(self, value: float, than: float) -> bool:
        assert self.judge is not None
        return value > than if self.judge.higher_is_better else value < than

    @property
    def stalled(self) -> bool:
        """Whether the patience is at its end."""
        waited = self.last - (self.round or 0)
        return self.patience is not None and self.last > 0 and waited >= self.patience

    def catch_up(self, records: Iterable[Mapping[str, Any]], tensors: Mapping[str, Tensor]) -> None:
        """Take the records of an earlier execution into account, and see that the file is right.

        Parameters
        ----------
        records : iterable of mapping
            Its rounds.
        tensors : mapping of str to Tensor
            The model after the last of them.
        """
        for record in records:
            self.add(record)
        if self.round is not None and self.round == self.last:
            self.keep(tensors)
        elif self.kept() != self.round:
            # Rounds that a damaged checkpoint took back are done again: theirs is not this model.
            self.path.unlink(missing_ok=True)

    def keep(self, tensors: Mapping[str, Tensor]) -> None:
        """Write the best model, with its round in the file's own metadata."""
        if self.judge is None:
            return
        plain = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
        about = json.dumps({"round": self.round, **self.judge.told}, sort_keys=True)
        # One entry alone: the library writes several in an order that changes.
        write_atomically(self.path, save(plain, metadata={_ABOUT: about}))

    def kept(self) -> int | None:
        """Return the round whose model the file holds, None where there is none."""
        try:
            with safe_open(self.path, framework="pt") as content:
                return int(json.loads((content.metadata() or {})[_ABOUT])["round"])
        except (OSError, SafetensorError, KeyError, ValueError, TypeError):
            return None

    def summary(
        self, rounds: Iterable[Mapping[str, Any]], headline: str, of: int
    ) -> dict[str, Any]:
        """Return what the summary says: which round is the best, and whether it ended early.

        Parameters
        ----------
        rounds : iterable of mapping
            Records of the rounds; the best one's figures on the test set are among them.
        headline : str
            The task's headline.
        of : int
            Rounds that were planned.
        """
        found: dict[str, Any] = {}
        if self.judge is not None and self.round is not None and self.kept() == self.round:
            record = next(r for r in rounds if r["round"] == self.round)
            names = [
                n for n in (headline, "attack_success_rate", "source_to_target") if n in record
            ]
            found["best_model"] = {
                "file": files.BEST,
                "round": self.round,
                **self.judge.told,
                "judged": self.value,
                **{name: record[name] for name in names if record.get(name) is not None},
            }
        if self.last < of:
            found["stopped"] = {"round": self.last, "of": of, "patience": self.patience}
        return found


def check_length(world: Any, out: Path, done: int) -> None:
    """Refuse to go on with a run whose rounds so far would have been others in a longer one.

    Parameters
    ----------
    world : World
        The run as it is to go on; `rounds` of its configuration is the new number.
    out : Path
        Its directory, whose ``config.yaml`` says how many rounds were planned before.
    done : int
        Rounds that are done.

    Raises
    ------
    ConfigurationError
        On ``rounds``.
    """
    config: SimulationConfig = world.config
    planned = load_yaml(out / files.CONFIG).get("rounds", config.rounds)
    if config.rounds < done:
        allowed = f"at least {done}, the rounds that the run in {out} has done"
        raise ConfigurationError("rounds", config.rounds, allowed)
    if planned == config.rounds:
        return
    reason = world.bound_to(int(planned), done)
    if reason:
        allowed = f"{planned}, as in the run that {out} holds: {reason}"
        raise ConfigurationError("rounds", config.rounds, allowed)
