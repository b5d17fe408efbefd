"""Faults that somebody could make in the room `encryption`, and the tests that must notice."""

from __future__ import annotations

_CLIENT = "fedguard/encryption/protocol/client.py"
_LEDGER = "fedguard/encryption/protocol/ledger.py"
_SHARED = "fedguard/encryption/protocol/shared_key.py"
_SERVER = "fedguard/encryption/protocol/server.py"
_ONE_OPENING = "tests/encryption/test_one_opening.py"
_LYING = "tests/encryption/test_lying_clients.py"

MUTATIONS: list[tuple[str, str, str, str]] = [
    (  # an update is encrypted for any later round
        _LEDGER,
        "        if training.server_round != server_round:\n",
        "        if training.server_round > server_round:\n",
        "tests/encryption/test_ledger.py",
    ),
    (  # a model that came before is trained from again for another cohort
        _LEDGER,
        "if model == training.model and (once or other != cohort):",
        "if model == training.model and once and other != cohort:",
        "tests/encryption/test_ledger.py",
    ),
    (  # a round that may have been opened is opened again
        _LEDGER,
        "        if server_round <= self.latest:\n",
        "        if server_round < self.latest:\n",
        "tests/encryption/test_ledger.py",
    ),
    (  # with a threshold the client forgets what it let go of
        _CLIENT,
        "            if once:\n                ledger.note(training, cohort, once=True)\n",
        "",
        _ONE_OPENING,
    ),
    (  # tags do not depend on the model, so clients with different models make one sum
        "fedguard/encryption/protocol/transcript.py",
        'bound = digest("members", view, repr(members).encode(), model)',
        'bound = digest("members", view, repr(members).encode())',
        _ONE_OPENING + " tests/encryption/test_transcript.py",
    ),
    (  # a weaker profile is welcome, a stronger one is not
        "fedguard/encryption/protocol/guards.py",
        "        if offered.strength < wanted.strength:\n",
        "        if offered.strength > wanted.strength:\n",
        "tests/encryption/test_ledger.py",
    ),
    (  # half of the members may open one list, the other half another
        _SHARED,
        "    return len(members) // 2 + 1\n",
        "    return len(members) // 2\n",
        "tests/encryption/test_shared_key.py",
    ),
    (  # a client opens a list that it has not confirmed
        _SHARED,
        '        if list(contributors) != list(get_ints(state, "contributors")):\n',
        '        if not set(contributors) <= set(get_ints(state, "contributors")):\n',
        "tests/encryption/test_shared_key.py",
    ),
    (  # a second ciphertext under one tag key
        _SHARED,
        '            earliest = get(state, "current", int) + 1\n',
        '            earliest = get(state, "current", int)\n',
        "tests/encryption/test_shared_key.py",
    ),
    (  # all sealed messages begin with the same nonce
        _SHARED,
        "channel.seal(peer, self.party, party, commits.view, secret, self.source.bytes(12))",
        "channel.seal(peer, self.party, party, commits.view, secret, bytes(12))",
        "tests/encryption/test_shared_key.py",
    ),
    (  # residues above the prime are read
        "fedguard/encryption/lattice/tenseal_vectors.py",
        "        if int(residues.max()) >= prime:\n",
        "        if int(residues.max()) >= 1 << bits:\n",
        "tests/encryption/test_shared_key.py",
    ),
    (  # the server does not look whether a key is the one that was committed to
        _SERVER,
        '        if committed != get(self._commits[party], "commitment", bytes):\n',
        '        if not get(self._commits[party], "commitment", bytes):\n',
        "tests/encryption/test_guards.py",
    ),
    (  # one accuser is enough
        "fedguard/encryption/protocol/flow.py",
        "            if 2 * len(by) > len(asked):\n",
        "            if by:\n",
        "tests/encryption/test_flow.py",
    ),
    (  # a dispute blames whose tag is right
        _SERVER,
        "            if check.tag(c1, party) != self._tags[party]:\n",
        "            if check.tag(c1, party) == self._tags[party]:\n",
        _LYING,
    ),
    (  # the keys of a disputed sum are kept
        _CLIENT,
        '        self._keep(state.wiped())\n        return {"seeds": list(state.seeds)}\n',
        '        return {"seeds": list(state.seeds)}\n',
        "tests/encryption/test_guards.py",
    ),
    (  # a masked vector of any length is added
        "fedguard/encryption/secagg_checks.py",
        "        if blob[: len(header)] != header or len(blob) != len(header) + 8 * shape[0]:\n",
        "        if blob[: len(header)] != header or len(blob) < len(header) + 8 * shape[0]:\n",
        "tests/encryption/test_lying_secagg.py",
    ),
    (  # every subset of shares that is tried has the first one in it
        "fedguard/encryption/secagg_checks.py",
        "for start in range(0, len(parts), spare)]",
        "for start in range(spare, len(parts), spare)]",
        "tests/encryption/test_lying_secagg.py",
    ),
    (  # the ledger's file is read, and never written
        "fedguard/encryption/protocol/records.py",
        "        if label == LEDGER and self._file is not None:\n",
        "        if label == LEDGER and self._file is None:\n",
        "tests/encryption/test_mod.py",
    ),
]
