"""The frame of every page that fedguard writes: style, script, plotly, figures in cards.

A page is one file that opens without a network, in light and dark colours, on any width.
"""

from __future__ import annotations

import base64
import gzip
from collections.abc import Callable, Sequence
from functools import cache
from html import escape
from pathlib import Path
from string import Template
from typing import Any

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from fedguard.records.reader import Run
from fedguard.reporting.client_map import MALICIOUS_CODES, NOT_ASKED, SELDOM, STATUSES
from fedguard.reporting.wording import bounded

_HERE = Path(__file__).parent


def render_page(title: str, description: str, body: str, *, charts: bool = True) -> str:
    """Return a whole page.

    Parameters
    ----------
    title, description : str
        Plain text.
    body : str
        HTML.
    charts : bool
        Whether plotly travels along; a page of tables alone is a hundredth of the size without.
    """
    return Template(asset("report.html")).substitute(
        title=escape(title),
        description=escape(description),
        style=asset("report.css"),
        script=asset("report.js"),
        plotly=_packed_plotly() if charts else "",
        body=body,
    )


def asset(name: str) -> str:
    """Return a file that travels with the package."""
    return (_HERE / name).read_text(encoding="utf-8")


@cache
def _packed_plotly() -> str:
    """Return plotly's script, compressed to a third, as base64; the page's script unpacks it."""
    packed = gzip.compress(get_plotlyjs().encode(), compresslevel=9, mtime=0)
    return base64.b64encode(packed).decode()


def sections(parts: Sequence[tuple[str, str, str]]) -> str:
    """Return links and sections of a page from (name, title, HTML); empty ones are left out."""
    shown = [(name, title, content) for name, title, content in parts if content]
    links = "".join(f'<a href="#{name}">{escape(title)}</a>' for name, title, _ in shown)
    body = "".join(
        f'<section id="{name}"><h2>{escape(title)}</h2>{content}</section>'
        for name, title, content in shown
    )
    return f"<nav>{links}</nav><main>{body}</main>"


def guarded(build: Callable[..., str], *given: Any) -> str:
    """Return a part of a page; foreign data that breaks it costs that part alone."""
    try:
        return build(*given)
    except Exception as error:  # a page about finished runs must not undo them
        reason = escape(bounded(f"{type(error).__name__}: {error}", 300))
        return f'<p class="empty">This part could not be drawn. {reason}</p>'


def tile(label: str, value: str, note: str = "", kind: str = "") -> str:
    """Return one figure of the head of a page."""
    return (
        f'<div class="tile {kind}"><span class="label">{escape(label)}</span>'
        f'<span class="value">{escape(value)}</span><span class="note">{escape(note)}</span></div>'
    )


def figure_card(
    drawing: go.Figure | None, title: str, caption: str = "", empty: str = "", key: str = ""
) -> str:
    """Return a figure in a card, its data beside it as JSON that cannot end the script element."""
    note = f'<p class="caption">{escape(caption)}</p>' if caption else ""
    if drawing is None:
        if not empty:
            return ""
        return f'<figure><h3>{escape(title)}</h3><p class="empty">{escape(empty)}</p></figure>'
    data = drawing.to_json().replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")
    shape = f'aria-label="{escape(title)}" style="height:{int(drawing.layout.height)}px"'
    return (
        f"<figure><h3>{escape(title)}</h3>{note}{key}"
        f'<div class="chart" role="img" {shape}></div>'
        f'<script type="application/json">{data}</script></figure>'
    )


def chooser(label: str, options: Sequence[tuple[str, str]], name: str) -> str:
    """Return a menu and the parts that it chooses from, the first one shown.

    Parameters
    ----------
    label : str
        What is chosen.
    options : sequence of (str, str)
        Name and HTML of each part.
    name : str
        Identifier, once per page.
    """
    menu = "".join(f"<option>{escape(option)}</option>" for option, _ in options)
    parts = "".join(
        f'<div class="choice"{"" if place == 0 else " hidden"}>{content}</div>'
        for place, (_, content) in enumerate(options)
    )
    return (
        f'<label class="chooser" for="{name}">{escape(label)} '
        f'<select id="{name}">{menu}</select></label><div class="choices">{parts}</div>'
    )


def map_key(run: Run) -> str:
    """Return what each sign on a client map means; signs that the run cannot show are left out."""
    absent = set() if run.malicious else set(MALICIOUS_CODES)
    seen = {record.outcome for record in run.clients}
    absent |= {code for outcome, code in SELDOM.items() if outcome not in seen}
    signs = [
        f'<li><span class="swatch s{code}" aria-hidden="true">{status.symbol}</span>'
        f"{escape(status.words)}</li>"
        for code, status in enumerate(STATUSES)
        if code not in absent
    ]
    return f'<ul class="key">{"".join([*signs[1:], signs[NOT_ASKED]])}</ul>'
