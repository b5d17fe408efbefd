"""Faults in the audit of somebody's app, and who notices them."""

from __future__ import annotations

_FIELD = "tests/auditing/test_field.py"
_REPORTS = "tests/auditing/test_audit_reports.py"
_COURSE = "tests/auditing/test_audit_course.py"
_COMMAND = "tests/auditing/test_audit_command.py"

MUTATIONS: list[tuple[str, str, str, str]] = [
    (
        "fedguard/auditing/field.py",
        "self._stale.setdefault(node, copy_of(reply).content)",
        "self._stale.setdefault(node, reply.content)",
        _FIELD,
    ),
    (
        "fedguard/auditing/field.py",
        "[copy_of(reply) for reply in mine for _ in range(_COPIES - 1)]",
        "[reply for reply in mine for _ in range(_COPIES - 1)]",
        _FIELD,
    ),
    (
        "fedguard/auditing/field.py",
        "            self.applied += sum(threat.spoil(reply.content) for reply in mine)",
        "            self.applied += sum(threat.spoil(reply.content) or 1 for reply in mine)",
        _FIELD,
    ),
    (
        "fedguard/auditing/hook.py",
        "        found[x], found[y] = _changed(items[x], items[y], mode)\n        count()",
        "        found[x], found[y] = _changed(items[x], items[y], mode)",
        _REPORTS,
    ),
    (
        "fedguard/auditing/found.py",
        "if row.verdict != UNREACHED), default=None)",
        "if row.verdict != UNREACHED), default=1.0)",
        _REPORTS,
    ),
    (
        "fedguard/auditing/verdict.py",
        "(gained > 0 if found.higher else gained < 0) and found.spread < 0.5",
        "(gained > 0 if found.higher else gained < 0)",
        _REPORTS,
    ),
    (
        "fedguard/auditing/audit.py",
        "    kept = (row.kept + other.kept) / 2.0",
        "    kept = row.kept",
        _COURSE,
    ),
    (
        "fedguard/auditing/audit.py",
        "        for _ in RULES:  # who falls to the rest makes room for the next best",
        "        for _ in RULES[:1]:",
        _COURSE,
    ),
    (
        "fedguard/auditing/pipelines.py",
        "row.verdict != UNREACHED and row.cell.malicious <= most",
        "row.verdict != UNREACHED",
        _REPORTS,
    ),
    (
        "fedguard/commands/audit.py",
        '        shutil.rmtree(folder / "cells", ignore_errors=True)\n',
        "",
        _COMMAND,
    ),
]
