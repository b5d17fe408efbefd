"""An audit in sentences: the verdict first, what breaks the server outright, what to paste."""

from __future__ import annotations

from fedguard.auditing.found import REFERENCE, UNTRIED, Found, Row, count_of
from fedguard.auditing.threats import BY_NAME
from fedguard.auditing.verdict import BROKEN, HARMED, HELD_UP, UNREACHED

_SHORTER = "strategy.start(timeout=60) or ServerConfig(round_timeout=60) shortens it, no rule does"

_ENDS = {
    "the server stops": "stops your server",
    "the app exits": "ends your run",
    "the process ended": "ends your run",
    "the round hangs": "hangs your run",
}


def verdict_sentence(found: Found) -> str:
    """Return the verdict in one sentence."""
    clients = found.project.clients
    rows = found.unguarded()
    most = count_of(REFERENCE, clients)
    if found.verdict == UNTRIED:
        return _nothing(found, most)
    broken = sorted((r for r in rows if r.verdict == BROKEN), key=_severity)
    harmed = sorted((r for r in rows if r.verdict == HARMED), key=_severity)
    if found.verdict == BROKEN:
        row = broken[0]
        return f"Broken: {_subject(row, clients)} {_verb(row, _effect(row))}."
    if found.verdict == HARMED:
        row = harmed[0]
        words = _verb(row, f"takes {1 - row.kept:.0%} of what is learnt")
        return f"Harmed: {_subject(row, clients)} {words}."
    held = " A client that never answers holds it up, though." if _held(rows) else ""
    later = ""
    if broken:
        row = broken[0]
        later = f" With {row.cell.malicious} of {clients}, {row.cell.threat} breaks it."
    tried = f"Standing: nothing that was tried with up to {most} of {clients} clients breaks it."
    return tried + later + held


def _nothing(found: Found, most: int) -> str:
    """Return why there is no verdict."""
    told = f"Nothing was tried with up to {most} of {found.project.clients} clients"
    rows = found.unguarded()
    if not rows:
        return f"{told}: give the audit more minutes."
    if all(row.verdict == UNREACHED for row in rows):
        return f"{told}: no threat reached the app ({rows[0].reason})."
    worst = min(rows, key=lambda row: row.kept)
    who = f"{worst.cell.malicious} of {found.project.clients}"
    return f"{told}; with {who}, {worst.cell.threat} leaves {min(worst.kept, 1.0):.0%}."


def _severity(row: Row) -> tuple[int, float, int]:
    """Return an order: fewest clients first, then the worst, then those who set the model."""
    crafted = BY_NAME[row.cell.threat].kind != "crafted"
    return row.cell.malicious, row.kept, int(crafted)


def _who(count: int, clients: int) -> str:
    return f"one client of {clients}" if count == 1 else f"{count} clients of {clients}"


def _subject(row: Row, clients: int) -> str:
    who, does = _who(row.cell.malicious, clients), BY_NAME[row.cell.threat].words
    return f"{who} that {does}" if row.cell.malicious == 1 else f"{who}, each of which {does},"


def _verb(row: Row, words: str) -> str:
    """Return words that begin with a verb, which agrees with how many clients do it."""
    verb, _, rest = words.partition(" ")
    return words if row.cell.malicious == 1 else f"{verb.removesuffix('s')} {rest}"


def _effect(row: Row) -> str:
    for start, words in _ENDS.items():
        if row.reason.startswith(start):
            return words
    if "NaN" in row.reason and "metric" not in row.reason:
        return "turns your model into NaN"
    if BY_NAME[row.cell.threat].kind == "crafted" and row.kept < 0.1:
        return "takes away all that your model learns"
    return f"takes {1 - row.kept:.0%} of what your model learns"


def _held(rows: list[Row]) -> list[Row]:
    return [row for row in rows if row.verdict == HELD_UP]


def outright(found: Found) -> list[str]:
    """Return what breaks the server outright, a line each."""
    lines: dict[str, str] = {}
    for row in found.unguarded():
        stops = row.reason.startswith(tuple(_ENDS))
        if row.verdict == BROKEN and (stops or "NaN or infinity" in row.reason):
            who = _who(row.cell.malicious, found.project.clients)
            lines.setdefault(row.cell.threat, f"{row.cell.threat} ({who}): {row.reason}")
        elif row.verdict == HELD_UP:
            lines.setdefault(row.cell.threat, f"{row.cell.threat}: {row.reason}; {_SHORTER}")
    return list(lines.values())


def remedy_sentence(found: Found) -> str:
    """Return what is recommended, and what it costs."""
    best = found.recommended
    if best is not None:
        cost = max(0.0, 1.0 - best.peace)
        price = "nothing measurable" if cost < 0.01 else f"{cost:.0%} of what is learnt"
        threats = "1 threat" if best.tried == 1 else f"each of {best.tried} threats"
        return (
            f"{best.rule} keeps at least {min(best.worst, 1.0):.0%} of what the app learns in "
            f"peace under {threats} with {count_of(REFERENCE, found.project.clients)} of "
            f"{found.project.clients} clients; in peace it costs {price}."
        )
    if found.verdict in (BROKEN, HARMED):
        if "remedies" in found.untried:
            return f"No remedy: {found.untried['remedies']}."
        if not found.remedies:
            return "No remedy was tried: no time was left."
        best = max(found.remedies, key=lambda remedy: min(remedy.worst, remedy.peace))
        return (
            f"No rule that was tried is enough: the best, {best.rule}, keeps {best.worst:.0%} "
            f"under {best.worst_threat}."
        )
    return "No remedy is needed for what was tried."
