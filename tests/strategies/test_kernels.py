from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from references import random_rows

from fedguard.strategies.toolkit import coordinates, distances, kernels

ODD_SHAPES = [(1, 1), (1, 300), (2, 7), (3, 129), (4, 1024), (5, 1025), (50, 2049), (51, 5000)]


@pytest.fixture(params=[1, 3])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def mean_around_median64(rows: np.ndarray, nearest: int) -> np.ndarray:
    gaps = np.abs(rows - np.median(rows, axis=0))
    near = gaps <= np.sort(gaps, axis=0)[nearest - 1]
    return np.where(near, rows, 0.0).sum(axis=0) / near.sum(axis=0)


@pytest.mark.parametrize("count", range(1, 17))
def test_networks_sort_every_pattern_of_zeros_and_ones(count):
    # The zero-one principle: a network that sorts these sorts everything.
    patterns = (np.arange(2**count)[None, :] >> np.arange(count)[:, None] & 1).astype(np.float32)
    for low, high in kernels.sorting_network(count, 0, count):
        patterns[[low, high]] = np.sort(patterns[[low, high]], axis=0)
    assert (np.diff(patterns, axis=0) >= 0).all()


def test_pruned_networks_are_shorter_and_put_the_wanted_ranks_in_place():
    rows = random_rows(50, 200, seed=0)
    network = kernels.sorting_network(50, 24, 26)
    assert len(network) < len(kernels.sorting_network(50, 0, 50))
    for low, high in network:
        rows[[low, high]] = np.sort(rows[[low, high]], axis=0)
    np.testing.assert_array_equal(rows[24:26], np.sort(random_rows(50, 200, seed=0), axis=0)[24:26])


@pytest.mark.parametrize(("count", "size"), ODD_SHAPES)
@pytest.mark.parametrize("kind", ["normal", "ties", "huge"])
def test_order_statistics_equal_the_definition(count, size, kind, threads):
    rows = random_rows(count, size, seed=count)
    if kind == "ties":
        rows = np.round(rows, 1)
    elif kind == "huge":
        rows[: count // 3] = np.float32(1e30)
        rows[count // 3 : count // 2] = np.float32(-1e30)
    wide, tensor = rows.astype(np.float64), torch.from_numpy(rows)
    trim, low, high = (count - 1) // 4, (count - 1) // 2, count // 2
    ordered = np.sort(wide, axis=0)
    median = kernels.central_mean(tensor, low, high + 1).numpy()
    np.testing.assert_array_equal(median, ordered[low : high + 1].mean(axis=0).astype(np.float32))
    trimmed = kernels.central_mean(tensor, trim, count - trim).numpy()
    wanted = ordered[trim : count - trim].mean(axis=0)
    np.testing.assert_allclose(trimmed, wanted, rtol=1e-6, atol=1e-6 * np.abs(wanted).max())
    # Both huge values together would absorb the others in any float64 sum.
    for nearest in {1, (count + 1) // 2, count if kind != "huge" else 1}:
        found = kernels.mean_around_median(tensor, nearest).numpy()
        wanted = mean_around_median64(wide, nearest)
        np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-6 * np.abs(wanted).max())


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(1, 60), st.integers(0, 10**6), st.data())
def test_compiled_and_small_matrix_paths_agree(count, size, seed, data):
    rows = torch.from_numpy(np.round(random_rows(count, size, seed), 2))
    first = data.draw(st.integers(0, count - 1))
    last = data.draw(st.integers(first + 1, count))
    nearest = data.draw(st.integers(1, count))
    pairs = [
        (kernels.central_mean(rows, first, last), coordinates.central_mean(rows, first, last)),
        (
            kernels.mean_around_median(rows, nearest),
            coordinates.mean_around_median(rows, nearest),
        ),
        (kernels.gram_matrix(rows), distances.gram_matrix(rows)),
        (kernels.square_sums(rows).sqrt(), distances.row_norms(rows)),
    ]
    for found, wanted in pairs:
        torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-7)
    for found, wanted in zip(kernels.sign_votes(rows), coordinates.sign_votes(rows), strict=True):
        assert torch.equal(found, wanted)


