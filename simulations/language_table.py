"""Semantic stances on the grammar: what the audit sees, and what each rule lets through.

python -m simulations.language_table        # about 50 runs of ten seconds each
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
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


def rule_row(rule: str, found: Mapping[tuple[str, ...], list[dict[str, Any]]]) -> list[str]:
    """Return one line of the rules' table."""
    clean, attacked = found[rule, "none"], found[rule, "2 of 5"]

    def column(runs: list[dict[str, Any]], name: str) -> str:
        values = [run["final"][name] for run in runs]
        mean = statistics.fmean(values)
        return f"{mean:.2f} ± {statistics.stdev(values):.2f}" if len(values) > 1 else f"{mean:.2f}"

    rates = [
        spread([run["detection"][name] for run in attacked])
        for name in ("true_positive_rate", "false_positive_rate")
    ]
    return [
        f"`{rule}`",
        column(clean, "perplexity"),
        column(attacked, "perplexity"),
        column(clean, "attack_success_rate"),
        column(attacked, "attack_success_rate"),
        *rates,
    ]


def main(
    folder: Annotated[Path, typer.Option(help="Where runs are kept.")] = Path("runs/language"),
    seeds: Annotated[int, typer.Option(help="Seeds of each audited arm.")] = 5,
    rule_seeds: Annotated[int, typer.Option(help="Seeds of each rule.")] = 3,
    jobs: Annotated[int, typer.Option(help="Runs at a time.")] = 1,
) -> None:
    """Run both tables and write them into docs/language.md."""
    other = values(0.0, "negative", REFERENCE_SEED)
    run_cell(other, folder)
    reference = (folder / parse(other).digest()[:16]).resolve()
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
        f"`python -m simulations.language_table`; {machine()}."
    )
    write_section("audit", f"{markdown_table(header, rows)}\n\n{foot}", PAGE)
    found = run_cells(rule_cells(rule_seeds), folder, jobs)
    header = [
        *("rule", "perplexity, nobody lies", "perplexity, 2 of 5", "P(negative), nobody lies"),
        *("P(negative), 2 of 5", "malicious rejected", "honest rejected"),
    ]
    foot = f"{rule_seeds} seeds; about the target `{TARGET}`; the first column of P is the floor."
    rules = markdown_table(header, [rule_row(rule, found) for rule in RULES])
    write_section("rules", f"{rules}\n\n{foot}", PAGE)


if __name__ == "__main__":
    typer.run(main)
