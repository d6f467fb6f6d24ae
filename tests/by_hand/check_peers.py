"""Whether the peers that are installed compute what we do: python -m tests.by_hand.check_peers

``minixception bench`` refuses to time what is not equal, on networks of full size; this asks in some minutes, on small
ones, after a layer has got a new setting, say. Nothing is timed. Exit status 1 if a peer differs or cannot be built.
"""

from __future__ import annotations

from functools import partial

import numba
from tqdm import tqdm

import minixception as mx
from minixception.bench import models, peers
from minixception.bench.apart import Apart
from minixception.bench.contestants import Workload, ours

NETWORKS = {
    "mini_xception": partial(mx.models.mini_xception, 10),
    "Xception": partial(mx.models.Xception, input_shape=(96, 96, 3)),
}


def main() -> int:
    """Build each peer beside each network, compare the results, and say by how much they differ."""
    wrong = 0
    for name, model in NETWORKS.items():
        for training, kind in ((False, peers.INFERENCE), (True, peers.TRAINING)):
            workload = Workload(name, model, 4, training)
            for who, peer in peers.installed(kind, print).items():
                wrong += not compared(f"{name}, {who}{', a training step' if training else ''}", workload, {who: peer})
    return int(wrong > 0)


def compared(what: str, workload: Workload, peer: dict) -> bool:
    """Whether they are equal, as ``bench`` sees it."""
    first = dict([next(iter(ours(workload.training).items()))])
    with tqdm(disable=True) as bar:
        try:
            with models.equal(workload, numba.get_num_threads(), first | peer, bar, Apart) as (running, differences):
                missing = peer.keys() - running
        except (ArithmeticError, ChildProcessError) as error:
            print(f"{what}: {type(error).__name__}: {error}", flush=True)
            return False
    if missing:  # why has been said
        print(f"{what}: not built", flush=True)
        return False
    print(f"{what}: equal, {', '.join(f'{who} {value:.1e}' for who, value in differences.items())}", flush=True)
    return True


if __name__ == "__main__":
    raise SystemExit(main())
