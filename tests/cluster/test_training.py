"""Training in shards: one result for any number of processes, wherever a run is stopped and goes on."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from minixception.cluster.ranks import ALONE
from minixception.data import Dataset, batches, shapes
from minixception.engine import random
from minixception.errors import ArgumentError, ClusterError
from minixception.training import Interrupted, Trainer, evaluate, trainer
from tests.helpers import mpi
from tests.training.test_training import TINY, outcome

SHARDED = replace(TINY, shards=8)
DATA = shapes("train", size=50, image_size=16), shapes("test", size=16, image_size=16)


def train(ranks, folder, resume=False, stop_after=math.inf, settings=None):
    """A run of 6 steps an epoch; stops after so many of this call's steps, as if rank 1 had been asked to."""
    trainer._STEPS_BETWEEN_CHECKPOINTS = 2
    run = Trainer(replace(SHARDED, **settings or {}), *DATA, Path(folder), resume, ranks=ranks)
    steps, step = iter(range(10**6)), run.step

    def counted(x, labels):
        run._asked = ranks.rank == ranks.size - 1 and next(steps) + 1 >= stop_after
        return step(x, labels)

    run.step = counted
    try:
        run.run()
    except Interrupted:
        return "stopped"
    return "finished"


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The outcome of one process that was left alone."""
    folder = tmp_path_factory.mktemp("alone")
    assert train(ALONE, folder) == "finished"
    return outcome(folder)


@pytest.mark.parametrize("count", [2, 4])
def test_more_processes_end_with_the_bits_of_one(alone, tmp_path, count):
    assert mpi.result(count, train, str(tmp_path)) == "finished"
    assert outcome(tmp_path) == alone


@pytest.mark.parametrize(("first", "then"), [(2, 1), (1, 3), (4, 2)])
def test_a_stopped_run_goes_on_in_another_number_of_processes(alone, tmp_path, first, then):
    assert mpi.result(first, train, str(tmp_path), False, 8) == "stopped"
    assert mpi.result(then, train, str(tmp_path), True) == "finished"
    assert outcome(tmp_path) == alone


def test_the_number_of_shards_decides_about_the_result(alone, tmp_path):
    train(ALONE, tmp_path, settings={"shards": 2})
    assert outcome(tmp_path)[1] != alone[1]


def test_one_shard_of_the_mean_is_the_batch(tmp_path):
    """Gradients, loss and running statistics of one shard through the machinery of many are those without it."""
    from minixception.training.shards import ShardedGradients

    plain, through = (Trainer(TINY, *DATA, tmp_path / name) for name in ("plain", "through"))
    through._sharded = ShardedGradients(through._gradients, through.model, 1, ALONE)
    _, x, labels = next(batches(DATA[0], 8))
    for _ in range(3):
        assert plain.step(x, labels) == through.step(x, labels)
    for (name, a), (_, b) in zip(plain.model.named_tensors(), through.model.named_tensors(), strict=True):
        assert np.array_equal(a.data, b.data), name


def test_the_gradient_is_the_mean_of_those_of_the_shards(tmp_path):
    """Each of which has its own statistics of batchnorm."""
    run = Trainer(replace(SHARDED, shards=2, dropout=0.0, lr=0.0, weight_decay=0.0), *DATA, tmp_path / "a")
    whole = Trainer(replace(TINY, batch_size=4, dropout=0.0, lr=0.0, weight_decay=0.0), *DATA, tmp_path / "b")
    _, x, labels = next(batches(DATA[0], 8))
    loss = run.step(x, labels)
    before = {name: t.data.copy() for name, t in whole.model.named_buffers()}
    halves = []
    for half in (slice(0, 4), slice(4, 8)):
        for name, t in whole.model.named_buffers():
            t.data[...] = before[name]
        value = whole.step(x[half], labels[half])
        state = [t.data.copy() for _, t in whole.model.named_buffers()]
        halves.append((value, state, [p.grad.copy() for p in whole.model.parameters()]))
    (a, state_a, grad_a), (b, state_b, grad_b) = halves
    assert loss == pytest.approx((a + b) / 2, rel=1e-6)
    for parameter, one, other in zip(run.model.parameters(), grad_a, grad_b, strict=True):
        np.testing.assert_allclose(parameter.grad, (one + other) / 2, rtol=1e-6, atol=1e-9)
    for (_, buffer), one, other in zip(run.model.named_buffers(), state_a, state_b, strict=True):
        np.testing.assert_allclose(buffer.data, (one + other) / 2, rtol=1e-6)


def test_what_is_random_differs_from_shard_to_shard(tmp_path):
    """Of two shards with the same images and labels, the loss is the same but for dropout."""
    losses = []
    for dropout in (0.0, 0.5):
        run = Trainer(replace(SHARDED, shards=2, dropout=dropout), *DATA, tmp_path / str(dropout))
        seen, gradients = [], run._sharded._gradients
        run._sharded._gradients = lambda *given, seen=seen, of=gradients: seen.append(of(*given)) or seen[-1]
        _, x, labels = next(batches(DATA[0], 4))
        run.step(np.concatenate([x, x]), np.concatenate([labels, labels]))
        losses.append([loss for loss, _ in seen])
    assert losses[0][0] == losses[0][1]
    assert losses[1][0] != losses[1][1]


def test_more_ranks_than_shards_is_an_error(tmp_path):
    done = mpi.ranks(3, train, str(tmp_path), False, 1, {"shards": 2})
    assert done.returncode != 0
    assert done.stderr.count("3 processes cannot share the 2 shards of a batch") == 1


def test_shards_are_for_the_cpu(tmp_path):
    with pytest.raises(ArgumentError, match="a batch in 8 shards is for the CPU"):
        Trainer(SHARDED, *DATA, tmp_path, device="cuda")


def test_a_batch_must_have_equal_shards():
    with pytest.raises(ArgumentError, match="a batch of 8 images cannot be divided into 3 equal shards"):
        replace(TINY, shards=3)


def with_other_data(ranks, folder, which):
    """Rank 1 has another image, or another label."""
    images, labels = DATA[0].images.copy(), DATA[0].labels.copy()
    if ranks.rank == 1 and which == "images":
        images[3, 0, 0, 0] ^= 1
    if ranks.rank == 1 and which == "labels":
        labels[3] ^= 1
    lr = 0.2 if ranks.rank == 1 and which == "recipe" else 0.1
    data = Dataset(images, labels, DATA[0].class_names)
    with pytest.raises(ClusterError, match=f"rank 1 differs from rank 0 in its (training )?{which}"):
        Trainer(replace(SHARDED, lr=lr), data, DATA[1], Path(folder), ranks=ranks)
    return "noticed"


@pytest.mark.parametrize("which", ["images", "labels", "recipe"])
def test_other_data_or_another_recipe_on_one_rank_is_noticed_on_all(tmp_path, which):
    assert mpi.result(2, with_other_data, str(tmp_path), which) == "noticed"


@cache
def model():
    random.seed(5)
    return SHARDED.make_model(8, (16, 16, 3))


def evaluated(ranks):
    """Of 16 images in batches of 3, the last of which has one."""
    found = evaluate(model(), DATA[1], 3, ranks=ranks)
    ranks.agree(measures=found)
    return found


@pytest.mark.parametrize("count", [2, 4])
def test_processes_share_an_evaluation(count):
    assert mpi.result(count, evaluated) == evaluated(ALONE)


def test_parts_of_a_batch_are_those_of_the_whole():
    """Augmented alike: what a rank sees does not depend on how many there are."""
    options = {"shuffle": True, "augment": True, "seed": 3, "epoch": 2}
    for (_, x, labels), (_, part, own) in zip(
        batches(DATA[0], 8, **options), batches(DATA[0], 8, part=slice(2, 5), **options), strict=True
    ):
        assert np.array_equal(x[2:5], part) and np.array_equal(labels[2:5], own)
