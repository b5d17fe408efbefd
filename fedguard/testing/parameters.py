"""That a part refuses absurd constructor arguments, with a `ConfigurationError`."""

from __future__ import annotations

import math
import types
import typing
from collections.abc import Callable, Iterator
from typing import Any, Literal
from unittest import SkipTest

from fedguard import registry
from fedguard.errors import ConfigurationError
from fedguard.testing.outcome import every_failure

NUMBERS = (math.nan, math.inf, -math.inf, "no number")
"""What no number may be."""

NO_CHOICE = "no such choice"
"""What no choice among words may be."""


def absurd_values(annotation: Any) -> tuple[Any, ...]:
    """Return values that no argument of this type may have; none where the type allows any."""
    if annotation in (int, float):
        return NUMBERS
    origin = typing.get_origin(annotation)
    if origin is Literal:
        return (NO_CHOICE,)
    if origin in (typing.Union, types.UnionType):
        inner = [kind for kind in typing.get_args(annotation) if kind is not type(None)]
        found = [absurd_values(kind) for kind in inner]
        return found[0] if found and all(each == found[0] for each in found) else ()
    return ()


def own_parameters(part: type, base: type) -> dict[str, registry.Parameter]:
    """Return the constructor arguments of `part` that are not those of its base class."""
    theirs = registry.parameters(base)
    return {name: each for name, each in registry.parameters(part).items() if name not in theirs}


def check_arguments_of(make: Callable[[], Any], base: type) -> None:
    """Check that every constructor argument of a part, beyond those of `base`, is validated.

    Numbers must refuse NaN, infinities and words; a choice among words any other word. Arguments
    of other types are not looked at.
    """
    part = type(make())
    own = own_parameters(part, base)
    if any(each.required for each in own.values()):
        raise SkipTest("the constructor demands arguments, of which nothing is known")
    cases = list(_cases(own))
    if not cases:
        raise SkipTest("no constructor argument whose type says what is absurd")
    with every_failure() as failures:
        for name, value in cases:
            with failures.on(f"{name}={value!r}"):
                try:
                    part(**{name: value})
                except ConfigurationError:
                    continue
                raise AssertionError("accepted; raise a ConfigurationError")


def _cases(parameters: dict[str, registry.Parameter]) -> Iterator[tuple[str, Any]]:
    for name, each in parameters.items():
        for value in absurd_values(each.annotation):
            yield name, value
