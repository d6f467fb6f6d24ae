"""A network whose answers are known by hand, pictures for it, and a server that runs while a test does."""

from __future__ import annotations

import contextlib
import io
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np

from minixception import nn
from minixception.apps.hub import Hub
from minixception.apps.hub.server import Server
from minixception.imagenet import CLASSES
from tests.helpers.processes import HANG

NUMBERS = {name: number for number, (_, name) in enumerate(CLASSES)}
RED, GREEN, BLUE = (250, 20, 10), (20, 240, 30), (10, 30, 220)


class Colours(nn.Module):
    """Logits from the mean colour alone: red is a strawberry, green a Granny Smith, blue a jay.

    An envelope and a web site come next, and every other class is far less likely.
    """

    input_shape = (71, 71, 3)
    preprocessing = "tf"

    def __init__(self) -> None:
        self.avg_pool = nn.GlobalAvgPool()
        self.predictions = nn.Linear(3, 1000)
        kernel, bias = np.zeros((3, 1000), np.float32), np.full(1000, -20, np.float32)
        for channel, name in enumerate(("strawberry", "Granny_Smith", "jay")):
            kernel[channel, NUMBERS[name]] = 3
            bias[NUMBERS[name]] = channel / 8
        bias[NUMBERS["envelope"]], bias[NUMBERS["web_site"]] = 1, 0.5
        self.load_state_dict({"predictions.weight": kernel, "predictions.bias": bias})

    def forward(self, x: Any) -> Any:
        return self.predictions(self.avg_pool(x))


def picture(
    colour: tuple[int, ...] = RED, size: tuple[int, int] = (90, 60), format: str = "PNG", mode: str = "RGB"
) -> bytes:
    """An image file of one colour."""
    from PIL import Image

    file = io.BytesIO()
    Image.new(mode, size, colour).save(file, format)
    return file.getvalue()


@contextlib.contextmanager
def serving(hub: Hub | None = None, **options: Any) -> Iterator[Server]:
    """A server on a free port of the loopback interface; it stops with the block."""
    with Server(hub or Hub(Colours()), 0, **{"seconds": HANG} | options) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
