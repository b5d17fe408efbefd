"""Writes ``report.html``: one page about one run that opens without a network.

``python -m fedguard.reporting.report RUN_DIR`` writes the page again from the run's files.
"""

from __future__ import annotations

import base64
import gzip
import re
import sys
from collections.abc import Callable, Sequence
from functools import cache
from html import escape
from pathlib import Path
from string import Template

import numpy as np
import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from fedguard.errors import ConfigurationError
from fedguard.reporting import figures, tables
from fedguard.reporting.client_map import NOT_ASKED, STATUSES, UNTOLD, client_map_figure
from fedguard.reporting.recorder import write_atomically
from fedguard.reporting.run_directory import Run, mapping, number, read_run, sequence
from fedguard.reporting.wording import (
    attacked,
    duration,
    figure,
    headline,
    percent,
    setting,
    size,
)

_HERE = Path(__file__).parent


def write_report(run_dir: Path) -> Path:
    """Write ``report.html`` into a run directory and return its path.

    Missing, damaged or foreign files cost the section they belong to, never the page; only a
    directory that cannot be written to raises `OSError`.

    Parameters
    ----------
    run_dir : Path
        A run directory as the command leaves it.
    """
    run = read_run(Path(run_dir))
    page = Template(_asset("report.html")).substitute(
        title=escape(_title(run)),
        description=escape(_sentence(run)),
        style=_asset("report.css"),
        script=_asset("report.js"),
        plotly=_packed_plotly(),
        body=_body(run),
    )
    path = run.path / "report.html"
    write_atomically(path, page.encode())
    return path


def _asset(name: str) -> str:
    return (_HERE / name).read_text(encoding="utf-8")


@cache
def _packed_plotly() -> str:
    """Return plotly's script, compressed to a third, as base64; the page's script unpacks it."""
    packed = gzip.compress(get_plotlyjs().encode(), compresslevel=9, mtime=0)
    return base64.b64encode(packed).decode()


def _title(run: Run) -> str:
    return setting(run.summary) if run.summary.get("strategy") else run.path.resolve().name


def _body(run: Run) -> str:
    sections: list[tuple[str, str, Callable[[Run], str]]] = [
        ("course", "Round by round", _course),
        ("clients", "Client by client", _clients),
        ("scores", "What the defence measured", _scores),
        ("classes", "Classes and data", _classes),
        ("threat", "Threat model", _threat),
        ("configuration", "Configuration", _configuration),
        ("provenance", "Provenance", _provenance),
    ]
    drawn = [(name, title, _guarded(build, run)) for name, title, build in sections]
    shown = [(name, title, content) for name, title, content in drawn if content]
    links = "".join(f'<a href="#{name}">{title}</a>' for name, title, _ in shown)
    parts = "".join(
        f'<section id="{name}"><h2>{title}</h2>{content}</section>'
        for name, title, content in shown
    )
    return f"{_guarded(_header, run)}<nav>{links}</nav><main>{parts}</main>"


def _guarded(build: Callable[[Run], str], run: Run) -> str:
    """Return a part of the page; foreign data that breaks it costs that part alone."""
    try:
        return build(run)
    except Exception as error:  # a page about a finished run must not undo the run
        reason = escape(f"{type(error).__name__}: {error}"[:300])
        return f'<p class="empty">This part could not be drawn. {reason}</p>'


# --- header ----------------------------------------------------------------------------------


def _sentence(run: Run) -> str:
    if not run.summary and not run.rounds:
        return "This run left no results yet."
    return headline({**run.summary, "final": run.final, "class_names": run.class_names})


def _header(run: Run) -> str:
    sentence = escape(_sentence(run))
    strong = re.sub(r"\d[\d.]* %", r'<b class="share">\g<0></b>', sentence)
    whole_names = re.sub(r"\b\w{1,12}-\w{1,12}\b", r'<span class="name">\g<0></span>', strong)
    return (
        f'<header><p class="kicker">fedguard run report</p><h1>{whole_names}</h1>{_facts(run)}'
        f'<div class="tiles">{"".join(_tiles(run))}</div></header>'
    )


