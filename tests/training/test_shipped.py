"""The trained network that comes with the package: small, whole, and one that a run can be made into."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

import minixception as mx
from minixception.apps.hub.samples import sample
from minixception.data import shapes
from minixception.errors import CheckpointError
from minixception.training import RECIPES, Recipe, Trainer, read_checkpoint, shipped
from minixception.training.trained import SHIPPED, is_run

TINY = Recipe(epochs=1, batch_size=8, widths=(8,), middle_blocks=1, stem=4)


@pytest.fixture
def run(tmp_path):
    data = shapes("train", size=24, image_size=16)
    Trainer(TINY, data, data, tmp_path / "run").run()
    return tmp_path / "run"


def test_a_shipped_run_predicts_what_the_run_does(run, tmp_path, monkeypatch):
    monkeypatch.setitem(SHIPPED, "shapes", tmp_path / "shapes.safetensors")
    assert shipped.main([str(run)]) == 0
    x = mx.tensor(np.random.default_rng(0).standard_normal((4, 16, 16, 3)).astype(np.float32))
    one, other = mx.load(run), mx.load("shapes")
    with mx.no_grad():
        np.testing.assert_allclose(one(x).numpy(), other(x).numpy(), rtol=2e-2, atol=2e-3)
    assert other.class_names == one.class_names
    checkpoint = read_checkpoint(SHIPPED["shapes"])
    assert checkpoint.recipe == TINY
    assert len(checkpoint.progress.records) == 1
    assert {array.dtype for array in checkpoint.parts["model"].values()} == {np.dtype(np.float16)}


def test_a_folder_of_that_name_comes_first(run, monkeypatch):
    monkeypatch.chdir(run.parent)
    run.rename("cifar10")
    assert mx.load("cifar10").class_names == shapes("train", size=8).class_names


def test_no_run_ships_nothing(tmp_path, monkeypatch):
    monkeypatch.setitem(SHIPPED, "cifar10", tmp_path / "cifar10.safetensors")
    with pytest.raises(CheckpointError):
        shipped.main([str(tmp_path / "nothing")])
    assert not list(tmp_path.iterdir())


def test_the_network_of_the_package_is_small_and_whole():
    assert SHIPPED["cifar10"].stat().st_size <= 1.5e6
    assert is_run("cifar10")
    checkpoint = read_checkpoint(SHIPPED["cifar10"])
    assert checkpoint.recipe == replace(RECIPES["cifar10-small"], seed=checkpoint.recipe.seed)
    assert checkpoint.progress.records[-1]["test_top1"] > 0.85
    assert mx.load("cifar10").num_parameters(trainable=True) > 500_000


@pytest.mark.parametrize(
    ("name", "label"), [("airliner.png", "airplane"), ("liner.png", "ship"), ("moving_van.png", "truck")]
)
def test_it_recognises_drawings(name, label):
    (likeliest, *_), *_ = mx.load("cifar10").predict([Image.open(io.BytesIO(sample(name)))])
    assert likeliest.name == label
