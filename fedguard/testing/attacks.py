"""What every attack must hold to; see `check_attack`."""

from __future__ import annotations

import copy
from collections.abc import Callable
from unittest import SkipTest

import torch
from torch import Tensor

from fedguard.attacks.base import NEEDS, Attack, Knowledge, KnowledgeScope
from fedguard.randomness import generator
from fedguard.strategies.toolkit.coordinates import coordinate_median
from fedguard.testing.outcome import Conformance, every_failure, run_checks
from fedguard.testing.parameters import check_arguments_of
from fedguard.testing.worlds import honest_updates
from fedguard.training.base import LocalStep
from fedguard.updates import ClientUpdates, Verdict

AttackFactory = Callable[[], Attack]

_CLASSES = 10
_SHAPE = (1, 28, 28)
_SCOPES: tuple[KnowledgeScope, ...] = ("partial", "full")


_HOOKS = {
    "craft": "updates",
    "poison": "data",
    "local_step": "training",
    "prepare": "model",
}
"""What an attack must need for a hook of its own ever to be called."""


def _prepare(make: AttackFactory) -> Attack:
    attack = make()
    attack.bind(_CLASSES, _SHAPE)
    return attack


def _examples(count: int) -> tuple[Tensor, Tensor]:
    stream = generator(1, 0, 0, "examples")
    return torch.rand(count, *_SHAPE, generator=stream), torch.arange(count) % _CLASSES


def _knowledge(
    honest: ClientUpdates, malicious: int, scope: KnowledgeScope
) -> tuple[ClientUpdates, Knowledge]:
    coalition = honest.select(range(malicious))
    knowledge = Knowledge(
        scope=scope,
        updates=coalition if scope == "partial" else honest.select(range(malicious, len(honest))),
        cohort_size=len(honest),
        num_malicious=malicious,
        server_round=1,
        generator=generator(2, 1, 0, "coalition"),
        defence="median",
        aggregate=lambda updates: coordinate_median(updates.deltas),
        verdicts=lambda rounds: [_median(updates) for updates in rounds],
    )
    return coalition, knowledge


def _median(updates: ClientUpdates) -> Verdict:
    shares = torch.full((len(updates),), 1.0 / len(updates))
    return Verdict(coordinate_median(updates.deltas), shares)


def check_attack_parameters(make: AttackFactory) -> None:
    """Check that the constructor refuses absurd values of the attack's arguments."""
    check_arguments_of(make, Attack)


def check_needs(make: AttackFactory) -> None:
    """Check that every need is known, and that no hook waits for one that is not declared."""
    attack = make()
    needs = frozenset(getattr(attack, "needs", frozenset()))
    with every_failure() as failures:
        for need in sorted(needs - NEEDS):
            with failures.on(f"needs {need!r}"):
                raise AssertionError(f"unknown; one of {', '.join(sorted(NEEDS))}")
        for hook, need in _HOOKS.items():
            with failures.on(hook):
                own = getattr(type(attack), hook, None) is not getattr(Attack, hook)
                assert not own or need in needs, f"never called: {need!r} is not among its needs"


def check_craft_shape(make: AttackFactory) -> None:
    """Check that every size of coalition gets one row per member, finite unless declared."""
    with every_failure() as failures:
        for malicious, count in ((1, 5), (2, 4), (4, 20), (1, 1 + 1)):
            for scope in _SCOPES:
                with failures.on(f"craft, {malicious} of {count} clients, {scope} knowledge"):
                    _check_rows(make, malicious, count, scope)


def _check_rows(make: AttackFactory, malicious: int, count: int, scope: KnowledgeScope) -> None:
    coalition, knowledge = _knowledge(honest_updates(count), malicious, scope)
    attack = _prepare(make)
    rows = attack.craft(coalition, knowledge)
    wanted = (malicious, coalition.layout.size)
    assert tuple(rows.shape) == wanted, f"{tuple(rows.shape)}, not {wanted}"
    assert rows.dtype == torch.float32, f"{rows.dtype}, not float32"
    finite = bool(torch.isfinite(rows).all())
    assert finite or not getattr(attack, "finite", True), "not finite"


