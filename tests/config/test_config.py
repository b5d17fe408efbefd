from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from fedguard.config import SimulationConfig, assign, load_yaml, parse
from fedguard.errors import ConfigurationError


def message(values: dict) -> str:
    with pytest.raises(ConfigurationError) as caught:
        parse(values)
    text = str(caught.value)
    assert "\n" not in text
    return text


class TestParse:
    def test_a_name_and_a_mapping_mean_the_same_part(self):
        assert parse({"strategy": "krum"}) == parse({"strategy": {"name": "krum"}})

    def test_an_unknown_field_names_the_nearest_one(self):
        assert "did you mean 'rounds'?" in message({"ronds": 3})

    def test_an_unknown_part_names_the_nearest_one(self):
        text = message({"strategy": "gemniguard"})
        assert text.startswith("strategy: 'gemniguard'")
        assert "did you mean 'geminiguard'?" in text

    def test_an_unknown_argument_names_the_nearest_one(self):
        text = message({"strategy": {"name": "geminiguard", "max_cluster": 3}})
        assert text.startswith("strategy.max_cluster: 3")
        assert "did you mean 'max_clusters'?" in text

    def test_an_argument_of_the_wrong_type_is_named(self):
        text = message({"strategy": {"name": "geminiguard", "max_clusters": "many"}})
        assert text.startswith("strategy.max_clusters: 'many'")

    @pytest.mark.parametrize(
        ("values", "words"),
        [
            ({"rounds": 0}, "rounds: 0"),
            ({"rounds": "three"}, "rounds: 'three'"),
            ({"malicious": 1.5}, "malicious: 1.5"),
            ({"fraction": 0}, "fraction: 0"),
            ({"lr": -1}, "lr: -1"),
            ({"lr": float("nan")}, "lr: nan"),
            ({"seed": -1}, "seed: -1"),
            ({"engine": "inproces"}, "did you mean 'inprocess'?"),
            ({"device": "gpu"}, "auto, cpu, cuda or cuda:N"),
            ({"strategy": {"alpha": 1}}, "strategy.name"),
            ({"strategy": 3}, "strategy: 3"),
        ],
    )
    def test_a_bad_value_is_named_with_what_is_allowed(self, values, words):
        assert words in message(values)

    def test_a_class_that_cannot_be_imported_is_named(self):
        text = message({"strategy": "no_such_package.module:Class"})
        assert "no_such_package" in text


class TestAssign:
    def test_an_argument_joins_the_default_part(self):
        values: dict = {}
        assign(values, "partition.alpha", 0.1)
        assert values == {"partition": {"name": "dirichlet", "alpha": 0.1}}

    def test_an_argument_joins_a_named_part(self):
        values = {"strategy": "krum"}
        assign(values, "strategy.assumed_malicious", 0.3)
        assert values == {"strategy": {"name": "krum", "assumed_malicious": 0.3}}

    def test_a_new_name_drops_the_other_parts_arguments(self):
        values = {"strategy": {"name": "geminiguard", "max_clusters": 3}}
        assign(values, "strategy", "krum")
        assert values == {"strategy": "krum"}

    def test_only_parts_have_arguments(self):
        with pytest.raises(ConfigurationError, match=r"rounds\.more"):
            assign({}, "rounds.more", 1)


class TestResolved:
    def test_it_is_plain_and_repeats_itself(self):
        config = parse({"strategy": "krum", "clients": 30})
        plain = yaml.safe_load(yaml.safe_dump(config.resolved()))
        again = parse(plain)
        assert again.resolved() == config.resolved()
        assert again.digest() == config.digest()

    def test_defaults_of_parts_are_written_out(self):
        resolved = SimulationConfig().resolved()
        assert resolved["strategy"]["mode"] == "consensus"
        assert "fraction_train" not in resolved["strategy"]

    def test_digest_tells_configurations_apart_but_not_where_files_lie(self):
        base = parse({})
        assert parse({"seed": 1}).digest() != base.digest()
        assert parse({"strategy": {"name": "geminiguard", "tau": 2.0}}).digest() != base.digest()
        assert parse({"data_dir": "/somewhere"}).digest() == base.digest()


class TestLoadYaml:
    @pytest.mark.parametrize(
        ("text", "words"),
        [("a: [1", "valid YAML"), ("- 1\n- 2", "a mapping"), ("3: 4", "a mapping")],
    )
    def test_what_is_no_configuration_is_refused(self, tmp_path: Path, text, words):
        path = tmp_path / "config.yaml"
        path.write_text(text)
        with pytest.raises(ConfigurationError, match=words):
            load_yaml(path)

    def test_a_missing_file_is_named(self, tmp_path: Path):
        with pytest.raises(ConfigurationError, match="No such file"):
            load_yaml(tmp_path / "none.yaml")

    def test_an_empty_file_is_an_empty_configuration(self, tmp_path: Path):
        path = tmp_path / "config.yaml"
        path.touch()
        assert load_yaml(path) == {}
