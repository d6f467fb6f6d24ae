"""minixception plan: what training would take in many processes, from a measurement in one."""

from __future__ import annotations

import argparse
import math

import numba

from ...bench.scaling import IMAGENET, Measured, Row, scaling
from ...cluster.plan import Link
from ...models import MODELS
from ...tables import Table
from .common import Add, add_json, add_model, positive, show


def register(add: Add) -> None:
    """The command and its options."""
    parser = add("plan", run, "what training would take in many processes, predicted from a measurement in this one")
    add_model(parser, default="xception", help=f"{', '.join(MODELS)}; default: %(default)s")
    parser.add_argument("--size", type=positive, metavar="PIXELS", help="height and width; default: the network's own")
    parser.add_argument(
        "--processes", type=_counts, default="1..1024", metavar="N..M", help="doubling, or one; default: %(default)s"
    )
    parser.add_argument("--images", type=positive, default=4, metavar="N", help="in a shard; default: %(default)s")
    parser.add_argument("--shards", type=positive, metavar="N", help="in a step; default: one for each process")
    parser.add_argument("--threads", type=positive, metavar="N", help="of a process; default: all of this machine")
    parser.add_argument("--bandwidth", type=float, default=10e9, metavar="B", help="bytes/s; default: %(default).0e")
    parser.add_argument("--latency", type=float, default=2e-6, metavar="S", help="seconds; default: %(default).0e")
    parser.add_argument("--epoch", type=positive, default=IMAGENET, metavar="N", help="images; default: ImageNet's")
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Measure a few steps, and print a row for each number of processes."""
    if options.threads:
        numba.set_num_threads(options.threads)
    shape = {} if options.size is None else {"input_shape": (options.size, options.size, 3)}
    measured = Measured(MODELS[options.model](**shape), options.images)
    counts = [count for count in options.processes if count <= (options.shards or math.inf)]
    link = Link(options.bandwidth, options.latency)
    rows = scaling(measured, counts, link, options.shards, options.epoch)
    work = measured.work
    words = (
        f"Measured here, with {measured.threads} thread{'s' * (measured.threads > 1)}: {options.images} images forward "
        f"and backward in {1e3 * (work.forward + work.backward):,.1f} ms, the update in {1e3 * work.update:,.1f} ms; "
        f"{sum(work.buckets) / 1e6:,.1f} MB of gradients in {len(work.buckets)} buckets"
    )
    table = Table(_HEADER, [_cells(row) for row in rows])
    show(options, {"measured": work._asdict(), "rows": [row._asdict() for row in rows]}, f"{words}\n\n{table}")
    return 0


_HEADER = (
    "processes", "images", "step, ms", "communication, ms", "unhidden", "images/s", "efficiency", "GiB each",
    "epochs/day",
)  # fmt: skip


def _cells(row: Row) -> tuple[object, ...]:
    return (
        row.processes,
        row.images,
        f"{1e3 * row.step:,.1f}",
        f"{1e3 * row.communication:,.1f}",
        f"{row.exposed / row.step:.1%}",
        f"{row.images_per_second:,.1f}",
        f"{row.efficiency:.0%}",
        f"{row.memory / 2**30:.2f}",
        f"{row.epochs_per_day:.3g}",
    )


def _counts(text: str) -> list[int]:
    """1..1024 as 1, 2, 4, ... 1024."""
    first, _, last = text.partition("..")
    low, high = positive(first), positive(last or first)
    if high < low:
        raise argparse.ArgumentTypeError(f"expected N..M with N at most M, got {text}")
    doubled = [low << shift for shift in range(high.bit_length()) if low << shift < high]
    return [*doubled, high]
