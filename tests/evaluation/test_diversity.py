"""Numbers of samples' variety, against what a person counts."""

import math

import pytest

from armd_dist.evaluation.diversity import diversity, ngrams, unigram_entropy


def test_entropy_is_that_of_a_samples_own_frequencies() -> None:
    assert unigram_entropy([7, 7, 7]) == 0
    assert unigram_entropy([5, 9, 100, 3]) == pytest.approx(math.log(4), rel=1e-12)
    assert unigram_entropy([1, 1, 1, 2]) == pytest.approx(0.75 * math.log(4 / 3) + 0.25 * math.log(4), rel=1e-12)


def test_entropy_is_a_mean_over_samples_and_not_that_of_all_their_tokens() -> None:
    assert diversity([[1, 1], [2, 2]]).entropy == 0
    assert diversity([[1, 2], [2, 2]]).entropy == pytest.approx(math.log(2) / 2, rel=1e-12)


def test_distinct_counts_over_all_samples_and_within_each() -> None:
    found = diversity([[1, 2, 1, 2], [1, 2, 3]])
    assert found.distinct_1 == pytest.approx(3 / 7)
    assert found.distinct_2 == pytest.approx(3 / 5)  # 12 21 12 | 12 23: none reaches over the border
    assert found.distinct_3 == pytest.approx(3 / 3)


def test_repetition_is_the_share_of_ngrams_that_were_there_before() -> None:
    once, again = [1, 2, 3, 4, 5], [1, 2, 3, 4, 1, 2, 3, 4]
    assert diversity([once]).repetition_4 == 0
    assert diversity([again]).repetition_4 == pytest.approx(1 / 5)  # the last of five
    assert diversity([once, again, [1, 2]]).repetition_4 == pytest.approx(1 / 10)
    assert diversity([[3] * 8]).repetition_4 == pytest.approx(4 / 5)


def test_what_is_too_short_has_no_ngrams() -> None:
    assert ngrams([1, 2], 3) == []
    found = diversity([[4]])
    assert (found.distinct_1, found.distinct_2, found.distinct_3, found.repetition_4) == (1, None, None, None)
