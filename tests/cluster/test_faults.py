"""One rank fails, in any way: all end, one message names it, the checkpoint stands, and the run goes on to its bits."""

from __future__ import annotations

import errno
import os
import signal
import time
from pathlib import Path

import pytest

from minixception.cluster.ranks import ALONE
from minixception.errors import CheckpointError
from minixception.training import Trainer, trainer
from tests.cluster.test_training import DATA, SHARDED, alone, train
from tests.helpers import mpi
from tests.training.test_training import outcome

__all__ = ["alone"]
AFTER = 9  # steps, of 6 an epoch, with a checkpoint every second one


def failing(ranks, folder, how, who):
    """Training, in which a rank fails in the middle of an epoch."""
    trainer._STEPS_BETWEEN_CHECKPOINTS = 2
    run = Trainer(SHARDED, *DATA, Path(folder), ranks=ranks)
    step, save = run.step, run.save

    def failing_step(x, labels):
        if ranks.rank == who and 6 * run.progress.epoch + run.progress.step == AFTER:
            fail(how)
        return step(x, labels)

    def failing_save():
        if how == "disk" and 6 * run.progress.epoch + run.progress.step >= AFTER:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(run.path))
        save()

    run.step, run.save = failing_step, failing_save
    run.run()


def fail(how):
    if how == "raises":
        raise ValueError("a picture that nobody can read")
    if how == "mistake":
        raise ZeroDivisionError("of ours")
    if how == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "hangs":
        time.sleep(mpi.HANG)


def go_on(folder):
    """With one process, once all others have ended: mpiexec has killed them and does not wait for that."""
    while True:
        try:
            return train(ALONE, folder, resume=True)
        except CheckpointError as error:
            if "another run has the folder" not in str(error):
                raise
            time.sleep(0.1)


@pytest.mark.parametrize(
    ("how", "who", "message"),
    [
        ("raises", 1, "minixception: error: a picture that nobody can read (rank 1 of 2, on "),
        ("raises", 0, "minixception: error: a picture that nobody can read (rank 0 of 2, on "),
        ("mistake", 1, "ZeroDivisionError: of ours"),
        ("hangs", 1, "minixception: error: rank 1 has kept the others waiting for 3 s (the gradients of a step)"),
        ("hangs", 0, "minixception: error: rank 0 has kept the others waiting for 3 s (the gradients of a step)"),
        ("disk", 0, "No space left on device"),
    ],
)
def test_all_end_with_one_message_and_the_run_goes_on(alone, tmp_path, how, who, message):
    done = mpi.ranks(2, failing, str(tmp_path), how, who, PATIENCE=3 if how == "hangs" else 300)
    assert done.returncode != 0
    assert done.stderr.count(message) == 1
    assert done.stderr.count("minixception: ") == 1
    assert go_on(tmp_path) == "finished"
    assert outcome(tmp_path) == alone


def test_mpiexec_names_the_process_that_was_killed_and_we_have_named_its_rank(alone, tmp_path):
    done = mpi.ranks(2, failing, str(tmp_path), "killed", 1)
    assert done.returncode != 0
    process = done.stdout.partition("rank 1 is process ")[2].partition(",")[0]
    assert process.isdigit()
    assert f"PID {process} " in done.stdout + done.stderr
    assert go_on(tmp_path) == "finished"
    assert outcome(tmp_path) == alone
