from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from fedguard import registry
from fedguard.data.clicks import Clicks
from fedguard.data.clicks_sample import ClicksSample
from fedguard.data.histories import training_row, user_mark, user_of
from fedguard.data.movielens import MovieLens
from fedguard.errors import ConfigurationError
from fedguard.metrics.profiles import detection_auc, profile_features
from fedguard.metrics.ranking import mean_jaccard, mean_ranks, unique_share
from fedguard.models.build import build
from fedguard.models.items import UNLIKELY
from fedguard.tasks.base import task_of
from fedguard.tasks.recommendation import Recommendation
from fedguard.testing import check_task


@pytest.fixture(scope="module")
def sample():
    return ClicksSample(users=40, items=60, shops=4, length=8).load(None)


def network(data, name="sasrec", **options):
    task = task_of(data)
    return build(
        name,
        data.input_shape,
        data.num_classes,
        0,
        sample=task.sample(data.input_shape, 2),
        fault=lambda out: task.output_fault(out, 2, data.num_classes),
        **options,
    )


def write(folder, rows, head="user,item,time"):
    (folder / "log.csv").write_text("\n".join([head, *rows]) + "\n")
    return folder


def log(users=5, items=4):
    """Every user takes every item, in an order of their own; times run against the file."""
    return [f"u{u},i{(u + t) % items},{100 - t}" for u in range(users) for t in range(items)]


# --- rows ------------------------------------------------------------------------------------


def test_a_row_holds_the_last_items_and_what_follows_each():
    x, y = training_row([5, 6, 7, 8], 3, user=4)
    assert x == [6, 7, 8]
    assert y == [7, 8, -1, -6]
    assert training_row([5, 6], 4, user=-1) == ([0, 0, 5, 6], [-1, -1, 6, -1, -1])
    marks = user_mark(torch.tensor([0, 4]))
    assert user_of(marks).tolist() == [0, 4]
    assert user_of(torch.tensor([-1])).tolist() == [-1]


def test_a_log_becomes_histories_in_order_of_time(tmp_path):
    data = Clicks(core=3, length=4, shops=2).load(write(tmp_path, log()))
    names = data.class_names
    # u1 takes i1, i2, i3, i0 in the file and the other way round in time.
    assert [names[item] for item in data.x_train[1].tolist() if item] == ["i0", "i3", "i2"]
    assert names[int(data.y_test[1, 3])] == "i1"
    assert data.y_train[1].tolist()[-2:] == [-1, -3]
    met = data.facts.met[data.facts.offsets[1] : data.facts.offsets[2]]
    assert sorted(names[item] for item in met.tolist()) == ["i0", "i2", "i3"]
    assert sum(data.facts.popularity.tolist()) == 5 * 3
    assert data.group_names["user"] == ("u0", "u1", "u2", "u3", "u4")
    assert sorted(data.groups["shop"].bincount().tolist()) == [2, 3]


def test_a_core_is_what_is_left_when_nothing_rare_is(tmp_path):
    rows = [*log(), "u0,rare,7", "new,i0,1", "new,i1,2"]
    data = Clicks(core=3, length=4, shops=1).load(write(tmp_path, rows))
    assert data.class_names == ("none", "i0", "i1", "i2", "i3")
    assert data.notes[-1] == "5 users, 4 items, 20 events kept of 23 (core 3)"


def test_an_item_that_is_met_again_counts_once(tmp_path):
    data = Clicks(core=3, length=4, shops=1).load(write(tmp_path, [*log(), "u0,i0,500"]))
    assert data.notes[0] == "1 events left out: the user met the item before"
    assert data.class_names[int(data.y_test[0, 3])] == "i0"


def test_dates_and_a_column_of_shops_are_read(tmp_path):
    rows = [
        f"u{u},i{(u + t) % 4},2024-0{9 - t}-01,{'north' if u < 2 else 'south'}"
        for u in range(5)
        for t in range(4)
    ]
    folder = write(tmp_path, rows, "who,what,when,where")
    part = Clicks(user="who", item="what", time="when", shop="where", core=3, length=4)
    data = part.load(folder)
    assert data.group_names["shop"] == ("north", "south")
    assert data.groups["shop"].tolist() == [0, 0, 1, 1, 1]
    assert data.class_names[int(data.y_test[1, 3])] == "i1"


