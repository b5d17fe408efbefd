"""What every strategy must hold to; see `check_strategy`.

The checks of `CHECKS` take a factory, a callable that returns a fresh strategy, so that one with
state starts every check anew. A strategy declares in ``properties`` what holds beyond the common
rules:

``"translation"``
    adding one vector to all updates adds it to the result;
``"scale"``
    multiplying all updates by a positive number multiplies the result;
``"robust"``
    a fifth of hostile updates, of any size, leaves the result among the honest ones;
``"noise"``
    the rule adds noise, so that zero updates come back only up to it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor

from fedguard.randomness import generator
from fedguard.strategies.base import RobustStrategy
from fedguard.testing.worlds import (
    HONEST,
    HOSTILE,
    HOSTILE_KINDS,
    honest_updates,
    hostile_rows,
    small_tools,
    with_deltas,
)
from fedguard.updates import ClientUpdates, Verdict

StrategyFactory = Callable[[], RobustStrategy]


def _seen(property_name: str, what: str) -> str:
    return f"{property_name}: {what}"


def _prepare(make: StrategyFactory) -> RobustStrategy:
    strategy = make()
    if strategy.needs_server_tools and strategy.tools is None:
        strategy.tools = small_tools()
    return strategy


def _decide(make: StrategyFactory, updates: ClientUpdates) -> Verdict:
    return _prepare(make).decide(updates)


def _declared(make: StrategyFactory) -> frozenset[str]:
    return frozenset(getattr(make(), "properties", frozenset()))


def _assert_close(found: Tensor, wanted: Tensor, name: str, tolerance: float = 1e-4) -> None:
    scale = float(wanted.abs().max().clamp(min=1e-12))
    gap = float((found - wanted).abs().max()) / scale
    assert gap <= tolerance, _seen(name, f"relative difference {gap:.2g}, allowed {tolerance:g}")


def check_verdict(verdict: Verdict, updates: ClientUpdates, name: str = "verdict") -> None:
    """Raise `AssertionError` unless a verdict has the shapes and ranges it promises."""
    count, size = len(updates), updates.layout.size
    delta, weights = verdict.delta, verdict.weights
    assert tuple(delta.shape) == (size,), _seen(name, f"delta is {tuple(delta.shape)}, not {size}")
    assert delta.dtype == torch.float32, _seen(name, f"delta is {delta.dtype}, not float32")
    assert bool(torch.isfinite(delta).all()), _seen(name, "delta is not finite")
    assert tuple(weights.shape) == (count,), _seen(name, f"{tuple(weights.shape)} weights")
    assert bool((weights >= 0).all()), _seen(name, "a weight is negative or NaN")
    total = float(weights.sum())
    assert abs(total - 1) < 1e-6 or total == 0, _seen(name, f"the weights add up to {total:g}")
    for key, score in verdict.scores.items():
        assert tuple(score.shape) == (count,), _seen(name, f"{key} has shape {tuple(score.shape)}")
        # A client that was rejected early may not have been measured at all.
        unknown = torch.isnan(score) & (weights > 0)
        assert not bool(unknown.any()), _seen(name, f"score {key} holds NaN")
    _check_reasons(verdict, updates, name)


def _check_reasons(verdict: Verdict, updates: ClientUpdates, name: str) -> None:
    weight = dict(zip(updates.node_ids, verdict.weights.tolist(), strict=True))
    for node, reason in verdict.reasons.items():
        assert node in weight, _seen(name, f"a reason for client {node}, who sent nothing")
        assert weight[node] == 0, _seen(name, f"client {node} has a reason and a weight")
        assert reason.strip(), _seen(name, f"the reason for client {node} is empty")
    silent = [node for node, share in weight.items() if share == 0 and node not in verdict.reasons]
    assert not silent, _seen(name, f"client {silent[:1]} was rejected without a reason")


def check_invariants(make: StrategyFactory) -> None:
    """Check that verdicts on honest updates have the shapes and ranges they promise."""
    for count in (5, 10, 20):
        updates = honest_updates(count, seed=count)
        check_verdict(_decide(make, updates), updates, f"verdict on {count} clients")


def check_permutation(make: StrategyFactory) -> None:
    """Check that the order of clients changes nothing, with honest and with hostile ones."""
    honest = honest_updates(HONEST)
    hostile = with_deltas(honest, honest.deltas.clone())
    hostile.deltas[:HOSTILE] = -20.0 * honest.deltas[0]
    for updates, name in ((honest, "permutation"), (hostile, "permutation with sybil copies")):
        verdict = _decide(make, updates)
        for seed in (1, 2):
            order = torch.randperm(len(updates), generator=generator(seed, 0, 0, "order"))
            other = _decide(make, updates.select(order))
            _assert_close(other.delta, verdict.delta, name)
            _assert_close(other.weights, verdict.weights[order], f"{name} (weights)")


def check_translation(make: StrategyFactory) -> None:
    """Check, where declared, that adding a vector to all updates adds it to the result."""
    if "translation" not in _declared(make):
        return
    updates = honest_updates(9, seed=3)
    shift = 0.3 * torch.randn(updates.layout.size, generator=generator(3, 0, 0, "shift"))
    moved = _decide(make, with_deltas(updates, updates.deltas + shift)).delta
    _assert_close(moved - shift, _decide(make, updates).delta, "translation")


def check_scale(make: StrategyFactory) -> None:
    """Check, where declared, that multiplying all updates multiplies the result."""
    if "scale" not in _declared(make):
        return
    updates = honest_updates(9, seed=4)
    delta = _decide(make, updates).delta
    for factor in (0.125, 8.0):
        scaled = _decide(make, with_deltas(updates, updates.deltas * factor)).delta
        _assert_close(scaled / factor, delta, f"scale by {factor:g}")


def check_hostile(make: StrategyFactory) -> None:
    """Check that hostile values never make the result NaN, and where declared do no harm."""
    robust = "robust" in _declared(make)
    honest = honest_updates(HONEST, seed=5)
    centre = honest.trainable.mean(dim=0)
    allowed = 1.5 * float((honest.trainable - centre).norm(dim=1).mean())
    for kind in HOSTILE_KINDS:
        rows = torch.cat([hostile_rows(kind, honest.deltas), honest.deltas])
        updates = ClientUpdates.from_matrix(
            rows,
            node_ids=range(len(rows)),
            global_vector=honest.global_vector,
            layout=honest.layout,
            server_round=1,
        )
        verdict = _decide(make, updates)
        check_verdict(verdict, updates, f"hostile {kind}")
        gap = float((verdict.delta[: len(centre)] - centre).norm())
        assert not robust or gap <= allowed, _seen(
            f"hostile {kind}", f"{gap:.3g} from the honest mean, allowed {allowed:.3g}"
        )


def check_hostile_buffers(make: StrategyFactory) -> None:
    """Check, for robust rules, that huge BatchNorm statistics do not reach the model."""
    updates = honest_updates(HONEST + HOSTILE, seed=6)
    first = updates.layout.num_trainable
    for value in (1e9, -1e9):
        deltas = updates.deltas.clone()
        deltas[:HOSTILE, first:] = value
        seen = with_deltas(updates, deltas)
        verdict = _decide(make, seen)
        check_verdict(verdict, seen, f"BatchNorm statistics of {value:g}")
        worst = float(verdict.delta[first:].abs().max())
        assert "robust" not in _declared(make) or worst < 1.0, _seen(
            "hostile buffers", f"a BatchNorm statistic moved by {worst:.3g}"
        )


def check_ties(make: StrategyFactory) -> None:
    """Check identical updates (the result is that update or none) and all-zero updates."""
    declared = _declared(make)
    for count in (2, 5, 12):
        one = honest_updates(1, seed=7)
        row = one.deltas
        updates = with_deltas(honest_updates(count), row.expand(count, -1).clone())
        verdict = _decide(make, updates)
        check_verdict(verdict, updates, f"{count} identical updates")
        spread = float(verdict.weights.max() - verdict.weights.min())
        assert spread < 1e-6, _seen("ties", f"identical updates weigh differently, by {spread:.2g}")
        if "translation" in declared:
            _assert_close(verdict.delta, row[0], f"{count} identical updates")
        zeros = with_deltas(updates, torch.zeros_like(updates.deltas))
        verdict = _decide(make, zeros)
        check_verdict(verdict, zeros, f"{count} zero updates")
        moved = float(verdict.delta.abs().max())
        if not declared & {"noise"} and not make().needs_server_tools:
            assert moved < 1e-6, _seen("ties", f"zero updates moved the model by {moved:.2g}")


def check_few_clients(make: StrategyFactory) -> None:
    """Check 0, 1, 2, 3 and up to 7 clients, alone and beside one hostile client."""
    nobody = honest_updates(1).select([])
    verdict = _decide(make, nobody)
    assert not bool(verdict.delta.any()), _seen("no clients", "the model moved")
    for count in range(1, 8):
        updates = honest_updates(count, seed=count)
        check_verdict(_decide(make, updates), updates, f"{count} clients")
        deltas = updates.deltas.clone()
        deltas[0] = 1e8
        hostile = with_deltas(updates, deltas)
        check_verdict(_decide(make, hostile), hostile, f"{count} clients, one hostile")


def check_precision(make: StrategyFactory) -> None:
    """Check that a perturbation of the size of float32's rounding hardly changes the result."""
    updates = honest_updates(11, seed=8)
    stream = generator(8, 0, 0, "rounding")
    bit = 1e-7 * (2.0 * torch.rand(updates.deltas.shape, generator=stream) - 1.0)
    wide = updates.deltas.double() * (1.0 + bit.double())
    _assert_close(
        _decide(make, with_deltas(updates, wide)).delta,
        _decide(make, updates).delta,
        "float32 against float64",
    )


