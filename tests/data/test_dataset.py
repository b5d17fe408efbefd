from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from fedguard.data.dataset import Dataset
from fedguard.errors import ConfigurationError


def make(**changes: Any) -> Dataset:
    values: dict[str, Any] = {
        "name": "own",
        "x_train": torch.arange(12.0).view(6, 2),
        "y_train": torch.tensor([0, 1, 2, 0, 1, 2]),
        "x_test": torch.ones(3, 2),
        "y_test": torch.tensor([2, 1, 0]),
        "num_classes": 3,
        "class_names": ("a", "b", "c"),
        "mean": (0.0,),
        "std": (1.0,),
    }
    return Dataset(**{**values, **changes})


@pytest.mark.parametrize(
    ("train", "test", "wanted"),
    [
        (torch.tensor([0, 1, 2, 0, 1, 2], dtype=torch.int32), torch.tensor([2, 1, 0]), "same"),
        (torch.tensor([0, 1, 2, 0, 1, 2], dtype=torch.uint8), torch.tensor([2, 1, 0]), "same"),
        (np.array([0, 1, 2, 0, 1, 2]), np.array([2, 1, 0], dtype=np.int16), "same"),
        ([0, 1, 2, 0, 1, 2], [2, 1, 0], "same"),
        (torch.tensor([0.0, 1, 2, 0, 1, 2]), np.array([2.0, 1.0, 0.0]), "same"),
        (torch.tensor([[0], [1], [2], [0], [1], [2]]), torch.tensor([[2], [1], [0]]), "same"),
        (torch.eye(3)[[0, 1, 2, 0, 1, 2]], np.eye(3)[[2, 1, 0]], "same"),
        (torch.eye(3).bool()[[0, 1, 2, 0, 1, 2]], torch.eye(3, dtype=int)[[2, 1, 0]], "same"),
        (torch.tensor([1, 2, 3, 1, 2, 3]), torch.tensor([3, 2, 1]), "from 1"),
        (torch.tensor([1.0, 2, 3, 1, 2, 3]), [3, 2, 1], "from 1"),
        (torch.tensor([2, 2, 3, 2, 2, 3]), torch.tensor([2, 2, 2]), "two of three, from 1"),
    ],
)
def test_labels_become_class_numbers_from_zero(train: Any, test: Any, wanted: str) -> None:
    data = make(y_train=train, y_test=test)
    assert data.y_train.dtype == data.y_test.dtype == torch.int64
    if wanted.startswith("two"):
        assert data.y_train.tolist() == [1, 1, 2, 1, 1, 2]
        return
    assert data.y_train.tolist() == [0, 1, 2, 0, 1, 2]
    assert data.y_test.tolist() == [2, 1, 0]
    assert bool(data.notes) is (wanted == "from 1")


def test_a_missing_class_does_not_shift_the_others() -> None:
    data = make(y_train=[1, 2, 1, 2, 1, 2], y_test=[1, 1, 2])
    assert data.y_train.tolist() == [1, 2, 1, 2, 1, 2]
    assert data.notes == ()


@pytest.mark.parametrize(
    "x",
    [
        np.arange(12, dtype=np.float64).reshape(6, 2),
        torch.arange(12, dtype=torch.float16).view(6, 2),
        torch.arange(12, dtype=torch.uint8).view(6, 2),
        [[0.0, 1], [2, 3], [4, 5], [6, 7], [8, 9], [10, 11]],
    ],
)
def test_inputs_become_float32(x: Any) -> None:
    data = make(x_train=x)
    assert data.x_train.dtype == torch.float32
    assert torch.equal(data.x_train, torch.arange(12.0).view(6, 2))


def test_whole_numbers_stay_whole_and_tensors_are_not_copied() -> None:
    tokens = torch.arange(12).view(6, 2)
    assert make(x_train=tokens).x_train is tokens
    right = torch.rand(6, 2)
    assert make(x_train=right).x_train is right


@pytest.mark.parametrize(
    ("changes", "field", "says"),
    [
        ({"x_test": torch.ones(0, 2), "y_test": []}, "dataset.x_test", "stratified_split"),
        ({"x_train": torch.ones(0, 2), "y_train": []}, "dataset.x_train", "at least one row"),
        ({"x_test": torch.ones(3, 4)}, "dataset.x_test", r"shape \(2,\)"),
        ({"y_train": [0, 1]}, "dataset.y_train", "6, one label"),
        ({"y_test": [0, 1]}, "dataset.y_test", "3, one label"),
        ({"y_train": [0, 1, 2, 3, 1, 2]}, "dataset.y_train", "from 0 to 2"),
        ({"y_train": [-1, 1, 2, 0, 1, 2]}, "dataset.y_train", "from 0 to 2"),
        ({"y_test": [0, 1, 3]}, "dataset.y_test", "larger num_classes"),
        ({"y_train": [0.5, 1, 2, 0, 1, 2]}, "dataset.y_train", "another task"),
        ({"y_train": torch.ones(6, 3)}, "dataset.y_train", "single 1"),
        ({"y_train": torch.zeros(6, 3)}, "dataset.y_train", "single 1"),
        ({"y_train": torch.zeros(6, 5)}, "dataset.y_train", "one per row"),
        ({"y_train": np.array(list("abcabc"))}, "dataset.y_train", "numbers"),
        ({"x_train": [[1, 2], [3]] * 3}, "dataset.x_train", "one shape"),
        ({"x_train": torch.full((6, 2), torch.nan)}, "dataset.x_train", "finite"),
        ({"x_train": torch.ones(6, 2, dtype=torch.cfloat)}, "dataset.x_train", "real"),
        ({"class_names": ("a", "b")}, "dataset.class_names", "3 names"),
        ({"num_classes": 1}, "dataset.num_classes", ">= 2"),
        ({"mean": (0.0, 0.0, 0.0)}, "dataset.mean", "1 or 2"),
        ({"std": (1.0, 0.0)}, "dataset.std", "write 1.0"),
        ({"std": (1.0, float("nan"))}, "dataset.std", "finite"),
        ({"groups": {"site": torch.zeros(5).long()}}, "dataset.groups.site", "one per row"),
    ],
)
def test_what_is_no_classification_is_refused_in_one_line(
    changes: dict[str, Any], field: str, says: str
) -> None:
    with pytest.raises(ConfigurationError, match=says) as caught:
        make(**changes)
    assert caught.value.field == field
    assert "\n" not in str(caught.value)


def test_huge_but_finite_inputs_are_allowed() -> None:
    assert float(make(x_train=torch.full((6, 2), 3e38)).x_train[0, 0]) == pytest.approx(3e38)


def test_scaling_may_come_as_an_array() -> None:
    data = make(mean=np.array([1.0, 2.0]), std=torch.tensor([2.0, 4.0]))
    assert (data.mean, data.std) == ((1.0, 2.0), (2.0, 4.0))


def test_other_tasks_keep_their_targets() -> None:
    y = torch.tensor([0.5, 7.0, -3.0, 0.0, 1.5, 2.0])
    data = make(task="regression", y_train=y, y_test=torch.rand(3, 4), mean=(), std=())
    assert data.y_train is y
    assert data.y_test.shape == (3, 4)
