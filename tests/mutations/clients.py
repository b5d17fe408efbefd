"""Faults in what clients do, each with the tests that must notice it."""

from __future__ import annotations

_LOCAL = "tests/clients/test_local_training.py"

_CONVOLUTIONS = "tests/clients/test_convolutions.py"

MUTATIONS: list[tuple[str, str, str, str]] = [
    (
        "fedguard/clients/conv.py",
        "            (not first, True, stage.bias is not None),",
        "            (True, True, False),",
        _CONVOLUTIONS,
    ),
    (
        "fedguard/clients/conv.py",
        "            d = _ops.threshold_backward.default(d, seen.out, 0)",
        "            pass",
        _CONVOLUTIONS,
    ),
    (
        "fedguard/clients/dense.py",
        "            value.mul_(1.0 - lr * decay)",
        "            value.mul_(1.0 - decay)",
        _CONVOLUTIONS,
    ),
    (
        "fedguard/clients/stages.py",
        "        apart = _pair(part.stride) == window and _pair(part.dilation) == (1, 1)",
        "        apart = _pair(part.dilation) == (1, 1)",
        _CONVOLUTIONS,
    ),
    (
        "fedguard/clients/stages.py",
        'if isinstance(part.padding, str) or part.padding_mode != "zeros":',
        "if isinstance(part.padding, str):",
        _CONVOLUTIONS,
    ),
    (
        "fedguard/clients/training.py",
        "        gradient.add_(vector, alpha=settings.weight_decay)",
        "        gradient.sub_(vector, alpha=settings.weight_decay)",
        _LOCAL,
    ),
    (
        "fedguard/clients/training.py",
        'stream = generator(self.seed, local.server_round, local.client, "batches")',
        'stream = generator(self.seed, 1, local.client, "batches")',
        _LOCAL,
    ),
    (
        "fedguard/clients/training.py",
        "memory=dict(self.memories.get(client, {})) if self.rule.remembers else {},",
        "memory=dict(self.memories.get(0, {})) if self.rule.remembers else {},",
        _LOCAL,
    ),
    (
        "fedguard/clients/training.py",
        "        return float(total / counted(len(own), settings.batch_size, self.least))",
        "        return float(total / settings.batch_size)",
        _LOCAL,
    ),
    (
        "fedguard/clients/batched.py",
        "        return same and trainer.rule.plain(config)",
        "        return trainer.rule.plain(config)",
        _LOCAL,
    ),
    (
        "fedguard/clients/batched.py",
        "        return same and trainer.rule.plain(config)",
        "        return same",
        _LOCAL,
    ),
    (
        "fedguard/clients/dense.py",
        "                below.mul_(h > 0)",
        "                below.mul_(h >= 0)",
        _LOCAL,
    ),
    (
        "fedguard/clients/dense.py",
        "beta=1.0 - lr * decay, alpha=-lr)",
        "beta=1.0 + lr * decay, alpha=-lr)",
        _LOCAL,
    ),
    (
        "fedguard/clients/vmap.py",
        "        torch._foreach_add_(values, gradients, alpha=-self.settings.lr)",
        "        torch._foreach_add_(values, gradients, alpha=-self.trainer.settings.lr)",
        _LOCAL,
    ),
    (
        "fedguard/clients/grouping.py",
        "    shares[-1] = counts / counted(size, batch, least)",
        "    shares[0] = counts / counted(size, batch, least)",
        _LOCAL,
    ),
    (
        "fedguard/clients/federation.py",
        'return attacking and client in self.malicious and "data" in self.attack.needs',
        'return client in self.malicious and "data" in self.attack.needs',
        "tests/clients/test_federation.py",
    ),
    (
        "fedguard/training/shaping.py",
        "        rise = self.focal * far.pow(self.focal - 1.0) * losses * torch.exp(-losses)",
        "        rise = self.focal * far.pow(self.focal - 1.0) * losses",
        "tests/clients/test_shaped_losses.py",
    ),
    (
        "fedguard/training/shaping.py",
        "        return (found / found.mean()).float()",
        "        return found.float()",
        "tests/clients/test_shaped_losses.py",
    ),
    (
        "fedguard/clients/grouping.py",
        "                scales[index, :count] = own_scales.cpu()[taken]",
        "                scales[index, :count] = own_scales.cpu()[0]",
        "tests/clients/test_shaped_losses.py",
    ),
    (
        "fedguard/clients/desk.py",
        "            mine.detach()",
        "            pass",
        "tests/clients/test_lost_clients.py",
    ),
    (
        "fedguard/clients/desk.py",
        "            self._watched = None\n            raise",
        "            raise",
        "tests/clients/test_lost_clients.py",
    ),
    (
        "fedguard/clients/executors.py",
        "                deltas[row].zero_()",
        "                pass",
        "tests/clients/test_lost_clients.py",
    ),
    (
        "fedguard/clients/watch.py",
        "            self._give_up()\n            raise ClientLateError",
        "            self.close()\n            raise ClientLateError",
        "tests/clients/test_lost_clients.py",
    ),
    (  # the server's rows are balanced where nobody asked for it
        "fedguard/clients/federation.py",
        "    if balanced:\n",
        "    if not balanced:\n",
        "tests/clients/test_federation.py",
    ),
    (
        "fedguard/clients/federation.py",
        "shift = torch.randint(1, classes,",
        "shift = torch.randint(0, 1,",
        "tests/clients/test_federation.py",
    ),
]
