"""One page for every part that has a formula, made from its class and never committed."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any, Literal

from documentation import formulas
from documentation.board import worst_case
from fedguard import registry
from fedguard.commands.catalogue import costs, league, needs, paper, summary
from fedguard.commands.listing import shown
from fedguard.traits import Traits, traits_of

Kind = Literal["strategy", "attack", "pre", "repair", "training"]

_RUNS = {
    "strategy": "python -m fedguard.simulate --strategy {name}",
    "attack": "python -m fedguard.simulate --attack {name} --strategy median",
    "vertical strategy": "python -m fedguard.simulate --strategy {name} --clients 4",
    "vertical attack": "python -m fedguard.simulate --strategy vfl --attack {name} --clients 4",
}

_NO_NOTES = "    options:\n      extra:\n        notes: false"
"""The formula stands at the top of the page already; see the template of admonitions."""


def pages(kind: Kind) -> dict[str, str]:
    """Return every part's page as Markdown, by its place in the site."""
    names = [*registry.names(kind), *registry.names(kind, "vertical")]
    return {place(kind, name): page(kind, name) for name in names}


def place(kind: Kind, name: str) -> str:
    """Return where a part's page lies in the site."""
    return f"parts/{shown(kind)}/{name.replace('+', '-plus')}.md"


def page(kind: Kind, name: str) -> str:
    """Return one part's page: facts, threat model, command, arguments, then its docstring."""
    part = registry.find(kind, name)
    vertical = name in registry.names(kind, "vertical")
    command = _RUNS.get(f"vertical {kind}" if vertical else kind, "").format(name=name)
    rows = [(what, told) for what, told in _facts(kind, name, part, vertical) if told]
    blocks = [
        f"# {name}",
        summary(part),
        _table(("", ""), rows),
        f"```\n{command}\n```" if command else "",
        "## Formula",
        formulas.notes(part) or f"None: {formulas.WITHOUT.get((kind, name), 'told in words')}.",
        "## Arguments",
        _arguments(part) or "None of its own.",
        "## In full",
        f"::: {part.__module__}.{part.__qualname__}\n{_NO_NOTES}",
    ]
    return "\n\n".join(block for block in blocks if block) + "\n"


def _facts(
    kind: Kind, name: str, part: Callable[..., Any], vertical: bool
) -> list[tuple[str, str]]:
    declared = traits_of(part)
    found = [("paper", paper(part) or "none: ours, or folklore")]
    world = "parties with different features" if vertical else "clients with different rows"
    if kind in ("strategy", "attack"):
        found.append(("world", world))
    if kind == "strategy":
        found += [
            ("league", "" if vertical else league(part)),
            ("needs", "" if vertical else needs(kind, part)),
            ("the server sees", declared.visible),
            ("threat model", _assumed(part)),
            ("worst case", worst_case(name)),
            ("cost", f"{costs()[name]:g} s of processor time a round" if name in costs() else ""),
        ]
    elif kind == "attack":
        found += [
            ("attacker needs", "" if vertical else needs(kind, part)),
            ("threat model", _capabilities(part)),
            ("tasks", ", ".join(sorted(getattr(part, "tasks", None) or ())) or "every task"),
        ]
    elif kind == "repair":
        found.append(("needs", needs(kind, part)))
    found.append(("traits", _unusual(declared)))
    found.append(("class", f"`{part.__module__}.{part.__qualname__}`"))
    return found


def _assumed(part: Callable[..., Any]) -> str:
    if "assumed_malicious" in registry.parameters(part):
        return "assumes a bound (`assumed_malicious`); never told who lies, nor how many"
    return "never told who lies, nor how many; assumes no number"


def _capabilities(part: Any) -> str:
    wanted = frozenset(getattr(part, "needs", ()))
    told = []
    if "updates" in wanted:
        alone = getattr(part, "alone", False)
        told.append(
            "each client rewrites its own update" if alone else "a coalition crafts updates"
        )
    if "data" in wanted:
        told.append("poisons its clients' data")
    if "training" in wanted:
        told.append("changes its clients' training")
    if "aggregate" in wanted:
        told.append("owns a copy of the deployed rule")
    if getattr(part, "backdoor", False):
        told.append("aims at triggered inputs")
    return "; ".join(told) or "as its text says"


def _unusual(declared: Traits) -> str:
    """Return the traits that differ from the defaults."""
    plain = Traits()
    found = [
        f"`{one.name}`: {_spelt(getattr(declared, one.name))}"
        for one in fields(Traits)
        if getattr(declared, one.name) != getattr(plain, one.name)
    ]
    return ", ".join(found) or "the defaults"


def _spelt(value: object) -> str:
    if isinstance(value, frozenset):
        return ", ".join(sorted(map(str, value)))
    return "yes" if value is True else "no" if value is False else str(value)


def _arguments(part: Callable[..., Any]) -> str:
    own = {
        name: one
        for name, one in registry.parameters(part).items()
        if name not in _shared() and name not in ("self", "args", "flower", "base")
    }
    rows = [
        (f"`{name}`", f"`{_annotation(one.annotation)}`", _default(one))
        for name, one in own.items()
    ]
    return _table(("argument", "type", "default"), rows) if rows else ""


def _shared() -> set[str]:
    """Return the arguments that every strategy takes from its base."""
    from fedguard.strategies.base import RobustStrategy

    return set(registry.parameters(RobustStrategy))


def _annotation(annotation: Any) -> str:
    text = annotation.__name__ if inspect.isclass(annotation) else str(annotation)
    return text.replace("typing.", "")


def _default(one: registry.Parameter) -> str:
    return "demanded" if one.required else f"`{one.default!r}`"


def _table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [f"| {' | '.join(header)} |", "|" + "---|" * len(header)]
    lines += [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows]
    return "\n".join(lines)
