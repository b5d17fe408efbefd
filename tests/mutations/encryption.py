"""Faults that somebody could make in the room `encryption`, and the tests that must notice."""

from __future__ import annotations

_CLIENT = "fedguard/encryption/protocol/client.py"
_LEDGER = "fedguard/encryption/protocol/ledger.py"
_SHARED = "fedguard/encryption/protocol/shared_key.py"
_SERVER = "fedguard/encryption/protocol/server.py"
_ONE_OPENING = "tests/encryption/test_one_opening.py"
_LYING = "tests/encryption/test_lying_clients.py"
_NODES = "tests/nodes/test_encrypting_nodes.py"

MUTATIONS: list[tuple[str, str, str, str]] = [
    (  # a key answers for a second sum
        _CLIENT,
        "        if self.guards.one_answer:\n            if state.answers and",
        "        if False:\n            if state.answers and",
        "tests/encryption/test_guards.py",
    ),
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
    (  # a message of another name gets the model in the clear
        "fedguard/encryption/mod.py",
        'message.metadata.message_type.partition(".")[0] == MessageType.TRAIN',
        "message.metadata.message_type == MessageType.TRAIN",
        "tests/encryption/test_mod.py",
    ),
    (  # an update that is not finite keeps the older one in its place
        "fedguard/encryption/mod.py",
        "            if fault is not None:\n",
        "            if fault is None:\n",
        "tests/encryption/test_mod.py",
    ),
    (  # rounds go on from run to run
        _LEDGER,
        "for run, number in of_run if run == self._run), default=-1)",
        "for run, number in of_run), default=-1)",
        "tests/encryption/test_ledger.py",
    ),
    (  # the run's configuration may weaken a node's guards
        "fedguard/encryption/protocol/guards.py",
        "minimum_participants=max(self.minimum_participants, other.minimum_participants),",
        "minimum_participants=min(self.minimum_participants, other.minimum_participants),",
        "tests/encryption/test_ledger.py",
    ),
    (  # a spoilt ledger is an empty one
        "fedguard/encryption/protocol/ledger_file.py",
        "        except (OSError, KeyError, TypeError, ValueError) as error:\n",
        "        except (OSError, KeyError, TypeError, ValueError):\n            return None\n",
        "tests/encryption/test_ledger.py",
    ),
    (  # the first opener is believed
        "fedguard/encryption/protocol/shared_key_server.py",
        "            if len(agree) < min(2, len(self._released)):\n",
        "            if not agree:\n",
        _LYING,
    ),
    (  # a client that came back gets no key
        "fedguard/encryption/protocol/shared_key_group.py",
        "if server is None or server.contributors != self.cohort:",
        "if server is None or server.members != self.cohort:",
        _NODES,
    ),
    (  # the node's own word does not count
        "fedguard/nodes/encrypting.py",
        "    if insists is not None and strategy != insists:\n",
        "    if insists is None and strategy != insists:\n",
        _NODES,
    ),
    (  # a node that encrypts answers what shows its data
        "fedguard/nodes/encrypting.py",
        "    if kind != MessageType.TRAIN:\n        raise",
        "    if kind == MessageType.EVALUATE:\n        raise",
        _NODES,
    ),
    (  # nobody lies under encryption
        "fedguard/nodes/lone_attacker.py",
        '    if "updates" not in attack.needs or client not in trainer.federation.malicious:\n',
        '    if "updates" in attack.needs or client not in trainer.federation.malicious:\n',
        _NODES,
    ),
    (  # the server encrypts for real clients
        "fedguard/runs/deployment.py",
        '    return bool(deployed) and traits_of(strategy).visible != "updates"\n',
        '    return bool(deployed) and traits_of(strategy).visible == "updates"\n',
        _NODES,
    ),
    (  # a coalition of several conspires without a channel
        "fedguard/runs/deployment.py",
        "    if malicious > 1:\n",
        "    if malicious > 2:\n",
        _NODES,
    ),
    (  # a client that has answered keeps its key
        "fedguard/encryption/protocol/client.py",
        "done = self.guards.one_answer and answered.answers >= agreement.max_answers",
        "done = False",
        "tests/encryption/test_guards.py",
    ),
    (  # and answers again, for whatever sum
        "fedguard/encryption/protocol/client.py",
        "        if self.guards.one_answer:\n",
        "        if False:\n",
        "tests/encryption/test_guards.py",
    ),
]