def check_craft_no_mutation(make: AttackFactory) -> None:
    """Check that crafting writes to nobody's updates."""
    coalition, knowledge = _knowledge(honest_updates(12), 3, "full")
    before = (coalition.deltas.clone(), knowledge.updates.deltas.clone())
    _prepare(make).craft(coalition, knowledge)
    assert torch.equal(before[0], coalition.deltas), "no mutation: the coalition's updates changed"
    assert torch.equal(before[1], knowledge.updates.deltas), "no mutation: honest updates changed"


def check_craft_determinism(make: AttackFactory) -> None:
    """Check that only the given generator decides, not global random state."""
    results = []
    for noise in (0, 1):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(noise)
            results.append(_prepare(make).craft(*_knowledge(honest_updates(12), 3, "full")))
    same = torch.equal(torch.nan_to_num(results[0]), torch.nan_to_num(results[1]))
    assert same, "determinism: equal generators gave different updates"


def check_craft_order(make: AttackFactory) -> None:
    """Check that the order in which the attacker sees honest updates decides nothing."""
    coalition, knowledge = _knowledge(honest_updates(12), 3, "full")
    rows = _prepare(make).craft(coalition, knowledge)
    coalition, knowledge = _knowledge(honest_updates(12), 3, "full")
    order = torch.randperm(9, generator=generator(3, 0, 0, "order"))
    other = Knowledge(**{**vars(knowledge), "updates": knowledge.updates.select(order)})
    found = _prepare(make).craft(coalition, other)
    same = torch.allclose(torch.nan_to_num(rows), torch.nan_to_num(found), rtol=1e-3, atol=1e-5)
    assert same, "permutation: crafted updates depend on the order of the visible ones"


def check_poison(make: AttackFactory) -> None:
    """Check that poisoned data keep their form and that the originals stay as they are."""
    served = make().tasks
    if served is not None and "classification" not in served:
        raise SkipTest("the attack poisons rows of another task than classification")
    with every_failure() as failures:
        for count in (1, 7, 64):
            with failures.on(f"poison, {count} examples"):
                x, y = _examples(count)
                _check_poisoned(_prepare(make), x, y)


def check_poison_sequences(make: AttackFactory) -> None:
    """Check, for attacks on the data of every task, sequences of tokens with a label each."""
    attack = _prepare(make)
    if "data" not in attack.needs or attack.tasks is not None:
        raise SkipTest("the attack does not poison the data of every task")
    stream = generator(6, 0, 0, "sequences")
    x = torch.randint(0, _CLASSES, (8, 5), generator=stream)
    y = torch.randint(0, _CLASSES, (8, 5), generator=stream)
    with every_failure() as failures, failures.on("poison, 8 sequences of 5 tokens"):
        _check_poisoned(attack, x, y)


def _check_poisoned(attack: Attack, x: Tensor, y: Tensor) -> None:
    before = (x.clone(), y.clone())
    seen = []
    for _ in range(2):
        seen.append(attack.poison(x, y, generator(4, 1, 0, "poison")))
        same = torch.equal(before[0], x) and torch.equal(before[1], y)
        assert same, "no mutation: poisoning changed the originals"
    new_x, new_y = seen[0]
    assert new_x.shape[1:] == x.shape[1:], f"examples became {tuple(new_x.shape)}"
    assert len(new_x) == len(new_y), f"{len(new_x)} examples, {len(new_y)} labels"
    assert new_y.shape[1:] == y.shape[1:], f"labels became {tuple(new_y.shape)}"
    assert new_y.dtype == y.dtype, f"labels became {new_y.dtype}"
    within = bool(((new_y >= 0) & (new_y < _CLASSES)).all())
    assert within, f"a label lies outside 0 to {_CLASSES - 1}"
    assert bool(torch.isfinite(new_x).all()), "an example is not finite"
    equal = torch.equal(new_x, seen[1][0]) and torch.equal(new_y, seen[1][1])
    assert equal, "determinism: equal generators poisoned differently"


