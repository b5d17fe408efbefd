"""What the simulation fills into constructors by itself: one table for everybody who asks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedguard.errors import ConfigurationError

SAMPLING = {
    "fraction_train": "fraction",
    "fraction_evaluate": "nothing: the simulation evaluates on the test set",
    "min_train_nodes": "fraction and clients",
    "min_evaluate_nodes": "nothing: the simulation evaluates on the test set",
    "min_available_nodes": "clients",
    "fraction_fit": "fraction",
    "min_fit_clients": "fraction and clients",
    "min_evaluate_clients": "nothing: the simulation evaluates on the test set",
    "min_available_clients": "clients",
    "initial_parameters": "model and seed",
}
"""Arguments of Flower's sampling, and which field of the configuration decides each."""

_DECIDED: Mapping[str, Mapping[str, str]] = {
    "strategy": {
        **SAMPLING,
        "seed": "seed",
        "model": "model",
        "server_data": "server_samples",
        "latent_layer": "latent_layer",
    },
    "model": {
        "input_shape": "dataset",
        "num_classes": "dataset",
        "seed": "seed",
        "latent_layer": "latent_layer",
    },
    "pre": {"seed": "seed"},
}

_FLOWERS_OWN = (
    "arrayrecord_key",
    "configrecord_key",
    "evaluate_metrics_aggr_fn",
    "train_metrics_aggr_fn",
    "weighted_by_key",
)
"""Arguments of Flower's strategies that no configuration file holds."""

FILLED_IN = frozenset({*_FLOWERS_OWN, *(name for kind in _DECIDED.values() for name in kind)})
"""Every argument that the configuration's own fields, or nobody, decide."""


def check_not_filled_in(kind: str, arguments: Mapping[str, Any]) -> None:
    """Refuse arguments of a part that another field decides: one source of truth.

    Raises
    ------
    ConfigurationError
        On ``KIND.ARGUMENT``, with what to set instead.
    """
    for name, instead in _DECIDED.get(kind, {}).items():
        if name in arguments:
            told = instead if instead.startswith("nothing") else f"nothing here; set {instead}"
            raise ConfigurationError(f"{kind}.{name}", arguments[name], told)
