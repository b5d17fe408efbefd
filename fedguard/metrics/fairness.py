"""How a model serves single clients and groups of them: worst decile, spread, gap, minority."""

from __future__ import annotations

import math
import statistics
from collections.abc import Collection, Mapping
from dataclasses import dataclass

FIGURES = ("client_mean", "worst_decile", "client_spread", "group_gap", "minority")
"""Names of what `fairness` tells, as records carry them."""


@dataclass(frozen=True)
class Fairness:
    """How evenly a model serves clients.

    Li, Sanjabi, Beirami and Smith, "Fair Resource Allocation in Federated Learning", ICLR 2020,
    report mean, worst tenth and variance over devices; here the deviation, which has the figure's
    own unit. Gap and minority are over groups of clients.

    Attributes
    ----------
    client_mean : float
        Mean over clients, each counted once.
    worst_decile : float
        Mean over the tenth of the clients that fares worst, rounded up to whole clients.
    client_spread : float
        Standard deviation over clients (of the population); 0 for a single one.
    group_gap : float or None
        Mean of the group that fares best less that of the worst, so that it is never negative;
        None where there are fewer than two groups.
    minority : float or None
        Mean of the minority's clients; None where no client of it was judged.
    groups : dict of str to float
        Mean of each group's clients.
    """

    client_mean: float
    worst_decile: float
    client_spread: float
    group_gap: float | None
    minority: float | None
    groups: dict[str, float]

    @property
    def figures(self) -> dict[str, float | None]:
        """Return the figures by the names in `FIGURES`."""
        return {name: getattr(self, name) for name in FIGURES}


def fairness(
    values: Mapping[int, float],
    group_of: Mapping[int, str],
    minority: str | None,
    *,
    higher_is_better: bool,
) -> Fairness | None:
    """Return how evenly clients fare; None where there is no client.

    Parameters
    ----------
    values : mapping of int to float
        Each client's figure, such as the accuracy on its own rows; what is not finite counts as
        the worst there is, 0 where higher is better and infinity otherwise.
    group_of : mapping of int to str
        Each client's group; clients without one belong to none.
    minority : str or None
        The group that is the minority.
    higher_is_better : bool
        Whether a higher figure is better.
    """
    worst = 0.0 if higher_is_better else math.inf
    known = {c: v if math.isfinite(v) else worst for c, v in values.items()}
    if not known:
        return None
    ordered = sorted(known.values(), reverse=not higher_is_better)
    tenth = ordered[: math.ceil(len(ordered) / 10)]
    members: dict[str, list[float]] = {}
    for client, value in known.items():
        if client in group_of:
            members.setdefault(group_of[client], []).append(value)
    groups = {name: statistics.fmean(found) for name, found in sorted(members.items())}
    finite = all(map(math.isfinite, ordered))
    return Fairness(
        client_mean=statistics.fmean(ordered),
        worst_decile=statistics.fmean(tenth),
        client_spread=statistics.pstdev(ordered) if finite else math.inf,
        group_gap=_gap(groups.values()),
        minority=groups.get(minority) if minority is not None else None,
        groups=groups,
    )


def _gap(means: Collection[float]) -> float | None:
    if len(means) < 2:
        return None
    low, high = min(means), max(means)
    return 0.0 if low == high else high - low


def minority_of(rows: Mapping[str, int]) -> str | None:
    """Return the group that holds the fewest rows, the first by name of several; None of one.

    Parameters
    ----------
    rows : mapping of str to int
        Rows that each group's clients hold together.
    """
    if len(rows) < 2:
        return None
    return min(sorted(rows), key=lambda name: rows[name])
