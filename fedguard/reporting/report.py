"""Writes ``report.html``: one page about one run that opens without a network.

``python -m fedguard.reporting.report RUN_DIR`` writes the page again from the run's files.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path

import numpy as np

from fedguard.errors import ConfigurationError
from fedguard.records.reader import Run, mapping, number, read_run, sequence
from fedguard.records.writer import write_atomically
from fedguard.reporting import figures, scores, tables
from fedguard.reporting.chosen_model import chosen_words, rounds_words
from fedguard.reporting.client_map import client_map_figure
from fedguard.reporting.enrolment import enrolment_section
from fedguard.reporting.events import audits_section, repairs_section
from fedguard.reporting.fairness import fairness_section
from fedguard.reporting.headline import Headline, sentence
from fedguard.reporting.page import figure_card, guarded, map_key, render_page, sections, tile
from fedguard.reporting.parties import CURVES, party_figure
from fedguard.reporting.personal import personal_section
from fedguard.reporting.replies import replies_tables
from fedguard.reporting.success import lifespan_words, success_words
from fedguard.reporting.task_figures import task_section
from fedguard.reporting.unlearning import unlearning_section
from fedguard.reporting.wording import (
    attacked,
    bounded,
    duration,
    figure,
    percent,
    setting,
    size,
    spoken,
)


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
    page = render_page(_title(run), _sentence(run), _body(run))
    path = run.path / "report.html"
    write_atomically(path, page.encode())
    return path


def _title(run: Run) -> str:
    return setting(run.summary) if run.summary.get("strategy") else run.path.resolve().name


def _body(run: Run) -> str:
    parts: list[tuple[str, str, Callable[[Run], str]]] = [
        ("course", "Round by round", _course),
        ("aim", "What the attack was after", task_section),
        ("unlearning", "What was forgotten", unlearning_section),
        ("repairs", "Repairs", repairs_section),
        ("audits", "Audits", audits_section),
        ("clients", "Client by client", _clients),
        ("enrolment", "Enrolment", enrolment_section),
        ("fairness", "Fair to whom", fairness_section),
        ("personal", "Personal models", personal_section),
        ("parties", "Incentives and privacy of the parties", _parties),
        ("scores", "What the defence measured", _scores),
        ("classes", "Classes and data", _classes),
        ("threat", "Threat model", _threat),
        ("configuration", "Configuration", _configuration),
        ("provenance", "Provenance", _provenance),
    ]
    drawn = [(name, title, guarded(build, run)) for name, title, build in parts]
    return guarded(_header, run) + sections(drawn)


# --- header ----------------------------------------------------------------------------------


def _sentence(run: Run) -> str:
    if not run.summary and not run.rounds:
        return "This run left no results yet."
    return sentence({**run.summary, "final": run.final, "class_names": run.class_names})


def _header(run: Run) -> str:
    words, lead = escape(_sentence(run)), Headline.of(run.summary)
    if not lead.is_share:
        value = lead.text(lead.of_run(run.final))
        words = words.replace(f" of {value} ", f' of <b class="share">{value}</b> ', 1)
    strong = re.sub(r"\d[\d.]* %", r'<b class="share">\g<0></b>', words)
    whole_names = re.sub(r"\b\w{1,12}-\w{1,12}\b", r'<span class="name">\g<0></span>', strong)
    return (
        f'<header><p class="kicker">fedguard run report</p><h1>{whole_names}</h1>{_facts(run)}'
        f'<div class="tiles">{"".join(_tiles(run))}</div></header>'
    )


def _facts(run: Run) -> str:
    names = ["dataset", "partition", "model", "training", "rounds", "seed", "engine"]
    names += ["enrolment", "repair"]
    known = [(name, run.summary.get(name)) for name in names]
    if mapping(run.summary.get("stopped")):
        known.append(("ended early", rounds_words(run.summary)))
    if start := mapping(run.summary.get("start_from")).get("path"):
        known.append(("started from", start))
    facts = "".join(
        f"<li><span>{name}</span> {escape(bounded(value, 60))}</li>"
        for name, value in known
        if value is not None
    )
    return f'<ul class="facts">{facts}</ul>' if facts else ""


def _tiles(run: Run) -> list[str]:
    lead, final, best = Headline.of(run.summary), run.final, mapping(run.summary.get("best"))
    detection = mapping(run.summary.get("detection"))
    last = run.rounds[-1]["round"] if run.rounds else None
    tiles = [
        tile(
            f"final {lead.words}",
            lead.text(final.get(lead.name)),
            "" if last is None else f"after round {last}",
            "accuracy",
        ),
        tile(
            f"best {lead.words}",
            lead.text(best.get(lead.name)),
            f"in round {figure(best.get('round'))}" if best.get("round") is not None else "",
        ),
    ]
    if words := chosen_words(run.summary):
        kept = mapping(run.summary.get("best_model"))
        told = f"round {figure(kept.get('round'))}, chosen {words}"
        tiles.append(tile("best model kept", lead.text(kept.get(lead.name)), told))
    if (success := success_words({**run.summary, "final": final})) is not None:
        note = success[1].strip() or "of attacked inputs"
        tiles.append(tile("attack success", success[0], note, "attack"))
    if (outlived := lifespan_words(run.summary)) is not None:
        tiles.append(tile("outlived the attackers", *outlived, "attack"))
    if attacked(run.summary):
        rate = percent(detection.get("true_positive_rate"))
        tiles.append(tile("malicious rejected", rate, "mean over rounds", "caught"))
    rate = percent(detection.get("false_positive_rate"))
    tiles.append(tile("honest rejected", rate, "mean over rounds", "wronged"))
    each = run.summary.get("seconds_per_round")
    tiles.append(
        tile(
            "time",
            duration(run.summary.get("seconds")),
            "" if number(each) is None else f"{duration(each)} a round",
        )
    )
    if number(run.summary.get("peak_memory_bytes")) is not None:
        tiles.append(tile("peak memory", size(run.summary["peak_memory_bytes"])))
    return tiles


# --- figures ---------------------------------------------------------------------------------


ATTACKED = "of attacked inputs that got the attacker's answer"


def _meaning(lead: Headline) -> str:
    if lead.name == "accuracy":
        return "Share of test examples classified correctly"
    return f"On the test examples; {'higher' if lead.higher_is_better else 'lower'} is better"


def _course(run: Run) -> str:
    if not run.rounds:
        return '<p class="empty">No round was recorded.</p>'
    lead = Headline.of(run.summary)
    aimed = any(value is not None for value in run.series("attack_success_rate"))
    beside = aimed and lead.is_share
    course = figure_card(
        figures.headline_figure(run),
        f"{lead.title} and attack success" if beside else lead.title,
        _meaning(lead) + (f", and {ATTACKED}." if beside else "."),
        f"No {lead.words} was recorded.",
    )
    success = ""
    if aimed and not beside:
        drawing = figures.courses(run, [figures.SUCCESS])
        success = figure_card(drawing, "Attack success", f"Share {ATTACKED}.")
    detection = figure_card(
        figures.detection_figure(run),
        "Updates rejected",
        "Share of the malicious and of the honest clients' updates that got no weight.",
        "The run recorded no detection rates.",
    )
    loss = figure_card(
        figures.loss_figure(run), "Loss", "Mean loss of the global model on the test examples."
    )
    return (
        f'<div class="grid three">{course}{success}{detection}{loss}</div>'
        f"<details><summary>All rounds as a table</summary>{tables.rounds_table(run)}</details>"
    )


def _clients(run: Run) -> str:
    if not run.clients:
        return ""
    chart = figure_card(
        client_map_figure(run),
        "Who was rejected, who lied",
        "One row per client"
        + (", malicious ones on top beside the bar" if run.malicious else "")
        + "; one column per round. "
        "Point at a cell for the reason, drag to enlarge, double-click to go back.",
        key=map_key(run),
    )
    rows = tables.clients_table(run)
    replies = replies_tables(run)
    return f"{chart}{replies}<details><summary>All clients as a table</summary>{rows}</details>"


def _parties(run: Run) -> str:
    """Return a vertical run's curves; nothing for other runs, whose clients hold rows."""
    if run.summary.get("partition") not in ("strips", "columns"):
        return ""
    charts = "".join(
        figure_card(party_figure(run, name), title, caption)
        for name, (title, caption) in CURVES.items()
    )
    return f'<div class="grid">{charts}</div>' if charts else ""


