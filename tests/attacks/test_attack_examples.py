"""Every attack's docstring has an example that runs."""

from __future__ import annotations

import doctest

import pytest

from fedguard import registry

NAMES = [name for name in registry.names("attack") if name != "none"]


@pytest.mark.parametrize("name", NAMES)
def test_the_example_in_the_docstring_is_right(name):
    part = registry.find("attack", name)
    (found,) = doctest.DocTestFinder(recurse=False).find(part, part.__name__)
    assert any(example.want for example in found.examples)
    assert doctest.DocTestRunner(verbose=False).run(found).failed == 0
