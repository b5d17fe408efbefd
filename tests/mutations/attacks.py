"""Faults that the tests of attacks and of the conformance suite must notice."""

from __future__ import annotations

_A = "fedguard/attacks"
_C = "fedguard/testing"

MUTATIONS: list[tuple[str, str, str, str]] = [
    (
        f"{_A}/neurotoxin.py",
        "            _hold(step, masks)\n",
        "            pass\n",
        "tests/attacks/test_training_attacks.py",
    ),
    (
        f"{_A}/base.py",
        "for need in sorted(set(cls.needs) - NEEDS):",
        "for need in sorted(NEEDS - NEEDS):",
        "tests/attacks/test_base.py",
    ),
    (
        f"{_A}/base.py",
        "return int(row[target]) / total if total else None",
        "return int(row[source]) / total if total else None",
        "tests/attacks/test_base.py",
    ),
    (
        f"{_A}/label_flip.py",
        "return torch.where(y < 0, y, self._other(y, rng))",
        "return self._other(y, rng)",
        "tests/attacks/test_label_flip.py",
    ),
    (
        f"{_A}/toolkit/rehearsal.py",
        "lambda tried: norm(rehearse(vector(tried)) - rehearse.mean), largest, evaluations",
        "lambda tried: -norm(rehearse(vector(tried)) - rehearse.mean), largest, evaluations",
        "tests/attacks/test_adaptive.py",
    ),
    (
        f"{_C}/outcome.py",
        "            failed += [",
        "            failed = [",
        "tests/testing/test_outcome.py",
    ),
    (
        f"{_C}/parameters.py",
        'raise AssertionError("accepted; raise a ConfigurationError")',
        "continue",
        "tests/testing/test_parameters.py",
    ),
    (
        f"{_C}/robustness.py",
        "assert gap <= allowed,",
        "assert gap <= 1e6 * allowed,",
        "tests/testing/test_strategies.py",
    ),
    (
        f"{_C}/attacks.py",
        "assert not own or need in needs,",
        "assert own or need in needs or True,",
        "tests/testing/test_attacks.py",
    ),
]
