"""Each value as the kind that its field has: text stays text, a truth value is no number."""

from __future__ import annotations

import re
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

from fedguard import registry
from fedguard.config import strict_yaml
from fedguard.config.parts import CLASSES, SHORT, Part
from fedguard.config.run import SimulationConfig
from fedguard.config.strict_yaml import Mark
from fedguard.errors import ConfigurationError

CLASS = int | str
"""What stands for a class: a number, or any text, ``No`` and ``1.0`` too."""

Marks = Mapping[strict_yaml.Path, Mark]

_PLAIN = re.compile(
    r"[-+]?(?:(?:0|[1-9][0-9]*)?(?:\.[0-9]*)?(?:e[-+]?[0-9]+)?|\.?(?:inf|nan))", re.IGNORECASE
)
_SWITCH = {"yes", "no", "on", "off", "y", "n", "true", "false", "~", "null"}
_EXAMPLES = {"dataset": "digits", "attack": '"none"'}


def settle(values: Mapping[str, Any], marks: Marks | None = None) -> dict[str, Any]:
    """Return a configuration's plain values, each of the kind that its field asks for.

    1. A field or argument of type text keeps what was written: a column called 2 or No.
    2. A field or argument that is a number takes no truth value and no 010 or 1_000.
    3. A field that is a list takes no single value.
    4. A part is a name: ``attack: no`` is refused, with what to type.

    Parameters
    ----------
    values : mapping
        Fields of a run's configuration; what has no known field is left as it is.
    marks : mapping, optional
        How and in which line each value was written, by its path.

    Raises
    ------
    ConfigurationError
        For the first value of the wrong kind; names its line where it is known.
    """
    told = marks or {}
    fields = SimulationConfig.model_fields
    return {
        name: _settle((name,), value, fields[name].annotation, told) if name in fields else value
        for name, value in values.items()
    }


def settle_setting(values: Mapping[str, Any], field: str, value: Any, text: str) -> Any:
    """Return the value of ``FIELD=TEXT`` as the kind that the field or argument has.

    Parameters
    ----------
    values : mapping
        The configuration so far; it tells which part an argument is one of.
    field : str
        A field, or ``part.argument``.
    value : Any
        The text as YAML reads it.
    text : str
        The text as it was written.
    """
    annotation = annotation_of(values, field)
    path = tuple(field.split("."))
    texts = _is_text(annotation) or annotation == CLASS
    return _settle(path, value, annotation, {path: Mark(text, 0)}) if texts else value


def annotation_of(values: Mapping[str, Any], field: str) -> Any:
    """Return the type of a field or of a part's argument; `Any` where it is not known."""
    head, _, argument = field.partition(".")
    known = SimulationConfig.model_fields.get(head)
    if known is None:
        return Any
    if not argument:
        return known.annotation
    given = values.get(head, known.get_default(call_default_factory=True))
    name = given.get("name") if isinstance(given, Mapping) else getattr(given, "name", given)
    return _arguments(head, name).get(argument, Any)


def settle_file(values: Mapping[str, Any], marks: Marks) -> dict[str, Any]:
    """Return the values of a file, a run's configuration or a campaign, settled with lines."""
    settled = settle(values, marks)
    base, grid = values.get("base"), values.get("grid")
    if isinstance(base, Mapping):
        settled["base"] = settle(base, strict_yaml.under(marks, "base"))
    if isinstance(grid, Mapping):
        known = base if isinstance(base, Mapping) else {}
        settled["grid"] = {
            field: _settle_choices(str(field), choices, known, marks)
            for field, choices in grid.items()
        }
    return settled


def _settle_choices(field: str, choices: Any, base: Mapping[str, Any], marks: Marks) -> Any:
    if not isinstance(choices, list):
        return choices
    annotation = annotation_of(base, field)
    path = tuple(field.split("."))
    return [
        _settle(
            path,
            value,
            annotation,
            {
                (*path, *rest): mark
                for rest, mark in strict_yaml.under(marks, "grid", field, place).items()
            },
        )
        for place, value in enumerate(choices)
    ]


def _settle(path: strict_yaml.Path, value: Any, annotation: Any, marks: Marks) -> Any:
    if path == ("pre",):
        return value  # a chain of parts, which reads names, parts and lists by itself
    kinds = _kinds(annotation)
    if Part in kinds:
        return _settle_part(path, value, marks, optional=type(None) in kinds)
    model = next((kind for kind in kinds if _is_model(kind)), None)
    if model is not None and isinstance(value, Mapping):
        fields = model.model_fields
        return {
            name: _settle((*path, name), item, fields[name].annotation, marks)
            if name in fields
            else item
            for name, item in value.items()
        }
    if any(get_origin(kind) in (tuple, list) for kind in kinds):
        return _settle_list(path, value, kinds, marks)
    if annotation == CLASS:
        whole = isinstance(value, int) and not isinstance(value, bool)
        return value if whole else _text(path, value, marks, optional=False)
    if _is_text(annotation):
        return _text(path, value, marks, optional=type(None) in kinds)
    if kinds and kinds <= {int, float, type(None)}:
        _check_number(path, value, marks, whole=float not in kinds)
    return value


