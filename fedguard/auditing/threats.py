"""The battery: what malicious, broken and absent clients do to a server."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from flwr.app import Array, ArrayRecord, MetricRecord, RecordDict

Kind = Literal["crafted", "spoilt", "network", "data"]

ABSURD = 10**12
"""Examples that a lying client claims to have."""


@dataclass(frozen=True)
class Threat:
    """One thing that clients do.

    Attributes
    ----------
    name : str
        Short name.
    words : str
        What a client does, after "one client that".
    kind : str
        ``"crafted"``: an attack of fedguard's rewrites updates; ``"spoilt"``: replies no server
        should read; ``"network"``: replies that come late, twice or never; ``"data"``: poisoned
        training data, where the app's data can be reached.
    attack : str
        Registered attack that crafts the updates; empty for none.
    arguments : tuple of (str, Any)
        Its arguments.
    spoil : callable, optional
        Changes a reply's content in place; returns whether there was something to change.
    reports : bool
        Whether it spoils what a client says of its evaluation, too.
    """

    name: str
    words: str
    kind: Kind
    attack: str = ""
    arguments: tuple[tuple[str, Any], ...] = ()
    spoil: Callable[[RecordDict], bool] | None = None
    reports: bool = False


def _first(content: RecordDict) -> tuple[str, dict[str, Array]]:
    """Return the first array record that has arrays, by name; none without a model."""
    for name, record in content.array_records.items():
        if record:
            return name, dict(record)
    return "", {}


def _reshaped(content: RecordDict) -> bool:
    name, arrays = _first(content)
    if arrays:
        key = next(iter(arrays))
        old = arrays[key].numpy()
        arrays[key] = Array(np.zeros(old.size + 1, old.dtype))
        content[name] = ArrayRecord(arrays)
    return bool(arrays)


def _without_one(content: RecordDict) -> bool:
    name, arrays = _first(content)
    if arrays:
        content[name] = ArrayRecord(dict(list(arrays.items())[:-1]))
    return bool(arrays)


def _garbled(content: RecordDict) -> bool:
    name, arrays = _first(content)
    if arrays:
        key = next(iter(arrays))
        arrays[key] = Array(np.frombuffer(b"\x00not a model\xff", dtype=np.uint8))
        content[name] = ArrayRecord(arrays)
    return bool(arrays)


def claim_key(metrics: Mapping[str, Any] | MetricRecord) -> str | None:
    """Return the name under which a reply claims its number of examples."""
    known = ("num-examples", "num_examples", "n", "examples")
    for key in known:
        if key in metrics:
            return key
    return next((key for key in metrics if "example" in key or "sample" in key), None)


def _claiming(value: float) -> Callable[[RecordDict], bool]:
    def spoil(content: RecordDict) -> bool:
        claimed = False
        for name, record in content.metric_records.items():
            key = claim_key(record)
            if key is not None:
                own = int(value) if math.isfinite(value) else value
                content[name] = MetricRecord({**dict(record), key: own})
                claimed = True
        return claimed

    return spoil


def _other_metrics(content: RecordDict) -> bool:
    records = content.metric_records
    for name, record in records.items():
        content[name] = MetricRecord({**dict(record), "unheard-of": 1.0})
    older = content.config_records.get("fitres.metrics")
    if older is None:
        older = content.config_records.get("evaluateres.metrics")
    if older is not None:
        older["unheard-of"] = 1.0
    return bool(records)


THREATS: tuple[Threat, ...] = (
    Threat(
        "sign flip x10",
        "sends the opposite of its update, ten times",
        "crafted",
        "sign-flip",
        (("scale", 10.0),),
    ),
    Threat(
        "scaled x100",
        "sends the opposite of its update, a hundred times",
        "crafted",
        "sign-flip",
        (("scale", 100.0),),
    ),
    Threat("gaussian", "sends noise", "crafted", "gaussian", (("std", 1.0),)),
    Threat("ALIE", "hides within the others' spread (ALIE)", "crafted", "alie"),
    Threat("IPM", "turns the average round (inner product)", "crafted", "ipm"),
    Threat("Min-Max", "goes as far as the others are apart (Min-Max)", "crafted", "min-max"),
    Threat("Mimic", "repeats one honest client (Mimic)", "crafted", "mimic"),
    Threat(
        "examples 1e12",
        f"flips its update and claims {ABSURD:.0e} examples",
        "crafted",
        "sign-flip",
        (("scale", 1.0),),
        _claiming(ABSURD),
    ),
    Threat("NaN", "sends one NaN", "crafted", "numerical", (("mode", "one-nan"),)),
    Threat("infinity", "sends infinities", "crafted", "numerical", (("mode", "inf"),)),
    Threat("1e30", "sends one number of 1e30", "crafted", "numerical", (("mode", "one-huge"),)),
    Threat(
        "examples NaN", "claims NaN examples", "spoilt", spoil=_claiming(math.nan), reports=True
    ),
    Threat("wrong shape", "sends an array of another shape", "spoilt", spoil=_reshaped),
    Threat("missing array", "leaves an array out", "spoilt", spoil=_without_one),
    Threat("garbled bytes", "sends bytes that are no model", "spoilt", spoil=_garbled),
    Threat(
        "other metrics",
        "reports a metric that others do not",
        "spoilt",
        spoil=_other_metrics,
        reports=True,
    ),
    Threat("stale", "sends its first update again and again", "network"),
    Threat("duplicate", "answers five times", "network"),
    Threat("dropped", "answers with an error", "network"),
    Threat("hung", "never answers", "network"),
    Threat("label flip", "trains on wrong labels", "data"),
    Threat("backdoor", "trains on triggered pictures", "data"),
)
"""In the order in which they are tried."""

BY_NAME = {threat.name: threat for threat in THREATS}
