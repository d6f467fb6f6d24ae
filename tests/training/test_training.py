"""Training: it learns, and a run that was killed or interrupted anywhere ends with the bits of one that was not."""

from __future__ import annotations

import contextlib
import gc
import hashlib
import json
import math
import os
import signal
import sys
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import minixception as mx
from minixception.cpu import memory
from minixception.data import Dataset, preprocess, shapes
from minixception.engine.tensor import Tensor
from minixception.errors import ArgumentError, CheckpointError, NumericError, ShapeError
from minixception.optim import EMA
from minixception.training import RECIPES, Interrupted, Recipe, Trainer, evaluate, read_checkpoint, trainer
from minixception.weights import read_tensors, write_tensors
from tests.helpers.processes import python

TINY = Recipe(epochs=3, batch_size=8, seed=7, widths=(8,), middle_blocks=1, stem=4, dropout=0.3, ema_decay=0.9)
KILL = getattr(signal, "SIGKILL", signal.SIGTERM)  # Windows has no SIGKILL: there SIGTERM ends a process at once


def tiny_trainer(folder, recipe=TINY, resume=False):
    """A run of 6 steps an epoch, with a checkpoint every second step."""
    trainer._STEPS_BETWEEN_CHECKPOINTS = 2
    train, test = shapes("train", size=50, image_size=16), shapes("test", size=16, image_size=16)
    return Trainer(recipe, train, test, folder, resume=resume)


@pytest.fixture(autouse=True)
def usual_checkpoints(monkeypatch):
    """Bring the interval of checkpoints back after each test."""
    monkeypatch.setattr(trainer, "_STEPS_BETWEEN_CHECKPOINTS", trainer._STEPS_BETWEEN_CHECKPOINTS)


