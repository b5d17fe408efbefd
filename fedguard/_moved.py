"""Old module paths: they keep working for one release, with a warning."""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import CodeType, ModuleType
from typing import Any

MOVED = {
    "fedguard.attacks.crafting": "fedguard.attacks.toolkit.crafting",
    "fedguard.attacks.poisoning": "fedguard.attacks.toolkit.poisoning",
    "fedguard.attacks.projection": "fedguard.attacks.toolkit.projection",
    "fedguard.attacks.rehearsal": "fedguard.attacks.toolkit.rehearsal",
    "fedguard.attacks.schedule": "fedguard.attacks.toolkit.schedule",
    "fedguard.campaign": "fedguard.campaigns.campaign",
    "fedguard.capacity": "fedguard.assembly.capacity",
    "fedguard.catalogue": "fedguard.commands.catalogue",
    "fedguard.cells": "fedguard.campaigns.cells",
    "fedguard.checkpoint": "fedguard.records.checkpoints",
    "fedguard.client_app": "fedguard.grids.foreign_app",
    "fedguard.clients.forgetting": "fedguard.unlearning.client",
    "fedguard.data.federation": "fedguard.clients.federation",
    "fedguard.encryption.agreement": "fedguard.encryption.protocol.agreement",
    "fedguard.encryption.backend": "fedguard.encryption.lattice.backend",
    "fedguard.encryption.backend_numpy": "fedguard.encryption.lattice.backend_numpy",
    "fedguard.encryption.backend_tenseal": "fedguard.encryption.lattice.backend_tenseal",
    "fedguard.encryption.client": "fedguard.encryption.protocol.client",
    "fedguard.encryption.driver": "fedguard.encryption.protocol.driver",
    "fedguard.encryption.endpoint": "fedguard.encryption.protocol.endpoint",
    "fedguard.encryption.identity": "fedguard.encryption.protocol.identity",
    "fedguard.encryption.modular": "fedguard.encryption.lattice.modular",
    "fedguard.encryption.multikey": "fedguard.encryption.lattice.multikey",
    "fedguard.encryption.packing": "fedguard.encryption.lattice.packing",
    "fedguard.encryption.profiles": "fedguard.encryption.lattice.profiles",
    "fedguard.encryption.records": "fedguard.encryption.protocol.records",
    "fedguard.encryption.ring": "fedguard.encryption.lattice.ring",
    "fedguard.encryption.sampling": "fedguard.encryption.lattice.sampling",
    "fedguard.encryption.seal_format": "fedguard.encryption.lattice.seal_format",
    "fedguard.encryption.server": "fedguard.encryption.protocol.server",
    "fedguard.encryption.shared_key": "fedguard.encryption.protocol.shared_key",
    "fedguard.encryption.shared_key_server": "fedguard.encryption.protocol.shared_key_server",
    "fedguard.encryption.state": "fedguard.encryption.protocol.state",
    "fedguard.encryption.tenseal_vectors": "fedguard.encryption.lattice.tenseal_vectors",
    "fedguard.encryption.threshold": "fedguard.encryption.lattice.threshold",
    "fedguard.encryption.transcript": "fedguard.encryption.protocol.transcript",
    "fedguard.encryption.weights": "fedguard.encryption.protocol.weights",
    "fedguard.encryption.wire": "fedguard.encryption.lattice.wire",
    "fedguard.execution": "fedguard.runs.execution",
    "fedguard.flower_client": "fedguard.nodes.answers",
    "fedguard.grids.client_app": "fedguard.grids.foreign_app",
    "fedguard.grids.local": "fedguard.runs.engines",
    "fedguard.grids.ray": "fedguard.nodes.ray",
    "fedguard.grids.unlearning": "fedguard.unlearning.grid",
    "fedguard.observed": "fedguard.runs.observed",
    "fedguard.reporting.recorder": "fedguard.records.writer",
    "fedguard.reporting.run_directory": "fedguard.records.reader",
    "fedguard.reporting.sweep_progress": "fedguard.campaigns.progress",
    "fedguard.run_records": "fedguard.runs.records",
    "fedguard.schema": "fedguard.config.schema",
    "fedguard.simulation": "fedguard.runs.simulation",
    "fedguard.strategies.averaging": "fedguard.strategies.toolkit.averaging",
    "fedguard.strategies.bounds": "fedguard.strategies.toolkit.bounds",
    "fedguard.strategies.ckks": "fedguard.encryption.ckks",
    "fedguard.strategies.clustering": "fedguard.strategies.toolkit.clustering",
    "fedguard.strategies.coordinates": "fedguard.strategies.toolkit.coordinates",
    "fedguard.strategies.density": "fedguard.strategies.toolkit.density",
    "fedguard.strategies.distances": "fedguard.strategies.toolkit.distances",
    "fedguard.strategies.kernels": "fedguard.strategies.toolkit.kernels",
    "fedguard.strategies.latent": "fedguard.strategies.toolkit.latent",
    "fedguard.strategies.mixture": "fedguard.strategies.toolkit.mixture",
    "fedguard.strategies.scoring": "fedguard.strategies.toolkit.scoring",
    "fedguard.strategies.secagg": "fedguard.encryption.secagg",
    "fedguard.strategies.server_training": "fedguard.strategies.toolkit.server_training",
    "fedguard.strategies.server_validation": "fedguard.strategies.toolkit.server_validation",
    "fedguard.strategies.sketch": "fedguard.strategies.toolkit.sketch",
    "fedguard.strategies.spectra": "fedguard.strategies.toolkit.spectra",
    "fedguard.strategies.trigger_search": "fedguard.strategies.toolkit.trigger_search",
    "fedguard.strategies.weibull": "fedguard.strategies.toolkit.weibull",
    "fedguard.strategies.xmkckks": "fedguard.encryption.xmkckks",
    "fedguard.strategies.xmkckks_cost_model": "fedguard.encryption.xmkckks_cost_model",
    "fedguard.unlearning.requests": "fedguard.config.requests",
    "fedguard.verifier": "fedguard.unlearning.audit",
    "fedguard.vertical.assembly": "fedguard.vertical.parts",
    "fedguard.vertical.simulation": "fedguard.vertical.world",
    "fedguard.vertical.tables": "fedguard.data.tables",
}
"""Where each module of version 0.1 lies now."""


class _Alias(Loader):
    """Loads the module that another one has become."""

    def __init__(self, new: str) -> None:
        self.new = new

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """Let Python make an empty module; `exec_module` replaces it."""
        return None

    def exec_module(self, module: ModuleType) -> None:
        """Put the new module in the old one's place."""
        _warn(module.__name__, self.new)
        sys.modules[module.__name__] = importlib.import_module(self.new)

    def get_code(self, fullname: str) -> CodeType | None:
        """Return the new module's code, for ``python -m`` with an old name."""
        _warn(fullname, self.new)
        spec = find_spec(self.new)
        loader: Any = spec.loader if spec else None
        code: CodeType | None = loader.get_code(self.new) if loader else None
        return code


def _warn(old: str, new: str) -> None:
    warnings.warn(f"{old} is now {new}; the old path ends with 0.3", FutureWarning, stacklevel=2)


class _Finder(MetaPathFinder):
    """Finds modules by the path that they had."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the spec of an old path, None for any other."""
        new = MOVED.get(fullname)
        return None if new is None else ModuleSpec(fullname, _Alias(new))


def keep_old_paths() -> None:
    """Let imports of old paths work; for `fedguard` itself to call, once."""
    sys.meta_path.append(_Finder())
