"""Classes by name: from what a configuration writes to the number of the class."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fedguard.errors import ConfigurationError

_SHOWN = 12


def class_number(field: str, value: Any, class_names: Sequence[str]) -> int:
    """Return the number of a class that is written by its number or by its name.

    A whole number is the class's number, from 0; a text is its name. Where classes have numbers
    for names, and the class of that number is not the one of that name, a number is refused:
    either could be meant.

    Parameters
    ----------
    field : str
        Where it was written, for errors.
    value : int or str
        Number or name.
    class_names : sequence of str
        The data set's classes in the order of their numbers.

    Raises
    ------
    ConfigurationError
        On `field`, with the nearest names.
    """
    names = list(class_names)
    if isinstance(value, str):
        if value in names:
            return names.index(value)
        shown = ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
        raise ConfigurationError(field, value, f"{_nearest(value, names)}{shown}")
    if isinstance(value, bool) or not isinstance(value, int):
        raise ConfigurationError(field, value, "a class by its name, or by its number from 0")
    if str(value) in names and names.index(str(value)) != value:
        number = names.index(str(value))
        allowed = f'"{value}" in quotes for the class of that name, which is number {number}'
        if 0 <= value < len(names):
            allowed += f'; or "{names[value]}", which is number {value}'
        raise ConfigurationError(field, value, allowed)
    return value


def _nearest(value: str, names: Sequence[str]) -> str:
    """Return the nearest name as a question, whatever its case; empty where none is near."""
    lower = {name.lower(): name for name in names}
    close = difflib.get_close_matches(value.lower(), list(lower), n=1, cutoff=0.5)
    return f"did you mean {lower[close[0]]!r}? " if close else ""


def with_class_numbers(
    kind: str, arguments: Mapping[str, Any], classes: Iterable[str], class_names: Sequence[str]
) -> dict[str, Any]:
    """Return a part's arguments with classes by number.

    Parameters
    ----------
    kind : str
        Kind of the part, for errors.
    arguments : mapping
        Its arguments.
    classes : iterable of str
        Names of those that stand for a class.
    class_names : sequence of str
        The data set's classes in the order of their numbers.
    """
    told = set(classes)
    return {
        name: class_number(f"{kind}.{name}", value, class_names) if name in told else value
        for name, value in arguments.items()
    }
