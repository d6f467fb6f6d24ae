"""The folder of a run belongs to one process at a time and to one data set, and is clean after any end."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from minixception.data import Dataset, shapes
from minixception.errors import CheckpointError
from minixception.files import atomic_path
from minixception.training import Trainer, run_folder
from minixception.training.run_folder import only_run
from minixception.weights import read_tensors, write_tensors
from tests.helpers.processes import ROOT, python
from tests.training.test_training import KILL, TINY, tiny_trainer

ONE = replace(TINY, epochs=1)

# One process at a time ------------------------------------------------------------------------------------------------

HOLDS = """
import sys
from pathlib import Path
from minixception.training.run_folder import only_run
with only_run(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that has the folder."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", HOLDS, str(tmp_path)], cwd=ROOT, **pipes) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_second_run_is_refused_and_names_the_first(holder, tmp_path):
    with pytest.raises(CheckpointError, match=rf"the folder .*, process {holder.pid} on .*: let it end") as caught:
        tiny_trainer(tmp_path, ONE).run()
    assert str(tmp_path) in str(caught.value)
    assert {path.name for path in tmp_path.iterdir()} == {".lock"}


def test_a_run_that_was_killed_holds_nothing(holder, tmp_path):
    os.kill(holder.pid, KILL)
    holder.wait()
    tiny_trainer(tmp_path, ONE).run()
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint.safetensors", "log.jsonl"}


def test_a_folder_is_free_after_an_end_of_any_kind(holder, tmp_path):
    holder.communicate("")  # ends well
    with pytest.raises(ZeroDivisionError), only_run(tmp_path):
        1 / 0  # noqa: B018
    with only_run(tmp_path):
        with pytest.raises(CheckpointError, match=f"process {os.getpid()} on "), only_run(tmp_path):
            pass
        assert [path.name for path in tmp_path.iterdir()] == [".lock"]
    assert not list(tmp_path.iterdir())


def test_a_lock_that_was_removed_while_we_waited_is_taken_anew(tmp_path, monkeypatch):
    """The run before unlinks the file between our opening it and our lock: then nobody else would see our lock."""
    original, tries = run_folder._lock, []

    def locking(file):
        if not tries:
            (tmp_path / ".lock").unlink()
        tries.append(1)
        original(file)

    monkeypatch.setattr(run_folder, "_lock", locking)
    with only_run(tmp_path):
        assert len(tries) == 2
        assert (tmp_path / ".lock").read_text().startswith(f"{os.getpid()} on ")


def test_a_file_system_without_locks(tmp_path, monkeypatch):
    def locking(file):
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr(run_folder, "_lock", locking)
    with only_run(tmp_path), only_run(tmp_path):
        pass


def test_of_two_runs_made_at_once_the_second_does_not_overwrite_the_first(tmp_path):
    first, second = tiny_trainer(tmp_path, ONE), tiny_trainer(tmp_path, replace(ONE, seed=8))
    first.run()
    before = first.path.read_bytes()
    with pytest.raises(CheckpointError, match=r"another run has written .*checkpoint\.safetensors meanwhile"):
        second.run()
    assert first.path.read_bytes() == before
    assert len(first.run()) == 1  # it may go on


def test_what_a_killed_run_left_is_removed_and_nothing_else(tmp_path):
    (tmp_path / "folder").mkdir()
    ours = [".checkpoint.safetensors.123.tmp", ".log.jsonl.99999.tmp"]
    others = ["notes.tmp", ".checkpoint.safetensors.tmp", ".weights.safetensors.123.tmp", ".log.jsonl.x.tmp"]
    for name in ours + others:
        (tmp_path / name).write_text("half")
    tiny_trainer(tmp_path, ONE).run()
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint.safetensors", "log.jsonl", "folder", *others}


# One data set ---------------------------------------------------------------------------------------------------------


def changed(data, images=False, labels=False):
    """The same data set but for one pixel, or two labels that change places."""
    pixels, classes = data.images.copy(), data.labels.copy()
    if images:
        pixels[-1, -1, -1, -1] ^= 1
    if labels:
        other = np.flatnonzero(classes != classes[0])[0]
        classes[[0, other]] = classes[[other, 0]]
    return Dataset(pixels, classes, data.class_names)


@pytest.fixture
def data():
    return shapes("train", size=50, image_size=16), shapes("test", size=16, image_size=16)


CHANGES = {
    "training images": lambda train, test: (changed(train, images=True), test),
    "training labels": lambda train, test: (changed(train, labels=True), test),
    "test images": lambda train, test: (train, changed(test, images=True)),
    "training images and the training labels": lambda train, test: (changed(train, images=True, labels=True), test),
    "test images and the test labels": lambda train, test: (train, train),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_run_does_not_go_on_with_other_data(what, data, tmp_path):
    Trainer(TINY, *data, tmp_path).save()
    with pytest.raises(CheckpointError, match=rf"other data than shapes is now: the {what} differ"):
        Trainer(TINY, *CHANGES[what](*data), tmp_path, resume=True)
    assert Trainer(TINY, *data, tmp_path, resume=True).progress.step == 0


def test_a_checkpoint_of_an_older_version_goes_on_with_any(data, tmp_path):
    run = Trainer(TINY, *data, tmp_path)
    run.save()
    arrays, metadata = read_tensors(run.path)
    described = json.loads(metadata["run"])
    del described["data"]
    write_tensors(run.path, arrays, metadata | {"run": json.dumps(described)})
    other = changed(data[0], images=True)
    assert Trainer(TINY, other, data[1], tmp_path, resume=True).progress.step == 0


# A full disk ----------------------------------------------------------------------------------------------------------


def test_a_full_disk_is_an_error_that_names_the_file(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(OSError, match="No space left on device") as caught, atomic_path(path) as temporary:
        temporary.write_text("half of the n")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # as the system does: without a name
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(path))
    assert path.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["file.txt"]


def test_an_error_of_the_temporary_file_names_the_one_it_stands_for(tmp_path):
    path = tmp_path / "nowhere" / "file.txt"
    with pytest.raises(FileNotFoundError) as caught, atomic_path(path) as temporary:
        temporary.write_text("new")
    assert caught.value.filename == str(path)


def test_errors_of_other_files_and_our_own_stay_as_they_are(tmp_path):
    for error in (FileNotFoundError(errno.ENOENT, "none", "other.txt"), CheckpointError("words")):
        with pytest.raises(type(error)) as caught, atomic_path(tmp_path / "file.txt"):
            raise error
        assert caught.value is error


NO_ROOM = """
import resource, sys
from pathlib import Path
import minixception as mx
from tests.training.test_training import tiny_trainer
folder = Path(sys.argv[1])
run = tiny_trainer(folder)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))  # no file may be larger: as on a full disk, writing fails
for save in (run.save, *(lambda name=name: run.model.save_weights(folder / name) for name in sys.argv[2:])):
    try:
        save()
    except OSError as error:
        print(error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit for the size of a file")
def test_whatever_is_saved_names_its_file_when_there_is_no_room(tmp_path):
    done = python("-c", NO_ROOM, tmp_path, "a.safetensors", "a.weights.h5")
    assert done.returncode == 0, done.stderr
    names = ("checkpoint.safetensors", "a.safetensors", "a.weights.h5")
    assert done.stdout.splitlines() == [f"[Errno 27] File too large: '{tmp_path / name}'" for name in names]
    assert not list(Path(tmp_path).iterdir())
