"""What a rule that calls itself robust must withstand: hostile rows, decoys beside attackers."""

from __future__ import annotations

import inspect
from unittest import SkipTest

import torch

from fedguard.testing.deciding import (
    StrategyFactory,
    check_verdict,
    decide,
    declared,
    only_if,
    prepare,
)
from fedguard.testing.outcome import every_failure
from fedguard.testing.worlds import (
    DECOY_KINDS,
    DECOY_SIZES,
    DECOY_STRENGTHS,
    HONEST,
    HOSTILE,
    HOSTILE_KINDS,
    decoy_updates,
    dissimilar_updates,
    honest_updates,
    hostile_rows,
    with_deltas,
)
from fedguard.updates import ClientUpdates

REACH = 1.5
"""How far an aggregate may lie from the honest mean, in mean distances of the honest from it."""


def check_hostile(make: StrategyFactory) -> None:
    """Check that hostile values never make the result NaN, and where declared do no harm."""
    robust = "robust" in declared(make)
    honest = honest_updates(HONEST, seed=5)
    with every_failure() as failures:
        for kind in HOSTILE_KINDS:
            with failures.on(f"hostile {kind}"):
                rows = torch.cat([hostile_rows(kind, honest.deltas), honest.deltas])
                updates = ClientUpdates.from_matrix(
                    rows,
                    node_ids=range(len(rows)),
                    global_vector=honest.global_vector,
                    layout=honest.layout,
                    server_round=1,
                )
                verdict = decide(make, updates)
                check_verdict(verdict, updates)
                if robust:
                    _check_near(verdict.delta, honest)


def check_hostile_buffers(make: StrategyFactory) -> None:
    """Check, for robust rules, that huge BatchNorm statistics do not reach the model."""
    robust = "robust" in declared(make)
    updates = honest_updates(HONEST + HOSTILE, seed=6)
    first = updates.layout.num_trainable
    with every_failure() as failures:
        for value in (1e9, -1e9):
            with failures.on(f"hostile buffers, BatchNorm statistics of {value:g}"):
                deltas = updates.deltas.clone()
                deltas[:HOSTILE, first:] = value
                seen = with_deltas(updates, deltas)
                verdict = decide(make, seen)
                check_verdict(verdict, seen)
                worst = float(verdict.delta[first:].abs().max())
                assert not robust or worst < 1.0, f"a BatchNorm statistic moved by {worst:.3g}"


def check_decoy(make: StrategyFactory) -> None:
    """Check, for robust rules, that one absurd but finite client hides no moderate attackers.

    A client of size 1e2 to 1e9 stands beside moderate attackers and the honest (see
    `decoy_updates`); the aggregate must stay within `REACH` mean honest distances of the honest
    mean. A rule that cannot, because its paper's formula lets one client own what it measures,
    declares ``"decoy-exempt"`` and says why in its docstring, with the word "decoy".
    """
    only_if(make, "robust")
    if "decoy-exempt" in declared(make):
        told = "decoy" in (inspect.getdoc(type(make())) or "")
        assert told, 'declares "decoy-exempt", and its docstring does not say why (word "decoy")'
        raise SkipTest('the rule declares "decoy-exempt"; its docstring says why')
    with every_failure() as failures:
        for strength in DECOY_STRENGTHS:
            for kind in DECOY_KINDS:
                for size in DECOY_SIZES:
                    what = f"decoy of {size:g} ({kind}) beside attackers of strength {strength:g}"
                    with failures.on(what):
                        updates, honest = decoy_updates(kind, size, strength)
                        verdict = decide(make, updates)
                        check_verdict(verdict, updates)
                        _check_near(verdict.delta, honest)


def check_dissimilar(make: StrategyFactory) -> None:
    """Check, for robust rules, that honest clients who share nothing are left in peace.

    Nobody attacks in three rounds of `dissimilar_updates`; at least half of the clients must count
    in each. A rule that keeps a few clients by design, or compares clients with something that
    these have nothing to do with, declares ``"dissimilar-exempt"`` and says why in its docstring,
    with the word "dissimilar".
    """
    only_if(make, "robust")
    if "dissimilar-exempt" in declared(make):
        told = "dissimilar" in (inspect.getdoc(type(make())) or "")
        assert told, 'declares "dissimilar-exempt", and its docstring does not say why'
        raise SkipTest('the rule declares "dissimilar-exempt"; its docstring says why')
    strategy = prepare(make)
    with every_failure() as failures:
        for server_round in (1, 2, 3):
            with failures.on(f"dissimilar honest clients, round {server_round}"):
                updates = dissimilar_updates(server_round)
                verdict = strategy.decide(updates)
                check_verdict(verdict, updates)
                kept = int((verdict.weights > 0).sum())
                reason = next(iter(verdict.reasons.values()), "")
                assert 2 * kept >= len(updates), f"{kept} of {len(updates)} kept: {reason}"


def _check_near(delta: torch.Tensor, honest: ClientUpdates) -> None:
    """Raise `AssertionError` unless an aggregate lies among the honest updates."""
    centre = honest.trainable.mean(dim=0)
    allowed = REACH * float((honest.trainable - centre).norm(dim=1).mean())
    gap = float((delta[: len(centre)] - centre).norm())
    assert gap <= allowed, f"{gap:.3g} from the honest mean, allowed {allowed:.3g}"
