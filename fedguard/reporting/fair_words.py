"""How a run served single clients and the minority, in two lines for the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedguard.records.reader import mapping, number
from fedguard.reporting.headline import Headline
from fedguard.reporting.wording import bounded, figure, percent


def difference(value: object, lead: Headline) -> str:
    """Return a spread or a gap: of shares in percentage points, else in the figure's own unit."""
    real = number(value)
    if real is None or not lead.is_share:
        return figure(value)
    return f"{100 * real:.1f} points"


def summary_rows(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return two rows for the terminal: clients, and the minority; none where nothing is known."""
    found, lead = mapping(summary.get("fairness")), Headline.of(summary)
    if number(found.get("client_mean")) is None:
        return []
    spread = difference(found.get("client_spread"), lead)
    told = f"worst tenth {lead.text(found.get('worst_decile'))} · spread {spread}"
    if number(found.get("group_gap")) is not None:
        told = told.removesuffix(" points")
        told += f" · gap {difference(found.get('group_gap'), lead)}"
    rows = [("clients", told)]
    name = found.get("minority_group")
    if name is not None:
        group = mapping(mapping(found.get("groups")).get(str(name)))
        reached = lead.text(found.get("minority"))
        rejected = percent(group.get("rejected"))
        text = f"{bounded(name, 18)}: {reached} · {rejected} of its updates rejected"
        rows.append(("minority", text))
    return rows
