"""Whether the peers that are installed compute what we do: python -m tests.by_hand.check_peers

``minixception bench`` refuses to time what is not equal, on networks of full size; this asks in two minutes, on small
ones, after a layer has got a new setting, say. Nothing is timed. Exit status 1 if a peer differs or cannot be built.
"""

from __future__ import annotations

import numba

import minixception as mx
from minixception.bench import models, peers
from minixception.bench.training import random_batch

NETWORKS = {
    "mini_xception": lambda: mx.models.mini_xception(10),
    "Xception": lambda: mx.models.Xception(input_shape=(96, 96, 3)),
}


def main() -> int:
    """Build each peer beside each network, compare the results, and say by how much they differ."""
    threads, wrong = numba.get_num_threads(), 0
    for network, make in NETWORKS.items():
        for name, peer in peers.installed(peers.INFERENCE, print).items():
            wrong += not compared(f"{network}, {name}", make, {name: peer}, threads, training=False)
        for name, peer in peers.installed(peers.TRAINING, print).items():
            wrong += not compared(f"{network}, {name}, a training step", make, {name: peer}, threads, training=True)
    return int(wrong > 0)


def compared(what: str, make, peer: dict, threads: int, training: bool) -> bool:
    """Whether they are equal, as ``bench`` sees it."""
    mx.seed(0)
    model = make()
    x, labels = random_batch(model, 4)  # with more, rounding may open a ReLU for one side and not for the other
    try:
        if training:
            _, differences = models._training(model, x, threads, peer, lambda line: None, "cpu", labels)
        else:
            _, differences = models._inference(model, x, threads, peer, lambda line: None, "cpu")
    except Exception as error:
        print(f"{what}: {type(error).__name__}: {error}")
        return False
    print(f"{what}: equal, {', '.join(f'{name} {difference:.1e}' for name, difference in differences.items())}")
    return True


if __name__ == "__main__":
    raise SystemExit(main())
