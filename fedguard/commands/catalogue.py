"""The catalogue of parts as a document, generated from the registry.

python -m fedguard.commands.catalogue > docs/catalogue.md
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, Literal

from fedguard import registry
from fedguard.attacks.toolkit.survey import CHARACTERISTICS, LEFT_OUT, Tags
from fedguard.traits import traits_of

Room = Literal["horizontal", "vertical"]

_TITLES = {
    "strategy": "Strategies",
    "attack": "Attacks",
    "partition": "Splits",
    "dataset": "Data sets",
    "model": "Models",
    "task": "Tasks",
    "training": "Training rules",
    "pre": "Pre-aggregations",
    "repair": "Repairs",
    "audit": "Audits",
    "enrolment": "Enrolments",
}

_NEEDS = {
    "updates": "crafts updates",
    "data": "poisons data",
    "training": "changes local steps",
    "encoder": "a model with an encoder's file, nobody malicious",
    "images": "images only",
    "aggregate": "a copy of the deployed rule",
    "model": "reads the global model",
}


_LEAGUES = {"none": "no server data", "unlabelled": "unlabelled", "labelled": "labelled"}

_COSTS = Path(__file__).with_name("costs.json")


@cache
def costs() -> dict[str, float]:
    """Return measured processor seconds of a round, by strategy; see `benchmarks`."""
    found: dict[str, float] = json.loads(_COSTS.read_text(encoding="utf-8"))
    return found


def league(part: Any) -> str:
    """Return which data of the server a defence is ranked with."""
    return _LEAGUES[traits_of(part).server_data]


def summary(part: Callable[..., Any]) -> str:
    """Return the first sentence of a part's docstring, on one line."""
    text = inspect.getdoc(part) or ""
    return " ".join(text.split("\n\n")[0].split())


def paper(part: Callable[..., Any]) -> str:
    """Return the first paper that a docstring cites: authors if named, title, venue, year."""
    text = " ".join((inspect.getdoc(part) or "").split())
    found = re.search(
        r"([A-Z][\w\'’-]+(?: et al\.|(?:, [A-Z][\w\'’-]+)*(?:,? and [A-Z][\w\'’-]+)?)), "
        r'"([^"]+?),?",? ([^;]*?\b(?:19|20)\d\d)',
        text,
    )
    if found is not None:
        authors, title, venue = (group.strip(" ,") for group in found.groups())
        return f"{authors}, *{title}*, {venue}"
    found = re.search(r'"([^"]+?),?",? (arXiv[^;]*?\b(?:19|20)\d\d)\b', text)
    return f"*{found[1]}*, {found[2]}" if found else ""


def needs(kind: str, part: Any) -> str:
    """Return what a part asks for, made from what it declares."""
    if kind == "attack":
        return ", ".join(_NEEDS[need] for need in sorted(getattr(part, "needs", ()))) or "nothing"
    declared, wants = traits_of(part), []
    if "assumed_malicious" in registry.parameters(part):
        wants.append("an assumed bound")
    if declared.server_model:
        wants.append("a model")
    if declared.server_data != "none":
        wants.append(f"{declared.server_data} server data")
    if declared.history:
        wants.append("clients known from round to round")
    if declared.client_side:
        wants.append("clients with its other side")
    if declared.smallest_cohort > 1:
        wants.append(f"at least {declared.smallest_cohort} clients a round")
    return ", ".join(wants) or "nothing"


def _in_order(kind: str, room: Room, *, ranked: bool) -> list[str]:
    """Return a kind's parts by name; ranked ones league by league."""
    names = list(registry.names(kind, room))
    if not ranked:
        return names
    return sorted(names, key=lambda name: list(_LEAGUES.values()).index(league_of(kind, name)))


def league_of(kind: str, name: str) -> str:
    """Return the league of a registered part."""
    return league(registry.find(kind, name))


def section(kind: str, room: Room = "horizontal") -> str:
    """Return the table of one kind of part."""
    with_needs = kind in ("strategy", "attack", "repair", "audit") and room == "horizontal"
    ranked = kind == "strategy" and room == "horizontal"
    header = ["name", "what it does", *(["needs"] if with_needs else [])]
    header += [*(["league", "cost, s"] if ranked else []), "paper"]
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    for name in _in_order(kind, room, ranked=ranked):
        part = registry.find(kind, name)
        cells = [f"`{name}`", summary(part)]
        cells += [needs(kind, part)] if with_needs else []
        if ranked:
            cells += [league(part), f"{costs()[name]:g}" if name in costs() else "-"]
        cells.append(paper(part))
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    title = _TITLES[kind] if room == "horizontal" else f"Vertical {_TITLES[kind].lower()}"
    return f"## {title}\n\n" + "\n".join(lines)


def _tags(part: Any) -> Tags | None:
    tags: Tags | None = getattr(part, "tags", None)
    return tags


def coverage() -> str:
    """Return the attacks' classes in a survey of poisoning, and what has no part and why."""
    found = {name: _tags(registry.find("attack", name)) for name in registry.names("attack")}
    header = ["attack", *CHARACTERISTICS, "made by", "language models"]
    rows = []
    for name, tags in found.items():
        if tags is None:
            continue
        cells = [getattr(tags, one) for one in CHARACTERISTICS]
        rows.append([f"`{name}`", *cells, ", ".join(tags.by), ", ".join(tags.stages)])
    lines = ["| " + " | ".join(row) + " |" for row in [header, ["---"] * len(header), *rows]]
    left = [f"- {one}: {reason}" for one, reason in LEFT_OUT.items()]
    return "\n".join(
        [
            "## Attacks in the classes of a survey",
            "",
            "Zhao, Zhu, Jiao, Gao and Wu, *Data Poisoning in Deep Learning: A Survey*, arXiv "
            "2503.22759, 2025, has these seven characteristics; `model` among what is edited is a "
            "federation's own. Tags are of an attack's defaults, and our reading. Without a part:",
            "",
            *left,
            "",
            *lines,
        ]
    )


def catalogue() -> str:
    """Return the whole document."""
    head = (
        "# Catalogue\n\nGenerated by `python -m fedguard.commands.catalogue` from the parts "
        "themselves; `help()` of a class has the formula, the arguments and where it departs "
        "from the paper. A strategy's league is what the server lends it; its cost is processor "
        "seconds of one round of 50 clients and 1,000,000 parameters, by "
        "`python -m benchmarks.catalogue_costs`.\n"
    )
    vertical = [section(kind, "vertical") for kind in ("strategy", "attack")]
    sections = [*(section(kind) for kind in _TITLES), *vertical]
    return "\n".join([head, *(text + "\n" for text in [*sections, coverage()])])


if __name__ == "__main__":
    print(catalogue(), end="")
