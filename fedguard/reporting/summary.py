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
from fedguard.reporting.chosen_model import best_words, rounds_words
from fedguard.reporting.fair_words import summary_rows
from fedguard.reporting.headline import Headline
from fedguard.reporting.replies import Replies
from fedguard.reporting.success import outlived_words, success_words
from fedguard.reporting.wording import attacked, bounded, duration, percent, setting, size

LABEL = len("attackers rejected")
"""Columns of the labels, so that a long value does not cut them."""
MAX_LINES = 20
"""Lines of a screen for rows and notes; the frame has two more."""
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
    grid.add_column(style="dim", no_wrap=True, min_width=LABEL)
    grid.add_column(overflow="ellipsis", no_wrap=True)
    rows = [*_run_rows(summary), *_result_rows(summary), *_cost_rows(summary)]
    for label, value in rows:
        grid.add_row(label, value)
    title = Text(bounded(setting(summary), 60), style="bold")
    parts: list[RenderableType] = [grid, *_notes(summary, MAX_LINES - len(rows))]
    return Panel(Group(*parts), title=title, title_align="left", box=box.ROUNDED, padding=(0, 1))


def _run_rows(summary: Mapping[str, Any]) -> list[tuple[str, Text]]:
    split = " · ".join(str(summary[name]) for name in ("dataset", "partition") if summary.get(name))
    training = [str(summary[name]) for name in ("model", "training") if summary.get(name)]
    training += [words] if (words := rounds_words(summary)) else []
    training += [f"{name} {summary[name]}" for name in ("seed", "engine") if name in summary]
    executor = [str(summary[n]) for n in ("executor", "executor_reason") if summary.get(n)]
    repair = [str(summary[name]) for name in ("repair", "repair_at") if summary.get(name)]
    rows = [
        ("data", split),
        ("training", " · ".join(training)),
        ("executor", ": ".join(executor)),
        ("enrolment", str(summary.get("enrolment") or "")),
        ("repair", ", ".join(repair)),
        ("audits", ", ".join(mapping(summary.get("audits")))),
    ]
    return [(label, Text(bounded(text, 200))) for label, text in rows if text]


def _result_rows(summary: Mapping[str, Any]) -> list[tuple[str, Text]]:
    final, best = mapping(summary.get("final")), mapping(summary.get("best"))
    lead = Headline.of(summary)
    reached = Text(lead.text(final.get(lead.name)), style="bold green")
    if lead.of_run(best) is not None and whole(best.get("round")) is not None:
        text = f"   best {lead.text(best[lead.name])} in round {whole(best['round'])}"
        reached.append(text, style="dim")
    rows = [(lead.words, reached)]
    if words := best_words(summary):
        rows.append(("best model", Text(words)))
    if (success := success_words(summary)) is not None:
        more = outlived_words(summary) or success[1]
        rows.append(("attack success", Text(success[0], style="bold red").append(more)))
    rows += [(label, Text(text)) for label, text in summary_rows(summary)]
    return rows + _detection_rows(summary) + _reply_rows(summary)


def _detection_rows(summary: Mapping[str, Any]) -> list[tuple[str, Text]]:
    detection = mapping(summary.get("detection"))
    wronged = Text(percent(detection.get("false_positive_rate")) + " of their updates")
    rows = []
    if attacked(summary):
        caught = Text(percent(detection.get("true_positive_rate")) + " of their updates")
        rows.append(("attackers rejected", caught))
    return [*rows, ("honest rejected", wronged)]


def _reply_rows(summary: Mapping[str, Any]) -> list[tuple[str, Text]]:
    """Return who answered, failed, was set aside and rejected; an older run told no such counts."""
    found = Replies.of(mapping(summary.get("replies")))
    if found is None:
        return []
    answers = f"{found.answered:,} of {found.asked:,} asked · {found.failed:,} failed"
    usable = f"{found.rejected:,} of {found.accepted + found.rejected:,} usable"
    rows = [
        ("answered", Text(f"{answers} · {found.set_aside:,} set aside")),
        ("rejected", Text(f"{usable} replies, by the defence")),
    ]
    if found.unusable and found.reason:
        rows.append(("commonest reason", Text(found.reason, style="yellow")))
    return rows


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
    text = bounded(path, 4096)
    return text if len(text) <= limit else "…" + text[1 - limit :]


def _notes(summary: Mapping[str, Any], room: int) -> list[Text]:
    """Return as many notes as a screen has room for, and how many more there are."""
    notes = sequence(summary.get("notes"))
    count = min(MAX_NOTES, max(room - 1, 0)) if len(notes) >= room else MAX_NOTES
    lines = [Text(f"note: {bounded(note, 68)}", style="yellow") for note in notes[:count]]
    if len(notes) > count:
        more = f"and {len(notes) - count} more notes in the report"
        lines.append(Text(more, style="yellow"))
    return lines


def render_comparison(rows: Sequence[Mapping[str, Any]]) -> RenderableType:
    """Return runs side by side, one line each, in the order given; one table per headline.

    Parameters
    ----------
    rows : sequence of mapping
        Summaries as in ``summary.json``, or flat mappings with ``strategy``, the headline (such
        as ``accuracy``), ``attack_success_rate``, ``true_positive_rate`` and
        ``false_positive_rate`` (shares of 1). The line with the best headline is set in bold.
    """
    by_headline: dict[Headline, list[Mapping[str, Any]]] = {}
    for row in rows:
        by_headline.setdefault(Headline.of(row), []).append(row)
    tables = [_comparison(lead, members) for lead, members in by_headline.items()]
    return Group(*tables) if tables else _comparison(Headline(), [])


_RATES = {
    "attack success": "attack_success_rate",
    "attackers rejected": "true_positive_rate",
    "honest rejected": "false_positive_rate",
}


def _comparison(lead: Headline, rows: Sequence[Mapping[str, Any]]) -> Table:
    lines = [(str(row.get("strategy") or "unnamed"), _sources(row)) for row in rows]
    reached = [_found(lead.name, sources) for _, sources in lines]
    shown = {words: name for words, name in _RATES.items() if _told(name, lines)}
    known = [value for value in reached if value is not None]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("strategy")
    for words in (lead.words, *shown):
        table.add_column(words, justify="right", no_wrap=True)
    for (strategy, sources), value in zip(lines, reached, strict=True):
        best = bool(known) and value == lead.best(known)
        rates = [percent(_found(name, sources)) for name in shown.values()]
        cells = [bounded(strategy, 40), lead.text(value), *rates]
        table.add_row(*map(Text, cells), style="bold" if best else "")
    return table


def _told(name: str, lines: Sequence[tuple[str, list[Mapping[str, Any]]]]) -> bool:
    """Return whether a rate has a column: one that no run measured, of an attack, has none."""
    optional = name == "attack_success_rate" and bool(lines)
    return not optional or any(_found(name, sources) is not None for _, sources in lines)


def _sources(row: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return where a run's figures stand; nobody was caught where nobody attacked."""
    detection = dict(mapping(row.get("detection")))
    if row.get("attack") == "none":
        detection.pop("true_positive_rate", None)
    return [row, detection, mapping(row.get("final"))]


def _found(name: str, sources: Sequence[Mapping[str, Any]]) -> float | None:
    values = [number(source.get(name)) for source in sources]
    return next((value for value in values if value is not None), None)
