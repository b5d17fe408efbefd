"""What a run writes about itself: clients of a round, threat model, summary."""

from __future__ import annotations

import resource
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedguard.encryption.strategy import EncryptedStrategy
from fedguard.metrics.detection import detection
from fedguard.records import writer as files
from fedguard.records.provenance import model_sha256, versions
from fedguard.records.writer import read_jsonl
from fedguard.runs.observed import Outcome
from fedguard.strategies.base import RobustStrategy

if TYPE_CHECKING:
    from fedguard.runs.simulation import Simulation


def accepted_nodes(outcome: Outcome) -> set[int]:
    """Return the nodes whose update has a share in the aggregate."""
    if outcome.updates is None or outcome.verdict is None:
        return set()
    weights = outcome.verdict.weights.tolist()
    return {node for node, w in zip(outcome.updates.node_ids, weights, strict=True) if w > 0}


def decision(outcome: Outcome | None, malicious: frozenset[int]) -> dict[str, Any]:
    """Return how many clients a round accepted and rejected, and how rightly."""
    if outcome is None or outcome.updates is None or outcome.verdict is None:
        return {
            "accepted": len(outcome.asked) if outcome else 0,
            "rejected": 0,
            "malformed": 0,
            "true_positive_rate": None,
            "false_positive_rate": None,
        }
    accepted = accepted_nodes(outcome)
    rejected = set(outcome.asked) - accepted
    rates = detection(outcome.asked, rejected, malicious)
    return {
        "accepted": len(accepted),
        "rejected": len(rejected),
        "malformed": len(outcome.updates.malformed),
        "true_positive_rate": rates.true_positive_rate,
        "false_positive_rate": rates.false_positive_rate,
    }


def client_records(outcome: Outcome, malicious: frozenset[int]) -> list[dict[str, Any]]:
    """Return one record per client that was asked; see ``clients.jsonl``."""
    updates, verdict = outcome.updates, outcome.verdict
    if updates is None or verdict is None:
        return [
            {
                "round": outcome.server_round,
                "client": node,
                "malicious": node in malicious,
                "accepted": None,
                "weight": None,
                "num_examples": None,
                "scores": {},
                "reason": None,
            }
            for node in outcome.asked
        ]
    rows = {node: row for row, node in enumerate(updates.node_ids)}
    weights = verdict.weights.tolist()
    claims = updates.num_examples.tolist()
    scores = {name: values.tolist() for name, values in verdict.scores.items()}
    records = []
    for node in outcome.asked:
        row = rows.get(node)
        reason = updates.malformed.get(node) or verdict.reasons.get(node)
        weight = 0.0 if row is None else weights[row]
        records.append(
            {
                "round": outcome.server_round,
                "client": node,
                "malicious": node in malicious,
                "accepted": weight > 0,
                "weight": weight,
                "num_examples": None if row is None else claims[row],
                "scores": {}
                if row is None
                else {name: values[row] for name, values in scores.items()},
                "reason": reason or updates.remarks.get(node),
            }
        )
    return records


def threat_model(simulation: Simulation) -> dict[str, Any]:
    """Return what the attacker knows and controls, what the defence assumes, what is measured."""
    config, federation = simulation.config, simulation.federation
    needs = sorted(simulation.attack.needs)
    tools = isinstance(simulation.strategy, RobustStrategy) and simulation.strategy.tools
    return {
        "attacker": {
            "attack": config.attack.name,
            "controls": f"{len(federation.malicious)} of {config.clients} clients",
            "clients": sorted(federation.malicious),
            "changes": needs or "nothing",
            "knowledge": {
                "partial": "the updates its own clients would have sent honestly",
                "full": "every honest update of the round",
            }[config.attack_knowledge],
            "rounds": config.attack_rounds,
        },
        "defence": {
            "strategy": config.strategy.name,
            "assumes malicious fraction": getattr(
                simulation.strategy, "assumed_malicious", "no bound"
            ),
            "holds auxiliary examples": config.server_samples if tools else 0,
            "sees who is malicious": False,
            **_protection(simulation),
        },
        "measured": [
            "accuracy, loss and recall per class on the test set",
            "attack success on triggered test examples of the classes that are not the target",
            "share of malicious and of honest clients rejected",
        ],
    }


def _protection(simulation: Simulation) -> dict[str, str]:
    """Return what an encrypted strategy says of its security."""
    strategy = simulation.strategy
    if not isinstance(strategy, EncryptedStrategy):
        return {}
    return {"encryption": strategy.describe(simulation.config.clients)}


def summarise(simulation: Simulation, out: Path, seconds: float) -> dict[str, Any]:
    """Return the summary of a finished run from its records."""
    config, federation = simulation.config, simulation.federation
    rounds = read_jsonl(out / files.ROUNDS)
    trained = [record for record in rounds if record["round"] > 0]
    best = max(trained, key=lambda record: record["accuracy"])
    return {
        "strategy": config.strategy.name,
        "attack": config.attack.name if federation.malicious else "none",
        "dataset": config.dataset.name,
        "partition": config.partition.name,
        "model": config.model.name,
        "clients": config.clients,
        "malicious": len(federation.malicious),
        "malicious_clients": sorted(federation.malicious),
        "rounds": config.rounds,
        "seed": config.seed,
        "engine": "inprocess" if config.engine == "auto" else config.engine,
        **_executor(simulation),
        "device": str(simulation.device),
        "final": trained[-1],
        "best": {"round": best["round"], "accuracy": best["accuracy"]},
        "detection": {
            name: _mean(record[name] for record in trained)
            for name in ("true_positive_rate", "false_positive_rate")
        },
        "seconds": round(seconds, 3),
        "seconds_per_round": round(sum(r["seconds"] for r in trained) / len(trained), 4),
        "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "model_sha256": model_sha256(out),
        "config_digest": config.digest(),
        "class_names": list(simulation.dataset.class_names),
        "notes": list(simulation.dataset.notes),
        "split": {"counts": federation.class_counts().tolist()},
        "versions": versions(),
        "out": str(out),
    }


def _executor(simulation: Simulation) -> dict[str, Any]:
    """Return how clients were trained and why so; nothing for clients that are not ours."""
    chosen = simulation.plan
    if chosen is None:
        return {"executor": None, "executor_reason": None}
    return {"executor": chosen.executor, "executor_reason": chosen.reason}


def _mean(values: Any) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