@pytest.mark.parametrize(
    ("rows", "options", "told"),
    [
        (["u9,i1,soon"], {}, r"dataset.skip_bad: False.*row 21 has user 'u9'.*time 'soon'"),
        ([",i1,3"], {}, r"dataset.skip_bad.*row 21 has user ''"),
        ([], {"user": "usr"}, r"dataset.user: 'usr' .*did you mean 'user'"),
        ([], {"core": 9}, r"dataset.core: 9 .*a smaller number"),
        ([], {"shops": 9}, r"dataset.shops: 9 .*1 to 5"),
        ([], {"path": "other.csv"}, r"dataset.path: 'other.csv'"),
    ],
)
def test_a_log_that_cannot_be_meant_is_refused_in_one_line(tmp_path, rows, options, told):
    given = {"core": 3, "length": 4, "shops": 1, **options}
    with pytest.raises(ConfigurationError, match=told) as caught:
        Clicks(**given).load(write(tmp_path, [*log(), *rows]))
    assert "\n" not in str(caught.value)


def test_bad_rows_can_be_left_out_with_a_note(tmp_path):
    folder = write(tmp_path, [*log(), "u9,i1,soon"])
    data = Clicks(core=3, length=4, shops=1, skip_bad=True).load(folder)
    assert data.notes[0] == "1 of 21 events left out: no user, item or time"


def test_movielens_reads_titles_and_says_what_is_missing(tmp_path):
    with pytest.raises(ConfigurationError, match=r"a folder that holds ratings.csv and movies.csv"):
        MovieLens().load(tmp_path)
    rows = [f"{u},{(u + t) % 4},3.5,{t}" for u in range(5) for t in range(4)]
    head = "userId,movieId,rating,timestamp"
    (tmp_path / "ratings.csv").write_text("\n".join([head, *rows]))
    (tmp_path / "movies.csv").write_text('movieId,title,genres\n0,"Ran, twice (1985)",Drama\n')
    data = MovieLens(core=3, length=4, shops=1).load(tmp_path)
    assert data.class_names == ("none", "Ran, twice (1985)", "1", "2", "3")


def test_the_made_up_sample_is_always_the_same(sample):
    again = ClicksSample(users=40, items=60, shops=4, length=8).load(None)
    assert torch.equal(sample.x_train, again.x_train)
    assert "not of real users" in sample.notes[0]
    history = sample.x_train[3][sample.x_train[3] > 0]
    assert len(history) == len(history.unique())


# --- the task --------------------------------------------------------------------------------


class Fixed(nn.Module):
    """Scores that are the same for everybody."""

    def __init__(self, scores):
        super().__init__()
        self.scores = nn.Parameter(torch.tensor(scores))

    def forward(self, x):
        return self.scores.expand(*x.shape, -1)


def test_ranks_leave_out_what_a_user_has_met(tmp_path):
    data = Clicks(core=3, length=4, shops=1).load(write(tmp_path, log(users=5, items=14)))
    task = task_of(data)
    # Every user's wanted item has the lowest score, and all others but it have been met.
    lowest = Fixed([0.0] + [1.0] * 14)
    assert task.evaluate(lowest, data.x_test, data.y_test)["hr@10"] == 1.0
    unread = Recommendation()
    falling = Fixed([9.0] + [float(item) for item in range(14)])
    scores = [float(data.y_test[u, 3]) for u in range(5)]
    ranks = [14 - value for value in scores]
    found = unread.evaluate(falling, data.x_test, data.y_test)
    assert found["hr@10"] == pytest.approx(sum(rank < 10 for rank in ranks) / 5)
    gains = [1.0 / math.log2(rank + 2.0) if rank < 10 else 0.0 for rank in ranks]
    assert found["ndcg@10"] == pytest.approx(sum(gains) / 5)


@pytest.mark.parametrize("scores", [[0.0] * 61, [math.nan] * 61, [math.inf] * 61])
def test_a_destroyed_model_hits_as_chance_does(sample, scores):
    found = task_of(sample).evaluate(Fixed(scores), sample.x_test, sample.y_test)
    assert found["hr@10"] == 0.0
    assert math.isfinite(found["loss"])


