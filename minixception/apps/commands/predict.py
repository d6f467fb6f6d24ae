"""minixception predict: what a network sees on photos."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ...files import atomic_path
from ...imagenet import Prediction, predict, read_image, resize
from ...imagenet.images import RULES
from ...models import MODELS
from ...tables import Table
from .common import Add, add_device, add_json, chosen_device, positive, show

if TYPE_CHECKING:
    import numpy as np

_AT_A_TIME = 8  # photos: how far the progress bar moves
_SHOWN = 600  # pixels: the longer side of a photo in a figure
_DPI = 200  # dots per inch of a figure, and of the photos in vector graphics: makes 600 pixels of 3 inches


def register(add: Add) -> None:
    """The command and its options."""
    parser = add("predict", run, "what a network sees on photos")
    parser.add_argument("photos", nargs="+", metavar="PHOTO", help="an image file of any usual format")
    parser.add_argument("--model", choices=MODELS, metavar="MODEL", default="xception", help=", ".join(MODELS))
    parser.add_argument("--weights", metavar="FILE", default="imagenet", help="default: imagenet, the released weights")
    parser.add_argument("--classes", type=positive, metavar="N", default=1000, help="of the weights; default: 1000")
    parser.add_argument("--size", type=positive, metavar="PIXELS", help="height and width; default: the network's own")
    parser.add_argument("--resize", choices=RULES, default="bilinear", help="default: %(default)s")
    parser.add_argument("--top", type=positive, metavar="K", default=5, help="how many classes; default: %(default)s")
    parser.add_argument("--figure", type=Path, metavar="FILE", help="draw photos and bars: .png, .svg or .pdf")
    add_device(parser)
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Print the likeliest classes of each photo, and draw them."""
    from tqdm import tqdm

    device = chosen_device(options)
    size = {} if options.size is None else {"input_shape": (options.size, options.size, 3)}
    model = MODELS[options.model](num_classes=options.classes, **size)
    assert model.input_shape is not None  # every network of MODELS has one
    height, width, _ = model.input_shape
    images, shown = _read(options, (height, width))  # before the weights: those may have to be downloaded
    model.load_weights(options.weights)
    with tqdm(images, desc=options.model, unit=" photos", leave=False, disable=None) as bar:
        results = predict(model.to(device), bar, options.top, batch_size=_AT_A_TIME)
    if options.figure:
        _draw(options.figure, shown, results)
    named = list(zip(options.photos, results, strict=True))
    data = [{"file": path, "predictions": [p._asdict() for p in predictions]} for path, predictions in named]
    show(options, data, "\n\n".join(f"{path}\n{_table(predictions)}" for path, predictions in named))
    return 0


def _read(options: argparse.Namespace, size: tuple[int, int]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The photos at the network's size, and at the figure's if one is asked for."""
    from tqdm import tqdm

    images, shown = [], []
    for path in tqdm(options.photos, desc="reading", unit=" photos", leave=False, disable=None):
        photo = read_image(path, size)
        images.append(resize(photo, size, options.resize))
        if options.figure:
            height, width, _ = photo.shape
            scale = min(1, _SHOWN / max(height, width))
            shown.append(resize(photo, (max(1, round(height * scale)), max(1, round(width * scale))), "lanczos"))
    return images, shown


def _table(predictions: list[Prediction]) -> Table:
    rows = [(p.wnid, p.name, 100 * p.probability) for p in predictions]
    return Table(("synset", "class", "probability (%)"), rows)


def _draw(path: Path, photos: list[np.ndarray], results: list[list[Prediction]]) -> None:
    from ... import viz

    with atomic_path(path) as temporary:
        viz.predictions(photos, results).savefig(temporary, format=path.suffix[1:] or "png", dpi=_DPI)
