"""Weights that somebody trained: a .keras file with Xception nested in it, on photographs, beside Keras if it is there.

    python -m tests.by_hand.check_real_weights FILE IMAGES

FILE: Xception without its top below a dense layer of 128 and one of 4 (logits), for 150x150 pixels. IMAGES: a folder
of photographs Te-<class>_*.jpg with the classes gl, me, no, pi. Prints how many are right and, if Keras can be
imported, the largest difference of a probability from Keras' own; fails below 15 right, or above 1e-4.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from PIL import Image

import minixception as mx

CLASSES = ("gl", "me", "no", "pi")
SHAPE = (150, 150, 3)


def read_images(paths):
    """Nearest pixel, and [-1, 1]: as the file's network was trained."""
    images = [Image.open(path).convert("RGB").resize(SHAPE[:2], Image.Resampling.NEAREST) for path in paths]
    return np.stack([np.asarray(image, np.float32) for image in images]) / np.float32(127.5) - np.float32(1)


def our_probabilities(file, x):
    """By one call: the file's network, whole."""
    model = mx.models.Xception(num_classes=4, fc_units=(128,), input_shape=SHAPE, weights=file).eval()
    with mx.no_grad():
        return mx.ops.softmax(model(mx.tensor(x))).numpy()


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("images", type=Path)
    options = parser.parse_args()
    paths = sorted(options.images.glob("Te-*.jpg"))
    labels = np.array([CLASSES.index(path.name[3:5]) for path in paths])
    x = read_images(paths)
    ours = our_probabilities(options.file, x)
    right = int((ours.argmax(-1) == labels).sum())
    print(f"right: {right} of {len(paths)}")
    difference = 0.0
    try:
        import keras
    except ImportError:
        print("Keras is not installed: nothing to compare with")
    else:
        logits = keras.models.load_model(options.file, compile=False).predict(x, verbose=0)
        theirs = np.asarray(keras.ops.softmax(logits))
        difference = float(np.abs(ours - theirs).max())
        print(f"Keras {keras.__version__} right: {int((theirs.argmax(-1) == labels).sum())} of {len(paths)}")
        print(f"largest difference of a probability: {difference:.2e}")
    sys.exit(right < 15 or difference > 1e-4)


if __name__ == "__main__":
    main()
