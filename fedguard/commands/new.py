"""``fedguard new strategy|attack|task NAME``: a part of one's own that conforms as written."""

from __future__ import annotations

import keyword
import re
from importlib.util import find_spec
from pathlib import Path
from string import Template
from typing import Annotated

import typer

from fedguard import registry
from fedguard.errors import ConfigurationError, check_choice

app = typer.Typer(add_completion=False, rich_markup_mode="rich", pretty_exceptions_enable=False)

KINDS = ("strategy", "attack", "task")

_TEMPLATES = Path(__file__).with_name("templates")
_ENTRIES = {
    "strategy": (("strategies", ""),),
    "attack": (("attacks", ""),),
    "task": (("tasks", ""), ("datasets", "Data"), ("models", "Model")),
}
"""Groups of entry points of each kind, with the end of the class's name."""

_OPTION = {"strategy": "--strategy", "attack": "--attack", "task": "--dataset"}


@app.command()
def new(
    kind: Annotated[
        str, typer.Argument(help="strategy, attack or task.", metavar="KIND", show_default=False)
    ],
    name: Annotated[
        str, typer.Argument(help="Lower case, with hyphens: nearest-half.", show_default=False)
    ],
    out: Annotated[
        Path | None, typer.Option(help="A folder that does not exist yet; ./NAME if left out.")
    ] = None,
) -> None:
    """Write a part of one's own, its test and its package into a fresh folder.

    The part passes its conformance check as it is; change it from there. It runs at once as
    MODULE:CLASS, and under its name once the folder is installed.
    """
    module = checked_name(kind, name)
    folder = Path(name) if out is None else out
    if folder.exists():
        raise ConfigurationError("--out", str(folder), "a folder that does not exist yet")
    files = written(kind, name, module)
    folder.mkdir(parents=True)
    for file, text in files.items():
        (folder / file).write_text(text, encoding="utf-8")
    part = f"{module}:{class_of(name)}{'Data' if kind == 'task' else ''}"
    lines = [
        f"wrote {', '.join(str(folder / file) for file in files)}",
        f"cd {folder}",
        f"python -m pytest {f'test_{module}.py'}",
        f"python -m fedguard.simulate {_OPTION[kind]} {part}",
        f"pip install -e .    # from then on everywhere: fedguard {_OPTION[kind]} {name}",
    ]
    print("\n".join(lines))


def checked_name(kind: str, name: str) -> str:
    """Return the module's name of a part, once its kind and name will do.

    Raises
    ------
    ConfigurationError
        If the kind is none of `KINDS`, or the name is taken or cannot be a module's.
    """
    check_choice("KIND", kind, KINDS)
    module = name.replace("-", "_")
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name) or keyword.iskeyword(module):
        raise ConfigurationError("NAME", name, "lower case letters, digits and hyphens")
    taken = {*registry.names(kind), *registry.names("dataset" if kind == "task" else kind)}
    if name in taken:
        raise ConfigurationError("NAME", name, f"a name that no {kind} has yet")
    if find_spec(module) is not None:
        raise ConfigurationError("NAME", name, f"one that no module has: {module} is installed")
    return module


def class_of(name: str) -> str:
    """Return the class's name: ``nearest-half`` is ``NearestHalf``."""
    return "".join(word.capitalize() for word in name.split("-"))


def written(kind: str, name: str, module: str) -> dict[str, str]:
    """Return the files of a part: its module, its test and its package, by file name."""
    words = {"name": name, "module": module, "cls": class_of(name)}
    entries = "\n\n".join(
        f'[project.entry-points."fedguard.{group}"]\n{name} = "{module}:{words["cls"]}{end}"'
        for group, end in _ENTRIES[kind]
    )
    files = {
        f"{module}.py": f"{kind}.txt",
        f"test_{module}.py": f"{kind}_test.txt",
        "pyproject.toml": "pyproject.txt",
    }
    return {
        file: Template((_TEMPLATES / template).read_text(encoding="utf-8")).substitute(
            {**words, "entries": entries}
        )
        for file, template in files.items()
    }
