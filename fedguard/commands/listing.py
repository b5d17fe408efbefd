"""``fedguard list KIND``: the parts that a configuration can name."""

from __future__ import annotations

from typing import Annotated

import typer

from fedguard import registry
from fedguard.errors import unknown_name

app = typer.Typer(add_completion=False, rich_markup_mode="rich", pretty_exceptions_enable=False)

_WORDS = {
    "strategy": "strategies",
    "training": "training",
    "pre": "pre",
    "enrolment": "enrolment",
}
"""Kinds whose list is not called by the kind with an s."""


def shown(kind: str) -> str:
    """Return the word that lists a kind of part."""
    return _WORDS.get(kind, f"{kind}s")


def kind_of(word: str, option: str) -> str:
    """Return the kind that a word lists: ``attacks`` and ``attack`` are both attack.

    Raises
    ------
    ConfigurationError
        On `option`, with the nearest word.
    """
    kinds = {word: kind for kind in registry.KINDS for word in (kind, f"{kind}s", shown(kind))}
    if word not in kinds:
        raise unknown_name(option, word, [shown(kind) for kind in registry.KINDS])
    return kinds[word]


def names_of(kind: str) -> list[str]:
    """Return every name of a kind, sorted: own, third parties' and those of vertical learning."""
    return sorted({*registry.names(kind), *registry.names(kind, "vertical")})


def long_lines(kind: str) -> list[str]:
    """Return a line per part of a kind: name, what it needs, paper; a dash where there is none."""
    from fedguard.commands.catalogue import needs, paper

    rows = []
    for name in names_of(kind):
        part = registry.find(kind, name)
        vertical = name in registry.names(kind, "vertical")
        wanted = "parties with different features" if vertical else needs(kind, part)
        rows.append((name, wanted, paper(part).replace("*", '"') or "-"))
    width, wide = (max(len(row[column]) for row in rows) for column in (0, 1))
    return [f"{name:{width}}  {wanted:{wide}}  {source}" for name, wanted, source in rows]


@app.command(name="list")
def list_parts(
    kind: Annotated[
        str | None,
        typer.Argument(
            help="strategies, attacks, datasets, ...; all kinds if left out.", show_default=False
        ),
    ] = None,
    long: Annotated[
        bool, typer.Option("--long", help="With what each needs, and its paper.")
    ] = False,
) -> None:
    """Print the names of a kind of part, one a line.

    `package.module:Class` stands for a part of your own wherever one of these names does.
    """
    if kind is None:
        print("\n".join(shown(one) for one in registry.KINDS))
        return
    found = kind_of(kind, "KIND")
    print("\n".join(long_lines(found) if long else names_of(found)))
