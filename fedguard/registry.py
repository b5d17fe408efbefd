"""Names to parts: our own, third parties' entry points, and ``package.module:Class``.

A part is a plain class whose constructor arguments are its configuration. A new part is one new
file plus one line in `part_names`; a third party's part is one entry point in its own package.
"""

from __future__ import annotations

import importlib
import inspect
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from fedguard import late_imports
from fedguard.errors import ConfigurationError, nearest, unknown_name
from fedguard.part_names import OWN, VERTICAL
from fedguard.traits import traits_of

KINDS = (
    "strategy",
    "attack",
    "dataset",
    "model",
    "partition",
    "training",
    "pre",
    "repair",
    "audit",
    "enrolment",
    "task",
)

_GROUPS = {
    "strategy": "fedguard.strategies",
    "attack": "fedguard.attacks",
    "dataset": "fedguard.datasets",
    "model": "fedguard.models",
    "partition": "fedguard.partitions",
    "training": "fedguard.training",
    "pre": "fedguard.pre",
    "repair": "fedguard.repairs",
    "audit": "fedguard.audits",
    "enrolment": "fedguard.enrolment",
    "task": "fedguard.tasks",
}


@dataclass(frozen=True)
class Parameter:
    """One constructor argument of a part.

    Attributes
    ----------
    name : str
        The argument's name.
    annotation : Any
        Its type, resolved; `Any` where the part declares none.
    default : Any
        Its default, or `inspect.Parameter.empty` if the part demands a value.
    """

    name: str
    annotation: Any
    default: Any

    @property
    def required(self) -> bool:
        """Whether the part cannot be made without it."""
        return self.default is inspect.Parameter.empty


def _check_kind(kind: str) -> None:
    if kind not in KINDS:
        raise unknown_name("kind", kind, KINDS)


@cache
def _plugins(kind: str) -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=_GROUPS[kind])}


def own_parts(kind: str) -> dict[str, str]:
    """Return fedguard's own names of `kind`, each with its ``package.module:Class``."""
    _check_kind(kind)
    return dict(OWN[kind])


def names(kind: str, room: Literal["horizontal", "vertical"] = "horizontal") -> list[str]:
    """Return every name of `kind`, sorted: own and third-party, or those of vertical learning.

    Raises
    ------
    ConfigurationError
        If `kind` is none of `KINDS`.
    """
    _check_kind(kind)
    if room == "vertical":
        return sorted(VERTICAL.get(kind, {}))
    return sorted({*OWN[kind], *_plugins(kind)})


def _import(kind: str, path: str) -> Any:
    module_name, _, attribute = path.partition(":")
    allowed = f"an importable package.module:Class, or one of {', '.join(names(kind))}"
    try:
        found: Any = importlib.import_module(module_name)
        for part in attribute.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise ConfigurationError(kind, path, f"{allowed} ({error})") from error
    return found


def find(kind: str, name: str) -> Callable[..., Any]:
    """Return the class (or other callable) of a part.

    Parameters
    ----------
    kind : str
        One of `KINDS`.
    name : str
        A registered name, an entry point's name, or ``package.module:Class``.

    Raises
    ------
    ConfigurationError
        If there is no such part; names the nearest one.
    """
    _check_kind(kind)
    if name in OWN[kind]:
        found = _import(kind, OWN[kind][name])
    elif name in VERTICAL.get(kind, {}):
        found = _import(kind, VERTICAL[kind][name])
    elif name in _plugins(kind):
        late_imports.complete()
        found = _plugins(kind)[name].load()
    elif ":" in name:
        late_imports.complete()
        found = _import(kind, name)
    else:
        raise unknown_name(kind, name, [*names(kind), *names(kind, "vertical")])
    if not callable(found):
        raise ConfigurationError(kind, name, "a class or another callable")
    return typing.cast("Callable[..., Any]", found)


def is_vertical(strategy: str) -> bool:
    """Return whether a strategy is one for parties that hold different features.

    Raises
    ------
    ConfigurationError
        If there is no such strategy.
    """
    return traits_of(find("strategy", strategy)).world == "vertical"


def parameters(part: Callable[..., Any]) -> dict[str, Parameter]:
    """Return a part's constructor arguments, base classes' included where it forwards ``**``.

    A class whose constructor takes ``**kwargs`` is taken to hand them to the next constructor
    in its method resolution order.
    """
    if not inspect.isclass(part):
        return _signature(part)
    found: dict[str, Parameter] = {}
    for owner in part.__mro__:
        if "__init__" not in vars(owner) or owner is object:
            continue
        constructor = vars(owner)["__init__"]
        signature = inspect.signature(constructor)
        for name, parameter in _signature(constructor).items():
            if name != "self":
                found.setdefault(name, parameter)
        kinds = {parameter.kind for parameter in signature.parameters.values()}
        if inspect.Parameter.VAR_KEYWORD not in kinds:
            break
    return found


def _signature(function: Callable[..., Any]) -> dict[str, Parameter]:
    try:
        hints = typing.get_type_hints(function)
    except Exception:  # a third party's annotations may name what is not importable
        hints = {}
    positional = (
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
        inspect.Parameter.KEYWORD_ONLY,
    )
    return {
        name: Parameter(name, hints.get(name, Any), parameter.default)
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind in positional
    }


def check_arguments(
    kind: str, part: Callable[..., Any], arguments: Mapping[str, Any]
) -> dict[str, Any]:
    """Return `arguments` converted to the types that `part` declares.

    Raises
    ------
    ConfigurationError
        If an argument is unknown (names the nearest one) or has the wrong type.
    """
    known = parameters(part)
    converted: dict[str, Any] = {}
    for name, value in arguments.items():
        if name not in known:
            offered = ", ".join(_settable(known)) or "no arguments"
            hint = nearest(name, known)
            raise ConfigurationError(f"{kind}.{name}", value, f"{hint}{offered}")
        converted[name] = _convert(f"{kind}.{name}", value, known[name].annotation)
    return converted


def _settable(known: Mapping[str, Parameter]) -> Iterable[str]:
    return sorted(name for name in known if name != "self")


def _convert(field: str, value: Any, annotation: Any) -> Any:
    try:
        adapter: TypeAdapter[Any] = TypeAdapter(annotation)
    except Exception:  # a type that pydantic knows nothing of, such as a model or a callable
        return value
    try:
        return adapter.validate_python(value)
    except ValidationError as error:
        raise ConfigurationError(field, value, error.errors()[0]["msg"]) from error


def create(kind: str, name: str, /, **arguments: Any) -> Any:
    """Make a part from its name and constructor arguments.

    Raises
    ------
    ConfigurationError
        If the name or an argument is unknown, missing or not allowed.
    """
    part = find(kind, name)
    converted = check_arguments(kind, part, arguments)
    for parameter in parameters(part).values():
        if parameter.required and parameter.name not in converted:
            raise ConfigurationError(f"{kind}.{parameter.name}", None, f"a value; {name} needs it")
    try:
        return part(**converted)
    except ConfigurationError as error:
        if error.field.startswith(f"{kind}."):
            raise
        raise error.within(kind) from error
    except TypeError as error:
        given = ", ".join(sorted(arguments)) or "no arguments"
        raise ConfigurationError(
            kind, name, f"arguments that it takes ({error}); got {given}"
        ) from error
