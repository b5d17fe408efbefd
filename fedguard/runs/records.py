"""What a horizontal run writes about itself: its clients in a round, and its threat model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flwr.serverapp.strategy import Strategy

from fedguard.attacks.base import Attack
from fedguard.clients.federation import Federation
from fedguard.config import SimulationConfig
from fedguard.models.start import sha256_of
from fedguard.runs.observed import Outcome
from fedguard.runs.tally import outcomes
from fedguard.tasks.base import Task
from fedguard.traits import traits_of

MOST_COUNTED = 10_000
"""Clients up to which the summary says how many rows of each class each of them holds."""


def split_told(federation: Federation) -> dict[str, Any]:
    """Return what the summary says of the division: (clients, classes) counts where they are few.

    The counts of a million clients would be a hundred megabytes that nobody reads; configuration
    and seed divide the rows again.
    """
    if federation.num_clients > MOST_COUNTED:
        told = f"not kept for more than {MOST_COUNTED:,} clients; the seed divides the rows again"
        return {"counts": [], "told": told}
    return {"counts": federation.class_counts().tolist()}


def client_records(
    outcome: Outcome, malicious: frozenset[int], poisoned: frozenset[int] = frozenset()
) -> list[dict[str, Any]]:
    """Return one record per client that was asked; see ``clients.jsonl``.

    Where data of honest clients are poisoned, every record says whether its client's are.
    """
    found = _client_records(outcome, malicious)
    if poisoned:
        for record in found:
            record["poisoned"] = record["client"] in poisoned
    return found


def _client_records(outcome: Outcome, malicious: frozenset[int]) -> list[dict[str, Any]]:
    updates, verdict = outcome.updates, outcome.verdict
    became = outcomes(outcome)
    if updates is None or verdict is None:
        return [
            {
                "round": outcome.server_round,
                "client": node,
                "malicious": node in malicious,
                "accepted": False if became[node] == "failed" else None,
                "outcome": became[node],
                "weight": None,
                "num_examples": None,
                "scores": {},
                "reason": outcome.failed.get(node),
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
                "outcome": became[node],
                "weight": weight,
                "num_examples": None if row is None else claims[row],
                "scores": {}
                if row is None
                else {name: values[row] for name, values in scores.items()},
                "reason": reason or updates.remarks.get(node),
            }
        )
    return records


def server_rows_told(config: SimulationConfig, federation: Federation) -> str:
    """Return in one line what the server's examples are: their draw, classes and wrong labels."""
    told = f"{len(federation.server_rows)}, {config.server_draw} draw"
    if federation.task.name == "classification":
        labels = federation.dataset.y_train[federation.server_rows]
        told += (
            f", {int((labels.bincount() > 0).sum())} of {federation.dataset.num_classes} classes"
        )
    if config.server_label_noise:
        told += f", {config.server_label_noise:.0%} of the labels wrong"
    return told


def threat_model(
    config: SimulationConfig,
    federation: Federation,
    attack: Attack,
    strategy: Strategy,
    task: Task,
) -> dict[str, Any]:
    """Return what the attacker knows and controls, what the defence assumes, what is measured."""
    declared = traits_of(strategy)
    aims = aim(attack, federation)
    return {
        "attacker": {
            "attack": config.attack.name,
            "controls": f"{len(federation.malicious)} of {config.clients} clients",
            "clients": sorted(federation.malicious),
            "changes": sorted(attack.needs) or "nothing",
            "knowledge": {
                "partial": "the updates its own clients would have sent honestly",
                "full": "every honest update of the round",
            }[config.attack_knowledge],
            "rounds": config.attack_rounds,
            **({"aims at": aims} if aims else {}),
        },
        **_third_party(federation, config),
        "defence": {
            "strategy": config.strategy.name,
            "assumes malicious fraction": getattr(strategy, "assumed_malicious", "no bound"),
            "holds auxiliary examples": config.server_samples if declared.tools else 0,
            **({"its examples": server_rows_told(config, federation)} if declared.tools else {}),
            "league": f"server data: {declared.server_data}",
            "reads": declared.visible,
            "needs clients with a lasting handle": declared.history,
            "sees who is malicious": False,
            **_named(config),
            **_protection(strategy, config.clients, encrypted=declared.visible != "updates"),
        },
        "measured": [
            f"{task.headline} and loss on the test set",
            "attack success on triggered test examples of the classes that are not the target",
            "share of malicious and of honest clients rejected",
        ],
    }


