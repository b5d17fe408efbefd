"""What registrar, aggregator and members keep in files; each reads its own and no other.

::

    registrar/members.json    every key, group and seed: the registrar's alone
    registrar/revoked         one member a line; read before every access
    registrar/log.jsonl       who was traced or revoked, when and why
    registrar/seal.key        shared with the aggregator
    aggregator/seal.key       the same
    members/0.json            one member's key and its group's seed
"""

from __future__ import annotations

import json
import os
import secrets
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fedguard.enrolment.groups import Credential, Group, form_groups
from fedguard.enrolment.registrar import Registrar
from fedguard.enrolment.tickets import KEY, aggregator_id
from fedguard.errors import ConfigurationError

SLOTS = 4
"""Labels of a group in an epoch."""

AGGREGATOR = "aggregator"
"""Name in the aggregator's certificate, and what tickets are for."""


def write_secret(path: Path, text: str) -> None:
    """Write a file that its owner alone can read, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(path.name + ".new")
    draft.unlink(missing_ok=True)  # what a crash left behind may be open to others
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    draft.replace(path)


def make_members(folder: Path, members: int, k: int) -> None:
    """Enrol members 0 to N - 1 with fresh keys, unless somebody was enrolled here before.

    Raises
    ------
    ConfigurationError
        If there are fewer than k, or others than were enrolled before.
    """
    if not 2 <= k <= members:
        raise ConfigurationError("k", k, f"2 to the number of members, {members}")
    book = folder / "registrar" / "members.json"
    if book.exists():
        known = json.loads(book.read_text())
        if (len(known["keys"]), known["k"]) != (members, k):
            told = f"{len(known['keys'])} with k = {known['k']}, enrolled in {folder} before"
            raise ConfigurationError("members", f"{members} with k = {k}", told)
        return
    keys = {member: secrets.token_bytes(KEY) for member in range(members)}
    groups = form_groups(range(members), k, secrets.token_bytes)
    seal = secrets.token_bytes(KEY).hex()
    for side in ("registrar", AGGREGATOR):
        write_secret(folder / side / "seal.key", seal)
    for group in groups:
        for member in group.members:
            mine = {"key": keys[member].hex(), "seed": group.seed.hex(), "slots": SLOTS}
            write_secret(folder / "members" / f"{member}.json", json.dumps(mine))
    written = {
        "k": k,
        "slots": SLOTS,
        "secret": secrets.token_bytes(KEY).hex(),
        "keys": {str(member): key.hex() for member, key in keys.items()},
        "groups": [{"seed": g.seed.hex(), "members": list(g.members)} for g in groups],
    }
    write_secret(book, json.dumps(written))  # last: its presence says that the rest is there


def read_credential(path: Path) -> Credential:
    """Return a member's credential."""
    found: Mapping[str, Any] = json.loads(path.read_text())
    return Credential(
        bytes.fromhex(found["key"]), bytes.fromhex(found["seed"]), int(found["slots"])
    )


def read_registrar(folder: Path, clock: Callable[[], int]) -> Registrar:
    """Return the registrar whose book is in a folder."""
    found: Mapping[str, Any] = json.loads((folder / "members.json").read_text())
    registrar = Registrar(
        [Group(bytes.fromhex(g["seed"]), tuple(g["members"])) for g in found["groups"]],
        {int(member): bytes.fromhex(key) for member, key in found["keys"].items()},
        slots=found["slots"],
        secret=bytes.fromhex(found["secret"]),
        clock=clock,
        random=secrets.token_bytes,
        aggregators={aggregator_id(AGGREGATOR): bytes.fromhex((folder / "seal.key").read_text())},
    )
    registrar.revoked = read_revoked(folder)
    return registrar


def read_revoked(folder: Path) -> set[int]:
    """Return who is revoked."""
    path = folder / "revoked"
    return {int(line) for line in path.read_text().split()} if path.exists() else set()


def note(folder: Path, registrar: Registrar) -> None:
    """Append what a registrar has logged to its file, with the time."""
    with (folder / "log.jsonl").open("a", encoding="utf-8") as file:
        for entry in registrar.log:
            file.write(json.dumps({"time": round(time.time(), 3), **entry}) + "\n")
    registrar.log.clear()
