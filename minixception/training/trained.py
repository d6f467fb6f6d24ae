"""The model of a run, ready to be used: what ``mx.load`` and the commands that take a RUN give."""

from __future__ import annotations

import os
from pathlib import Path

from ..nn import Module
from ..optim import EMA
from .checkpoint import Checkpoint, read_checkpoint
from .run_folder import CHECKPOINT

SHIPPED = {"cifar10": Path(__file__).with_name("cifar10.safetensors")}
"""Trained networks that come with the package (shipped.py), by the name that stands where a run's folder would."""


def load(run: str | os.PathLike[str]) -> Module:
    """The network that a run trained, with its averaged weights, at inference on the CPU.

    run: a folder that ``Trainer`` or ``minixception train`` wrote, the checkpoint in it, or "cifar10": the network for
    the ten classes of CIFAR-10 that comes with the package. The model knows its ``class_names``, its ``input_shape``
    (h, w, 3) and its ``preprocessing``, so that ``predict`` needs nothing but photos. ``train()`` lets it learn on; to
    continue the run itself, resume it. Files of weights alone, of ``save_weights`` or of Keras, are for a model's
    ``load_weights``. Raises CheckpointError if there is no whole checkpoint.

    >>> import minixception as mx
    >>> mx.load("cifar10").class_names[:4]
    ('airplane', 'automobile', 'bird', 'cat')
    >>> import tempfile
    >>> data, recipe = mx.data.shapes("train", size=64), mx.training.Recipe(widths=(8,), middle_blocks=0, stem=4)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     mx.training.Trainer(recipe, data, data, folder).save()
    ...     model = mx.load(folder)
    >>> model.class_names[:2], model.input_shape, model.preprocessing
    (('stripes RGB', 'stripes BGR'), (32, 32, 3), 'tf')
    """
    return trained_model(read_checkpoint(checkpoint_path(run)))


def trained_model(checkpoint: Checkpoint) -> Module:
    """The model of ``load`` from a checkpoint that has been read."""
    model = checkpoint.recipe.make_model(len(checkpoint.class_names), checkpoint.image_shape)
    model.load_state_dict(checkpoint.parts["model"])
    if checkpoint.parts["ema"]:  # a network that was shipped has its averages in the model
        ema = EMA([t for _, t in model.named_tensors()], checkpoint.recipe.ema_decay)
        ema.load_state_dict(checkpoint.parts["ema"])
        ema.assign()
    model.class_names = checkpoint.class_names
    return model.eval()


def checkpoint_path(run: str | os.PathLike[str]) -> Path:
    """The checkpoint of a run: in the folder that is named, the file that is named, or one of the package."""
    path = Path(run)
    if str(run) in SHIPPED and not path.exists():
        return SHIPPED[str(run)]
    return path / CHECKPOINT if path.is_dir() else path


def is_run(path: str | os.PathLike[str]) -> bool:
    """Whether this is meant as a run and not as a photo: a folder, a .safetensors file, or a name of the package."""
    return Path(path).is_dir() or Path(path).suffix == ".safetensors" or checkpoint_path(path) in SHIPPED.values()
