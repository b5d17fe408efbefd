"""Reads a run directory for the report; a missing or damaged file costs a section, not the page.

Everything here may come from an older version or from another program, and texts such as a
rejection's reason may be written by an attacker: values are checked, nothing is trusted.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

MAX_REASON = 300
"""Characters of a client's reason that are kept."""

ACCEPTED, REJECTED, FAILED, SET_ASIDE = "accepted", "rejected", "failed", "set aside"
MALFORMED = "malformed"
"""Outcome in older records, which did not tell a failed client from a reply that was set aside."""
OUTCOMES = (ACCEPTED, REJECTED, FAILED, SET_ASIDE)
"""What a record may say became of a client's round."""


def number(value: object) -> float | None:
    """Return a finite real number as float, or None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        real = float(value)
    except OverflowError:
        return None
    return real if math.isfinite(real) else None


def whole(value: object) -> int | None:
    """Return a finite number as int, or None for anything else."""
    real = number(value)
    return None if real is None else int(real)


def mapping(value: object) -> dict[str, Any]:
    """Return a dictionary as it is, and an empty one for anything else."""
    return value if isinstance(value, dict) else {}


def sequence(value: object) -> list[Any]:
    """Return a list as it is, and an empty one for anything else."""
    return value if isinstance(value, list) else []


@dataclass(frozen=True, slots=True)
class ClientRecord:
    """How one client fared in one round.

    Attributes
    ----------
    round : int
        Server round, from 1.
    client : str
        The client's id as text; ids of a Flower run exceed what JavaScript counts exactly.
    malicious : bool
        The truth about the client.
    accepted : bool or None
        What the defence decided; None where it did not say, as a plain Flower strategy.
    outcome : str or None
        One of `OUTCOMES`, or `MALFORMED`: an older record with neither examples nor scores. None
        where no verdict was told.
    weight : float or None
        Share of the client in the round's aggregate.
    num_examples : float or None
        What the client claimed.
    scores : dict of str to float
        What the defence measured; only finite values.
    reason : str
        Why it was rejected, failed or set aside, or an empty string.
    """

    round: int
    client: str
    malicious: bool
    accepted: bool | None
    outcome: str | None
    weight: float | None
    num_examples: float | None
    scores: dict[str, float]
    reason: str

    @classmethod
    def from_json(cls, line: dict[str, Any]) -> ClientRecord | None:
        """Return the record of one line of ``clients.jsonl``, or None if it names no client."""
        server_round, client = whole(line.get("round")), line.get("client")
        if server_round is None or not isinstance(client, int | str):
            return None
        weight, examples = number(line.get("weight")), number(line.get("num_examples"))
        measured = {str(name): number(value) for name, value in mapping(line.get("scores")).items()}
        accepted = line.get("accepted")
        if not isinstance(accepted, bool):
            accepted = None if weight is None else weight > 0.0
        outcome = line.get("outcome")
        if outcome in OUTCOMES:
            accepted = outcome == ACCEPTED
        else:
            empty = accepted is False and examples is None and not measured
            told = {True: ACCEPTED, False: REJECTED, None: None}[accepted]
            outcome = MALFORMED if empty else told
        scores = {name: value for name, value in measured.items() if value is not None}
        reason = line.get("reason")
        return cls(
            round=server_round,
            client=str(client),
            malicious=bool(line.get("malicious", False)),
            accepted=accepted,
            outcome=outcome,
            weight=weight,
            num_examples=examples,
            scores=scores,
            reason="" if reason is None else str(reason)[:MAX_REASON],
        )

    @property
    def malformed(self) -> bool:
        """Whether no usable update arrived."""
        return self.outcome in (FAILED, SET_ASIDE, MALFORMED)


@dataclass(frozen=True)
class Run:
    """What a run directory says.

    Attributes
    ----------
    path : Path
        The directory.
    summary, threat_model : dict
        The two JSON files; empty where absent.
    config : str
        ``config.yaml`` as text.
    rounds : list of dict
        ``rounds.jsonl`` in the order of rounds; of a round written twice, the later line.
    clients : list of ClientRecord
        ``clients.jsonl``, likewise.
    problems : list of str
        What could not be read.
    repairs, audits : list of dict
        ``repairs.jsonl`` and ``audits.jsonl``; empty for a run without any.
    fairness : list of dict
        The last round's lines of ``fairness.jsonl``, one per client; empty for a run without any.
    """

    path: Path
    summary: dict[str, Any] = field(default_factory=dict)
    threat_model: dict[str, Any] = field(default_factory=dict)
    config: str = ""
    rounds: list[dict[str, Any]] = field(default_factory=list)
    clients: list[ClientRecord] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    repairs: list[dict[str, Any]] = field(default_factory=list)
    audits: list[dict[str, Any]] = field(default_factory=list)
    fairness: list[dict[str, Any]] = field(default_factory=list)

    @cached_property
    def malicious(self) -> frozenset[str]:
        """Ids of the clients that lie, as text."""
        named = {str(client) for client in sequence(self.summary.get("malicious_clients"))}
        return frozenset(named | {record.client for record in self.clients if record.malicious})

    @cached_property
    def client_ids(self) -> list[str]:
        """Ids of every client that was asked, in order, those that lie first."""
        ids = {record.client for record in self.clients}
        return sorted(ids, key=lambda client: (client not in self.malicious, *_natural(client)))

    @cached_property
    def final(self) -> dict[str, Any]:
        """The last round's figures: from the summary, otherwise from the last round."""
        last = self.rounds[-1] if self.rounds else {}
        known = {k: v for k, v in mapping(self.summary.get("final")).items() if v is not None}
        return {**last, **known}

    @cached_property
    def class_names(self) -> list[str]:
        """Names of the classes; numbers where the run names none."""
        names = [str(name) for name in sequence(self.summary.get("class_names"))]
        count = max(len(names), len(sequence(self.final.get("per_class_recall"))))
        return names + [str(label) for label in range(len(names), count)]

    @cached_property
    def counts_replies(self) -> bool:
        """Whether failed clients and replies set aside are counted apart; older runs did not."""
        return any(whole(line.get("asked")) is not None for line in self.rounds)

    def series(self, name: str) -> list[float | None]:
        """Return one figure over the rounds; None where it is missing."""
        return [number(line.get(name)) for line in self.rounds]


