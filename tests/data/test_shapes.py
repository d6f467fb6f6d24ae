"""The embedded data set teaches what it says: the class takes space and colour together to tell."""

from __future__ import annotations

import numpy as np
import pytest

from minixception import data
from minixception.data.shapes import ORDERS, PATTERNS
from minixception.errors import ArgumentError

N = 2400
CHANCE = 1 / 8
MARGIN = 4 * np.sqrt(CHANCE * (1 - CHANCE) / N)  # four standard deviations of the accuracy of a guess


@pytest.fixture(scope="module")
def splits():
    return data.shapes("train", N), data.shapes("test", N)


def nearest_class(train: np.ndarray, test: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Quadratic discriminant analysis: each class a Gaussian of its own mean and covariance."""
    scores = []
    for label in np.unique(labels):
        own = train[labels == label]
        covariance = np.cov(own, rowvar=False) + 1e-6 * np.eye(own.shape[1])
        offset = test - own.mean(axis=0)
        distance = np.einsum("ni,ij,nj->n", offset, np.linalg.inv(covariance), offset)
        scores.append(-distance - np.linalg.slogdet(covariance)[1])
    return np.argmax(scores, axis=0)


def accuracy(feature, splits) -> float:
    train, test = splits
    guess = nearest_class(feature(train.images / 255), feature(test.images / 255), train.labels)
    return float(np.mean(guess == test.labels))


def order_accuracy(feature, splits) -> float:
    """How well a feature tells the order of the colours when the pattern is given."""
    train, test = splits
    right = 0
    for pattern in range(len(PATTERNS)):
        own, other = train.labels // 2 == pattern, test.labels // 2 == pattern
        guess = nearest_class(feature(train.images[own] / 255), feature(test.images[other] / 255), train.labels[own])
        right += int(np.sum(guess == test.labels[other] % 2))
    return right / len(test)


def channel_statistics(images):
    return np.concatenate([images.mean(axis=(1, 2)), np.log(images.var(axis=(1, 2)))], axis=1)


def colour_moments(images):
    """Means, covariances and third moments of the colours of single pixels: blind to where a pixel is."""
    pixels = images.reshape(len(images), -1, 3)
    centred = (pixels - pixels.mean(axis=1, keepdims=True)) / pixels.std(axis=1, keepdims=True)
    second = np.einsum("npi,npj->nij", centred, centred)[:, *np.triu_indices(3, 1)] / pixels.shape[1]
    third = np.einsum("npi,npj,npk->nijk", centred, centred, centred).reshape(len(images), 27) / pixels.shape[1]
    return np.concatenate([pixels.mean(axis=1), second, third[:, [0, 1, 2, 4, 5, 8, 13, 14, 17, 26]]], axis=1)


def correlation(a, b, rows):
    """Of each image, the correlation of channel a with channel b that lies ``rows`` rows further down."""
    a, b = a[:, : a.shape[1] - rows], b[:, rows:]
    a, b = (c - c.mean(axis=(1, 2), keepdims=True) for c in (a, b))
    return (a * b).mean(axis=(1, 2)) / np.sqrt((a**2).mean(axis=(1, 2)) * (b**2).mean(axis=(1, 2)))


def gray_correlations(weights):
    """What a gray-scale picture says about period and asymmetry of the pattern along the columns."""

    def feature(images):
        gray = images @ np.array(weights)
        upper, lower = np.split(gray, 2, axis=1)
        lags = [correlation(part, part, rows) for part in (gray, upper, lower) for rows in range(1, 6)]
        skew = ((gray - gray.mean(axis=(1, 2), keepdims=True)) ** 3).mean(axis=(1, 2))
        return np.stack([*lags, skew], axis=1)

    return feature


def gray_pattern(images):
    """Of the gray picture, correlations down and across by 1 .. 8 pixels, and of the least alike columns."""
    gray = images @ np.array([0.299, 0.587, 0.114])
    lags = [correlation(part, part, n) for part in (gray, gray.swapaxes(1, 2)) for n in range(1, 9)]
    columns = (gray - gray.mean(axis=1, keepdims=True)) / gray.std(axis=1, keepdims=True)
    neighbours = (columns[:, :, 1:] * columns[:, :, :-1]).mean(axis=1)  # (N, W - 1)
    return np.stack([*lags, neighbours.min(axis=1)], axis=1)


def red_before_green(images):
    """How far green lies below red, in the upper and in the lower half: space and colour together."""
    lags = []
    for half in np.split(images, 2, axis=1):
        red, green = half[..., 0], half[..., 1]
        lags += [correlation(red, green, rows) - correlation(green, red, rows) for rows in range(1, 5)]
    return np.stack(lags, axis=1)


def test_channel_means_and_variances_say_nothing(splits):
    assert abs(accuracy(channel_statistics, splits) - CHANCE) < MARGIN


@pytest.mark.slow
def test_shuffled_pixels_say_almost_nothing(splits):
    assert abs(accuracy(colour_moments, splits) - CHANCE) < 0.05
    assert abs(order_accuracy(colour_moments, splits) - 0.5) < 4 * 0.5 / np.sqrt(N)


@pytest.mark.parametrize("weights", [(1 / 3, 1 / 3, 1 / 3), (0.299, 0.587, 0.114), (1, 0, 0), (1, -1, 0)])
def test_a_gray_picture_does_not_tell_the_order(splits, weights):
    assert abs(order_accuracy(gray_correlations(weights), splits) - 0.5) < 4 * 0.5 / np.sqrt(N)


def test_colour_and_space_together_tell_the_order(splits):
    assert order_accuracy(red_before_green, splits) > 0.85


def test_the_gray_picture_tells_the_pattern(splits):
    train, test = splits
    features = [gray_pattern(split.images / 255) for split in splits]
    assert np.mean(nearest_class(*features, train.labels // 2) == test.labels // 2) > 0.8


def test_each_pattern_is_what_its_name_says(splits):
    train, _ = splits
    feature = gray_pattern(train.images / 255)
    stripes, chevrons, checker, rings = (
        np.median(feature[train.labels // 2 == pattern], axis=0) for pattern in range(len(PATTERNS))
    )
    down, across, neighbours = slice(0, 8), slice(8, 16), 16
    assert stripes[down].min() < 0.2 and stripes[across].min() > 0.3
    assert chevrons[across].min() < stripes[across].min() - 0.1
    assert checker[neighbours] < -0.2 and stripes[neighbours] > 0.2
    np.testing.assert_allclose(rings[down], rings[across], atol=0.05)


def test_a_linear_classifier_on_pixels_stays_near_chance(splits):
    train, test = splits
    x, x_test = (np.c_[s.images.reshape(N, -1) / 127.5 - 1, np.ones(N)] for s in splits)
    gram = x.T @ x + 100 * np.eye(x.shape[1])
    scores = x_test @ np.linalg.solve(gram, x.T @ np.eye(8)[train.labels])
    assert np.mean(scores.argmax(axis=1) == test.labels) < 2 * CHANCE


def test_a_mirror_image_keeps_the_direction_of_the_colours(splits):
    images = splits[0].images / 255
    np.testing.assert_allclose(red_before_green(images[:, :, ::-1]), red_before_green(images))


def test_the_same_arguments_draw_the_same_images():
    assert np.array_equal(data.shapes("test", 40).images, data.shapes("test", 40).images)
    for other in (data.shapes("train", 40), data.shapes("test", 40, seed=1)):
        assert not np.array_equal(data.shapes("test", 40).images, other.images)


def test_sizes_classes_and_shares():
    small = data.shapes("train", size=20, image_size=48)
    assert small.images.shape == (20, 48, 48, 3)
    assert np.bincount(small.labels, minlength=8).tolist() == [3, 3, 3, 3, 2, 2, 2, 2]
    assert small.class_names == tuple(f"{pattern} {order}" for pattern in PATTERNS for order in ORDERS)
    assert len(data.load("shapes", "test", seed=5)) == 1000


def test_pixels_use_the_range_without_much_clipping(splits):
    images = splits[0].images
    assert images.min() < 20 and images.max() > 235
    assert np.mean((images == 0) | (images == 255)) < 0.01


@pytest.mark.parametrize(
    "options",
    [{"split": "valid"}, {"size": 0}, {"seed": -1}, {"image_size": 15}],
    ids=lambda options: str(options),
)
def test_shapes_rejects(options):
    with pytest.raises(ArgumentError, match="expected"):
        data.shapes(**options)
