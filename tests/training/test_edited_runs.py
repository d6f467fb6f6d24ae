"""Checkpoints and scores that somebody edited: each is read for what it says, or refused with a typed error."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from minixception.errors import ArgumentError, CheckpointError
from minixception.training import Recipe, Trainer, read_checkpoint
from minixception.training.run_folder import CHECKPOINT
from minixception.weights import read_tensors, write_tensors
from tests.by_hand.fuzz_runs import BASE, DATA, base_files, fuzz, saved_score


@pytest.mark.parametrize(("files", "first"), [(40, 120), pytest.param(400, 0, marks=pytest.mark.slow)])
def test_edited_files(files, first):
    outcomes, failures = fuzz(files, first)
    assert not failures
    assert sum(outcomes.values()) == files
    assert {outcome for _, _, outcome in outcomes} == {"went on", "refused"}
    assert {base for base, _, _ in outcomes} == {"sgd", "adam", "rmsprop", "score"}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return base_files(tmp_path_factory.mktemp("bases"))


@pytest.fixture
def checkpoint(files, tmp_path):
    path = tmp_path / CHECKPOINT
    path.write_bytes(files["sgd"])
    return path


def describe(path, *keys, value):
    """Write the checkpoint again with another value at these keys of its description."""
    arrays, metadata = read_tensors(path)
    run = holder = json.loads(metadata["run"])
    for key in keys[:-1]:
        holder = holder[key]
    holder[keys[-1]] = value
    write_tensors(path, arrays, metadata | {"run": json.dumps(run)})


EDITED = {
    "an epoch in words": (("progress", "epoch"), "one", "impossible position: epoch 'one', step 1"),
    "an epoch beyond the last": (("progress", "epoch"), 3, "impossible position: epoch 3"),
    "a step below 0": (("progress", "step"), -1, "impossible position: epoch 1, step -1"),
    "true for a step": (("progress", "step"), True, "step True"),
    "no time": (("progress", "seconds"), float("nan"), "impossible time: nan"),
    "too few records": (("progress", "records"), [], "one record with all measures for each finished epoch"),
    "a record of less": (("progress", "records", 0), {"epoch": 1}, "one record with all measures"),
    "a record in words": (("progress", "records", 0, "test_top1"), "half", "one record with all measures"),
    "no mean of top1": (("progress", "means"), {"loss": {"total": 1, "weight": 1}}, "a weight of loss and top1"),
    "a mean in words": (("progress", "means", "loss", "total"), "x", "a total and a weight"),
    "widths in words": (("recipe", "widths"), ["x"], r"widths must be integers of at least 1, got \('x',\)"),
    "no widths": (("recipe", "widths"), [], "widths must be integers of at least 1"),
    "a huge network": (("recipe", "widths"), [2**31], "describes a larger network"),
    "a deep network": (("recipe", "middle_blocks"), 10**6, "describes a larger network"),
    "epochs beyond any float": (("recipe", "epochs"), 10**400, "epochs must be an integer"),
    "a rate that is no number": (("recipe", "lr"), float("nan"), "lr must be a finite number, got nan"),
    "a text for a switch": (("recipe", "augment"), "no", "augment must be true or false, got 'no'"),
    "classes that are numbers": (("class_names", 0), 7, "names of classes"),
    "a flat image": (("image_shape",), [16, 16], r"impossible shape of images: \(16, 16\)"),
    "an image of lists": (("image_shape", 0), [16], "impossible shape of images"),
    "a digest that is none": (("data", "training images"), 7, "digests of data as texts"),
}


@pytest.mark.parametrize("what", EDITED)
def test_an_edited_description_says_what_cannot_be(what, checkpoint):
    keys, value, message = EDITED[what]
    describe(checkpoint, *keys, value=value)
    with pytest.raises(CheckpointError, match=rf"checkpoint\.safetensors is damaged: .*{message}"):
        read_checkpoint(checkpoint)


def test_a_description_that_is_nested_a_thousand_times(checkpoint):
    arrays, metadata = read_tensors(checkpoint)
    write_tensors(checkpoint, arrays, metadata | {"run": "[" * 50_000})
    with pytest.raises(CheckpointError, match="RecursionError"):
        read_checkpoint(checkpoint)


@pytest.mark.parametrize("name", ["optimizer/steps", "ema/updates"])
@pytest.mark.parametrize("value", [-1, -10, 2**63 - 1])
def test_a_count_of_steps_that_cannot_be(name, value, files, tmp_path):
    path = tmp_path / CHECKPOINT
    path.write_bytes(files["sgd"])
    arrays, metadata = read_tensors(path)
    assert arrays[name].dtype == np.int64
    write_tensors(path, arrays | {name: np.array(value)}, metadata)
    with pytest.raises(CheckpointError, match=f"expected a count as '{Path(name).name}' of .*, got {value}"):
        Trainer(BASE, *DATA, tmp_path, resume=True)


@pytest.mark.parametrize(
    ("score", "message"),
    [
        ({"images": 1001}, "impossible counts"),
        ({"images": 96.0}, "impossible counts"),
        ({"top1_hits": True}, "impossible counts"),
        ({"images": 10**400}, "impossible counts"),
        ({"seconds": 10**400}, "impossible time"),
        ({"seconds": float("inf")}, "impossible time"),
    ],
)
def test_an_edited_score_says_what_cannot_be(score, message, files, tmp_path):
    path = tmp_path / "score.json"
    saved = json.loads(files["score"])
    path.write_text(json.dumps(saved))
    assert saved_score(path, resume=True).score.images == 96
    path.write_text(json.dumps(saved | {"score": saved["score"] | score}))
    with pytest.raises(CheckpointError, match=message):
        saved_score(path, resume=True)
    path.write_text("[" * 50_000)
    with pytest.raises(CheckpointError, match="RecursionError"):
        saved_score(path, resume=True)


def test_a_recipe_of_other_types_is_refused_where_it_is_made():
    for change in ({"epochs": 2.0}, {"lr": "0.1"}, {"seed": 2**62}, {"widths": (8, 0)}, {"stem": 0}, {"augment": 1}):
        with pytest.raises(ArgumentError, match=f"{next(iter(change))} must be "):
            Recipe(**change)
