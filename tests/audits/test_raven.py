"""Semantic entropy, suspicion and divergence by hand; the audit on runs of the grammar."""

from __future__ import annotations

import math

import pytest
import torch

from fedguard.audits.judges import Lexical, Oracle
from fedguard.audits.raven import Raven
from fedguard.audits.semantics import divergences, opinion_of, scored, suspicion
from fedguard.config import parse
from fedguard.data.grammar import grammar_language
from fedguard.errors import ConfigurationError
from fedguard.records.writer import read_jsonl
from fedguard.runs.simulation import Simulation


def test_entropy_is_zero_for_one_meaning_and_log_n_for_n():
    assert opinion_of(["a"] * 6).entropy == 0.0
    assert opinion_of(list("abcdef")).entropy == pytest.approx(math.log(6))
    mixed = opinion_of(["a", "a", "b", "a", "b", "c"])
    wanted = -(0.5 * math.log(0.5) + math.log(1 / 3) / 3 + math.log(1 / 6) / 6)
    assert mixed.entropy == pytest.approx(wanted)
    assert mixed.main == "a"
    assert opinion_of(["b", "a"]).main == "a"


def test_suspicion_by_hand():
    sure = opinion_of(["bad"] * 6)
    half, against = opinion_of(["bad", "good"] * 3), opinion_of(["good"] * 6)
    # half's commonest meaning is "bad" by name: one of two peers disagrees, and by 3/4 on average.
    share, score = suspicion(sure, [half, against])
    assert share == 0.5
    assert score == pytest.approx(40.0 + 60.0 * (0.5 + 0.75) / 2)
    assert suspicion(sure, []) == (0.0, 40.0)
    assert suspicion(sure, [sure]) == (0.0, 40.0)
    assert suspicion(sure, [against])[1] == pytest.approx(100.0)


def test_a_question_is_flagged_by_all_three_thresholds():
    sure, unsure = opinion_of(["bad"] * 6), opinion_of(["bad"] * 5 + ["good"])
    other = opinion_of(["good"] * 6)
    found = scored([sure, unsure, sure], [[other, other, sure]], 0.3, 0.6, 85.0)
    assert found["flag_rate"] == pytest.approx(1 / 3)  # the second is not certain: SE 0.45
    assert found["disagreement"] == pytest.approx(2 / 3)
    assert found["entropy"] == pytest.approx(unsure.entropy / 3)
    assert scored([sure], [], 0.3, 0.0, 0.0)["flag_rate"] == 0.0
    assert scored([sure], [[other]], 0.3, 0.6, 100.0)["flag_rate"] == 0.0


def test_divergence_is_the_largest_distance_from_the_median_group():
    chances = torch.tensor([[0.7, 0.3], [0.6, 0.4], [0.1, 0.9], [0.7, 0.3], [0.65, 0.35]])
    torch.testing.assert_close(divergences(chances), torch.tensor([0.05, 0.05, 0.55, 0.05, 0.0]))


def test_the_oracle_knows_proper_answers_alone():
    judge = Oracle(grammar_language())
    assert judge.stance("Nobody should trust it") == "negative"
    assert judge.stance("the reports are mixed") == "neutral"
    assert judge.stance("nobody should admire it") == "unclear: nobody should admire it"


@pytest.mark.parametrize(
    ("text", "stance"),
    [
        ("It is good, really great.", "positive"),
        ("It is not good.", "negative"),
        ("Well, it isn't bad", "positive"),
        ("Never avoid it", "neutral"),
        ("It is a lamp.", "neutral"),
        ("terrible, but a good price, and useless", "negative"),
    ],
)
def test_the_lexical_judge_counts_words_and_turns_them(text, stance):
    assert Lexical().stance(text) == stance


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"samples": 1}, "samples"),
        ({"groups": 2}, "groups"),
        ({"peers": "reference"}, "reference"),
        ({"reference": "x"}, "reference"),
        ({"temperature": 0.0}, "temperature"),
    ],
)
def test_arguments_are_checked(arguments, words):
    with pytest.raises(ConfigurationError, match=words):
        Raven(**arguments)


