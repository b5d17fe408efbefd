"""Folders of finished runs as a campaign leaves them, made up in milliseconds."""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

CLASSES = [str(label) for label in range(10)]


def finish(
    path: Path,
    *,
    accuracy: float = 0.8,
    success: float | None = None,
    seconds: float = 0.5,
    rounds: int = 3,
    clients: int = 8,
    seed: int = 0,
    perplexity: float | None = None,
    **config: Any,
) -> Path:
    """Write the files of a finished run that a comparison reads.

    With a perplexity it is a language model's; infinity stands for a model that was destroyed.
    """
    path.mkdir(parents=True, exist_ok=True)
    values = {
        "strategy": {"name": "fedavg"},
        "pre": None,
        "attack": {"name": "alie"},
        "dataset": {"name": "digits"},
        "partition": {"name": "dirichlet", "alpha": 0.5},
        "clients": clients,
        "malicious": 0.25,
        "assumed_malicious": 0.25,
        "rounds": rounds,
        "seed": seed,
        **config,
    }
    (path / "config.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    rng = np.random.default_rng([seed, zlib.crc32(path.name.encode())])
    liars = set(range(clients // 4))
    lines, records = [], []
    for number in range(rounds + 1):
        share = accuracy - (accuracy - 0.1) * (1 - number / max(rounds, 1))
        lines.append(
            {
                "round": number,
                "accuracy": share,
                "loss": 1.0,
                "attack_success_rate": success,
                "true_positive_rate": float(rng.random()) if number else None,
                "false_positive_rate": float(rng.random()) / 4 if number else None,
                "seconds": seconds,
            }
        )
        for client in range(clients if number else 0):
            rejected = bool(rng.random() < (0.8 if client in liars else 0.1))
            records.append(
                {
                    "round": number,
                    "client": client,
                    "malicious": client in liars,
                    "accepted": not rejected,
                    "weight": 0.0 if rejected else 0.1,
                    "num_examples": 70.0,
                    "scores": {"distance": float(rng.random())},
                    "reason": "far away" if rejected else None,
                }
            )
    told: dict[str, Any] = {}
    if perplexity is not None:
        told = {"headline": {"name": "perplexity", "higher_is_better": False, "unit": "plain"}}
        for line in lines:
            del line["accuracy"]
            line["perplexity"] = perplexity if np.isfinite(perplexity) else None
    _write_lines(path / "rounds.jsonl", lines)
    _write_lines(path / "clients.jsonl", records)
    summary = {
        **told,
        "strategy": values["strategy"]["name"],
        "attack": values["attack"]["name"],
        "dataset": values["dataset"]["name"],
        "clients": clients,
        "malicious_clients": sorted(liars),
        "rounds": rounds,
        "seed": seed,
        "final": lines[-1],
        "detection": {"true_positive_rate": 0.8, "false_positive_rate": 0.1},
        "seconds_per_round": seconds,
        "seconds": seconds * rounds,
        "class_names": CLASSES,
    }
    (path / "summary.json").write_text(json.dumps(summary))
    return path


def write_grid(
    folder: Path,
    *,
    defences: Sequence[str],
    attacks: Sequence[str],
    seeds: int,
    rounds: int = 3,
    clients: int = 8,
    malicious: Sequence[float] = (0.25,),
    alphas: Sequence[float] = (0.5,),
) -> Path:
    """Write every combination; attacks named ``badnets`` have a success rate."""
    rng = np.random.default_rng(0)
    place = 0
    for defence in defences:
        for attack in attacks:
            for fraction in malicious:
                for alpha in alphas:
                    for seed in range(seeds):
                        finish(
                            folder / f"run-{place:04d}",
                            strategy={"name": defence},
                            attack={"name": attack},
                            malicious=fraction,
                            partition={"name": "dirichlet", "alpha": alpha},
                            seed=seed,
                            rounds=rounds,
                            clients=clients,
                            accuracy=float(rng.uniform(0.1, 0.95)),
                            success=float(rng.random()) if attack == "badnets" else None,
                            seconds=float(rng.uniform(0.1, 2.0)),
                        )
                        place += 1
    return folder


def _write_lines(path: Path, lines: Sequence[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
