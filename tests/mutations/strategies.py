"""Faults that the strategies' tests must notice: file, what stands there, the fault, the tests."""

from __future__ import annotations

_S = "fedguard/strategies"
_T = "tests/strategies"

MUTATIONS: list[tuple[str, str, str, str]] = [
    (
        f"{_S}/foolsgold.py",
        "others = cosine.clamp(min=0.0).fill_diagonal_(0.0)",
        "others = cosine.clone().fill_diagonal_(-1.0)",
        f"{_T}/test_foolsgold.py",
    ),
    (
        f"{_S}/toolkit/spectra.py",
        "float((root[:, None] * squared * root[None, :]).max())",
        "float(squared.max())",
        f"{_T}/test_caf.py {_T}/test_smea.py",
    ),
    (
        f"{_S}/geometric_median.py",
        "nearest = max(smoothing * float(median(gram.diagonal().sqrt())), _NOWHERE)",
        "nearest = smoothing",
        f"{_T}/test_geometric_median.py",
    ),
    (
        f"{_S}/toolkit/density.py",
        "wide.max().clamp(min=1e-300, max=_FURTHEST)",
        "wide.max().clamp(min=1e-300)",
        f"{_T}/test_density.py",
    ),
    (
        f"{_S}/toolkit/verification.py",
        "            self._search_backdoor(shares)\n",
        "            pass\n",
        f"{_T}/test_verification.py",
    ),
    (
        f"{_S}/toolkit/verification.py",
        "pruned = self._prune(shares, effect, self.trigger_margin, teach)",
        "pruned = self._prune(shares, effect, self.trigger_margin, ~teach)",
        f"{_T}/test_verification.py",
    ),
    (
        f"{_S}/toolkit/verification.py",
        "return clip_factors(norms, typical * self.state.reach)",
        "return torch.ones_like(norms)",
        f"{_T}/test_verification.py",
    ),
    (
        f"{_S}/geminiguard.py",
        "factors = clip_factors(state.norms, limit * state.reach) if limit > 0.0 else None",
        "factors = None",
        f"{_T}/test_verification.py",
    ),
    (
        f"{_S}/geminiguard.py",
        "            if float(trust[row]) < floor:\n",
        "            if False:\n",
        f"{_T}/test_geminiguard.py",
    ),
    (
        f"{_S}/weidetect.py",
        "removed = gone | self._confirmed(too_low, forgets, finite, averaging)",
        "removed = gone",
        f"{_T}/test_weidetect.py",
    ),
    (
        f"{_S}/weidetect.py",
        "if recall[row, label] < recall[0, label] - self.tolerance:",
        "if recall[row, label] < recall[0, label] + self.tolerance:",
        f"{_T}/test_weidetect.py",
    ),
    (
        f"{_S}/pre_aggregation/chain.py",
        "            shares = step @ shares\n",
        "            shares = step\n",
        f"{_T}/test_pre_chain.py",
    ),
    (
        f"{_S}/pre_aggregation/base.py",
        "matrix @ source.matrix.to(matrix)",
        "matrix",
        f"{_T}/test_pre_chain.py",
    ),
]
