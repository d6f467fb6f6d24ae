"""What needs no gradients is shared, too: the images of an evaluation, and the runs of an experiment."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from minixception.cluster.ranks import ALONE
from minixception.data import ImageNetFolder
from minixception.errors import ClusterError
from minixception.training.imagenet import SavedScore, Score, crop_for, evaluate_imagenet
from tests.helpers import mpi
from tests.training.test_evaluate import command, expected_hits, folder, load, weights

__all__ = ["folder", "weights"]


def score(ranks, folder, weights, state, stop_at=10**9, resume=False):
    """Of 20 images in batches of 3; rank 0 is interrupted when it has heard of so many."""
    model, images = load(weights), ImageNetFolder(Path(folder))
    crop = crop_for(model)
    saved = SavedScore(Path(state), model, images, crop, resume, ranks)

    def after(found):
        saved.update(found)
        if found.images >= stop_at and ranks.rank == 0:
            raise KeyboardInterrupt

    with saved:
        found = evaluate_imagenet(model, images, crop, 3, saved.score, after, ranks)
        ranks.agree(hits=(found.images, found.top1_hits, found.top5_hits))
        return found.images, found.top1_hits, found.top5_hits


@pytest.mark.parametrize("count", [2, 3])
def test_processes_share_the_images_of_an_evaluation(folder, weights, tmp_path, count):
    found = mpi.result(count, score, str(folder), str(weights), str(tmp_path / "score.json"))
    assert tuple(found) == (20, *expected_hits(folder, weights))


def test_an_evaluation_goes_on_in_another_number_of_processes(folder, weights, tmp_path):
    state = tmp_path / "score.json"
    stopped = mpi.ranks(2, score, str(folder), str(weights), str(state), 12)
    assert stopped.returncode != 0 and "minixception: stopped (rank 0 of 2" in stopped.stderr
    assert Score(**json.loads(state.read_text())["score"]).images == 12  # two rounds of 2 x 3
    assert score(ALONE, folder, weights, state, resume=True) == (20, *expected_hits(folder, weights))
    assert not state.exists()


def test_the_command_prints_once(folder, weights, tmp_path):
    done = mpi.mpiexec(2, "-m", "minixception", *command(folder, weights, "--json", "--state", tmp_path / "score.json"))
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout[done.stdout.index("{") :])
    assert found["top1"] == expected_hits(folder, weights)[0] / 20


def test_wrong_options_are_told_once(tmp_path):
    done = mpi.mpiexec(
        2, "-m", "minixception", "evaluate", "--model", "mini_xception", "--data", f"imagenet:{tmp_path}"
    )
    assert done.returncode == 2
    assert done.stderr.count("--model needs --weights W") == 1
    assert "Traceback" not in done.stderr and "minixception: error" not in done.stderr


def with_other_weights(ranks, folder, weights, state):
    model, images = load(weights), ImageNetFolder(Path(folder))
    model.predictions.bias.data[0] += ranks.rank
    with pytest.raises(ClusterError, match="rank 1 differs from rank 0 in its weights"):
        SavedScore(Path(state), model, images, crop_for(model), False, ranks)
    return "noticed"


def test_other_weights_on_one_rank_are_noticed(folder, weights, tmp_path):
    arguments = str(folder), str(weights), str(tmp_path / "score.json")
    assert mpi.result(2, with_other_weights, *arguments) == "noticed"


@pytest.mark.slow
def test_processes_share_the_runs_of_an_experiment(tmp_path):
    options = ["-m", "minixception.experiments", "drawn", "--epochs", "1"]
    apart = mpi.mpiexec(3, *options, tmp_path / "drawn.json", "--minutes", "0.01")
    assert apart.returncode == 3, apart.stderr  # each of two has trained one run, and the third begins no more
    runs = json.loads((tmp_path / "drawn.json").read_text())["runs"]
    assert sorted(runs) == ["baseline", "no residual connections"]
