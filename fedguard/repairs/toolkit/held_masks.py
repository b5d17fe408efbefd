"""`PruningRepair`: a repair that shuts channels, and keeps them shut while attackers stay."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fedguard.errors import ConfigurationError
from fedguard.models.channels import Unit, channel_units, shut
from fedguard.repairs.base import Repair
from fedguard.strategies.toolkit.server_tools import ServerTools


class PruningRepair(Repair):
    """What repairs by channels share: finding them, shutting them, keeping them shut.

    Channels that were shut in one repair stay shut in all rounds after it, `mend` or not.
    """

    shift: bool = True
    """Whether a shut channel loses its shift and bias too."""

    def __init__(self) -> None:
        self.kept: dict[str, Tensor] = {}

    def open(self, tools: ServerTools) -> None:
        """Refuse a model without channels; see `Repair.open`."""
        if not self.units(tools):
            name = type(tools.model).__name__
            raise ConfigurationError(
                "repair", type(self).__name__, f"finetune or super-finetune; {name} has no channels"
            )

    def units(self, tools: ServerTools) -> list[Unit]:
        """Return the model's layers with channels, in the order in which they run."""
        return channel_units(tools.model, tools.x[:2], shift=self.shift)

    def keep_only(self, units: Sequence[Unit], gone: Mapping[str, Tensor]) -> None:
        """Note channels that are shut from now on, (size,) bool by layer."""
        for unit in units:
            open_now = self.kept.get(unit.layer, torch.ones(unit.size, dtype=torch.bool))
            self.kept[unit.layer] = open_now & ~gone[unit.layer].cpu()

    def hold(self, tools: ServerTools) -> bool:
        """Shut again what was shut; see `Repair.hold`."""
        if not self.kept:
            return False
        return self.keep_shut(tools) > 0

    def keep_shut(self, tools: ServerTools, units: Sequence[Unit] | None = None) -> int:
        """Shut again what was shut, and return how many channels that are."""
        found = self.units(tools) if units is None else units
        return shut(tools.model, [unit for unit in found if unit.layer in self.kept], self.kept)

    def picture(self, units: Sequence[Unit]) -> dict[str, list[Any]]:
        """Return what the report draws: channels of each layer, and which of them are shut."""
        shut_now = [
            (~self.kept[unit.layer]).nonzero().flatten().tolist() if unit.layer in self.kept else []
            for unit in units
        ]
        return {"layer_sizes": [unit.size for unit in units], "shut_channels": shut_now}

    def state(self) -> dict[str, Tensor]:
        """Return which channels are open, (size,) uint8 by layer."""
        return {layer: kept.to(torch.uint8) for layer, kept in self.kept.items()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take back which channels are open."""
        self.kept = {layer: kept.bool() for layer, kept in state.items()}
