"""`Part`: a registered part with its arguments, as a configuration writes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer

from fedguard.errors import ConfigurationError

PARTS = ("strategy", "attack", "dataset", "model", "partition", "training")
"""Fields that always hold one part; each has the name of its kind."""

OPTIONAL_PARTS = ("repair", "audit", "enrolment")
"""Fields that hold one part or nothing."""


SHORT = {"target_class": "target", "source_class": "source"}
"""Arguments of an attack that stand for a class, by number or by name, and their short forms."""

CLASSES = (*SHORT, *SHORT.values())
"""Every argument of an attack that stands for a class."""


class Part(BaseModel):
    """A registered part and its constructor arguments.

    Written in YAML as a name, ``krum``, or as a mapping, ``{name: krum, assumed_malicious: 0.3}``.
    """

    model_config = ConfigDict(extra="allow", frozen=True, defer_build=True)

    name: str

    @property
    def arguments(self) -> dict[str, Any]:
        """Constructor arguments that were given."""
        return dict(self.model_extra or {})


def as_part(value: Any) -> Any:
    """Return a name as the mapping of a part; anything else as it is."""
    return {"name": value} if isinstance(value, str) else value


def with_long_names(value: Any, known: Mapping[str, Any]) -> Any:
    """Return an attack with ``target`` and ``source`` spelt as the arguments that they stand for.

    Parameters
    ----------
    value : Any
        The attack as a mapping; anything else comes back as it is.
    known : mapping
        The attack's arguments by name.

    Raises
    ------
    ConfigurationError
        If both forms are given.
    """
    if not isinstance(value, Mapping):
        return value
    found = dict(value)
    for name, short in SHORT.items():
        if short in found and short not in known and name in known:
            if name in found:
                raise ConfigurationError(f"attack.{short}", found[short], f"{name} alone, not both")
            found[name] = found.pop(short)
    return found


def as_chain(value: Any) -> Any:
    """Return what stands for a chain of parts as a sequence: nothing, names, parts, one part."""
    if value is None or value == "":
        return ()
    if isinstance(value, str):
        return [as_part(name.strip()) for name in value.split(",")]
    if isinstance(value, Mapping | Part):
        return (value,)
    return [as_part(item) for item in value] if isinstance(value, Sequence) else value


def plain_chain(parts: Sequence[Part]) -> Any:
    """Return a chain as a configuration file writes it, in the shortest form."""
    if not parts:
        return None
    if any(part.arguments for part in parts):
        return [{"name": part.name, **part.arguments} for part in parts]
    return ",".join(part.name for part in parts)


PartField = Annotated[Part, BeforeValidator(as_part)]
ChainField = Annotated[tuple[Part, ...], BeforeValidator(as_chain), PlainSerializer(plain_chain)]


def part_field(name: str, **arguments: Any) -> Any:
    """Return a field whose default is a part."""
    return Field(default_factory=lambda: Part(name=name, **arguments))
