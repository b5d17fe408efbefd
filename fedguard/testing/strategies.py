"""What every strategy must hold to; see `check_strategy`.

The checks of `CHECKS` take a factory, a callable that returns a fresh strategy, so that one with
state starts every check anew. A strategy declares in ``properties`` what holds beyond the common
rules:

``"translation"``
    adding one vector to all updates adds it to the result;
``"scale"``
    multiplying all updates by a positive number multiplies the result;
``"robust"``
    a fifth of hostile updates, of any size, leaves the result among the honest ones; so does one
    absurd update beside moderate attackers, unless ``"decoy-exempt"`` is declared as well; honest
    clients who share nothing are not rejected, unless ``"dissimilar-exempt"`` is; the docstring
    then says why;
``"noise"``
    the rule adds noise, so that zero updates come back only up to it.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable
from pathlib import Path
from unittest import SkipTest

import torch

from fedguard.randomness import generator
from fedguard.strategies.base import RobustStrategy
from fedguard.testing.deciding import (
    StrategyFactory,
    assert_close,
    check_verdict,
    decide,
    declared,
    only_if,
    prepare,
)
from fedguard.testing.outcome import Conformance, every_failure, run_checks
from fedguard.testing.parameters import check_arguments_of
from fedguard.testing.robustness import (
    check_decoy,
    check_dissimilar,
    check_hostile,
    check_hostile_buffers,
)
from fedguard.testing.worlds import HONEST, HOSTILE, honest_updates, with_deltas
from fedguard.traits import traits_of
from fedguard.update_store import UpdateStore
from fedguard.updates import ClientUpdates


def check_parameters(make: StrategyFactory) -> None:
    """Check that the constructor refuses absurd values of the rule's own arguments."""
    check_arguments_of(make, RobustStrategy)


def check_invariants(make: StrategyFactory) -> None:
    """Check that verdicts on honest updates have the shapes and ranges they promise."""
    with every_failure() as failures:
        for count in (5, 10, 20):
            with failures.on(f"{count} clients"):
                updates = honest_updates(count, seed=count)
                check_verdict(decide(make, updates), updates)


def check_permutation(make: StrategyFactory) -> None:
    """Check that the order of clients changes nothing, with honest and with hostile ones."""
    honest = honest_updates(HONEST)
    hostile = with_deltas(honest, honest.deltas.clone())
    hostile.deltas[:HOSTILE] = -20.0 * honest.deltas[0]
    with every_failure() as failures:
        for updates, name in ((honest, "honest clients"), (hostile, "sybil copies")):
            with failures.on(f"permutation, {name}"):
                verdict = decide(make, updates)
                for seed in (1, 2):
                    order = torch.randperm(len(updates), generator=generator(seed, 0, 0, "order"))
                    other = decide(make, updates.select(order))
                    assert_close(other.delta, verdict.delta, "delta")
                    assert_close(other.weights, verdict.weights[order], "weights")


def check_translation(make: StrategyFactory) -> None:
    """Check, where declared, that adding a vector to all updates adds it to the result."""
    only_if(make, "translation")
    updates = honest_updates(9, seed=3)
    shift = 0.3 * torch.randn(updates.layout.size, generator=generator(3, 0, 0, "shift"))
    moved = decide(make, with_deltas(updates, updates.deltas + shift)).delta
    assert_close(moved - shift, decide(make, updates).delta, "translation")


def check_scale(make: StrategyFactory) -> None:
    """Check, where declared, that multiplying all updates multiplies the result.

    The factors are powers of two, which change no digit of the updates: from about 1e-9 to 1e6.
    """
    only_if(make, "scale")
    updates = honest_updates(9, seed=4)
    delta = decide(make, updates).delta
    with every_failure() as failures:
        for power in (-30, -10, -3, 3, 10, 20):
            with failures.on(f"scale by 2^{power}"):
                scaled = decide(make, with_deltas(updates, updates.deltas * 2.0**power)).delta
                assert_close(scaled / 2.0**power, delta, "delta", tolerance=1e-6)


