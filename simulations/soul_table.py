"""The unlearning table: SoUL, its ablations and its rivals on MNIST, Fashion-MNIST and digits.

Ten clients, Dirichlet 0.5, one of them with a backdoor, which is to be forgotten. The rounds
before the request are run once per data set and seed; every method goes on from that checkpoint.

    python -m simulations.soul_table --data-dir DIR      # torchvision's layout
    python -m simulations.soul_table --quick             # digits alone, no files needed
"""

from __future__ import annotations

import json
import logging
import shutil
import statistics
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from simulations.common import ROOT, machine, markdown_table, write_section

DOCUMENT = ROOT / "docs" / "soul.md"
BEFORE = 24
RECOVERY = 3
RELEARNING = 3

VARIANTS: dict[str, dict[str, Any]] = {
    "retrain": {"method": "retrain"},
    "retrain, other start": {"method": "retrain"},
    "soul": {"method": "soul"},
    "soul, milder": {"method": "soul", "alpha": 0.5, "beta": 0.1, "tolerance": 0.1},
    "soul, no repair": {"method": "soul", "ascent_repair": 0.0},
    "soul, pruning none": {"method": "soul", "pruning": "none"},
    "soul, pruning random": {"method": "soul", "pruning": "random"},
    "soul, pruning paper": {"method": "soul", "pruning": "paper"},
    "soul, pruning relative-change": {"method": "soul", "pruning": "relative-change"},
    "soul, pruning activation-ratio": {"method": "soul", "pruning": "activation-ratio"},
    "finetune": {"method": "finetune"},
    "ascent": {"method": "ascent"},
    "pga": {"method": "pga"},
    "federaser": {"method": "federaser"},
    "class-pruning": {"method": "class-pruning", "beta": 0.2},
    "not": {"method": "not"},
    "random-prune": {"method": "random-prune"},
}
RETRAINED = ("retrain", "retrain, other start")

BASE: dict[str, Any] = {
    "model": "cnn",
    "clients": 10,
    "malicious": 0.1,
    "partition": {"name": "dirichlet", "alpha": 0.5},
    "local_epochs": 1,
    "batch_size": 32,
    "lr": 0.15,
    "server_samples": 200,
    "device": "cpu",
}
ATTACK = {
    "name": "badnets",
    "target_class": 0,
    "poison_fraction": 0.5,
    "size": 4,
    "scale": 2.0,
}


class _Reached(Exception):  # noqa: N818 (no error: the shared rounds are done)
    """The rounds before the request are done."""


@dataclass(frozen=True)
class Task:
    """One data set and seed.

    Attributes
    ----------
    dataset : str
        Name in the table.
    seed : int
        Seed.
    base : mapping
        Configuration fields.
    before : int
        Rounds before the request.
    """

    dataset: str
    seed: int
    base: Mapping[str, Any]
    before: int

    def config(self, variant: str) -> Any:
        """Return the configuration of a variant."""
        from fedguard.clients.federation import draw_malicious
        from fedguard.config import parse

        settings = VARIANTS[variant]
        recovery, calibrating = RECOVERY, 0
        if settings["method"] == "retrain":
            recovery = self.before
        if settings["method"] == "federaser":
            calibrating = (self.before + 1) // 2
        (bad,) = draw_malicious(self.base["clients"], self.base["malicious"], self.seed)
        strategy = {"name": "soul", **settings, "recovery_rounds": recovery}
        return parse(
            {
                **self.base,
                "seed": self.seed,
                "strategy": strategy,
                "rounds": self.before + 1 + calibrating + recovery + RELEARNING,
                "unlearn": [{"client": bad, "round": self.before + 1}],
            }
        )

    def folder(self, root: Path, variant: str) -> Path:
        """Return the run directory of a variant."""
        name = variant.replace(", ", "-").replace(" ", "-")
        return root / f"{self.dataset}-{self.seed}" / f"{name}-{self.config(variant).digest()[:8]}"


def shared_rounds(task: Task, root: Path) -> Path:
    """Run the rounds before the request once, with FedEraser's store; return their folder."""
    from fedguard.runs.simulation import Simulation

    config = task.config("federaser")
    digest = config.digest()[:8]
    out = root / f"{task.dataset}-{task.seed}" / f"before-{digest}"
    done = out / "done"

    def listen(record: Mapping[str, Any]) -> None:
        if record["round"] == task.before:
            raise _Reached

    if not done.exists():
        try:
            Simulation(config).run(out, resume=True, on_round=listen)
        except _Reached:
            done.touch()
    return out


