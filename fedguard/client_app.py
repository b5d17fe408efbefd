"""Finds a Flower ClientApp of the user's own, ``package.module:app``."""

from __future__ import annotations

import importlib
import sys
from functools import cache
from pathlib import Path

from flwr.clientapp import ClientApp

from fedguard.errors import ConfigurationError


@cache
def find_client_app(path: str) -> ClientApp:
    """Return the ClientApp that a path names; modules in the current folder are found too.

    Raises
    ------
    ConfigurationError
        If there is none under that path.
    """
    module_name, colon, attribute = path.partition(":")
    allowed = "package.module:app, a Flower ClientApp"
    if not (module_name and colon and attribute):
        raise ConfigurationError("client_app", path, allowed)
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    try:
        found = importlib.import_module(module_name)
        for part in attribute.split("."):
            found = getattr(found, part)
    except Exception as error:  # importing a stranger's module can fail in any way
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ConfigurationError("client_app", path, f"{allowed} ({reason})") from error
    if not isinstance(found, ClientApp):
        raise ConfigurationError("client_app", path, f"{allowed}; this is {type(found).__name__}")
    return found
