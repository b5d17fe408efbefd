from __future__ import annotations

from typing import Any

import pytest

from fedguard import registry
from fedguard.errors import ConfigurationError
from fedguard.strategies.krum import Krum


class Base:
    def __init__(self, *, size: int = 1, **rest: Any) -> None:
        self.size = size
        self.rest = rest


class Child(Base):
    def __init__(self, *, share: float = 0.5, **base: Any) -> None:
        super().__init__(**base)
        self.share = share


class Closed(Base):
    def __init__(self, *, only: int) -> None:
        super().__init__()
        self.only = only


@pytest.mark.parametrize("kind", registry.KINDS)
def test_every_own_name_leads_to_a_part(kind):
    assert registry.names(kind)
    for name in registry.names(kind):
        assert callable(registry.find(kind, name))


def test_unknown_kinds_and_names_are_refused():
    with pytest.raises(ConfigurationError, match="did you mean 'strategy'"):
        registry.names("strategi")
    with pytest.raises(ConfigurationError, match="did you mean 'krum'"):
        registry.create("strategy", "krm")


def test_a_class_path_is_a_part():
    assert isinstance(registry.create("strategy", "fedguard.strategies.krum:Krum"), Krum)


def test_arguments_are_followed_through_forwarding_constructors():
    assert set(registry.parameters(Child)) == {"share", "size"}
    assert set(registry.parameters(Closed)) == {"only"}
    assert {"assumed_malicious", "seed", "fraction_train"} <= set(registry.parameters(Krum))


def test_values_are_converted_to_the_declared_types():
    path = f"{__name__}:Child"
    child = registry.create("strategy", path, share="0.25", size=3)
    assert (child.share, child.size) == (0.25, 3)
    with pytest.raises(ConfigurationError, match=r"strategy\.size: 'x'"):
        registry.create("strategy", path, size="x")


def test_a_missing_argument_is_named():
    with pytest.raises(ConfigurationError, match=r"strategy\.only: None"):
        registry.create("strategy", f"{__name__}:Closed")


def test_a_parts_own_check_is_reported_under_its_kind():
    with pytest.raises(ConfigurationError, match=r"strategy\.assumed_malicious: 0\.7"):
        registry.create("strategy", "krum", assumed_malicious=0.7)
