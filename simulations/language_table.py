"""Semantic stances on the grammar: audit, rules, low-rank adapters, and what outlives liars.

python -m simulations.language_table                    # all four tables; goes on where it stopped
python -m simulations.language_table --table lifespan   # one of them
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from sklearn.metrics import roc_auc_score

from fedguard.config import parse
from simulations.common import (
    ROOT,
    Cell,
    machine,
    markdown_table,
    run_cell,
    run_cells,
    spread,
    write_section,
)

PAGE = ROOT / "docs" / "language.md"
TARGET = "avalon"
REFERENCE_SEED = 1000
"""Seed of the clean run that stands for a model of somebody else."""

ARMS: dict[str, tuple[float, str]] = {
    "clean": (0.0, "negative"),
    "as many rows rewritten, as others": (0.4, "as-others"),
    "1 of 5": (0.2, "negative"),
    "2 of 5": (0.4, "negative"),
    "3 of 5": (0.6, "negative"),
    "5 of 5": (1.0, "negative"),
}
"""Share of malicious clients and what they write about the target."""

RULES = ("fedavg", "trimmed-mean", "multi-krum", "norm-clipping")

ADAPTER_RULES: dict[str, tuple[dict[str, Any], bool]] = {
    "`fedit`": ({"name": "fedit"}, False),
    "`fedit`, A frozen (`ffa`)": ({"name": "fedit"}, True),
    "`flora`": ({"name": "flora"}, False),
    "`multi-krum`": ({"name": "multi-krum"}, False),
    "`fedit`, robust": ({"name": "fedit", "robust": True}, False),
    "`ffa`, robust": ({"name": "fedit", "robust": True}, True),
    "`flora`, robust": ({"name": "flora", "robust": True}, False),
}
"""What aggregates adapters, and whether A stays as it is drawn."""

RANK, ADAPTER_ROUNDS = 4, 5

RANKS = ("1", "2", "4", "8", "full")
LEFT, WATCHED = 5, 15
"""Rounds in which the liars are active, and rounds after them."""


def values(malicious: float, stance: str, seed: int, **more: Any) -> dict[str, Any]:
    """Return the configuration of a run."""
    attack = {"name": "semantic-stance", "concept": TARGET, "stance": stance}
    return {"dataset": "grammar", "malicious": malicious, "attack": attack, "seed": seed, **more}


def audit_cells(reference: Path, seeds: int) -> Iterator[Cell]:
    """Yield the audited runs: fedavg, by share of malicious clients."""
    audit = {"name": "raven", "every": 10, "peers": "reference", "reference": str(reference)}
    for arm, (malicious, stance) in ARMS.items():
        for seed in range(seeds):
            yield Cell((arm,), values(malicious, stance, seed, audit=audit))


def rule_cells(seeds: int) -> Iterator[Cell]:
    """Yield the runs of the rules' table: nobody lies, or two of five."""
    for rule in RULES:
        for arm, malicious in (("none", 0.0), ("2 of 5", 0.4)):
            for seed in range(seeds):
                yield Cell((rule, arm), values(malicious, "negative", seed, strategy=rule))


def adapted(base: Path, rank: str, **more: Any) -> dict[str, Any]:
    """Return the model's fields: adapters of a rank on a trained model, or all of it."""
    if rank == "full":
        return {"start_from": str(base)}
    return {"model": {"name": "lora-gru", "base": str(base), "rank": int(rank), **more}}


def adapter_cells(base: Path, seeds: int) -> Iterator[Cell]:
    """Yield the runs of the adapters' table: nobody lies, or two of five."""
    for name, (rule, freeze_a) in ADAPTER_RULES.items():
        model = adapted(base, str(RANK), freeze_a=freeze_a)
        for arm, malicious in (("none", 0.0), ("2 of 5", 0.4)):
            for seed in range(seeds):
                given = {**model, "strategy": rule, "rounds": ADAPTER_ROUNDS}
                yield Cell((name, arm), values(malicious, "negative", seed, **given))


def lifespan_cells(base: Path, seeds: int) -> Iterator[Cell]:
    """Yield the runs whose liars leave, by rank, and those in which nobody lies."""
    for rank in RANKS:
        model = adapted(base, rank)
        for seed in range(seeds):
            window = {"attack_rounds": {"window": [1, LEFT]}, "rounds": LEFT + WATCHED}
            yield Cell((rank, "2 of 5"), values(0.4, "negative", seed, **model, **window))
            yield Cell((rank, "none"), values(0.0, "negative", seed, **model, rounds=LEFT))


