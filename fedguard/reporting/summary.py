"""A run's result on one screen of a terminal, and several runs side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from fedguard.records.reader import mapping, number, sequence, whole
from fedguard.reporting.wording import attacked, duration, percent, setting, size

MAX_NOTES = 3
"""Most notes shown; the report has them all."""


def render_summary(summary: Mapping[str, Any]) -> RenderableType:
    """Return a run's result as a panel that fits a screen of 80 x 24.

    Parameters
    ----------
    summary : mapping
        The content of ``summary.json``; whatever is missing is left out.
    """
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="ellipsis", no_wrap=True)
    for label, value in [*_run_rows(summary), *_result_rows(summary), *_cost_rows(summary)]:
        grid.add_row(label, value)
    title = Text(_cut(setting(summary), 60), style="bold")
    parts: list[RenderableType] = [grid, *_notes(summary)]
    return Panel(Group(*parts), title=title, title_align="left", box=box.ROUNDED, padding=(0, 1))


def _cut(text: object, limit: int) -> str:
    words = " ".join(str(text).split())
    return words if len(words) <= limit else words[: limit - 1] + "…"


def _run_rows(summary: Mapping[str, Any]) -> list[tuple[str, Text]]:
    split = " · ".join(str(summary[name]) for name in ("dataset", "partition") if summary.get(name))
    training = [str(summary["model"])] if summary.get("model") else []
    if (rounds := whole(summary.get("rounds"))) is not None:
        training.append(f"{rounds} round{'' if rounds == 1 else 's'}")
    training += [f"{name} {summary[name]}" for name in ("seed", "engine") if name in summary]
    executor = [str(summary[n]) for n in ("executor", "executor_reason") if summary.get(n)]
    rows = [("data", split), ("training", " · ".join(training)), ("executor", ": ".join(executor))]
    return [(label, Text(_cut(text, 200))) for label, text in rows if text]


def _result_rows(summary: Mapping[str, Any]) -> list[tuple[str, Text]]:
    final, best = mapping(summary.get("final")), mapping(summary.get("best"))
    accuracy = Text(percent(final.get("accuracy")), style="bold green")
    if number(best.get("accuracy")) is not None and whole(best.get("round")) is not None:
        text = f"   best {percent(best['accuracy'])} in round {whole(best['round'])}"
        accuracy.append(text, style="dim")
    rows = [("accuracy", accuracy)]
    if number(final.get("attack_success_rate")) is not None:
        success = Text(percent(final["attack_success_rate"]), style="bold red")
        rows.append(("attack success", success))
    return rows + _detection_rows(summary)


def _detection_rows(summary: Mapping[str, Any]) -> list[tuple[str, Text]]:
    detection = mapping(summary.get("detection"))
    wronged = Text(percent(detection.get("false_positive_rate")) + " of their updates")
    rows = []
    if attacked(summary):
        caught = Text(percent(detection.get("true_positive_rate")) + " of their updates")
        rows.append(("attackers rejected", caught))
    return [*rows, ("honest rejected", wronged)]


def _cost_rows(summary: Mapping[str, Any]) -> list[tuple[str, Text]]:
    cost = [duration(summary.get("seconds"))]
    if number(summary.get("seconds_per_round")) is not None:
        cost.append(f"{duration(summary['seconds_per_round'])} a round")
    if number(summary.get("peak_memory_bytes")) is not None:
        cost.append(f"{size(summary['peak_memory_bytes'])} at peak")
    rows = [("time", Text(" · ".join(cost)))]
    if summary.get("out"):
        out = Path(str(summary["out"]))
        rows += [("report", Text(_tail(out / "report.html"))), ("files", Text(_tail(out)))]
    return rows


def _tail(path: Path, limit: int = 53) -> str:
    """Return a path that fits; a long one keeps its end, which tells runs apart."""
    text = " ".join(str(path).split())
    return text if len(text) <= limit else "…" + text[1 - limit :]


def _notes(summary: Mapping[str, Any]) -> list[Text]:
    notes = sequence(summary.get("notes"))
    lines = [Text(f"note: {_cut(note, 68)}", style="yellow") for note in notes[:MAX_NOTES]]
    if len(notes) > MAX_NOTES:
        more = f"and {len(notes) - MAX_NOTES} more notes in the report"
        lines.append(Text(more, style="yellow"))
    return lines


def render_comparison(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Return runs side by side as a table, one line each, in the order given.

    Parameters
    ----------
    rows : sequence of mapping
        Summaries as in ``summary.json``, or flat mappings with ``strategy``, ``accuracy``,
        ``attack_success_rate``, ``true_positive_rate`` and ``false_positive_rate`` (shares of 1).
        The line with the highest accuracy is set in bold.
    """
    lines = [_comparison_line(row) for row in rows]
    known = [accuracy for accuracy in (number(line["accuracy"]) for line in lines) if accuracy]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("strategy")
    for name in ("accuracy", "attack success", "attackers rejected", "honest rejected"):
        table.add_column(name, justify="right", no_wrap=True)
    for line in lines:
        best = bool(known) and line["accuracy"] == max(known)
        rates = [percent(value) for name, value in line.items() if name != "strategy"]
        cells = [Text(_cut(line["strategy"], 40)), *(Text(rate) for rate in rates)]
        table.add_row(*cells, style="bold" if best else "")
    return table


def _comparison_line(row: Mapping[str, Any]) -> dict[str, Any]:
    sources = (row, mapping(row.get("detection")), mapping(row.get("final")))
    names = ("accuracy", "attack_success_rate", "true_positive_rate", "false_positive_rate")
    line: dict[str, Any] = {"strategy": str(row.get("strategy") or "unnamed")}
    for name in names:
        values = [source.get(name) for source in sources]
        line[name] = next((value for value in values if number(value) is not None), None)
    return line
