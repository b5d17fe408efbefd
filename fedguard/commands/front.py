"""``fedguard``: the commands by name, each imported when it is asked for."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import click
from typer.core import TyperCommand, TyperGroup

from fedguard.errors import ConfigurationError, RunError, nearest
from fedguard.reporting.streams import settle_streams

COMMANDS: dict[str, tuple[str, str]] = {
    "simulate": ("fedguard.commands.simulate", "Run one attack against one defence; the default."),
    "sweep": ("fedguard.commands.sweep", "Run every combination of a campaign file's lists."),
    "compare": ("fedguard.commands.compare", "Set the results of runs side by side."),
    "audit": ("fedguard.commands.audit", "Attack your own Flower app; say what to paste."),
    "list": ("fedguard.commands.listing", "Print the names of a kind of part."),
    "schema": ("fedguard.commands.schema", "Print the configuration's JSON Schema."),
    "leaderboard": ("fedguard.commands.leaderboard", "Rank defences on a fixed battery."),
    "doctor": ("fedguard.commands.doctor", "Say what is installed, found and missing."),
    "new": ("fedguard.commands.new", "Write a strategy, attack or task of your own."),
    "completion": ("fedguard.commands.completion", "Print a shell's completion script."),
    "data check": ("fedguard.commands.data_check", "Say what is made of a table's columns."),
}
"""Each command with the module whose `app` it is, and what it does in a few words."""

STOPPED = 130
"""Exit code after Ctrl-C, as shells have it."""


class Front(TyperGroup):
    """`simulate` under the program's own name: its options, and the other commands beside them.

    Options of a group end where a command's name stands; here nothing but `simulate` is meant.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the options of `simulate`."""
        return click.Command.parse_args(self, ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run `simulate`."""
        return click.Command.invoke(self, ctx)


def front() -> Front:
    """Return the command that runs where no other one is named."""
    simulate = loaded("simulate")
    listed = [TyperCommand(name, help=text) for name, (_, text) in COMMANDS.items()]
    found = Front(
        name="fedguard",
        commands=listed,
        params=simulate.params,
        callback=simulate.callback,
        help=simulate.help,
        subcommand_metavar="| COMMAND [ARGS]...",
        rich_markup_mode="rich",
    )
    found.allow_interspersed_args = True
    return found


def loaded(name: str) -> Any:
    """Return a command, imported now."""
    app = import_module(COMMANDS[name][0]).app
    if isinstance(app, click.Command):
        return app
    from typer.main import get_command

    return get_command(app)


def chosen(given: Sequence[str]) -> tuple[Any, str, list[str]]:
    """Return the command that the first words name, its name on the screen, and its arguments.

    Raises
    ------
    ConfigurationError
        If the first word is no option, no file and no command; names the nearest one.
    """
    for name in COMMANDS:
        words = name.split()
        if list(given[: len(words)]) == words:
            return loaded(name), f"fedguard {name}", list(given[len(words) :])
    if list(given[1:]) == ["--help"] and _starts_a_command(given[0]):
        return _group(given[0]), f"fedguard {given[0]}", ["--help"]
    if given and not _is_configuration(given[0]):
        typed = " ".join(given[:2]) if _starts_a_command(given[0]) else given[0]
        hint = nearest(typed, COMMANDS)
        raise ConfigurationError("COMMAND", typed, f"{hint}{', '.join(COMMANDS)}, or a YAML file")
    return front(), "fedguard", list(given)


def _group(head: str) -> TyperGroup:
    """Return the group of the commands that start with a word; it shows their help."""
    listed = [
        TyperCommand(name.removeprefix(f"{head} "), help=text)
        for name, (_, text) in COMMANDS.items()
        if name.startswith(f"{head} ")
    ]
    return TyperGroup(name=head, commands=listed, rich_markup_mode="rich")


def _is_configuration(word: str) -> bool:
    """Return whether a first word can be an option or a file: a command has no dot or slash."""
    if _starts_a_command(word):
        return False
    return word.startswith("-") or not word.replace("-", "").isalpha() or Path(word).exists()


def _starts_a_command(word: str) -> bool:
    return any(name.startswith(f"{word} ") for name in COMMANDS)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return 0 done, 2 not valid, 1 a run that failed, 130 after Ctrl-C."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    settle_streams()
    if os.environ.get("_FEDGUARD_COMPLETE"):
        from fedguard.commands.completion import answer

        return answer(COMMANDS, loaded)
    command: Any = None
    rest = given
    try:
        command, name, rest = chosen(given)
        code = command.main(args=rest, prog_name=name, standalone_mode=False)
    except ConfigurationError as error:
        return _complain(str(error), 2)
    except click.ClickException as error:
        return _complain(_usage(error, command), 2)
    except (RunError, OSError) as error:
        return _complain(" ".join(str(error).split()) or type(error).__name__, 1)
    except (MemoryError, RuntimeError) as error:
        if not _out_of_memory(error):
            raise
        return _complain(
            "out of memory; fewer clients, a smaller fraction, model or batch_size need less, and "
            "--resume with the same --out goes on after the last checkpoint",
            1,
        )
    except (KeyboardInterrupt, click.exceptions.Abort):
        code = STOPPED
    if code == STOPPED:  # typer turns Ctrl-C into this code itself
        return _complain(f"stopped; {_again(given)} goes on", STOPPED)
    return int(code or 0)


def _again(given: Sequence[str]) -> str:
    """Return what to type to go on with what was stopped."""
    again = bool(given) and given[0] in ("sweep", "leaderboard", "audit")
    return "the same command" if again else "--resume with the same --out"


def _out_of_memory(error: BaseException) -> bool:
    """Return whether memory ran out; PyTorch says so with a RuntimeError."""
    words = ("can't allocate memory", "out of memory", "not enough memory")
    return isinstance(error, MemoryError) or any(word in str(error) for word in words)


def _usage(error: click.ClickException, command: click.Command) -> str:
    """Return a click error in one line; an unknown option with the nearest one."""
    name = getattr(error, "option_name", None)
    if name is not None and isinstance(error, click.NoSuchOption):
        options = [opt for param in command.params for opt in param.opts]
        hint = nearest(name, [option for option in options if option.startswith("--")])
        return f"{name}: no such option; {hint}see --help"
    return " ".join(error.format_message().split())


def _complain(message: str, code: int) -> int:
    print(f"fedguard: {message}", file=sys.stderr)
    return code
