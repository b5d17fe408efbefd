"""Options of `simulate`, made from the configuration's fields: types, choices, bounds, defaults."""

from __future__ import annotations

import re
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo
from typer.core import TyperOption

from fedguard.commands.listing import shown
from fedguard.config import SimulationConfig
from fedguard.config.parts import OPTIONAL_PARTS, PARTS, Part

PARTS_PANEL, DATA_PANEL, TRAINING_PANEL, RUN_PANEL = PANELS = (
    "Robustness",
    "Data and model",
    "Training",
    "Run",
)

_GROUPED: Mapping[str, tuple[str, ...]] = {
    PARTS_PANEL: (
        "strategy",
        "pre",
        "attack",
        "attack_knowledge",
        "attack_rounds",
        "malicious",
        "poisoned_clients",
        "assumed_malicious",
        "faults",
        "repair",
        "repair_at",
        "audit",
        "enrolment",
        "unlearn",
    ),
    DATA_PANEL: (
        "dataset",
        "data_dir",
        "model",
        "latent_layer",
        "start_from",
        "partition",
        "server_samples",
        "server_draw",
        "server_classes",
        "server_label_noise",
        "evaluate_clients",
    ),
    TRAINING_PANEL: (
        "clients",
        "fraction",
        "rounds",
        "patience",
        "best_by",
        "training",
        "local_epochs",
        "batch_size",
        "lr",
        "momentum",
        "weight_decay",
        "client_app",
        "client_config",
    ),
}
"""Fields of each panel in the order of the help; the others are in the last panel."""

_LARGEST = 2**53
"""A bound beyond it is the machine's, not the field's, and is not shown."""

_WIDEST = 20
"""Characters of choices that stand in the column of types; more are told behind the help."""

_SPELT = {
    bool: "[true|false]",
    int: "INTEGER",
    float: "FLOAT",
    str: "TEXT",
    Path: "PATH",
    Part: "NAME",
}
_BOUNDS = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}


def field_options() -> list[TyperOption]:
    """Return an option for every field of the configuration, panel by panel.

    A value arrives as the text that was typed: the configuration reads and checks it, so that a
    flag, a file and ``--set`` end in the same values and the same errors.
    """
    fields = SimulationConfig.model_fields
    placed = [(name, panel) for panel, names in _GROUPED.items() for name in names]
    named = {name for name, _ in placed}
    placed += [(name, RUN_PANEL) for name in fields if name not in named]
    return [_option(name, fields[name], panel) for name, panel in placed]


def spelt_option(
    name: str, panel: str, metavar: str, help: str, *, key: str | None = None, **more: Any
) -> TyperOption:
    """Return an option that takes a text as it is typed; `metavar` says what is meant.

    Parameters
    ----------
    key : str, optional
        Name of the argument that receives it; the option's own if left out.
    """
    names = [name] if key is None else [name, key]
    return TyperOption(
        param_decls=names, metavar=metavar, help=help, rich_help_panel=panel, type=str, **more
    )


def switch(name: str, panel: str, help: str, *, key: str | None = None) -> TyperOption:
    """Return an option without a value: off unless it is named."""
    names = [name] if key is None else [name, key]
    return TyperOption(
        param_decls=names, is_flag=True, default=False, help=help, rich_help_panel=panel
    )


def with_facts(text: str, *facts: str) -> str:
    """Return a help text with default and bounds behind it, as rich shows them."""
    told = "; ".join(fact for fact in facts if fact)
    return f"{_escape(text)} [dim]{_escape(f'[{told}]')}[/dim]" if told else _escape(text)


def _escape(text: str) -> str:
    """Return a text whose brackets rich shows; its own function costs a tenth of a second."""
    return re.sub(r"(\\*)(\[[a-z#/@][^\[]*?\])", r"\1\1\\\2", text)


def _option(name: str, field: FieldInfo, panel: str) -> TyperOption:
    text = (field.description or "").replace("``", "").replace("`", "")
    if name in (*PARTS, *OPTIONAL_PARTS, "pre"):
        text = f"{text} Names: fedguard list {shown(name)}."
    default = spelt_default(field)
    facts = (f"default: {default}" if default else "", spelt_bounds(field), _choices(field))
    flag = f"--{name.replace('_', '-')}"
    return spelt_option(flag, panel, spelt_type(name, field), with_facts(text, *facts))


def spelt_type(name: str, field: FieldInfo) -> str:
    """Return a field's type as the help shows it: ``INTEGER``, ``[partial|full]``, ``NAME``."""
    if name == "pre":
        return "NAME,..."
    kind = _kind(field.annotation)
    if get_origin(kind) is Literal:
        listed = f"[{'|'.join(get_args(kind))}]"
        return listed if len(listed) <= _WIDEST else "CHOICE"
    return _SPELT.get(kind, "YAML")


def _choices(field: FieldInfo) -> str:
    """Return the choices that do not fit into the column of types."""
    kind = _kind(field.annotation)
    if get_origin(kind) is not Literal or spelt_type("", field) != "CHOICE":
        return ""
    return f"one of {', '.join(get_args(kind))}"


def _kind(annotation: Any) -> Any:
    """Return a type without ``| None`` and without what is annotated."""
    if get_origin(annotation) is Annotated:
        return _kind(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        kinds = [one for one in get_args(annotation) if one is not types.NoneType]
        return _kind(kinds[0]) if len(kinds) == 1 else Any
    return annotation


def spelt_default(field: FieldInfo) -> str:
    """Return a field's default as it would be typed, empty where there is none to type."""
    default = field.get_default(call_default_factory=True)
    if isinstance(default, Part):
        arguments = ", ".join(f"{name} {value}" for name, value in default.arguments.items())
        return f"{default.name}, {arguments}" if arguments else str(default.name)
    if isinstance(default, bool):
        return str(default).lower()
    plain = isinstance(default, int | float | str)
    return str(default) if plain else ""


def spelt_bounds(field: FieldInfo) -> str:
    """Return a number's range, ``0<x<=1``, empty where it has none."""
    found = {
        sign: getattr(one, name)
        for one in field.metadata
        for name, sign in _BOUNDS.items()
        if getattr(one, name, None) is not None
    }
    low = [f"{found[sign]:g}{sign.replace('>', '<')}" for sign in (">", ">=") if sign in found]
    above = [sign for sign in ("<", "<=") if sign in found and found[sign] < _LARGEST]
    high = [f"{sign}{_number(found[sign])}" for sign in above]
    return f"{''.join(low)}x{''.join(high)}" if low or high else ""


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else str(value)