def outcome(folder):
    """Everything a run leaves behind, without the seconds, which no two runs share."""
    checkpoint = read_checkpoint(Path(folder) / "checkpoint.safetensors")
    log = [json.loads(line) for line in (Path(folder) / "log.jsonl").read_text().splitlines()]
    for record in [*log, *checkpoint.progress.records]:
        assert record.pop("seconds") >= 0
    assert checkpoint.progress.records == log
    arrays = {f"{part}/{name}": a.tobytes() for part, named in checkpoint.parts.items() for name, a in named.items()}
    return log, arrays


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """The outcome of the tiny run, left alone."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    interval = trainer._STEPS_BETWEEN_CHECKPOINTS
    tiny_trainer(folder).run()
    trainer._STEPS_BETWEEN_CHECKPOINTS = interval
    return outcome(folder)


# It learns ------------------------------------------------------------------------------------------------------------


def test_it_learns_a_tiny_set_by_heart(tmp_path):
    data = shapes("train", size=32, image_size=16)
    recipe = replace(TINY, epochs=30, widths=(16, 24), stem=8, dropout=0.0, augment=False, lr=0.02, optimizer="adam")
    records = Trainer(recipe, data, data, tmp_path).run()
    assert records[0]["train_loss"] > 1.5
    assert records[-1]["train_loss"] < 0.1
    assert records[-1]["train_top1"] == 1.0
    assert records[-1]["test_top1"] > 0.4  # batchnorm's running statistics are still far behind; guessing has 0.125


def test_every_epoch_is_a_line_of_json(uninterrupted):
    log, _ = uninterrupted
    assert [record["epoch"] for record in log] == [1, 2, 3]
    assert [set(record) for record in log] == 3 * [
        {"epoch", "lr", "train_loss", "train_top1", "test_loss", "test_top1", "test_top5"}
    ]
    schedule = TINY.make_schedule()
    assert [record["lr"] for record in log] == [schedule(epoch + 5 / 6, 0) for epoch in range(3)]


def test_an_epoch_tells_the_mean_loss_of_its_own_steps(tmp_path, monkeypatch):
    run, losses = tiny_trainer(tmp_path, replace(TINY, epochs=2)), []
    step = run.step
    monkeypatch.setattr(run, "step", lambda x, labels: losses.append(step(x, labels)))
    assert [record["train_loss"] for record in run.run()] == pytest.approx([np.mean(losses[:6]), np.mean(losses[6:])])


def test_the_test_set_is_evaluated_with_averaged_weights(tmp_path):
    run = tiny_trainer(tmp_path, replace(TINY, epochs=1))
    record = run.run()[0]
    plain = evaluate(run.model, run.test, TINY.batch_size)
    with run.ema.averaged():
        averaged = evaluate(run.model, run.test, TINY.batch_size)
    assert {f"test_{name}": value for name, value in averaged.items()}.items() <= record.items()
    assert averaged["loss"] != plain["loss"]


def test_evaluation_is_that_of_all_images_at_once():
    data = shapes("test", size=23, image_size=16)
    model = mx.models.mini_xception(8, (8,), 0, 4)
    result = evaluate(model, data, batch_size=5)
    assert model.training
    with mx.no_grad():
        logits = model.eval()(Tensor(preprocess(data.images, np.float32))).numpy().astype(np.float64)
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    np.testing.assert_allclose(result["loss"], -log_p[np.arange(23), data.labels].mean(), rtol=1e-5)
    assert result["top1"] == pytest.approx((logits.argmax(1) == data.labels).mean())
    top5 = np.argsort(-logits, axis=1)[:, :5]
    assert result["top5"] == pytest.approx((top5 == data.labels[:, None]).any(1).mean())
    few = Dataset(data.images, data.labels % 4, tuple("abcd"))
    assert set(evaluate(mx.models.mini_xception(4, (8,), 0, 4), few)) == {"loss", "top1"}


# Killed, interrupted, resumed -----------------------------------------------------------------------------------------


def signal_in_training(number, epoch, step):
    """Send this process a signal in the middle of a step."""
    original = Trainer.step

    def stepping(self, x, labels):
        if (self.progress.epoch, self.progress.step) == (epoch, step):
            os.kill(os.getpid(), number) if number == KILL else signal.raise_signal(number)
        return original(self, x, labels)

    Trainer.step = stepping


def signal_in_evaluation(number, epoch):
    """Send this process a signal while the test set is evaluated."""
    original = trainer.evaluate
    calls = []

    def evaluating(*arguments):
        if len(calls) == epoch:
            os.kill(os.getpid(), number) if number == KILL else signal.raise_signal(number)
        calls.append(1)
        return original(*arguments)

    trainer.evaluate = evaluating


def child(folder, where, number, epoch, step):
    """What the child process runs: the tiny run, which gets a signal; exit status 130 if it stopped cleanly."""
    if where == "training":
        signal_in_training(number, epoch, step)
    else:
        signal_in_evaluation(number, epoch)
    try:
        tiny_trainer(folder).run()
    except Interrupted:
        sys.exit(130)


@pytest.mark.parametrize(
    ("where", "number", "epoch", "step"),
    [
        ("training", KILL, 1, 3),
        pytest.param("training", signal.SIGINT, 0, 4, marks=pytest.mark.slow),
        ("evaluation", signal.SIGINT, 2, 0),
        pytest.param("evaluation", KILL, 1, 0, marks=pytest.mark.slow),
    ],
)
def test_a_stopped_process_resumes_bit_for_bit(where, number, epoch, step, tmp_path, uninterrupted):
    arguments = (str(tmp_path), where, int(number), epoch, step)
    stopped = python("-c", f"from tests.training.test_training import child; child{arguments}")
    if number == KILL:
        assert stopped.returncode in (-KILL, KILL), stopped.stderr
    else:
        assert stopped.returncode == 130, stopped.stderr
        saved = read_checkpoint(tmp_path / "checkpoint.safetensors").progress
        assert (saved.epoch, saved.step) == (epoch, step + 1 if where == "training" else 6)
    tiny_trainer(tmp_path, resume=True).run()
    assert outcome(tmp_path) == uninterrupted
    assert {p.name for p in tmp_path.iterdir()} == {"checkpoint.safetensors", "log.jsonl"}


RECIPES_TO_RESUME = {
    "sgd": TINY,
    "rmsprop": replace(TINY, optimizer="rmsprop", lr=0.01, schedule="exponential", clip_norm=1.0, augment=False),
    "adam": replace(TINY, optimizer="adam", lr=0.01, label_smoothing=0.1, ema_decay=0.0, dropout=0.0),
}


@pytest.mark.parametrize("recipe", RECIPES_TO_RESUME.values(), ids=RECIPES_TO_RESUME)
def test_interrupted_at_every_single_step(recipe, tmp_path, monkeypatch):
    recipe = replace(recipe, epochs=2)
    tiny_trainer(tmp_path / "left alone", recipe).run()
    original = Trainer.step

    def stepping(self, x, labels):
        signal.raise_signal(signal.SIGINT)
        return original(self, x, labels)

    monkeypatch.setattr(Trainer, "step", stepping)
    interruptions = 0
    while True:
        run = tiny_trainer(tmp_path / "interrupted", recipe, resume=interruptions > 0)
        try:
            run.run()
            break
        except Interrupted:
            interruptions += 1
    assert interruptions == 12
    assert outcome(tmp_path / "interrupted") == outcome(tmp_path / "left alone")


def test_a_second_interrupt_stops_at_once_and_the_handler_is_put_back(tmp_path, monkeypatch):
    before = signal.getsignal(signal.SIGINT)
    reached = []

    def stepping(self, x, labels):
        signal.raise_signal(signal.SIGINT)
        reached.append("after the first")
        signal.raise_signal(signal.SIGINT)
        reached.append("after the second")

    monkeypatch.setattr(Trainer, "step", stepping)
    with pytest.raises(KeyboardInterrupt) as caught:
        tiny_trainer(tmp_path).run()
    assert not isinstance(caught.value, Interrupted)
    assert reached == ["after the first"]
    assert signal.getsignal(signal.SIGINT) is before


def test_sigterm_saves_as_ctrl_c_does_however_often_it_comes(tmp_path, monkeypatch, uninterrupted):
    """Slurm and Docker send it; without a handler it would end this process, so the test brings one of its own."""
    original, before = Trainer.step, signal.signal(signal.SIGTERM, lambda *_: pytest.fail("nobody handles SIGTERM"))
    ours = signal.getsignal(signal.SIGTERM)

    def stepping(self, x, labels):
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        return original(self, x, labels)

    try:
        with monkeypatch.context() as patched, pytest.raises(Interrupted):
            patched.setattr(Trainer, "step", stepping)
            tiny_trainer(tmp_path).run()
        assert signal.getsignal(signal.SIGTERM) is ours
    finally:
        signal.signal(signal.SIGTERM, before)
    assert read_checkpoint(tmp_path / "checkpoint.safetensors").progress.step == 1
    tiny_trainer(tmp_path, resume=True).run()
    assert outcome(tmp_path) == uninterrupted


def test_killed_between_log_and_checkpoint(tmp_path, monkeypatch, uninterrupted):
    original = Trainer.save

    def saving(self):
        if self.progress.epoch == 3:
            raise RuntimeError("killed")
        original(self)

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "save", saving)
        with pytest.raises(RuntimeError, match="killed"):
            tiny_trainer(tmp_path).run()
    tiny_trainer(tmp_path, resume=True).run()
    assert outcome(tmp_path) == uninterrupted


def test_a_finished_run_resumes_to_nothing(tmp_path, uninterrupted):
    tiny_trainer(tmp_path).run()
    before = (tmp_path / "checkpoint.safetensors").read_bytes()
    assert len(tiny_trainer(tmp_path, resume=True).run()) == 3
    assert (tmp_path / "checkpoint.safetensors").read_bytes() == before
    assert outcome(tmp_path) == uninterrupted


def test_a_run_that_is_extended_is_the_longer_run(tmp_path):
    recipe = replace(RECIPES_TO_RESUME["rmsprop"], epochs=2)  # its rate does not depend on the number of epochs
    tiny_trainer(tmp_path / "at once", recipe).run()
    tiny_trainer(tmp_path / "extended", replace(recipe, epochs=1)).run()
    tiny_trainer(tmp_path / "extended", recipe, resume=True).run()
    assert outcome(tmp_path / "extended") == outcome(tmp_path / "at once")


def test_an_extended_run_follows_the_schedule_of_its_new_length(tmp_path):
    tiny_trainer(tmp_path, replace(TINY, epochs=1)).run()
    records = tiny_trainer(tmp_path, replace(TINY, epochs=2), resume=True).run()
    one, two = (replace(TINY, epochs=epochs).make_schedule() for epochs in (1, 2))
    assert [record["lr"] for record in records] == [one(5 / 6, 0), two(1 + 5 / 6, 0)]
    assert read_checkpoint(tmp_path / "checkpoint.safetensors").recipe.epochs == 2
    with pytest.raises(CheckpointError, match="has begun epoch 2, which is beyond 1: name more epochs"):
        tiny_trainer(tmp_path, replace(TINY, epochs=1), resume=True)
    begun = tiny_trainer(tmp_path, replace(TINY, epochs=3), resume=True)
    begun.progress.step = 2
    begun.save()
    with pytest.raises(CheckpointError, match="has begun epoch 3, which is beyond 2: name more epochs"):
        tiny_trainer(tmp_path, replace(TINY, epochs=2), resume=True)


def test_another_seed_ends_elsewhere(tmp_path, uninterrupted):
    tiny_trainer(tmp_path, replace(TINY, seed=8)).run()
    assert outcome(tmp_path)[1] != uninterrupted[1]


# Errors ---------------------------------------------------------------------------------------------------------------


def test_a_loss_that_is_not_a_number_stops_and_keeps_the_checkpoint(tmp_path):
    run = tiny_trainer(tmp_path)
    run.save()
    before = run.path.read_bytes()
    run.model.parameters()[0].data[...] = np.nan
    with pytest.raises(NumericError, match=r"loss is nan in epoch 1, step 1: lower the learning rate"):
        run.run()
    assert run.path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint.safetensors"]


def test_a_learning_rate_far_too_high_is_a_numeric_error(tmp_path):
    with pytest.raises(NumericError, match="loss is"):
        tiny_trainer(tmp_path, replace(TINY, lr=1e30, warmup_epochs=0)).run()
    for file in tmp_path.iterdir():
        parts = read_checkpoint(file).parts
        assert all(np.isfinite(a).all() for a in parts["model"].values())


def test_evaluating_diverged_weights_is_a_numeric_error():
    model = mx.models.mini_xception(8, (8,), 0, 4)
    model.predictions.bias.data[3] = np.inf
    with pytest.raises(NumericError, match=r"the loss is \w+ in evaluation: the weights diverged"):
        evaluate(model, shapes("test", size=8, image_size=16))
    assert model.training


def damaged_text(path):
    arrays, metadata = read_tensors(path)
    write_tensors(path, arrays, metadata | {"run": metadata["run"][:-20]})


def without_an_entry(path):
    arrays, metadata = read_tensors(path)
    run = json.loads(metadata["run"])
    del run["progress"]
    write_tensors(path, arrays, metadata | {"run": json.dumps(run)})


def without_the_optimizer(path):
    arrays, metadata = read_tensors(path)
    write_tensors(path, {k: v for k, v in arrays.items() if not k.startswith("optimizer")}, metadata)


DAMAGE = {
    "missing": (Path.unlink, "no checkpoint at"),
    "truncated": (lambda path: path.write_bytes(path.read_bytes()[:-9]), "not a whole .safetensors file"),
    "empty": (lambda path: path.write_bytes(b""), "not a whole .safetensors file"),
    "a text": (lambda path: path.write_text("a text that is longer than a header"), "not a whole .safetensors file"),
    "weights": (lambda path: mx.nn.Linear(2, 3).save_weights(path), "is not a checkpoint of this version"),
    "broken description": (damaged_text, "is damaged"),
    "incomplete description": (without_an_entry, "is damaged.*'progress'"),
    "no optimiser": (without_the_optimizer, "SGD"),
}


@pytest.mark.parametrize(("damage", "message"), DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_checkpoint_is_a_checkpoint_error(damage, message, tmp_path):
    path = tmp_path / "checkpoint.safetensors"
    tiny_trainer(tmp_path).save()
    damage(path)
    left = path.read_bytes() if path.exists() else None
    with pytest.raises(CheckpointError, match=message):
        tiny_trainer(tmp_path, resume=True)
    assert (path.read_bytes() if path.exists() else None) == left


def test_a_checkpoint_of_another_recipe_names_the_difference(tmp_path):
    tiny_trainer(tmp_path).save()
    other = replace(TINY, lr=0.2, widths=(8, 8))
    with pytest.raises(CheckpointError, match=r"another recipe \(widths: \[8\] -> \[8, 8\], lr: 0.1 -> 0.2\)"):
        tiny_trainer(tmp_path, other, resume=True)


def test_a_recipe_made_with_lists_resumes(tmp_path):
    recipe = replace(TINY, widths=[8])
    tiny_trainer(tmp_path, recipe).save()
    assert tiny_trainer(tmp_path, recipe, resume=True).progress.step == 0


def test_a_checkpoint_of_other_data(tmp_path):
    tiny_trainer(tmp_path).save()
    data = shapes("train", size=50, image_size=16)
    for other in (
        Dataset(data.images, data.labels, tuple("abcdefgh")),
        shapes("train", size=50, image_size=24),
    ):
        with pytest.raises(CheckpointError, match="other classes or image sizes"):
            Trainer(TINY, other, other, tmp_path, resume=True)


def test_a_new_run_does_not_overwrite_one(tmp_path):
    tiny_trainer(tmp_path).save()
    before = (tmp_path / "checkpoint.safetensors").read_bytes()
    with pytest.raises(ArgumentError, match="holds a run already: resume it, or name another folder"):
        tiny_trainer(tmp_path)
    assert (tmp_path / "checkpoint.safetensors").read_bytes() == before


def test_wrong_recipes(tmp_path):
    for change, message in (
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
        ({"batch_size": -1}, "batch_size must be at least 1"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
        ({"optimizer": "lion"}, "sgd, rmsprop or adam, got 'lion'"),
        ({"schedule": "step"}, "cosine or exponential, got 'step'"),
    ):
        with pytest.raises(ArgumentError, match=message):
            replace(TINY, **change)
    with pytest.raises(ArgumentError, match="a batch of 51 is larger than the training set of 50 images"):
        tiny_trainer(tmp_path / "new", replace(TINY, batch_size=51))
    with pytest.raises(ArgumentError, match="learning rate"):
        tiny_trainer(tmp_path / "new", replace(TINY, lr=-0.1))
    assert not (tmp_path / "new").exists()


def test_a_batch_of_one_on_one_pixel_is_a_shape_error(tmp_path):
    recipe = replace(TINY, batch_size=1, widths=(8, 8, 8, 8))  # 16 pixels, halved four times
    with pytest.raises(ShapeError, match="training needs at least two values per channel"):
        tiny_trainer(tmp_path, recipe).run()


@pytest.mark.parametrize("name", RECIPES)
def test_the_recipes_of_the_package_survive_json(name):
    recipe = RECIPES[name]
    assert Recipe.from_json(json.loads(json.dumps(recipe.to_json()))) == recipe
    model = recipe.make_model(10, (32, 32, 3))
    assert recipe.make_optimizer(model).lr == recipe.lr
    assert recipe.make_schedule()(recipe.epochs / 2, 0) <= recipe.lr


# Memory and threads ---------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def collected_by_hand():
    """What lies in a reference cycle stays until gc.collect() counts it."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def several_steps(run, count):
    """Train ``count`` steps; returns how many objects they left in reference cycles."""
    x, labels = np.random.default_rng(0).standard_normal((8, 16, 16, 3)).astype(np.float32), np.arange(8)
    for _ in range(count):
        run.step(x, labels)
    return gc.collect()  # also empties Python's lists of free objects, which fill slowly


