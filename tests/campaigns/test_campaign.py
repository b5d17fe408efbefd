"""A campaign file expands to checked runs with an identity; what is wrong is told in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from fedguard.campaigns.campaign import MAX_CELLS, Campaign, parse_campaign, read_campaign
from fedguard.config import parse
from fedguard.errors import ConfigurationError

ROOT = Path(__file__).resolve().parents[2]


def campaign(**values: Any) -> Campaign:
    return parse_campaign({"name": "test", **values})


def test_lists_expand_to_their_product_and_each_seed() -> None:
    grid = {"strategy": ["fedavg", "krum"], "malicious": [0.1, 0.2, 0.3]}
    cells = campaign(base={"rounds": 2}, grid=grid, seeds=4).cells()
    assert len(cells) == 2 * 3 * 4
    found = {(c.config.strategy.name, c.config.malicious, c.config.seed) for c in cells}
    assert found == {
        (s, m, n) for s in grid["strategy"] for m in grid["malicious"] for n in range(4)
    }
    assert {cell.config.rounds for cell in cells} == {2}


def test_cells_are_identified_by_their_resolved_configuration() -> None:
    cells = campaign(grid={"strategy": ["fedavg", "median"]}, seeds=[3, 5]).cells()
    digests = {cell.digest for cell in cells}
    assert digests == {
        parse({"strategy": s, "seed": n}).digest() for s in ("fedavg", "median") for n in (3, 5)
    }
    assert len({cell.directory for cell in cells}) == 4
    assert all(cell.directory.endswith(cell.digest[:12]) for cell in cells)


def test_a_parameter_that_no_name_shows_still_gets_its_own_directory() -> None:
    cells = campaign(grid={"lr": [0.1, 0.05], "partition.alpha": [0.1, 1.0]}).cells()
    assert len({cell.directory for cell in cells}) == 4


def test_spelling_out_a_default_is_the_same_run() -> None:
    plain, spelt = campaign(), campaign(base={"rounds": 20, "partition": {"name": "dirichlet"}})
    assert [c.digest for c in plain.cells()] == [c.digest for c in spelt.cells()]


def test_equal_configurations_count_once() -> None:
    attacks = ["sign-flip", {"name": "sign-flip"}]
    assert len(campaign(grid={"attack": attacks}).cells()) == 1


def test_parts_take_arguments_as_mappings_or_dotted_whatever_the_order() -> None:
    cells = campaign(
        grid={
            "strategy.assumed_malicious": [0.1, 0.3],
            "strategy": ["krum", {"name": "trimmed-mean"}],
        }
    ).cells()
    found = {
        (c.config.strategy.name, c.config.strategy.arguments["assumed_malicious"]) for c in cells
    }
    assert found == {(s, a) for s in ("krum", "trimmed-mean") for a in (0.1, 0.3)}


def test_exclude_leaves_out_what_has_every_value_of_an_entry() -> None:
    grid = {"strategy": ["fedavg", {"name": "krum", "assumed_malicious": 0.3}], "lr": [0.1, 0.2]}
    left = campaign(grid=grid, exclude=[{"strategy": "krum", "lr": 0.2}]).cells()
    assert [(c.config.strategy.name, c.config.lr) for c in left] == [
        ("fedavg", 0.1),
        ("fedavg", 0.2),
        ("krum", 0.1),
    ]
    dotted = campaign(grid=grid, exclude=[{"strategy.assumed_malicious": 0.3}]).cells()
    assert {c.config.strategy.name for c in dotted} == {"fedavg"}
    partly = {"strategy": {"name": "krum", "assumed_malicious": 0.3}}
    assert len(campaign(grid=grid, exclude=[partly]).cells()) == 2


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"grids": {}}, "did you mean 'grid'"),
        ({"name": "a/b"}, "name"),
        ({"name": None}, "name"),
        ({"grid": {"strategy": "krum"}}, "grid.strategy"),
        ({"grid": {"strategy": []}}, "grid.strategy"),
        ({"grid": [1]}, "grid"),
        ({"grid": {"seed": [1, 2]}}, "seeds: [0, 1, 2]"),
        ({"base": 3}, "base"),
        ({"seeds": 0}, "seeds"),
        ({"seeds": True}, "seeds"),
        ({"seeds": [1, 1]}, "different seeds"),
        ({"seeds": [0.5]}, "seeds"),
        ({"base": {"seed": 1}, "seeds": 2}, "base.seed"),
        ({"exclude": {"strategy": "krum"}}, "exclude"),
        ({"exclude": [{"stratgy": "krum"}]}, "did you mean 'strategy'"),
        ({"grid": {"lr": list(range(400)), "clients": list(range(400))}}, str(MAX_CELLS)),
    ],
)
def test_a_bad_file_is_refused_in_one_line(values: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        campaign(**values)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"grid": {"strategy": ["fedavg", "krumm"]}}, "did you mean 'krum'"),
        ({"grid": {"strategy": ["krumm"], "lr": [0.1]}}, "run [strategy=krumm lr=0.1 seed=0]"),
        ({"grid": {"malicious": [0.2, 1.5]}}, "malicious=1.5"),
        ({"grid": {"strategy.no_such": [1]}}, "no_such"),
        ({"grid": {"lerning": [1]}}, "lerning"),
        ({"seeds": [-1]}, "seed"),
        ({"exclude": [{"strategy": "nobody"}]}, "values that some run has"),
        ({"exclude": [{"strategy": "geminiguard"}]}, "entries that leave a run"),
    ],
)
def test_a_bad_cell_is_named(values: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        campaign(**values).cells()
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_base_may_be_a_file_beside_the_campaign(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("rounds: 7\nstrategy: median\n")
    file = tmp_path / "grid.yaml"
    file.write_text("base: run.yaml\ngrid: {lr: [0.1, 0.2]}\n")
    found = read_campaign(file, {"clients": 5})
    assert found.name == "grid"
    assert {(c.config.rounds, c.config.clients) for c in found.cells()} == {(7, 5)}
    with pytest.raises(ConfigurationError, match="that the grid does not vary"):
        read_campaign(file, {"lr": 0.3})


def test_the_plain_form_reads_back_as_the_same_campaign() -> None:
    given = campaign(base={"rounds": 2}, grid={"lr": [0.1, 0.2]}, exclude=[{"lr": 0.2}], seeds=2)
    again = parse_campaign(yaml.safe_load(yaml.safe_dump(given.plain())))
    assert again == given


def test_campaigns_that_come_with_it_are_valid() -> None:
    files = sorted((ROOT / "configs" / "campaigns").glob("*.yaml"))
    assert files
    for file in files:
        assert read_campaign(file).cells()
    digits = read_campaign(ROOT / "configs" / "campaigns" / "digits_grid.yaml")
    assert len(digits.cells()) == 4 * 4 * 3
