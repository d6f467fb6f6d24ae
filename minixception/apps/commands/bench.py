"""minixception bench: operators, layers and networks beside the limits and other libraries, on the CPU or on a GPU."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ...errors import ArgumentError
from ...files import atomic_path
from .common import Add, add_json, check_outputs, positive, show


def register(add: Add) -> None:
    """The command and its options."""
    parser = add("bench", run, "time operators and networks beside the machine's limits and other libraries")
    parser.add_argument(
        "--what",
        choices=("kernels", "spectrum", "layers", "models", "all"),
        default="all",
        help="spectrum: a convolution in 1 to 192 segments of channels; layers: each step of the compiled Xception, "
        "with the time it takes above its limit; default: %(default)s",
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="default: %(default)s")
    parser.add_argument(
        "--threads", type=positive, nargs="+", default=_threads(), metavar="N", help="default: 1, and all there are"
    )
    parser.add_argument("--repeats", type=positive, default=15, metavar="N", help="default: %(default)s")
    parser.add_argument(
        "--peers",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="time PyTorch, ONNX Runtime, OpenVINO, TensorFlow where they are installed beside our own (on a GPU, "
        "PyTorch with CUDA); default: yes",
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="result file (JSON) with machine, versions and date")
    parser.add_argument(
        "--figure", type=Path, metavar="FILE", help="the operators under the roofline, or the spectrum, as SVG"
    )
    parser.add_argument(
        "--malloc",
        choices=("default", "tuned"),
        default="default",
        help="tuned: measure in a new process whose malloc keeps large buffers (glibc only), which helps the others",
    )
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Measure, print, and write the files asked for; 1 where a result is not equal to another's."""
    check_outputs(options.out, options.figure)
    try:
        return _on_gpu(options) if options.device == "cuda" else _on_cpu(options)
    except ArithmeticError as error:
        print(f"minixception: {error}", file=sys.stderr)
        return 1


def _on_cpu(options: argparse.Namespace) -> int:
    from ...bench import command
    from ...bench.malloc import rerun_tuned
    from ...bench.peers import versioned
    from ...bench.results import machine, write_result

    if options.figure and options.what in ("layers", "models"):
        raise ArgumentError("--figure draws operators: use it with --what kernels, spectrum or all")
    threads = list(dict.fromkeys(options.threads))
    measured = ["--what", options.what, "--threads", *map(str, threads), "--repeats", str(options.repeats)]
    measured.append("--peers" if options.peers else "--no-peers")
    if options.malloc == "tuned" and machine()["malloc"] != "tuned":
        paths = {"--out": options.out, "--figure": options.figure}
        written = [text for name, path in paths.items() if path for text in (name, str(path))]
        return rerun_tuned(["bench", *measured, *written, "--malloc", "tuned", *["--json"] * options.json])
    report = command.run(options.what, threads, options.repeats, options.peers)
    figures = report.to_json()
    if options.out:
        written_by = " ".join(["minixception bench", *measured, "--malloc", machine()["malloc"]])
        write_result(options.out, written_by, {"seed": 0, "repeats": options.repeats, **figures}, versioned())
    if options.figure:
        with atomic_path(options.figure) as temporary:
            report.figure().savefig(temporary, format="svg", metadata={"Date": None})
    show(options, {"machine": machine(), **figures}, report)
    return 0


def _on_gpu(options: argparse.Namespace) -> int:
    from ...bench.cuda import command
    from ...bench.peers import versioned
    from ...bench.results import machine, write_result

    if options.figure or options.malloc == "tuned":
        raise ArgumentError("--figure and --malloc are about the CPU: leave them out with --device cuda")
    if options.what in ("layers", "spectrum"):
        raise ArgumentError(f"--what {options.what} is about the CPU: with --device cuda there are kernels and models")
    peers = "--peers" if options.peers else "--no-peers"
    written_by = f"minixception bench --device cuda --what {options.what} --repeats {options.repeats} {peers}"

    def keep(report: command.GpuReport) -> None:
        if options.out:
            figures = {"seed": 0, "repeats": options.repeats, **report.to_json()}
            write_result(options.out, written_by, figures, versioned())

    report = command.run(options.what, options.repeats, options.peers, keep)
    show(options, {"machine": machine(), **report.to_json()}, report)
    return int(bool(report.wrong))


def _threads() -> list[int]:
    from numba import config

    return [1, config.NUMBA_NUM_THREADS]
