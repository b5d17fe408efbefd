"""A Flower app as ``flwr new`` makes it: where its parts lie, how it is configured."""

from __future__ import annotations

import hashlib
import importlib
import os
import shutil
import sys
import tomllib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp

from fedguard.errors import ConfigurationError, check_choice, check_number, nearest

DEFAULT_CLIENTS = 10
"""Clients of an app that says nothing about their number."""

INPROCESS, FLOWER = "inprocess", "flower"
"""Engines: clients one after another in one process, or in Flower's own simulation."""

_NUMBER = "num-supernodes"
_CODE = (".py", ".toml", ".yaml", ".yml", ".json")
_AUDITED = "project.json"
_LARGE = 16 * 2**20
"""Bytes above which a file beside the app is linked rather than copied."""


@dataclass(frozen=True)
class Project:
    """A Flower app.

    Attributes
    ----------
    folder : str
        Where its ``pyproject.toml`` lies.
    server, client : str
        ``package.module:app`` of its ServerApp and ClientApp.
    config : dict
        Its run configuration.
    clients : int
        Number of clients K.
    name : str
        The project's name.
    data, evaluate : str or None
        ``package.module:function`` that loads a client's data, and that evaluates arrays.
    engine : str
        ``"inprocess"`` or ``"flower"``.
    """

    folder: str
    server: str
    client: str
    config: dict[str, Any] = field(default_factory=dict)
    clients: int = DEFAULT_CLIENTS
    name: str = "app"
    data: str | None = None
    evaluate: str | None = None
    engine: str = INPROCESS

    @classmethod
    def read(
        cls,
        path: Path,
        *,
        clients: int | None = None,
        settings: Sequence[str] = (),
        data: str | None = None,
        evaluate: str | None = None,
        engine: str = INPROCESS,
    ) -> Project:
        """Read an app's ``pyproject.toml``.

        Raises
        ------
        ConfigurationError
            If there is no Flower app in the folder, or a setting is not one of its own.
        """
        check_choice("engine", engine, (INPROCESS, FLOWER))
        if clients is not None:
            check_number("clients", clients, at_least=2)
        if engine == FLOWER and data is not None:
            allowed = "the engine inprocess: in Flower's simulation data are out of reach"
            raise ConfigurationError("data", data, allowed)
        folder = path.parent if path.name == "pyproject.toml" else path
        found = _toml(folder / "pyproject.toml")
        app = _at(found, "tool", "flwr", "app")
        parts = _at(app, "components")
        if not isinstance(parts.get("serverapp"), str) or not isinstance(
            parts.get("clientapp"), str
        ):
            allowed = "a Flower app: its pyproject.toml names serverapp and clientapp in "
            raise ConfigurationError("PATH", str(path), allowed + "[tool.flwr.app.components]")
        config = _flat(_at(app, "config"))
        for setting in settings:
            name, equals, value = setting.partition("=")
            if not equals or name not in config:
                allowed = f"{nearest(name, config)}KEY=VALUE, KEY one of {', '.join(config) or '-'}"
                raise ConfigurationError("set", setting, allowed)
            config[name] = _like(name, config[name], value)
        wanted = clients or _supernodes(_at(found, "tool", "flwr")) or DEFAULT_CLIENTS
        if wanted < 2:
            raise ConfigurationError("clients", wanted, "a number >= 2")
        return cls(
            folder=str(folder.resolve()),
            server=str(parts["serverapp"]),
            client=str(parts["clientapp"]),
            config=config,
            clients=wanted,
            name=str(_at(found, "project").get("name", folder.resolve().name)),
            data=data,
            evaluate=evaluate,
            engine=engine,
        )

    def plain(self) -> dict[str, Any]:
        """Return everything as JSON holds it."""
        return asdict(self)

    def enter(self, scratch: Path) -> None:
        """Make the app importable, from a folder of its own where what it writes does no harm.

        What lies beside the app is copied there; folders and large files are linked.
        """
        scratch.mkdir(parents=True, exist_ok=True)
        for item in Path(self.folder).iterdir():
            place = scratch / item.name
            if place.exists() or item.name.startswith("."):
                continue
            if item.is_file() and item.stat().st_size <= _LARGE:
                shutil.copy2(item, place)
            else:
                place.symlink_to(item)
        os.chdir(scratch)
        sys.path.insert(0, self.folder)

    def load(self) -> tuple[ServerApp, ClientApp]:
        """Import and return the two apps.

        Raises
        ------
        ConfigurationError
            If one of them cannot be imported or is something else.
        """
        server = _find("serverapp", self.server)
        if not isinstance(server, ServerApp):
            told = f"a ServerApp, not {type(server).__name__}"
            raise ConfigurationError("serverapp", self.server, told)
        return server, self.load_client()

    def load_client(self) -> ClientApp:
        """Import and return the ClientApp alone; see `load`."""
        client = _find("clientapp", self.client)
        if not isinstance(client, ClientApp):
            told = f"a ClientApp, not {type(client).__name__}"
            raise ConfigurationError("clientapp", self.client, told)
        return client

    def fingerprint(self) -> str:
        """Return a digest of the app's own code and configuration, wherever they lie in it."""
        digest = hashlib.sha256()
        root = Path(self.folder)
        for place, folders, files in os.walk(root):
            inside = Path(place)
            folders[:] = sorted(
                name
                for name in folders
                if not name.startswith((".", "__pycache__"))
                and not (inside / name / "pyvenv.cfg").exists()
                and not (inside / name / _AUDITED).exists()
            )
            for name in sorted(files):
                if name.endswith(_CODE):
                    digest.update(str((inside / name).relative_to(root)).encode())
                    digest.update((inside / name).read_bytes())
        return digest.hexdigest()


