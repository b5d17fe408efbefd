"""The report's section about unlearning: the model before the request, after it, recovered."""

from __future__ import annotations

import json
from collections.abc import Mapping
from html import escape
from typing import Any

import plotly.graph_objects as go

from fedguard.records.reader import Run, mapping, number, sequence
from fedguard.reporting import tables
from fedguard.reporting.figures import Line, axis, courses, share_axis, styled
from fedguard.reporting.page import figure_card
from fedguard.reporting.wording import figure, percent

PHASES = ("before", "after", "recovered", "relearned")

_MEASURES: Mapping[str, tuple[str, str]] = {
    "backdoor_success": ("backdoor success", "var(--attack)"),
    "forget_accuracy": ("accuracy on what is forgotten", "var(--wronged-line)"),
    "retain_accuracy": ("accuracy on the rest", "var(--caught)"),
    "test_accuracy": ("test accuracy", "var(--accuracy)"),
}
_COSTS = {
    "flops": "client operations",
    "bytes": "bytes",
    "link_seconds": "time on the link model",
    "seconds": "wall clock",
}


def unlearning_section(run: Run) -> str:
    """Return the section, an empty string for a run that was asked to forget nothing."""
    try:
        found = mapping(json.loads((run.path / "unlearning.json").read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return ""
    phases = {name: mapping(mapping(found.get("phases")).get(name)) for name in PHASES}
    known = {name: values for name, values in phases.items() if values}
    if not known and not sequence(found.get("refused")):
        return ""
    before_after = figure_card(
        phases_figure(known),
        "Before and after",
        "The same rows, measured before the request, right after it, after recovery without the "
        "forgotten data, and after further rounds, in which hidden memory would come back.",
        "No phase of the request was reached.",
    )
    course = figure_card(
        course_figure(run),
        "What is remembered, round by round",
        "Accuracy on what is to be forgotten and on the rest, from the request on.",
    )
    return (
        f'{_words(found)}<div class="grid">{before_after}{course}</div>'
        f'<div class="grid">{_membership(known)}{_cost_card(found)}</div>'
    )


def phases_figure(phases: Mapping[str, Mapping[str, Any]]) -> go.Figure | None:
    """Return bars of what was measured in every phase, None without any."""
    names = list(phases)
    traces = []
    for key, (title, colour) in _MEASURES.items():
        values = [number(phases[name].get(key)) for name in names]
        if any(value is not None for value in values):
            labels = ["" if value is None else percent(value) for value in values]
            traces.append(
                go.Bar(
                    x=names,
                    y=values,
                    name=title,
                    marker={"color": colour},
                    text=labels,
                    textposition="outside",
                    cliponaxis=False,
                    hovertemplate="%{y:.1%}",
                )
            )
    if not traces:
        return None
    return styled(
        go.Figure(traces),
        320,
        barmode="group",
        showlegend=True,
        xaxis=axis(),
        yaxis=share_axis(range=[0, 1.12]),
    )


def course_figure(run: Run) -> go.Figure | None:
    """Return accuracy on what is forgotten and on the rest over the rounds, None without any."""
    measures = {**_MEASURES, "attack_success_rate": _MEASURES["backdoor_success"]}
    keys = ("forget_accuracy", "retain_accuracy", "attack_success_rate")
    return courses(run, [Line(key, *measures[key]) for key in keys])


def _words(found: Mapping[str, Any]) -> str:
    done = [_request(mapping(request)) for request in sequence(found.get("requests"))]
    lines = [f"Forgotten by {found.get('method')}: {'; '.join(done)}." if done else ""]
    silenced = number(found.get("silenced_parameters"))
    if silenced:
        lines.append(f"{percent(silenced)} of the parameters were silenced for good.")
    lines += [
        f"Refused: {mapping(entry).get('reason')}." for entry in sequence(found.get("refused"))
    ]
    lines += [f"Note: {note}." for note in sequence(found.get("notes"))]
    return f'<p class="lead">{escape(" ".join(line for line in lines if line))}</p>'


def _request(request: Mapping[str, Any]) -> str:
    part = ""
    if request.get("label") is not None:
        part = f"the rows labelled {request['label']} of "
    if request.get("share") is not None:
        part = f"{percent(request['share'])} of the rows of "
    asked = " on the server's request" if request.get("requester") == "server" else ""
    return f"{part}client {request.get('client')} in round {request.get('round')}{asked}"


def _membership(phases: Mapping[str, Mapping[str, Any]]) -> str:
    rows = [
        [
            name,
            figure(values.get("membership_auc")),
            percent(values.get("membership_tpr")),
            percent(values.get("forget_accuracy")),
            percent(_worst(values)),
        ]
        for name, values in phases.items()
    ]
    if not rows:
        return ""
    head = ["", "AUC", "TPR at 1 % FPR", "forget accuracy", "worst client"]
    caption = "0.5 is guessing: nothing tells the forgotten rows from unseen ones."
    return tables.card(
        "Membership inference on what is forgotten",
        f'<p class="caption">{caption}</p>{tables.table(head, rows, words=[0])}',
    )


def _worst(values: Mapping[str, Any]) -> float | None:
    shares = [number(share) for share in mapping(values.get("clients")).values()]
    known = [share for share in shares if share is not None]
    return min(known, default=None)


def _cost_card(found: Mapping[str, Any]) -> str:
    ratios = mapping(mapping(found.get("costs")).get("ratios"))
    relearn = mapping(found.get("relearn"))
    lines = {
        title: percent(ratios[key])
        for key, title in _COSTS.items()
        if number(ratios.get(key)) is not None
    }
    epochs = relearn.get("epochs")
    if relearn:
        lines["epochs to relearn what was forgotten"] = "> 10" if epochs is None else str(epochs)
        fresh = relearn.get("epochs_of_a_fresh_model")
        lines["epochs for a fresh model"] = "> 10" if fresh is None else str(fresh)
    if not lines:
        return ""
    return tables.card("Cost, as a share of repeating the rounds before", tables.definitions(lines))