def check_no_mutation(make: StrategyFactory) -> None:
    """Check that neither the updates nor the server's model and data are written to."""
    updates = honest_updates(10, seed=9)
    before = copy.deepcopy((updates.deltas, updates.num_examples, updates.global_vector))
    strategy = _prepare(make)
    tools = strategy.tools
    model = None if tools is None else (tools.x.clone(), tools.y.clone())
    strategy.decide(updates)
    after = (updates.deltas, updates.num_examples, updates.global_vector)
    for old, new, name in zip(before, after, ("deltas", "num_examples", "model"), strict=True):
        assert torch.equal(old, new), _seen("no mutation", f"the rule wrote to {name}")
    if tools is not None and model is not None:
        same = torch.equal(model[0], tools.x) and torch.equal(model[1], tools.y)
        assert same, _seen("no mutation", "the rule wrote to the server's data")


def check_determinism(make: StrategyFactory) -> None:
    """Check that a rule repeats itself and neither reads nor moves global random state."""
    rounds = [honest_updates(10, seed=at, server_round=at) for at in (1, 2, 3)]
    results = []
    for noise in (0, 1):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(noise)
            state = torch.get_rng_state()
            strategy = _prepare(make)
            results.append([strategy.decide(updates).delta for updates in rounds])
            moved = not torch.equal(state, torch.get_rng_state())
        assert not moved, _seen("determinism", "the rule used PyTorch's global random state")
    for first, second in zip(*results, strict=True):
        assert torch.equal(first, second), _seen("determinism", "two equal runs differ")


