"""JSON Schema of the configuration, for editors: names, types and what each field means."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from typing import Any

from pydantic import TypeAdapter

from fedguard import registry
from fedguard.config import SimulationConfig
from fedguard.config.filled_in import FILLED_IN
from fedguard.config.parts import OPTIONAL_PARTS, PARTS

_DRAFT = "https://json-schema.org/draft/2020-12/schema"


def configuration_schema() -> dict[str, Any]:
    """Return the JSON Schema of a configuration file.

    Part fields suggest the registered names and, beside a registered name, the part's own
    arguments; any ``package.module:Class`` is allowed as well. fedguard's own checks are stricter:
    the schema helps to write a file, it does not replace them.
    """
    schema = SimulationConfig.model_json_schema()
    properties: dict[str, Any] = schema["properties"]
    definitions: dict[str, Any] = schema.setdefault("$defs", {})
    for kind in (*PARTS, *OPTIONAL_PARTS):
        definitions[kind] = _part_schema(kind)
        if kind in OPTIONAL_PARTS:
            definitions[kind]["anyOf"].append({"type": "null"})
        description = properties[kind].get("description", "")
        properties[kind] = {"$ref": f"#/$defs/{kind}", "description": description}
    definitions["pre"] = {"anyOf": [*_part_schema("pre")["anyOf"], {"type": "null"}]}
    several = {"type": "array", "items": {"$ref": "#/$defs/pre"}}
    properties["pre"] = {
        "anyOf": [{"$ref": "#/$defs/pre"}, several],
        "description": properties["pre"].get("description", ""),
    }
    return {"$schema": _DRAFT, **schema, "title": "fedguard configuration"}


def schema_text() -> str:
    """Return the schema as the text of ``configs/schema.json``."""
    return json.dumps(configuration_schema(), indent=1, ensure_ascii=False) + "\n"


def _part_schema(kind: str) -> dict[str, Any]:
    names = _names(kind)
    named = {"anyOf": [{"enum": names}, {"type": "string"}]}
    choices = [
        {
            "if": {"properties": {"name": {"const": name}}},
            "then": {"properties": _arguments(kind, name)},
        }
        for name in names
    ]
    mapping: dict[str, Any] = {
        "type": "object",
        "properties": {"name": named},
        "required": ["name"],
    }
    if told := [choice for choice in choices if choice["then"]["properties"]]:
        mapping["allOf"] = told
    return {"anyOf": [*named["anyOf"], mapping]}


def _names(kind: str) -> list[str]:
    """Return fedguard's own names; what is installed beside it must not change the schema."""
    every = sorted({*registry.names(kind), *registry.names(kind, "vertical")})
    return [name for name in every if _is_own(registry.find(kind, name))]


def _is_own(part: Callable[..., Any]) -> bool:
    return getattr(part, "__module__", "").startswith("fedguard.")


def _arguments(kind: str, name: str) -> dict[str, Any]:
    """Return a part's own arguments with their types; those of Flower's base are left out."""
    part = registry.find(kind, name)
    found = {}
    for parameter in registry.parameters(part).values():
        if not _is_written(part, parameter.name):
            continue
        try:
            schema = TypeAdapter(parameter.annotation).json_schema()
        except Exception:  # a type that has no schema, such as a model or tensors
            continue
        if not parameter.required and isinstance(parameter.default, bool | int | float | str):
            schema["default"] = parameter.default
        found[parameter.name] = schema
    return {key: found[key] for key in sorted(found)}


def _is_written(part: Callable[..., Any], argument: str) -> bool:
    """Return whether one of fedguard's own constructors names the argument."""
    if argument in FILLED_IN:
        return False
    if not inspect.isclass(part):
        return True
    own = [owner for owner in part.__mro__ if owner.__module__.startswith("fedguard.")]
    constructors = [vars(owner)["__init__"] for owner in own if "__init__" in vars(owner)]
    return any(argument in inspect.signature(one).parameters for one in constructors)
