"""Which other side a strategy wants on its clients: one place that simulator and apps ask."""

from __future__ import annotations

from flwr.clientapp.typing import Mod
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from fedguard.encryption.errors import BackendUnavailableError
from fedguard.encryption.lattice.backend import make_backend
from fedguard.encryption.strategy import EncryptedStrategy
from fedguard.errors import ConfigurationError


def with_client_side(strategy: Strategy, grid: Grid) -> Grid:
    """Return a grid whose clients encrypt as the strategy wants, in this process.

    The clients' side goes around everything else, the coalition included: a client lies before it
    encrypts. A strategy that is not encrypted gets the grid as it is.

    Raises
    ------
    ConfigurationError
        If the clients' backend cannot be used here.
    """
    from fedguard.encryption.secagg import SecAggPlus

    if isinstance(strategy, SecAggPlus):
        from fedguard.encryption.secagg_clients import SecAggClients

        return SecAggClients(grid)
    if isinstance(strategy, EncryptedStrategy) and strategy.client_options is not None:
        from fedguard.encryption.local_clients import LocalClients

        options = strategy.client_options
        try:
            make_backend(options.backend, options.source("backend"))
        except BackendUnavailableError as error:
            raise ConfigurationError("backend", options.backend, f"numpy here: {error}") from error
        return LocalClients(grid, options)
    return grid


def client_mods(strategy: Strategy) -> list[Mod]:
    """Return the mods that a ClientApp of the strategy needs, none where it is not encrypted."""
    from fedguard.encryption.secagg import SecAggPlus

    if isinstance(strategy, SecAggPlus):
        from fedguard.encryption.secagg_clients import secagg_mods

        return secagg_mods()
    if isinstance(strategy, EncryptedStrategy) and strategy.client_options is not None:
        from fedguard.encryption.mod import encryption_mod

        return [encryption_mod(strategy.client_options)]
    return []
