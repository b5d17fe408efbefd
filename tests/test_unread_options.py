"""An option that the chosen mode of a part does not read is refused, not taken in silence."""

from __future__ import annotations

import pytest

from fedguard import registry
from fedguard.errors import ConfigurationError

UNREAD = [
    ("strategy", "geminiguard", {"mode": "paper"}, {"opposition": 2.0}),
    ("strategy", "geminiguard", {"mode": "paper"}, {"trigger_margin": 0.3}),
    ("strategy", "geminiguard", {"mode": "paper"}, {"trigger_budget": 0.1}),
    ("strategy", "geminiguard", {"mode": "paper"}, {"max_norm_ratio": 4.0}),
    ("strategy", "geminiguard", {}, {"min_trust": 0.9}),
    ("strategy", "weidetect", {"mode": "paper"}, {"margin": 0.3}),
    ("strategy", "weidetect", {"mode": "paper"}, {"tolerance": 0.3}),
    ("strategy", "weidetect", {"mode": "paper"}, {"doubt": 0.3}),
    ("strategy", "weidetect", {"mode": "paper"}, {"pooled_rounds": 1}),
    ("strategy", "weidetect", {"mode": "paper", "selection": "top"}, {"threshold": 0.3}),
    ("strategy", "weidetect", {}, {"selection": "top"}),
    ("strategy", "weidetect", {}, {"family": "exponweib"}),
    ("attack", "label-flip", {}, {"source_class": 3}),
    ("attack", "label-flip", {"mode": "cyclic"}, {"target_class": 3}),
    ("training", "sgd", {}, {"every": 3}),
    ("training", "sgd", {"schedule": "cosine"}, {"gamma": 0.1}),
]


@pytest.mark.parametrize(("kind", "name", "mode", "unread"), UNREAD, ids=str)
def test_an_option_that_the_mode_does_not_read_is_refused(kind, name, mode, unread):
    registry.create(kind, name, **mode)
    (field,) = unread
    with pytest.raises(ConfigurationError, match=f"{field}: .* does not read it"):
        registry.create(kind, name, **mode, **unread)


def test_a_value_that_changes_nothing_is_taken():
    """A filled-in configuration names every option."""
    registry.create("strategy", "geminiguard", mode="paper", opposition=6.0, trigger_margin=0.15)
    registry.create("attack", "label-flip", mode="static", source_class=0, target_class=1)
