"""What every task must hold to; see `check_task`."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fedguard.tasks.base import Task
from fedguard.testing.outcome import Conformance, every_failure, run_checks

_STEPS = 60


@dataclass(frozen=True)
class TaskCase:
    """A task with a model and rows to try it on; each check takes a fresh one."""

    task: Task
    module: nn.Module
    x: Tensor
    y: Tensor

    def output(self, rows: slice | Tensor) -> Any:
        """Return the model's output on some rows."""
        return self.module.eval()(self.x[rows])


CaseFactory = Callable[[], TaskCase]


def check_losses(make: CaseFactory) -> None:
    """Check that every row has one finite loss of its own, which can be descended."""
    case = make()
    count = len(case.y)
    losses = case.task.losses(case.output(slice(None)), case.y)
    assert tuple(losses.shape) == (count,), f"{count} rows have losses {tuple(losses.shape)}"
    assert bool(torch.isfinite(losses).all()), "a loss is not finite"
    assert losses.requires_grad, "losses have no gradient"
    with every_failure() as failures:
        for row in {0, count // 2, count - 1}:
            with failures.on(f"losses, row {row} alone"):
                alone = case.task.losses(case.output(slice(row, row + 1)), case.y[row : row + 1])
                same = torch.allclose(alone[0], losses[row], rtol=1e-3, atol=1e-5)
                assert same, f"{float(alone[0]):g}, among others {float(losses[row]):g}"


def check_evaluate(make: CaseFactory) -> None:
    """Check that evaluation tells headline and loss, repeats, and leaves model and rows alone."""
    case = make()
    before = {name: value.clone() for name, value in case.module.state_dict().items()}
    x, y = case.x.clone(), case.y.clone()
    found = case.task.evaluate(case.module, case.x, case.y)
    for name in (case.task.headline, "loss"):
        assert isinstance(found.get(name), int | float), f"evaluate tells no number {name!r}"
        assert math.isfinite(found[name]), f"evaluate: {name} is {found[name]}"
    kept = all(torch.equal(value, before[n]) for n, value in case.module.state_dict().items())
    assert kept, "no mutation: evaluation changed the model"
    kept = torch.equal(x, case.x) and torch.equal(y, case.y)
    assert kept, "no mutation: rows changed"
    again = case.task.evaluate(case.module, case.x, case.y)
    assert _numbers(found) == _numbers(again), "determinism: two evaluations differ"
    order = torch.arange(len(y)).flip(0)
    turned = case.task.evaluate(case.module, case.x[order], case.y[order])
    for name in (case.task.headline, "loss"):
        same = math.isclose(found[name], turned[name], rel_tol=1e-3, abs_tol=1e-6)
        assert same, f"order: {name} is {found[name]:g}, and {turned[name]:g} on rows turned round"


def check_headline(make: CaseFactory) -> None:
    """Check that a model that was trained on the rows has a lower loss and a better headline."""
    case = make()
    before = case.task.evaluate(case.module, case.x, case.y)
    case.module.train()
    optimiser = torch.optim.Adam([p for p in case.module.parameters() if p.requires_grad], lr=0.02)
    for _ in range(_STEPS):
        optimiser.zero_grad()
        torch.autograd.backward(case.task.losses(case.module(case.x), case.y).mean())
        optimiser.step()
    after = case.task.evaluate(case.module, case.x, case.y)
    assert after["loss"] < before["loss"], f"loss: {before['loss']:g}, trained {after['loss']:g}"
    name, sign = case.task.headline, 1 if case.task.higher_is_better else -1
    better = sign * (after[name] - before[name]) > 0
    word = "higher" if sign > 0 else "lower"
    assert better, f"{name}: {word} is said to be better, but {before[name]:g} -> {after[name]:g}"


def check_strata(make: CaseFactory) -> None:
    """Check that every row has one group, from 0."""
    case = make()
    strata = case.task.strata(case.y)
    assert tuple(strata.shape) == (len(case.y),), f"strata of shape {tuple(strata.shape)}"
    assert strata.dtype == torch.int64, f"strata are {strata.dtype}, not int64"
    assert int(strata.min()) >= 0, "a stratum is below 0"


def check_form(make: CaseFactory) -> None:
    """Check that samples fit the model, and that an output of another form is found out."""
    case = make()
    sample = case.task.sample(tuple(case.x.shape[1:]), 3)
    assert len(sample) == 3, f"3 samples were asked for, {len(sample)} came"
    assert sample.dtype == case.task.dtype, f"samples are {sample.dtype}, not {case.task.dtype}"
    output = case.module.eval()(sample)
    classes = int(output.shape[-1]) if isinstance(output, Tensor) and output.ndim > 1 else 1
    fault = case.task.output_fault(output, 3, classes)
    assert fault is None, f"a good output is refused: {fault}"
    with every_failure() as failures:
        for told, bad in (("one row too few", output[:2]), ("no tensor", None)):
            with failures.on(f"output_fault, {told}"):
                assert case.task.output_fault(bad, 3, classes) is not None, "accepted"


def _numbers(found: Mapping[str, Any]) -> dict[str, float]:
    return {n: float(v) for n, v in found.items() if isinstance(v, int | float)}


TASK_CHECKS: tuple[Callable[[CaseFactory], None], ...] = (
    check_losses,
    check_evaluate,
    check_headline,
    check_strata,
    check_form,
)
"""Every check of a task, in the order in which `check_task` runs them."""


def check_task(
    part: Task | Callable[[], Task], module: nn.Module, x: Tensor, y: Tensor
) -> Conformance:
    """Run every check of `TASK_CHECKS` on a task.

    Parameters
    ----------
    part : Task or callable
        A task, or a callable that makes one, such as its class.
    module : nn.Module
        An untrained model; copies of it are used.
    x, y : Tensor
        (N, ...) rows that the model can learn, N at least 3.

    Returns
    -------
    Conformance
        What passed, and what was skipped for which reason.

    Raises
    ------
    AssertionError
        With a line for everything that failed: the check, the input and what was seen.
    """

    def make() -> TaskCase:
        task = part if isinstance(part, Task) else part()
        return TaskCase(task, copy.deepcopy(module), x.clone(), y.clone())

    return run_checks(TASK_CHECKS, make)