def _settle_part(path: strict_yaml.Path, value: Any, marks: Marks, *, optional: bool) -> Any:
    kind = str(path[-1])
    if isinstance(value, Mapping):
        known = _arguments(kind, value.get("name"))
        return {
            name: _settle((*path, name), item, known[name], marks) if name in known else item
            for name, item in value.items()
        }
    if value is None and optional:
        return value
    switch = isinstance(value, str) and value.lower() in _SWITCH
    if value is None or switch or isinstance(value, bool | int | float):
        default = SimulationConfig.model_fields[kind].get_default(call_default_factory=True)
        example = _EXAMPLES.get(kind) or (default.name if isinstance(default, Part) else "a:b")
        raise _refusal(path, value, f"a name: type {kind}: {example}", marks)
    return value


def _settle_list(path: strict_yaml.Path, value: Any, kinds: set[Any], marks: Marks) -> Any:
    inner = {get_args(kind)[0] for kind in kinds if get_origin(kind) in (tuple, list)}
    item = inner.pop() if len(inner) == 1 else Any
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_settle((*path, place), one, item, marks) for place, one in enumerate(value)]
    listed = all(get_origin(kind) in (tuple, list) for kind in kinds - {type(None)})
    if listed and isinstance(value, str | bool | int | float):
        example = f"{path[-1]}: [{_written(path, value, marks)}]"
        raise _refusal(path, value, f"a list, in brackets: {example}", marks)
    return value


def _check_number(path: strict_yaml.Path, value: Any, marks: Marks, *, whole: bool) -> None:
    allowed = "a whole number in digits, such as" if whole else "a number in digits, such as"
    name = str(path[-1])
    if isinstance(value, bool) or (isinstance(value, str) and value.strip().lower() in _SWITCH):
        raise _refusal(path, value, f"{allowed} {name}: {_example(path, whole)}", marks)
    if isinstance(value, str) and not _PLAIN.fullmatch(value.strip()):
        digits = re.sub(r"[_ ']", "", value.strip()).lstrip("+0")
        if re.fullmatch(r"[0-9]+", digits):
            raise _refusal(path, value, f"{allowed} {name}: {digits}", marks)


def _example(path: strict_yaml.Path, whole: bool) -> Any:
    field = SimulationConfig.model_fields.get(str(path[0])) if len(path) == 1 else None
    default = field.get_default(call_default_factory=True) if field is not None else None
    return default if default is not None else 5 if whole else 0.5


def _text(path: strict_yaml.Path, value: Any, marks: Marks, *, optional: bool) -> Any:
    if value is None:
        mark = marks.get(path)
        return value if optional or mark is None or not mark.text else mark.text
    mark = marks.get(path)
    told = mark is not None and mark.text is not None
    if isinstance(value, bool | int | float) or (told and isinstance(value, list | dict)):
        return _written(path, value, marks)
    return value


def _written(path: strict_yaml.Path, value: Any, marks: Marks) -> str:
    mark = marks.get(path)
    if mark is not None and mark.text is not None:
        return mark.text
    return str(value).lower() if isinstance(value, bool) else str(value)


def _refusal(path: strict_yaml.Path, value: Any, allowed: str, marks: Marks) -> ConfigurationError:
    mark = marks.get(path)
    where = f" (line {mark.line})" if mark is not None and mark.line else ""
    return ConfigurationError(".".join(map(str, path)), value, allowed + where)


def _arguments(kind: str, name: Any) -> dict[str, Any]:
    """Return the types of a part's arguments; none where there is no such part."""
    if kind not in registry.KINDS or not isinstance(name, str):
        return {}
    try:
        known = registry.parameters(registry.find(kind, name))
    except ConfigurationError:
        return {}
    found = {argument: parameter.annotation for argument, parameter in known.items()}
    if kind == "attack":
        short = {SHORT[name] for name in SHORT if name in found}
        found.update(dict.fromkeys({name for name in CLASSES if name in found} | short, CLASS))
    return found


def _kinds(annotation: Any) -> set[Any]:
    """Return the members of a union, or the one type; literals count as their values' types."""
    if get_origin(annotation) is Annotated:
        return _kinds(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return set().union(*(_kinds(member) for member in get_args(annotation)))
    if get_origin(annotation) is Literal:
        return {type(choice) for choice in get_args(annotation)}
    return {annotation}


def _is_text(annotation: Any) -> bool:
    kinds = _kinds(annotation) - {type(None)}
    return bool(kinds) and kinds <= {str, Path}


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)
