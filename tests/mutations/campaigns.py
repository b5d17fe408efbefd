"""Faults of batteries and of the check for ground truth that their tests notice."""

from __future__ import annotations

MUTATIONS: list[tuple[str, str, str, str]] = [
    (
        "fedguard/campaigns/battery.py",
        'base = {**self.campaign["base"], **settings, **contender.fields}',
        'base = {**self.campaign["base"], **settings}',
        "tests/campaigns/test_battery.py",
    ),
    (
        "fedguard/campaigns/battery.py",
        'return traits_of(registry.find("strategy", self.strategy)).server_data',
        'return "none"',
        "tests/campaigns/test_battery.py",
    ),
    (
        "fedguard/campaigns/blindness.py",
        'float(record.outcome == "rejected")',
        'float(record.outcome == "failed")',
        "tests/campaigns/test_battery.py",
    ),
    (
        "fedguard/campaigns/blindness.py",
        "return float(inside.mean() - outside.mean())",
        "return float(outside.mean() - inside.mean())",
        "tests/campaigns/test_battery.py",
    ),
]
