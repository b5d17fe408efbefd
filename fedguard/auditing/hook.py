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
            if not self.mode:
                return loaded
            self.applied += 1
            return poisoned(loaded, self.mode)

        places = 0
        for module in list(sys.modules.values()):
            for name, value in list(getattr(module, "__dict__", {}).items()):
                if value is self.function and module.__name__ != __name__:
                    setattr(module, name, load)
                    places += 1
        if not places:
            raise ConfigurationError("data", str(self.function), "a function that the app calls")

    def take_applied(self) -> int:
        """Return how often data were poisoned since the last call."""
        count, self.applied = self.applied, 0
        return count


def poisoned(loaded: Any, mode: str) -> Any:
    """Return what a loading function returned, with labels or pictures changed."""
    if isinstance(loaded, Mapping):
        return _pair_in_mapping(loaded, mode)
    if isinstance(loaded, tuple | list):
        items = list(loaded)
        if _is_labels(items[-1]) and len(items) == 4 and _is_labels(items[1]):
            return type(loaded)(
                [*_changed(items[0], items[1], mode), *_changed(items[2], items[3], mode)]
            )
        if len(items) == 4 and _is_labels(items[2]) and _is_labels(items[3]):
            # The order of scikit-learn: x_train, x_test, y_train, y_test.
            first, second = _changed(items[0], items[2], mode), _changed(items[1], items[3], mode)
            return type(loaded)([first[0], second[0], first[1], second[1]])
        if len(items) == 2 and _is_labels(items[1]) and hasattr(items[0], "shape"):
            return type(loaded)(_changed(items[0], items[1], mode))
        return type(loaded)([poisoned(item, mode) for item in items])
    if hasattr(loaded, "__iter__") and hasattr(loaded, "dataset"):
        return PoisonedLoader(loaded, mode)
    return loaded


class PoisonedLoader:
    """A data loader whose batches are poisoned.

    Parameters
    ----------
    inner : iterable
        The app's loader.
    mode : str
        What is done to its batches.
    """

    def __init__(self, inner: Any, mode: str) -> None:
        self.inner = inner
        self.mode = mode

    def __iter__(self) -> Iterator[Any]:
        for batch in self.inner:
            yield poisoned(batch, self.mode)

    def __len__(self) -> int:
        return len(self.inner)

    def __getattr__(self, name: str) -> Any:
        """Return what the app's loader has."""
        return getattr(self.inner, name)


def _is_labels(value: Any) -> bool:
    kind = str(getattr(value, "dtype", ""))
    return "int" in kind and getattr(value, "ndim", 0) == 1


def _pair_in_mapping(batch: Mapping[str, Any], mode: str) -> dict[str, Any]:
    labels = next((name for name, value in batch.items() if _is_labels(value)), None)
    pixels = next((n for n, v in batch.items() if n != labels and getattr(v, "ndim", 0) >= 2), None)
    if labels is None or pixels is None:
        return dict(batch)
    x, y = _changed(batch[pixels], batch[labels], mode)
    return {**batch, pixels: x, labels: y}


def _changed(x: Any, y: Any, mode: str) -> list[Any]:
    """Return examples and labels after the change; copies of the same kind."""
    tensor = hasattr(y, "clone")
    labels = y.clone() if tensor else np.array(y)
    if mode == FLIP:
        most = int(labels.max()) if len(labels) else 0
        return [x, (max(most, 1) - labels) % (max(most, 1) + 1)]
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
