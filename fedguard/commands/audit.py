"""``fedguard audit PATH``: does somebody's own Flower app survive, and what keeps it alive."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from fedguard.errors import ConfigurationError, RunError, check_number

app = typer.Typer(add_completion=False, rich_markup_mode="rich", pretty_exceptions_enable=False)

TOO_LITTLE = 3
"""Exit code where the app keeps less than `--fail-below`."""

DEFAULT_LIMIT = 0.5


@app.command()
def audit(
    path: Annotated[
        Path, typer.Argument(help="A Flower app's folder: its pyproject.toml lies there.")
    ],
    out: Annotated[
        Path | None, typer.Option(help="Folder of the results; the same one goes on. [audit/NAME]")
    ] = None,
    minutes: Annotated[float, typer.Option(help="Time for everything.")] = 10.0,
    clients: Annotated[
        int | None, typer.Option(help="Number of clients; the app's num-supernodes, or 10.")
    ] = None,
    seeds: Annotated[int, typer.Option(help="Runs of each cell.")] = 1,
    fractions: Annotated[
        str, typer.Option(help="Shares of malicious clients.")
    ] = "0.05,0.1,0.2,0.4",
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="KEY=VALUE of the app's run configuration; may be repeated."),
    ] = None,
    metric: Annotated[
        str | None, typer.Option(help="Figure by which the app is judged; found if left out.")
    ] = None,
    evaluate: Annotated[
        str | None,
        typer.Option(help="package.module:function of yours; arrays by name in, metrics out."),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(help="package.module:function with which the app loads a client's data."),
    ] = None,
    threats: Annotated[
        str, typer.Option(help="Only these, comma-separated; all of them if left out.")
    ] = "",
    workers: Annotated[
        int | None, typer.Option(help="Cells at a time. [two; one with --engine flower]")
    ] = None,
    engine: Annotated[
        str,
        typer.Option(help="Where clients run: inprocess, or flower (Flower's own simulation)."),
    ] = "inprocess",
    fail_below: Annotated[
        float | None,
        typer.Option(help="Exit with 3 where less than this share (0 to 1) is kept."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Attack your own Flower app as it is, and say what to paste where its server falls.

    [bold]fedguard audit .[/bold] runs the app in PATH without a change: in peace first, then with
    malicious, broken and absent clients at the grid, at 5, 10, 20 and 40 percent of the clients.
    Where it breaks, a few rules are tried in front of it, and the best one's lines are printed. The
    page, JSON, JUnit XML and SARIF are written to the folder of --out.

    [bold]What it judges by:[/bold] accuracy or loss that the app reports, of the server's own
    evaluation or the clients'. An app that evaluates nothing is judged by its model's distance from
    the peaceful one; --evaluate gives it a figure.

    [bold]Quick:[/bold] --minutes 3 --set num-server-rounds=3. [bold]In CI:[/bold] --fail-below 0.8
    exits with 3 if any cell up to a fifth of the clients keeps less than 80 percent of what is
    learnt in peace.
    """
    from rich.console import Console

    console = Console(stderr=True)
    shares = _shares(fractions)
    found, folder = perform(
        path,
        out,
        minutes=minutes,
        clients=clients,
        seeds=seeds,
        fractions=shares,
        settings=set_ or [],
        metric=metric,
        evaluate=evaluate,
        data=data,
        threats=[word.strip() for word in threats.split(",") if word.strip()],
        workers=workers,
        engine=engine,
        fail_below=fail_below,
        tell=lambda line: console.print(line, markup=False, highlight=False, soft_wrap=True),
        command=["fedguard", *sys.argv[1:]],
    )
    from fedguard.auditing.found import NO_TIME
    from fedguard.auditing.pipelines import plain
    from fedguard.auditing.words import outright, remedy_sentence, verdict_sentence
    from fedguard.records.writer import jsonable

    lines = ["", verdict_sentence(found), *(f"- {line}" for line in outright(found))]
    late = [name for name, why in found.untried.items() if why == NO_TIME]
    if late:
        lines.append(f"{NO_TIME}: {', '.join(late)}")
    lines.append(remedy_sentence(found))
    if paste := found.paste():
        lines += ["", *(f"    {line}" for line in paste), ""]
    lines.append(f"page: {folder / 'audit.html'}")
    shown = Console(stderr=as_json)
    for line in lines:
        shown.print(line, markup=False, highlight=False, soft_wrap=True)
    if as_json:
        print(json.dumps(jsonable(plain(found)), allow_nan=False, default=str))
    if fail_below is None:
        return
    worst = found.worst()
    if worst is None:
        raise RunError("--fail-below has nothing to judge: nothing was tried with up to a fifth")
    if worst < fail_below:
        raise typer.Exit(TOO_LITTLE)