def test_a_step_leaves_no_cycle_no_object_and_no_block_behind(tmp_path, count=20):
    run = tiny_trainer(tmp_path)
    with collected_by_hand():
        several_steps(run, count)
        objects, cached = len(gc.get_objects()), memory.cached_bytes()
        in_cycles = several_steps(run, count)
        more_objects, more_cached = len(gc.get_objects()) - objects, memory.cached_bytes() - cached
    assert max(in_cycles, more_objects) < count / 2  # not one a step
    assert more_cached <= 0


@pytest.mark.slow  # tracemalloc sees arrays too, and makes a step take several times as long
def test_memory_does_not_grow(tmp_path, count=200):
    run = tiny_trainer(tmp_path)
    several_steps(run, 1)  # compiles what is not compiled yet, for which tracemalloc would take twice as long
    traced = []
    with collected_by_hand():
        tracemalloc.start()
        try:
            for number in (100, count, count, count, count):
                several_steps(run, number)
                traced.append(tracemalloc.get_traced_memory()[0])
        finally:
            tracemalloc.stop()
    # A leak grows all the time; a cache of Python or NumPy fills up, the slower the fuller. The least growth counts.
    assert min(np.diff(traced)) < 24 * count  # bytes: not one float a step


def whole_step():
    """One training step of a small network; prints a digest of every number that it leaves."""
    rng = np.random.Generator(np.random.PCG64(3))
    mx.seed(3)
    model = mx.models.mini_xception(10, (16, 40), 1, 8, dropout=0.2)
    optimizer, ema = mx.optim.SGD(model.parameters(), 0.1, 0.9, 1e-4), EMA(model.parameters(), 0.9)
    x = mx.tensor(rng.standard_normal((6, 32, 32, 3), dtype=np.float32))
    for _ in range(2):
        model.zero_grad()
        loss = mx.cross_entropy(model(x), rng.integers(0, 10, 6), 0.1)
        loss.backward()
        norm = mx.optim.clip_grad_norm(model.parameters(), 1.0)
        optimizer.step()
        ema.update()
    digest = hashlib.sha256()
    for array in [*model.state_dict().values(), *(p.grad for p in model.parameters()), loss.data]:
        digest.update(array.tobytes())
    assert math.isfinite(norm)
    print(digest.hexdigest())


def test_a_whole_training_step_is_the_same_for_any_number_of_threads():
    code = "import numba; from tests.training import test_training as t; t.whole_step(); print(numba.get_num_threads())"
    results = [python("-c", code, NUMBA_NUM_THREADS=threads) for threads in (1, 2, 3)]
    lines = [result.stdout.split() for result in results]
    assert [line[1] for line in lines] == ["1", "2", "3"], results[0].stderr
    assert len({line[0] for line in lines}) == 1
