"""OPUS-VFL against its rivals and their attackers, on strips of digits or MNIST.

What do incentives and noise cost in accuracy and time, what do they keep from an attacker, and do
tokens go where the Shapley value says? Stopping and starting again goes on where it stopped.

    python -m simulations.opus_table                       # digits, no files needed
    python -m simulations.opus_table --data-dir DIR        # 3,000 images of MNIST
    python -m simulations.opus_table --quick               # one seed, few rounds, prints only
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from scipy.stats import spearmanr

from fedguard.config import parse
from fedguard.nodes.app import make_client_app
from fedguard.runs.simulation import Simulation
from fedguard.vertical.exchange import Exchange, FusedExchange, MessageExchange
from fedguard.vertical.party_grid import PartyGrid
from fedguard.vertical.shapley import RetrainedValue, exact_shapley
from fedguard.vertical.world import VerticalWorld
from simulations.common import (
    ROOT,
    Cell,
    machine,
    markdown_table,
    run_cells,
    spread,
    write_section,
)

DOCUMENT = ROOT / "docs" / "opus_vfl.md"

DEFENCES: dict[str, Any] = {
    "vfl": "vfl",
    "vfl-dp": "vfl-dp",
    "opus-vfl": "opus-vfl",
    "opus-vfl, noisy gradients": {"name": "opus-vfl", "gradient_noise": 2.0},
    "vfl-noisy-sparse": "vfl-noisy-sparse",
    "vfl-czofo": "vfl-czofo",
}

# The victim or attacker is a middle strip: party 2 of 5.
ATTACKS: dict[str, dict[str, Any]] = {
    name: {"name": name, "parties": [2]}
    for name in (
        "label-inference-passive",
        "label-inference-gradient",
        "feature-reconstruction",
        "vertical-backdoor",
    )
}

STAYING = {"name": "opus-vfl", "warmup": 1_000_000}
"""OPUS-VFL whose parties never leave, so that every round is as long as the last."""

WAYS = ("fused", "messages")

Runs = dict[tuple[str, ...], list[dict[str, Any]]]


def cells(base: dict[str, Any], seeds: int) -> Iterator[Cell]:
    """Yield every run of the table."""
    for seed in range(seeds):
        for parties in (2, 3, 4, 5):
            for strategy in ("vfl", "opus-vfl", "bpf", "o2s"):
                values = {**base, "strategy": strategy, "clients": parties, "seed": seed}
                yield Cell(("clean", strategy, str(parties)), values)
        for name, strategy in DEFENCES.items():
            for attack, part in ATTACKS.items():
                values = {**base, "strategy": strategy, "attack": part, "seed": seed}
                yield Cell((attack, name), values)
        rider = {"name": "free-rider-party", "parties": [2]}
        yield Cell(("rider",), {**base, "strategy": "opus-vfl", "attack": rider, "seed": seed})


def clean_table(runs: Runs) -> str:
    """Return accuracy without attack."""
    rows = []
    for strategy in ("vfl", "opus-vfl", "bpf", "o2s"):
        found = [runs["clean", strategy, str(parties)] for parties in (2, 3, 4, 5)]
        rows.append([strategy, *(spread([r["final"]["accuracy"] for r in one]) for one in found)])
    return markdown_table(("strategy", "2 parties", "3", "4", "5"), rows)


def attack_table(runs: Runs) -> str:
    """Return what each attack gains against each defence."""
    rows = []
    for name in DEFENCES:
        passive = runs["label-inference-passive", name]
        features = runs["feature-reconstruction", name]
        backdoor = runs["vertical-backdoor", name]
        direct = runs["label-inference-gradient", name]
        results = [r["attack_result"] for r in features]
        rows.append(
            [
                name,
                spread([r["final"]["accuracy"] for r in passive]),
                spread([r["attack_result"]["success"] for r in passive]),
                spread([r["attack_result"]["untrained"] for r in passive]),
                spread([r["attack_result"]["success"] for r in direct]),
                f"{statistics.fmean(r['feature_mse'] for r in results):.3f}",
                f"{statistics.fmean(r['output_mse'] for r in results):.3f}",
                spread([r["final"]["attack_success_rate"] for r in backdoor]),
            ]
        )
    header = (
        "strategy",
        "accuracy",
        "labels by completion",
        "labels from own features alone",
        "labels from gradients",
        "feature error",
        "output error",
        "backdoor",
    )
    return markdown_table(header, rows)


def shapley_row(base: dict[str, Any], seed: int, folder: Path) -> dict[str, Any]:
    """Return tokens and exact Shapley values of five paid parties, from a file if there is one."""
    done = folder / f"shapley-{base['rounds']}-{base.get('data_dir') is not None}-{seed}.json"
    if done.exists():
        found: dict[str, Any] = json.loads(done.read_text())
        return found
    values = {**base, "clients": 6, "seed": seed, "attack": "none"}
    opus = parse({**values, "strategy": {"name": "opus-vfl", "warmup": base["rounds"]}})
    summary = Simulation(opus).run(folder / done.stem)
    tokens = [summary["parties"][str(p)]["tokens"] for p in range(1, 6)]
    worth = exact_shapley(range(1, 6), RetrainedValue(parse({**values, "strategy": "vfl"})))
    row = {
        "tokens": tokens,
        "shapley": [worth[p] for p in range(1, 6)],
        "spearman": float(spearmanr(tokens, [worth[p] for p in range(1, 6)])[0]),
    }
    done.write_text(json.dumps(row))
    return row


def shapley_table(base: dict[str, Any], seeds: int, folder: Path) -> str:
    """Return reward against exact Shapley value."""
    rows = []
    for seed in range(seeds):
        row = shapley_row(base, seed, folder)
        shares = " ".join(f"{t / sum(row['tokens']):.2f}" for t in row["tokens"])
        values = " ".join(f"{v:.3f}" for v in row["shapley"])
        rows.append([str(seed), shares, values, f"{row['spearman']:.2f}"])
    return markdown_table(("seed", "share of tokens", "Shapley of accuracy", "Spearman"), rows)


def engine(
    strategy: Any, base: dict[str, Any], parties: int, *, by_message: bool = False
) -> Callable[[], float]:
    """Return what trains one round more and returns the seconds that it took."""
    config = parse({**base, "strategy": strategy, "clients": parties})
    simulation: Any = Simulation(config)
    assert isinstance(simulation.world, VerticalWorld)
    world, loop = simulation.world.world, simulation.strategy
    loop.bind(world.label_holder(), world.schedule(), parties)
    exchange: Exchange
    if by_message:
        exchange = MessageExchange(PartyGrid(make_client_app(config.model_dump_json()), parties))
    else:
        exchange = FusedExchange([world.party(p) for p in range(parties)])
    done = 0

    def one_round() -> float:
        nonlocal done
        done += 1
        times: list[float] = []
        loop.train(exchange, done, rounds_done=done - 1, on_round=lambda f: times.append(f.seconds))
        return times[0]

    return one_round


def interleaved(engines: Mapping[str, Callable[[], float]], repeats: int) -> dict[str, list[float]]:
    """Return each engine's times, rounds of all engines by turns; the first two do not count."""
    times: dict[str, list[float]] = {name: [] for name in engines}
    for _ in range(repeats + 2):
        for name, one_round in engines.items():
            times[name].append(one_round())
    return {name: one[2:] for name, one in times.items()}