def _shares(text: str) -> tuple[float, ...]:
    try:
        shares = tuple(float(word) for word in text.split(","))
    except ValueError:
        raise ConfigurationError("fractions", text, "shares such as 0.05,0.2") from None
    return shares


def perform(
    path: Path,
    out: Path | None = None,
    *,
    minutes: float = 10.0,
    clients: int | None = None,
    seeds: int = 1,
    fractions: tuple[float, ...] = (0.05, 0.1, 0.2, 0.4),
    settings: list[str] | None = None,
    metric: str | None = None,
    evaluate: str | None = None,
    data: str | None = None,
    threats: list[str] | None = None,
    workers: int | None = None,
    engine: str = "inprocess",
    fail_below: float | None = None,
    tell: Any = lambda _: None,
    command: list[str] | None = None,
) -> tuple[Any, Path]:
    """Audit an app and write what is found; return it and its folder.

    Raises
    ------
    ConfigurationError
        If there is no app, an option is not valid, or the folder holds another audit.
    RunError
        If the app does not get through in peace.
    """
    from fedguard.auditing.audit import Audit
    from fedguard.auditing.found import Plan
    from fedguard.auditing.page import command_of, write_page
    from fedguard.auditing.pipelines import write_json, write_junit, write_sarif
    from fedguard.auditing.project import FLOWER, Project
    from fedguard.auditing.threats import BY_NAME
    from fedguard.errors import unknown_name

    check_number("minutes", minutes, above=0.0)
    check_number("seeds", seeds, at_least=1)
    if not fractions:
        raise ConfigurationError("fractions", fractions, "shares such as 0.05,0.2")
    for share in fractions:
        check_number("fractions", share, above=0.0, below=1.0)
    if workers is None:
        workers = 1 if engine == FLOWER else min(2, os.cpu_count() or 1)
    check_number("workers", workers, at_least=1)
    if fail_below is not None:
        check_number("fail_below", fail_below, at_least=0.0, at_most=1.0)
    for name in threats or []:
        if name not in BY_NAME:
            raise unknown_name("threats", name, BY_NAME)
    project = Project.read(
        path,
        clients=clients,
        settings=settings or [],
        data=data,
        evaluate=evaluate,
        engine=engine,
    )
    folder = out or Path("audit") / re.sub(r"[^\w.-]+|^\.+", "_", project.name)
    _open(folder, project.plain(), project.fingerprint(), tell)
    plan = Plan(fractions, seeds, minutes, workers, tuple(threats or ()), metric)
    found = Audit(project, plan, folder, tell).run()
    shutil.rmtree(folder / "scratch", ignore_errors=True)
    write_json(folder / "audit.json", found)
    write_junit(folder / "junit.xml", found, DEFAULT_LIMIT if fail_below is None else fail_below)
    write_sarif(folder / "audit.sarif", found)
    write_page(
        folder / "audit.html", found, command_of(command or ["fedguard", "audit", str(path)])
    )
    return found, folder


def _open(
    folder: Path, project: dict[str, Any], code: str, tell: Callable[[str], None] = lambda _: None
) -> None:
    """Make the audit's folder; refuse one that holds another app's cells.

    Cells of the same app with other code, as before a remedy was pasted, say nothing of it: they
    are thrown away.
    """
    from fedguard.records.writer import write_atomically

    folder.mkdir(parents=True, exist_ok=True)
    place = folder / "project.json"
    known = json.loads(place.read_text(encoding="utf-8")) if place.exists() else None
    if known is not None and known.get("project") != json.loads(json.dumps(project)):
        raise ConfigurationError(
            "out", str(folder), "a new folder: this one holds an audit of another app or setting"
        )
    if known is not None and known.get("code") != code:
        tell("the app's files have changed since its last audit: every cell is run anew")
        shutil.rmtree(folder / "cells", ignore_errors=True)
    told = {"project": project, "code": code}
    write_atomically(place, json.dumps(told, indent=2).encode())