def _natural(client: str) -> tuple[int, int, str]:
    digits = client.removeprefix("-").isdecimal() and len(client) < 40
    return (0, int(client), "") if digits else (1, 0, client)


def _text(path: Path, problems: list[str]) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        problems.append(f"{path.name}: {error.strerror or 'cannot be read'}")
        return ""


def _object(path: Path, problems: list[str]) -> dict[str, Any]:
    text = _text(path, problems)
    if not text:
        return {}
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        problems.append(f"{path.name}: is not valid JSON")
        return {}
    return mapping(value)


def _lines(path: Path, problems: list[str]) -> Iterator[dict[str, Any]]:
    """Yield the objects of a JSON-lines file and count the lines that are none."""
    damaged = 0
    for line in _text(path, problems).split("\n"):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            value = None
        if isinstance(value, dict):
            yield value
        else:
            damaged += 1
    if damaged:
        problems.append(f"{path.name}: {damaged} unreadable line(s) left out")


def _rounds(path: Path, problems: list[str]) -> list[dict[str, Any]]:
    newest: dict[int, dict[str, Any]] = {}
    for line in _lines(path, problems):
        server_round = whole(line.get("round"))
        if server_round is not None:
            newest[server_round] = {**line, "round": server_round}
    return [newest[server_round] for server_round in sorted(newest)]


def _clients(path: Path, problems: list[str]) -> list[ClientRecord]:
    newest: dict[tuple[int, str], ClientRecord] = {}
    for line in _lines(path, problems):
        record = ClientRecord.from_json(line)
        if record is not None:
            newest[record.round, record.client] = record
    return sorted(newest.values(), key=lambda record: (record.round, *_natural(record.client)))


def _events(path: Path, kind: str, problems: list[str]) -> list[dict[str, Any]]:
    """Return the lines of a file that only some runs have, by round and what did it."""
    if not path.exists():
        return []
    newest: dict[tuple[int, str], dict[str, Any]] = {}
    for line in _lines(path, problems):
        server_round = whole(line.get("round"))
        if server_round is not None:
            name = str(line.get(kind) or "unnamed")
            newest[server_round, name] = {**line, "round": server_round, kind: name}
    return [newest[key] for key in sorted(newest)]


def _last_round(path: Path, problems: list[str]) -> list[dict[str, Any]]:
    """Return the lines of the last round in a file of lines per client that only some runs have."""
    newest: dict[str, dict[str, Any]] = {}
    last = -1
    for line in _lines(path, problems) if path.exists() else ():
        server_round, client = whole(line.get("round")), line.get("client")
        if server_round is None or server_round < last or not isinstance(client, int | str):
            continue
        if server_round > last:
            newest, last = {}, server_round
        newest[str(client)] = line
    return [newest[client] for client in sorted(newest, key=_natural)]


def read_run(run_dir: Path, *, clients: bool = True) -> Run:
    """Read a run directory; what is missing or damaged is left out and named in `problems`.

    Parameters
    ----------
    run_dir : Path
        The directory.
    clients : bool
        False leaves ``clients.jsonl`` out, which is most of what there is to read.
    """
    problems: list[str] = []
    return Run(
        path=run_dir,
        summary=_object(run_dir / "summary.json", problems),
        threat_model=_object(run_dir / "threat_model.json", problems),
        config=_text(run_dir / "config.yaml", problems),
        rounds=_rounds(run_dir / "rounds.jsonl", problems),
        clients=_clients(run_dir / "clients.jsonl", problems) if clients else [],
        problems=problems,
        repairs=_events(run_dir / "repairs.jsonl", "repair", problems),
        audits=_events(run_dir / "audits.jsonl", "audit", problems),
        fairness=_last_round(run_dir / "fairness.jsonl", problems) if clients else [],
    )
