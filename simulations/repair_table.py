"""The repair table: strategies x attacks x repairs, with the controls beside them.

Every federation is trained once per strategy, attack and seed; all repairs mend its last model, as
``--repair-at end`` would. What a trigger does to a model that was never attacked is the floor.

    python -m simulations.repair_table --data-dir DIR          # Fashion-MNIST, torchvision's files
    python -m simulations.repair_table --data-dir DIR --small  # a narrower network, fewer rows
    python -m simulations.repair_table --data-dir DIR --signs  # GTSRB, DIR/gtsrb
    python -m simulations.repair_table --quick                  # digits, no files needed
    python -m simulations.repair_table --data-dir DIR --small --alarm   # what the RNP alarm says

Every figure is kept in a file as soon as it is known, so that the table can be made in pieces; with
``--write-only`` the page gets what is there.
"""

from __future__ import annotations

import copy
import itertools
import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from simulations import repair_alarm
from simulations.common import ROOT, machine, markdown_table, run_cell, spread, write_section
from simulations.held_out import named

DOCUMENT = ROOT / "docs" / "repairs.md"

BASE: dict[str, Any] = {
    "dataset": {"name": "fashion-mnist", "train_samples": 5500, "test_samples": 1000},
    "model": "conv-bn",
    "clients": 20,
    "malicious": 0.2,
    "partition": "iid",
    "server_samples": 500,
    "rounds": 10,
    "local_epochs": 2,
    "batch_size": 32,
    "lr": 0.02,
    "momentum": 0.9,
    "device": "cpu",
    "engine": "inprocess",
}
SMALL: dict[str, Any] = {
    "dataset": {"name": "fashion-mnist", "train_samples": 3000, "test_samples": 1000},
    "model": {"name": "conv-bn", "channels": (8, 16, 16, 32, 32)},
    "clients": 10,
    "lr": 0.05,
    "server_samples": 400,
}
SIGNS: dict[str, Any] = {
    "dataset": named("gtsrb"),
    "model": {"name": "conv-bn", "channels": (8, 16, 32, 32, 64)},
    "clients": 10,
    "lr": 0.05,
    "server_samples": 860,
}
"""GTSRB: 43 classes, 20 of the server's rows for each in the mean."""

QUICK: dict[str, Any] = {
    "dataset": "digits",
    "clients": 5,
    "rounds": 2,
    "server_samples": 100,
    "lr": 0.05,
}
STRATEGIES = ("fedavg", "multi-krum", "flame", "geminiguard")
ATTACKS: dict[str, dict[str, Any]] = {
    "badnets": {"name": "badnets", "size": 4, "poison_fraction": 0.5},
    "blended": {"name": "blended", "poison_fraction": 0.5},
    "wanet": {"name": "wanet", "poison_fraction": 0.5},
    "edge-case": {"name": "edge-case", "poison_fraction": 0.5},
    "anticipate": {"name": "anticipate", "size": 4, "poison_fraction": 0.25, "lr": 0.02},
}
KNOWS: dict[str, dict[str, Any]] = {"anticipate": {"attack_knowledge": "full"}}
"""Further fields of the run under an attack; ``anticipate`` knows rule, repair and updates."""
NOBODY: dict[str, Any] = {"malicious": 0.0, "attack": "none", "attack_knowledge": "partial"}
"""Fields of the run that nobody attacks."""

RANDOM = "rnp, as many at random"
"""The control of `rnp`: as many channels as it shut, drawn at random."""
REPAIRS: dict[str, dict[str, Any]] = {
    "none": {},
    "finetune": {"name": "finetune", "epochs": 10},
    "super-finetune": {"name": "super-finetune"},
    "fine-pruning": {"name": "fine-pruning"},
    "nad, beta 0": {"name": "nad", "betas": (0.0,)},
    "nad": {"name": "nad"},
    "rnp": {"name": "rnp"},
    RANDOM: {},
    "rnp, paper": {"name": "rnp", "preset": "paper"},
}


