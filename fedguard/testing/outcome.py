"""How the conformance suite runs its checks: all of them, and all failures told at once.

A check is a callable of a factory. It raises `AssertionError` with what was seen, and `SkipTest`
(which pytest knows as well) with the reason why there is nothing to check.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar
from unittest import SkipTest

Made = TypeVar("Made")


@dataclass(frozen=True)
class Conformance:
    """What the suite found on a part that conforms.

    Attributes
    ----------
    passed : tuple of str
        Names of the checks that passed.
    skipped : dict of str to str
        Name to the reason why there was nothing to check.
    """

    passed: tuple[str, ...]
    skipped: dict[str, str]

    def __str__(self) -> str:
        lines = [f"{len(self.passed)} checks passed", *_told(self.skipped)]
        return "\n".join(lines)


class Failures:
    """Failures of one check, each with the input that it was seen on."""

    def __init__(self) -> None:
        self.found: list[str] = []

    @contextmanager
    def on(self, what: str) -> Iterator[None]:
        """Note a failure or an exception inside the block as one on the input `what`."""
        try:
            yield
        except SkipTest:
            raise
        except Exception as error:
            self.found.append(f"{what}: {_words(error)}")


@contextmanager
def every_failure() -> Iterator[Failures]:
    """Raise one `AssertionError` at the end of the block for all failures noted inside it."""
    failures = Failures()
    yield failures
    if failures.found:
        raise AssertionError("\n".join(failures.found))


def run_checks(
    checks: Sequence[Callable[[Callable[[], Made]], None]], make: Callable[[], Made]
) -> Conformance:
    """Run every check on a factory and tell all failures, and what was skipped, at the end.

    Raises
    ------
    AssertionError
        If a check failed: one line each, with the check and the input that failed.
    """
    passed: list[str] = []
    skipped: dict[str, str] = {}
    failed: list[str] = []
    for check in checks:
        name = check.__name__
        try:
            check(make)
        except SkipTest as reason:
            skipped[name] = str(reason)
        except Exception as error:
            failed += [f"{name}: {line}" for line in _words(error).splitlines()]
        else:
            passed.append(name)
    if failed:
        title = f"{len(checks) - len(passed) - len(skipped)} of {len(checks)} checks failed"
        raise AssertionError("\n".join([title, *failed, *_told(skipped)]))
    return Conformance(tuple(passed), skipped)


def _words(error: Exception) -> str:
    if isinstance(error, AssertionError):
        return str(error) or "an assertion without a word"
    return f"raised {type(error).__name__}: {' '.join(str(error).split())}"


def _told(skipped: dict[str, str]) -> list[str]:
    return [f"{name} skipped: {reason}" for name, reason in skipped.items()]
