"""The unlearning table's page: cells, bars, the Pareto front and the picture."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from pathlib import Path

from simulations.common import machine, markdown_table
from simulations.soul_runs import RECOVERY, RELEARNING, RETRAINED, VARIANTS

Figures = dict[str, dict[str, float | None]]

POWER = 0.7
"""Membership AUC before the erasure from which the test says something of what comes after it."""


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
        ("operations and bytes, at most 0.2 of retraining", cost, 0.2, -1),
        ("success after relearning, below 20 %", 100 * of("soul", "relearned"), 20.0, -1),
    ]
    if dataset == "mnist":
        checks.insert(0, ("accuracy before, at least 97 %", before, 97.0, 1))
    rows = [
        [title, f"{value:.2f}", "met" if (value - limit) * sign >= 0 else "**missed**"]
        for title, value, limit, sign in checks
    ]
    rows.append(_remembered(of("soul", "before auc"), auc))
    verdict = (
        f"Pruning takes {gain:.1f} points off the success that `pruning none` leaves."
        if gain > 1.0
        else f"Pruning adds nothing here: {gain:.1f} points against `pruning none`."
    )
    return f"{markdown_table(['bar', 'measured', ''], rows)}\n\n{verdict} {pareto(results)}"


def _remembered(before: float, away: float) -> list[str]:
    """Return the row on membership, which claims nothing where the test has no power."""
    title = "membership AUC off retraining's, at most 0.05"
    if not before >= POWER:
        return [title, f"{away:.2f}", f"no claim: {before:.2f} before the erasure, below {POWER}"]
    return [title, f"{away:.2f}", "met" if away <= 0.05 else "**missed**"]


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
