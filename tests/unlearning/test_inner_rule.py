"""Which rules may aggregate inside SoUL: their traits decide, not their names or classes."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import torch

import fedguard.unlearning
from fedguard import registry
from fedguard.errors import ConfigurationError
from fedguard.strategies.base import RobustStrategy
from fedguard.unlearning.inner_rule import make_inner_rule


class Strange(RobustStrategy):
    """A rule of somebody else's whose clients need another side."""

    traits = RobustStrategy.traits.but(client_side=True)

    def combine(self, updates):
        raise NotImplementedError


class Asking(RobustStrategy):
    """A rule of somebody else's that takes requests."""

    traits = RobustStrategy.traits.but(requests=True)

    def combine(self, updates):
        raise NotImplementedError


class Plain(RobustStrategy):
    """A rule that an instance makes special, not its class."""

    def __init__(self, *, special=False, assumed_malicious=0.0, seed=0):
        super().__init__(seed=seed)
        self.special, self.assumed_malicious = special, assumed_malicious

    def refined_traits(self):
        return self.traits.but(client_side=self.special)

    def combine(self, updates):
        raise NotImplementedError


def make(name, **arguments):
    return make_inner_rule(name, arguments, 0.3, 11)


@pytest.mark.parametrize("kind", ["Strange", "Asking"])
def test_a_plug_in_that_does_not_fit_is_refused_by_its_traits(kind):
    with pytest.raises(ConfigurationError, match="sees each client's update"):
        make(f"{__name__}:{kind}")


def test_what_an_instance_says_of_itself_counts():
    rule = make(f"{__name__}:Plain")
    assert (rule.seed, rule.assumed_malicious) == (11, 0.3)
    with pytest.raises(ConfigurationError):
        make(f"{__name__}:Plain", special=True)


@pytest.mark.parametrize("name", ["xmkckks", "ckks", "secagg+", "soul"])
def test_rules_whose_clients_have_another_side_are_refused(name):
    with pytest.raises(ConfigurationError, match="rule"):
        make(name)


@pytest.mark.parametrize("name", ["fedavg", "multi-krum", "geminiguard", "trimmed-mean"])
def test_ordinary_rules_fit_and_are_told_what_they_know_of(name):
    rule = make(name)
    known = registry.parameters(registry.find("strategy", name))
    if "assumed_malicious" in known:
        assert rule.assumed_malicious == 0.3
        assert make(name, assumed_malicious=0.1).assumed_malicious == 0.1
    assert rule.seed == (11 if "seed" in known else 0)


def test_unlearning_knows_no_encryption():
    folder = Path(fedguard.unlearning.__file__).parent
    for path in folder.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            assert not [n for n in names if n.startswith("fedguard.encryption")], path.name


def test_silenced_units_stay_at_zero_whatever_the_rule_says():
    from fedguard.testing.worlds import honest_updates

    updates = honest_updates(6, seed=1)
    strategy = registry.create("strategy", "soul")
    size = updates.layout.size
    strategy.memory.keep = torch.arange(size) % 3 > 0
    verdict = strategy.decide(updates)
    after = updates.global_vector + verdict.delta
    assert not after[::3].any()
    plain = registry.create("strategy", "fedavg").decide(updates)
    kept = strategy.memory.keep
    torch.testing.assert_close(verdict.delta[kept], plain.delta[kept])
