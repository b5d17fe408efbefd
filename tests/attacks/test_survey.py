"""Every class of a survey of poisoning has a runnable part or a reason."""

from __future__ import annotations

import pytest

from fedguard import registry
from fedguard.attacks.toolkit.survey import LEFT_OUT, STAGES, Tags, survey_classes
from fedguard.commands.catalogue import coverage
from fedguard.errors import ConfigurationError

NAMES = [name for name in registry.names("attack") if name != "none"]
TAGS = {name: registry.find("attack", name).tags for name in NAMES}


def gaps(tags: dict[str, Tags], left_out) -> list[tuple[str, str]]:
    """Classes that no attack has and nobody gives a reason for."""
    ticked = {one for each in tags.values() for one in each.classes}
    return [one for one in survey_classes() if one not in ticked and one[1] not in left_out]


def test_every_attack_says_where_it_stands():
    assert all(isinstance(tags, Tags) for tags in TAGS.values()), TAGS
    assert registry.find("attack", "none").tags is None


def test_every_class_of_the_survey_has_a_part_or_a_reason():
    assert gaps(TAGS, LEFT_OUT) == []


@pytest.mark.parametrize(
    ("name", "gap"),
    [
        ("group-flip", ("impact", "fairness")),
        ("hypocritical", ("impact", "robustness")),
        ("influence-flip", ("by", "influence")),
        ("generative-noise", ("by", "generative")),
        ("feature-collision", ("by", "feature collision")),
        ("preference-flip", ("stages", "alignment")),
    ],
)
def test_the_search_finds_the_gap_that_a_part_would_leave(name, gap):
    rest = {other: tags for other, tags in TAGS.items() if other != name}
    assert gap in gaps(rest, LEFT_OUT)


def test_a_reason_stands_for_a_class_without_a_part_alone():
    ticked = {one for tags in TAGS.values() for one in tags.classes}
    assert set(LEFT_OUT) <= set(STAGES)
    assert not {one for _, one in ticked} & set(LEFT_OUT)


def test_tags_agree_with_what_the_parts_declare():
    for name, tags in TAGS.items():
        part = registry.find("attack", name)
        assert part.backdoor == (tags.goal == "backdoor"), name
        # Whoever changes rows poisons data or crafts what training on such rows gave.
        assert tags.edits == "model" or {"data", "updates"} & part.needs, name
        assert "aggregate" not in part.needs or tags.knowledge == "white", name
        assert "model" not in part.needs or tags.knowledge != "black", name


def test_a_misspelt_tag_is_refused():
    with pytest.raises(ConfigurationError, match=r"tags\.goal: 'backdor' .*did you mean"):
        Tags(edits="both", goal="backdor")
    with pytest.raises(ConfigurationError, match=r"tags\.by: 'bilevl'"):
        Tags(edits="both", by=("bilevl",))


def test_the_matrix_has_a_line_for_every_attack():
    lines = [line for line in coverage().splitlines() if line.startswith("| `")]
    assert [line.split("`")[1] for line in lines] == NAMES
    assert "| `group-flip` | labels | targeted |" in coverage()
