"""What every repair must hold to; see `check_repair`."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from fedguard.randomness import generator
from fedguard.strategies.toolkit.server_tools import ServerTools
from fedguard.testing.outcome import Conformance, every_failure, run_checks
from fedguard.testing.parameters import check_arguments_of
from fedguard.testing.worlds import small_tools
from fedguard.traits import traits_of

RepairFactory = Callable[[], Any]


def _mended(repair: Any, tools: ServerTools) -> tuple[dict[str, Tensor], Mapping[str, Any]]:
    figures = repair.mend(tools, generator(0, 1, 0, "repair"))
    return {n: value.clone() for n, value in tools.model.state_dict().items()}, figures


def check_repair_parameters(make: RepairFactory) -> None:
    """Check that the constructor refuses absurd values, and that the traits are traits."""
    traits_of(make())
    check_arguments_of(make, object)


def check_model_kept(make: RepairFactory) -> None:
    """Check that a mended model has the same tensors, finite, and that rows stay as they are."""
    with every_failure() as failures:
        for scale in (1.0, 0.0, 100.0):
            with failures.on(f"mend, a model times {scale:g}"):
                tools = small_tools()
                with torch.no_grad():
                    for value in tools.model.parameters():
                        value.mul_(scale)
                before = {n: tuple(v.shape) for n, v in tools.model.state_dict().items()}
                x, y = tools.x.clone(), tools.y.clone()
                state, _ = _mended(make(), tools)
                shapes = {n: tuple(v.shape) for n, v in state.items()}
                assert shapes == before, "the model has other tensors than before"
                finite = all(bool(torch.isfinite(v.float()).all()) for v in state.values())
                assert finite, "the mended model is not finite"
                kept = torch.equal(x, tools.x) and torch.equal(y, tools.y)
                assert kept, "no mutation: the server's rows changed"


def check_figures(make: RepairFactory) -> None:
    """Check that what a repair tells are finite numbers, or rows or tables of them, with names."""
    _, figures = _mended(make(), small_tools())
    assert isinstance(figures, Mapping), f"mend returned {type(figures).__name__}, no mapping"
    for name, value in figures.items():
        good = isinstance(name, str) and _finite(value)
        assert good, f"figure {name!r} is {value!r}"
        assert name not in ("round", "repair", "seconds"), f"figure {name!r} is the record's own"


def _finite(value: object, depth: int = 2) -> bool:
    """Return whether it is a finite number, or a list of such, or of lists of such."""
    if isinstance(value, list | tuple):
        return depth > 0 and all(_finite(each, depth - 1) for each in value)
    return isinstance(value, int | float) and math.isfinite(value)


def check_repair_determinism(make: RepairFactory) -> None:
    """Check that only the given generator decides, not global random state."""
    found = []
    for noise in (0, 1):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(noise)
            found.append(_mended(make(), small_tools())[0])
    same = all(torch.equal(value, found[1][name]) for name, value in found[0].items())
    assert same, "determinism: equal generators mended differently"


def check_frozen(make: RepairFactory) -> None:
    """Check that frozen parameters stay frozen and as they are: clients never receive them."""
    tools = small_tools()
    first = next(iter(tools.model.parameters()))
    first.requires_grad_(False)
    before = first.clone()
    _mended(make(), tools)
    now = next(iter(tools.model.parameters()))
    assert torch.equal(now, before), "a frozen parameter changed"
    assert not now.requires_grad, "a frozen parameter was set free"


REPAIR_CHECKS: tuple[Callable[[RepairFactory], None], ...] = (
    check_repair_parameters,
    check_model_kept,
    check_figures,
    check_repair_determinism,
    check_frozen,
)
"""Every check of a repair, in the order in which `check_repair` runs them."""


def check_repair(part: Any) -> Conformance:
    """Run every check of `REPAIR_CHECKS` on a repair.

    Parameters
    ----------
    part : Repair or callable
        A repair, of which copies are tested, or a callable that makes one, such as its class.

    Returns
    -------
    Conformance
        What passed, and what was skipped for which reason.

    Raises
    ------
    AssertionError
        With a line for everything that failed: the check, the input and what was seen.
    """
    made = hasattr(part, "mend") and not isinstance(part, type)
    make: RepairFactory = (lambda: copy.deepcopy(part)) if made else part
    return run_checks(REPAIR_CHECKS, make)
