"""Where progress is shown: one live line on a terminal or in a notebook, plain lines elsewhere."""

from __future__ import annotations

import importlib.util
import os
from typing import IO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TaskID, TextColumn
from rich.progress import Progress as Bar
from rich.text import Text

from fedguard.reporting.wording import bounded

BAR = 12
"""Columns of the bar."""
MAX_LINE = 2000
"""Characters of a line that stays."""


def moves(console: Console) -> bool:
    """Return whether a line can change there: a terminal, or Jupyter with the widgets rich needs.

    Without them rich would warn at every change; plain lines are shown instead. A file is none,
    even where ``FORCE_COLOR`` makes rich take it for a terminal.
    """
    widgets = console.is_jupyter and importlib.util.find_spec("ipywidgets") is not None
    forced = any(os.environ.get(name) for name in ("FORCE_COLOR", "TTY_COMPATIBLE"))
    return (console.is_terminal and not (forced and not is_screen(console.file))) or widgets


def is_screen(file: IO[str]) -> bool:
    """Return whether a file is a terminal, which cannot be asked of one that is closed."""
    try:
        return file.isatty()
    except ValueError:
        return False


class LiveLine:
    """A bar with words beside it, taken away at the end.

    Parameters
    ----------
    total : int
        What the bar counts up to.
    console : Console or None
        Where to write; None writes nothing.
    """

    def __init__(self, total: int, console: Console | None) -> None:
        self._total, self._console = total, console
        self._bar: Bar | None = None
        self._task = TaskID(0)

    @property
    def live(self) -> bool:
        """Whether there is a line that moves; otherwise `say` is all there is."""
        return self._bar is not None

    def start(self, said: str, done: int = 0) -> None:
        """Show the bar where there is a place for one."""
        console = self._console
        if console is None or not moves(console):
            return
        columns = (SpinnerColumn(), BarColumn(bar_width=BAR), MofNCompleteColumn())
        words = TextColumn("{task.fields[said]}", markup=False)
        self._bar = Bar(*columns, words, console=console, transient=True)
        self._task = self._bar.add_task("", total=self._total, completed=done, said=said)
        self._bar.start()

    def move(self, said: str, done: int | None = None) -> None:
        """Change the words, cut to one row, and how far the bar is."""
        if self._bar is not None:
            room = self._bar.console.width - BAR - 2 * len(str(self._total)) - 5
            self._bar.update(self._task, completed=done, said=bounded(said, max(room, 1)))

    def say(self, text: str) -> None:
        """Write a line that stays, above the bar where there is one.

        An error or a reason in it may come from a client, so it is kept from steering a terminal.
        """
        if self._console is not None:
            console = self._console if self._bar is None else self._bar.console
            console.print(Text(bounded(text, MAX_LINE)), soft_wrap=True)

    def stop(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