def _like(name: str, known: Any, text: str) -> Any:
    """Return a setting's value, of the kind that the app's own value has."""
    kind = type(known)
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        value = text
    if kind is float and isinstance(value, str):
        with suppress(ValueError):  # YAML reads 1e-3 as text
            value = float(value)
    if kind is float and type(value) is int:
        value = float(value)
    if kind is str:
        value = text
    if type(value) is not kind:
        words = {bool: "true or false", int: "a whole number", float: "a number"}
        raise ConfigurationError(f"set {name}", text, words.get(kind, kind.__name__))
    return value


def _toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigurationError("PATH", str(path.parent), "a folder with pyproject.toml") from None
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ConfigurationError("PATH", str(path), f"a TOML file ({reason})") from error


def _at(found: Mapping[str, Any], *names: str) -> dict[str, Any]:
    for name in names:
        inner = found.get(name)
        found = inner if isinstance(inner, dict) else {}
    return dict(found)


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a run configuration as Flower hands it over: nested names joined by dots."""
    found: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, Mapping):
            found.update(_flat(value, f"{prefix}{name}."))
        elif isinstance(value, bool | int | float | str):
            found[f"{prefix}{name}"] = value
        else:
            allowed = "text, a number, true or false, as Flower takes them"
            raise ConfigurationError(f"config {prefix}{name}", value, allowed)
    return found


def _supernodes(found: Any) -> int | None:
    """Return the first number of supernodes that a project names, wherever it does."""
    if not isinstance(found, Mapping):
        return None
    value = found.get(_NUMBER)
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    numbers = (_supernodes(inner) for inner in found.values())
    return next((number for number in numbers if number), None)


def _find(name: str, path: str) -> Any:
    module, _, attribute = path.partition(":")
    try:
        found: Any = importlib.import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
    except (Exception, SystemExit) as error:  # importing a stranger's module can fail in any way
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise ConfigurationError(
            name, path, f"package.module:app that imports ({reason})"
        ) from error
    return found


def function_of(name: str, path: str) -> Any:
    """Return a function of the user's, by ``package.module:function``."""
    if ":" not in path:
        raise ConfigurationError(name, path, "package.module:function")
    found = _find(name, path)
    if not callable(found):
        raise ConfigurationError(name, path, f"a function, not {type(found).__name__}")
    return found