def run_variant(task: Task, variant: str, root: Path) -> Path:
    """Run one variant from the shared rounds, or find it run before; return its folder."""
    from fedguard.records.checkpoints import CheckpointStore
    from fedguard.runs.simulation import Simulation

    config = task.config(variant)
    out = task.folder(root, variant)
    if (out / "summary.json").exists():
        return out
    before = shared_rounds(task, root)
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    for name in ("rounds.jsonl", "clients.jsonl", "unlearning.json"):
        shutil.copy(before / name, out / name)
    if config.strategy.arguments["method"] == "federaser":
        shutil.copytree(before / "updates", out / "updates")
    shared = CheckpointStore(before / "checkpoint", task.config("federaser").digest()).newest()
    if shared is None:
        raise RuntimeError(f"{before} holds no checkpoint")
    simulation = Simulation(config)
    if variant == RETRAINED[1]:
        state = {**shared.strategy_state, "initial": _other_start(simulation)}
        shared = replace(shared, strategy_state=state)
        simulation.world.trainer.seed = config.seed + 1000
    CheckpointStore(out / "checkpoint", config.digest()).save(shared)
    simulation.run(out, resume=True)
    shutil.rmtree(out / "updates", ignore_errors=True)
    return out


def _other_start(simulation: Any) -> Any:
    from fedguard.assembly.make import make_model

    config = simulation.config.model_copy(update={"seed": simulation.config.seed + 1000})
    state = make_model(config, simulation.dataset).state_dict()
    return simulation.world.server_model.layout.flatten(state)


def distances(task: Task, root: Path) -> dict[str, float]:
    """Return each variant's output distance to the retrained models, the test set's mean.

    ``retrain`` itself has the distance between the two retrained models: the spread.
    """
    from safetensors.torch import load_file

    from fedguard.runs.simulation import Simulation
    from fedguard.unlearning.verification import output_distance

    cache = task.folder(root, "retrain") / "distances.json"
    if cache.exists():
        found: dict[str, float] = json.loads(cache.read_text())
        if set(found) == set(VARIANTS):
            return found
    simulation = Simulation(task.config("retrain"))
    model = simulation.world.server_model
    vectors = {
        name: model.layout.flatten(load_file(task.folder(root, name) / "recovered.safetensors"))
        for name in VARIANTS
    }
    found = {
        name: statistics.fmean(
            output_distance(model, vector, vectors[other], simulation.world.test_x)
            for other in RETRAINED
            if other != name
        )
        for name, vector in vectors.items()
    }
    cache.write_text(json.dumps(found))
    return found


def outcome(task: Task, root: Path) -> dict[str, dict[str, float | None]]:
    """Return every variant's figures for one data set and seed."""
    away = distances(task, root)
    found = {}
    read = {name: _read(task.folder(root, name)) for name in VARIANTS}
    again = [record["accuracy"] for record in read["retrain"]["rounds"][task.before + 2 :]]
    whole = read["retrain"]["costs"]["unlearning"]
    for name, run in read.items():
        phases, cost = run["phases"], run["costs"]["unlearning"]
        recovered = phases["recovered"]
        needed = next(
            (n for n, a in enumerate(again[: task.before], 1) if a >= recovered["test_accuracy"]),
            task.before,
        )
        found[name] = {
            "before accuracy": phases["before"]["test_accuracy"],
            "before success": phases["before"]["backdoor_success"],
            "before auc": phases["before"]["membership_auc"],
            "accuracy": recovered["test_accuracy"],
            "retain": recovered["retain_accuracy"],
            "forget": recovered["forget_accuracy"],
            "success after": phases["after"]["backdoor_success"],
            "accuracy after": phases["after"]["test_accuracy"],
            "success": recovered["backdoor_success"],
            "relearned": phases["relearned"]["backdoor_success"],
            "auc": recovered["membership_auc"],
            "tpr": recovered["membership_tpr"],
            "worst client": min(recovered["clients"].values()),
            "distance": away[name],
            "epochs": run["relearn"].get("epochs"),
            "fresh epochs": run["relearn"].get("epochs_of_a_fresh_model"),
            "needed": float(needed),
            "silenced": run["silenced_parameters"],
            **{
                f"{kind} ratio": cost[kind] / (whole[kind] * needed / task.before)
                for kind in ("flops", "bytes", "link_seconds", "seconds")
            },
        }
    return found


