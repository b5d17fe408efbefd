from __future__ import annotations

import torch

from fedguard.data.digits import Digits, read_digits


def test_the_shapes_and_the_scale() -> None:
    data = Digits().load(None)
    assert data.x_train.shape == (1438, 1, 8, 8)
    assert data.x_test.shape == (359, 1, 8, 8)
    assert data.x_train.dtype == torch.float32
    assert data.y_train.dtype == torch.int64
    assert data.x_train.is_contiguous()
    assert data.x_train.min() == 0.0
    assert data.x_train.max() == 1.0
    assert data.input_shape == (1, 8, 8)
    assert data.is_image
    assert data.mean[0] == torch.mean(data.x_train).item()


def test_the_split_is_stratified_whole_and_always_the_same() -> None:
    from sklearn.datasets import load_digits

    first, again = Digits().load(None), Digits().load(None)
    assert torch.equal(first.x_test, again.x_test)
    everything = torch.cat([first.x_train, first.x_test]).flatten(1)
    original = torch.tensor(load_digits().data, dtype=torch.float32) / 16
    assert sorted(map(tuple, everything.tolist())) == sorted(map(tuple, original.tolist()))
    shares = first.y_test.bincount() / (first.y_test.bincount() + first.y_train.bincount())
    assert (shares - 0.2).abs().max() < 0.005


def test_the_file_read_directly_is_what_scikit_learn_loads():
    from sklearn.datasets import load_digits

    images, labels = read_digits()
    wanted_images, wanted_labels = load_digits(return_X_y=True)
    assert (images == wanted_images).all()
    assert (labels == wanted_labels).all()
