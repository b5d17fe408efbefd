"""The command: ``python -m fedguard.simulate`` and ``fedguard``."""

from __future__ import annotations

import importlib
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from fedguard import registry
from fedguard.config import SimulationConfig, assign, load_yaml, parse, read_setting, scalar
from fedguard.errors import ConfigurationError, RunError, nearest, unknown_name

_PARTS = "Robustness"
_DATA = "Data and model"
_TRAINING = "Training"
_RUN = "Run"

app = typer.Typer(add_completion=False, rich_markup_mode="rich", pretty_exceptions_enable=False)


def _option(*names: str, panel: str, help: str) -> Any:
    return typer.Option(*names, help=help, rich_help_panel=panel, show_default=False)


@app.command()
def simulate(
    config: Annotated[
        Path | None, typer.Argument(help="YAML file; flags win over it.", show_default=False)
    ] = None,
    strategy: Annotated[
        str | None,
        _option(panel=_PARTS, help="Aggregation rule or defence: a name or package.module:Class."),
    ] = None,
    pre: Annotated[
        str | None,
        _option(panel=_PARTS, help="Pre-aggregation: nnm, bucketing, clipping or arc."),
    ] = None,
    attack: Annotated[
        str | None, _option(panel=_PARTS, help="What malicious clients do; 'none' for honest ones.")
    ] = None,
    attack_knowledge: Annotated[
        str | None, _option(panel=_PARTS, help="partial: sees its own clients' updates; full: all.")
    ] = None,
    malicious: Annotated[
        str | None, _option(panel=_PARTS, help="Share of clients that lie, 0 to 1.")
    ] = None,
    assumed_malicious: Annotated[
        str | None,
        _option(panel=_PARTS, help="Share that the defence assumes; it never sees the true one."),
    ] = None,
    dataset: Annotated[
        str | None, _option(panel=_DATA, help="digits needs no files; see --list datasets.")
    ] = None,
    data_dir: Annotated[
        str | None, _option(panel=_DATA, help="Folder with the data set's files.")
    ] = None,
    model: Annotated[str | None, _option(panel=_DATA, help="Network.")] = None,
    latent_layer: Annotated[
        str | None, _option(panel=_DATA, help="Submodule whose output is the latent space.")
    ] = None,
    partition: Annotated[
        str | None, _option(panel=_DATA, help="How data are divided among clients.")
    ] = None,
    alpha: Annotated[
        str | None, _option(panel=_DATA, help="Dirichlet concentration; small is heterogeneous.")
    ] = None,
    server_samples: Annotated[
        str | None, _option(panel=_DATA, help="Auxiliary examples that the server holds.")
    ] = None,
    clients: Annotated[str | None, _option(panel=_TRAINING, help="Number of clients.")] = None,
    fraction: Annotated[
        str | None, _option(panel=_TRAINING, help="Share of clients asked per round.")
    ] = None,
    rounds: Annotated[str | None, _option(panel=_TRAINING, help="Server rounds.")] = None,
    local_epochs: Annotated[
        str | None, _option(panel=_TRAINING, help="Passes over a shard per round.")
    ] = None,
    batch_size: Annotated[
        str | None, _option(panel=_TRAINING, help="Examples per SGD step.")
    ] = None,
    lr: Annotated[str | None, _option(panel=_TRAINING, help="Learning rate.")] = None,
    momentum: Annotated[str | None, _option(panel=_TRAINING, help="SGD momentum.")] = None,
    weight_decay: Annotated[str | None, _option(panel=_TRAINING, help="L2 penalty.")] = None,
    client_app: Annotated[
        str | None,
        _option(panel=_TRAINING, help="Your own Flower ClientApp: package.module:app."),
    ] = None,
    engine: Annotated[
        str | None, _option(panel=_RUN, help="auto, inprocess, ray or flower.")
    ] = None,
    executor: Annotated[
        str | None, _option(panel=_RUN, help="How clients are trained: auto, timed, reuse, ...")
    ] = None,
    workers: Annotated[
        str | None, _option(panel=_RUN, help="Ray actors, or threads of this process.")
    ] = None,
    ray_address: Annotated[
        str | None, _option(panel=_RUN, help="A running Ray cluster, host:port.")
    ] = None,
    device: Annotated[str | None, _option(panel=_RUN, help="auto, cpu, cuda or cuda:N.")] = None,
    seed: Annotated[str | None, _option(panel=_RUN, help="Seed of everything random.")] = None,
    out: Annotated[
        Path | None, _option(panel=_RUN, help="Run directory; runs/NAME if left out.")
    ] = None,
    resume: Annotated[
        bool, _option("--resume", panel=_RUN, help="Go on from the newest checkpoint in --out.")
    ] = False,
    settings: Annotated[
        list[str] | None,
        _option("--set", panel=_RUN, help="Any field or part argument: strategy.max_clusters=6."),
    ] = None,
    track: Annotated[
        list[str] | None,
        _option(panel=_RUN, help="Also send metrics to tensorboard, mlflow or wandb."),
    ] = None,
    as_json: Annotated[
        bool, _option("--json", panel=_RUN, help="Print the summary as one JSON line at the end.")
    ] = False,
    listing: Annotated[
        str | None,
        _option("--list", panel=_RUN, help="Print the names of a kind of part and stop."),
    ] = None,
    schema: Annotated[
        bool,
        _option("--schema", panel=_RUN, help="Print the configuration's JSON Schema and stop."),
    ] = False,
) -> None:
    """Attack a federated model and see whether a defence keeps it alive.

    With nothing but a strategy it attacks scikit-learn's handwritten digits:

        python -m fedguard.simulate --strategy geminiguard
        python -m fedguard.simulate --strategy fedavg

    Every option is a field of the YAML configuration; the run directory's config.yaml repeats the
    run exactly.

    Two more commands: `fedguard sweep CAMPAIGN.yaml` runs a grid of such runs, and
    `fedguard compare RUNS...` sets their results side by side; each has its own --help.
    """
    if listing is not None:
        _print_names(listing)
        return
    if schema:
        from fedguard.config.schema import schema_text

        print(schema_text(), end="")
        return
    flags = {
        name: value
        for name, value in locals().items()
        if name in SimulationConfig.model_fields and value is not None
    }
    values = load_yaml(config) if config is not None else {}
    for name, value in flags.items():
        assign(values, name, scalar(value))
    if alpha is not None:
        assign(values, "partition.alpha", scalar(alpha))
    for setting in settings or []:
        assign(values, *read_setting(setting))
    run(parse(values), out, resume=resume, as_json=as_json, track=track or ())


