"""Every registered strategy under the public conformance suite."""

from __future__ import annotations

import pytest

from fedguard import registry
from fedguard.strategies.base import RobustStrategy
from fedguard.strategies.pre_aggregation import PRE_AGGREGATIONS, make_pre_aggregation
from fedguard.testing import CHECKS
from fedguard.testing.strategies import check_parameters

OWN = {
    "bulyan": "Bulyan",
    "caf": "CAF",
    "centered_clipping": "CenteredClipping",
    "crfl": "CRFL",
    "deepsight": "DeepSight",
    "dnc": "DnC",
    "fedavg": "FedAvg",
    "flame": "FLAME",
    "flare": "FLARE",
    "fldetector": "FLDetector",
    "fltrust": "FLTrust",
    "foolsgold": "FoolsGold",
    "freqfed": "FreqFed",
    "geometric_median": "GeometricMedian",
    "krum": "Krum",
    "lasa": "LASA",
    "mda": "MDA",
    "meamed": "MeaMed",
    "median": "Median",
    "monna": "MoNNA",
    "multi_metrics": "MultiMetrics",
    "norm_clipping": "NormClipping",
    "rlr": "RLR",
    "signguard": "SignGuard",
    "smea": "SMEA",
    "trimmed_mean": "TrimmedMean",
}


def _parts() -> dict[str, type[RobustStrategy]]:
    """Registered strategies by name, and ours by class where they have no name yet."""
    parts = {name: registry.find("strategy", name) for name in registry.names("strategy")}
    for module, name in OWN.items():
        found = registry.find("strategy", f"fedguard.strategies.{module}:{name}")
        if found not in parts.values():
            parts[name] = found
    return {
        name: part
        for name, part in parts.items()
        if isinstance(part, type) and issubclass(part, RobustStrategy)
    }


PARTS = _parts()


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", PARTS)
def test_strategy_conforms(name, check):
    in_this_room = PARTS[name].__module__.startswith("fedguard.strategies.")
    if check is check_parameters and not in_this_room:
        pytest.skip("another room's part; its own tests look at its arguments")
    check(PARTS[name])


def test_only_rules_whose_paper_is_blind_to_others_beside_a_decoy_are_exempt():
    exempt = {name for name, part in PARTS.items() if "decoy-exempt" in part.properties}
    assert exempt == {"dnc", "multi-metrics"}


def test_only_rules_that_keep_few_or_trust_a_server_are_exempt_from_dissimilar_clients():
    exempt = {name for name, part in PARTS.items() if "dissimilar-exempt" in part.properties}
    assert exempt == {"alignins", "fltrust", "krum", "multi-metrics"}


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("pre", PRE_AGGREGATIONS)
@pytest.mark.parametrize("rule", ["krum", "trimmed-mean"])
def test_pre_aggregated_strategy_conforms(rule, pre, check):
    if pre == "bucketing" and check.__name__ == "check_ties":
        pytest.skip("a smaller last bucket weighs its clients more, as the paper has it")

    def mixed() -> RobustStrategy:
        strategy: RobustStrategy = registry.create("strategy", rule)
        strategy.pre = make_pre_aggregation(pre)
        # Mixing with neighbours moves whole groups; it is neither equivariant nor a rule.
        strategy.properties = frozenset()
        return strategy

    check(mixed)


@pytest.mark.parametrize("name", PARTS)
def test_rules_need_no_flower_server(name):
    assert PARTS[name]().needs_server_tools in (True, False)
    assert PARTS[name].__doc__
