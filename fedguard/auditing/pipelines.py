"""An audit for pipelines: JSON, JUnit XML and SARIF."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from fedguard.auditing.found import REFERENCE, Found, Row, count_of
from fedguard.auditing.threats import BY_NAME
from fedguard.auditing.verdict import BROKEN, HARMED, HELD_UP, UNREACHED
from fedguard.auditing.words import remedy_sentence, verdict_sentence
from fedguard.records.writer import jsonable, write_atomically

_LEVELS = {BROKEN: "error", HARMED: "warning", HELD_UP: "warning"}


def plain(found: Found) -> dict[str, Any]:
    """Return the audit as one JSON object."""
    best = found.recommended
    return {
        "app": found.project.name,
        "verdict": found.verdict,
        "sentence": verdict_sentence(found),
        "worst_kept": _rounded(found.worst()),
        "worst_kept_anywhere": _rounded(found.worst(1.0)),
        "headline": {
            "name": found.headline.name,
            "peace": found.headline.peace,
            "untrained": found.headline.untrained,
            "spread": found.headline.spread,
        },
        "clients": found.project.clients,
        "config": found.project.config,
        "cells": [row.plain() for row in found.rows],
        "remedies": [
            {
                "rule": remedy.rule,
                "arguments": remedy.arguments,
                "peace": round(remedy.peace, 4),
                "worst": round(remedy.worst, 4),
                "worst_threat": remedy.worst_threat,
                "threats": remedy.tried,
            }
            for remedy in found.remedies
        ],
        "recommended": None if best is None else {"rule": best.rule, "paste": found.paste()},
        "remedy": remedy_sentence(found),
        "untried": found.untried,
        "seconds": round(found.seconds, 1),
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def write_json(path: Path, found: Found) -> None:
    """Write the audit as JSON."""
    text = json.dumps(jsonable(plain(found)), indent=2, ensure_ascii=False, default=str)
    write_atomically(path, text.encode() + b"\n")


def write_junit(path: Path, found: Found, fail_below: float) -> None:
    """Write a test case for each cell of the app as it is; it fails below a share that is kept.

    As with ``--fail-below``, cells with more than a fifth of the clients cannot fail. What was not
    tried is skipped.
    """
    rows = found.unguarded()
    most = count_of(REFERENCE, found.project.clients)
    failed = [row for row in rows if failing(row, fail_below, most)]
    suite = ElementTree.Element(
        "testsuite",
        name=f"fedguard audit of {found.project.name}",
        tests=str(len(rows) + len(found.untried)),
        failures=str(len(failed)),
        time=f"{found.seconds:.1f}",
    )
    for row in rows:
        name = f"{row.cell.threat}, {row.cell.malicious} of {found.project.clients}"
        case = ElementTree.SubElement(
            suite, "testcase", classname=found.project.name, name=f"{name}, seed {row.cell.seed}"
        )
        if row.verdict == UNREACHED:
            ElementTree.SubElement(case, "skipped", message=row.reason)
        elif failing(row, fail_below, most):
            message = f"{row.verdict}: {min(row.kept, 1.0):.0%} kept; {row.reason}"
            ElementTree.SubElement(case, "failure", message=_clean(message))
    for name, reason in found.untried.items():
        case = ElementTree.SubElement(suite, "testcase", classname=found.project.name, name=name)
        ElementTree.SubElement(case, "skipped", message=_clean(reason))
    write_atomically(path, ElementTree.tostring(suite, encoding="utf-8", xml_declaration=True))


def failing(row: Row, fail_below: float, most: int) -> bool:
    """Return whether a cell with at most so many malicious clients keeps too little."""
    reached = row.verdict != UNREACHED and row.cell.malicious <= most
    return reached and row.kept < fail_below


def write_sarif(path: Path, found: Found) -> None:
    """Write the findings about the app as it is in SARIF 2.1.0, at the server's file."""
    where = found.project.server.partition(":")[0].replace(".", "/") + ".py"
    place = {"physicalLocation": {"artifactLocation": {"uri": where}}}
    rows = [row for row in found.unguarded() if row.verdict in _LEVELS]
    rules = sorted({row.cell.threat for row in rows})
    results = [
        {
            "ruleId": row.cell.threat,
            "level": _LEVELS[row.verdict],
            "message": {
                "text": f"{row.cell.malicious} of {found.project.clients} clients, each of which "
                f"{BY_NAME[row.cell.threat].words}: {row.verdict}; {row.reason}"
            },
            "locations": [place],
        }
        for row in rows
    ]
    tool = {"driver": {"name": "fedguard audit", "rules": [{"id": name} for name in rules]}}
    log = {
        "version": "2.1.0",
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "runs": [{"tool": tool, "results": results}],
    }
    write_atomically(path, json.dumps(log, indent=2).encode() + b"\n")


def _clean(text: str) -> str:
    """Return text without what XML cannot hold."""
    return "".join(c for c in text if c.isprintable())
