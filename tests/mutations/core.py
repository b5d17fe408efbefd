"""Faults in rules, tasks, repairs, audits, enrolment, nodes and runs, and who notices them."""

from __future__ import annotations

_RULES = "tests/training/test_rules.py"
_TASKS = "tests/tasks/test_tasks.py"
_TALLIES = "tests/runs/test_tallies.py"
_TENDING = "tests/runs/test_tending.py"
_ROSTER = "tests/enrolment/test_roster.py"
_MEMORY = "tests/runs/test_kept_memories.py"

MUTATIONS: list[tuple[str, str, str, str]] = [
    (
        "fedguard/training/adam.py",
        "        scale = (v / (1.0 - self.beta2**count)).sqrt_().add_(self.eps)",
        "        scale = (v / (1.0 - self.beta2**count)).add_(self.eps).sqrt_()",
        _RULES,
    ),
    (
        "fedguard/training/sgd.py",
        "        done = max(server_round - 1, 0)",
        "        done = max(server_round, 0)",
        _RULES,
    ),
    (
        "fedguard/training/sgd.py",
        "local.gradient.add_(local.vector - local.start, alpha=mu)",
        "local.gradient.add_(local.start - local.vector, alpha=mu)",
        _RULES,
    ),
    (
        "fedguard/training/fedprox.py",
        "return proximal_weight(config) if PROXIMAL_KEY in config else self.mu",
        "return proximal_weight(config) or self.mu",
        _RULES,
    ),
    (
        "fedguard/tasks/next_word.py",
        "        return figures(total, hits, y.numel())",
        "        return figures(total, hits, len(y))",
        _TASKS,
    ),
    (
        "fedguard/repairs/finetune.py",
        "            layout.load(tools.model, before)\n",
        "",
        "tests/repairs/test_finetune.py",
    ),
    (
        "fedguard/enrolment/roster.py",
        "        seen.add(client)\n",
        "",
        _ROSTER,
    ),
    (
        "fedguard/enrolment/roster.py",
        "        if told[_ROUND:] != digest:",
        "        if not told[_ROUND:]:",
        _ROSTER,
    ),
    (
        "fedguard/runs/tally.py",
        '    answered = [node for node, what in became.items() if what != "failed"]',
        "    answered = list(became)",
        _TALLIES,
    ),
    (
        "fedguard/runs/tally.py",
        '        found[node] = "accepted" if weight > 0 else "rejected"',
        '        found[node] = "accepted" if weight >= 0 else "rejected"',
        _TALLIES,
    ),
    (
        "fedguard/grids/history.py",
        "        self._models.setdefault(server_round, vector.detach().cpu())",
        "        self._models[server_round] = vector.detach().cpu()",
        _TALLIES,
    ),
    (
        "fedguard/runs/observed.py",
        "        arrays = self._in_form(current, arrays)\n",
        "",
        _TALLIES,
    ),
    (
        "fedguard/runs/tending.py",
        "        self.scene.model.load(vector.to(self.scene.device))\n",
        "",
        _TENDING,
    ),
    (
        "fedguard/config/repair_times.py",
        "        return server_round == rounds or (self.every",
        "        return (self.every",
        _TENDING,
    ),
    (
        "fedguard/records/writer.py",
        "BY_ROUND = (ROUNDS, CLIENTS, REPAIRS, AUDITS, FAIRNESS)",
        "BY_ROUND = (ROUNDS, CLIENTS, REPAIRS, FAIRNESS)",
        _TENDING,
    ),
    (
        "fedguard/runs/memories.py",
        "        trainer.memories = of_state(checkpoint.client_state)\n",
        "        of_state(checkpoint.client_state)\n",
        _MEMORY,
    ),
    (
        "fedguard/nodes/memory.py",
        "        context.state[MEMORY] = given\n",
        "        pass\n",
        _MEMORY,
    ),
    (
        "fedguard/grids/flower.py",
        "            if not reply.has_error():\n",
        "            if True:\n",
        "tests/grids/test_flower.py",
    ),
    (
        "fedguard/grids/flower.py",
        "            if node not in self._claims and time.monotonic() >= until[node]:",
        "            if node not in self._claims:",
        "tests/grids/test_flower.py",
    ),
    (
        "fedguard/grids/flower.py",
        "            if node in self._claims and node not in self._client_of:",
        "            if node not in self._client_of:",
        "tests/grids/test_flower.py",
    ),
    (
        "fedguard/grids/flower.py",
        "                self._claims.pop(node, None)\n                self._refused",
        "                self._refused",
        "tests/grids/test_flower.py",
    ),
    (
        "fedguard/strategies/toolkit/products.py",
        "    return (left * right).sum(dim=(2, 3))",
        "    return (left * right.transpose(2, 3)).sum(dim=(2, 3))",
        "tests/strategies/test_lora.py",
    ),
    (
        "fedguard/strategies/toolkit/products.py",
        "whole = updates.global_vector[start:end].double() + updates",
        "whole = updates",
        "tests/strategies/test_lora.py",
    ),
    (
        "fedguard/audits/semantics.py",
        "        flags += bool(peers) and sure",
        "        flags += sure",
        "tests/audits/test_raven.py",
    ),
]
