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
    (
        f"{_A}/poisonedfl.py",
        "gaps -= sent.to(torch.float64) * (length / norm(sent))",
        "pass",
        "tests/attacks/test_poisonedfl.py",
    ),
    (
        f"{_A}/poisonedfl.py",
        "if moved <= binom.ppf(_QUANTILE, len(signs), 0.5):",
        "if moved >= binom.ppf(_QUANTILE, len(signs), 0.5):",
        "tests/attacks/test_poisonedfl.py",
    ),
    (
        f"{_A}/poisonedfl.py",
        "max(self.decay * factor, min(self.floor, factor))",
        "self.decay * factor",
        "tests/attacks/test_poisonedfl.py",
    ),
    (
        f"{_A}/xfed.py",
        "[*self._norms, norm(change)][-self.window :]",
        "[*self._norms, norm(change)]",
        "tests/attacks/test_xfed.py",
    ),
    (
        f"{_A}/xfed.py",
        "return send(coalition, -rows *",
        "return send(coalition, rows *",
        "tests/attacks/test_xfed.py",
    ),
    (
        f"{_A}/dpot.py",
        "slope.flatten().argsort(descending=True, stable=True)",
        "slope.flatten().argsort(stable=True)",
        "tests/attacks/test_dpot.py",
    ),
    (
        f"{_A}/dpot.py",
        "colours - self.step_size * slope.sign()",
        "colours + self.step_size * slope.sign()",
        "tests/attacks/test_dpot.py",
    ),
    (
        f"{_A}/dpot.py",
        "        self._found = None\n        if not len(x):",
        "        if not len(x):",
        "tests/attacks/test_dpot.py",
    ),
    (
        f"{_A}/layer_poisoning.py",
        "key=lambda each: (left[each], names.index(each))",
        "key=lambda each: (-left[each], names.index(each))",
        "tests/attacks/test_layer_poisoning.py",
    ),
    (
        f"{_A}/layer_poisoning.py",
        ">= self.tau * whole:",
        ">= 0.0:",
        "tests/attacks/test_layer_poisoning.py",
    ),
    (
        f"{_A}/layer_poisoning.py",
        "torch.where(self._mask.to(rows.device), planted, rows)",
        "torch.where(self._mask.to(rows.device), rows, planted)",
        "tests/attacks/test_layer_poisoning.py",
    ),
    (
        f"{_A}/soda.py",
        "self.distance * gap + self.alignment * (1.0 - cosine)",
        "0.0 * gap",
        "tests/attacks/test_soda.py",
    ),
    (
        f"{_A}/soda.py",
        "return 1.0 - x.flip(-2)",
        "return x.flip(-2)",
        "tests/attacks/test_soda.py",
    ),
    (
        f"{_A}/sybils.py",
        "if self.noise > 0.0 and row != first:",
        "if self.noise > 0.0:",
        "tests/attacks/test_participation.py",
    ),
    (
        f"{_A}/sybils.py",
        'generator(0, 0, node, "sybil disguise")',
        'generator(0, 0, row, "sybil disguise")',
        "tests/attacks/test_participation.py",
    ),
    (
        f"{_A}/copycat.py",
        'if self.source == "peer" and knowledge.scope == "full":',
        'if self.source == "peer":',
        "tests/attacks/test_participation.py",
    ),
    (
        f"{_A}/toolkit/schedule.py",
        "server_round < max(self.first, self.join)",
        "server_round < self.first",
        "tests/attacks/test_participation.py",
    ),
    (
        f"{_C}/robustness.py",
        "assert 2 * kept >= len(updates)",
        "assert kept >= 0",
        "tests/testing/test_strategies.py",
    ),
    (
        "fedguard/runs/horizontal.py",
        "attack_state=self.attack.state(),",
        "",
        "tests/runs/test_attack_memory.py",
    ),
    (
        "fedguard/runs/horizontal.py",
        "self.previous = self.vector if sent is None else sent",
        "self.previous = self.vector",
        "tests/runs/test_attack_memory.py",
    ),
    (
        "fedguard/attacks/disguised.py",
        "        drawn -= drawn.mean(dim=0)\n",
        "",
        "tests/attacks/test_disguised.py",
    ),
    (
        "fedguard/attacks/disguised.py",
        "+= self.noise * length * drawn",
        "+= 0.0 * length * drawn",
        "tests/attacks/test_disguised.py",
    ),
    (  # success is measured over users who have met the item too
        "fedguard/attacks/toolkit/fake_users.py",
        "fresh[places[items == self.target]] = False",
        "fresh[places[:0]] = False",
        "tests/attacks/test_fake_users.py",
    ),
    (  # a fake may repeat an item
        "fedguard/attacks/ddsp.py",
        "            scores[items] = -torch.inf",
        "            pass",
        "tests/attacks/test_fake_users.py",
    ),
    (  # the degrees do not follow an edited edge
        "fedguard/attacks/toolkit/edge_gradients.py",
        "lost = 0.5 * share / degree",
        "lost = 0.0 * share / degree",
        "tests/attacks/test_edge_edits.py",
    ),
    (  # the pairs that are measured are edited themselves
        "fedguard/attacks/toolkit/edge_edits.py",
        "taken = torch.cat([codes(own.edges, own.size), codes(attacked, own.size)])",
        "taken = codes(own.edges, own.size)",
        "tests/attacks/test_edge_edits.py",
    ),
]
