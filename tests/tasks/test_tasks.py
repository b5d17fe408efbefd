"""The tasks' losses and figures by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from fedguard.config import parse
from fedguard.data.dataset import Dataset
from fedguard.errors import ConfigurationError
from fedguard.metrics.classification import evaluate
from fedguard.runs.simulation import Simulation
from fedguard.tasks.base import Task, task_of
from fedguard.tasks.classification import Classification
from fedguard.tasks.next_word import NextWord
from fedguard.traits import Traits, traits_of


class Table(nn.Module):
    """Gives back fixed logits for each word."""

    def __init__(self, logits) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.tensor(logits))

    def forward(self, x):
        return self.logits[x]


# Word 0 makes both words equally likely, word 1 makes word 0 three times as likely as word 1.
TABLE = [[0.0, 0.0], [math.log(3.0), 0.0]]
X = torch.tensor([[0, 1], [1, 1]])
Y = torch.tensor([[0, 0], [1, 0]])
NATS = [math.log(2.0), math.log(4 / 3), math.log(4.0), math.log(4 / 3)]


def test_a_rows_loss_is_the_mean_over_its_words():
    found = NextWord().losses(Table(TABLE)(X), Y)
    wanted = [(NATS[0] + NATS[1]) / 2, (NATS[2] + NATS[3]) / 2]
    assert found.tolist() == pytest.approx(wanted, abs=1e-6)


def test_perplexity_is_the_exponential_of_the_mean_over_all_words():
    found = NextWord().evaluate(Table(TABLE), X, Y)
    assert found["loss"] == pytest.approx(sum(NATS) / 4, abs=1e-6)
    assert found["perplexity"] == pytest.approx((2 * 4 / 3 * 4 * 4 / 3) ** 0.25, abs=1e-5)
    assert found["accuracy"] == 0.75  # a tie goes to the first word


def test_a_uniform_model_has_the_vocabularys_perplexity():
    x = torch.randint(0, 7, (300, 5))
    found = NextWord().evaluate(Table([[0.0] * 7] * 7), x, x)
    assert found["perplexity"] == pytest.approx(7.0, abs=1e-4)


@pytest.mark.parametrize("size", [1e30, math.inf, math.nan])
def test_a_diverged_models_perplexity_stays_a_number(size):
    found = NextWord().evaluate(Table([[-size, size], [size, -size]]), X, Y)
    assert math.isfinite(found["perplexity"])
    assert found["perplexity"] > 1e100


def test_next_word_tells_its_headline_and_sees_wrong_outputs():
    task = NextWord()
    assert task.told == {"name": "perplexity", "higher_is_better": False, "unit": "plain"}
    assert task.sample((5,), 3).dtype == torch.int64
    assert task.output_fault(torch.zeros(3, 5, 7), 3, 7) is None
    for bad in (torch.zeros(3, 5, 6), torch.zeros(2, 5, 7), torch.zeros(3, 7), "text"):
        assert "expected (rows, words, 7)" in task.output_fault(bad, 3, 7)
    assert task.strata(Y).tolist() == [0, 0]
    assert not task.softmax


def test_classification_is_what_the_metrics_say():
    torch.manual_seed(0)
    module, x, y = nn.Linear(4, 3), torch.randn(50, 4), torch.randint(0, 3, (50,))
    found, wanted = Classification().evaluate(module, x, y), evaluate(module, x, y)
    assert found["accuracy"] == wanted.accuracy
    assert found["loss"] == wanted.loss
    assert found["macro_f1"] == wanted.macro_f1
    assert found["per_class_recall"] == list(wanted.per_class_recall)
    assert torch.equal(found["confusion"], wanted.confusion)
    output = module(x)
    by_hand = -torch.log_softmax(output, dim=1)[torch.arange(50), y]
    torch.testing.assert_close(Classification().losses(output, y), by_hand)
    assert found["loss"] == pytest.approx(float(by_hand.mean()), abs=1e-5)
    assert found["accuracy"] == float((output.argmax(1) == y).double().mean())


def test_classification_sees_wrong_outputs_and_balances_classes():
    task = Classification()
    y = torch.tensor([2, 0, 1])
    assert task.strata(y) is y
    assert task.output_fault(torch.zeros(2, 3), 2, 3) is None
    assert task.output_fault(torch.zeros(2, 4), 2, 3) == "it returned (2, 4)"
    assert task.output_fault([1], 2, 3) == "it returned list"
    assert task.told == {"name": "accuracy", "higher_is_better": True, "unit": "share"}


class Plain(Task):
    def losses(self, output, y):
        return output

    def evaluate(self, module, x, y):
        return {}


def test_the_base_tasks_defaults():
    task = Plain()
    assert task.output_fault(torch.zeros(2), 2, 1) is None
    assert "one output per row" in task.output_fault(torch.zeros(3), 2, 1)
    assert "one output per row" in task.output_fault(torch.tensor(1.0), 1, 1)
    assert task.output_fault(None, 2, 1) == "it returned NoneType"
    assert task.sample((2, 3), 4).shape == (4, 2, 3)
    assert not task.settles


def dataset(task):
    x, y = torch.zeros(4, 2), torch.tensor([0, 1, 0, 1])
    return Dataset("toy", x, y, x, y, 2, ("a", "b"), (0.0,), (1.0,), task=task)


def test_a_data_set_names_its_task_or_brings_it():
    assert isinstance(task_of(dataset("classification")), Classification)
    own = Plain()
    assert task_of(dataset(own)) is own
    with pytest.raises(ConfigurationError, match="did you mean 'next-word'"):
        task_of(dataset("next-wrod"))
    with pytest.raises(ConfigurationError, match=r"dataset\.task"):
        task_of(dataset(3))


PLAYS = "\n\n".join(
    f"{name}:\n" + " ".join(f"{words[i % len(words)]}" for i in range(400))
    for name, words in (("ROMEO", ["love", "is", "a", "smoke"]), ("JULIET", ["o", "romeo", "!"]))
)


@pytest.mark.parametrize("executor", ["reuse", "vmap"])
def test_next_word_prediction_learns_two_speakers(tmp_path, executor):
    (tmp_path / "input.txt").write_text(PLAYS)
    config = parse(
        {
            "dataset": {"name": "shakespeare", "speakers": 2, "length": 4, "vocabulary": 10},
            "data_dir": tmp_path,
            "partition": "iid",
            "model": {"name": "word-gru", "width": 8},
            "strategy": "fedavg",
            "clients": 4,
            "attack": "none",
            "malicious": 0.0,
            "rounds": 3,
            "local_epochs": 3,
            "executor": executor,
        }
    )
    simulation = Simulation(config)
    assert simulation.dataset.class_names[0] == "<unknown>"
    summary = simulation.run(tmp_path / "out")
    assert summary["headline"]["name"] == "perplexity"
    assert summary["final"]["perplexity"] < 3.5  # 8 words are in use
    assert summary["best"]["perplexity"] <= summary["final"]["perplexity"]


def test_rows_of_shakespeare_are_words_and_those_that_follow(tmp_path):
    (tmp_path / "input.txt").write_text(PLAYS)
    made = Simulation(
        parse(
            {
                "dataset": {"name": "shakespeare", "speakers": 2, "length": 4, "vocabulary": 10},
                "data_dir": tmp_path,
                "partition": "iid",
                "clients": 2,
                "attack": "none",
            }
        )
    )
    data = made.dataset
    assert torch.equal(data.x_train[:, 1:], data.y_train[:, :-1])
    assert (len(data.x_train), len(data.x_test)) == (2 * 64, 2 * 16)
    assert data.groups["speaker"].tolist() == [0] * 64 + [1] * 64
    words = [data.class_names[i] for i in data.x_train[0].tolist()]
    assert words in (["love", "is", "a", "smoke"], ["o", "romeo", "!", "o"])


def test_a_misspelt_trait_is_refused_and_an_instance_refines_its_class():
    with pytest.raises(ConfigurationError, match="did you mean 'latent'"):
        Traits().but(latnt=True)
    with pytest.raises(ConfigurationError, match="server_data"):
        Traits(server_data="labeled")
    assert Traits().but(latent=True) == Traits(latent=True)

    class Part:
        traits = Traits(history=True)

        def refined_traits(self):
            return self.traits.but(smallest_cohort=7)

    assert traits_of(Part).smallest_cohort == 1
    assert traits_of(Part()) == Traits(history=True, smallest_cohort=7)
    assert traits_of(object()) == Traits()
    assert Traits(tasks=["next-word"]).serves("next-word")
    assert not Traits(tasks=["next-word"]).serves("classification")
    assert Traits().serves("anything")
    assert [Traits().tools, Traits(server_model=True).tools] == [False, True]

    class Wrong:
        traits = {"history": True}  # noqa: RUF012

    with pytest.raises(ConfigurationError, match="Wrong"):
        traits_of(Wrong)
