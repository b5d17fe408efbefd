"""Faults in the audit of somebody's own app, and who notices them."""

from __future__ import annotations

_REPORTS = "tests/auditing/test_audit_reports.py"
_APPS = "tests/auditing/test_audited_apps.py"

MUTATIONS: list[tuple[str, str, str, str]] = [
    (
        "fedguard/auditing/verdict.py",
        "    if kept < BROKEN_BELOW:",
        "    if kept <= 0.0:",
        _REPORTS,
    ),
    (
        "fedguard/auditing/verdict.py",
        '    if not outcome["applied"]:',
        "    if False:",
        _REPORTS,
    ),
    (
        "fedguard/auditing/hook.py",
        "    data = x.clone() if tensor else np.array(x)",
        "    data = x",
        _REPORTS,
    ),
    (
        "fedguard/auditing/audit.py",
        "        good = [remedy for remedy in self.remedies if remedy.stands]",
        "        good = self.remedies",
        _REPORTS,
    ),
    (
        "fedguard/auditing/field.py",
        "            self.waited += TIME_TO_LIVE if timeout is None else timeout",
        "            self.waited += timeout or 0.0",
        _APPS,
    ),
    (
        "fedguard/auditing/cell.py",
        "    server = guard(cell.rule, **cell.arguments)(apps[0]) if cell.rule else apps[0]",
        "    server = apps[0]",
        _APPS,
    ),
]