def _facts(run: Run) -> str:
    names = ["dataset", "partition", "model", "rounds", "seed", "engine"]
    known = [(name, run.summary.get(name)) for name in names]
    facts = "".join(
        f"<li><span>{name}</span> {escape(_short(value))}</li>"
        for name, value in known
        if value is not None
    )
    return f'<ul class="facts">{facts}</ul>' if facts else ""


def _short(value: object, limit: int = 60) -> str:
    text = str(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _tiles(run: Run) -> list[str]:
    final, best = run.final, mapping(run.summary.get("best"))
    detection = mapping(run.summary.get("detection"))
    last = run.rounds[-1]["round"] if run.rounds else None
    tiles = [
        _tile(
            "final accuracy",
            percent(final.get("accuracy")),
            "" if last is None else f"after round {last}",
            "accuracy",
        ),
        _tile(
            "best accuracy",
            percent(best.get("accuracy")),
            f"in round {figure(best.get('round'))}" if best.get("round") is not None else "",
        ),
    ]
    if number(final.get("attack_success_rate")) is not None:
        note = "of attacked inputs"
        tiles.append(_tile("attack success", percent(final["attack_success_rate"]), note, "attack"))
    if attacked(run.summary):
        rate = percent(detection.get("true_positive_rate"))
        tiles.append(_tile("malicious rejected", rate, "mean over rounds", "caught"))
    rate = percent(detection.get("false_positive_rate"))
    tiles.append(_tile("honest rejected", rate, "mean over rounds", "wronged"))
    each = run.summary.get("seconds_per_round")
    tiles.append(
        _tile(
            "time",
            duration(run.summary.get("seconds")),
            "" if number(each) is None else f"{duration(each)} a round",
        )
    )
    if number(run.summary.get("peak_memory_bytes")) is not None:
        tiles.append(_tile("peak memory", size(run.summary["peak_memory_bytes"])))
    return tiles


def _tile(label: str, value: str, note: str = "", kind: str = "") -> str:
    return (
        f'<div class="tile {kind}"><span class="label">{escape(label)}</span>'
        f'<span class="value">{escape(value)}</span><span class="note">{escape(note)}</span></div>'
    )


# --- figures ---------------------------------------------------------------------------------


def _figure(
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


def _course(run: Run) -> str:
    if not run.rounds:
        return '<p class="empty">No round was recorded.</p>'
    aimed = any(value is not None for value in run.series("attack_success_rate"))
    accuracy = _figure(
        figures.accuracy_figure(run),
        "Accuracy and attack success" if aimed else "Accuracy",
        "Share of test examples classified correctly"
        + (", and of attacked inputs that got the attacker's answer." if aimed else "."),
        "No accuracy was recorded.",
    )
    detection = _figure(
        figures.detection_figure(run),
        "Updates rejected",
        "Share of the malicious and of the honest clients' updates that got no weight.",
        "The run recorded no detection rates.",
    )
    loss = _figure(
        figures.loss_figure(run), "Loss", "Mean loss of the global model on the test examples."
    )
    return (
        f'<div class="grid three">{accuracy}{detection}{loss}</div>'
        f"<details><summary>All rounds as a table</summary>{tables.rounds_table(run)}</details>"
    )


def _clients(run: Run) -> str:
    if not run.clients:
        return ""
    chart = _figure(
        client_map_figure(run),
        "Who was rejected, who lied",
        "One row per client"
        + (", malicious ones on top beside the bar" if run.malicious else "")
        + "; one column per round. "
        "Point at a cell for the reason, drag to enlarge, double-click to go back.",
        key=_key(run),
    )
    rows = tables.clients_table(run)
    return f"{chart}<details><summary>All clients as a table</summary>{rows}</details>"


def _key(run: Run) -> str:
    """Return what each sign on the map means; signs that this run cannot show are left out."""
    absent = set() if run.malicious else {3, 4}
    if all(record.accepted is not None for record in run.clients):
        absent.add(UNTOLD)
    signs = [
        f'<li><span class="swatch s{code}" aria-hidden="true">{status.symbol}</span>'
        f"{escape(status.words)}</li>"
        for code, status in enumerate(STATUSES)
        if code not in absent
    ]
    return f'<ul class="key">{"".join([*signs[1:], signs[NOT_ASKED]])}</ul>'


def _scores(run: Run) -> str:
    pools = figures.pooled_scores(run)
    if not pools:
        return ""
    shown = list(pools.items())[: figures.MAX_SCORES]
    charts = "".join(
        _figure(
            figures.score_figure(honest, malicious), _short(name), _separation(honest, malicious)
        )
        for name, (honest, malicious) in shown
    )
    left = len(pools) - len(shown)
    more = f'<p class="caption">{left} more scores are in clients.jsonl.</p>' if left > 0 else ""
    return (
        '<p class="lead">Each score over all clients and rounds, as shares of the honest and '
        f'of the malicious updates.</p><div class="grid small">{charts}</div>{more}'
    )


def _separation(honest: np.ndarray, malicious: np.ndarray) -> str:
    """Say how often a malicious score exceeds an honest one; equal scores count as half."""
    n, m = len(honest), len(malicious)
    if n == 0 or m == 0:
        return f"{n + m:,} updates, all {'honest' if n else 'malicious'}."
    ordered = np.sort(honest)
    below = np.searchsorted(ordered, malicious, side="left")
    up_to = np.searchsorted(ordered, malicious, side="right")
    share = float(np.mean((below + up_to) / 2)) / n
    return f"A malicious update scores higher than an honest one in {percent(share)} of pairs."


def _classes(run: Run) -> str:
    recall = _figure(
        figures.recall_figure(run),
        "Recall of each class",
        "Share of each class's test examples that the final model recognises.",
    )
    split = _figure(
        figures.split_figure(run),
        "How the data is divided",
        "Training samples of each class held by each client."
        + (" ◆ marks malicious clients." if run.malicious else ""),
    )
    return f'<div class="grid">{recall}{split}</div>' if recall or split else ""


# --- words -----------------------------------------------------------------------------------


def _threat(run: Run) -> str:
    cards = "".join(
        f'<div class="card"><h3>{escape(tables.spoken(name))}</h3>{tables.value_html(value)}</div>'
        for name, value in run.threat_model.items()
    )
    return f'<div class="grid three">{cards}</div>' if cards else ""


def _configuration(run: Run) -> str:
    if not run.config.strip():
        return ""
    return (
        '<p class="lead">Saved as config.yaml; '
        "<code>python -m fedguard.simulate config.yaml</code> "
        f'repeats the run.</p><pre class="scroll" tabindex="0">{escape(run.config)}</pre>'
    )


def _provenance(run: Run) -> str:
    notes = [str(note) for note in sequence(run.summary.get("notes"))] + run.problems
    listed = "".join(f"<li>{escape(note)}</li>" for note in notes)
    remarks = f'<div class="card"><h3>Notes</h3><ul>{listed}</ul></div>' if listed else ""
    versions = mapping(run.summary.get("versions"))
    built = (
        f'<div class="card"><h3>Versions</h3>{tables.definitions(versions)}</div>'
        if versions
        else ""
    )
    traces = {
        "run directory": str(run.path.resolve()),
        "final model (SHA-256)": run.summary.get("model_sha256"),
    }
    origin = {name: value for name, value in traces.items() if value}
    return (
        f'<div class="grid three">{remarks}{built}'
        f'<div class="card"><h3>Files</h3>{tables.definitions(origin)}</div></div>'
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the report of the run directory named on the command line; return the exit code."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    if len(given) != 1 or given[0] in ("-h", "--help"):
        print("usage: python -m fedguard.reporting.report RUN_DIR", file=sys.stderr)
        return 0 if given in (["-h"], ["--help"]) else 2
    run_dir = Path(given[0])
    if not run_dir.is_dir():
        print(ConfigurationError("RUN_DIR", given[0], "a directory of a run"), file=sys.stderr)
        return 2
    print(write_report(run_dir))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
