from __future__ import annotations

import pytest
import torch
from vertical_worlds import needs

from fedguard.data.dataset import Dataset
from fedguard.data.digits import Digits
from fedguard.data.tables import Adult, BankMarketing, CreditDefault
from fedguard.errors import ConfigurationError
from fedguard.vertical.data import column_owners, divide, strip_widths
from fedguard.vertical.schedule import BatchSchedule


def test_strips_cover_the_width():
    for width in (8, 28, 32):
        for parties in range(2, width + 1):
            widths = strip_widths(width, parties)
            assert sum(widths) == width
            assert max(widths) - min(widths) <= 1
            assert widths == sorted(widths, reverse=True)


def test_strips_put_together_are_the_image():
    digits = Digits().load(None)
    views = divide(digits, 5, seed=0)
    whole = torch.cat([view.x_train for view in views], dim=3)
    expected = (digits.x_train - digits.mean[0]) / digits.std[0]
    assert torch.allclose(whole, expected, atol=1e-6)
    assert all(len(view.x_test) == len(digits.y_test) for view in views)


def test_columns_are_dealt_out_evenly_once_each_by_seed():
    owners = column_owners(14, 4, seed=3)
    counts = [owners.count(party) for party in range(4)]
    assert sum(counts) == 14
    assert max(counts) - min(counts) <= 1
    assert owners == column_owners(14, 4, seed=3)
    assert owners != column_owners(14, 4, seed=4)


def test_indicators_of_one_column_stay_together():
    x = torch.arange(50.0).view(10, 5)
    y = torch.zeros(10, dtype=torch.int64)
    table = Dataset("t", x, y, x, y, 2, ("a", "b"), (0.0,) * 5, (1.0,) * 5)
    views = divide(table, 2, seed=0, groups=(0, 0, 0, 1, 1))
    assert sorted(view.x_train.shape[1] for view in views) == [2, 3]


def test_too_many_parties_are_refused():
    with pytest.raises(ConfigurationError, match="8 pixel columns"):
        divide(Digits().load(None), 9, seed=0)


@pytest.mark.parametrize(
    ("loader", "columns", "rows"),
    [(Adult, 14, (32561, 16281)), (CreditDefault, 23, None), (BankMarketing, 16, None)],
)
def test_the_public_tables(loader, columns, rows):
    made = loader()
    dataset = made.load(needs(made.folder).parent)
    assert len(set(made.groups)) == columns
    assert len(made.groups) == dataset.x_train.shape[1]
    assert set(dataset.y_train.tolist()) == {0, 1}
    assert torch.isfinite(dataset.x_train).all()
    if rows:
        assert (len(dataset.y_train), len(dataset.y_test)) == rows


def test_a_missing_table_is_refused(tmp_path):
    with pytest.raises(ConfigurationError, match=r"adult\.data"):
        Adult().load(tmp_path)


def test_a_schedule_has_every_row_once_a_round_in_an_order_of_its_own():
    schedule = BatchSchedule(103, 10, seed=1)
    rounds = [torch.cat([ids for _, ids in schedule.batches(n)]) for n in (1, 2)]
    for order in rounds:
        assert order.sort().values.tolist() == list(range(103))
    assert not torch.equal(*rounds)
    assert torch.equal(rounds[0], torch.cat([ids for _, ids in schedule.batches(1)]))
