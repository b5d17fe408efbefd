"""What defences do to single clients and to the minority, side by side."""

from __future__ import annotations

from fedguard.reporting.comparison import Comparison, Group, Spread
from fedguard.reporting.fairness import difference
from fedguard.reporting.wording import MISSING


def fairness_table(comparison: Comparison) -> tuple[list[str], list[list[str]]] | None:
    """Return head and rows of a table, a row per defence; None where clients were not evaluated.

    Each figure is the mean over scenarios of the means over seeds, as the headline's mean is; the
    minority's lowest mean stands beside it, with the scenario.
    """
    if "worst_decile" not in comparison.metrics:
        return None
    lead = comparison.headline
    head = ["defence", "worst tenth", "spread", "group gap", "minority", "worst for it", "under"]
    rows = []
    for standing in comparison.standings:
        groups = comparison.of_defence(standing.defence)
        worst, scenario = _worst_minority(comparison, groups)
        rows.append(
            [
                standing.defence,
                lead.text(_mean(groups, "worst_decile")),
                difference(_mean(groups, "client_spread"), lead),
                difference(_mean(groups, "group_gap"), lead),
                lead.text(_mean(groups, "minority")),
                lead.text(worst),
                scenario,
            ]
        )
    return head, rows


def _mean(groups: list[Group], metric: str) -> float | None:
    found = Spread.of(group.mean(metric) for group in groups)
    return None if found is None else found.mean


def _worst_minority(comparison: Comparison, groups: list[Group]) -> tuple[float | None, str]:
    known = [(group.mean("minority"), group.scenario) for group in groups]
    told = [(value, scenario) for value, scenario in known if value is not None]
    if not told:
        return None, MISSING
    return min(told, key=lambda item: comparison.headline.gain(item[0]))