def in_short(times: Sequence[float]) -> str:
    """Return ``smallest / median`` milliseconds."""
    return f"{1000.0 * min(times):.1f} / {1000.0 * statistics.median(times):.1f}"


def ratio(slow: Sequence[float], fast: Sequence[float]) -> str:
    """Return the ratio of the smallest times, and the median of the ratios of single pairs."""
    pairs = [one / other for one, other in zip(slow, fast, strict=True)]
    return f"{min(slow) / min(fast):.2f} / {statistics.median(pairs):.2f}"


def time_table(base: dict[str, Any]) -> str:
    """Return the overhead of incentives by number of parties."""
    base = {**base, "batch_size": 128}
    rows = []
    for parties in (2, 5, 10, 15, 20, 25) if "data_dir" in base else (2, 4, 6, 8):
        named = {"vfl": "vfl", "vfl-dp": "vfl-dp", "opus-vfl": STAYING}
        engines = {name: engine(part, base, parties) for name, part in named.items()}
        times = interleaved(engines, 15)
        opus = times["opus-vfl"]
        ratios = [ratio(opus, times["vfl"]), ratio(opus, times["vfl-dp"])]
        rows.append([str(parties), *(in_short(one) for one in times.values()), *ratios])
    header = ("parties", "vfl", "vfl-dp", "opus-vfl", "opus / vfl", "opus / vfl-dp")
    return markdown_table(header, rows)


