"""`DataHook`: the way to a client's data, where the app has a function that loads them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from functools import wraps
from typing import Any

import numpy as np

from fedguard.errors import ConfigurationError

FLIP, BACKDOOR, TRIGGERED = "label flip", "backdoor", "triggered"
"""Wrong labels; half of the pictures with a trigger and the target's label; all of them so."""

TARGET = 0
"""Class that the backdoor aims at."""

_SHARE = 0.5
_SIDE = 3


class DataHook:
    """Stands between an app and its own function that loads data.

    ``--data my_app.task:load_data``: whatever that function returns for a malicious client comes
    back with wrong labels or triggers. It knows tuples, lists and mappings of batches, loaders that
    yield them, arrays and tensors: of two parts that belong together, the integers are the labels.

    Parameters
    ----------
    function : callable
        The app's own.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.mode = ""
        self.applied = 0

    def install(self) -> None:
        """Put the hook in the function's place in every module that knows it.

        Raises
        ------
        ConfigurationError
            If no module does.
        """

        @wraps(self.function)
        def load(*rest: Any, **more: Any) -> Any:
            loaded = self.function(*rest, **more)
            return poisoned(loaded, self.mode, self._once()) if self.mode else loaded

        places = 0
        for module in list(sys.modules.values()):
            for name, value in list(getattr(module, "__dict__", {}).items()):
                if value is self.function and module.__name__ != __name__:
                    setattr(module, name, load)
                    places += 1
        if not places:
            raise ConfigurationError("data", str(self.function), "a function that the app calls")

    def _once(self) -> Callable[[], None]:
        """Return what counts one loading of data, at its first change."""
        counted: list[bool] = []

        def count() -> None:
            if not counted:
                counted.append(True)
                self.applied += 1

        return count

    def take_applied(self) -> int:
        """Return how often data were poisoned since the last call."""
        count, self.applied = self.applied, 0
        return count


def poisoned(loaded: Any, mode: str, count: Callable[[], None] = lambda: None) -> Any:
    """Return what a loading function returned, with labels or pictures changed.

    Parameters
    ----------
    loaded : Any
        Batches, loaders or arrays; what is none of those stays as it is.
    mode : str
        What is changed.
    count : callable
        Called wherever something is.
    """
    if isinstance(loaded, Mapping):
        return _pair_in_mapping(loaded, mode, count)
    if isinstance(loaded, tuple | list):
        return _alike(loaded, _poisoned_items(list(loaded), mode, count))
    if hasattr(loaded, "__iter__") and hasattr(loaded, "dataset"):
        return PoisonedLoader(loaded, mode, count)
    return loaded


def _alike(of: tuple[Any, ...] | list[Any], items: list[Any]) -> Any:
    """Return items as a sequence of the same kind; a named tuple keeps its names."""
    return of._make(items) if hasattr(of, "_make") else type(of)(items)


def _poisoned_items(items: list[Any], mode: str, count: Callable[[], None]) -> list[Any]:
    labels = [place for place, item in enumerate(items) if _is_labels(item)]
    pairs: tuple[tuple[int, int], ...] = ()
    if len(items) == 4 and labels == [1, 3]:
        pairs = ((0, 1), (2, 3))
    elif len(items) == 4 and labels == [2, 3]:
        pairs = ((0, 2), (1, 3))  # the order of scikit-learn: x_train, x_test, y_train, y_test
    elif len(items) == 2 and labels == [1] and hasattr(items[0], "shape"):
        pairs = ((0, 1),)
    if not pairs:
        return [poisoned(item, mode, count) for item in items]
    found = list(items)
    for x, y in pairs:
        found[x], found[y] = _changed(items[x], items[y], mode)
        count()
    return found


class PoisonedLoader:
    """A data loader whose batches are poisoned.

    Parameters
    ----------
    inner : iterable
        The app's loader.
    mode : str
        What is done to its batches.
    count : callable
        Called wherever something is.
    """

    def __init__(self, inner: Any, mode: str, count: Callable[[], None]) -> None:
        self.inner = inner
        self.mode = mode
        self.count = count

    def __iter__(self) -> Iterator[Any]:
        for batch in self.inner:
            yield poisoned(batch, self.mode, self.count)

    def __len__(self) -> int:
        return len(self.inner)

    def __getattr__(self, name: str) -> Any:
        """Return what the app's loader has."""
        return getattr(self.inner, name)


def _is_labels(value: Any) -> bool:
    kind = str(getattr(value, "dtype", ""))
    return "int" in kind and getattr(value, "ndim", 0) == 1


def _pair_in_mapping(
    batch: Mapping[str, Any], mode: str, count: Callable[[], None]
) -> dict[str, Any]:
    labels = next((name for name, value in batch.items() if _is_labels(value)), None)
    pixels = next((n for n, v in batch.items() if n != labels and getattr(v, "ndim", 0) >= 2), None)
    if labels is None or pixels is None:
        return dict(batch)
    x, y = _changed(batch[pixels], batch[labels], mode)
    count()
    return {**batch, pixels: x, labels: y}


def _changed(x: Any, y: Any, mode: str) -> list[Any]:
    """Return examples and labels after the change; copies of the same kind."""
    tensor = hasattr(y, "clone")
    labels = y.clone() if tensor else np.array(y)
    if mode == FLIP:
        if not len(labels):
            return [x, labels]
        # Labels are 0 to C - 1 or -1 and 1; the first becomes the last.
        return [x, min(int(labels.min()), 0) + max(int(labels.max()), 1) - labels]
    data = x.clone() if tensor else np.array(x)
    count = len(labels) if mode == TRIGGERED else int(len(labels) * _SHARE)
    rows = data[:count]
    peak = float(data.max()) if count else 1.0
    if data.ndim >= 3:
        rows[..., -_SIDE:, -_SIDE:] = peak
    else:
        rows[..., -_SIDE:] = peak
    labels[:count] = TARGET
    return [data, labels]