@pytest.mark.parametrize(("count", "size"), ODD_SHAPES)
def test_views_and_chosen_rows_are_read_in_place(count, size):
    whole = torch.from_numpy(random_rows(count, size + 13, seed=1))
    view, index = whole[:, 5 : 5 + size], torch.arange(0, count, 2)
    dense = view[index].contiguous()
    middle = torch.from_numpy(random_rows(1, size, seed=2))[0]
    half = len(index) // 2
    for function, arguments in [
        (kernels.central_mean, (half, half + 1)),
        (kernels.mean_around_median, (half + 1,)),
    ]:
        assert torch.equal(function(view, *arguments, index), function(dense, *arguments))
    assert torch.equal(kernels.gram_matrix(view, middle, index), kernels.gram_matrix(dense, middle))
    transposed = view.T.contiguous().T
    assert torch.equal(kernels.square_sums(transposed, middle), kernels.square_sums(view, middle))


def test_threads_change_no_digit():
    rows, before = torch.from_numpy(random_rows(20, 30_000, seed=3)), torch.get_num_threads()
    results = []
    try:
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            results.append(
                [
                    kernels.central_mean(rows, 5, 15),
                    kernels.mean_around_median(rows, 15),
                    *kernels.sign_votes(rows),
                    kernels.gram_matrix(rows, rows[0]),
                    kernels.square_sums(rows, rows[0]),
                ]
            )
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("size", [1, 63, 4000, 70_001])
def test_inner_products_are_those_of_float64(size):
    rows = random_rows(7, size, seed=4).astype(np.float32)
    middle = rows[3]
    wide = rows.astype(np.float64) - middle.astype(np.float64)
    found = kernels.gram_matrix(torch.from_numpy(rows), torch.from_numpy(middle)).numpy()
    np.testing.assert_allclose(found, wide @ wide.T, rtol=1e-11, atol=1e-12 * size)
    sums = kernels.square_sums(torch.from_numpy(rows), torch.from_numpy(middle)).numpy()
    np.testing.assert_allclose(sums, (wide**2).sum(axis=1), rtol=1e-12)


def test_copies_have_equal_inner_products_wherever_they_stand():
    rows = torch.from_numpy(random_rows(9, 9001, seed=5))
    rows[7] = rows[2]
    gram = kernels.gram_matrix(rows)
    others = [0, 1, 3, 4, 5, 6, 8]
    assert torch.equal(gram[2, others], gram[7, others])
    assert gram[2, 2] == gram[7, 7] == gram[2, 7]


def test_distances_late_in_training_keep_six_digits():
    # Updates N(0, 1e-5) of a million parameters on top of a common part a thousand times larger.
    stream = torch.Generator().manual_seed(6)
    rows = 1e-5 * torch.randn(6, 1_000_000, generator=stream)
    common = 1e-2 * torch.randn(1_000_000, generator=stream)
    for matrix in (rows, rows + common):
        found = distances.squared_distances(matrix).sqrt()
        for i, j in ((0, 1), (2, 5)):
            wanted = float((matrix[i].double() - matrix[j].double()).norm())
            assert abs(float(found[i, j]) - wanted) < 1e-9 * wanted


def test_not_a_number_stays_in_its_column_and_crashes_nothing():
    rows = torch.from_numpy(random_rows(10, 3000, seed=7))
    clean = kernels.central_mean(rows, 4, 6), kernels.mean_around_median(rows, 7)
    rows[3, 1500] = float("nan")
    rows[4, 1501] = float("inf")
    others = torch.ones(3000, dtype=torch.bool)
    others[1500:1502] = False
    found = kernels.central_mean(rows, 4, 6), kernels.mean_around_median(rows, 7)
    for one, other in zip(clean, found, strict=True):
        assert torch.equal(one[others], other[others])


def test_only_large_matrices_in_main_memory_are_compiled_for(monkeypatch):
    monkeypatch.setattr(coordinates, "COMPILED_FROM", 100)
    assert coordinates.worth_compiling(torch.zeros(10, 10))
    assert not coordinates.worth_compiling(torch.zeros(10, 9))
    assert not coordinates.worth_compiling(torch.zeros(10, 10, dtype=torch.float64))
    assert not coordinates.worth_compiling(torch.zeros(10, 10, device="meta"))
