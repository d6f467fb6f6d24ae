"""minixception serve: a page to drop photos on, and ModelHub's interface to the network behind it."""

from __future__ import annotations

import argparse
import contextlib

from ...errors import ArgumentError
from .common import Add, add_device, chosen_device
from .network import add_network, make_network


def register(add: Add) -> None:
    """The command and its options."""
    parser = add("serve", run, "open a page to drop photos on, for this machine alone; stop it with Ctrl-C")
    parser.add_argument("run", nargs="?", metavar="RUN", help="a folder that train wrote, its checkpoint, or cifar10")
    parser.add_argument("--port", type=_port, default=8000, help="default: %(default)s; 0: any that is free")
    parser.add_argument(
        "--allow-urls", action="store_true", help="fetch pictures from public addresses that a request names"
    )
    add_device(parser)
    add_network(parser)


def run(options: argparse.Namespace) -> int:
    """Load the network, say where the page is, and serve it until Ctrl-C."""
    from ..hub import Hub
    from ..hub.samples import SAMPLES, sample
    from ..hub.server import Server

    device = chosen_device(options)
    name, model, weights = make_network(options, options.run)
    if weights is not None:
        model.load_weights(weights)
    hub = Hub(model.to(device), name)
    try:
        server = Server(hub, options.port, options.allow_urls)
    except OSError as error:
        raise ArgumentError(f"port {options.port} of this machine cannot be used: {error.strerror}") from None
    with server:
        hub.predict(sample(next(iter(SAMPLES))))  # compiles, so that the first photo does not wait
        print(f"Open {server.url} in a browser. Ctrl-C stops it.", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            server.serve_forever()
    return 0


def _port(text: str) -> int:
    if not 0 <= (port := int(text)) < 1 << 16:
        raise argparse.ArgumentTypeError(f"expected a port from 0 to 65535, got {text}")
    return port