def check_ties(make: StrategyFactory) -> None:
    """Check identical updates (the result is that update or none) and all-zero updates."""
    properties = declared(make)
    row = honest_updates(1, seed=7).deltas
    with every_failure() as failures:
        for count in (2, 5, 12):
            updates = with_deltas(honest_updates(count), row.expand(count, -1).clone())
            with failures.on(f"ties, {count} identical updates"):
                verdict = decide(make, updates)
                check_verdict(verdict, updates)
                spread = float(verdict.weights.max() - verdict.weights.min())
                assert spread < 1e-6, f"identical updates weigh differently, by {spread:.2g}"
                if "translation" in properties:
                    assert_close(verdict.delta, row[0], "delta")
            with failures.on(f"ties, {count} zero updates"):
                zeros = with_deltas(updates, torch.zeros_like(updates.deltas))
                verdict = decide(make, zeros)
                check_verdict(verdict, zeros)
                moved = float(verdict.delta.abs().max())
                if not properties & {"noise"} and not make().needs_server_tools:
                    assert moved < 1e-6, f"zero updates moved the model by {moved:.2g}"


def check_few_clients(make: StrategyFactory) -> None:
    """Check 0, 1, 2, 3 and up to 7 clients, alone and beside one hostile client."""
    with every_failure() as failures:
        with failures.on("no clients"):
            nobody = honest_updates(1).select([])
            assert not bool(decide(make, nobody).delta.any()), "the model moved"
        for count in range(1, 8):
            updates = honest_updates(count, seed=count)
            with failures.on(f"{count} clients"):
                check_verdict(decide(make, updates), updates)
            with failures.on(f"{count} clients, one of them hostile"):
                deltas = updates.deltas.clone()
                deltas[0] = 1e8
                hostile = with_deltas(updates, deltas)
                check_verdict(decide(make, hostile), hostile)


def check_precision(make: StrategyFactory) -> None:
    """Check that a perturbation of the size of float32's rounding hardly changes the result."""
    updates = honest_updates(11, seed=8)
    stream = generator(8, 0, 0, "rounding")
    bit = 1e-7 * (2.0 * torch.rand(updates.deltas.shape, generator=stream) - 1.0)
    wide = updates.deltas.double() * (1.0 + bit.double())
    assert_close(
        decide(make, with_deltas(updates, wide)).delta,
        decide(make, updates).delta,
        "float32 against float64",
    )


def check_no_mutation(make: StrategyFactory) -> None:
    """Check that neither the updates nor the server's model and data are written to."""
    updates = honest_updates(10, seed=9)
    before = copy.deepcopy((updates.deltas, updates.num_examples, updates.global_vector))
    strategy = prepare(make)
    tools = strategy.tools
    model = None if tools is None else (tools.x.clone(), tools.y.clone())
    strategy.decide(updates)
    after = (updates.deltas, updates.num_examples, updates.global_vector)
    with every_failure() as failures, failures.on("no mutation"):
        names = ("deltas", "num_examples", "the global model")
        changed = [
            name
            for old, new, name in zip(before, after, names, strict=True)
            if not torch.equal(old, new)
        ]
        if tools is not None and model is not None:
            same = torch.equal(model[0], tools.x) and torch.equal(model[1], tools.y)
            changed += [] if same else ["the server's data"]
        assert not changed, f"the rule wrote to {', '.join(changed)}"


def check_determinism(make: StrategyFactory) -> None:
    """Check that a rule repeats itself and neither reads nor moves global random state."""
    rounds = [honest_updates(10, seed=at, server_round=at) for at in (1, 2, 3)]
    results = []
    for noise in (0, 1):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(noise)
            state = torch.get_rng_state()
            strategy = prepare(make)
            results.append([strategy.decide(updates).delta for updates in rounds])
            moved = not torch.equal(state, torch.get_rng_state())
        assert not moved, "determinism: the rule used PyTorch's global random state"
    with every_failure() as failures:
        for at, (first, second) in enumerate(zip(*results, strict=True), start=1):
            with failures.on(f"determinism, round {at}"):
                assert torch.equal(first, second), "two equal runs differ"


