"""The Python door: what ``import fedguard`` offers to run, sweep, compare, load and audit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypedDict, Unpack

from fedguard.commands.results import Comparison, Result, Sweep
from fedguard.errors import ConfigurationError

PartLike = str | Mapping[str, Any]
"""A part: its name, ``package.module:Class``, or ``{"name": "krum", "assumed_malicious": 0.3}``."""


class Fields(TypedDict, total=False):
    """Fields of the configuration as keyword arguments; `fedguard.config.SimulationConfig`."""

    strategy: PartLike
    pre: PartLike | Sequence[PartLike] | None
    attack: PartLike
    attack_knowledge: Literal["partial", "full"]
    attack_rounds: Any
    dataset: PartLike
    data_dir: Path | str | None
    model: PartLike
    latent_layer: str | None
    start_from: Path | str | None
    clients: int
    fraction: float
    malicious: float
    poisoned_clients: float
    assumed_malicious: float
    partition: PartLike
    server_samples: int
    server_draw: Literal["random", "balanced"]
    server_classes: float
    server_label_noise: float
    evaluate_clients: float
    rounds: int
    patience: int | None
    best_by: Literal["headline", "attack-success"]
    training: PartLike
    local_epochs: int
    batch_size: int
    lr: float
    momentum: float
    weight_decay: float
    engine: Literal["auto", "inprocess", "ray", "flower"]
    executor: Literal["auto", "timed", "reuse", "vmap", "dense", "conv"]
    workers: int | None
    ray_address: str | None
    update_memory: str | None
    update_dir: Path | str | None
    update_type: Literal["float32", "bfloat16"]
    updates_on: Literal["server", "workers"]
    client_app: PartLike | None
    client_config: Mapping[str, bool | int | float | str]
    round_timeout: float
    join_timeout: float
    device: str
    faults: Mapping[str, Any]
    repair: PartLike | None
    repair_at: str
    audit: PartLike | None
    enrolment: PartLike | None
    unlearn: Sequence[Mapping[str, Any]]
    check_plugins: bool
    seed: int


def run(
    config: Path | str | Mapping[str, Any] | None = None,
    *,
    out: Path | str | None = None,
    resume: bool = False,
    progress: bool = True,
    settings: Mapping[str, Any] | None = None,
    **fields: Unpack[Fields],
) -> Result:
    """Run one attack against one defence; ``fedguard.run(strategy="krum", attack="alie")``.

    Parameters
    ----------
    config : path or mapping, optional
        A YAML file, or its content; `fields` win over it, `settings` over both.
    out : path, optional
        Run directory; one under ``runs/`` that is named by the run if left out.
    resume : bool
        Go on from the newest checkpoint in `out`.
    progress : bool
        Show how far the run is, on standard error or in the notebook.
    settings : mapping, optional
        Dotted arguments of parts: ``{"strategy.max_clusters": 6, "partition.alpha": 0.1}``.
    **fields
        Fields of the configuration, as the command's options.

    Raises
    ------
    ConfigurationError
        If a field is not valid, parts do not fit, or `out` holds another run.
    RunError
        If the run cannot go on, or no client ever sent a usable reply.
    """
    from fedguard.commands.simulate import perform
    from fedguard.config import assign, parse

    values = _values(config)
    for name, value in {**fields, **(settings or {})}.items():
        assign(values, name, value)
    place = None if out is None else Path(out)
    directory, _ = perform(parse(values), place, resume=resume, progress=progress)
    return Result(directory)


def load(run_directory: Path | str) -> Result:
    """Return the result of a run of this or an older version, finished or not.

    Raises
    ------
    ConfigurationError
        If there is no run in the directory.
    """
    directory = Path(run_directory)
    if not any((directory / name).is_file() for name in ("config.yaml", "summary.json")):
        raise ConfigurationError("run_directory", str(directory), "a directory that holds a run")
    return Result(directory)


def sweep(
    campaign: Path | str | Mapping[str, Any],
    *,
    out: Path | str | None = None,
    workers: int | None = None,
    threads: int = 1,
    retry_failed: bool = False,
    progress: bool = True,
) -> Sweep:
    """Run every combination of a campaign's lists, each once; what is done already is kept.

    A run that fails is told in the result's `failed` and does not stop the others.

    Parameters
    ----------
    campaign : path or mapping
        A campaign file, or its content:
        ``{"base": {"rounds": 5}, "grid": {"strategy": ["krum", "median"]}, "seeds": 3}``.
    out : path, optional
        The campaign's folder; ``runs/NAME`` if left out.
    workers : int, optional
        Runs at a time; 0 or 1: in this process. All cores if left out.
    threads : int
        PyTorch's threads of each run, at least 1.
    retry_failed : bool
        Run again what failed before.
    progress : bool
        Show how far the campaign is.

    Raises
    ------
    ConfigurationError
        For the first run that is not valid; nothing has run then.
    """
    from rich.console import Console

    from fedguard.campaigns.campaign import parse_campaign, read_campaign
    from fedguard.campaigns.cells import read_error
    from fedguard.campaigns.plan import Plan
    from fedguard.commands.sweep import carry_out, checked

    if isinstance(campaign, Mapping):
        given = parse_campaign({"name": "campaign", **campaign, "base": _base(campaign)})
    else:
        given = read_campaign(Path(campaign))
    cells, folder = checked(given, None if out is None else Path(out), workers, threads)
    plan = carry_out(
        given,
        Plan.of(cells, folder),
        workers=workers,
        threads=threads,
        retry_failed=retry_failed,
        console=Console(stderr=True, quiet=not progress),
    )
    done = [folder / cell.directory for cell, state in plan.states if state == "done"]
    failed = {cell.directory: read_error(folder / cell.directory) for cell in plan.failed()}
    choices = {cell.directory: cell.choices for cell in cells}
    return Sweep(folder, [Result(directory) for directory in done], failed, choices)


def compare(*runs: Path | str | Result | Sweep) -> Comparison:
    """Compare defences over attacks, shares, splits and seeds.

    Parameters
    ----------
    *runs : path, Result or Sweep
        Run directories, campaign folders, or what `run`, `load` and `sweep` returned.

    Raises
    ------
    ConfigurationError
        If a path holds no run, or no run is finished.
    """
    return Comparison.of(runs)


def audit(
    path: Path | str,
    *,
    out: Path | str | None = None,
    minutes: float = 10.0,
    clients: int | None = None,
    seeds: int = 1,
    fractions: Sequence[float] = (0.05, 0.1, 0.2, 0.4),
    settings: Mapping[str, Any] | None = None,
    metric: str | None = None,
    evaluate: str | None = None,
    data: str | None = None,
    threats: Sequence[str] = (),
    workers: int | None = None,
    engine: str = "inprocess",
    progress: bool = True,
) -> dict[str, Any]:
    """Attack a Flower app of one's own, as it is; say what breaks it and what to paste.

    Parameters
    ----------
    path : path
        The folder of its ``pyproject.toml``.
    out : path, optional
        Folder of the page and the results, ``audit/NAME`` if left out; the same one goes on.
    minutes : float
        Time for everything, above 0.
    clients : int, optional
        Number of clients; the app's ``num-supernodes``, or 10, if left out.
    seeds : int
        Runs of each cell, at least 1.
    fractions : sequence of float
        Shares of malicious clients, each between 0 and 1.
    settings : mapping, optional
        Keys of the app's run configuration: ``{"num-server-rounds": 3}``.
    metric : str, optional
        The figure by which it is judged; accuracy or loss if left out.
    evaluate, data : str, optional
        ``package.module:function`` that evaluates arrays by name, and with which the app loads a
        client's data.
    threats : sequence of str
        Names of what is tried; everything if left out.
    workers : int, optional
        Cells at a time, at least 1; two, and one with the engine ``"flower"``, if left out.
    engine : str
        Where the app's clients run: ``"inprocess"``, one after another, or ``"flower"``, in
        Flower's own simulation.
    progress : bool
        Print a line for each cell on standard error.

    Returns
    -------
    dict
        ``verdict``, ``sentence``, ``cells``, ``remedies``, ``recommended`` and more, as in
        ``audit.json``.

    Raises
    ------
    ConfigurationError
        If there is no app, or `out` holds another audit.
    RunError
        If the app does not get through in peace.
    """
    from rich.console import Console

    from fedguard.auditing.pipelines import plain
    from fedguard.commands.audit import perform

    console = Console(stderr=True, quiet=not progress)
    found, folder = perform(
        Path(path),
        None if out is None else Path(out),
        minutes=minutes,
        clients=clients,
        seeds=seeds,
        fractions=tuple(fractions),
        settings=[f"{name}={value}" for name, value in (settings or {}).items()],
        metric=metric,
        evaluate=evaluate,
        data=data,
        threats=list(threats),
        workers=workers,
        engine=engine,
        tell=lambda line: console.print(line, markup=False, highlight=False, soft_wrap=True),
    )
    return {**plain(found), "page": str(folder / "audit.html")}


def _values(config: Path | str | Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the plain values of a configuration's file or mapping."""
    from fedguard.config import load_yaml

    if config is None or isinstance(config, Mapping):
        return dict(config or {})
    return load_yaml(Path(config))


def _base(campaign: Mapping[str, Any]) -> Any:
    """Return a campaign's base; a path stands for the file's content."""
    base = campaign.get("base")
    return _values(base) if isinstance(base, str | Path) else base
