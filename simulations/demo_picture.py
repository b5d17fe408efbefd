"""The demo as a picture, from the records of its runs: docs/demo.svg.

python -m simulations.demo_picture           # runs the demo's three runs, then draws them
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from fedguard.records.writer import read_jsonl
from simulations.common import ROOT
from simulations.demo import run

RUNS: tuple[tuple[str, str, str | None, str], ...] = (
    ("no attack", "fedavg", "none", "#7f8794"),
    ("geminiguard, attacked", "geminiguard", None, "#2a8f5b"),
    ("plain averaging, attacked", "fedavg", None, "#c8443a"),
)
"""What each line is called, its strategy, its attack (the default if None) and its colour."""

WIDTH, HEIGHT = 640, 300
LEFT, RIGHT, TOP, BOTTOM = 48, 176, 16, 36


def picture(courses: Mapping[str, Sequence[float]]) -> str:
    """Return an SVG of accuracies by round, as shares of 1; a line for each name of `RUNS`."""
    last = max(len(course) for course in courses.values()) - 1
    grid = [
        f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{_y(share):.1f}" y2="{_y(share):.1f}" '
        f'stroke="#7f8794" stroke-opacity="0.3"/><text x="{LEFT - 8}" y="{_y(share) + 4:.1f}" '
        f'text-anchor="end">{round(100 * share)} %</text>'
        for share in (0.0, 0.25, 0.5, 0.75, 1.0)
    ]
    ticks = [
        f'<text x="{_x(round_, last):.1f}" y="{HEIGHT - 12}" text-anchor="middle">{round_}</text>'
        for round_ in range(0, last + 1, 5)
    ]
    lines, placed = [], -1e9
    for name, _, _, colour in sorted(RUNS, key=lambda one: -courses[one[0]][-1]):
        course = courses[name]
        points = " ".join(f"{_x(r, last):.1f},{_y(value):.1f}" for r, value in enumerate(course))
        placed = max(_y(course[-1]) + 4, placed + 16)
        lines.append(
            f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2.5"/>'
            f'<text x="{WIDTH - RIGHT + 8}" y="{placed:.1f}" fill="{colour}">{name}</text>'
        )
    body = "\n".join([*grid, *ticks, *lines])
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'font-family="system-ui, sans-serif" font-size="12" fill="#7f8794">\n{body}\n</svg>\n'
    )


def _x(round_: float, last: int) -> float:
    return LEFT + (WIDTH - LEFT - RIGHT) * round_ / max(last, 1)


def _y(share: float) -> float:
    return TOP + (HEIGHT - TOP - BOTTOM) * (1.0 - share)


def main() -> None:
    """Run what the demo runs and draw it."""
    courses = {}
    with tempfile.TemporaryDirectory() as folder:
        for number, (name, strategy, attack, _) in enumerate(RUNS):
            out = Path(folder) / str(number)
            run(strategy, attack, out)
            courses[name] = [line["accuracy"] for line in read_jsonl(out / "rounds.jsonl")]
    (ROOT / "docs" / "demo.svg").write_text(picture(courses), encoding="utf-8")


if __name__ == "__main__":
    main()