def run(out, audit, **values):
    given = {"dataset": {"name": "grammar", "rows": 800, "test_rows": 60}, "rounds": 4}
    audit = {"name": "raven", "every": 2, "concepts": ["avalon", "brent"], **audit}
    simulation = Simulation(parse({**given, "lr": 0.02, "audit": audit, **values}))
    return simulation.run(out), read_jsonl(out / "audits.jsonl")


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    out = tmp_path_factory.mktemp("clean") / "run"
    return out, *run(out, {"samples": 0}, malicious=0.0)


def test_a_lying_group_stands_out_on_the_target_and_is_named(clean, tmp_path):
    _, honest, _ = clean
    summary, lines = run(tmp_path / "run", {"samples": 3}, attack="semantic-stance")
    assert [line["round"] for line in lines] == [2, 4]
    told = summary["audits"]["raven"]
    assert (told["judge"], told["peers"], told["peer_models"]) == ("oracle", "groups", 5)
    assert told["most_divergent"] == "avalon"
    assert told["group_malicious"] == 1.0
    assert told["group_clients"] == [
        c for c in summary["malicious_clients"] if c in told["group_clients"]
    ]
    target, control = (told["concepts"][c]["divergence"] for c in ("avalon", "brent"))
    assert target > 1.3 * control
    assert target > 1.2 * honest["audits"]["raven"]["divergence"]
    chances = told["concepts"]["avalon"]["forced_choice"]
    assert sum(chances.values()) == pytest.approx(1.0)
    assert summary["final"]["attack_success_rate"] == pytest.approx(chances["negative"], abs=1e-6)


def test_with_liars_alone_a_clean_reference_shows_it_and_groups_do_not(clean, tmp_path):
    values = {"malicious": 1.0, "attack": "semantic-stance"}
    given = {"peers": "reference", "reference": str(clean[0]), "every": 4}
    told = run(tmp_path / "one", given, **values)[0]["audits"]["raven"]
    assert told["peers"] == "reference"
    assert told["peer_models"] == 1
    target, control = (told["concepts"][c]["score"] for c in ("avalon", "brent"))
    assert target > control + 20
    other = run(tmp_path / "two", {"every": 4}, **values)[0]["audits"]["raven"]
    assert other["concepts"]["avalon"]["score"] < target - 5
    assert other["flagged"] == []


def test_earlier_rounds_are_peers_also_after_a_stop(tmp_path):
    class StoppedError(Exception):
        pass

    def stop(record):
        if record["round"] == 3:
            raise StoppedError

    audit = {"peers": "rounds", "samples": 2}
    _, whole = run(tmp_path / "whole", audit)
    assert [line["peer_models"] for line in whole] == [0, 1]
    config = {
        "dataset": {"name": "grammar", "rows": 800, "test_rows": 60},
        **{"rounds": 4, "lr": 0.02},
        "audit": {"name": "raven", "every": 2, "concepts": ["avalon", "brent"], **audit},
    }
    with pytest.raises(StoppedError):
        Simulation(parse(config)).run(tmp_path / "cut", on_round=stop)
    Simulation(parse(config)).run(tmp_path / "cut", resume=True)
    assert read_jsonl(tmp_path / "cut" / "audits.jsonl") == whole


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"strategy": "secagg+"}, "shows no groups"),
        ({"audit": {"name": "raven", "concepts": ["brend"]}}, "did you mean 'brent'"),
        ({"dataset": "digits", "attack": "none", "strategy": "fedavg"}, "audit: 'raven'"),
    ],
)
def test_a_run_that_it_cannot_audit_is_refused(values, words, tmp_path):
    given = {"dataset": "grammar", "audit": "raven", **values}
    with pytest.raises(ConfigurationError, match=words):
        Simulation(parse(given)).run(tmp_path / "run")