@dataclass(frozen=True)
class Figures:
    """What a model is like.

    Attributes
    ----------
    accuracy : float
        On all test rows.
    success : float
        Share of triggered test rows of other classes taken for the target.
    robust : float
        Share of them that is still taken for their own class.
    worst : float
        Lowest accuracy of a class.
    seconds : float
        What the repair took.
    told : mapping
        What the repair told.
    """

    accuracy: float
    success: float
    robust: float
    worst: float
    seconds: float
    told: Mapping[str, Any]


def effectiveness(before: Figures, after: Figures) -> float:
    """Return the defence effectiveness rating: 0.5 if nothing changed, 1 for a perfect repair."""
    won = max(0.0, before.success - after.success)
    lost = max(0.0, before.accuracy - after.accuracy)
    return (won - lost + 1.0) / 2.0


def measured(world: Any, seconds: float, told: Mapping[str, Any]) -> Figures:
    """Return the figures of the world's server model as it is now."""
    model = world.server_model.module
    found = world.task.evaluate(model, world.test_x, world.test_y)
    x, y = world.triggered
    with torch.no_grad():
        predicted = model(x).argmax(dim=1)
    return Figures(
        float(found["accuracy"]),
        float((predicted == world.attack.target_class).double().mean()),
        float((predicted == y).double().mean()),
        min(r for r in found["per_class_recall"] if r is not None),
        seconds,
        told,
    )


def mended(world: Any, state: Mapping[str, torch.Tensor], name: str, alike: int) -> Figures:
    """Return a model's figures after a repair.

    Parameters
    ----------
    world : HorizontalWorld
        Data, attack and model.
    state : mapping of str to Tensor
        The model before it.
    name : str
        One of `REPAIRS`.
    alike : int
        Channels that the random control shuts.
    """
    from fedguard import registry
    from fedguard.assembly.make import server_tools
    from fedguard.models.channels import channel_units, shut
    from fedguard.randomness import SERVER, generator

    config = world.config
    world.server_model.module.load_state_dict(copy.deepcopy(dict(state)))
    tools = server_tools(config, world.dataset, world.federation, world.server_model)
    stream = generator(config.seed, config.rounds, SERVER, "repair")
    started = time.monotonic()
    told: Mapping[str, Any] = {}
    if REPAIRS[name]:
        part = dict(REPAIRS[name])
        told = registry.create("repair", part.pop("name"), **part).mend(tools, stream)
    elif alike:
        units = channel_units(tools.model, tools.x[:2])
        total = sum(unit.size for unit in units)
        gone = torch.randperm(total, generator=stream)[:alike]
        flat = torch.ones(total, dtype=torch.bool)
        flat[gone] = False
        parts = torch.split(flat, [unit.size for unit in units])
        shut(tools.model, units, {u.layer: kept for u, kept in zip(units, parts, strict=True)})
    return measured(world, time.monotonic() - started, told)


def cell_file(values: Mapping[str, Any], folder: Path) -> Path:
    """Return the file that keeps a federation's figures."""
    from fedguard.config import parse

    return folder / f"{parse(values).digest()[:16]}.json"


def known_figures(values: Mapping[str, Any], folder: Path) -> dict[str, Figures]:
    """Return what a federation's file holds; empty where there is none."""
    file = cell_file(values, folder)
    found = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    return {name: Figures(**figures) for name, figures in found.items()}