def _read(out: Path) -> dict[str, Any]:
    from fedguard.records.writer import read_jsonl

    found: dict[str, Any] = json.loads((out / "unlearning.json").read_text())
    return {**found, "rounds": read_jsonl(out / "rounds.jsonl")}


# --- the page --------------------------------------------------------------------------------

Figures = dict[str, dict[str, float | None]]


def mean(results: list[Figures], variant: str, name: str) -> float | None:
    """Return a figure's mean over seeds, None where a seed lacks it."""
    values = [result[variant][name] for result in results]
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known and len(known) == len(values) else None


def cell(results: list[Figures], variant: str, name: str, factor: float = 100.0) -> str:
    """Return ``mean ± standard deviation`` over seeds; what was never reached as ``> 10``."""
    values = [result[variant][name] for result in results]
    known = [factor * value for value in values if value is not None]
    if len(known) < len(values):
        return "> 10" if name.endswith("epochs") else "-"
    digits = 2 if factor == 1.0 else 1
    middle = f"{statistics.fmean(known):.{digits}f}"
    return middle if len(known) == 1 else f"{middle} ± {statistics.stdev(known):.{digits}f}"


_COLUMNS = (
    ("test accuracy", "accuracy", 100.0),
    ("backdoor, at once", "success after", 100.0),
    ("recovered", "success", 100.0),
    ("relearned", "relearned", 100.0),
    ("forget accuracy", "forget", 100.0),
    ("membership AUC", "auc", 1.0),
    ("TPR at 1 % FPR", "tpr", 100.0),
    ("distance to retrained", "distance", 1.0),
    ("epochs to relearn", "epochs", 1.0),
    ("operations", "flops ratio", 1.0),
    ("bytes", "bytes ratio", 1.0),
    ("link time", "link_seconds ratio", 1.0),
)


def table(results: list[Figures]) -> str:
    """Return the table of one data set."""
    rows = [
        [name, *(cell(results, name, key, factor) for _, key, factor in _COLUMNS)]
        for name in VARIANTS
    ]
    return markdown_table(["method", *(title for title, _, _ in _COLUMNS)], rows)


def bars(results: list[Figures], dataset: str) -> str:
    """Return each bar with what was measured and whether it is met."""

    def of(variant: str, name: str) -> float:
        value = mean(results, variant, name)
        return float("nan") if value is None else value

    gap = 100 * abs(of("soul", "success") - of("retrain", "success"))
    lost = 100 * (of("retrain", "accuracy") - of("soul", "accuracy"))
    auc = abs(of("soul", "auc") - of("retrain", "auc"))
    cost = max(of("soul", "flops ratio"), of("soul", "bytes ratio"))
    gain = 100 * (of("soul, pruning none", "success") - of("soul", "success"))
    before = 100 * of("soul", "before accuracy")
    checks = [
        ("backdoor success before, at least 80 %", 100 * of("soul", "before success"), 80.0, 1),
        ("success above retraining's, at most 5 points", gap, 5.0, -1),
        ("accuracy below retraining's, at most 1 point", lost, 1.0, -1),
        ("membership AUC off retraining's, at most 0.05", auc, 0.05, -1),
        ("operations and bytes, at most 0.2 of retraining", cost, 0.2, -1),
        ("success after relearning, below 20 %", 100 * of("soul", "relearned"), 20.0, -1),
    ]
    if dataset == "mnist":
        checks.insert(0, ("accuracy before, at least 97 %", before, 97.0, 1))
    rows = [
        [title, f"{value:.2f}", "met" if (value - limit) * sign >= 0 else "**missed**"]
        for title, value, limit, sign in checks
    ]
    verdict = (
        f"Pruning takes {gain:.1f} points off the success that `pruning none` leaves."
        if gain > 1.0
        else f"Pruning adds nothing here: {gain:.1f} points against `pruning none`."
    )
    return f"{markdown_table(['bar', 'measured', ''], rows)}\n\n{verdict} {pareto(results)}"


