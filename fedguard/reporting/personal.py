"""The report's section on models of which a part stays with each client."""

from __future__ import annotations

from fedguard.records.reader import Run
from fedguard.reporting import figures
from fedguard.reporting.figures import Line
from fedguard.reporting.headline import Headline
from fedguard.reporting.page import figure_card


def personal_section(run: Run) -> str:
    """Return how personal models fared beside the shared one; empty where nothing is personal."""
    lead = Headline.of(run.summary)
    lines = (
        Line(f"personal_{lead.name}", "each client's own", "var(--accuracy)"),
        Line(f"personal_worst_{lead.name}", "the worst client's own", "var(--attack)", "dash"),
        Line(f"global_{lead.name}", "one model for all", "var(--caught)", "dot", "diamond"),
    )
    course = figures.courses(run, lines, lead)
    if course is None:
        return ""
    card = figure_card(
        course,
        f"{lead.title} on each client's mix of classes",
        "Of at most 100 honest clients, on test rows as frequent as their own: each one's model, "
        "the worst of them, and the shared part with the mean of all personal parts, which nobody "
        "sends.",
    )
    return f'<div class="grid">{card}</div>'
