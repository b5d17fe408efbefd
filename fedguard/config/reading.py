"""From YAML files, flags and ``FIELD=VALUE`` texts to a checked configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from fedguard.config import strict_yaml
from fedguard.config.faults import Faults
from fedguard.config.parts import OPTIONAL_PARTS, PARTS, Part
from fedguard.config.run import SimulationConfig
from fedguard.config.settling import settle, settle_file, settle_setting
from fedguard.errors import ConfigurationError, nearest

_EXAMPLES = {
    "client_app": "package.module:app",
    "repair": "such as repair=finetune",
    "audit": "such as audit=unlearning",
    "enrolment": "such as enrolment=roster",
}


def load_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping in a YAML file, each value of the kind that its field has.

    Raises
    ------
    ConfigurationError
        If the file cannot be read, holds no mapping or a key twice, or says yes, on or 010 where a
        number belongs; names the line.
    """
    try:
        values, marks = strict_yaml.read(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise ConfigurationError("CONFIG", str(path), f"a readable YAML file ({reason})") from error
    except strict_yaml.KeyRefused as error:
        raise ConfigurationError("CONFIG", str(path), str(error)) from error
    except (yaml.YAMLError, RecursionError) as error:
        where = " ".join(str(error).split())[:160]
        raise ConfigurationError("CONFIG", str(path), f"valid YAML ({where})") from error
    if values is None:
        return {}
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise ConfigurationError("CONFIG", str(path), "a mapping of configuration fields")
    return settle_file(values, marks)


def assign(values: dict[str, Any], dotted: str, value: Any) -> None:
    """Set ``strategy.max_clusters`` style fields in a nested mapping, in place."""
    if isinstance(value, Written):
        value = settle_setting(values, dotted, value.value, value.text)
    head, _, rest = dotted.partition(".")
    if not rest:
        if isinstance(values.get(head), dict) and isinstance(value, str):
            # A new name for a part drops arguments that were meant for another one.
            same = values[head].get("name") == value
            values[head] = {**values[head], "name": value} if same else value
        else:
            values[head] = value
        return
    kinds = (*PARTS, *OPTIONAL_PARTS, "client_app")
    if head == "faults" and "." not in rest:
        current = values.get(head)
        if current is not None and not isinstance(current, dict):
            raise ConfigurationError(head, current, "a mapping of rates")
        values[head] = {**(current or {}), rest: value}
        return
    if head == "client_config":
        current = values.get(head)
        if current is not None and not isinstance(current, dict):
            raise ConfigurationError(head, current, "a mapping of keys to plain values")
        values[head] = {**(current or {}), rest: value}
        return
    if head not in kinds or "." in rest:
        more = ("faults.FIELD", "client_config.KEY")
        offered = ", ".join([*(f"{kind}.ARGUMENT" for kind in kinds), *more])
        raise ConfigurationError(dotted, value, offered)
    current = values.get(head)
    if current is None and head not in PARTS:
        raise ConfigurationError(dotted, value, f"{head} itself first, {_EXAMPLES[head]}")
    if current is None:
        default: Part = SimulationConfig.model_fields[head].get_default(call_default_factory=True)
        current = {"name": default.name, **default.arguments}
    elif isinstance(current, str):
        current = {"name": current}
    elif not isinstance(current, dict):
        raise ConfigurationError(head, current, "a name, or a mapping with a name")
    values[head] = {**current, rest: value}


@dataclass(frozen=True)
class Written:
    """A flag's value whose text says more than the value: ``True``, ``1.50``, ``a: b``."""

    value: Any
    text: str

    def __str__(self) -> str:
        return self.text


def scalar(text: str) -> Any:
    """Return a flag's text as the value that a YAML file's would be.

    What is no text and does not spell itself, such as ``1e-3``, comes with its text, which
    `assign` keeps where the field's type is text.
    """
    try:
        value, _ = strict_yaml.read(text)
    except (yaml.YAMLError, RecursionError):
        return text
    if isinstance(value, str):
        return value
    spelt = str(value).lower() if isinstance(value, bool) else str(value)
    return value if spelt == text else Written(value, text)


def read_setting(setting: str) -> tuple[str, Any]:
    """Return field and value of a ``FIELD=VALUE`` text, as ``--set`` takes it."""
    field, equals, text = setting.partition("=")
    if not equals:
        raise ConfigurationError("--set", setting, "FIELD=VALUE")
    return field.strip(), scalar(text)


def parse(values: Mapping[str, Any]) -> SimulationConfig:
    """Return the checked configuration of a plain mapping.

    Raises
    ------
    ConfigurationError
        For the first bad field, in one line with the nearest valid name.
    """
    try:
        return SimulationConfig.model_validate(settle(values))
    except ConfigurationError:
        raise
    except ValidationError as error:
        raise _one_line(error) from error


def _one_line(error: ValidationError) -> ConfigurationError:
    first = error.errors()[0]
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, ConfigurationError):
        return cause
    field = ".".join(str(part) for part in first["loc"]) or "configuration"
    if first["type"] == "extra_forbidden":
        owner = (
            Faults if first["loc"][0] == "faults" and len(first["loc"]) > 1 else SimulationConfig
        )
        names = sorted(owner.model_fields)
        hint = nearest(str(first["loc"][-1]), names)
        return ConfigurationError(field, first["input"], f"{hint}the fields are {', '.join(names)}")
    message = first["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
    if first["type"] == "string_pattern_mismatch":
        message = "auto, cpu, cuda or cuda:N"
    if first["type"] == "missing":
        message = f"a mapping with a {first['loc'][-1]}"
    if first["type"] == "literal_error" and isinstance(first["input"], str):
        choices = [word.strip("'") for word in message.replace(" or ", ", ").split(", ")]
        message = nearest(first["input"], choices) + message
    return ConfigurationError(field, first["input"], message)