def pareto(results: list[Figures]) -> str:
    """Say who is on the Pareto front of forgetting, accuracy and cost among `soul` and rivals."""
    names = [name for name in VARIANTS if name not in RETRAINED]
    own = [name for name in names if name.startswith("soul, ")]
    rivals = [name for name in names if name not in own]

    def point(name: str) -> tuple[float, float, float]:
        forgetting = abs((mean(results, name, "success") or 0) - _success(results))
        accuracy = mean(results, name, "accuracy") or 0.0
        cost = mean(results, name, "flops ratio") or 0.0
        return (forgetting, -accuracy, cost)

    points = {name: point(name) for name in names}
    front = [name for name in rivals if not any(_beats(points[o], points[name]) for o in rivals)]
    stronger = [o for o in rivals if _beats(points[o], points["soul"])]
    word = f"`soul` is dominated by {_listed(stronger)}" if stronger else "`soul` is on it"
    better = [o for o in own if _beats(points[o], points["soul"])]
    more = f" Of its own variants, {_listed(better)} dominate it." if better else ""
    return (
        "Pareto front of forgetting, accuracy and operations, `soul` among its rivals: "
        f"{_listed(front)}; {word}.{more}"
    )


def _listed(names: list[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _success(results: list[Figures]) -> float:
    return mean(results, "retrain", "success") or 0.0


def _beats(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return all(x <= y for x, y in zip(a, b, strict=True)) and a != b


def _placed(
    results: list[Figures], most: float, panel: tuple[int, int, int, int]
) -> list[tuple[str, float, float, float]]:
    """Return each variant with its point and the height of its label, no label over another."""
    x0, y0, width, height = panel
    points = []
    for name in VARIANTS:
        cost = mean(results, name, "flops ratio") or 0.0
        success = mean(results, name, "success") or 0.0
        points.append((name, x0 + (width - 90) * cost / most, y0 + height * (1 - success)))
    found, free = [], y0 + height + 2.0
    for name, x, y in sorted(points, key=lambda point: (-point[2], point[1])):
        label = min(y + 3, free)
        free = label - 10
        found.append((name, x, y, label))
    return found


def figure(found: dict[str, list[Figures]], path: Path) -> None:
    """Draw backdoor success against operations, one panel per data set, as an SVG."""
    width, height, left, top = 420, 300, 60, 40
    parts = []
    for number, (dataset, results) in enumerate(found.items()):
        x0, y0 = left + number * (width + 60), top
        parts.append(
            f'<rect x="{x0}" y="{y0}" width="{width}" height="{height}" fill="none" '
            f'stroke="#999"/><text x="{x0}" y="{y0 - 12}">{dataset}</text>'
            f'<text x="{x0}" y="{y0 + height + 34}" class="s">operations as a share of '
            "retraining's to the same accuracy</text>"
            f'<text x="{x0 - 50}" y="{y0 - 12}" class="s">success</text>'
        )
        for tick in (0, 25, 50, 75, 100):
            y = y0 + height * (1 - tick / 100)
            parts.append(f'<text x="{x0 - 30}" y="{y + 4:.0f}" class="s">{tick}</text>')
        most = max(mean(results, name, "flops ratio") or 0.0 for name in VARIANTS)
        parts.append(
            f'<text x="{x0 + width - 90}" y="{y0 + height + 16}" class="s">{most:.2f}</text>'
        )
        for name, x, y, label in _placed(results, most, (x0, y0, width, height)):
            colour = "#c2410c" if name == "soul" else "#475569"
            parts.append(
                f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}"><title>{name}</title>'
                f'</circle><path d="M{x:.1f} {y:.1f}L{x + 12:.1f} {label - 3:.1f}" stroke="#bbb"/>'
                f'<text x="{x + 13:.1f}" y="{label:.1f}" class="s" fill="{colour}">{name}</text>'
            )
    whole = left + len(found) * (width + 60)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {whole} {height + 90}" '
        'font-family="sans-serif" font-size="14"><style>.s{font-size:9px}</style>'
        f'<rect width="100%" height="100%" fill="#fff"/>{"".join(parts)}</svg>\n',
        encoding="utf-8",
    )


def page(found: dict[str, list[Figures]], settings: Mapping[str, str]) -> str:
    """Return the whole page as Markdown."""
    parts = []
    for dataset, results in found.items():
        first = mean(results, "soul", "before accuracy") or 0.0
        success = mean(results, "soul", "before success") or 0.0
        auc = mean(results, "soul", "before auc") or 0.0
        spread = mean(results, "retrain", "distance") or 0.0
        fresh = cell(results, "retrain", "fresh epochs", 1.0)
        parts.append(
            f"### {dataset}, {len(results)} {'seed' if len(results) == 1 else 'seeds'}\n\n"
            f"{settings[dataset]} Before the request: accuracy "
            f"{100 * first:.1f} %, backdoor success {100 * success:.1f} %, membership AUC "
            f"{auc:.2f}. Two retrained models are "
            f"{spread:.3f} apart; a fresh model needs {fresh} epochs to learn the forgotten rows."
            f"\n\n{table(results)}\n\n{bars(results, dataset)}"
        )
    body = "\n\n".join(parts)
    return f"""## What was measured

Mean ± standard deviation over seeds. Success, accuracy and rates in percent. *At once* is right
after the erasure, *recovered* after {RECOVERY} rounds of the clean clients (as many as there were
before the request for retraining), *relearned* after {RELEARNING} more. *Distance* is the mean L2
distance of class probabilities on the test set. *Operations*, *bytes* and *link time* are shares of
what retraining takes to the same test accuracy (or all of its rounds where it never gets there).

{body}

![Forgetting against cost](soul.svg)

Made by `python -m simulations.soul_table`; {machine()}."""


def tasks(quick: bool, data_dir: str, seeds: int, samples: int) -> Iterator[Task]:
    """Yield data sets and seeds; digits alone if `quick`."""
    for dataset in () if quick else ("mnist", "fashion-mnist"):
        part = {"name": dataset, "train_samples": samples, "test_samples": 3000}
        base = {**BASE, "dataset": part, "attack": ATTACK, "data_dir": data_dir or None}
        yield from (Task(dataset, seed, base, BEFORE) for seed in range(seeds))
    base = {**BASE, "model": "mlp", "lr": 0.2, "local_epochs": 2, "server_samples": 60}
    base |= {"dataset": "digits", "attack": {**ATTACK, "size": 2, "scale": 2.0}}
    yield from (Task("digits", seed, base, 20) for seed in range(seeds))


def told(task: Task) -> str:
    """Return a task's setting in two sentences."""
    base, part = task.base, task.base["dataset"]
    kept = ""
    if isinstance(part, Mapping):
        kept = f"{part['train_samples']:,} training and {part['test_samples']:,} test images; "
    side = base["attack"]["size"]
    epochs = (
        "1 local epoch" if base["local_epochs"] == 1 else f"{base['local_epochs']} local epochs"
    )
    return (
        f"{kept}10 clients, Dirichlet 0.5, {base['model']}, lr {base['lr']}, "
        f"batch {base['batch_size']}, {epochs}, {task.before} rounds "
        "before the request. One client, drawn by the seed, stamps half of its rows (badnets, "
        f"{side} x {side} pixels, target 0) and doubles its updates."
    )


def main(
    data_dir: Annotated[str, typer.Option(help="Folder with the files.")] = "",
    seeds: Annotated[int, typer.Option(help="Seeds per data set.")] = 3,
    quick: Annotated[bool, typer.Option(help="Digits; prints the page.")] = False,
    samples: Annotated[int, typer.Option(help="Training images kept per data set.")] = 12_000,
    only: Annotated[str, typer.Option(help="Run this data set alone.")] = "",
    partial: Annotated[bool, typer.Option(help="Write the page with what there is.")] = False,
    seconds: Annotated[float, typer.Option(help="Start no more runs after so long.")] = 1e9,
    folder: Annotated[Path, typer.Option(help="Where the runs go.")] = Path("runs/soul-table"),
) -> None:
    """Run what is missing of the table, then write it into docs/soul.md."""
    import torch

    logging.getLogger("flwr").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    started = time.monotonic()
    found: dict[str, list[Figures]] = {}
    wanted = list(tasks(quick, data_dir, seeds, samples))
    for task in wanted:
        if only and task.dataset != only:
            continue
        for variant in VARIANTS:
            if time.monotonic() - started > seconds:
                break
            clock = time.monotonic()
            run_variant(task, variant, folder)
            if time.monotonic() - clock > 1:
                print(task.dataset, task.seed, variant, f"{time.monotonic() - clock:.0f} s")
        else:
            found.setdefault(task.dataset, []).append(outcome(task, folder))
    missing = len(wanted) - sum(len(results) for results in found.values())
    if missing and not partial:
        print(f"{missing} of {len(wanted)} columns are missing; run again to go on")
        raise typer.Exit(3)
    text = page(found, {task.dataset: told(task) for task in wanted})
    if quick:
        print(text)
    else:
        figure(found, DOCUMENT.with_name("soul.svg"))
        write_section("soul table", text, DOCUMENT)


if __name__ == "__main__":
    typer.run(main)
