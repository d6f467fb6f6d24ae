"""Pictures with several labels: what is drawn, and a network that learns them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import minixception as mx
from minixception.errors import ArgumentError
from minixception.experiments import tag
from minixception.experiments.designs import Design
from minixception.experiments.mosaics import PATCHES, SCALES, mosaics
from minixception.experiments.table import EXPERIMENTS
from minixception.nn import Linear

TINY = Design(
    data="mosaics", epochs=1, batch_size=16, widths=(8,), middle_blocks=0, stem=4, optimizer="rmsprop", lr=1e-3
)


def test_mosaics_are_the_same_for_the_same_arguments_and_others_for_others():
    one, again = (mosaics("test", 40, seed=3) for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(one[:2], again[:2], strict=True))
    for other in (mosaics("test", 40, seed=4), mosaics("train", 40, seed=3)):
        assert not np.array_equal(one.images, other.images)


def test_labels_are_what_the_patches_show():
    """A mosaic with a single label has four patches of one drawn pattern; the pools hold patterns by their class."""
    drawn = mosaics("test", 300)
    assert drawn.images.shape == (300, 32, 32, 3)
    assert drawn.images.dtype == np.uint8
    pools = {scale: mx.data.shapes("test", 600, 0, pixels) for scale, pixels in SCALES.items()}
    for image, targets in zip(drawn.images[:20], drawn.targets[:20], strict=True):
        found = set()
        for patch in (image[i : i + 16, j : j + 16] for i in (0, 16) for j in (0, 16)):
            for scale, pool in pools.items():
                at = (SCALES[scale] - 16) // 2
                same = (pool.images[:, at : at + 16, at : at + 16] == patch).all(axis=(1, 2, 3))
                found |= {f"{pool.class_names[label]}, {scale}" for label in pool.labels[same]}
        assert found == {drawn.names[label] for label in np.flatnonzero(targets)}


def test_few_labels_are_common_and_most_are_rare():
    targets = mosaics("train", 4000).targets
    assert targets.any(axis=1).all()
    assert targets.sum(axis=1).max() == PATCHES
    assert 3.3 < targets.sum(axis=1).mean() < 3.6
    share = targets.mean(axis=0)
    assert share[0] > 0.65
    assert 0.03 < share[-1] < 0.06
    assert share[0] > share[3] > share[-1]


@pytest.mark.parametrize(
    ("arguments", "message"), [(("valid",), "expected split"), (("test", 0), "size of at least 1")]
)
def test_impossible_mosaics_are_refused(arguments, message):
    with pytest.raises(ArgumentError, match=message):
        mosaics(*arguments)


@pytest.fixture
def few(monkeypatch):
    monkeypatch.setattr(tag, "mosaics", lambda split: mosaics(split, {"train": 256, "test": 100}[split]))
    tag._pictures.cache_clear()
    yield
    tag._pictures.cache_clear()


def test_a_network_learns_labels(few, tmp_path):
    first, *_, last = tag.train(replace(TINY, epochs=8, widths=(16,), lr=0.01, ema_decay=0.9), "mosaics", tmp_path)
    assert last["train_loss"] < 0.8 * first["train_loss"]
    assert last["test_map"] > first["test_map"]
    assert not list(tmp_path.iterdir())


def test_a_run_is_the_same_again_and_another_with_another_seed(few, tmp_path):
    one, again, other = (
        tag.train(design, "mosaics", tmp_path)[0]["train_loss"] for design in (TINY, TINY, replace(TINY, seed=1))
    )
    assert one == again != other


def test_other_pictures_are_refused(few, tmp_path):
    with pytest.raises(ArgumentError, match="expected the data 'mosaics', got 'shapes'"):
        tag.train(TINY, "shapes", tmp_path)


def test_fully_connected_layers_stand_before_the_logits():
    experiment = EXPERIMENTS["many_labels"]
    design = experiment.designs["separable, fully connected layers"]
    model = design.make_model(experiment.task.outputs, (32, 32, 3))
    heads = [part.weight.shape for _, part in model.named_modules() if isinstance(part, Linear)]
    assert heads == [(design.widths[-1], 128), (128, 128), (128, experiment.task.outputs)]
    assert list(model.children())[-1] == "predictions"
    with mx.no_grad():
        assert model(mx.tensor(np.zeros((2, 32, 32, 3), np.float32))).shape == (2, experiment.task.outputs)