def check_restart(make: StrategyFactory) -> None:
    """Check that state, saved and loaded, continues as if nothing had happened."""
    rounds = [honest_updates(8, seed=at, server_round=at) for at in range(1, 6)]
    through = _prepare(make)
    for updates in rounds[:3]:
        through.decide(updates)
    state = {name: value.clone() for name, value in through.state().items()}
    resumed = _prepare(make)
    resumed.load_state(state)
    fresh, again = _prepare(make), through
    for updates in rounds[3:]:
        wanted = again.decide(updates).delta
        found = resumed.decide(updates).delta
        assert torch.equal(found, wanted), _seen("restart", "a restored rule decides differently")
    through.reset()
    same = torch.equal(through.decide(rounds[0]).delta, fresh.decide(rounds[0]).delta)
    assert same, _seen("reset", "a rule that was reset decides unlike a fresh one")


def check_changing_clients(make: StrategyFactory) -> None:
    """Check that clients may come and go between rounds."""
    strategy = _prepare(make)
    for at, rows in enumerate(([0, 1, 2, 3, 4], [3, 4, 5, 6], [0, 6, 7, 8, 9], [9], [1, 2, 3])):
        updates = honest_updates(10, seed=at, server_round=at + 1).select(rows)
        check_verdict(strategy.decide(updates), updates, f"round {at + 1} of changing clients")


def check_no_ground_truth(make: StrategyFactory) -> None:
    """Check that who is called what, and claimed sizes up to the claim's share, decide nothing.

    A rule that knew which ids are malicious would change with them.
    """
    updates = honest_updates(10, seed=10)
    renamed = ClientUpdates.from_matrix(
        updates.deltas,
        updates.num_examples,
        [9000 + node for node in updates.node_ids],
        updates.global_vector,
        updates.layout,
        server_round=updates.server_round,
    )
    found, wanted = _decide(make, renamed), _decide(make, updates)
    _assert_close(found.delta, wanted.delta, "no ground truth (client ids)")
    arguments = set(vars(_prepare(make)))
    leaks = arguments & {"malicious_ids", "is_malicious", "malicious", "roles", "num_malicious"}
    assert not leaks, _seen("no ground truth", f"the rule holds {sorted(leaks)}")


CHECKS: tuple[Callable[[StrategyFactory], None], ...] = (
    check_invariants,
    check_permutation,
    check_translation,
    check_scale,
    check_hostile,
    check_hostile_buffers,
    check_ties,
    check_few_clients,
    check_precision,
    check_no_mutation,
    check_determinism,
    check_restart,
    check_changing_clients,
    check_no_ground_truth,
)
"""Every check of a strategy, in the order in which `check_strategy` runs them."""


def _strategy_factory(part: RobustStrategy | StrategyFactory) -> StrategyFactory:
    if isinstance(part, RobustStrategy):
        return lambda: copy.deepcopy(part)
    return part


def check_strategy(part: RobustStrategy | StrategyFactory) -> None:
    """Run every check of `CHECKS` on a strategy.

    Parameters
    ----------
    part : RobustStrategy or callable
        A strategy, of which copies are tested, or a callable that makes one, such as its class.

    Raises
    ------
    AssertionError
        With a sentence that says which property failed and what was seen.
    """
    make = _strategy_factory(part)
    for check in CHECKS:
        check(make)
