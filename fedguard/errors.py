"""Errors that speak to a user in one line, and the checks that raise them."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable


class ConfigurationError(ValueError):
    """A bad value in a configuration: names the field, the value and what is allowed.

    Parameters
    ----------
    field : str
        Dotted name of the configuration field, such as ``strategy.max_clusters``.
    value : object
        The value that was given.
    allowed : str
        What is allowed instead, as the end of the sentence "...; allowed: ".
    """

    def __init__(self, field: str, value: object, allowed: str) -> None:
        self.field = field
        self.value = value
        self.allowed = allowed
        super().__init__(f"{field}: {_short(value)} is not valid; allowed: {allowed}")

    def within(self, prefix: str) -> ConfigurationError:
        """Return the same error with its field placed under `prefix`."""
        return ConfigurationError(f"{prefix}.{self.field}", self.value, self.allowed)


class RunError(RuntimeError):
    """A run that cannot go on, for a reason worth one line and no traceback."""


def _short(value: object, limit: int = 80) -> str:
    """Return `value` in at most `limit` characters; a longer one keeps both of its ends."""
    text = " ".join(repr(value).split())
    if len(text) <= limit:
        return text
    tail = limit // 2  # what is wrong with a path mostly is at its end
    return text[: limit - tail - 3] + "..." + text[-tail:]


def nearest(name: str, names: Iterable[str]) -> str:
    """Return ``did you mean 'x'? `` with the nearest of `names`, or an empty string."""
    close = difflib.get_close_matches(name.lower(), list(names), n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}? " if close else ""


def unknown_name(field: str, name: object, names: Iterable[str]) -> ConfigurationError:
    """Return the error for a `name` that is none of `names`, with the nearest one first."""
    options = sorted(names)
    return ConfigurationError(field, name, nearest(str(name), options) + ", ".join(options))


def check_number(
    field: str,
    value: float,
    *,
    above: float | None = None,
    at_least: float | None = None,
    below: float | None = None,
    at_most: float | None = None,
) -> None:
    """Raise `ConfigurationError` unless `value` is a finite number within the given bounds."""
    bounds = [(above, ">"), (at_least, ">="), (below, "<"), (at_most, "<=")]
    wanted = [f"{symbol} {bound:g}" for bound, symbol in bounds if bound is not None]
    allowed = " ".join(["a number", " and ".join(wanted)]).strip()
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value):
        raise ConfigurationError(field, value, allowed)
    holds = (
        (above is None or value > above)
        and (at_least is None or value >= at_least)
        and (below is None or value < below)
        and (at_most is None or value <= at_most)
    )
    if not holds:
        raise ConfigurationError(field, value, allowed)


def check_choice(field: str, value: object, choices: Iterable[str]) -> None:
    """Raise `ConfigurationError` unless `value` is one of `choices`."""
    options = list(choices)
    if value not in options:
        raise ConfigurationError(field, value, nearest(str(value), options) + ", ".join(options))


def check_unread(by: str, **given: tuple[object, object]) -> None:
    """Raise `ConfigurationError` for the first option that is set and that nothing reads.

    Parameters
    ----------
    by : str
        Who does not read them, such as "paper mode".
    **given : (object, object)
        By its name, an option's value and the value that it has if nobody sets it.
    """
    for field, (value, usual) in given.items():
        if value != usual:
            raise ConfigurationError(field, value, f"left out: {by} does not read it")


def check_assumed_malicious(value: float) -> None:
    """Check a defence's assumed fraction of malicious clients: at least 0, below one half."""
    check_number("assumed_malicious", value, at_least=0.0, below=0.5)