def one_federation(
    values: Mapping[str, Any], folder: Path, names: Iterable[str]
) -> dict[str, Figures]:
    """Train a federation, or find it trained before; return every repair's figures, and floors.

    Each is written down as soon as it is known; what is there is not measured again.
    """
    from safetensors.torch import load_file

    from fedguard.config import parse
    from fedguard.runs.simulation import Simulation

    found = known_figures(values, folder)
    wanted = ["floor", "none", *(name for name in names if name != "none")]
    missing = [name for name in wanted if name not in found]
    if missing:
        run_cell(values, folder)
        clean = {**values, **NOBODY}
        run_cell(clean, folder)
        world = Simulation(parse(values)).world
        own, never = (
            load_file(folder / parse(v).digest()[:16] / "model.safetensors")
            for v in (values, clean)
        )
        for name in missing:
            if name == "floor":
                world.server_model.module.load_state_dict(never)
                found[name] = measured(world, 0.0, {})
            else:
                alike = int(found["rnp"].told.get("pruned", 0)) if name == RANDOM else 0
                found[name] = mended(world, own, name, alike)
            text = json.dumps({name: vars(figures) for name, figures in found.items()})
            file = cell_file(values, folder)
            beside = file.with_suffix(".part")
            beside.write_text(text, encoding="utf-8")
            beside.replace(file)
    return {name: found[name] for name in wanted}


def table(results: Mapping[tuple[str, str], list[dict[str, Figures]]]) -> str:
    """Return one row per strategy, attack and repair, percent and mean ± deviation over seeds.

    A repair that some seed lacks has no row.
    """
    header = (
        "strategy", "attack", "repair", "accuracy", "success", "success - floor", "right label",
        "worst class", "DER", "seconds",
    )  # fmt: skip
    rows = []
    for (strategy, attack), seeds in results.items():
        stuck = all(took(seed) for seed in seeds)
        for name in (name for name in seeds[0] if all(name in seed for seed in seeds)):
            each = [seed[name] for seed in seeds]
            over = [seed[name].success - seed["floor"].success for seed in seeds]
            rating = [effectiveness(seed["none"], seed[name]) for seed in seeds]
            repaired = name not in ("none", "floor")
            rows.append(
                [
                    strategy,
                    attack if stuck else f"{attack} (failed)",
                    "never attacked" if name == "floor" else name,
                    spread([f.accuracy for f in each]),
                    spread([f.success for f in each]),
                    "-" if name == "floor" else spread(over),
                    spread([f.robust for f in each]),
                    spread([f.worst for f in each]),
                    spread(rating) if repaired and stuck else "-",
                    spread([f.seconds for f in each], percent=False) if repaired else "-",
                ]
            )
    return markdown_table(header, rows)


def pairs(results: Mapping[tuple[str, str], list[dict[str, Figures]]]) -> str:
    """Return one row per strategy and repair: means over attacks and seeds, and the worst attack.

    Accuracy lost is that of the same strategy when nobody attacks, less the pair's. A pair that
    some attack lacks has no row.
    """
    header = (
        "strategy", "repair", "success - floor", "worst attack", "accuracy", "accuracy lost",
        "most lost",
    )  # fmt: skip
    rows = []
    for strategy in dict.fromkeys(strategy for strategy, _ in results):
        seen = {attack: seeds for (own, attack), seeds in results.items() if own == strategy}
        every = [seed for seeds in seen.values() for seed in seeds]
        for name in (n for n in every[0] if n != "floor" and all(n in seed for seed in every)):
            over = {a: _mean(s[name].success - s["floor"].success for s in seen[a]) for a in seen}
            lost = {a: _mean(s["floor"].accuracy - s[name].accuracy for s in seen[a]) for a in seen}
            worst = max(over, key=lambda attack: over[attack])
            rows.append(
                [
                    strategy,
                    name,
                    f"{100 * _mean(over.values()):.1f}",
                    f"{worst}: {100 * over[worst]:.1f}",
                    f"{100 * _mean(seed[name].accuracy for seed in every):.1f}",
                    f"{100 * _mean(lost.values()):.1f}",
                    f"{100 * max(lost.values()):.1f}",
                ]
            )
    return markdown_table(header, rows)