def check_restart(make: StrategyFactory) -> None:
    """Check that state, saved and loaded, continues as if nothing had happened."""
    rounds = [honest_updates(8, seed=at, server_round=at) for at in range(1, 6)]
    through = prepare(make)
    for updates in rounds[:3]:
        through.decide(updates)
    state = {name: value.clone() for name, value in through.state().items()}
    resumed = prepare(make)
    resumed.load_state(state)
    with every_failure() as failures:
        for updates in rounds[3:]:
            with failures.on(f"restart, round {updates.server_round}"):
                wanted = through.decide(updates).delta
                found = resumed.decide(updates).delta
                assert torch.equal(found, wanted), "a restored rule decides differently"
        with failures.on("reset"):
            through.reset()
            fresh = prepare(make).decide(rounds[0]).delta
            same = torch.equal(through.decide(rounds[0]).delta, fresh)
            assert same, "a rule that was reset decides unlike a fresh one"


def check_blocks(make: StrategyFactory) -> None:
    """Check that a rule whose traits say ``blocks`` decides over a file as over a matrix."""
    if traits_of(prepare(make)).blocks == "none":
        raise SkipTest("its traits do not say that it reads updates in blocks")
    whole, stored = prepare(make), prepare(make)
    with every_failure() as failures, tempfile.TemporaryDirectory() as folder:
        for at in (1, 2, 3):
            updates = honest_updates(10, seed=at, server_round=at)
            count, size = updates.deltas.shape
            store = UpdateStore(Path(folder), count, size, memory=8 * count * 37)
            store.write(0, updates.deltas)
            found = stored.decide(with_deltas(updates, store.begin(count)))
            wanted = whole.decide(updates)
            with failures.on(f"round {at}, blocks of 37 columns"):
                assert_close(found.delta, wanted.delta, "blocks", 1e-5)
                assert torch.equal(found.weights > 0, wanted.weights > 0), "blocks: other clients"
            store.close()


def check_changing_clients(make: StrategyFactory) -> None:
    """Check that clients may come and go between rounds."""
    strategy = prepare(make)
    cohorts = ([0, 1, 2, 3, 4], [3, 4, 5, 6], [0, 6, 7, 8, 9], [9], [1, 2, 3])
    with every_failure() as failures:
        for at, rows in enumerate(cohorts):
            with failures.on(f"round {at + 1} of changing clients"):
                updates = honest_updates(10, seed=at, server_round=at + 1).select(rows)
                check_verdict(strategy.decide(updates), updates)


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
    found, wanted = decide(make, renamed), decide(make, updates)
    assert_close(found.delta, wanted.delta, "no ground truth (client ids)")
    arguments = set(vars(prepare(make)))
    leaks = arguments & {"malicious_ids", "is_malicious", "malicious", "roles", "num_malicious"}
    assert not leaks, f"no ground truth: the rule holds {sorted(leaks)}"


CHECKS: tuple[Callable[[StrategyFactory], None], ...] = (
    check_parameters,
    check_invariants,
    check_permutation,
    check_translation,
    check_scale,
    check_hostile,
    check_hostile_buffers,
    check_decoy,
    check_dissimilar,
    check_ties,
    check_few_clients,
    check_precision,
    check_no_mutation,
    check_determinism,
    check_restart,
    check_blocks,
    check_changing_clients,
    check_no_ground_truth,
)
"""Every check of a strategy, in the order in which `check_strategy` runs them."""

QUICK_CHECKS: tuple[Callable[[StrategyFactory], None], ...] = (
    check_invariants,
    check_no_mutation,
    check_changing_clients,
)
"""The checks of a strategy that take a moment and need no cohort of any size."""


def _strategy_factory(part: RobustStrategy | StrategyFactory) -> StrategyFactory:
    if isinstance(part, RobustStrategy):
        return lambda: copy.deepcopy(part)
    return part


def check_strategy(part: RobustStrategy | StrategyFactory, *, quick: bool = False) -> Conformance:
    """Run every check of `CHECKS` on a strategy.

    Parameters
    ----------
    part : RobustStrategy or callable
        A strategy, of which copies are tested, or a callable that makes one, such as its class.
    quick : bool
        Whether to run `QUICK_CHECKS` alone, as when a third party's strategy is loaded.

    Returns
    -------
    Conformance
        What passed, and what was skipped for which reason.

    Raises
    ------
    AssertionError
        With a line for everything that failed: the check, the input and what was seen.
    """
    return run_checks(QUICK_CHECKS if quick else CHECKS, _strategy_factory(part))
