"""Statistics against independent references and against cases known by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from fedguard.metrics.significance import (
    EXACT_UP_TO,
    agreement,
    holm,
    paired_tests,
    pareto_front,
    signed_rank,
)


def test_holm_as_in_a_textbook() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []
    assert holm([0.9, 0.8]) == [1.0, 1.0]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_keeps_the_order_and_lies_between_plain_and_bonferroni(p: list[float]) -> None:
    corrected = holm(p)
    for plain, found in zip(p, corrected, strict=True):
        assert plain <= found <= min(1.0, len(p) * plain) + 1e-12
    order = np.argsort(p, kind="stable")
    assert np.all(np.diff(np.array(corrected)[order]) >= 0)


@pytest.mark.parametrize(
    "differences",
    [
        [0.3, 1.1, -0.2, 0.9, 0.5, 0.7],
        [0.3, 0.3, -0.3, 0.9, 0.9, 0.7],
        [1.0, 1.0, 1.0, 1.0, 1.0, 1.0],
        [-1.0, 1.0, -1.0, 1.0, -1.0, 1.0],
    ],
)
def test_signed_rank_by_counting_every_sign(differences: list[float]) -> None:
    """The exact p-value is the share of sign patterns at least as one-sided as the data."""
    differences = np.array(differences)
    ranks = stats.rankdata(np.abs(differences))
    total = ranks.sum()
    observed = abs(ranks[differences > 0].sum() - total / 2)
    patterns = (np.arange(2**6)[:, None] >> np.arange(6)) & 1
    extreme = np.abs(patterns @ ranks - total / 2) >= observed - 1e-9
    assert signed_rank(differences.tolist()) == pytest.approx(extreme.mean())


@given(st.lists(st.floats(-1, 1).filter(bool), min_size=1, max_size=40, unique_by=abs))
def test_signed_rank_is_scipys_where_no_ranks_are_tied(differences: list[float]) -> None:
    expected = stats.wilcoxon(differences, method="exact").pvalue
    assert signed_rank(differences) == pytest.approx(expected)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(-4, 4).filter(bool), min_size=2, max_size=9))
def test_signed_rank_is_scipys_over_all_signs_where_ranks_are_tied(whole: list[int]) -> None:
    method = stats.PermutationMethod(n_resamples=np.inf)
    expected = stats.wilcoxon(np.array(whole, dtype=float), method=method).pvalue
    assert signed_rank([float(value) for value in whole]) == pytest.approx(expected)


def test_beyond_the_exact_test_it_is_scipys_approximation() -> None:
    values = np.random.default_rng(1).normal(0.1, 1.0, EXACT_UP_TO + 1)
    expected = stats.wilcoxon(values, method="approx").pvalue
    assert signed_rank(values.tolist()) == pytest.approx(expected)
    exact = stats.wilcoxon(values[:-1], method="exact").pvalue
    assert signed_rank(values[:-1].tolist()) == pytest.approx(exact, rel=1e-6)


def test_a_lost_run_is_the_largest_difference_of_all() -> None:
    finite = signed_rank([1.0, 2.0, -3.0, 4.0, 99.0])
    assert signed_rank([1.0, 2.0, -3.0, 4.0, float("inf")]) == finite


@given(st.lists(st.lists(st.floats(-1, 1), max_size=12), min_size=1, max_size=5))
def test_a_family_is_each_test_with_holms_correction(family: list[list[float]]) -> None:
    found = paired_tests(family)
    assert [test.p for test in found] == [signed_rank(pairs) for pairs in family]
    assert [test.corrected for test in found] == holm([test.p for test in found])
    assert [test.n for test in found] == [len(pairs) for pairs in family]
    for test, pairs in zip(found, family, strict=True):
        if pairs:
            assert test.mean_difference == pytest.approx(sum(pairs) / len(pairs))


def test_many_tied_pairs_take_no_time_and_meet_the_approximation() -> None:
    rng = np.random.default_rng(0)
    values = np.round(rng.normal(0.1, 1.0, EXACT_UP_TO), 1)
    exact = signed_rank(values.tolist())
    assert exact == pytest.approx(stats.wilcoxon(values, method="approx").pvalue, abs=0.01)
    assert 0 < signed_rank(np.tile(values, 5).tolist()) <= exact


def test_equal_or_absent_pairs_show_nothing() -> None:
    assert signed_rank([]) == 1.0
    assert signed_rank([0.0, 0.0, 0.0]) == 1.0
    none, same = paired_tests([[], [0.0] * 20])
    assert none.n == 0
    assert none.verdict == "too few pairs to say anything"
    assert same.verdict == "no difference shown"


@pytest.mark.parametrize("tests", [1, 3, 6])
@pytest.mark.parametrize("n", range(1, 12))
def test_smallest_possible_p_is_what_the_clearest_pairs_give(n: int, tests: int) -> None:
    clear = [float(k) for k in range(1, n + 1)]
    found = paired_tests([clear] * tests)[0]
    assert found.smallest == pytest.approx(found.corrected)
    assert found.enough == (tests * 2.0 ** (1 - n) < 0.05)
    assert found.verdict == ("higher" if found.enough else "too few pairs to say anything")
    if found.enough:
        assert paired_tests([[-d for d in clear]] * tests)[0].verdict == "lower"


def test_agreement_is_one_where_all_blocks_rank_alike() -> None:
    found = agreement(np.array([[0.9, 0.5, 0.1], [0.8, 0.7, 0.2], [0.4, 0.3, 0.2]]))
    assert found.w == pytest.approx(1.0)
    assert found.mean_ranks == [1.0, 2.0, 3.0]


def test_agreement_is_zero_where_ranks_cancel_out() -> None:
    assert agreement(np.array([[1.0, 2.0], [2.0, 1.0]])).w == pytest.approx(0.0)


@given(st.integers(2, 9), st.integers(3, 6), st.booleans(), st.integers(0, 1000))
def test_agreement_is_friedmans_statistic_scaled(
    blocks: int, methods: int, ties: bool, seed: int
) -> None:
    values = np.random.default_rng(seed).random((blocks, methods))
    if ties:
        values = np.round(values, 1)
    found = agreement(values)
    if found.w is None:
        return
    statistic = stats.friedmanchisquare(*values.T)
    assert found.w * blocks * (methods - 1) == pytest.approx(statistic.statistic)
    assert 0 <= found.w <= 1 + 1e-12


@given(st.integers(2, 9), st.integers(3, 6), st.integers(0, 1000))
def test_p_of_the_agreement_is_friedmans(blocks: int, methods: int, seed: int) -> None:
    values = np.random.default_rng(seed).random((blocks, methods))
    assert agreement(values).p == pytest.approx(stats.friedmanchisquare(*values.T).pvalue)


def test_two_methods_have_an_agreement_and_no_friedman_test() -> None:
    found = agreement(np.array([[2.0, 1.0], [2.0, 1.0], [1.0, 2.0]]))
    assert found.p is None
    # Rank sums 4 and 5, mean 4.5: S = 0.5, and W = 12 * 0.5 / (9 * 6).
    assert found.w == pytest.approx(1 / 9)


def test_ties_are_taken_out_of_the_agreement_as_by_hand() -> None:
    # Ranks (1, 2.5, 2.5) and (1, 2, 3): sums 2, 4.5, 5.5 around 4; one tie of two, T = 6.
    found = agreement(np.array([[0.9, 0.5, 0.5], [0.9, 0.5, 0.1]]))
    s = 2.0**2 + 0.5**2 + 1.5**2
    assert found.w == pytest.approx(12 * s / (4 * 24 - 2 * 6))
    assert found.mean_ranks == [1.0, 2.25, 2.75]


def test_the_highest_value_has_the_first_rank() -> None:
    assert agreement(np.array([[0.1, 0.9, 0.5]])).mean_ranks == [3.0, 1.0, 2.0]


def test_lost_values_are_ranked_last_and_nothing_is_undefined() -> None:
    found = agreement(np.array([[-np.inf, 0.9, 0.5], [-np.inf, 0.8, 0.4]]))
    assert found.mean_ranks == [3.0, 1.0, 2.0]
    assert found.w == pytest.approx(1.0)


def test_agreement_is_undefined_for_too_little() -> None:
    assert agreement(np.zeros((0, 0))).w is None
    assert agreement(np.array([[0.1, 0.2, 0.3]])).w is None
    assert agreement(np.array([[0.1], [0.2]])).w is None
    assert agreement(np.full((4, 3), 0.5)).w is None


@given(st.lists(st.tuples(*[st.integers(0, 4)] * 3), min_size=1, max_size=12))
def test_front_holds_exactly_what_nothing_beats(rows: list[tuple[int, int, int]]) -> None:
    found = pareto_front(np.array(rows, dtype=float))
    for row, kept in zip(rows, found, strict=True):
        beaten = any(
            all(a <= b for a, b in zip(other, row, strict=True)) and other != row for other in rows
        )
        assert kept is not beaten
    assert any(found)