def check_trigger(make: AttackFactory) -> None:
    """Check that the trigger keeps shapes, is the same each time and writes to no original."""
    served = make().tasks
    if served is not None and "classification" not in served:
        raise SkipTest("the attack's rows are those of another task than classification")
    x, _ = _examples(9)
    before = x.clone()
    attack = _prepare(make)
    stamped = attack.trigger(x)
    assert torch.equal(before, x), "no mutation: the trigger was stamped on the originals"
    assert stamped.shape == x.shape, f"trigger: examples became {tuple(stamped.shape)}"
    assert bool(torch.isfinite(stamped).all()), "trigger: an example is not finite"
    assert torch.equal(stamped, attack.trigger(x)), "trigger: two stampings differ"
    if attack.backdoor:
        assert not torch.equal(stamped, x), "trigger: a backdoor whose trigger changes nothing"
        assert attack.target_class is not None, "trigger: a backdoor without a target class"
        within = 0 <= attack.target_class < _CLASSES
        assert within, f"trigger: target class {attack.target_class}"


def check_local_step(make: AttackFactory) -> None:
    """Check that a local step leaves finite parameters, in the first round and later."""
    for last in (None, [torch.ones(3, 2), torch.zeros(2)]):
        parameters = [torch.nn.Parameter(torch.ones(3, 2)), torch.nn.Parameter(torch.ones(2))]
        start = [value.detach().clone() for value in parameters]
        for value in parameters:
            value.grad = torch.full_like(value, 0.5)
        step = LocalStep(parameters, start, last)

        def update(values: list[torch.nn.Parameter] = parameters) -> None:
            with torch.no_grad():
                for value in values:
                    if value.grad is not None:
                        value.add_(value.grad, alpha=-0.1)

        _prepare(make).local_step(step, update)
        finite = all(bool(torch.isfinite(value).all()) for value in parameters)
        assert finite, "local step: a parameter is not finite"
        kept = all(torch.equal(a, torch.ones_like(a)) for a in start)
        assert kept, "no mutation: a local step changed the global model's parameters"


ATTACK_CHECKS: tuple[Callable[[AttackFactory], None], ...] = (
    check_attack_parameters,
    check_needs,
    check_craft_shape,
    check_craft_no_mutation,
    check_craft_determinism,
    check_craft_order,
    check_poison,
    check_poison_sequences,
    check_trigger,
    check_local_step,
)
"""Every check of an attack, in the order in which `check_attack` runs them."""

QUICK_ATTACK_CHECKS: tuple[Callable[[AttackFactory], None], ...] = (
    check_needs,
    check_craft_no_mutation,
    check_trigger,
    check_local_step,
)
"""The checks of an attack that take a moment."""


def check_attack(part: Attack | AttackFactory, *, quick: bool = False) -> Conformance:
    """Run every check of `ATTACK_CHECKS` on an attack.

    An attack whose crafted updates are meant not to be finite says so with ``finite = False``.

    Parameters
    ----------
    part : Attack or callable
        An attack, of which copies are tested, or a callable that makes one, such as its class.
    quick : bool
        Whether to run `QUICK_ATTACK_CHECKS` alone, as when a third party's attack is loaded.

    Returns
    -------
    Conformance
        What passed, and what was skipped for which reason.

    Raises
    ------
    AssertionError
        With a line for everything that failed: the check, the input and what was seen.
    """
    make: AttackFactory = (lambda: copy.deepcopy(part)) if isinstance(part, Attack) else part
    return run_checks(QUICK_ATTACK_CHECKS if quick else ATTACK_CHECKS, make)
