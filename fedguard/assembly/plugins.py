"""A third party's part passes a quick form of the conformance suite before it is used."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

from fedguard.attacks.base import Attack
from fedguard.errors import ConfigurationError
from fedguard.strategies.base import RobustStrategy


def check_plugin(kind: str, name: str, part: Any) -> None:
    """Check a strategy or an attack that is not fedguard's own on small worlds.

    Copies of it are checked: shapes and finiteness of what it returns, that it changes nothing in
    place, that what it declares is known. A part that cannot be copied is left to round 1.

    Raises
    ------
    ConfigurationError
        On the part's kind, with the first thing that failed and how to skip the check.
    """
    if type(part).__module__.startswith("fedguard."):
        return
    check = _check_for(part)
    if check is None:
        return
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            check(part, quick=True)
    except AssertionError as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        first = lines[1 if len(lines) > 1 else 0][:200]
        raise ConfigurationError(
            kind, name, f"a part that keeps its contract ({first}); or check_plugins=false"
        ) from error


def _check_for(part: Any) -> Callable[..., Any] | None:
    """Return the suite of a part's kind; imported only where a stranger's part is there."""
    if isinstance(part, RobustStrategy):
        from fedguard.testing.strategies import check_strategy

        return check_strategy
    if isinstance(part, Attack):
        from fedguard.testing.attacks import check_attack

        return check_attack
    return None
