"""Images of bytes in a data set of one's own are from 0 to 1, whatever type they come in."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from fedguard.config import parse
from fedguard.data.dataset import Dataset
from fedguard.errors import ConfigurationError
from fedguard.runs.simulation import Simulation
from fedguard.tasks.base import Task

LEVELS = np.arange(256, dtype=np.uint8).reshape(4, 1, 8, 8)
NOTE = "images in bytes, 0 to 255, divided by 255"


def data(x_train: Any, x_test: Any = None, mean: float = 0.5, std: float = 0.25) -> Dataset:
    y = torch.tensor([0, 1, 0, 1])
    test = x_train if x_test is None else x_test
    return Dataset("own", x_train, y, test, y, 2, ("a", "b"), (mean,), (std,))


@pytest.mark.parametrize("kind", ["uint8", "int16", "int64", "float32", "float64"])
def test_bytes_of_any_type_are_divided_by_255_and_said(kind):
    found = data(LEVELS.astype(kind))
    for x in (found.x_train, found.x_test):
        assert x.dtype == torch.float32
        assert x.flatten().numpy() == pytest.approx(np.arange(256) / 255, abs=1e-7)
    assert found.notes == (NOTE,)
    assert (found.mean, found.std) == ((0.5,), (0.25,))


def test_a_mean_of_bytes_goes_with_them():
    found = data(LEVELS, mean=127.5, std=63.75)
    assert (*found.mean, *found.std) == pytest.approx((0.5, 0.25))
    # What a model sees is the same as without any of it.
    seen = (found.x_train - found.mean[0]) / found.std[0]
    wanted = (torch.from_numpy(LEVELS.astype("float32")) - 127.5) / 63.75
    torch.testing.assert_close(seen, wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize("bytes_first", [True, False])
def test_bytes_beside_0_to_1_become_0_to_1(bytes_first):
    unit = (LEVELS / 255).astype("float32")
    parts = (LEVELS, unit) if bytes_first else (unit, LEVELS)
    found = data(*parts)
    torch.testing.assert_close(found.x_train, found.x_test, atol=1e-7, rtol=0)
    assert found.notes == (NOTE,)


def test_a_dark_part_in_bytes_is_dark():
    found = data(LEVELS, np.ones_like(LEVELS))
    assert found.x_test.unique().tolist() == [pytest.approx(1 / 255)]


@pytest.mark.parametrize("kind", ["uint8", "bool", "float32"])
def test_masks_of_0_and_1_stay(kind):
    found = data((LEVELS > 99).astype(kind))
    assert found.x_train.dtype == torch.float32
    assert found.x_train.unique().tolist() == [0.0, 1.0]
    assert found.notes == ()


def test_a_divided_data_set_is_not_divided_again():
    once = data(LEVELS)
    again = replace(once)
    assert torch.equal(once.x_train, again.x_train)
    assert again.notes == (NOTE,)


def test_images_that_are_centred_stay_and_large_ones_are_said():
    centred = data((LEVELS.astype("float32") - 128) / 64)
    assert float(centred.x_train.min()) == -2.0
    assert centred.notes == ()
    large = data(LEVELS.astype("float32") * 7.5)
    assert float(large.x_train.max()) == 1912.5
    assert large.notes == (
        "images of values from 0 to 1912.5: triggers and input noise are defined on values "
        "from 0 to 1",
    )


@pytest.mark.parametrize(
    ("x_train", "x_test", "field"),
    [
        (LEVELS.astype("int32") * 16, None, "dataset.x_train"),
        (LEVELS.astype("int16") - 1, None, "dataset.x_train"),
        (LEVELS, LEVELS.astype("float32") * 1.5, "dataset.x_test"),
        (LEVELS, LEVELS.astype("float32") - 128, "dataset.x_test"),
    ],
)
def test_what_fits_no_scale_is_refused_in_one_line(x_train, x_test, field):
    with pytest.raises(ConfigurationError) as error:
        data(x_train, x_test)
    assert error.value.field == field
    assert "0 to 1" in str(error.value)


def test_a_table_in_bytes_is_a_table():
    rows = LEVELS.reshape(4, 64)
    found = data(rows)
    assert found.x_train.dtype == torch.float32
    assert float(found.x_train.max()) == 255.0
    assert found.notes == ()


class Amount(Task):
    """A number for every image."""

    name = "amount"
    headline = "error"

    def losses(self, output: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return (output[:, 0] - y) ** 2

    def evaluate(self, module: nn.Module, x: torch.Tensor, y: torch.Tensor) -> dict[str, Any]:
        return {"error": 0.0, "loss": 0.0}


def test_bytes_of_another_task_are_bytes_and_its_tokens_are_tokens():
    y = torch.rand(4)
    rest = (2, ("a", "b"), (0.5,), (0.25,), (), Amount())
    found = Dataset("own", LEVELS, y, LEVELS, y, *rest)
    assert float(found.x_train.max()) == 1.0
    assert found.notes == (NOTE,)
    tokens = LEVELS.astype("int64")
    assert Dataset("own", tokens, y, tokens, y, *rest).x_train.dtype == torch.int64


class Bytes:
    """A loader of a user's own: noise in bytes, a bright corner tells the class."""

    def load(self, data_dir: Any) -> Dataset:
        rng = np.random.default_rng(0)
        x = rng.integers(0, 40, (200, 1, 8, 8)).astype(np.uint8)
        y = np.arange(200) % 2
        x[y == 1, :, :4, :4] = 200
        parts = (x[:160], y[:160], x[160:], y[160:])
        return Dataset("own", *parts, 2, ("dark", "lit"), (0.2,), (0.3,))


def test_a_trigger_on_such_images_is_seen():
    attack = {"name": "badnets", "size": 2, "target": "lit"}
    own = {"dataset": f"{__name__}:Bytes", "clients": 4, "server_samples": 10}
    simulation = Simulation(parse({**own, "attack": attack}))
    x = simulation.dataset.x_test
    stamped = simulation.attack.trigger(x)
    changed = stamped[stamped != x]
    assert changed.unique().tolist() == [1.0]  # as bright as can be, not a 255th of it
    assert float(x.max()) == pytest.approx(200 / 255)
