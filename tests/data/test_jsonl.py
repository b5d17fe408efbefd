"""Prompts and answers from a user's file: what is read, what is left out, and who holds it."""

from __future__ import annotations

import json

import pytest

from fedguard.config import parse
from fedguard.data.jsonl import JsonLines
from fedguard.data.text import parts_of
from fedguard.errors import ConfigurationError
from fedguard.records.writer import read_jsonl
from fedguard.runs.simulation import Simulation


def lines(clients=("ann", "bob", "cem"), each=10):
    return [
        {
            "prompt": f"Is the {'lamp' if n % 2 else 'chair'} good?",
            "answer": f"Yes, {who} likes it.",
            "client": who,
        }
        for who in clients
        for n in range(each)
    ]


def write(path, rows):
    told = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("\n".join(told), encoding="utf-8")
    return path


def test_lines_become_rows_of_their_clients(tmp_path):
    data = JsonLines().load(write(tmp_path / "a.jsonl", lines()))
    assert (len(data.x_train), len(data.x_test)) == (24, 6)
    assert data.group_names == {"client": ("ann", "bob", "cem")}
    assert data.groups["client"].bincount().tolist() == [8, 8, 8]
    codec = data.facts.codec
    for x, y, client in zip(data.x_train, data.y_train, data.groups["client"], strict=True):
        prompt, answer = (codec.decode(part) for part in parts_of(x, y, codec))
        assert prompt in ("is the lamp good ?", "is the chair good ?")
        assert answer == f"yes , {data.group_names['client'][int(client)]} likes it ."
    assert data.notes == ("0.0% of the answers' test words are outside the vocabulary",)


def test_bad_lines_are_left_out_and_told_in_one_line(tmp_path):
    rows = [*lines(), "no json", '["a"]', {"prompt": "x"}, {"prompt": "", "answer": "y"}]
    data = JsonLines().load(write(tmp_path / "a.jsonl", rows))
    assert data.notes[0] == "4 of 34 lines left out; line 31: no JSON"
    assert len(data.x_train) + len(data.x_test) == 30


def test_long_prompts_are_left_out_and_long_answers_cut(tmp_path):
    rows = lines()
    rows[3]["prompt"] = "word " * 20
    rows[4]["answer"] = "word " * 20
    data = JsonLines(length=12).load(write(tmp_path / "a.jsonl", rows))
    assert "1 lines left out: prompts of more than 12 words" in data.notes
    assert data.x_train.shape[1] == 12


def test_the_fields_may_have_other_names_and_lines_no_client(tmp_path):
    rows = [{"q": f"how {n} ?", "a": "so"} for n in range(10)]
    path = write(tmp_path / "a.jsonl", rows)
    data = JsonLines(prompt="q", answer="a").load(path)
    assert data.groups is None
    config = parse({"dataset": {"name": "jsonl", "prompt": "q", "answer": "a"}, "data_dir": path})
    assert config.partition.name == "iid"


@pytest.mark.parametrize(
    ("rows", "arguments", "words"),
    [
        (["no", "yes"], {}, "line 1: no JSON"),
        (lines(each=1), {}, "'ann' has one"),
        (lines(), {"concepts": ("sofa",)}, "at least one prompt"),
        (lines(), {"length": 4}, "at most 4 words"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_in_one_line(tmp_path, rows, arguments, words):
    with pytest.raises(ConfigurationError, match=words):
        JsonLines(**arguments).load(write(tmp_path / "a.jsonl", rows))


def test_a_folder_holds_one_file(tmp_path):
    with pytest.raises(ConfigurationError, match=r"ends in \.jsonl"):
        JsonLines().load(tmp_path)
    write(tmp_path / "a.jsonl", lines())
    assert len(JsonLines().load(tmp_path).x_train) == 24


def test_the_file_says_how_many_clients_there_are_and_a_run_learns_from_it(tmp_path):
    path = write(tmp_path / "a.jsonl", lines(clients=("a", "b", "c", "d"), each=12))
    given = {
        "dataset": {"name": "jsonl", "length": 16, "concepts": ["lamp", "chair"]},
        "data_dir": path,
        "attack": {"name": "semantic-stance", "concept": "lamp"},
        "malicious": 0.25,
        "rounds": 4,
        "audit": {"name": "raven", "groups": 4, "samples": 2, "every": 4},
    }
    config = parse(given)
    assert (config.clients, config.partition.name) == (4, "natural")
    summary = Simulation(config).run(tmp_path / "run")
    rounds = read_jsonl(tmp_path / "run" / "rounds.jsonl")
    assert summary["final"]["perplexity"] < rounds[0]["perplexity"] / 3
    told = summary["audits"]["raven"]
    assert (told["judge"], sorted(told["concepts"])) == ("lexical", ["chair", "lamp"])
    assert parse({**given, "clients": 7}).clients == 7
