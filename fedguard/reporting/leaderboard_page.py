"""The leaderboard as one page: a sortable table for each league, each cell with what repeats it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from fedguard.records.writer import write_atomically
from fedguard.reporting.leaderboard import LEAGUES, Cell, Row
from fedguard.reporting.page import render_page, sections
from fedguard.reporting.wording import MISSING, duration, percent, size

HEAD = (
    ("defence", "Strategy, arguments, pre-aggregation"),
    ("worst case", "Lowest mean over seeds among the attacked scenarios, percent"),
    ("mean", "Over the attacked scenarios, percent"),
    ("spread", "Mean standard deviation over seeds, points"),
    ("clean cost", "What it costs where nobody attacks, points"),
    ("honest rejected", "Share of honest updates rejected, percent"),
    ("time a round", "Seconds; rough where runs share a machine"),
    ("memory", "Peak of the process"),
)

_SCRIPT = """
for (const table of document.querySelectorAll("table.sortable")) {
  table.querySelectorAll("th button").forEach((button, column) => {
    button.addEventListener("click", () => {
      const head = button.closest("th");
      const down = head.getAttribute("aria-sort") !== "descending";
      table.querySelectorAll("th").forEach((one) => one.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const value = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent;
      const rows = [...table.tBodies[0].rows].sort((one, two) => {
        const [a, b] = [value(one), value(two)];
        const order = column ? Number(a) - Number(b) : a.localeCompare(b);
        return down ? -order : order;
      });
      table.tBodies[0].append(...rows);
    });
  });
}
const open = () => {
  const shown = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (shown?.tagName === "DETAILS") shown.open = true;
};
addEventListener("hashchange", open);
open();
"""

_STYLE = (
    "th button{all:unset;cursor:pointer}th button:focus-visible{outline:2px solid}"
    "th[aria-sort=descending] button::after{content:' \\2193'}"
    "th[aria-sort=ascending] button::after{content:' \\2191'}"
    "details pre{overflow-x:auto}td a{color:inherit}"
)


def write_leaderboard(path: Path, leagues: Mapping[str, Sequence[Row]], title: str) -> None:
    """Write the page.

    Parameters
    ----------
    path : Path
        The HTML file.
    leagues : mapping of str to sequence of Row
        Rows by league, best first; see `fedguard.reporting.leaderboard.standings`.
    title : str
        Version, size, date and machine.
    """
    ids = _identifiers(leagues)
    parts: list[tuple[str, str, str]] = []
    for league, rows in leagues.items():
        parts.append((league, LEAGUES[league], _table(rows, ids) + _scenarios(rows, ids)))
    parts.append(("configurations", "What repeats each cell", _configurations(leagues, ids)))
    lead = (
        '<header><p class="kicker">fedguard leaderboard</p>'
        f"<h1>{escape(title)}</h1><p>Share of the test examples that the attacker did not get, in "
        "percent: accuracy, and under a backdoor the smaller of accuracy and the share of "
        "triggered examples that do not end in the target class. What the server lends a defence "
        "makes three leagues, which are never ranked together. A figure leads to the "
        "configuration that repeats it; a column's head sorts by it.</p></header>"
    )
    body = f"<style>{_STYLE}</style>{lead}{sections(parts)}<script>{_SCRIPT}</script>"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, render_page(title, title, body, charts=False).encode())


def _identifiers(leagues: Mapping[str, Sequence[Row]]) -> dict[tuple[str, str], str]:
    """Return a name within the page for every cell, by defence and scenario."""
    pairs = [
        (row.defence, cell.scenario)
        for rows in leagues.values()
        for row in rows
        for cell in row.cells
    ]
    return {pair: f"c{number}" for number, pair in enumerate(pairs)}


def _table(rows: Sequence[Row], ids: Mapping[tuple[str, str], str]) -> str:
    head = "".join(
        f'<th scope="col" class="{"num" if place else "text"}" title="{escape(why)}"'
        f"{' aria-sort=' + chr(34) + 'descending' + chr(34) if place == 1 else ''}>"
        f'<button type="button">{escape(name)}</button></th>'
        for place, (name, why) in enumerate(HEAD)
    )
    return _scroll(head, "".join(_line(row, ids) for row in rows), "sortable")


def _line(row: Row, ids: Mapping[tuple[str, str], str]) -> str:
    worst = _link(ids[row.defence, row.worst_scenario], percent(row.worst), row.worst_scenario)
    failed = f' <span class="missing">({row.failed} runs failed)</span>' if row.failed else ""
    by = f" <small>{escape(row.by)}</small>" if row.by else ""
    cells = [
        (row.worst, worst),
        (row.mean, percent(row.mean)),
        (row.spread, _points(row.spread)),
        (row.clean_cost, _points(row.clean_cost)),
        (row.wronged, percent(row.wronged)),
        (row.seconds, duration(row.seconds)),
        (row.memory, size(row.memory)),
    ]
    told = "".join(
        f'<td class="num" data-value="{-1e9 if value is None else value}">{shown}</td>'
        for value, shown in cells
    )
    name = f'<th scope="row" class="text">{escape(row.defence)}{by}{failed}</th>'
    return f"<tr>{name}{told}</tr>"


def _scenarios(rows: Sequence[Row], ids: Mapping[tuple[str, str], str]) -> str:
    """Return the table of every scenario: a line for each, a column for each defence."""
    names = list(dict.fromkeys(cell.scenario for row in rows for cell in row.cells))
    head = '<th scope="col" class="text">scenario</th>' + "".join(
        f'<th scope="col" class="num">{escape(row.defence)}</th>' for row in rows
    )
    lines = []
    for name in names:
        found = [next((c for c in row.cells if c.scenario == name), None) for row in rows]
        told = "".join(
            f'<td class="num">{_faced(row, cell, ids)}</td>'
            for row, cell in zip(rows, found, strict=True)
        )
        lines.append(f'<tr><th scope="row" class="text">{escape(name)}</th>{told}</tr>')
    return f"<h3>Every scenario</h3>{_scroll(head, ''.join(lines))}"


def _faced(row: Row, cell: Cell | None, ids: Mapping[tuple[str, str], str]) -> str:
    if cell is None:
        return MISSING
    return _link(ids[row.defence, cell.scenario], _spelt(cell), cell.scenario)


def _configurations(
    leagues: Mapping[str, Sequence[Row]], ids: Mapping[tuple[str, str], str]
) -> str:
    blocks = []
    for row in (row for rows in leagues.values() for row in rows):
        for cell in row.cells:
            seeds = ", ".join(map(str, cell.seeds))
            errors = "".join(f"<p>failed: {escape(error)}</p>" for error in cell.errors)
            blocks.append(
                f'<details id="{ids[row.defence, cell.scenario]}"><summary>'
                f"{escape(row.defence)} · {escape(cell.scenario)}: {_spelt(cell)}</summary>{errors}"
                f"<p>Save as run.yaml, then <code>fedguard run.yaml</code>; seeds {seeds}.</p>"
                f"<pre>{escape(cell.config)}</pre></details>"
            )
    return "".join(blocks)


def _scroll(head: str, lines: str, kind: str = "") -> str:
    return (
        f'<div class="scroll" tabindex="0"><table class="{kind}"><thead><tr>{head}</tr></thead>'
        f"<tbody>{lines}</tbody></table></div>"
    )


def _link(target: str, shown: str, title: str) -> str:
    return f'<a href="#{target}" title="{escape(title)}">{shown}</a>'


def _spelt(cell: Cell) -> str:
    return percent(cell.mean) if cell.std is None else f"{percent(cell.mean)} ± {_points(cell.std)}"


def _points(value: float | None) -> str:
    return MISSING if value is None else f"{100 * value:.1f}"
