"""The leaderboard's figures in the site: of the runs whose figures the repository keeps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

KEPT = Path(__file__).resolve().parents[1] / "leaderboard" / "v1-every.json"
"""What ``fedguard leaderboard --size every --json`` printed; the pages of parts read it too."""

HEAD = (
    "| defence | worst case | under | mean | clean cost | honest rejected | seconds a round |\n"
    "|---|---|---|---|---|---|---|"
)
_TITLES = {
    "none": "No server data",
    "unlabelled": "Unlabelled server data",
    "labelled": "Labelled server data",
}


def board() -> dict[str, Any]:
    """Return what is kept; a board without rows where nothing is."""
    if not KEPT.is_file():
        return {"title": "", "leagues": {}}
    found: dict[str, Any] = json.loads(KEPT.read_text(encoding="utf-8"))
    return found


def tables() -> str:
    """Return a table of Markdown for each league, best worst case first."""
    kept = board()
    if not kept["leagues"]:
        return "No figures are kept yet; `fedguard leaderboard --size every --json` makes them."
    title = f"`fedguard leaderboard --size every`: {kept['title']}"
    blocks = [f"{title}. One seed, percent and points."]
    for league, rows in kept["leagues"].items():
        lines = [_line(row) for row in rows]
        blocks.append("\n".join([f"### {_TITLES[league]}\n", HEAD, *lines]))
    return "\n\n".join(blocks)


def _line(row: dict[str, Any]) -> str:
    shown = [row["worst"], row["mean"], row["clean_cost"], row["wronged"]]
    worst, mean, cost, wronged = (_percent(value) for value in shown)
    seconds = "-" if row["seconds"] is None else f"{row['seconds']:.2f}"
    under = row["worst_scenario"].replace("|", "\\|")
    return f"| {row['defence']} | {worst} | {under} | {mean} | {cost} | {wronged} | {seconds} |"


def worst_case(name: str) -> str:
    """Return a strategy's worst case and where, empty where the kept board has none."""
    for league, rows in board()["leagues"].items():
        for place, row in enumerate(rows, start=1):
            if row["defence"] == name:
                return (
                    f"{_percent(row['worst'])} % under {row['worst_scenario']}; place {place} of "
                    f"{len(rows)} in its league ({_TITLES[league].lower()}), small runs, one seed"
                )
    return ""


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"
