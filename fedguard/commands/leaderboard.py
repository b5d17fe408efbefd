"""``fedguard leaderboard``: defences on a fixed battery, ranked within their leagues."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import yaml

from fedguard import registry
from fedguard.campaigns.battery import Battery, Contender, read_battery, scenario
from fedguard.campaigns.campaign import Cell
from fedguard.campaigns.cells import finished_summary, read_error
from fedguard.campaigns.plan import Plan, check_cells
from fedguard.campaigns.pool import Sweep
from fedguard.campaigns.progress import SweepProgress
from fedguard.commands.sweep import worker_count
from fedguard.errors import ConfigurationError, RunError

if TYPE_CHECKING:
    from fedguard.reporting.leaderboard import Played, Row

app = typer.Typer(add_completion=False, rich_markup_mode="rich", pretty_exceptions_enable=False)


@app.command()
def leaderboard(
    battery: Annotated[Path, typer.Argument(help="The battery's file, YAML.")] = Path(
        "leaderboard/v1.yaml"
    ),
    size: Annotated[str, typer.Option(help="Which of its sizes: quick, full.")] = "quick",
    add: Annotated[
        list[Path] | None,
        typer.Option(help="A defence of your own, YAML; may be repeated."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="The page; leaderboard/VERSION-SIZE.html if left out.")
    ] = None,
    folder: Annotated[
        Path | None, typer.Option(help="Where runs lie; runs/leaderboard-VERSION-SIZE else.")
    ] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Folder of the data's files.")] = None,
    workers: Annotated[
        int | None, typer.Option(help="Runs at a time; 0 or 1: in this process.")
    ] = 1,
    threads: Annotated[int, typer.Option(help="PyTorch threads of each run.")] = 1,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object at the end.")
    ] = False,
) -> None:
    """Run defences on a fixed battery and write one page with a ranking for each league.

    Runs that are done are kept; the same command goes on. A defence that is added is tried first:
    it must conform, and must not reject a coalition that behaves honestly more than others, by
    which a rule that knows who is malicious gives itself away.

    Exit codes: 0 all runs are done, 1 some failed or a defence was refused, 2 not valid.
    """
    from rich.console import Console

    from fedguard.reporting.leaderboard import standings
    from fedguard.reporting.leaderboard_page import write_leaderboard
    from fedguard.reporting.streams import settle_flower

    settle_flower()
    given = read_battery(battery, size, add or [])
    for path in add or []:
        check_newcomer(Contender.of(yaml.safe_load(path.read_text(encoding="utf-8")), str(path)))
    settings = {} if data_dir is None else {"data_dir": str(data_dir)}
    by_name = {one.name: given.cells(one, settings) for one in given.contenders}
    place = Path("runs") / f"leaderboard-{given.name}" if folder is None else folder
    everything = [cell for own in by_name.values() for cell in own]
    check_cells(everything)
    console = Console(stderr=True)
    perform(everything, place, worker_count(workers), threads, console)
    played = [one for who in given.contenders for one in results(who, by_name[who.name], place)]
    leagues = standings(played, given.reference)
    page = Path("leaderboard") / f"{given.name}.html" if out is None else out
    write_leaderboard(page, leagues, title(given))
    failed = sum(row.failed for rows in leagues.values() for row in rows)
    if as_json:
        print(json.dumps(plain(given, leagues, page)))
    else:
        for line in as_lines(leagues):
            print(line)
        print(f"page: {page}")
    raise typer.Exit(1 if failed else 0)


def check_newcomer(contender: Contender) -> None:
    """Refuse a defence that does not conform or that knows who is malicious.

    Raises
    ------
    ConfigurationError
        If it does not keep its contract.
    RunError
        If it rejects a coalition that behaves honestly.
    """
    from fedguard.assembly.plugins import check_plugin
    from fedguard.campaigns.blindness import LEVEL, blindness

    given = contender.fields["strategy"]
    arguments = {k: v for k, v in given.items() if k != "name"} if isinstance(given, dict) else {}
    made = registry.create("strategy", contender.strategy, **arguments)
    check_plugin("strategy", contender.strategy, made)
    chance = blindness(contender.fields)
    if chance < LEVEL:
        raise RunError(
            f"{contender.name} rejects a coalition that behaves honestly (chance {chance:.4f}): "
            "it knows who is malicious by another way than the updates"
        )


def perform(cells: Sequence[Cell], folder: Path, workers: int, threads: int, console: Any) -> None:
    """Run what is not done yet, with progress on a console."""
    folder.mkdir(parents=True, exist_ok=True)
    plan = Plan.of(cells, folder)
    to_do = plan.to_do(retry_failed=False)
    with SweepProgress(len(cells), plan.pace(), to_do, workers, console) as progress:
        Sweep(plan, workers, threads).execute(to_do, progress)


def results(contender: Contender, cells: Sequence[Cell], folder: Path) -> list[Played]:
    """Return a defence's runs as they lie in the folder.

    Raises
    ------
    ConfigurationError
        If a run is led by another figure than accuracy, which the board's score is made of.
    """
    from fedguard.reporting.leaderboard import Played

    found = []
    for cell in cells:
        directory = folder / cell.directory
        summary = finished_summary(directory, cell.digest)
        if summary is not None and "accuracy" not in (summary.get("final") or {}):
            raise ConfigurationError("grid.dataset", cell.label, "data whose task tells accuracy")
        config = cell.config.model_dump(mode="json", exclude={"data_dir"})
        found.append(
            Played(
                defence=contender.name,
                league=contender.league,
                by=contender.by,
                scenario=scenario(cell),
                clean=cell.config.attack.name == "none",
                seed=cell.config.seed,
                summary=summary,
                config=yaml.safe_dump(config, sort_keys=False, allow_unicode=True),
                error="" if summary is not None else read_error(directory) or "not run",
            )
        )
    return found


def title(battery: Battery) -> str:
    """Return the page's title: version, size, date and machine."""
    from fedguard import __version__

    machine = f"{platform.machine()}, {os.cpu_count()} cores"
    return f"{battery.name}, {date.today().isoformat()}, fedguard {__version__}, {machine}"


def as_lines(leagues: dict[str, list[Row]]) -> list[str]:
    """Return the rankings as plain lines of at most 80 columns."""
    from fedguard.reporting.leaderboard import LEAGUES
    from fedguard.reporting.wording import bounded, duration, percent

    lines = []
    for league, rows in leagues.items():
        lines.append(f"{LEAGUES[league]:28} worst case     mean  honest rejected  a round")
        for row in rows:
            figures = (
                f"{percent(row.worst):>10} {percent(row.mean):>8} {percent(row.wronged):>16} "
                f"{duration(row.seconds):>8}"
            )
            lines.append(f"  {bounded(row.defence, 26):26} {figures}")
    return lines


def plain(battery: Battery, leagues: dict[str, list[Row]], page: Path) -> dict[str, Any]:
    """Return the board as plain values."""
    return {
        "battery": battery.name,
        "title": title(battery),
        "page": str(page),
        "leagues": {
            league: [{k: v for k, v in asdict(row).items() if k != "cells"} for row in rows]
            for league, rows in leagues.items()
        },
    }
