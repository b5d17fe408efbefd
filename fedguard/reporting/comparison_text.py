"""A comparison on a terminal, as CSV and as JSON."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich import box
from rich.console import Group as Lines
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from fedguard.reporting.comparison import Comparison, Missing, Standing
from fedguard.reporting.comparison_fairness import fairness_table
from fedguard.reporting.wording import MISSING, bounded

MAX_ROWS = 20
"""Most defences on the screen; all are in the page, CSV and JSON."""
MAX_TESTS = 10
MAX_MISSING = 5
MAX_WORDS = 400
"""Characters of why a run is not in it; an error may hold a text from a client."""


def render(comparisons: Sequence[Comparison], missing: Sequence[Missing]) -> RenderableType:
    """Return comparisons as tables for a terminal of 80 columns or more."""
    parts: list[RenderableType] = []
    for comparison in comparisons:
        parts += [_standings(comparison), *_fairness(comparison), *_tests(comparison)]
    return Lines(*parts, *_missing(missing))


def _standings(comparison: Comparison) -> Table:
    count, lead = len(comparison.entries), comparison.headline
    title = f"{comparison.title}: {count} runs, {len(comparison.scenarios)} scenarios, "
    title += f"{len(comparison.seeds)} seeds"
    found = Table(
        box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), title=title, title_justify="left"
    )
    found.add_column("defence", overflow="ellipsis", no_wrap=True, ratio=3)
    found.add_column("worst", justify="right", no_wrap=True, min_width=5)
    found.add_column("under", overflow="ellipsis", no_wrap=True, ratio=3)
    for name in ("mean", "attack", "caught", "wronged", "rank", "s/round"):
        found.add_column(name, justify="right", no_wrap=True, min_width=len(name))
    for standing in comparison.standings[:MAX_ROWS]:
        name = standing.defence + ("" if standing.complete else " (incomplete)")
        found.add_row(
            Text(f"{'*' if standing.front else ' '} {name}"),
            lead.cell(standing.worst),
            Text(standing.worst_scenario),
            lead.cell(standing.mean),
            _share(standing.worst_success),
            _share(standing.caught),
            _share(standing.wronged),
            MISSING if standing.mean_rank is None else f"{standing.mean_rank:.1f}",
            MISSING if standing.seconds is None else f"{standing.seconds:.2f}",
        )
    found.caption = f"* no other defence beats it in {lead.words}, attack success and time together"
    found.caption_justify = "left"
    return found


def _fairness(comparison: Comparison) -> list[RenderableType]:
    """Return what defences do to single clients and the minority, where that was measured."""
    found = fairness_table(comparison, narrow=True)
    if found is None:
        return []
    head, rows = found
    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), title_justify="left")
    unit = ", in percent" if comparison.headline.is_share else ""
    shown.title = f"{comparison.headline.title} on clients' own rows{unit}"
    shown.add_column(head[0], overflow="ellipsis", no_wrap=True, ratio=3)
    for name in head[1:-1]:
        shown.add_column(name, justify="right", no_wrap=True)
    shown.add_column(head[-1], overflow="ellipsis", no_wrap=True, ratio=2)
    for row in rows[:MAX_ROWS]:
        shown.add_row(*map(Text, row))
    return [shown]


def _share(value: float | None) -> str:
    return MISSING if value is None else f"{100 * value:.1f}"


def _tests(comparison: Comparison) -> list[RenderableType]:
    tests, lead = comparison.tests, comparison.headline
    lines: list[RenderableType] = []
    for first, second, test in sorted(tests, key=lambda found: found[2].corrected)[:MAX_TESTS]:
        if not test.enough:
            words = f"{first} / {second}: {test.n} pairs, {test.verdict}"
        else:
            words = (
                f"{first} / {second}: {lead.difference(test.mean_difference)} {lead.steps}, "
                f"{test.n} pairs, "
                f"p {test.corrected:.2g}: {test.verdict}"
            )
        lines.append(Text(words))
    if len(tests) > MAX_TESTS:
        lines.append(Text(f"and {len(tests) - MAX_TESTS} more comparisons (--out, --json)"))
    ranking = comparison.ranking
    if ranking.w is not None:
        p = "" if ranking.p is None else f", Friedman p {ranking.p:.2g}"
        lines.append(Text(f"ranking: Kendall's W {ranking.w:.2f} over {ranking.blocks} blocks{p}"))
    return lines


def _missing(missing: Sequence[Missing]) -> list[RenderableType]:
    words = [bounded(f"not in it: {one.directory}: {one.why}", MAX_WORDS) for one in missing]
    lines = [Text(line, style="yellow") for line in words]
    more = len(lines) - MAX_MISSING
    tail = [Text(f"not in it: {more} more runs", style="yellow")] if more > 0 else []
    return [*lines[:MAX_MISSING], *tail]


def group_rows(comparison: Comparison) -> list[dict[str, Any]]:
    """Return one flat row per defence and scenario: count, mean, std, low and high of metrics."""
    rows = []
    for group in comparison.groups.values():
        row: dict[str, Any] = {
            "world": comparison.title,
            "defence": group.defence,
            "scenario": group.scenario,
            "seeds": len(group.entries),
        }
        for metric in comparison.metrics:
            spread = group.spread(metric)
            for name in ("mean", "std", "low", "high"):
                row[f"{metric}_{name}"] = None if spread is None else getattr(spread, name)
        rows.append(row)
    return rows


def as_csv(comparisons: Sequence[Comparison]) -> str:
    """Return one line per defence and scenario; a field is empty where nothing was measured.

    Runs of another headline have columns of their own.
    """
    rows = [row for comparison in comparisons for row in group_rows(comparison)]
    fields = list(dict.fromkeys(field for row in rows for field in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, fields, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def as_plain(comparisons: Sequence[Comparison], missing: Sequence[Missing]) -> dict[str, Any]:
    """Return everything that was found, as plain values."""
    return {
        "comparisons": [_plain(comparison) for comparison in comparisons],
        "missing": [asdict(one) for one in missing],
    }


def _plain(comparison: Comparison) -> dict[str, Any]:
    return {
        "title": comparison.title,
        "runs": [
            {
                "directory": str(entry.run.path),
                "defence": comparison.defence_of[id(entry)],
                "scenario": comparison.scenario_of[id(entry)],
                "seed": entry.seed,
                **entry.metrics,
            }
            for entry in comparison.entries
        ],
        "groups": group_rows(comparison),
        "standings": [_plain_standing(comparison, standing) for standing in comparison.standings],
        "tests": [
            {"first": first, "second": second, **asdict(test), "verdict": test.verdict}
            for first, second, test in comparison.tests
        ],
        "ranking": {"defences": comparison.complete, **asdict(comparison.ranking)},
    }


def _plain_standing(comparison: Comparison, standing: Standing) -> dict[str, Any]:
    """Return a standing with its mean and worst case under the headline's own name."""
    name = comparison.headline.name
    names = {"mean": name, "worst": f"worst_{name}"}
    return {names.get(field, field): value for field, value in asdict(standing).items()}
