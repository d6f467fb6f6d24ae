"""Take the picture of the page in the README: `python -m tests.by_hand.page_picture docs/figures/page.png`.

Does what a person does: trains on a folder of photos, serves the run, chooses a photo it has not seen, and waits for
the answer. The photos are the package's own drawings, turned, moved and lit at random, so that nobody's are copied.
Needs a browser (tests/helpers/browser.py). Takes some minutes.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance

import minixception as mx
from minixception.apps import cli
from minixception.apps.hub import Hub
from minixception.apps.hub.samples import SAMPLES, sample
from tests.helpers.browser import Page, started
from tests.helpers.colours import serving

PHOTOS = 40  # of each class
WIDTH, HEIGHT = 1120, 630  # pixels of the page
COLOURS = 128  # of the picture, which keep the file small
TRAIN = ("--image-size", "64")  # as the README says


def photo(name: str, angle: float, rng: np.random.Generator) -> Image.Image:
    """A drawing as if somebody had photographed it, held askew by an angle in degrees."""
    image = Image.open(io.BytesIO(sample(name))).convert("RGB")
    corner, shift = image.getpixel((0, 0)), tuple(rng.integers(-15, 16, 2))
    image = image.rotate(angle, Image.Resampling.BICUBIC, translate=shift, fillcolor=corner)
    for enhance in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        image = enhance(image).enhance(rng.uniform(0.9, 1.15))
    return image.crop((0, 20, 400, 380))


def main(path: Path) -> None:
    """Write the picture."""
    rng = np.random.default_rng(0)
    path = path.absolute()
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        for name in SAMPLES:
            place = Path("photos", name.removesuffix(".png").replace("_", " "))
            place.mkdir(parents=True)
            for i in range(PHOTOS):
                photo(name, rng.uniform(-8, 8), rng).save(place / f"{i}.png")
        photo("traffic_light.png", 20, rng).save("new.png")  # more askew than any of those
        assert cli.main(["train", "--data", "folder:photos", *TRAIN]) == 0
        hub = Hub(mx.load("runs/photos"), "runs/photos")
        hub.predict(sample("orange.png"))  # compiles, as the command does before it serves
        with serving(hub) as server, started("profile") as browser:
            page = Page(browser)
            page.view(WIDTH, HEIGHT)
            browser.get(server.url)
            page.until(lambda: page.one("#model").text)
            page.one("#file").send_keys(os.path.abspath("new.png"))
            page.until(lambda: page.all("#bars .name") and not page.one("#working").is_displayed())
            picture = page.screenshot("page.png")
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.quantize(COLOURS, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f"{path}: {picture.width}x{picture.height} pixels, {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
