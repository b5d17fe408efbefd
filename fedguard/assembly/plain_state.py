"""What a stranger's strategy keeps between rounds, as plain values; never by pickle."""

from __future__ import annotations

import json
from collections.abc import Mapping
from logging import WARNING
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord
from flwr.common import Parameters
from flwr.common.logger import log
from flwr.server.strategy import Strategy as OlderStrategy
from flwr.serverapp.strategy import Strategy
from torch import Tensor

_TEXT = "attributes"
_RECORDS = {"metrics": MetricRecord, "config": ConfigRecord}
_NOT_STATE = (FunctionType, BuiltinFunctionType, MethodType, ModuleType, type)
"""What a constructor makes anew as it was."""


class _CannotKeepError(Exception):
    """A value that is neither a tensor nor plain."""


def keep_state(strategy: Any) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return a strategy's attributes as named tensors, and which cannot be kept.

    Arrays and tensors keep their type and every bit; numbers, text, lists, mappings and Flower's
    records are written as JSON beside them; a strategy within a strategy is kept as well. Functions
    are left to the constructor.

    Returns
    -------
    tuple of dict
        Tensors for a checkpoint; and attribute to type of those that cannot be kept.
    """
    tensors: dict[str, Tensor] = {}
    lost: dict[str, str] = {}
    tree = _attributes(strategy, tensors, lost, "")
    text = json.dumps(tree).encode()
    tensors[_TEXT] = torch.frombuffer(bytearray(text), dtype=torch.uint8)
    return tensors, lost


def give_back_state(strategy: Any, tensors: Mapping[str, Tensor]) -> None:
    """Set a strategy's attributes to what `keep_state` returned."""
    if _TEXT in tensors:
        _set(strategy, json.loads(bytes(tensors[_TEXT].numpy())), tensors)


class StrangersState:
    """Keeps what a strategy of a third party keeps, and says once what is kept in vain.

    Parameters
    ----------
    name : str
        The strategy's name, for what is said.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._told: set[str] = set()

    def keep(self, strategy: Any) -> dict[str, Tensor]:
        """Return the strategy's attributes as tensors; log those that are lost, each once."""
        tensors, lost = keep_state(strategy)
        for attribute, kind in lost.items():
            if attribute not in self._told:
                told = "%s.%s is a %s, which --resume cannot keep: it would begin as it was made"
                log(WARNING, told, self.name, attribute, kind)
        self._told.update(lost)
        return tensors

    def give_back(self, strategy: Any, tensors: Mapping[str, Tensor]) -> None:
        """Set the strategy's attributes to what was kept."""
        give_back_state(strategy, tensors)


def _attributes(
    owner: Any, tensors: dict[str, Tensor], lost: dict[str, str], path: str
) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in vars(owner).items():
        if isinstance(value, _NOT_STATE):
            continue
        where = f"{path}{name}"
        if isinstance(value, Strategy | OlderStrategy):
            found[name] = {"strategy": _attributes(value, tensors, lost, f"{where}.")}
            continue
        before = len(tensors)
        try:
            found[name] = _encode(value, tensors)
        except _CannotKeepError:
            for number in range(before, len(tensors)):
                del tensors[str(number)]
            lost[where] = type(value).__name__
    return found


def _encode(value: Any, tensors: dict[str, Tensor]) -> Any:
    """Return a value as JSON, its arrays put among `tensors`."""
    if type(value) in (type(None), bool, int, float, str):
        return {"plain": value}
    if isinstance(value, bytes):
        return {"bytes": _put(torch.tensor(list(value), dtype=torch.uint8), tensors)}
    if isinstance(value, Tensor):
        return {"tensor": _put(value.detach().cpu().clone(), tensors)}
    if isinstance(value, np.ndarray | np.generic):
        kind = "array" if isinstance(value, np.ndarray) else "scalar"
        return {kind: _put(_from_numpy(np.asarray(value)), tensors)}
    if isinstance(value, ArrayRecord):
        entries = {name: _put(_from_numpy(a.numpy()), tensors) for name, a in value.items()}
        return {"arrays": entries}
    for name, record in _RECORDS.items():
        if type(value) is record:
            return {name: _pairs(value, tensors)}
    if isinstance(value, Parameters):
        return {
            "parameters": [_encode(part, tensors) for part in value.tensors],
            "type": value.tensor_type,
        }
    if type(value) is dict:
        return {"dict": _pairs(value, tensors)}
    if type(value) in (list, tuple, set):
        return {type(value).__name__: [_encode(part, tensors) for part in value]}
    raise _CannotKeepError


def _pairs(value: Any, tensors: dict[str, Tensor]) -> list[Any]:
    return [[_encode(key, tensors), _encode(item, tensors)] for key, item in value.items()]


def _put(tensor: Tensor, tensors: dict[str, Tensor]) -> str:
    name = str(len(tensors))
    tensors[name] = tensor
    return name


def _from_numpy(array: np.ndarray) -> Tensor:
    try:
        return torch.from_numpy(np.array(array, copy=True))
    except TypeError as error:  # text, objects, dates
        raise _CannotKeepError from error


def _set(owner: Any, tree: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    for name, coded in tree.items():
        if "strategy" in coded:
            _set(getattr(owner, name), coded["strategy"], tensors)
        else:
            setattr(owner, name, _decode(coded, tensors))


def _decode(coded: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Any:
    (kind, held), *rest = coded.items()
    if kind == "plain":
        return held
    if kind == "tensor":
        return tensors[held].clone()
    if kind == "bytes":
        return bytes(tensors[held].tolist())
    if kind in ("array", "scalar"):
        array = tensors[held].numpy().copy()
        return array if kind == "array" else array[()]
    if kind == "arrays":
        return ArrayRecord({name: Array(tensors[at].numpy().copy()) for name, at in held.items()})
    if kind == "parameters":
        return Parameters([_decode(part, tensors) for part in held], rest[0][1])
    if kind in ("dict", *_RECORDS):
        found = {_decode(key, tensors): _decode(item, tensors) for key, item in held}
        return _RECORDS[kind](found) if kind in _RECORDS else found
    parts = [_decode(part, tensors) for part in held]
    return {"list": list, "tuple": tuple, "set": set}[kind](parts)
