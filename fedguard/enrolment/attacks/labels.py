"""Attacks 1 to 3: linking by labels, intersecting candidate sets, members who talk."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from fedguard.enrolment.attacks.outcome import AttackOutcome
from fedguard.enrolment.attacks.world import SOME, decoys, labels, matches, seen_labels, stream
from fedguard.enrolment.groups import LabelTable, form_groups
from fedguard.enrolment.local import SLOTS, KeyedBytes
from fedguard.enrolment.tickets import Place, Ticket
from fedguard.randomness import SERVER

USERS = 1000


def label_linking(guarded: bool, *, k: int = 16, epochs: int = 20) -> AttackOutcome:
    """Link what a user shows in one epoch with what it shows in the next.

    Control: everybody sends one fixed set of k pseudonyms for life; the set is a name. Protocol:
    the linker is even given every group's seed, as one who has an accomplice in each group.
    """
    rng = stream("linking")
    if not guarded:
        fixed = [decoys(user, USERS, k, rng) for user in range(USERS)]
        share = sum(matches(fixed, fixed, rng) for _ in range(epochs - 1)) / (USERS * (epochs - 1))
        return AttackOutcome(
            "label-linking", guarded, share > 2 / k, share, f"{share:.1%} linked by fixed sets"
        )
    parties = labels(USERS, k)
    shown = [seen_labels(parties, epoch) for epoch in range(1, epochs + 1)]
    links = USERS * (epochs - 1)
    outside = sum(matches(now, then, rng) for now, then in pairwise(shown)) / links
    seeds = LabelTable(parties.registrar.groups, SLOTS)
    read = [[seeds.find(label, epoch) for label in each] for epoch, each in enumerate(shown, 1)]
    inside = sum(matches(now, then, rng) for now, then in pairwise(read)) / links
    first = set(shown[0])
    repeated = len(first & {label for each in shown[1:] for label in each})
    return AttackOutcome(
        "label-linking",
        guarded,
        inside > 1 / k + 0.01,
        inside,
        f"outsiders {outside:.2%}, with every group's seed {inside:.2%} (1/k = {1 / k:.2%}); "
        f"{repeated} labels of the first epoch came back",
    )


def intersection(guarded: bool, *, k: int = 32, runs: int = 300) -> AttackOutcome:
    """Intersect the candidates of sessions that are known to be one user's.

    Control: decoys are drawn anew for every session. Protocol: a label's candidates are its group,
    whatever the session.
    """
    rng = stream("intersection")
    if not guarded:
        needed = float(np.mean([_sessions(k, rng) for _ in range(runs)]))
        told = f"one user of {USERS} is left after {needed:.2f} sessions on average, k = {k}"
        return AttackOutcome("intersection", guarded, needed < 20, needed, told)
    parties = labels(USERS, k)
    left = {user: set(range(USERS)) for user in range(0, USERS, USERS // 50)}
    for epoch in range(1, 21):
        for user, candidates in left.items():
            raw = parties.ticket(user, Place(epoch), SOME)
            group = parties.registrar.labels.find(Ticket.from_bytes(raw).label, epoch)
            candidates &= set(parties.registrar.groups[group or 0].members)
    sizes = [len(candidates) for candidates in left.values()]
    told = f"{min(sizes)} or more users are left after 20 sessions, k = {k}"
    return AttackOutcome("intersection", guarded, min(sizes) < k, float(min(sizes)), told)


def _sessions(k: int, rng: np.random.Generator) -> int:
    user = int(rng.integers(USERS))
    left = decoys(user, USERS, k, rng)
    sessions = 1
    while len(left) > 1:
        left &= decoys(user, USERS, k, rng)
        sessions += 1
    return sessions


def insiders(guarded: bool, *, k: int = 32, share: float = 0.1) -> AttackOutcome:
    """Let a tenth of all members strike themselves off their groups.

    Control: the short last group is left as it is. Protocol: it joins the one before. Neither
    stops insiders; what is measured is how many are left to hide among.
    """
    rng = stream("insiders")
    bad = set(rng.choice(USERS, size=int(share * USERS), replace=False).tolist())
    if guarded:
        groups = form_groups(range(USERS), k, KeyedBytes(0, SERVER, "insiders"))
        parts = [group.members for group in groups]
    else:
        parts = [tuple(range(i, min(i + k, USERS))) for i in range(0, USERS, k)]
    left = [len(set(part) - bad) for part in parts]
    told = f"of {k} members {np.mean(left):.1f} are left on average, {min(left)} at worst"
    return AttackOutcome("insiders", guarded, min(left) < k / 2, float(np.mean(left)), told)
