"""Faults in anonymous enrolment, and who notices them."""

from __future__ import annotations

_ACCESS = "tests/enrolment/test_k_pseudonym.py"
_BLIND = "tests/enrolment/test_blind_tokens.py"
_RUNS = "tests/enrolment/test_enrolled_federation.py"
_PROCESS = "tests/enrolment/test_registrar_process.py"

MUTATIONS: list[tuple[str, str, str, str]] = [
    (
        "fedguard/enrolment/registrar.py",
        "                found, position = member, number\n",
        "                found, position = member, number\n                break\n",
        _ACCESS,
    ),
    (
        "fedguard/enrolment/registrar.py",
        "        opened.nonces.add(nonce)\n",
        "",
        _PROCESS,
    ),
    (
        "fedguard/enrolment/registrar.py",
        "        if ticket.place != place:",
        "        if ticket.place.exchange != place.exchange:",
        "tests/enrolment/test_attacks_on_enrolment.py",
    ),
    (
        "fedguard/enrolment/registrar.py",
        'told = b"lasting" if self.lasting else server_round.to_bytes(8, "big")',
        'told = b"lasting"',
        _ACCESS,
    ),
    (
        "fedguard/enrolment/groups.py",
        "        valid = range(max(epoch - WINDOW + 1, 0), epoch + 1)",
        "        valid = range(max(epoch - WINDOW, 0), epoch + 1)",
        _ACCESS,
    ),
    (
        "fedguard/enrolment/groups.py",
        "    cuts = [*range(0, count * k, k), len(order)]",
        "    cuts = [*range(0, len(order), k), len(order)]",
        _ACCESS,
    ),
    (
        "fedguard/enrolment/aggregator.py",
        "        if not hmac.compare_digest(ticket.digest, digest):",
        "        if len(ticket.digest) != len(digest):",
        _ACCESS,
    ),
    (
        "fedguard/enrolment/aggregator.py",
        "        self._digests[handle] = digest\n",
        "",
        _ACCESS,
    ),
    (
        "fedguard/enrolment/tickets.py",
        'b"".join([len(part).to_bytes(4, "big") + part for part in parts])',
        'b"".join(parts)',
        _ACCESS,
    ),
    (
        "fedguard/enrolment/member.py",
        "        return told and shown",
        "        return told or shown",
        _ACCESS,
    ),
    (
        "fedguard/enrolment/blind.py",
        "    masked[0] &= 0xFF >> (8 * length - bits)\n",
        "",
        _BLIND,
    ),
    (
        "fedguard/enrolment/tokens.py",
        "            if before != request:",
        "            if len(before) != len(request):",
        _BLIND,
    ),
    (
        "fedguard/enrolment/tokens.py",
        "        if not verify(self.key(place.server_round), prefix + public, signature):",
        "        if not signature:",
        _BLIND,
    ),
    (
        "fedguard/enrolment/base.py",
        "        self._place = (named, 0 if named != last else exchange + 1)",
        "        self._place = (named, 0)",
        _RUNS,
    ),
    (
        "fedguard/enrolment/k_pseudonym.py",
        "        if asked < self.k:",
        "        if asked < 1:",
        _RUNS,
    ),
    (
        "fedguard/enrolment/intake.py",
        "            elif reply.content.array_records:",
        "            elif reply.content.metric_records is None:",
        _PROCESS,
    ),
    (
        "fedguard/enrolment/service.py",
        "        self.registrar.revoked = read_revoked(self.folder)\n",
        "",
        _PROCESS,
    ),
    (
        "fedguard/enrolment/mod.py",
        "            if why == REPEATED:\n                return None\n",
        "",
        _PROCESS,
    ),
]
