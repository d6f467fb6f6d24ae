"""What a recipe says is what a run does: against the same run written out by hand, and against spies on its calls."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

import minixception as mx
from minixception.data import batches, shapes
from minixception.engine.tensor import Tensor
from minixception.optim import EMA, SGD, Adam, RMSprop, clip_grad_norm
from minixception.training import Recipe, Trainer, evaluate, trainer

# No setting is the one that a function would take by itself.
RECIPE = Recipe(
    epochs=2, batch_size=8, seed=7, widths=(8,), middle_blocks=1, stem=4, dropout=0.3, lr=0.05, momentum=0.8,
    weight_decay=0.02, warmup_epochs=0.3, label_smoothing=0.1, clip_norm=0.5, ema_decay=0.4,
)  # fmt: skip
RECIPES = {
    "sgd": RECIPE,
    "rmsprop": replace(
        RECIPE, optimizer="rmsprop", lr=0.002, schedule="exponential", decay_rate=0.5, decay_epochs=0.25
    ),
    "adam": replace(RECIPE, optimizer="adam", augment=False),
}
STEPS, IMAGES = 6, 50  # of an epoch; two images are left over


def rate(recipe, step):
    """The learning rate of a step, by the formulas of the schedules."""
    done = step / STEPS  # epochs
    if recipe.schedule == "exponential":
        return recipe.lr * recipe.decay_rate ** (done / recipe.decay_epochs)
    if done < 0.3:
        return recipe.lr * done / 0.3
    return recipe.lr * (1 + math.cos(math.pi * (done - 0.3) / (2 - 0.3))) / 2


def by_hand(recipe, train):
    """The first epoch of a run: weights and their averages."""
    mx.seed(7)
    model = mx.models.mini_xception(8, (8,), 1, 4, (16, 16, 3), 0.3)
    parameters = list(model.parameters())
    optimizer = {
        "sgd": lambda: SGD(parameters, 0.05, 0.8, 0.02),
        "rmsprop": lambda: RMSprop(parameters, 0.002, momentum=0.8, weight_decay=0.02),
        "adam": lambda: Adam(parameters, 0.05, weight_decay=0.02),
    }[recipe.optimizer]()
    average = EMA([tensor for _, tensor in model.named_tensors()], 0.4)
    feed = batches(train, 8, seed=7, epoch=0, shuffle=True, augment=recipe.augment, drop_last=True)
    for step, x, labels in feed:
        mx.seed((7 << 48) | step)
        for parameter in parameters:
            parameter.grad = None
        mx.cross_entropy(model(Tensor(x)), labels, 0.1).backward()
        assert clip_grad_norm(parameters, 0.5) > 0.5  # or it would make no difference
        optimizer.lr = rate(recipe, step)
        optimizer.step()
        average.update()
    return model.state_dict(), average.state_dict()


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_a_run_is_its_recipe(recipe, tmp_path, monkeypatch):
    train = shapes("train", size=IMAGES, image_size=16)
    run = Trainer(recipe, train, shapes("test", size=8, image_size=16), tmp_path)

    def stop(*arguments):
        raise StopIteration  # after the first epoch's steps

    monkeypatch.setattr(run, "_evaluate", stop)
    with pytest.raises(StopIteration):
        run.run()
    weights, averages = by_hand(recipe, train)
    for name, array in weights.items():
        np.testing.assert_allclose(run.model.state_dict()[name], array, rtol=1e-5, atol=1e-6, err_msg=name)
    for name, array in averages.items():
        np.testing.assert_allclose(run.ema.state_dict()[name], array, rtol=1e-5, atol=1e-6, err_msg=name)


def test_what_a_step_calls_in_which_order(tmp_path, monkeypatch):
    run = Trainer(RECIPE, shapes("train", size=IMAGES, image_size=16), shapes("test", size=8, image_size=16), tmp_path)
    run.progress.epoch, run.progress.step = 1, 4
    called = []

    def spy(owner, name, told):
        original = getattr(owner, name)

        def noting(*arguments, **options):
            called.append((name, told(*arguments, **options)))
            return original(*arguments, **options)

        monkeypatch.setattr(owner, name, noting)

    spy(trainer.random, "seed", lambda number: number)
    spy(trainer, "clip_grad_norm", lambda parameters, norm: (parameters is run.optimizer.params, norm))
    spy(run.optimizer, "step", lambda: run.optimizer.lr)
    spy(run.ema, "update", lambda: None)
    x, labels = np.zeros((8, 16, 16, 3), np.float32), np.arange(8)
    run.step(x, labels)
    assert called == [
        ("seed", (7 << 48) | (1 << 24) | 4),
        ("clip_grad_norm", (True, 0.5)),
        ("step", pytest.approx(rate(RECIPE, STEPS + 4), rel=1e-12)),
        ("update", None),
    ]


def test_the_averages_are_of_all_tensors_also_those_without_a_gradient(tmp_path):
    run = Trainer(RECIPE, shapes("train", size=IMAGES, image_size=16), shapes("test", size=8, image_size=16), tmp_path)
    assert run.ema.params == [tensor for _, tensor in run.model.named_tensors()]
    assert len(run.ema.params) > len(list(run.model.parameters()))


def test_an_epoch_asks_for_its_own_batches(tmp_path, monkeypatch):
    asked = []

    def noting(dataset, size, **options):
        asked.append((size, options))
        return batches(dataset, size, **options)

    monkeypatch.setattr(trainer, "batches", noting)
    train = shapes("train", size=IMAGES, image_size=16)
    for augment in (True, False):
        recipe = replace(RECIPE, augment=augment)
        Trainer(recipe, train, shapes("test", size=8, image_size=16), tmp_path / str(augment)).run()
    always = {"seed": 7, "shuffle": True, "drop_last": True, "start": 0, "part": slice(None)}
    assert asked == [(8, always | {"epoch": e, "augment": a}) for a in (True, False) for e in (0, 1)]


def test_evaluation_is_in_inference_mode_and_leaves_no_trace():
    model = mx.models.mini_xception(8, (8,), 1, 4, (16, 16, 3), dropout=0.9).train()
    before = {name: array.copy() for name, array in model.state_dict().items()}
    data = shapes("test", size=24, image_size=16)
    assert evaluate(model, data, 8) == evaluate(model, data, 8)  # no dropout
    assert all(module.training for _, module in model.named_modules())
    for name, array in model.state_dict().items():
        np.testing.assert_array_equal(array, before[name], err_msg=name)
