"""Top-k accuracy, MAP@100 and running averages."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minixception.errors import ArgumentError, CheckpointError, DTypeError, LabelError, NumericError, ShapeError
from minixception.training.metrics import Accuracy, Mean, mean_average_precision, topk_accuracy, topk_hits


@given(n=st.integers(1, 20), classes=st.integers(1, 8), levels=st.integers(1, 20), draw=st.data())
def test_topk_matches_a_stable_sort(n, classes, levels, draw):
    k = draw.draw(st.integers(1, classes))
    rng = np.random.default_rng(draw.draw(st.integers(0, 1000)))
    logits = rng.integers(0, levels, (n, classes)).astype(np.float32)  # few levels: many ties
    labels = rng.integers(0, classes, n)
    hits = [
        label in sorted(range(classes), key=lambda c: -row[c])[:k] for row, label in zip(logits, labels, strict=True)
    ]
    assert topk_accuracy(logits, labels, k) == pytest.approx(np.mean(hits))
    assert topk_accuracy(logits, labels) == np.mean(logits.argmax(axis=1) == labels)
    assert topk_hits(logits, labels, k).tolist() == hits


def test_equal_logits_are_no_hit_for_everyone():
    assert topk_accuracy(np.zeros((4, 4)), np.arange(4)) == 0.25


@pytest.mark.parametrize(
    ("logits", "labels", "k", "error", "words"),
    [
        (np.zeros(3), np.zeros(3, int), 1, ShapeError, r"got \(3,\) and \(3,\)"),
        (np.zeros((2, 3)), np.zeros(3, int), 1, ShapeError, r"got \(2, 3\) and \(3,\)"),
        (np.zeros((0, 3)), np.zeros(0, int), 1, ShapeError, r"\(0, 3\)"),
        (np.zeros((2, 3)), np.array([0, 3]), 1, LabelError, r"0 \.\. 2"),
        (np.zeros((2, 3)), np.array([0, -1]), 1, LabelError, r"0 \.\. 2"),
        (np.zeros((2, 3)), np.zeros(2), 1, LabelError, "float64"),
        (np.zeros((2, 3)), np.zeros(2, int), 0, ArgumentError, "k from 1 to 3"),
        (np.zeros((2, 3)), np.zeros(2, int), 4, ArgumentError, "got 4"),
        (np.array([[0, np.nan]]), np.zeros(1, int), 1, NumericError, "NaN"),
    ],
)
def test_topk_rejects(logits, labels, k, error, words):
    with pytest.raises(error, match=words):
        topk_accuracy(logits, labels, k)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(0, 1000), st.integers(1, 3))
def test_accuracy_over_batches_is_the_accuracy_of_all(sizes, seed, k):
    rng = np.random.default_rng(seed)
    logits, labels = rng.standard_normal((sum(sizes), 4)), rng.integers(0, 4, sum(sizes))
    running = Accuracy(k)
    for part in np.split(np.arange(sum(sizes)), np.cumsum(sizes)[:-1]):
        running.add(logits[part], labels[part])
    assert running.value == pytest.approx(topk_accuracy(logits, labels, k))
    assert running.weight == sum(sizes)


def test_mean_weighs_and_starts_as_nan():
    mean = Mean()
    assert np.isnan(mean.value)
    mean.update(1.0, weight=3)
    mean.update(5.0)
    assert mean.value == 2.0


def test_a_mean_goes_on_from_json():
    mean = Mean()
    mean.update(0.1, weight=3)
    other = Mean()
    other.load_state_dict(json.loads(json.dumps(mean.state_dict())))
    for m in (mean, other):
        m.update(0.7, weight=2)
    assert other.value == mean.value
    with pytest.raises(CheckpointError, match="total and weight, got total"):
        other.load_state_dict({"total": 1.0})


# MAP@100 --------------------------------------------------------------------------------------------------------------


def brute_force(scores, targets, k, weights):
    """The definition in words: rank, then walk down the list."""
    values = []
    for row, flags in zip(scores.tolist(), targets.tolist(), strict=True):
        owed = sorted((weights[c] for c, flag in enumerate(flags) if flag), reverse=True)[:k]
        if not sum(owed):
            continue
        found, gained = 0, 0.0
        for rank, c in enumerate(sorted(range(len(row)), key=lambda c: (-row[c], c))[:k], start=1):
            if flags[c]:
                found += 1
                gained += weights[c] * found / rank
        values.append(gained / sum(owed))
    return sum(values) / len(values)


@st.composite
def rankings(draw):
    """scores with ties, targets with at least one label of positive weight, k, weights."""
    n, classes = draw(st.integers(1, 6)), draw(st.integers(1, 12))
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    dtype = draw(st.sampled_from([np.float32, np.float64, np.uint8]))
    scores = rng.integers(0, draw(st.integers(1, 20)), (n, classes)).astype(dtype)
    targets = rng.random((n, classes)) < draw(st.sampled_from([0.1, 0.5, 0.9]))
    weights = np.where(rng.random(classes) < 0.2, 0.0, rng.uniform(0.01, 5, classes))
    targets[0, 0], weights[0] = True, 1.5
    return scores, targets, draw(st.integers(1, 15)), weights


@given(rankings())
def test_map_is_the_definition(case):
    scores, targets, k, weights = case
    assert mean_average_precision(scores, targets, k, weights) == pytest.approx(brute_force(*case), abs=1e-12)


@given(rankings())
def test_weights_that_are_alike_do_not_matter(case):
    scores, targets, k, _ = case
    ones = np.ones(scores.shape[1])
    plain = mean_average_precision(scores, targets, k)
    assert plain == mean_average_precision(scores, targets, k, ones)
    assert plain == pytest.approx(mean_average_precision(scores, targets, k, 7.5 * ones), abs=1e-12)


@given(rankings(), st.integers(0, 1000))
def test_map_does_not_depend_on_the_order_of_images(case, seed):
    scores, targets, k, weights = case
    order = np.random.default_rng(seed).permutation(len(scores))
    shuffled = mean_average_precision(scores[order], targets[order], k, weights)
    assert shuffled == pytest.approx(mean_average_precision(scores, targets, k, weights), abs=1e-12)


@given(rankings())
def test_map_lies_between_0_and_1_and_is_1_for_a_perfect_ranking(case):
    scores, targets, k, weights = case
    assert 0 <= mean_average_precision(scores, targets, k, weights) <= 1 + 1e-12
    best = np.where(targets, 1 + weights, 0)  # the heaviest labels first, then everything else
    assert mean_average_precision(best, targets, k, weights) == pytest.approx(1, abs=1e-12)


@given(rankings())
def test_map_only_needs_the_order_of_the_scores(case):
    scores, targets, k, weights = case
    value = mean_average_precision(scores, targets, k, weights)
    assert mean_average_precision(3.0 * scores + 1, targets, k, weights) == value


def test_map_by_hand():
    scores = np.array([[0.9, 0.8, 0.7, 0.6]])
    second_and_fourth = np.array([[False, True, False, True]])
    assert mean_average_precision(scores, second_and_fourth) == (1 / 2 + 2 / 4) / 2
    assert mean_average_precision(scores, second_and_fourth, k=3) == pytest.approx((1 / 2) / 2)
    assert mean_average_precision(scores, second_and_fourth, k=1) == 0
    heavy = np.array([9.0, 3.0, 9.0, 1.0])  # of classes that the image does not show it does not matter
    assert mean_average_precision(scores, second_and_fourth, weights=heavy) == (3 / 2 + 2 / 4) / 4
    assert mean_average_precision(scores, np.ones((1, 4), bool), k=2) == 1
    assert mean_average_precision(scores, np.ones((1, 4), bool), k=1, weights=heavy / 9) == 1
    assert mean_average_precision(scores, np.ones((1, 4), bool), k=1, weights=heavy[::-1]) == 1 / 9
    two = np.repeat(scores, 2, axis=0)
    assert mean_average_precision(two, np.array([[True, False, False, False], [False] * 4])) == 1
    assert (
        mean_average_precision(np.zeros((1, 3)), np.array([[False, False, True]])) == 1 / 3
    )  # ties: first class first


def test_only_the_first_hundred_count_by_default():
    scores, targets = -np.arange(200.0)[None], np.zeros((1, 200), bool)
    targets[0, 100] = True
    assert mean_average_precision(scores, targets) == 0
    assert mean_average_precision(scores, targets, k=101) == pytest.approx(1 / 101)
    assert mean_average_precision(scores, np.ones((1, 200), bool)) == 1


SCORES, FLAGS = np.zeros((2, 3)), np.ones((2, 3), bool)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ((np.zeros(3), np.ones(3, bool)), ShapeError, r"\(N, classes\), got \(3,\) and \(3,\)"),
        ((SCORES, FLAGS[:1]), ShapeError, r"got \(2, 3\) and \(1, 3\)"),
        ((SCORES[:0], FLAGS[:0]), ShapeError, r"\(0, 3\)"),
        ((SCORES, FLAGS.astype(int)), DTypeError, "bool.* got int64"),
        ((SCORES, FLAGS, 0), ArgumentError, "k of at least 1, got 0"),
        ((SCORES, FLAGS, 5, np.ones(2)), ShapeError, r"each of the 3 classes, got shape \(2,\)"),
        ((SCORES, FLAGS, 5, np.array([1, -1, 1])), ArgumentError, "finite weights of at least 0, got -1"),
        ((SCORES, FLAGS, 5, np.array([1, np.nan, 1])), ArgumentError, "finite weights"),
        ((SCORES, ~FLAGS), LabelError, "at least one image with a label of positive weight"),
        ((SCORES, FLAGS, 5, np.zeros(3)), LabelError, "positive weight, got none"),
        ((np.full((2, 3), np.nan), FLAGS), NumericError, "without NaN"),
    ],
)
def test_map_rejects(arguments, error, words):
    with pytest.raises(error, match=words):
        mean_average_precision(*arguments)
