"""Groups of clients whose encrypted sums a robust rule may look at.

With a fraction beta of malicious clients a group of m is clean with probability (1 - beta)^m, and
hides a client from the server and up to m - 2 colluding members of its group.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from fedguard import registry
from fedguard.encryption.protocol.weights import GroupMean
from fedguard.errors import ConfigurationError
from fedguard.randomness import SERVER, numpy_generator
from fedguard.strategies.base import RobustStrategy
from fedguard.updates import ClientUpdates, Verdict

MEAN = "fedavg"
"""The one rule that needs no groups."""


def draw_groups(cohort: Sequence[int], size: int, seed: int) -> list[tuple[int, ...]]:
    """Divide a cohort into groups of `size`, or one more where it does not divide evenly.

    The same cohort is always divided in the same way: sums over changing groups would add up to
    equations for single clients.

    Parameters
    ----------
    cohort : sequence of int
        Parties.
    size : int
        Smallest group; 0 for one group of all.
    seed : int
        Seed of the division.
    """
    parties = sorted(cohort)
    if not size or len(parties) < 2 * size:
        return [tuple(parties)]
    order = numpy_generator(seed, 0, SERVER, "groups").permutation(len(parties))
    shuffled = [parties[position] for position in order]
    count = len(parties) // size
    return [tuple(sorted(shuffled[index::count])) for index in range(count)]


def make_rule(
    rule: str | Mapping[str, Any], groups: int, assumed_malicious: float, seed: int
) -> RobustStrategy:
    """Return the rule that combines group means.

    Parameters
    ----------
    rule : str or mapping
        Registered name, or a mapping with ``name`` and arguments.
    groups : int
        Group size m; 0 for one group of all.
    assumed_malicious : float
        Assumed fraction beta of malicious clients; the rule is told beta m, as if each malicious
        client sat in a group of its own, but less than one half.
    seed : int
        Seed of the rule's random choices.

    Raises
    ------
    ConfigurationError
        If there are no groups and the rule is not the mean.
    """
    arguments = {"name": rule} if isinstance(rule, str) else dict(rule)
    name = str(arguments.pop("name", MEAN))
    if not groups and name != MEAN:
        raise ConfigurationError(
            "rule",
            name,
            f"{MEAN}, since no rule can look inside ciphertexts; set groups=m to let {name} "
            "combine the means of groups of m clients",
        )
    known = registry.parameters(registry.find("strategy", name))
    decided = {"seed": seed, "assumed_malicious": min(assumed_malicious * max(groups, 1), 0.49)}
    filled = {key: value for key, value in decided.items() if key in known}
    made = registry.create("strategy", name, **{**filled, **arguments})
    if not isinstance(made, RobustStrategy):
        raise ConfigurationError("rule", name, "one of fedguard's strategies")
    return made


def group_updates(means: Sequence[GroupMean], like: ClientUpdates) -> ClientUpdates:
    """Return the updates that a rule sees: one row per group, with the meta data of `like`."""
    return ClientUpdates.from_matrix(
        torch.stack([torch.from_numpy(mean.mean).to(torch.float32) for mean in means]),
        num_examples=[max(mean.num_examples, 1.0) for mean in means],
        global_vector=like.global_vector,
        layout=like.layout,
        server_round=like.server_round,
    )


def client_view(
    means: Sequence[GroupMean],
    seen: ClientUpdates,
    verdict: Verdict,
    malformed: Mapping[int, str],
) -> tuple[ClientUpdates, Verdict]:
    """Return updates and verdict as if per client: each has the row and the fate of its group.

    Parameters
    ----------
    means : sequence of GroupMean
        The groups' means.
    seen, verdict : ClientUpdates and Verdict
        What the rule saw and said, one row per group.
    malformed : mapping of int to str
        Clients that are in no mean, and why.
    """
    pairs = sorted((p, index) for index, mean in enumerate(means) for p in mean.contributors)
    parties, groups = [party for party, _ in pairs], [index for _, index in pairs]
    sizes = torch.tensor([len(mean.contributors) for mean in means], dtype=torch.float64)
    row_of = {group: row for row, group in enumerate(seen.node_ids)}
    weights = torch.zeros(len(means), dtype=torch.float64)
    weights[list(row_of)] = verdict.weights.to(torch.float64)
    scores = {}
    for name, values in verdict.scores.items():
        whole = torch.zeros(len(means), dtype=values.dtype)
        whole[list(row_of)] = values
        scores[name] = whole[groups]
    why = {**seen.malformed, **verdict.reasons}
    updates = ClientUpdates(
        deltas=torch.stack([torch.from_numpy(mean.mean).to(torch.float32) for mean in means])[
            groups
        ],
        num_examples=torch.tensor(
            [means[g].num_examples / len(means[g].contributors) for g in groups],
            dtype=torch.float64,
        ),
        node_ids=tuple(parties),
        global_vector=seen.global_vector,
        layout=seen.layout,
        malformed=dict(malformed),
        server_round=seen.server_round,
    )
    reasons = {
        party: f"its group's mean was rejected: {why[group]}"
        for party, group in zip(parties, groups, strict=True)
        if group in why
    }
    return updates, Verdict(verdict.delta, (weights / sizes)[groups], scores, reasons)
