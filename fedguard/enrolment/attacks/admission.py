"""Attacks 6 and 7: one member with five handles; registrar and aggregator together."""

from __future__ import annotations

import hashlib

from fedguard.enrolment.attacks.outcome import AttackOutcome
from fedguard.enrolment.attacks.world import SOME, labels, tokens
from fedguard.enrolment.blind import EXPONENT, make_key
from fedguard.enrolment.reasons import NotAdmittedError
from fedguard.enrolment.registrar import Registrar
from fedguard.enrolment.tickets import HANDLE, Place
from fedguard.enrolment.tokens import TokenAggregator, TokenHolder

_HERE = Place(1)
_TRIES = 5


class _FreshHandles(Registrar):
    """Gives every access a handle of its own."""

    def handle(self, aggregator: bytes, member: int, server_round: int) -> bytes:
        return self.random(HANDLE)


def sybil(guarded: bool) -> AttackOutcome:
    """Send five updates in one round with five fresh tickets of one member.

    Control: handles are fresh for every access, as a careless reading of "unlinkable" has them.
    """
    parties = labels()
    if not guarded:
        parties.registrar.__class__ = _FreshHandles
    admitted, reasons = 0, set()
    for number in range(_TRIES):
        digest = hashlib.sha256(bytes([number])).digest()
        try:
            parties.receive(_HERE, parties.ticket(3, _HERE, digest), digest)
            admitted += 1
        except NotAdmittedError as error:
            reasons.add(error.reason)
    told = f"{admitted} of {_TRIES} updates admitted" + "".join(f"; {r}" for r in sorted(reasons))
    return AttackOutcome("sybil", guarded, admitted > 1, float(admitted), told)


def sybil_tokens(guarded: bool) -> AttackOutcome:
    """Ask for five tokens of one round as one member.

    Control: the issuer keeps no list of whom it gave one.
    """
    parties = tokens()
    admitted, reasons = 0, set()
    key = parties.issuer.open(_HERE.server_round)
    for number in range(_TRIES):
        holder = TokenHolder(parties.members[3], parties.draws(number, "sybil"))
        raw, request = holder.request(_HERE.server_round, key)
        if not guarded:
            parties.issuer._issued.clear()
        digest = hashlib.sha256(bytes([number])).digest()
        try:
            holder.take(key, parties.issuer.issue(_HERE.server_round, raw, request))
            parties.receive(_HERE, holder.ticket(parties.name, _HERE, digest), digest)
            admitted += 1
        except NotAdmittedError as error:
            reasons.add(error.reason)
    told = f"{admitted} of {_TRIES} updates admitted" + "".join(f"; {r}" for r in sorted(reasons))
    return AttackOutcome("sybil-tokens", guarded, admitted > 1, float(admitted), told)


def collusion(guarded: bool, *, clients: int = 32) -> AttackOutcome:
    """Let registrar and aggregator put their records together to name who sent what.

    Control: ``k-pseudonym``, in which the registrar can name everybody by design. Protocol:
    ``blind``. There the two look for the blinding factor that turns a request into a token: there
    is one for *every* pair, so all they can do is guess.
    """
    if not guarded:
        named = labels(clients)
        found = 0
        for member in range(clients):
            handle = named.receive(_HERE, named.ticket(member, _HERE, SOME), SOME)
            found += named.registrar.trace(named.name, 1, handle, "collusion") == member
        return _named("collusion", guarded, found / clients, "the registrar's keys name the handle")
    parties = tokens(clients)
    key = parties.issuer.open(1)
    n = key.public_numbers().n
    sent = [parties.ticket(member, _HERE, SOME) for member in range(clients)]
    held = [each.token for each in parties.holders.values()]
    finished = [int.from_bytes(token.signature, "big") for token in held if token is not None]
    issued = [parties.issuer._issued[1][member] for member in range(clients)]
    right = 0.0
    for member, signature in enumerate(finished):
        fitting = []
        for other, (request, answer) in enumerate(issued):
            factor = int.from_bytes(answer, "big") * pow(signature, -1, n) % n
            blinded = pow(signature * factor % n, EXPONENT, n)
            if blinded == int.from_bytes(request, "big"):
                fitting.append(other)
        right += (member in fitting) / len(fitting)  # a guess among those that fit
    assert len(set(sent)) == clients
    told = f"all {len(fitting)} requests fit every token"
    return _named("collusion", guarded, right / clients, told, chance=1 / clients)


def tagged_keys(guarded: bool) -> AttackOutcome:
    """Let a registrar that colludes sign each member's token with a key of its own.

    Control: members take any signature. Protocol: they check it under the key that all are told.
    """
    parties = tokens()
    parties.issuer.open(1)
    # All are told the smaller one: a request above the other's modulus could not be signed with it.
    common, tagged = sorted(
        (make_key(), make_key()), key=lambda key: key.public_key().public_numbers().n
    )
    told = common.public_key()
    parties.issuer._keys[1] = tagged
    holder = parties.holders[3]
    raw, request = holder.request(1, told if guarded else tagged.public_key())
    answer = parties.issuer.issue(1, raw, request)
    try:
        holder.take(told if guarded else tagged.public_key(), answer)
        door = TokenAggregator(parties.name, lambda _: tagged.public_key())
        door.open(_HERE)
        door.receive(_HERE, holder.ticket(parties.name, _HERE, SOME), SOME)
    except NotAdmittedError as error:
        return AttackOutcome("tagged-keys", guarded, False, 0.0, f"refused: {error.reason}")
    return AttackOutcome("tagged-keys", guarded, True, 1.0, "the key that fits names the member")


def _named(name: str, guarded: bool, share: float, why: str, chance: float = 0.0) -> AttackOutcome:
    told = f"{share:.1%} of the senders named; {why}"
    return AttackOutcome(name, guarded, share > 5 * chance + 0.05, share, told)
