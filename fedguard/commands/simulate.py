"""``fedguard simulate``: one run, from a configuration and flags to a run directory."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typer.core import TyperArgument, TyperCommand, TyperOption

from fedguard import late_imports
from fedguard.commands.options import (
    DATA_PANEL,
    RUN_PANEL,
    field_options,
    spelt_option,
    switch,
    with_facts,
)
from fedguard.config import SimulationConfig, assign, load_yaml, parse, read_setting, scalar

if TYPE_CHECKING:
    from click import Parameter

TEXT = (
    "Attack a federated model and see whether a defence keeps it alive.\n\n"
    "With nothing but a strategy it attacks scikit-learn's handwritten digits:\n\n"
    "    python -m fedguard.simulate --strategy geminiguard\n"
    "    python -m fedguard.simulate --strategy fedavg\n\n"
    "Every option is a field of the YAML configuration; the run directory's config.yaml repeats "
    "the run exactly. Vertical strategies and some data sets have defaults of their own.\n\n"
    "Exit codes: 0 done, 1 a run that failed, 2 a configuration that is not valid, 130 stopped by "
    "Ctrl-C."
)

ALPHA = 0.5
"""Default of the Dirichlet split, which `--alpha` replaces."""


def params() -> list[Parameter]:
    """Return the command's argument and options, grouped in panels."""
    config = TyperArgument(
        param_decls=["config"],
        type=Path,
        required=False,
        metavar="[CONFIG]",
        show_default=False,
    )
    config.help = "YAML file; flags win over it."  # click's constructor would take it away
    return [config, *_in_panels([*field_options(), *_other_options()])]


def _other_options() -> list[TyperOption]:
    """Return the options that are no field of the configuration."""
    alpha = "Dirichlet concentration, as partition.alpha; small is heterogeneous."
    return [
        spelt_option("--alpha", DATA_PANEL, "FLOAT", with_facts(alpha, f"default: {ALPHA}", "0<x")),
        spelt_option("--out", RUN_PANEL, "PATH", "Run directory; runs/NAME if left out."),
        switch("--resume", RUN_PANEL, "Go on from the newest checkpoint in --out."),
        spelt_option(
            "--set",
            RUN_PANEL,
            "FIELD=VALUE",
            "Any field or part argument: strategy.max_clusters=6; may be repeated.",
            key="settings",
            multiple=True,
        ),
        spelt_option(
            "--track",
            RUN_PANEL,
            "NAME",
            "Also send metrics to tensorboard, mlflow or wandb; may be repeated.",
            multiple=True,
        ),
        switch(
            "--json", RUN_PANEL, "Print the summary as one JSON line at the end.", key="as_json"
        ),
        spelt_option(
            "--list", RUN_PANEL, "KIND", "As fedguard list KIND: print names, stop.", key="listing"
        ),
        switch("--schema", RUN_PANEL, "As fedguard schema: print the JSON Schema and stop."),
    ]


def _in_panels(options: Sequence[TyperOption]) -> list[TyperOption]:
    """Return options so that those of a panel follow each other."""
    panels = list(dict.fromkeys(option.rich_help_panel for option in options))
    return sorted(options, key=lambda option: panels.index(option.rich_help_panel))


def simulate(
    config: Path | None,
    settings: Sequence[str],
    track: Sequence[str],
    out: str | None,
    listing: str | None,
    alpha: str | None,
    *,
    resume: bool,
    as_json: bool,
    schema: bool,
    **fields: str | None,
) -> None:
    """Do what the command line says; `fields` are the configuration's, as they were typed."""
    if listing is not None:
        from fedguard.commands.listing import kind_of, names_of

        print("\n".join(names_of(kind_of(listing, "--list"))))
    elif schema:
        from fedguard.config.schema import schema_text

        print(schema_text(), end="")
    else:
        late_imports.hold_back()  # before a configuration is read: its parts are imported then
        found = configuration(config, {**fields, "partition.alpha": alpha}, settings)
        if found.engine not in ("auto", "inprocess"):
            late_imports.complete()
        run(found, None if out is None else Path(out), resume=resume, as_json=as_json, track=track)


def configuration(
    path: Path | None, flags: Mapping[str, str | None], settings: Sequence[str]
) -> SimulationConfig:
    """Return the checked configuration of a file, flags over it, and ``--set`` over both."""
    values = load_yaml(path) if path is not None else {}
    for name, text in flags.items():
        if text is not None:
            assign(values, name, scalar(text))
    for setting in settings:
        assign(values, *read_setting(setting))
    return parse(values)


def run(
    config: SimulationConfig,
    out: Path | None,
    *,
    resume: bool,
    as_json: bool,
    track: Sequence[str] = (),
) -> None:
    """Run one configuration with progress and a summary on the terminal."""
    directory, summary = perform(config, out, resume=resume, track=track)
    from rich.console import Console  # what round 1 does not need is imported after it

    from fedguard.reporting.report import write_report
    from fedguard.reporting.summary import render_summary

    summary["report"] = str(write_report(directory))
    Console(stderr=as_json).print(render_summary(summary))
    if as_json:
        print(json.dumps(summary, allow_nan=False))


def perform(
    config: SimulationConfig,
    out: Path | None,
    *,
    resume: bool = False,
    track: Sequence[str] = (),
    progress: bool = True,
) -> tuple[Path, dict[str, Any]]:
    """Run one configuration with progress on standard error; return its directory and summary.

    Raises
    ------
    ConfigurationError
        If parts do not fit, or `out` holds another run.
    RunError
        If the run cannot go on.
    """
    from fedguard.records.directory import choose_directory
    from fedguard.reporting.headline import Headline
    from fedguard.reporting.opening import opening_lines
    from fedguard.reporting.progress import Progress
    from fedguard.reporting.streams import settle_flower
    from fedguard.reporting.tracking import Tracking
    from fedguard.runs.simulation import Simulation

    settle_flower()
    directory = choose_directory(config, out, resume)
    tracking = Tracking(track, config, directory)
    simulation = Simulation(config)
    lead = Headline.of({"headline": simulation.world.task.told})
    with Progress(config.rounds, progress, headline=lead) as shown, tracking:
        for line in opening_lines(simulation.config):
            shown.note(line)

        def on_round(record: dict[str, Any]) -> None:
            shown.update(record)
            tracking.on_round(record)

        summary = simulation.run(directory, resume=resume, on_round=on_round, on_opening=shown.note)
        tracking.finish(summary)
    return directory, summary


app = TyperCommand(
    "simulate", callback=simulate, params=params(), help=TEXT, rich_markup_mode="rich"
)
