"""minixception predict: what a network sees on photos."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import ArgumentError
from ...files import atomic_path, check_writable
from ...imagenet import Prediction, predict, read_image, resize
from ...imagenet.images import RULES
from ...tables import Table
from ...training.trained import is_run
from .common import Add, add_device, add_json, chosen_device, positive, show
from .network import add_network, make_network

if TYPE_CHECKING:
    import numpy as np

_AT_A_TIME = 8  # photos: how far the progress bar moves
_SHOWN = 600  # pixels: the longer side of a photo in a figure
_DPI = 200  # dots per inch of a figure, and of the photos in vector graphics: makes 600 pixels of 3 inches


def register(add: Add) -> None:
    """The command and its options."""
    parser = add("predict", run, "what a network sees on photos")
    parser.usage = "%(prog)s [options] [RUN] PHOTO ..."
    parser.add_argument(
        "photos",
        nargs="+",
        metavar="PHOTO",
        help="an image file of any usual format; before them RUN, for the classes it was trained on: a folder that "
        "train wrote, its checkpoint, or cifar10, the small network that comes with the package",
    )
    parser.add_argument("--resize", choices=RULES, default="bilinear", help="default: %(default)s")
    parser.add_argument("--top", type=positive, metavar="K", default=5, help="how many classes; default: %(default)s")
    parser.add_argument("--figure", type=Path, metavar="FILE", help="draw photos and bars: .png, .svg or .pdf")
    add_device(parser)
    add_json(parser)
    add_network(parser)
    parser.set_defaults(usage_error=parser.error)


def run(options: argparse.Namespace) -> int:
    """Print the likeliest classes of each photo, and draw them."""
    from tqdm import tqdm

    if options.figure:
        _check_figure(options.figure)
    device = chosen_device(options)
    run = options.photos.pop(0) if is_run(options.photos[0]) else None
    if not options.photos:
        options.usage_error("the following arguments are required: PHOTO")
    name, model, weights = make_network(options, run)
    assert model.input_shape is not None  # that of a run has one, and every network of MODELS
    height, width, _ = model.input_shape
    images, shown = _read(options, (height, width))  # before the weights: those may have to be downloaded
    if weights is not None:
        model.load_weights(weights)
    with tqdm(images, desc=name, unit=" photos", leave=False, disable=None) as bar:
        results = predict(model.to(device), bar, options.top, batch_size=_AT_A_TIME)
    if options.figure:
        _draw(options.figure, shown, results)
    named = list(zip(options.photos, results, strict=True))
    data = [{"file": path, "predictions": [p._asdict() for p in predictions]} for path, predictions in named]
    show(options, data, "\n\n".join(f"{path}\n{_table(predictions, run is None)}" for path, predictions in named))
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


def _table(predictions: list[Prediction], synsets: bool) -> Table:
    rows = [(p.wnid, p.name, 100 * p.probability)[not synsets :] for p in predictions]
    return Table(("synset", "class", "probability (%)")[not synsets :], rows)


def _check_figure(path: Path) -> None:
    """ArgumentError if no figure can be written there, before anything is computed."""
    from matplotlib.backend_bases import FigureCanvasBase

    check_writable(path)
    formats, kind = FigureCanvasBase.get_supported_filetypes(), _format(path)
    if kind not in formats:
        raise ArgumentError(f"{path}: {kind!r} is not supported, expected one of {', '.join(formats)}")


def _format(path: Path) -> str:
    return path.suffix[1:].lower() or "png"


def _draw(path: Path, photos: list[np.ndarray], results: list[list[Prediction]]) -> None:
    from ... import viz

    with atomic_path(path) as temporary:
        viz.predictions(photos, results).savefig(temporary, format=_format(path), dpi=_DPI)
