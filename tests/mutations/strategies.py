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
        f"{_S}/toolkit/two_views.py",
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
    (
        f"{_S}/alignins.py",
        "keep = ~(far[0] | far[1])",
        "keep = ~(far[0] & far[1])",
        f"{_T}/test_alignins.py",
    ),
    (
        f"{_S}/alignins.py",
        "agreeing += ((block.sign() == elected[columns]) & large).sum(dim=1)",
        "agreeing += (block.sign() == elected[columns]).sum(dim=1)",
        f"{_T}/test_alignins.py",
    ),
    (
        f"{_S}/alignins.py",
        "bound = median(norms[keep]) if",
        "bound = median(norms) if",
        f"{_T}/test_alignins.py",
    ),
    (
        f"{_S}/foundationfl.py",
        "torch.minimum(row_norms(rows, high), row_norms(rows, low))",
        "torch.maximum(row_norms(rows, high), row_norms(rows, low))",
        f"{_T}/test_foundationfl.py",
    ),
    (
        f"{_S}/foundationfl.py",
        "copies = int(self.synthetic_share * count)",
        "copies = count",
        f"{_T}/test_foundationfl.py",
    ),
    (
        f"{_S}/foundationfl.py",
        "each = max(copies // len(best), 1) if copies else 0",
        "each = copies",
        f"{_T}/test_foundationfl.py",
    ),
    (
        f"{_S}/fedseca.py",
        "concordances.sign().mean(dim=1).clamp(min=0.0)",
        "concordances.mean(dim=1).clamp(min=0.0)",
        f"{_T}/test_fedseca.py",
    ),
    (
        f"{_S}/fedseca.py",
        "sizes = torch.minimum(rows[:, at].abs() * factors, caps[at])",
        "sizes = rows[:, at].abs() * factors",
        f"{_T}/test_fedseca.py",
    ),
    (
        f"{_S}/fedseca.py",
        "if bool((found > 0).any()) else torch.ones_like(found)",
        "if len(found) else found",
        f"{_T}/test_fedseca.py",
    ),
    (
        f"{_S}/fedrdf.py",
        "damping = 1.0 - m / (harmonics + 1)",
        "damping = 1.0",
        f"{_T}/test_fedrdf.py",
    ),
    (
        f"{_S}/fedrdf.py",
        "density.masked_fill_(~inside, -math.inf)",
        "pass",
        f"{_T}/test_fedrdf.py",
    ),
    (
        f"{_S}/fedrdf.py",
        "return torch.where(reach > 0, value, centre)",
        "return value",
        f"{_T}/test_fedrdf.py",
    ),
    (
        f"{_S}/bnguard.py",
        "keep = labels == int(sizes.argmax())",
        "keep = labels == int(sizes.argmin())",
        f"{_T}/test_bnguard.py",
    ),
    (
        f"{_S}/bnguard.py",
        "if int(sizes[0]) != int(sizes[1]):",
        "if True:",
        f"{_T}/test_bnguard.py",
    ),
    (
        f"{_S}/bnguard.py",
        "if first_batch_norm(layout) is None:",
        "if False:",
        f"{_T}/test_bnguard.py",
    ),
    (
        f"{_S}/hammer_anvil.py",
        "change *= clip_factors(row_norms(change[None, :]), bound).to(change.dtype)",
        "pass",
        f"{_T}/test_hammer_anvil.py",
    ),
    (
        f"{_S}/hammer_anvil.py",
        "turn = 2.0 * math.pi * cycles",
        "turn = math.pi * cycles",
        f"{_T}/test_hammer_anvil.py",
    ),
    (
        f"{_S}/hammer_anvil.py",
        "start = updates.global_vector + delta",
        "start = updates.global_vector",
        f"{_T}/test_hammer_anvil.py",
    ),
    (
        f"{_S}/backdoor_indicator.py",
        "loss + 0.5 * self.proximity * pull",
        "loss",
        f"{_T}/test_backdoor_indicator.py",
    ),
    (
        f"{_S}/backdoor_indicator.py",
        "predicted = tools.model(x).argmax(dim=1)",
        "predicted = y",
        f"{_T}/test_backdoor_indicator.py",
    ),
    (
        f"{_S}/backdoor_indicator.py",
        "float(taken[own].double().mean() - others)",
        "float(taken[own].double().mean())",
        f"{_T}/test_backdoor_indicator.py",
    ),
]
