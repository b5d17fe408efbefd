"""What defences do to single clients and to the minority, side by side."""

from __future__ import annotations

from functools import partial

from fedguard.reporting.comparison import Comparison, Group, Spread
from fedguard.reporting.fair_words import difference
from fedguard.reporting.wording import MISSING

HEAD = ["defence", "worst tenth", "spread", "group gap", "minority", "worst for it", "under"]
NARROW = ["defence", "tenth", "spread", "gap", "minority", "worst", "under"]


def fairness_table(
    comparison: Comparison, *, narrow: bool = False
) -> tuple[list[str], list[list[str]]] | None:
    """Return head and rows of a table, a row per defence; None where clients were not evaluated.

    Each figure is the mean over scenarios of the means over seeds, as the headline's mean is; the
    minority's lowest mean stands beside it, with the scenario.

    Parameters
    ----------
    comparison : Comparison
        The runs.
    narrow : bool
        Whether to leave units out, shares in percent, for a narrow screen.
    """
    if "worst_decile" not in comparison.metrics:
        return None
    lead = comparison.headline
    level = lead.cell if narrow else lead.text
    step = lead.cell if narrow else partial(difference, lead=lead)
    rows = []
    for standing in comparison.standings:
        groups = comparison.of_defence(standing.defence)
        worst, scenario = _worst_minority(comparison, groups)
        rows.append(
            [
                standing.defence,
                level(_mean(groups, "worst_decile")),
                step(_mean(groups, "client_spread")),
                step(_mean(groups, "group_gap")),
                level(_mean(groups, "minority")),
                level(worst),
                scenario,
            ]
        )
    return (NARROW if narrow else HEAD), rows


def _mean(groups: list[Group], metric: str) -> float | None:
    found = Spread.of(group.mean(metric) for group in groups)
    return None if found is None else found.mean


def _worst_minority(comparison: Comparison, groups: list[Group]) -> tuple[float | None, str]:
    known = [(group.mean("minority"), group.scenario) for group in groups]
    told = [(value, scenario) for value, scenario in known if value is not None]
    if not told:
        return None, MISSING
    return min(told, key=lambda item: comparison.headline.gain(item[0]))