def _print_names(kind: str) -> None:
    kinds = {plural: kind for kind in registry.KINDS for plural in (kind, _plural(kind))}
    if kind not in kinds:
        raise unknown_name("--list", kind, [_plural(one) for one in registry.KINDS])
    rooms = registry.names(kinds[kind]), registry.names(kinds[kind], "vertical")
    for name in sorted({*rooms[0], *rooms[1]}):
        print(name)


def _plural(kind: str) -> str:
    return "strategies" if kind == "strategy" else f"{kind}s"


def run(
    config: SimulationConfig,
    out: Path | None,
    *,
    resume: bool,
    as_json: bool,
    track: Sequence[str] = (),
) -> None:
    """Run one configuration with progress and a summary on the terminal."""
    from rich.console import Console

    from fedguard.records.directory import choose_directory
    from fedguard.reporting.progress import Progress
    from fedguard.reporting.report import write_report
    from fedguard.reporting.summary import render_summary
    from fedguard.reporting.tracking import Tracking
    from fedguard.runs.simulation import Simulation

    logging.getLogger("flwr").setLevel(logging.WARNING)
    directory = choose_directory(config, out, resume)
    tracking = Tracking(track, config, directory)
    simulation = Simulation(config)
    with Progress(config.rounds, enabled=True) as progress, tracking:

        def on_round(record: dict[str, Any]) -> None:
            progress.update(record)
            tracking.on_round(record)

        summary = simulation.run(directory, resume=resume, on_round=on_round)
        tracking.finish(summary)
    report = write_report(directory)
    summary["report"] = str(report)
    Console(stderr=as_json).print(render_summary(summary))
    if as_json:
        print(json.dumps(summary, allow_nan=False))


_STOPPED = 130
"""Exit code after Ctrl-C, as shells have it."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return 0 done, 2 bad arguments or configuration, 1 a run that failed."""
    import click

    given = list(sys.argv[1:] if arguments is None else arguments)
    command, name, rest = _command(given)
    try:
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
        code = _STOPPED
    if code == _STOPPED:  # typer turns Ctrl-C into this code itself
        again = "the same command" if rest is not given else "--resume with the same --out"
        return _complain(f"stopped; {again} goes on", _STOPPED)
    return int(code or 0)


def _out_of_memory(error: BaseException) -> bool:
    """Return whether memory ran out; PyTorch says so with a RuntimeError."""
    words = ("can't allocate memory", "out of memory", "not enough memory")
    return isinstance(error, MemoryError) or any(word in str(error) for word in words)


def _command(given: list[str]) -> tuple[Any, str, list[str]]:
    """Return the command that the first argument names, its name, and its own arguments."""
    if given and given[0] in ("sweep", "compare"):
        chosen = importlib.import_module(f"fedguard.commands.{given[0]}").app
        return typer.main.get_command(chosen), f"fedguard {given[0]}", given[1:]
    return typer.main.get_command(app), "fedguard", given


def _usage(error: Any, command: Any) -> str:
    name = getattr(error, "option_name", None)
    if name is not None:
        options = [opt for p in command.params for opt in p.opts]
        hint = nearest(name, [option for option in options if option.startswith("--")])
        return f"{name}: no such option; {hint}see --help"
    return " ".join(error.format_message().split())


def _complain(message: str, code: int) -> int:
    print(f"fedguard: {message}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
