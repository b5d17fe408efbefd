"""``fedguard completion bash|zsh|fish``: the script that completes the command in a shell."""

from __future__ import annotations

import os
from typing import Annotated, Any

import click
import typer
from click.shell_completion import CompletionItem, get_completion_class
from typer.main import get_command

from fedguard.commands.listing import names_of
from fedguard.config.parts import OPTIONAL_PARTS, PARTS
from fedguard.errors import check_choice

app = typer.Typer(add_completion=False, rich_markup_mode="rich", pretty_exceptions_enable=False)

SHELLS = ("bash", "zsh", "fish")
VARIABLE = "_FEDGUARD_COMPLETE"
"""What the script sets when it asks; the program then answers and does nothing else."""


@app.command()
def completion(
    shell: Annotated[str, typer.Argument(help="bash, zsh or fish.", show_default=False)],
) -> None:
    """Print the script that completes commands, options and names of parts in a shell.

    eval "$(fedguard completion bash)"
    """
    check_choice("SHELL", shell, SHELLS)
    found = get_completion_class(shell)
    assert found is not None
    print(found(click.Group(), {}, "fedguard", VARIABLE).source())


def answer(commands: dict[str, tuple[str, str]], loaded: Any) -> int:
    """Print what completes the words that a shell holds; return 0.

    Parameters
    ----------
    commands : dict
        Commands by name, with what they do.
    loaded : callable
        Returns a command of this name.
    """
    shell = os.environ[VARIABLE].partition("_")[0]
    found = get_completion_class(shell)
    if found is not None:
        tree = _Tree(commands, loaded)
        print(found(tree, {}, "fedguard", VARIABLE).complete())
    return 0


class _Tree(click.Group):
    """All commands as click sees them: `simulate`'s options at the top as well."""

    def __init__(self, commands: dict[str, tuple[str, str]], loaded: Any) -> None:
        super().__init__("fedguard", invoke_without_command=True)
        self._told, self._loaded = commands, loaded
        self.params = _completing(loaded("simulate")).params
        self.params = [one for one in self.params if isinstance(one, click.Option)]

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(dict.fromkeys(name.split()[0] for name in self._told))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in self._told:
            return _completing(self._loaded(cmd_name))
        below = {
            name.split()[1]: _completing(self._loaded(name))
            for name in self._told
            if name.startswith(f"{cmd_name} ")
        }
        return click.Group(cmd_name, below) if below else None


def _completing(command: Any) -> click.Command:
    """Return a command whose options for parts complete their names."""
    found: click.Command = command if isinstance(command, click.Command) else get_command(command)
    for one in found.params:
        if one.name in (*PARTS, *OPTIONAL_PARTS, "pre"):
            one._custom_shell_complete = _names(one.name)
    return found


def _names(kind: str) -> Any:
    def complete(_: click.Context, __: click.Parameter, typed: str) -> list[CompletionItem]:
        before, comma, last = typed.rpartition(",")
        known = [name for name in names_of(kind) if name.startswith(last)]
        return [CompletionItem(f"{before}{comma}{name}") for name in known]

    return complete
