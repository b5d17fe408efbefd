"""How long an attack's success outlives the attackers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

MEASURES = ("implant_strength", "attack_success_rate", "source_to_target")
"""Figures of a round that say how far an attack got; the first that a run has counts."""

TOOK = 0.05
"""Least height of a peak above its floor of which a half means anything."""

_ABOVE_ITS_FLOOR = "implant_strength"


@dataclass(frozen=True)
class Lifespan:
    """How long an attack's success lasted once nobody attacked any more.

    Attributes
    ----------
    measure : str
        The figure that is looked at, one of `MEASURES`.
    floor : float
        What it was without the attack; 0 where no round tells.
    attacked_until : int
        Last round of the attack.
    peak : float
        Its largest value in the rounds of the attack.
    peak_round : int
        The first round with that value.
    rounds : int or None
        Rounds from the last attacked one to the first in which less than half of the peak's height
        above the floor was left; as many as were watched where that never came; None where the peak
        is no more than 0.05 above the floor.
    ended : bool
        Whether it fell so far.
    """

    measure: str
    floor: float
    attacked_until: int
    peak: float
    peak_round: int
    rounds: int | None
    ended: bool


def lifespan(
    rounds: Iterable[Mapping[str, Any]], first: int, last: int, *, untrained: bool = True
) -> Lifespan | None:
    """Return how long an attack outlived the attackers; None where nobody could see it.

    Half-life in rounds, as in reports on the durability of backdoors (Zhang et al., "Neurotoxin",
    ICML 2022, count rounds to a fixed success; half of the peak suits any attack).

    Parameters
    ----------
    rounds : iterable of mapping
        Records of rounds, as in ``rounds.jsonl``.
    first, last : int
        First and last round of the attack, from 1.
    untrained : bool
        Whether the model of round 0 is untrained, so that it says nothing about the floor.
    """
    records = list(rounds)
    measure = next((m for m in MEASURES if any(_value(r, m) is not None for r in records)), None)
    if measure is None:
        return None
    course = {int(r["round"]): v for r in records if (v := _value(r, measure)) is not None}
    struck = {number: value for number, value in course.items() if first <= number <= last}
    after = [number for number in sorted(course) if number >= last]
    if not struck or not after or after[-1] == last:
        return None
    before = [number for number in course if int(untrained) <= number < first]
    known = bool(before) and measure != _ABOVE_ITS_FLOOR
    floor = course[max(before)] if known else 0.0
    peak_round = max(sorted(struck), key=lambda number: struck[number])
    height = struck[peak_round] - floor
    fallen = next((n for n in after if course[n] - floor < height / 2), None)
    took = height > TOOK
    return Lifespan(
        measure=measure,
        floor=floor,
        attacked_until=last,
        peak=struck[peak_round],
        peak_round=peak_round,
        rounds=((after[-1] if fallen is None else fallen) - last) if took else None,
        ended=took and fallen is not None,
    )


def _value(record: Mapping[str, Any], name: str) -> float | None:
    found = record.get(name)
    if isinstance(found, bool) or not isinstance(found, int | float):
        return None
    return float(found) if math.isfinite(found) else None