def message_table(base: dict[str, Any]) -> str:
    """Return what messages cost in one process, by strategy."""
    rows = []
    for name, part in {"vfl": "vfl", "opus-vfl": STAYING}.items():
        engines = {way: engine(part, base, 5, by_message=way == "messages") for way in WAYS}
        times = interleaved(engines, 5)
        fused, sent = times["fused"], times["messages"]
        rows.append([name, in_short(fused), in_short(sent), ratio(sent, fused)])
    return markdown_table(("strategy", *WAYS, "messages / fused"), rows)


def main(
    data_dir: Annotated[str, typer.Option(help="Folder with MNIST's files; digits if none.")] = "",
    seeds: Annotated[int, typer.Option(help="Seeds per cell.")] = 3,
    shapley_seeds: Annotated[int, typer.Option(help="Seeds of the Shapley table.")] = 5,
    rounds: Annotated[int, typer.Option(help="Passes over the rows.")] = 15,
    jobs: Annotated[int, typer.Option(help="Runs at a time, one thread each.")] = 1,
    quick: Annotated[bool, typer.Option(help="One seed, 3 rounds; writes no document.")] = False,
    folder: Annotated[Path, typer.Option(help="Where the runs go.")] = Path("runs/opus-table"),
) -> None:
    """Run the table and write it into docs/opus_vfl.md."""
    torch.set_num_threads(1)
    base: dict[str, Any] = {"rounds": 3 if quick else rounds, "device": "cpu"}
    if data_dir:
        dataset = {"name": "mnist", "train_samples": 3000, "test_samples": 1000}
        base |= {"dataset": dataset, "data_dir": data_dir}
    seeds, shapley_seeds = (1, 1) if quick else (seeds, shapley_seeds)
    runs = run_cells(cells(base, seeds), folder, jobs)
    riders = [r["parties"]["2"]["tokens"] for r in runs["rider",]]
    total = [sum(p["tokens"] for p in r["parties"].values()) for r in runs["rider",]]
    share = [mine / whole for mine, whole in zip(riders, total, strict=True)]
    name = "MNIST, 3,000 + 1,000 images" if data_dir else "digits"
    text = f"""## Measured: {name}, {base["rounds"]} rounds, {seeds} seed(s), percent

Accuracy without attack:

{clean_table(runs)}

Attacks by party 2 of 5 (feature reconstruction: on party 2; error per normalised feature):

{attack_table(runs)}

A free rider's share of all tokens under opus-vfl: {spread(share)} %.

Tokens against the exact Shapley value of test accuracy, every one of 32 coalitions of five paid
parties retrained:

{shapley_table(base, shapley_seeds, folder)}

Milliseconds of training per round, batch 128, smallest / median of 15 rounds, strategies by turns;
ratios of the smallest times / median of the ratios of single rounds:

{time_table(base)}

The same for 5 parties and batch 64, fused and by Flower messages within one process, 5 rounds:

{message_table(base)}

Made by `python -m simulations.opus_table`; {machine()}."""
    if quick:
        print(text)
    else:
        write_section(f"opus table {name}", text, DOCUMENT)


if __name__ == "__main__":
    typer.run(main)