def models(
    results: Mapping[tuple[str, str], list[dict[str, Figures]]],
    cells: Mapping[tuple[str, str], list[dict[str, Any]]],
) -> list[tuple[bool, str, dict[str, Any]]]:
    """Return the last models in which an attack took, and those that were never attacked.

    Each with whether it has a backdoor, what it is called, and its run's fields.
    """
    found: list[tuple[bool, str, dict[str, Any]]] = []
    clean: dict[tuple[str, int], dict[str, Any]] = {}
    for (strategy, attack), seeds in results.items():
        for figures, values in zip(seeds, cells[strategy, attack], strict=True):
            clean[strategy, values["seed"]] = {**values, **NOBODY}
            if took(figures):
                found.append((True, f"{strategy}, {attack}", values))
    return found + [(False, strategy, values) for (strategy, _), values in clean.items()]


def took(figures: Mapping[str, Figures]) -> bool:
    """Return whether an attack took: half of the pictures, and 30 points over the floor."""
    return figures["none"].success >= max(0.5, figures["floor"].success + 0.3)


def _mean(values: Iterable[float]) -> float:
    known = list(values)
    return sum(known) / len(known)


def main(
    data_dir: Annotated[Path | None, typer.Option(help="Folder in torchvision's layout.")] = None,
    quick: Annotated[bool, typer.Option(help="Digits, five clients, two rounds.")] = False,
    small: Annotated[bool, typer.Option(help="A narrower network and fewer rows.")] = False,
    signs: Annotated[bool, typer.Option(help="GTSRB in place of Fashion-MNIST.")] = False,
    seeds: Annotated[int, typer.Option(help="How many seeds.")] = 3,
    strategies: Annotated[str, typer.Option(help="Comma-separated.")] = ",".join(STRATEGIES),
    attacks: Annotated[str, typer.Option(help="Comma-separated.")] = ",".join(ATTACKS),
    repairs: Annotated[str, typer.Option(help="Separated by semicolons.")] = ";".join(REPAIRS),
    alarm: Annotated[bool, typer.Option(help="What the RNP alarm says of them.")] = False,
    write_only: Annotated[bool, typer.Option(help="Run nothing; write what is known.")] = False,
    out: Annotated[Path, typer.Option(help="Run directories and figures.")] = Path("repair-runs"),
    document: Annotated[Path, typer.Option(help="Page that gets the table.")] = DOCUMENT,
) -> None:
    """Run all cells and write the table into the page; goes on where it was stopped."""
    torch.set_num_threads(1)
    names = repairs.split(";")
    if RANDOM in names and "rnp" not in names[: names.index(RANDOM)]:
        raise typer.BadParameter(f"{RANDOM!r} needs 'rnp' before it")
    kinds = (("quick", quick, QUICK), ("signs", signs, SIGNS), ("small", small, SMALL))
    chosen = [(name, fields) for name, asked, fields in kinds if asked]
    if len(chosen) > 1:
        told = " and ".join(f"--{name}" for name, _ in chosen)
        raise typer.BadParameter(f"{told}: one of them")
    section, fields = chosen[0] if chosen else ("matrix", {})
    base = {**BASE, **fields}
    if data_dir is not None:
        base = {**base, "data_dir": str(data_dir)}
    results: dict[tuple[str, str], list[dict[str, Figures]]] = {}
    cells: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for seed, strategy, attack in itertools.product(
        range(seeds), strategies.split(","), attacks.split(",")
    ):
        own = {"strategy": strategy, "attack": ATTACKS[attack], "seed": seed}
        values = {**base, **own, **KNOWS.get(attack, {})}
        found = known_figures(values, out) if write_only else one_federation(values, out, names)
        if "floor" in found and "none" in found:
            results.setdefault((strategy, attack), []).append(found)
            cells.setdefault((strategy, attack), []).append(values)
            typer.echo(f"{strategy} {attack} seed {seed} done")
    if alarm:
        told = repair_alarm.section(models(results, cells), out)
        write_section("alarm", f"{told}\n\n{machine()}.", document)
        return
    done = sum(len(each) for each in results.values())
    means = f"Means over the attacks:\n\n{pairs(results)}" if results else ""
    text = f"{means}\n\n{table(results)}\n\n{machine()}; {done} federations, {len(results)} cells."
    write_section(section, text, document)


if __name__ == "__main__":
    typer.run(main)
