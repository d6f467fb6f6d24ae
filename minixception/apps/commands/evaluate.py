"""minixception evaluate: accuracy of a run of our own, or of a published network on ImageNet's validation images."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from typing import Any

from ...cluster.ranks import Ranks
from ...cluster.session import together
from ...data import ImageNetFolder, load
from ...data.imagenet_folder import Crop
from ...errors import DataError
from ...imagenet.images import RULES
from ...models import MODELS
from ...nn import Module
from ...tables import Table
from ...training import evaluate, read_checkpoint
from ...training.imagenet import SavedScore, Score, crop_for, evaluate_imagenet, imagenet_model
from ...training.trained import checkpoint_path, trained_model
from .common import Add, add_device, add_json, add_model, chosen_device, device_words, positive, progress, show


def register(add: Add) -> None:
    """The command and its options."""
    parser = add("evaluate", run, "accuracy of a trained run, or of a network on ImageNet's validation images")
    parser.add_argument(
        "run", nargs="?", type=Path, metavar="RUN", help="a folder that train wrote, its checkpoint, or cifar10"
    )
    parser.add_argument("--data", metavar="SPEC", help="RUN: default: what it was trained on; --model: imagenet:DIR")
    add_device(parser)
    add_json(parser)
    own = parser.add_argument_group("a run of our own")
    own.add_argument("--split", choices=("train", "test"), help="default: test")
    net = parser.add_argument_group("a published network", "DIR holds a folder of images per synset (n01440764).")
    add_model(net, help=", ".join(MODELS))
    net.add_argument("--weights", metavar="W", help="a file, or imagenet: the released ones")
    net.add_argument("--size", type=positive, metavar="PIXELS", help="height and width; default: the network's own")
    net.add_argument("--center-crop", type=float, metavar="FRACTION", help="keep the middle; default: 1, all of it")
    net.add_argument("--resize", choices=RULES, help="default: bilinear")
    net.add_argument("--batch-size", type=positive, metavar="N", help="default: 32")
    net.add_argument("--state", type=Path, metavar="FILE", help="of a stopped run; default: runs/evaluate-MODEL.json")
    net.add_argument("--resume", action="store_true", default=None, help="go on where --state stopped")
    parser.set_defaults(usage_error=parser.error)


_OF_A_NETWORK = ("weights", "size", "center_crop", "resize", "batch_size", "state", "resume")


def run(options: argparse.Namespace) -> int:
    """Print the measures."""
    if (options.run is None) == (options.model is None):
        problem = "the following arguments are required: RUN or" if options.run is None else "RUN does not go with"
        options.usage_error(f"{problem} --model")
    for name in _given(options, *(_OF_A_NETWORK if options.model is None else ("split",))):
        options.usage_error(f"--{name.replace('_', '-')} goes with {'RUN' if options.model else '--model'}")
    if options.model is None:
        return _run_of_our_own(options)
    with together() as ranks:
        return _published_network(options, ranks)


def _run_of_our_own(options: argparse.Namespace) -> int:
    device = chosen_device(options)
    path = checkpoint_path(options.run)
    checkpoint = read_checkpoint(path)
    recipe, size = checkpoint.recipe, checkpoint.image_shape[0]
    dataset = load(options.data or recipe.data, options.split or "test", image_size=size, seed=recipe.seed)
    if dataset.class_names != checkpoint.class_names:
        expected, got = ", ".join(checkpoint.class_names), ", ".join(dataset.class_names)
        raise DataError(f"{path} was trained on the classes {expected}; the data has {got}")
    result = evaluate(trained_model(checkpoint).to(device), dataset, recipe.batch_size)
    rows = [(name, f"{value:.4f}") for name, value in result.items()]
    show(options, {"images": len(dataset), **result}, Table(("measure", f"{len(dataset):,} images"), rows))
    return 0


def _published_network(options: argparse.Namespace, ranks: Ranks) -> int:
    folder, device = _imagenet_folder(options), chosen_device(options)
    images = ImageNetFolder(folder)
    model = imagenet_model(options.model, options.weights, options.size).to(device)
    crop = crop_for(model, **_given(options, "center_crop", "resize"))
    state = options.state or Path("runs") / f"evaluate-{options.model}.json"
    saved = SavedScore(state, model, images, crop, bool(options.resume), ranks)
    try:
        with saved:  # until the result is printed
            _evaluate(options, model, images, crop, saved, ranks)
            score = saved.score
            rows = [("top-1", f"{score.top1:.2%}"), ("top-5", f"{score.top5:.2%}")]
            rows.append(("images per second", f"{score.images_per_second:.1f}"))
            table = Table((options.model, f"{len(images):,} images"), rows)
            show(options, {"model": options.model, **score.to_json()}, table)
    except KeyboardInterrupt:
        if ranks.rank:
            raise
        print(
            f"stopped after {saved.score.images:,} of {len(images):,} images; go on with: {_again(options, state)}",
            file=sys.stderr,
        )
        if ranks.size > 1:  # which may wait for us
            ranks.stop(130)
        return 130
    return 0


def _evaluate(
    options: argparse.Namespace, model: Module, images: ImageNetFolder, crop: Crop, saved: SavedScore, ranks: Ranks
) -> None:
    """Evaluate what is not yet in the saved score, with a bar."""
    done = saved.score.images
    with progress(len(images), initial=done, desc=options.model, unit=" images") as bar:

        def after_batch(score: Score) -> None:
            saved.update(score)
            bar.set_postfix(top1=f"{score.top1:.2%}", refresh=False)
            bar.update(score.images - bar.n)

        given = _given(options, "batch_size")
        evaluate_imagenet(model, images, crop, score=saved.score, after_batch=after_batch, ranks=ranks, **given)


def _imagenet_folder(options: argparse.Namespace) -> Path:
    kind, _, folder = (options.data or "").partition(":")
    if not options.weights or kind != "imagenet" or not folder:
        options.usage_error("--model needs --weights W and --data imagenet:DIR")
    return Path(folder)


def _given(options: argparse.Namespace, *names: str) -> dict[str, Any]:
    """Those of the options that were given: the others have their defaults where they are used."""
    return {name: value for name in names if (value := getattr(options, name)) is not None}


def _again(options: argparse.Namespace, state: Path) -> str:
    """The command that goes on from the state."""
    values = _given(options, "model", "weights", "data", "size", "center_crop", "resize", "batch_size")
    words = [word for name, value in values.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    flags = device_words(options) + ["--resume"] * state.exists() + ["--json"] * options.json
    return shlex.join(["minixception", "evaluate", *words, "--state", str(state), *flags])