def test_training_rows_are_judged_by_their_own_last_item():
    task = Recommendation()

    class Last(nn.Module):
        """Says that what comes next is one more than what was last."""

        def forward(self, x):
            return nn.functional.one_hot((x + 1).clamp(max=19), 20).float()

    rows = [training_row([3, 4, 5], 4, 0), training_row([7, 8], 4, 1)]
    x, y = (torch.tensor(part) for part in zip(*rows, strict=True))
    assert task.evaluate(Last(), x, y)["ndcg@10"] == 1.0


def test_losses_count_known_places_alone():
    output = torch.zeros(2, 3, 5)
    y = torch.tensor([[-1, 2, -1, -2], [-1, -1, -1, -3]])
    found = Recommendation().losses(output, y)
    assert found.tolist() == pytest.approx([math.log(5), 0.0])


@pytest.mark.parametrize("name", ["sasrec", "gru4rec"])
def test_both_networks_learn_the_sample(sample, name):
    report = check_task(
        lambda: task_of(sample), network(sample, name, width=16), sample.x_train, sample.y_train
    )
    assert "check_headline" in str(report.passed)


@pytest.mark.parametrize("name", ["sasrec", "gru4rec"])
def test_a_place_sees_nothing_that_comes_after_it(sample, name):
    model = network(sample, name, width=8).eval()
    x = sample.x_train[:4]
    changed = x.clone()
    changed[:, -1] = 1 + (x[:, -1] % 50)
    one, other = model.states(x), model.states(changed)
    assert torch.allclose(one[:, :-1], other[:, :-1], atol=1e-6)
    assert not torch.allclose(one[:, -1], other[:, -1], atol=1e-3)
    assert torch.allclose(model.following(x), model(x)[:, -1], atol=1e-5)


def test_places_before_a_history_change_nothing_after_it(sample):
    model = network(sample, "gru4rec", width=8).eval()
    short = torch.tensor([[0, 0, 0, 0, 0, 0, 3, 4]])
    assert torch.isfinite(network(sample, width=8)(short)).all()
    assert torch.isfinite(model(short)).all()


def test_drawn_negatives_leave_other_rows_of_the_table_untouched(sample):
    model = network(sample, width=8, negatives=5).train()
    x = sample.x_train[:2]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        output = model(x)
    scored = (output[0, 0] > UNLIKELY / 2).nonzero().flatten()
    assert set(x.flatten().tolist()) <= set(scored.tolist())
    assert len(scored) <= len(x.unique()) + 5
    task_of(sample).losses(output, sample.y_train[:2]).sum().backward()
    rows = model.items.weight.grad.abs().sum(dim=1)
    untouched = torch.ones(len(rows), dtype=torch.bool)
    untouched[scored] = False
    assert untouched.any()
    assert float(rows[untouched].sum()) == 0.0
    assert bool((rows[x[0][x[0] > 0]] > 0).all())


def test_networks_refuse_what_is_no_history():
    for name in ("sasrec", "gru4rec"):
        with pytest.raises(ConfigurationError, match="a data set of histories"):
            registry.create("model", name, input_shape=(1, 8, 8), num_classes=10)


# --- figures ---------------------------------------------------------------------------------


def test_ranks_are_means_over_ties():
    scores = torch.tensor([[0.5, 0.5, 0.9, -math.inf], [math.nan, 0.1, 0.2, 0.3]])
    assert mean_ranks(scores, torch.tensor([0, 1])).tolist() == [1.5, 2.0]


def test_profiles_alike_and_unlike():
    profiles = torch.tensor([[0, 1, 2, 2], [0, 2, 3, 4]])
    assert unique_share(profiles) == pytest.approx((2 / 3 + 1.0) / 2)
    assert mean_jaccard(profiles) == pytest.approx(1 / 4)


def test_a_detector_finds_profiles_of_one_item():
    draw = torch.Generator().manual_seed(1)
    people = torch.stack([torch.randperm(60, generator=draw)[:12] + 1 for _ in range(60)])
    rows = torch.cat([people, torch.full((4, 12), 7)])
    fake = torch.arange(64) >= 60
    popularity = rows.flatten().bincount(minlength=61)
    features = profile_features(rows, popularity)
    assert features[63].tolist() == pytest.approx([12, math.log(int(popularity[7])), 1.0, 1.0])
    assert detection_auc(rows, fake, popularity) > 0.95
