"""`Tending`: the repairs and audits of a run, when they are due and what they leave behind."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from fedguard.audits.base import Audit, Scene
from fedguard.config import SimulationConfig
from fedguard.config.repair_times import RepairTimes
from fedguard.errors import ConfigurationError
from fedguard.randomness import SERVER, generator
from fedguard.records import writer as files
from fedguard.records.writer import Recorder
from fedguard.repairs.base import Repair
from fedguard.training.attention import attention_maps
from fedguard.traits import traits_of

PICTURES, MAP_SIDE = 4, 32
"""Pictures of the server whose attention is written down, and its largest side."""


class Tending:
    """Looks at every round's model and mends it when it is due.

    1. After aggregation the repair, if it is due, changes the model (``repairs.jsonl``); in other
       rounds it keeps up what it did before.
    2. After evaluation the audits look at the model (``audits.jsonl``).

    Where alarms decide (``repair_at: alarm``), audits look before the repair as well.

    Parameters
    ----------
    config : SimulationConfig
        The run.
    repair : Repair or None
        What mends.
    audits : dict of str to Audit
        What looks, by name.
    scene : Scene
        The run as audits see it.
    recorder : Recorder
        Writes the files.
    """

    def __init__(
        self,
        config: SimulationConfig,
        repair: Repair | None,
        audits: Mapping[str, Audit],
        scene: Scene,
        recorder: Recorder,
    ) -> None:
        self.config, self.repair, self.audits = config, repair, dict(audits)
        self.scene, self.recorder = scene, recorder
        self.times = RepairTimes(config.repair_at)
        for audit in self.audits.values():
            audit.open(scene)
        if repair is not None and scene.tools is not None:
            repair.open(scene.tools)
        if repair is not None and repair.reads_updates:
            self._show_updates(repair)

    def _show_updates(self, repair: Repair) -> None:
        """Let a repair see every round's updates, or refuse a run that cannot show them."""
        strategy, name = self.scene.strategy, self.config.strategy.name
        observers = getattr(strategy, "observers", None)
        if observers is None or traits_of(strategy).visible != "updates":
            assert self.config.repair is not None
            allowed = f"one that needs no client's update, since {name} shows none"
            raise ConfigurationError("repair", self.config.repair.name, allowed)
        observers.append(lambda _, updates, __: repair.see(updates))

    def mend(self, current: int, vector: Tensor) -> Tensor | None:
        """Return a round's (D,) model after its repair, None where nothing was changed."""
        if self.repair is None or self.scene.tools is None:
            return None
        alarmed = self.times.alarm and self._alarmed(current, vector)
        self.scene.model.load(vector.to(self.scene.device))
        if not self.times.due(current, self.config.rounds, alarmed=alarmed):
            return self._mended() if self.repair.hold(self.scene.tools) else None
        started = time.monotonic()
        before = self._attention()
        stream = generator(self.config.seed, current, SERVER, "repair")
        figures = self.repair.mend(self.scene.tools, stream)
        mended = self._mended()
        assert self.config.repair is not None
        line = {"round": current, "repair": self.config.repair.name, **figures}
        line["seconds"] = round(time.monotonic() - started, 4)
        if before is not None:
            line.update(attention_before=before, attention_after=self._attention())
        self.recorder.append(files.REPAIRS, [line])
        return mended

    def _attention(self) -> list[Any] | None:
        """Return where the model looks on the server's first pictures; None for no pictures."""
        tools = self.scene.tools
        if tools is None or tools.x.dim() != 4 or not tools.x.is_floating_point():
            return None
        found = attention_maps(tools.model, tools.x[:PICTURES])
        if found is None or max(found.shape[1:]) > MAP_SIDE:
            return None
        return [[[round(v, 3) for v in row] for row in one] for one in found.cpu().tolist()]

    def _mended(self) -> Tensor:
        state = self.scene.model.module.state_dict()
        return self.scene.model.layout.flatten({n: value.cpu() for n, value in state.items()})

    def _alarmed(self, current: int, vector: Tensor) -> bool:
        return any(
            audit.alarm(audit.look(current, vector, self._stream(current, name)))
            for name, audit in self.audits.items()
            if audit.due(current, self.config.rounds)
        )

    def _stream(self, current: int, name: str) -> Any:
        return generator(self.config.seed, current, SERVER, f"audit {name}")

    def look(self, current: int, vector: Tensor) -> dict[str, Any]:
        """Let audits look at a round's model; return what stands in ``rounds.jsonl`` too."""
        columns: dict[str, Any] = {}
        for name, audit in self.audits.items():
            if not audit.due(current, self.config.rounds):
                continue
            figures = audit.look(current, vector, self._stream(current, name))
            if not figures:
                continue
            self.recorder.append(files.AUDITS, [{"round": current, "audit": name, **figures}])
            if audit.columns:
                columns.update(figures)
        return columns

    def finish(self) -> dict[str, Any]:
        """End the audits; return what each has for the summary, by name."""
        found = {name: dict(audit.finish()) for name, audit in self.audits.items()}
        return {name: figures for name, figures in found.items() if figures}
