"""The leaderboard's figures in the site: of the runs whose figures the repository keeps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

KEPT = Path(__file__).resolve().parents[1] / "leaderboard"
"""``v1-SIZE.json`` in it is what ``fedguard leaderboard --size SIZE --json`` printed."""

EVERY, FULL = "every", "full"
"""Every strategy on small runs, which the pages of parts read too; ten of them on larger ones."""

_COLUMNS = ("worst case", "under", "mean", "spread", "clean cost", "honest rejected")
HEAD = f"| defence | {' | '.join(_COLUMNS)} | seconds a round |\n|{'---|' * 8}"
_TITLES = {
    "none": "No server data",
    "unlabelled": "Unlabelled server data",
    "labelled": "Labelled server data",
}


def board(size: str) -> dict[str, Any]:
    """Return what is kept of a size; a board without rows where nothing is."""
    kept = KEPT / f"v1-{size}.json"
    if not kept.is_file():
        return {"title": "", "leagues": {}}
    found: dict[str, Any] = json.loads(kept.read_text(encoding="utf-8"))
    return found


def tables(size: str) -> str:
    """Return a table of Markdown for each league, best worst case first."""
    kept = board(size)
    command = f"`fedguard leaderboard --size {size}`"
    if not kept["leagues"]:
        return f"No figures are kept yet; {command} makes them."
    blocks = [f"{command}: {kept['title']}. Percent, cost and spread in points."]
    for league, rows in kept["leagues"].items():
        lines = [_line(row) for row in rows]
        blocks.append("\n".join([f"### {_TITLES[league]}, size {size}\n", HEAD, *lines]))
    return "\n\n".join(blocks)


def _line(row: dict[str, Any]) -> str:
    shown = [row[name] for name in ("worst", "mean", "spread", "clean_cost", "wronged")]
    worst, mean, spread, cost, wronged = (_percent(value) for value in shown)
    seconds = "-" if row["seconds"] is None else f"{row['seconds']:.2f}"
    under = row["worst_scenario"].replace("|", "\\|")
    cells = (row["defence"], worst, under, mean, spread, cost, wronged, seconds)
    return f"| {' | '.join(cells)} |"


def worst_case(name: str) -> str:
    """Return a strategy's worst case and where, empty where no kept board has it.

    The full size's where it has the strategy, else that of the small runs.
    """
    for size, told in ((FULL, "three seeds"), (EVERY, "small runs, one seed")):
        for league, rows in board(size)["leagues"].items():
            for place, row in enumerate(rows, start=1):
                if row["defence"] == name:
                    return (
                        f"{_percent(row['worst'])} % under {row['worst_scenario']}; place {place} "
                        f"of {len(rows)} in its league ({_TITLES[league].lower()}), {told}"
                    )
    return ""


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"
