"""What every audit must hold to; see `check_audit`."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fedguard.randomness import generator
from fedguard.records.writer import jsonable
from fedguard.testing.outcome import Conformance, every_failure, run_checks
from fedguard.testing.parameters import check_arguments_of
from fedguard.traits import traits_of

_ROUNDS = 4
_OWN = ("round", "audit")


@dataclass(frozen=True)
class AuditCase:
    """How to make an audit, and the run that it is shown."""

    make: Callable[[], Any]
    scene: Any

    def opened(self) -> Any:
        """Return an audit that knows its run."""
        audit = self.make()
        audit.open(self.scene)
        return audit

    def vector(self, server_round: int) -> Tensor:
        """Return the (D,) global model of a round."""
        whole: Tensor = self.scene.model.layout.flatten(
            {n: v.cpu() for n, v in self.scene.model.module.state_dict().items()}
        )
        stream = generator(0, server_round, 0, "audited model")
        return whole + 0.01 * torch.randn(len(whole), generator=stream)


CaseFactory = Callable[[], AuditCase]


def _stream(server_round: int) -> torch.Generator:
    return generator(0, server_round, 0, "audit")


def check_audit_parameters(make: CaseFactory) -> None:
    """Check that the constructor refuses absurd values, and that the traits are traits."""
    case = make()
    traits_of(case.make())
    check_arguments_of(case.make, object)


def check_due(make: CaseFactory) -> None:
    """Check that due says yes or no, and yes at least once."""
    audit = make().opened()
    told = [audit.due(server_round, _ROUNDS) for server_round in range(1, _ROUNDS + 1)]
    assert all(isinstance(each, bool) for each in told), f"due returned {told}"
    assert any(told), f"due in none of {_ROUNDS} rounds"


def check_look(make: CaseFactory) -> None:
    """Check that a look changes neither the model nor the data, and tells what JSON can hold."""
    case = make()
    audit = case.opened()
    with every_failure() as failures:
        for server_round in range(1, _ROUNDS + 1):
            if not audit.due(server_round, _ROUNDS):
                continue
            with failures.on(f"look, round {server_round}"):
                vector, rows = case.vector(server_round), case.scene.test[0].clone()
                before = vector.clone()
                figures = audit.look(server_round, vector, _stream(server_round))
                assert torch.equal(vector, before), "no mutation: the global model changed"
                assert torch.equal(rows, case.scene.test[0]), "no mutation: test rows changed"
                _check_figures(figures)
                told = audit.alarm(figures)
                assert isinstance(told, bool), f"alarm returned {told!r}"
        with failures.on("finish"):
            _check_figures(audit.finish())


def _check_figures(figures: Any) -> None:
    assert isinstance(figures, Mapping), f"{type(figures).__name__}, no mapping"
    for name in _OWN:
        assert name not in figures, f"figure {name!r} is the record's own"
    try:
        json.dumps(jsonable(figures))
    except TypeError as error:
        raise AssertionError(f"JSON cannot hold it: {error}") from error


def check_audit_determinism(make: CaseFactory) -> None:
    """Check that only the given generator decides, not global random state."""
    told = []
    for noise in (0, 1):
        case = make()
        audit = case.opened()
        vectors = {t: case.vector(t) for t in range(1, _ROUNDS + 1)}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(noise)
            told.append(
                [
                    jsonable(audit.look(t, vectors[t], _stream(t)))
                    for t in vectors
                    if audit.due(t, _ROUNDS)
                ]
            )
    assert told[0] == told[1], "determinism: equal generators told different figures"


AUDIT_CHECKS: tuple[Callable[[CaseFactory], None], ...] = (
    check_audit_parameters,
    check_due,
    check_look,
    check_audit_determinism,
)
"""Every check of an audit, in the order in which `check_audit` runs them."""


def check_audit(part: Any, scene: Callable[[], Any]) -> Conformance:
    """Run every check of `AUDIT_CHECKS` on an audit.

    Parameters
    ----------
    part : Audit or callable
        An audit, of which copies are tested, or a callable that makes one, such as its class.
    scene : callable
        Makes the run that it is shown, a `fedguard.audits.base.Scene`.

    Returns
    -------
    Conformance
        What passed, and what was skipped for which reason.

    Raises
    ------
    AssertionError
        With a line for everything that failed: the check, the input and what was seen.
    """
    made = hasattr(part, "look") and not isinstance(part, type)
    own: Callable[[], Any] = (lambda: copy.deepcopy(part)) if made else part
    return run_checks(AUDIT_CHECKS, lambda: AuditCase(own, scene()))
