"""The report's pictures of what an attack does to a task other than classification."""

from __future__ import annotations

from fedguard.records.reader import Run
from fedguard.reporting import figures
from fedguard.reporting.figures import Line
from fedguard.reporting.headline import Headline
from fedguard.reporting.page import figure_card

RANK = (Line("target_rank", "median rank of the target", "var(--attack)"),)
EXPOSURE = (
    Line("er@10", "target among the first 10", "var(--attack)"),
    Line("er@50", "target among the first 50", "var(--wronged)", "dash", "diamond"),
)
EDGES = (
    Line("edges_added", "edges added", "var(--attack)"),
    Line("edges_removed", "edges removed", "var(--wronged)", "dash", "diamond"),
)
_COUNT = Headline("count", higher_is_better=False, unit="plain")


def task_section(run: Run) -> str:
    """Return the promoted item's course, or the edges that were added and removed; else nothing."""
    charts = [
        figure_card(
            figures.courses(run, RANK, _COUNT),
            "Rank of the promoted item",
            "Median over test users who never met it, among all items they have not met; "
            "1 is the top of the list.",
        ),
        figure_card(
            figures.courses(run, EXPOSURE),
            "Exposure of the promoted item",
            "Share of test users who never met it and have it among their first items.",
        ),
        figure_card(
            figures.courses(run, EDGES, _COUNT),
            "Edges added and removed",
            "By all malicious clients together, in their own graphs.",
        ),
    ]
    drawn = "".join(charts)
    return f'<div class="grid">{drawn}</div>' if drawn else ""
