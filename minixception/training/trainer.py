"""The training loop: reproducible bit for bit, resumable at any step, and never half-written.

Every random choice is a pure function of (seed, epoch, step): the order of the images, their augmentation, dropout. A
checkpoint therefore needs no random state, only arrays and a position, and a run that was killed and resumed
ends with the very weights of one that was not.
"""

from __future__ import annotations

import json
import math
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import FrameType
from typing import Any

from ..cluster.ranks import ALONE, Ranks
from ..data import Dataset, batches, steps_per_epoch
from ..data.prefetch import prefetched
from ..engine import random
from ..engine.tensor import Tensor
from ..errors import ArgumentError, CheckpointError, NumericError
from ..files import atomic_path
from ..optim import EMA, clip_grad_norm
from .batch import Gradients
from .checkpoint import Checkpoint, Progress, read_checkpoint, write_checkpoint
from .evaluate import evaluate
from .metrics import Mean
from .recipe import Recipe
from .run_folder import CHECKPOINT, LOG, only_run
from .shards import ShardedGradients

_STEPS_BETWEEN_CHECKPOINTS = 200


class Interrupted(KeyboardInterrupt):
    """The user pressed Ctrl-C, or the system sent SIGTERM; the checkpoint has been written."""


class Trainer:
    """One run: a recipe, its data, and a folder for the checkpoint and the log (a JSON line per epoch).

    Starts anew, or with resume=True from the folder's checkpoint, whose recipe must be this one but for ``epochs``: a
    run can be extended, and what it still has to train follows the schedule of the new number. device: "cpu" or "cuda",
    where the model, the optimiser and the averages are from the start. It is no part of the checkpoint: a run may go on
    on the other one, where results differ by rounding, and by the masks of dropout, which the GPU draws itself. On the
    CPU the step is compiled (``mx.compile``); with eager=True it runs layer by layer, and differs by rounding. The data
    are: a digest of every image and label is kept, so that a run does not go on with others. ranks: the processes that
    share the shards of every batch (``cluster.together``), none of which decides anything: a run may go on on more or
    fewer. Rank 0 reads and writes the folder.

    Raises CheckpointError if the checkpoint is missing, corrupt or of another recipe or data set, ArgumentError where a
    new run would overwrite one, for another device, and for more ranks than shards, BackendError where there is no GPU,
    and ClusterError if ranks differ in what they were given.
    """

    def __init__(
        self,
        recipe: Recipe,
        train: Dataset,
        test: Dataset,
        folder: Path,
        resume: bool = False,
        device: str = "cpu",
        eager: bool = False,
        ranks: Ranks = ALONE,
    ) -> None:
        self.recipe, self.train, self.test, self.folder, self.device = recipe, train, test, Path(folder), device
        self.path = self.folder / CHECKPOINT
        if recipe.batch_size > len(train):
            raise ArgumentError(
                f"a batch of {recipe.batch_size} is larger than the training set of {len(train)} images: "
                "take a smaller batch size"
            )
        if recipe.shards < ranks.size:
            raise ArgumentError(
                f"{ranks.size} processes cannot share the {recipe.shards} shards of a batch, for each takes at least "
                "one: start fewer processes, or a run with more shards"
            )
        if recipe.shards > 1 and device != "cpu":
            raise ArgumentError(f"a batch in {recipe.shards} shards is for the CPU: train with one shard on the GPU")
        self._ranks, self._first = ranks, ranks.rank == 0
        if self._first and not resume and self.path.exists():
            raise ArgumentError(f"{self.folder} holds a run already: resume it, or name another folder")
        random.seed(recipe.seed)
        self.image_shape: tuple[int, int, int] = train.images.shape[1:]
        self.model = recipe.make_model(train.num_classes, self.image_shape).to(device)
        self.optimizer = recipe.make_optimizer(self.model)
        self.schedule = recipe.make_schedule()
        self._gradients = Gradients(self.model, train.num_classes, recipe.label_smoothing, eager)
        self._sharded = (
            ShardedGradients(self._gradients, self.model, recipe.shards, ranks) if recipe.shards > 1 else None
        )
        self.ema = EMA([t for _, t in self.model.named_tensors()], recipe.ema_decay)
        self.progress = Progress()
        self.loss, self.top1 = Mean(), Mean()
        self.steps = steps_per_epoch(len(train), recipe.batch_size, drop_last=True)
        self._asked = False  # to stop, by a signal to this process
        self._stop = False  # what all ranks do
        self._data = _fingerprints(training=train, test=test)
        ranks.agree(recipe=recipe.to_json(), **self._data)
        self._seen = _version(self.path)
        if resume:
            checkpoint = read_checkpoint(self.path, type(recipe)) if self._first else None
            self._restore(ranks.from_first(checkpoint, "the checkpoint"))
        if self._first:
            self.folder.mkdir(parents=True, exist_ok=True)

    def run(self) -> list[dict[str, Any]]:
        """Train to the last epoch; returns a record per epoch.

        Ctrl-C, and SIGTERM as batch systems and containers send it, stop between two steps with ``Interrupted``. Raises
        CheckpointError if another process trains in this folder, or did so since this run was made.
        """
        with self._stop_on_interrupt(), only_run(self.folder) if self._first else nullcontext():
            if self._first and _version(self.path) != self._seen:
                raise CheckpointError(
                    f"another run has written {self.path} meanwhile: resume it, or name another folder"
                )
            while self.progress.epoch < self.recipe.epochs:
                self._epoch()
        return self.progress.records

    def step(self, x: Any, labels: Any) -> float:
        """One update from a batch x (n, h, w, c), array or tensor, and labels (n,); returns the loss.

        A rank of several has only its own shards of the batch; the loss is that of the whole. What is on the GPU stays
        there but for the loss and one value per image, read once. NumericError if the loss is not finite.
        """
        x = (x if isinstance(x, Tensor) else Tensor(x)).to(self.device)
        self.optimizer.lr = self.learning_rate(self.progress.step)
        if self._sharded is None:
            self._draw_anew(0)
            value, top1 = self._gradients(x, labels)
        else:
            (value, top1), self._stop = self._sharded(x, labels, self._draw_anew, self._asked)
        if not math.isfinite(value):
            raise NumericError(
                f"the loss is {value} in epoch {self.progress.epoch + 1}, step {self.progress.step + 1}: lower the "
                f"learning rate ({self.optimizer.lr:.4g}) or clip the gradient; the last good checkpoint is kept"
            )
        if self.recipe.clip_norm:
            clip_grad_norm(self.optimizer.params, self.recipe.clip_norm)
        self.optimizer.step()
        self.ema.update()
        images = len(labels) if self._sharded is None else self.recipe.batch_size
        self.loss.update(value, images)
        self.top1.update(top1, images)
        return value

    def _draw_anew(self, shard: int) -> None:
        """What is random in a pass depends on this step and shard alone."""
        number = self.recipe.seed * self.recipe.shards + shard
        random.seed(hash_of(number, self.progress.epoch, self.progress.step))

    def learning_rate(self, step: int) -> float:
        """The learning rate of a step of this epoch, by the schedule."""
        done = self.progress.epoch + step / self.steps
        return self.schedule(done, int(done * len(self.train)))

    @property
    def part(self) -> slice:
        """The images of a batch that are this rank's."""
        if self._sharded is None:
            return slice(None)
        length = self.recipe.batch_size // self.recipe.shards
        return slice(length * self._sharded.mine.start, length * self._sharded.mine.stop)

    def save(self) -> None:
        """Write the checkpoint, as rank 0."""
        if not self._first:
            return
        self.progress.means = {"loss": self.loss.state_dict(), "top1": self.top1.state_dict()}
        parts = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "ema": self.ema.state_dict(),
        }
        names = self.train.class_names
        write_checkpoint(self.path, Checkpoint(self.recipe, self.progress, names, self.image_shape, parts, self._data))
        self._seen = _version(self.path)

    # One epoch ----------------------------------------------------------------------------------------------------

    def _epoch(self) -> None:
        from tqdm import tqdm

        progress, started = self.progress, time.monotonic()
        before = progress.seconds
        feed = batches(
            self.train,
            self.recipe.batch_size,
            seed=self.recipe.seed,
            epoch=progress.epoch,
            shuffle=True,
            augment=self.recipe.augment,
            drop_last=True,
            start=progress.step,
            part=self.part,
        )
        pairs = ((x, labels) for _, x, labels in feed)
        title = f"epoch {progress.epoch + 1}/{self.recipe.epochs}"
        compiling = f"{title}, compiling kernels on the first run"
        with tqdm(total=self.steps, initial=progress.step, desc=compiling, disable=None) as bar:
            for step, (x, labels) in enumerate(prefetched(pairs, self.device), progress.step):
                self.step(x, labels)
                progress.step = step + 1
                progress.seconds = before + time.monotonic() - started
                bar.set_description(title, refresh=False)
                bar.set_postfix(loss=f"{self.loss.value:.3f}", top1=f"{self.top1.value:.1%}", refresh=False)
                bar.update()
                self._pause(due=progress.step % _STEPS_BETWEEN_CHECKPOINTS == 0)
        test = self._evaluate(title)
        progress.seconds = before + time.monotonic() - started
        record = {
            "epoch": progress.epoch + 1,
            "lr": self.learning_rate(self.steps - 1),  # not the optimiser's: resumed behind the last, it has none
            "train_loss": self.loss.value,
            "train_top1": self.top1.value,
            **{f"test_{name}": value for name, value in test.items()},
            "seconds": round(progress.seconds, 2),
        }
        self.progress = Progress(epoch=progress.epoch + 1, records=[*progress.records, record])
        self.loss, self.top1 = Mean(), Mean()
        self._write_log()  # before the checkpoint: killed in between, the epoch is finished anew and written again
        self.save()
        tqdm.write(
            f"{title}  train loss {record['train_loss']:.3f} top-1 {record['train_top1']:.1%}  "
            f"test loss {record['test_loss']:.3f} top-1 {record['test_top1']:.1%}  {record['seconds']:.0f} s"
        )

    def _evaluate(self, title: str) -> dict[str, float]:
        """Loss and accuracy of the averaged weights on the test set."""
        from tqdm import tqdm

        with tqdm(desc=f"{title}, testing", leave=False, disable=None) as bar:

            def advance(step: int, steps: int) -> None:
                if self._asked and self._ranks.size == 1:  # several stop together, after the next step
                    raise Interrupted
                bar.total, bar.n = steps, step
                bar.refresh()

            try:
                with self.ema.averaged():
                    return evaluate(self.model, self.test, self.recipe.batch_size, advance, self._ranks)
            except Interrupted:  # saved out here: inside, the averages stand in for the weights
                self.save()
                raise

    def _write_log(self) -> None:
        if not self._first:
            return
        lines = "".join(json.dumps(record) + "\n" for record in self.progress.records)
        with atomic_path(self.folder / LOG) as temporary:
            temporary.write_text(lines)

    # Stopping and resuming ----------------------------------------------------------------------------------------

    def _pause(self, due: bool) -> None:
        """Between two steps: write the checkpoint when it is due or the user wants to stop."""
        if self._sharded is None:
            self._stop = self._asked
        if due or self._stop:
            self.save()
        if self._stop:
            raise Interrupted

    @contextmanager
    def _stop_on_interrupt(self) -> Iterator[None]:
        """Ctrl-C or SIGTERM asks for a stop after the step that runs; Ctrl-C then stops at once. Main thread only."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def ask(signal_number: int, frame: FrameType | None) -> None:
            if self._asked and signal_number == signal.SIGINT:  # batch systems may send SIGTERM more than once
                raise KeyboardInterrupt
            self._asked = True

        previous = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            self._asked = self._stop = False
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _restore(self, checkpoint: Checkpoint) -> None:
        ours, theirs = self.recipe.to_json(), checkpoint.recipe.to_json()
        if changed := [f"{k}: {theirs[k]} -> {ours[k]}" for k in ours if k != "epochs" and ours[k] != theirs[k]]:
            raise CheckpointError(
                f"{self.path} belongs to another recipe ({', '.join(changed)}): resume with the same settings"
            )
        begun = checkpoint.progress.epoch + (checkpoint.progress.step > 0)
        if self.recipe.epochs < begun:
            raise CheckpointError(
                f"{self.path} has begun epoch {begun}, which is beyond {self.recipe.epochs}: name more epochs"
            )
        if checkpoint.class_names != self.train.class_names or checkpoint.image_shape != self.image_shape:
            raise CheckpointError(f"{self.path} was trained on other classes or image sizes than {self.recipe.data}")
        if others := [part for part, digest in checkpoint.data.items() if digest != self._data.get(part)]:
            raise CheckpointError(
                f"{self.path} was trained on other data than {self.recipe.data} is now: the {' and the '.join(others)} "
                "differ; bring the old ones back, or start a new run in another folder"
            )
        self.model.load_state_dict(checkpoint.parts["model"])
        self.optimizer.load_state_dict(checkpoint.parts["optimizer"])
        self.ema.load_state_dict(checkpoint.parts["ema"])
        self.progress = checkpoint.progress
        if self.progress.means:
            self.loss.load_state_dict(self.progress.means["loss"])
            self.top1.load_state_dict(self.progress.means["top1"])


def _fingerprints(**sets: Dataset) -> dict[str, str]:
    """A digest by name: "training images", "training labels" and so on."""
    return {f"{split} {part}": digest for split, data in sets.items() for part, digest in data.fingerprint().items()}


def _version(path: Path) -> tuple[int, int, int] | None:
    """What changes when a file is replaced; None if there is none."""
    try:
        state = path.stat()
    except FileNotFoundError:
        return None
    return state.st_ino, state.st_mtime_ns, state.st_size


def hash_of(seed: int, epoch: int, step: int) -> int:
    """One seed from three integers, different for different ones within 2**24 epochs and 2**24 steps."""
    return (seed << 48) | (epoch << 24) | step
