"""Faults in what stands between a server and its clients, and who notices them."""

from __future__ import annotations

_GUARDED = "tests/grids/test_guarded.py"
_GUARD = "tests/grids/test_guard.py"

MUTATIONS: list[tuple[str, str, str, str]] = [
    (
        "fedguard/grids/guarded.py",
        "                    put_model(reply.content, layout, start + judged.delta)",
        "                    put_model(reply.content, layout, start - judged.delta)",
        _GUARDED,
    ),
    (
        "fedguard/grids/guarded.py",
        "            if node in judged.accepted and node not in kept:",
        "            if node not in kept:",
        _GUARDED,
    ),
    (
        "fedguard/grids/guarded.py",
        "            or (reply is first[node] and node not in odd)",
        "            or reply is first[node]",
        _GUARDED,
    ),
    (
        "fedguard/grids/guarded.py",
        "        keyed = 2 * sum(key in claim for claim in claims) > len(claims)",
        "        keyed = any(key in claim for claim in claims)",
        _GUARDED,
    ),
    (
        "fedguard/grids/reported.py",
        "if 2 * count > len(reported)]",
        "if 2 * count >= len(reported)]",
        _GUARDED,
    ),
    (
        "fedguard/grids/guarded_older.py",
        "            if node in odd or not 1 <= result.num_examples <= MAX_EXAMPLES:",
        "            if node in odd:",
        _GUARD,
    ),
    (
        "fedguard/grids/reported.py",
        "        least = max(least, middle / _REACH)\n",
        "        least = max(least, 0.0)\n",
        _GUARDED,
    ),
    (
        "fedguard/grids/judge.py",
        "            self._handles.setdefault(node, len(self._handles))",
        "            self._handles[node] = node",
        _GUARDED,
    ),
    (
        "fedguard/grids/judge.py",
        "    return float((mean - delta).abs().max()) <= 1e-5 * size",
        "    return True",
        _GUARDED,
    ),
    (
        "fedguard/grids/guarded_older.py",
        "                if judged.delta is not None:",
        "                if judged.delta is None:",
        _GUARD,
    ),
    (
        "fedguard/grids/guard.py",
        "        if is_older_app(self.inner):",
        "        if False:",
        _GUARD,
    ),
]
