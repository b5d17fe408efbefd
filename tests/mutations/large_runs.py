"""Faults in what large runs rest on: updates in a file, lost nodes, a million clients."""

from __future__ import annotations

_ROOM = "tests/grids/test_update_room.py"
_NODES = "tests/nodes/test_ray_nodes.py"
_SPREAD = "tests/nodes/test_spread.py"
_SCALE = "tests/test_scale.py"
_PARTITIONS = "tests/data/test_partitions.py"

MUTATIONS: list[tuple[str, str, str, str]] = [
    (
        "fedguard/update_store.py",
        "torch.maximum(-low, high).cpu()",
        "high.cpu()",
        _ROOM,
    ),
    (
        "fedguard/update_store.py",
        "if self._generation != self._store.generation:",
        "if self._generation > self._store.generation:",
        _ROOM,
    ),
    (
        "fedguard/update_store.py",
        "            self.read(rows, first + start, room)",
        "            self.read(rows, start, room)",
        _ROOM,
    ),
    (
        "fedguard/grids/update_room.py",
        "{row + by: why for row, why in failed}",
        "{row: why for row, why in failed}",
        _ROOM,
    ),
    (
        "fedguard/grids/faulty.py",
        "            replies.deltas[row] = own  # a row that lies in a file was read from it\n",
        "",
        _ROOM,
    ),
    (
        "fedguard/assembly/stored_updates.py",
        '    wanted = ("columns",) if config.pre else ("rows", "columns")',
        '    wanted = ("rows", "columns")',
        _ROOM,
    ),
    (
        "fedguard/nodes/ray.py",
        "        new = min(len(lost), max(self._places() - left, 0 if left else 1))",
        "        new = len(lost)",
        _NODES,
    ),
    (
        "fedguard/nodes/spread.py",
        "            for row, values in written.items():\n",
        "            for row, values in ():\n",
        _SPREAD,
    ),
    (
        "fedguard/nodes/spread.py",
        "(slab, low, high, task(slice(low - first, high - first)))",
        "(slab, low, high, task(slice(low, high)))",
        _SPREAD,
    ),
    (
        "fedguard/nodes/spread.py",
        "            whole[list(own)] = torch.tensor(part)",
        "            whole[: len(own)] = torch.tensor(part)",
        _SPREAD,
    ),
    (
        "fedguard/strategies/toolkit/mixture.py",
        "        if isinstance(self.rows, Tensor):\n            for at, block in self.blocks():\n",
        "        if True:\n            for at, block in self.blocks():\n",
        _SPREAD,
    ),
    (
        "fedguard/grids/veil.py",
        "        if clients != self._known[0]:",
        "        if not self._known[1]:",
        _SCALE,
    ),
    (
        "fedguard/data/partitions/base.py",
        "    most = int(rows.max(initial=0)) + 1\n",
        "    most = int(rows.max(initial=1))\n",
        _PARTITIONS,
    ),
]
