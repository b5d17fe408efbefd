from __future__ import annotations

from pathlib import Path

import pytest

from fedguard import registry
from fedguard.commands.catalogue import catalogue, costs, league, paper, summary

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "catalogue.md"


def test_the_document_is_current():
    assert DOCUMENT.read_text(encoding="utf-8") == catalogue(), (
        "run: python -m fedguard.commands.catalogue > docs/catalogue.md"
    )


@pytest.mark.parametrize("kind", ["strategy", "attack"])
def test_every_part_says_what_it_does(kind):
    for name in registry.names(kind):
        assert summary(registry.find(kind, name)).endswith((".", ":")), name


def test_measured_costs_and_leagues_stand_in_the_table():
    encrypted = {"ckks", "secagg+", "xmkckks", "xmkckks-cost-model", "soul"}
    rules = set(registry.names("strategy")) - encrypted
    assert set(costs()) <= rules
    assert {"fedavg", "krum", "alignins"} <= set(costs())
    assert min(costs().values()) > 0.0
    leagues = {name: league(registry.find("strategy", name)) for name in rules}
    assert leagues["median"] == "no server data"
    assert leagues["flare"] == "unlabelled"
    assert leagues["hammer-anvil"] == "labelled"
    row = next(line for line in catalogue().splitlines() if line.startswith("| `krum` |"))
    assert row.split(" | ")[3:5] == ["no server data", f"{costs()['krum']:g}"]


def test_papers_are_found():
    cited = paper(registry.find("strategy", "krum"))
    assert cited.startswith("Blanchard et al., *Machine Learning with Adversaries")
    assert cited.endswith("NeurIPS 2017")
    without = {
        name
        for kind in ("strategy", "attack")
        for name in registry.names(kind)
        if not paper(registry.find(kind, name))
    }
    own = {"none", "numerical", "zero", "feature-noise", "free-rider", "adaptive-gemini"}
    own |= {"xmkckks-cost-model", "sentinel", "repeat-target", "random-edges"}
    assert without <= own | {"adaptive-weidetect", "adaptive-ipm", "adaptive-alie"}, without