def aim(attack: Attack, federation: Federation) -> dict[str, str]:
    """Return the names of the classes that an attack is about: ``source`` and ``target``.

    Parameters
    ----------
    attack : Attack
        The attack; one that aims at no class has an empty aim.
    federation : Federation
        Whose data set names the classes, and who lies: nobody has no aim.
    """
    names = federation.dataset.class_names
    attacked = federation.malicious or federation.poisoned
    found = {}
    for word in ("source", "target"):
        number = getattr(attack, f"{word}_class", None)
        if isinstance(number, int) and number < len(names) and attacked:
            found[word] = names[number]
    return found


def parts(
    config: SimulationConfig,
    federation: Federation,
    attack: Attack,
    strategy: Any,
    audited: Mapping[str, Any],
    *,
    nameless: bool,
) -> dict[str, Any]:
    """Return the parts of a run for its summary: what every run has, then what it need not have.

    Parameters
    ----------
    config : SimulationConfig
        The run.
    federation : Federation
        Who is malicious, and whose data a third party may have poisoned.
    attack : Attack
        What they do.
    strategy : object
        What aggregates.
    audited : mapping
        What audits told at its end.
    nameless : bool
        Whether nobody knows whose updates are whose; places in the records are nobody's then.
    """
    attacked = federation.malicious or federation.poisoned
    found: dict[str, Any] = {
        "attack": config.attack.name if attacked else "none",
        "partition": config.partition.name,
        "model": config.model.name,
        "training": config.training.name,
        "malicious": len(federation.malicious),
        "malicious_clients": [] if nameless else sorted(federation.malicious),
        "league": traits_of(strategy).server_data,
        "notes": [
            *federation.dataset.notes,
            *left_out(strategy),
            *(attack.remarks(config.attack_knowledge) if federation.malicious else ()),
        ],
        "split": split_told(federation),
    }
    if aims := aim(attack, federation):
        found["aim"] = aims
    if federation.poisoned:
        found["poisoned_clients"] = sorted(federation.poisoned)
    if config.repair is not None:
        found.update(repair=config.repair.name, repair_at=config.repair_at)
    if config.enrolment is not None:
        found["enrolment"] = config.enrolment.name
    if audited:
        found["audits"] = dict(audited)
    if config.start_from is not None:
        path = config.start_from
        found["start_from"] = {"path": str(path), "sha256": sha256_of(path)}
    return found


def _third_party(federation: Federation, config: SimulationConfig) -> dict[str, Any]:
    """Return what somebody did who poisoned data of honest clients, nothing where nobody did."""
    if not federation.poisoned:
        return {}
    found = {
        "attack": config.attack.name,
        "poisons": f"the data of {len(federation.poisoned)} of {config.clients} clients",
        "clients": sorted(federation.poisoned),
        "sees": "those clients' data, before the first round",
    }
    return {"third party": found}


def _named(config: SimulationConfig) -> dict[str, str]:
    """Return the parts beside the strategy that defend or watch."""
    chosen = {"repair": config.repair, "audit": config.audit, "enrolment": config.enrolment}
    found = {kind: part.name for kind, part in chosen.items() if part is not None}
    if "repair" in found:
        found["repair"] += f" ({config.repair_at})"
    return found


def left_out(strategy: Any) -> list[str]:
    """Return in a line each what a rule of ours leaves out on this data; others say nothing."""
    return list(strategy.left_out()) if traits_of(strategy).rule else []


def _protection(strategy: Any, clients: int, *, encrypted: bool) -> dict[str, str]:
    """Return what a strategy whose server reads no updates says of its security."""
    told = strategy.describe(clients) if encrypted else ""
    return {"encryption": told} if told else {}