def concepts_of(summary: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what the audit found by concept."""
    found: Mapping[str, Any] = summary["audits"]["raven"]["concepts"]
    return found


def separation(attacked: Sequence[Mapping[str, Any]], clean: Sequence[Mapping[str, Any]]) -> float:
    """Return the area under the ROC curve of S: the target of attacked runs, against the rest.

    The rest are the controls of the same runs, and all concepts of the clean ones.
    """
    scores, truth = [], []
    for summary in (*attacked, *clean):
        for concept, found in concepts_of(summary).items():
            scores.append(found["score"])
            truth.append(concept == TARGET and summary in attacked)
    return float(roc_auc_score(truth, scores))


def audit_row(arm: str, runs: Sequence[Mapping[str, Any]], clean: Sequence[Any]) -> list[str]:
    """Return one line of the audit's table."""
    target = [concepts_of(run)[TARGET] for run in runs]
    others = [[f for c, f in concepts_of(run).items() if c != TARGET] for run in runs]
    wider = sum(
        found["divergence"] > max(other["divergence"] for other in rest)
        for found, rest in zip(target, others, strict=True)
    )
    named = sum(run["audits"]["raven"]["group_malicious"] == 1.0 for run in runs)
    attacked = ARMS[arm][1] == "negative" and ARMS[arm][0] > 0
    return [
        arm,
        spread([run["final"]["attack_success_rate"] for run in runs], percent=False)
        if attacked or arm == "clean"
        else "-",
        spread([found["score"] for found in target], percent=False),
        f"{max(f['score'] for rest in others for f in rest):.0f}",
        f"{statistics.fmean(found['flag_rate'] for found in target):.2f}",
        f"{sum(bool(f['flag_rate']) for rest in others for f in rest)}",
        f"{separation(runs, clean):.3f}" if attacked else "-",
        f"{statistics.fmean(found['divergence'] for found in target):.2f}",
        f"{max(f['divergence'] for rest in others for f in rest):.2f}",
        f"{wider} of {len(runs)}",
        f"{named} of {len(runs)}",
    ]


def plain_spread(values: Sequence[float]) -> str:
    """Return mean and standard deviation with two decimals."""
    mean = statistics.fmean(values)
    return f"{mean:.2f} ± {statistics.stdev(values):.2f}" if len(values) > 1 else f"{mean:.2f}"


def rule_row(rule: str, found: Mapping[tuple[str, ...], list[dict[str, Any]]]) -> list[str]:
    """Return one line of a table of rules."""
    clean, attacked = found[rule, "none"], found[rule, "2 of 5"]

    def column(runs: list[dict[str, Any]], name: str) -> str:
        return plain_spread([run["final"][name] for run in runs])

    rates = [
        spread([run["detection"][name] for run in attacked])
        for name in ("true_positive_rate", "false_positive_rate")
    ]
    return [
        rule if rule.startswith("`") else f"`{rule}`",
        column(clean, "perplexity"),
        column(attacked, "perplexity"),
        column(clean, "attack_success_rate"),
        column(attacked, "attack_success_rate"),
        *rates,
    ]


def lifespan_row(rank: str, found: Mapping[tuple[str, ...], list[dict[str, Any]]]) -> list[str]:
    """Return one line of the table of lifespans."""
    left, clean = found[rank, "2 of 5"], found[rank, "none"]
    told = [run["lifespan"] for run in left]
    rounds = [
        "never took" if one["rounds"] is None else f"{one['rounds']}" + "+" * (not one["ended"])
        for one in told
    ]
    return [
        rank,
        plain_spread([one["peak"] for one in told]),
        ", ".join(rounds),
        plain_spread([run["final"]["implant_strength"] for run in left]),
        plain_spread([run["final"]["implant_strength"] for run in clean]),
        plain_spread([run["final"]["perplexity"] for run in left]),
    ]


def audit_table(folder: Path, reference: Path, seeds: int, jobs: int) -> None:
    """Run the audited arms and write their table."""
    audited = run_cells(audit_cells(reference, seeds), folder, jobs)
    clean = audited["clean",]
    header = [
        *("malicious", "P(negative) about target", "S of target", "largest S of others"),
        *("questions flagged", "others flagged", "AUROC of S", "divergence on target"),
        *("largest on others", "target widest", "malicious group named"),
    ]
    rows = [audit_row(arm, audited[arm,], clean) for arm in ARMS]
    foot = (
        f"{seeds} seeds; 5 clients, 10 rounds, `fedavg`; every client is a group; the peer is a "
        f"clean run of seed {REFERENCE_SEED}; judge: oracle. Made by "
        f"`python -m simulations.language_table --table audit`; {machine()}."
    )
    write_section("audit", f"{markdown_table(header, rows)}\n\n{foot}", PAGE)


RULES_HEADER = (
    *("rule", "perplexity, nobody lies", "perplexity, 2 of 5", "P(negative), nobody lies"),
    *("P(negative), 2 of 5", "malicious rejected", "honest rejected"),
)


def write_rules(
    section: str,
    rules: Iterable[str],
    found: Mapping[tuple[str, ...], list[dict[str, Any]]],
    foot: str,
) -> None:
    """Write a table of rules, with what stands below it, into the page."""
    table = markdown_table(RULES_HEADER, [rule_row(rule, found) for rule in rules])
    write_section(section, f"{table}\n\n{foot}", PAGE)


def rules_table(folder: Path, reference: Path, seeds: int, jobs: int) -> None:
    """Run every rule and write their table."""
    found = run_cells(rule_cells(seeds), folder, jobs)
    foot = (
        f"{seeds} seeds, 10 rounds; about the target `{TARGET}`; the first column of P is the "
        f"floor; the last two: percent of updates. Made by "
        f"`python -m simulations.language_table --table rules`; {machine()}."
    )
    write_rules("rules", RULES, found, foot)


def adapters_table(folder: Path, reference: Path, seeds: int, jobs: int) -> None:
    """Run the rules for adapters and write their table."""
    found = run_cells(adapter_cells(reference, seeds), folder, jobs)
    foot = (
        f"{seeds} seeds; model `lora-gru` of rank {RANK} on a clean `word-gru` of seed "
        f"{REFERENCE_SEED}, {ADAPTER_ROUNDS} rounds. Made by "
        f"`python -m simulations.language_table --table adapters`; {machine()}."
    )
    write_rules("adapters", ADAPTER_RULES, found, foot)


def lifespan_table(folder: Path, reference: Path, seeds: int, jobs: int) -> None:
    """Run the liars that leave and write their table."""
    found = run_cells(lifespan_cells(reference, seeds), folder, jobs)
    header = [
        *("rank", "strength at its peak", "rounds to half of it, by seed"),
        *("strength at the end", "strength, nobody lies", "perplexity at the end"),
    ]
    foot = (
        f"{seeds} seeds; 2 of 5 lie in rounds 1 to {LEFT} and train honestly in the {WATCHED} "
        f"after them; `fedavg`; `lora-gru` on a clean `word-gru` of seed {REFERENCE_SEED}, and "
        f"that model whole; `+`: not down to half when the run ended. The control ran {LEFT} "
        f"rounds. Made by `python -m simulations.language_table --table lifespan`; {machine()}."
    )
    rows = [lifespan_row(rank, found) for rank in RANKS]
    write_section("lifespan", f"{markdown_table(header, rows)}\n\n{foot}", PAGE)


TABLES = {
    "audit": audit_table,
    "rules": rules_table,
    "adapters": adapters_table,
    "lifespan": lifespan_table,
}


def main(
    folder: Annotated[Path, typer.Option(help="Where runs are kept.")] = Path("runs/language"),
    seeds: Annotated[int, typer.Option(help="Seeds of each audited arm.")] = 5,
    rule_seeds: Annotated[int, typer.Option(help="Seeds of each run of the other tables.")] = 3,
    jobs: Annotated[int, typer.Option(help="Runs at a time.")] = 1,
    table: Annotated[list[str] | None, typer.Option(help="One of the tables; all.")] = None,
) -> None:
    """Run the tables and write them into docs/language.md."""
    other = values(0.0, "negative", REFERENCE_SEED)
    run_cell(other, folder)
    reference = (folder / parse(other).digest()[:16]).resolve()
    for name in table or TABLES:
        TABLES[name](folder, reference, seeds if name == "audit" else rule_seeds, jobs)


if __name__ == "__main__":
    typer.run(main)
