"""Top-k accuracy and running averages."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minixception.errors import ArgumentError, CheckpointError, LabelError, NumericError, ShapeError
from minixception.metrics import Accuracy, Mean, topk_accuracy


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
