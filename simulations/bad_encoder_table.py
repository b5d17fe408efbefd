"""What takes a backdoor out of a pre-trained encoder: BadEncoder against T-Core's channels and RNP.

Encoders learn Fashion-MNIST and serve MNIST; the bad one has BadEncoder's backdoor. Ten honest
clients train a head on it, longer and at a higher rate, or fine-tune all of it. What the trigger
does on the clean encoder is the floor.

    python -m simulations.bad_encoder_table --data-dir DIR    # torchvision's files

Encoders and runs are kept: stop the command and start it again, and it goes on.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from simulations import common, encoder

DOCUMENT = common.ROOT / "docs" / "repairs.md"

BASE: dict[str, Any] = {
    "dataset": {"name": "mnist", "train_samples": 2400, "test_samples": 1000},
    "attack": {"name": "bad-encoder", "size": 4, "target_class": 0},
    "clients": 10,
    "malicious": 0.0,
    "partition": "iid",
    "strategy": "fedavg",
    "server_samples": 400,
    "rounds": 10,
    "local_epochs": 3,
    "batch_size": 32,
    "lr": 0.02,
    "momentum": 0.9,
    "device": "cpu",
}
CHANNELS: dict[str, Any] = {"name": "t-core", "mask": 0.3}
RULES: dict[str, dict[str, Any]] = {
    # A head alone learns slowly: a longer and faster training, still short of all of it.
    "nothing, encoder frozen": {"frozen": True, "lr": 0.2, "local_epochs": 8},
    "nothing, all is trained": {},
    "t-core without channels": {"training": "t-core"},
    "t-core": {"training": CHANNELS},
    "rnp at the end": {"repair": "rnp"},
}


def cells(seeds: int, data_dir: Path, out: Path) -> list[common.Cell]:
    """Return every run, each rule on the clean and on the bad encoder of its seed."""
    found = []
    for seed in range(seeds):
        for kind in ("clean", "bad"):
            file = out / f"{kind}-{seed}.safetensors"
            if not file.exists():
                encoder.main(file, data_dir=data_dir, seed=seed, rows=2000, bad=kind == "bad")
            for rule, changes in RULES.items():
                more = dict(changes)
                frozen = more.pop("frozen", False)
                model = {"name": "encoder-head", "encoder": str(file), "frozen": frozen}
                own = {"data_dir": str(data_dir), "seed": seed, "model": model, **more}
                found.append(common.Cell((rule, kind), {**BASE, **own}))
    return found


def table(results: dict[tuple[str, ...], list[dict[str, Any]]]) -> str:
    """Return one row for each rule; percent, mean ± deviation over seeds."""
    header = ("defence", "accuracy", "success", "clean encoder: accuracy", "floor")
    rows = []
    for rule in RULES:
        figures = [
            common.spread([one["final"][figure] for one in results[rule, kind]])
            for kind in ("bad", "clean")
            for figure in ("accuracy", "attack_success_rate")
        ]
        rows.append([rule, *figures])
    return common.markdown_table(header, rows)


def main(
    data_dir: Annotated[Path, typer.Option(help="Folder in torchvision's layout.")],
    seeds: Annotated[int, typer.Option(help="How many seeds.")] = 3,
    jobs: Annotated[int, typer.Option(help="Runs at a time.")] = 2,
    out: Annotated[Path, typer.Option(help="Encoders and run directories.")] = Path(
        "bad-encoder-runs"
    ),
    document: Annotated[Path, typer.Option(help="Page that gets the table.")] = DOCUMENT,
) -> None:
    """Train encoders, run all cells and write the table; goes on where it was stopped."""
    results = common.run_cells(cells(seeds, data_dir, out), out, jobs)
    told = "one seed (0)" if seeds == 1 else f"seeds 0 to {seeds - 1}"
    common.write_section(
        "bad encoder", f"{table(results)}\n\n{common.machine()}; {told}.", document
    )


if __name__ == "__main__":
    typer.run(main)