def _scores(run: Run) -> str:
    pools = scores.pooled_scores(run)
    if not pools:
        return ""
    shown = list(pools.items())[: scores.MAX_SCORES]
    charts = "".join(
        figure_card(
            scores.score_figure(honest, malicious),
            bounded(name, 60),
            _separation(honest, malicious),
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
    recall = figure_card(
        figures.recall_figure(run),
        "Recall of each class",
        "Share of each class's test examples that the final model recognises.",
    )
    mistaken = figure_card(
        figures.confusion_figure(run),
        "What is taken for what",
        "Test examples by their class (rows) and what the final model takes them for (columns).",
    )
    of_each = " of each class" if figures.split_counts(run).shape[1] > 1 else ""
    split = figure_card(
        figures.split_figure(run),
        "How the data is divided",
        f"Training samples{of_each} held by each client."
        + (" ◆ marks malicious clients." if run.malicious else ""),
    )
    drawn = recall + mistaken + split
    return f'<div class="grid">{drawn}</div>' if drawn else ""


# --- words -----------------------------------------------------------------------------------


def _threat(run: Run) -> str:
    cards = "".join(
        tables.card(spoken(name), tables.value_html(value))
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
    remarks = tables.card("Notes", f"<ul>{listed}</ul>") if listed else ""
    versions = mapping(run.summary.get("versions"))
    built = tables.card("Versions", tables.definitions(versions)) if versions else ""
    traces = {
        "run directory": str(run.path.resolve()),
        "final model (SHA-256)": run.summary.get("model_sha256"),
    }
    origin = {name: value for name, value in traces.items() if value}
    files = tables.card("Files", tables.definitions(origin))
    return f'<div class="grid three">{remarks}{built}{files}</div>'


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
