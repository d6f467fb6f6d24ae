"""The model of a run, ready to be used: what ``mx.load`` and the commands that take a RUN give."""

from __future__ import annotations

import os
from pathlib import Path

from ..nn import Module
from ..optim import EMA
from .checkpoint import Checkpoint, read_checkpoint
from .run_folder import CHECKPOINT


def load(run: str | os.PathLike[str]) -> Module:
    """The network that a run trained, with its averaged weights, at inference on the CPU.

    run: a folder that ``Trainer`` or ``minixception train`` wrote, or the checkpoint in it. The model knows its
    ``class_names``, its ``input_shape`` (h, w, 3) and its ``preprocessing``, so that ``predict`` needs nothing but
    photos. ``train()`` lets it learn on; to continue the run itself, resume it. Files of weights alone, of
    ``save_weights`` or of Keras, are for a model's ``load_weights``. Raises CheckpointError if there is no whole
    checkpoint.

    >>> import tempfile
    >>> import minixception as mx
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
    ema = EMA([t for _, t in model.named_tensors()], checkpoint.recipe.ema_decay)
    ema.load_state_dict(checkpoint.parts["ema"])
    ema.assign()
    model.class_names = checkpoint.class_names
    return model.eval()


def checkpoint_path(run: str | os.PathLike[str]) -> Path:
    """The checkpoint of a run: in the folder that is named, or the file that is named."""
    path = Path(run)
    return path / CHECKPOINT if path.is_dir() else path


def is_run(path: str | os.PathLike[str]) -> bool:
    """Whether this is meant as a run and not as a photo: a folder, or a .safetensors file."""
    return Path(path).is_dir() or Path(path).suffix == ".safetensors"
