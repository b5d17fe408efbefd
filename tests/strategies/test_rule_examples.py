"""Every rule's docstring has an example that runs."""

from __future__ import annotations

import doctest

import pytest
from test_conformance import PARTS

from fedguard.strategies import pre_aggregation

HERE = {
    part.__name__: part
    for part in PARTS.values()
    if part.__module__.startswith("fedguard.strategies.")
}
PRE = {part.__name__: part for part in pre_aggregation.PRE_AGGREGATIONS.values()}


@pytest.mark.parametrize("part", [*HERE.values(), *PRE.values()], ids=lambda part: part.__name__)
def test_the_example_in_the_docstring_is_right(part):
    (found,) = doctest.DocTestFinder(recurse=False).find(part, part.__name__)
    assert found.examples
    assert any(example.want for example in found.examples)
    assert doctest.DocTestRunner(verbose=False).run(found).failed == 0
