"""Run directories as the command leaves them, with figures that resemble a real run's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

CLASSES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


def write_run(
    path: Path,
    *,
    clients: int = 20,
    malicious: int = 4,
    rounds: int = 20,
    attack: str = "min-max",
    backdoor: bool = True,
    fraction: float = 1.0,
    seed: int = 0,
    **summary: Any,
) -> Path:
    """Write every file of an older run's directory; `summary` replaces entries of its summary."""
    rng = np.random.default_rng(seed)
    path.mkdir(parents=True, exist_ok=True)
    liars = sorted(int(c) for c in rng.choice(clients, malicious, replace=False))
    recall = np.round(rng.uniform(0.85, 0.99, len(CLASSES)), 4).tolist()
    lines = [_round(0, 0.1, 2.3, backdoor, recall)]
    records: list[dict[str, Any]] = []
    for number in range(1, rounds + 1):
        asked = sorted(rng.choice(clients, max(1, int(clients * fraction)), replace=False).tolist())
        own = [_client(rng, number, client, client in liars) for client in asked]
        records += own
        accuracy = 0.96 - 0.85 * np.exp(-number / 3.5) + rng.normal(0, 0.006)
        line = _round(
            number, float(accuracy), float(2.2 * np.exp(-number / 5) + 0.15), backdoor, recall
        )
        lines.append(line | _tally(own, liars) | {"seconds": 1.2})
    final = {k: v for k, v in lines[-1].items() if k not in ("round", "accepted", "rejected")}
    content = {
        "strategy": "geminiguard",
        "attack": attack,
        "dataset": "mnist",
        "partition": "dirichlet (alpha 0.5)",
        "model": "cnn",
        "clients": clients,
        "malicious": malicious,
        "malicious_clients": liars,
        "rounds": rounds,
        "seed": 0,
        "engine": "inprocess",
        "final": final,
        "best": {"round": rounds, "accuracy": lines[-1]["accuracy"]},
        "detection": {
            name: _mean([line[name] for line in lines])
            for name in ("true_positive_rate", "false_positive_rate")
        },
        "seconds": 24.6,
        "seconds_per_round": 1.2,
        "peak_memory_bytes": 812_000_000,
        "versions": {"fedguard": "0.1.0", "flwr": "1.41.0", "torch": "2.15.0", "python": "3.11.4"},
        "model_sha256": "9f2c1e" + "0" * 58,
        "class_names": CLASSES,
        "notes": ["the server keeps 100 training examples for the defence"],
        "out": str(path),
    }
    if clients:
        shares = rng.dirichlet([0.5] * len(CLASSES), clients)
        content["split"] = {"counts": [rng.multinomial(600, share).tolist() for share in shares]}
    _dump(path / "summary.json", content | summary)
    _dump(path / "threat_model.json", threat_model(attack, liars))
    _dump_lines(path / "rounds.jsonl", lines)
    _dump_lines(path / "clients.jsonl", records)
    (path / "config.yaml").write_text(
        f"strategy:\n  name: geminiguard\n  assumed_malicious: 0.25\nattack:\n  name: {attack}\n"
        f"dataset: mnist\nclients: {clients}\nmalicious: {malicious / clients}\nrounds: {rounds}\n"
        "partition: dirichlet\nalpha: 0.5\nlocal_epochs: 1\nbatch_size: 32\nlr: 0.05\nseed: 0\n"
    )
    return path


def threat_model(attack: str, liars: list[int]) -> dict[str, Any]:
    return {
        "attacker": {
            "attack": attack,
            "controls": "the replies of the malicious clients; not the server, not the channel",
            "knowledge": "partial: its own clients' honest updates",
            "malicious_clients": liars,
            "parameters": {"deviation": "inverse std", "tolerance": 0.001},
            "adapts_to_defence": False,
        },
        "defence": {
            "strategy": "geminiguard",
            "assumes": "fewer than half of the clients are malicious",
            "server_data": "100 examples without labels",
        },
        "measured": [
            "accuracy on the test set after every round",
            "share of malicious updates rejected, share of honest updates rejected",
        ],
    }


def _round(number: int, accuracy: float, loss: float, backdoor: bool, recall: list[float]) -> dict:
    success = float(0.02 + 0.25 * np.exp(-number / 2)) if backdoor else None
    return {
        "round": number,
        "accuracy": accuracy,
        "loss": loss,
        "attack_success_rate": success,
        "per_class_recall": recall,
        "accepted": 0,
        "rejected": 0,
        "malformed": 0,
        "true_positive_rate": None,
        "false_positive_rate": None,
        "seconds": 0.0,
    }


