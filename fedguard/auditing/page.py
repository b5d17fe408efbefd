"""The audit as one page that opens without a network: the verdict first."""

from __future__ import annotations

import json
import shlex
from html import escape
from pathlib import Path

from fedguard.auditing.found import REFERENCE, Found, Row, count_of
from fedguard.auditing.threats import BY_NAME
from fedguard.auditing.verdict import BROKEN, HARMED, HELD_UP, STANDS, UNREACHED
from fedguard.auditing.words import outright, remedy_sentence, verdict_sentence
from fedguard.records.writer import write_atomically
from fedguard.reporting.page import asset, tile

_STYLE = """
.cell { font-variant-numeric: tabular-nums; text-align: right; border-radius: 6px; }
.broken { background: rgba(168, 18, 63, .22); } .harmed { background: rgba(240, 166, 58, .28); }
.stands { background: rgba(98, 189, 178, .28); } .held { background: rgba(143, 116, 198, .25); }
.none { color: var(--muted); }
.scroll { overflow-x: auto; }
.scroll table { border-collapse: separate; border-spacing: 3px; width: 100%; }
.scroll th, .scroll td { padding: 5px 9px; text-align: left; vertical-align: top; }
.scroll td.cell { text-align: right; white-space: nowrap; }
pre { overflow-x: auto; padding: 14px 16px; background: var(--card); border: 1px solid var(--line);
  border-radius: 10px; }
details { margin-top: 12px; } summary { cursor: pointer; }
section > ul { padding-left: 1.2em; } li { overflow-wrap: anywhere; }
"""

_CLASS = {BROKEN: "broken", HARMED: "harmed", STANDS: "stands", HELD_UP: "held"}


def write_page(path: Path, found: Found, command: str) -> None:
    """Write the page.

    Parameters
    ----------
    path : Path
        The HTML file.
    found : Found
        The audit.
    command : str
        What was typed, to repeat it.
    """
    name = found.project.name
    sentence = verdict_sentence(found)
    body = "".join(
        [
            _header(found, sentence),
            _section("remedy", "What to do", _remedy(found)),
            _section("threats", "What was tried", _table(found)),
            _section("outright", "What breaks the server outright", _outright(found)),
            _section("rules", "Remedies that were tried", _rules(found)),
            _section("repeat", "To repeat it", _repeat(found, command)),
        ]
    )
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(name)}: {escape(found.verdict)}</title>"
        f'<meta name="description" content="{escape(sentence)}">'
        f"<style>{asset('report.css')}{_STYLE}</style></head><body>{body}</body></html>"
    )
    write_atomically(path, page.encode())


def _section(name: str, title: str, content: str) -> str:
    return f'<section id="{name}"><h2>{escape(title)}</h2>{content}</section>' if content else ""


def _header(found: Found, sentence: str) -> str:
    lead = found.headline
    most = count_of(REFERENCE, found.project.clients)
    worst = found.worst()
    before = "" if lead.untrained is None else f"{lead.untrained:.3g} before training"
    tiles = [
        tile("verdict", found.verdict, f"with up to {most} of {found.project.clients} clients"),
        tile("in peace", f"{lead.peace:.3g}", " ".join([lead.words, before])),
        tile("worst case keeps", "–" if worst is None else f"{worst:.0%}", "of what is learnt"),
        tile("cells", str(len(found.rows)), f"in {found.seconds / 60.0:.1f} minutes"),
    ]
    kicker = f"Audit of {found.project.name}"
    return (
        f'<header><p class="kicker">{escape(kicker)}</p><h1>{escape(sentence)}</h1>'
        f'<div class="tiles">{"".join(tiles)}</div></header>'
    )


def _remedy(found: Found) -> str:
    text = f"<p>{escape(remedy_sentence(found))}</p>"
    paste = found.paste()
    if not paste:
        return text
    where = found.project.server.partition(":")[0].replace(".", "/") + ".py"
    lines = escape("\n".join(paste))
    return f"{text}<p>At the end of <code>{escape(where)}</code>:</p><pre>{lines}</pre>"


def _table(found: Found) -> str:
    counts = sorted({row.cell.malicious for row in found.unguarded()})
    head = "".join(f"<th>{count} of {found.project.clients}</th>" for count in counts)
    lines = []
    names = [n for n in BY_NAME if any(r.cell.threat == n for r in found.unguarded())]
    for name in names:
        cells = []
        fallen = False
        for count in counts:
            rows = [
                r for r in found.unguarded() if (r.cell.threat, r.cell.malicious) == (name, count)
            ]
            cells.append(_cell(rows, fallen))
            fallen = fallen or any(row.verdict == BROKEN for row in rows)
        words = escape(BY_NAME[name].words)
        lines.append(f"<tr><th>{escape(name)}<br><small>{words}</small></th>{''.join(cells)}</tr>")
    rest = "".join(
        f"<li>{escape(name)}: {escape(reason)}</li>" for name, reason in found.untried.items()
    )
    note = (
        "<p>Of what the app learns in peace, how much is left at the end: the worst seed. Below "
        "50 % it counts as broken, below 90 % as harmed; what is broken is not tried with more "
        "clients.</p>"
    )
    left = f"<p>Not tried:</p><ul>{rest}</ul>" if rest else ""
    table = f"<table><thead><tr><th></th>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"
    return f'{note}<div class="scroll">{table}</div>{left}'


def _cell(rows: list[Row], fallen: bool) -> str:
    if not rows:
        return f'<td class="cell none">{"broken by fewer" if fallen else "not tried"}</td>'
    worst = min(rows, key=lambda row: row.kept)
    if worst.verdict == UNREACHED:
        return f'<td class="cell none" title="{escape(worst.reason)}">not reached</td>'
    kind = _CLASS[worst.verdict]
    text = f"{worst.verdict}, {min(worst.kept, 1.0):.0%}"
    return f'<td class="cell {kind}" title="{escape(worst.reason)}">{text}</td>'


def _outright(found: Found) -> str:
    lines = outright(found)
    if not lines:
        return "<p>Nothing that was tried.</p>"
    return "<ul>" + "".join(f"<li>{escape(line)}</li>" for line in lines) + "</ul>"


def _rules(found: Found) -> str:
    if not found.remedies:
        return ""
    lines = [
        f"<tr><th>{escape(r.rule)}</th><td class='cell'>{min(r.peace, 1.0):.0%}</td>"
        f"<td class='cell'>{min(r.worst, 1.0):.0%}</td><td>{escape(r.worst_threat)}</td>"
        f"<td class='cell'>{r.tried}</td></tr>"
        for r in found.remedies
    ]
    head = (
        "<tr><th></th><th>in peace</th><th>at worst</th><th>under</th><th>threats tried</th></tr>"
    )
    table = f"<table><thead>{head}</thead><tbody>{''.join(lines)}</tbody></table>"
    return f'<div class="scroll">{table}</div>'


def _repeat(found: Found, command: str) -> str:
    rows = json.dumps([row.plain() for row in found.rows], indent=1)
    config = json.dumps(found.project.config, indent=1)
    return (
        f"<pre>{escape(command)}</pre><details><summary>Every cell</summary>"
        f"<pre>{escape(rows)}</pre></details><details><summary>Run configuration</summary>"
        f"<pre>{escape(config)}</pre></details>"
    )


def command_of(words: list[str]) -> str:
    """Return words as a shell takes them."""
    return " ".join(shlex.quote(word) for word in words)