def _client(rng: np.random.Generator, number: int, client: int, lies: bool) -> dict[str, Any]:
    base = {"round": number, "client": client, "malicious": lies}
    if rng.random() < 0.01:
        nothing = {"accepted": False, "weight": 0.0, "num_examples": None, "scores": {}}
        return base | nothing | {"reason": "not a number (NaN) in the update"}
    rejected = rng.random() < (0.95 if lies else 0.03)
    return base | {
        "accepted": not rejected,
        "weight": 0.0 if rejected else 0.06,
        "num_examples": 120.0,
        "scores": {
            "cluster": float(rng.integers(0, 2) + 2 * lies),
            "trust": float(np.clip(rng.normal(0.2 if lies else 0.8, 0.12), 0, 1)),
            "distance": float(rng.lognormal(2.5 if lies else 0.0, 0.8)),
        },
        "reason": "far from the majority of the latent representations" if rejected else None,
    }


def _tally(own: list[dict[str, Any]], liars: list[int]) -> dict[str, Any]:
    def rate(group: list[dict[str, Any]]) -> float | None:
        return sum(not record["accepted"] for record in group) / len(group) if group else None

    accepted = sum(record["accepted"] for record in own)
    return {
        "accepted": accepted,
        "rejected": len(own) - accepted,
        "malformed": sum(record["num_examples"] is None for record in own),
        "true_positive_rate": rate([record for record in own if record["client"] in liars]),
        "false_positive_rate": rate([record for record in own if record["client"] not in liars]),
    }


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _dump(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content))


def _dump_lines(path: Path, lines: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def count_replies(path: Path) -> list[dict[str, Any]]:
    """Rewrite a run as newer ones are recorded, outcomes told apart; return its client records.

    Of the records without an update, two of three failed and the others were set aside.
    """
    records = [json.loads(line) for line in (path / "clients.jsonl").read_text().splitlines()]
    for record in records:
        record["outcome"] = "accepted" if record["accepted"] else "rejected"
    for place, record in enumerate(r for r in records if r["num_examples"] is None):
        failed = place % 3 != 2
        record["outcome"] = "failed" if failed else "set aside"
        record["reason"] = "no reply" if failed else "not a number (NaN)"
    lines = [json.loads(line) for line in (path / "rounds.jsonl").read_text().splitlines()]
    for line in lines[1:]:
        line |= counts([record for record in records if record["round"] == line["round"]])
    summary = json.loads((path / "summary.json").read_text())
    total = counts(records)
    reasons = total.pop("reasons")
    total["commonest_reason"] = max(reasons, key=lambda reason: reasons[reason], default=None)
    _dump(path / "summary.json", summary | {"replies": total})
    _dump_lines(path / "rounds.jsonl", lines)
    _dump_lines(path / "clients.jsonl", records)
    return records


def counts(records: list[dict[str, Any]]) -> dict[str, Any]:
    """Return how many records have each outcome, as a line of ``rounds.jsonl`` does."""
    outcomes = [record["outcome"] for record in records]
    failed, aside = outcomes.count("failed"), outcomes.count("set aside")
    reasons = [r["reason"] for r in records if r["outcome"] in ("failed", "set aside")]
    return {
        "asked": len(records),
        "answered": len(records) - failed,
        "failed": failed,
        "set_aside": aside,
        "rejected": outcomes.count("rejected"),
        "accepted": outcomes.count("accepted"),
        "malformed": failed + aside,
        "reasons": {reason: reasons.count(reason) for reason in dict.fromkeys(reasons)},
    }


PERPLEXITY = {"name": "perplexity", "higher_is_better": False, "unit": "plain"}


def lead_with_perplexity(path: Path) -> Path:
    """Rewrite a run as one of a language model: perplexity in place of accuracy and classes."""
    lines = [json.loads(line) for line in (path / "rounds.jsonl").read_text().splitlines()]
    for line in lines:
        del line["accuracy"], line["per_class_recall"]
        line |= {"perplexity": float(np.exp(line["loss"])), "train_loss": line["loss"] / 2}
    summary = json.loads((path / "summary.json").read_text())
    summary |= {"headline": PERPLEXITY, "final": lines[-1], "class_names": [], "model": "gru"}
    best = min(lines[1:], key=lambda line: line["perplexity"])
    summary["best"] = {"round": best["round"], "perplexity": best["perplexity"]}
    _dump(path / "summary.json", summary)
    _dump_lines(path / "rounds.jsonl", lines)
    return path
