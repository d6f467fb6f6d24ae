"""The command line: minixception demo | train | evaluate | summary | cost | bench | gradcheck | doctor | warmup."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from . import __version__, cost
from .errors import ArgumentError, DataError, GradientError
from .tables import Table


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status: 0, 1 (a check failed), 2 (bad input) or 130 (Ctrl-C)."""
    options = _parser().parse_args(arguments)
    command: Callable[[argparse.Namespace], int] = options.command
    try:
        return command(options)
    except KeyboardInterrupt:
        print("minixception: stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of a pipe (head, less) went away
        sys.stderr.close()
        return 0
    except (ValueError, OSError) as error:
        print(f"minixception: error: {error}", file=sys.stderr)
        return 2


# Commands -----------------------------------------------------------------------------------------------------------


def _demo(options: argparse.Namespace) -> int:
    from .demo import run

    run(options.out)
    return 0


def _train(options: argparse.Namespace) -> int:
    from .data import load
    from .training import RECIPES, Interrupted, Trainer, read_checkpoint
    from .training.trainer import CHECKPOINT

    name = options.recipe or "cifar10"
    folder = options.out or Path("runs") / name
    resumes_its_own = options.resume and not options.recipe
    recipe = read_checkpoint(folder / CHECKPOINT).recipe if resumes_its_own else RECIPES[name]
    changes = {
        name: value
        for name in ("data", "epochs", "batch_size", "lr", "seed")
        if (value := getattr(options, name)) is not None
    }
    recipe = replace(recipe, **changes)
    train, test = load(recipe.data, "train", seed=recipe.seed), load(recipe.data, "test", seed=recipe.seed)
    trainer = Trainer(recipe, train, test, folder, resume=options.resume)
    parameters = trainer.model.num_parameters(trainable=True)
    print(f"{len(train):,} training and {len(test):,} test images, {parameters:,} parameters, run in {folder}")
    try:
        records = trainer.run()
    except Interrupted:
        done = trainer.progress
        print(
            f"stopped in epoch {done.epoch + 1} after step {done.step} of {trainer.steps}; "
            f"go on with: minixception train --out {folder} --resume",
            file=sys.stderr,
        )
        return 130
    print(f"test top-1 {records[-1]['test_top1']:.2%} after {len(records)} epochs; log: {folder / 'log.jsonl'}")
    return 0


def _evaluate(options: argparse.Namespace) -> int:
    from .data import load
    from .optim import EMA
    from .training import evaluate, read_checkpoint
    from .training.trainer import CHECKPOINT

    path = options.run / CHECKPOINT if options.run.is_dir() else options.run
    checkpoint = read_checkpoint(path)
    recipe = checkpoint.recipe
    dataset = load(options.data or recipe.data, options.split, seed=recipe.seed)
    if dataset.class_names != checkpoint.class_names:
        expected, got = ", ".join(checkpoint.class_names), ", ".join(dataset.class_names)
        raise DataError(f"{path} was trained on the classes {expected}; the data has {got}")
    model = recipe.make_model(len(checkpoint.class_names), checkpoint.image_shape)
    model.load_state_dict(checkpoint.parts["model"])
    ema = EMA([t for _, t in model.named_tensors()], recipe.ema_decay)
    ema.load_state_dict(checkpoint.parts["ema"])
    with ema.averaged():
        result = evaluate(model, dataset, recipe.batch_size)
    rows = [(name, f"{value:.4f}") for name, value in result.items()]
    _show(options, {"images": len(dataset), **result}, Table(("measure", f"{len(dataset):,} images"), rows))
    return 0


def _summary(options: argparse.Namespace) -> int:
    table = cost.table(*_model(options))
    _show(options, table.to_json(), table)
    return 0


def _cost(options: argparse.Namespace) -> int:
    model, input_shape = _model(options)
    table, others = cost.table(model, input_shape), cost.alternatives(model, input_shape)
    text = f"{table}\n\nIts separable convolutions in other forms\n{cost.alternatives_table(others)}"
    _show(options, table.to_json() | {"alternatives": [asdict(row) for row in others]}, text)
    return 0


def _bench(options: argparse.Namespace) -> int:
    from .bench.command import run
    from .bench.malloc import rerun_tuned
    from .bench.peers import versioned
    from .bench.results import machine, write_result
    from .files import atomic_path

    if options.figure and options.what == "models":
        raise ArgumentError("--figure draws operators: use it with --what kernels or --what all")
    threads = list(dict.fromkeys(options.threads))
    measured = ["--what", options.what, "--threads", *map(str, threads), "--repeats", str(options.repeats)]
    measured.append("--peers" if options.peers else "--no-peers")
    if options.malloc == "tuned" and machine()["malloc"] != "tuned":
        paths = {"--out": options.out, "--figure": options.figure}
        written = [text for name, path in paths.items() if path for text in (name, str(path))]
        return rerun_tuned(["bench", *measured, *written, "--malloc", "tuned", *["--json"] * options.json])
    try:
        report = run(options.what, threads, options.repeats, options.peers)
    except ArithmeticError as error:  # a peer computes something else
        print(f"minixception: {error}", file=sys.stderr)
        return 1
    figures = report.to_json()
    if options.out:
        command = " ".join(["minixception bench", *measured, "--malloc", machine()["malloc"]])
        write_result(options.out, command, {"seed": 0, "repeats": options.repeats, **figures}, versioned())
    if options.figure:
        with atomic_path(options.figure) as temporary:
            report.figure().savefig(temporary, format="svg", metadata={"Date": None})
    _show(options, {"machine": machine(), **figures}, report)
    return 0


def _gradcheck(options: argparse.Namespace) -> int:
    import numpy as np

    from .backend import use_backend
    from .gradcheck import gradcheck
    from .op import RandomDraw
    from .ops import OPERATORS
    from .tensor import Tensor

    rows, failed = [], False
    for name in [options.operator] if options.operator else OPERATORS:
        op = OPERATORS[name]
        for backend in op.rungs:
            problem = ""
            for seed in range(options.cases):
                case = op.sample(RandomDraw(seed))
                y, saved = op.rungs["numpy"].forward(*case.arrays, **case.params)
                gradients = op.rungs["numpy"].backward(np.ones_like(y), saved)
                inputs = [Tensor(a, g is not None) for a, g in zip(case.arrays, gradients, strict=True)]
                try:
                    with use_backend(backend):
                        gradcheck(lambda *xs, op=op, case=case: op(*xs, **case.params), inputs, seed=seed)
                except GradientError as error:
                    problem, failed = str(error), True
                    break
            rows.append((name, backend, options.cases, problem or "agrees with finite differences"))
    fields = ("operator", "rung", "cases", "result")
    _show(options, [dict(zip(fields, row, strict=True)) for row in rows], Table(fields, rows))
    return int(failed)


def _doctor(options: argparse.Namespace) -> int:
    from .doctor import examine

    report = examine()
    _show(options, report.to_json(), report)
    return 0


def _warmup(options: argparse.Namespace) -> int:
    from .warmup import warmup

    dtypes = ("float32", "float64") if options.all else ("float32",)
    rows = warmup(dtypes, ("loops", "cpu") if options.all else ("cpu",))
    fields = ("operator", "rung", "dtype", "seconds")
    _show(options, [dict(zip(fields, row, strict=True)) for row in rows], Table(fields, rows))
    return 0


def _show(options: argparse.Namespace, data: Any, text: Any) -> None:
    print(json.dumps(data, indent=2) if options.json else text)


def _model(options: argparse.Namespace) -> tuple[Any, tuple[int, int, int]]:
    from .models import Xception, mini_xception

    size = options.size or {"xception": 299, "mini_xception": 32}[options.model]
    shape = (size, size, 3)
    return (Xception(input_shape=shape) if options.model == "xception" else mini_xception(input_shape=shape)), shape


# Options ------------------------------------------------------------------------------------------------------------


def _positive(text: str) -> int:
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text}")
    return number


def _threads() -> list[int]:
    from numba import config

    return [1, config.NUMBA_NUM_THREADS]


def _parser() -> argparse.ArgumentParser:
    from .ops import OPERATORS
    from .training import RECIPES

    parser = argparse.ArgumentParser(prog="minixception", description="Xception from scratch in NumPy and Numba.")
    parser.add_argument("--version", action="version", version=f"minixception {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, command: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        sub.set_defaults(command=command)
        return sub

    demo = add(
        "demo",
        _demo,
        "train a small Xception on drawn pictures, in a minute or two, and show what it learned",
    )
    demo.add_argument("--out", type=Path, default=Path("runs/demo"), metavar="DIR", help="default: %(default)s")

    train = add("train", _train, "train a small Xception by a recipe; stop with Ctrl-C, go on with --resume")
    train.add_argument("--recipe", choices=RECIPES, help="default: cifar10, or with --resume the run's own")
    train.add_argument("--data", metavar="SPEC", help="shapes, cifar10, cifar10:FOLDER or folder:PATH")
    train.add_argument("--out", type=Path, metavar="DIR", help="checkpoint and log; default: runs/RECIPE")
    train.add_argument("--epochs", type=int)
    train.add_argument("--batch-size", type=int)
    train.add_argument("--lr", type=float)
    train.add_argument("--seed", type=int)
    train.add_argument("--resume", action="store_true", help="go on from the checkpoint in --out")

    evaluate = add("evaluate", _evaluate, "loss and accuracy of a trained run")
    evaluate.add_argument("run", type=Path, metavar="RUN", help="a folder that train wrote, or its checkpoint")
    evaluate.add_argument("--data", metavar="SPEC", help="default: what the run was trained on")
    evaluate.add_argument("--split", choices=("train", "test"), default="test", help="default: %(default)s")

    summary = add("summary", _summary, "the layers of a network: shapes, parameters, MACs")
    costs = add("cost", _cost, "the same, beside regular and Inception-style convolutions")
    for sub in (summary, costs):
        sub.add_argument("model", nargs="?", choices=("xception", "mini_xception"), default="xception")
        sub.add_argument("--size", type=_positive, metavar="PIXELS", help="height and width of the input")

    bench = add("bench", _bench, "time operators and networks beside the machine's limits and other libraries")
    bench.add_argument("--what", choices=("kernels", "models", "all"), default="all", help="default: %(default)s")
    bench.add_argument(
        "--threads", type=_positive, nargs="+", default=_threads(), metavar="N", help="default: 1, and all there are"
    )
    bench.add_argument("--repeats", type=_positive, default=15, metavar="N", help="default: %(default)s")
    bench.add_argument(
        "--peers",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="time PyTorch, ONNX Runtime, OpenVINO, TensorFlow where they are installed beside our own; default: yes",
    )
    bench.add_argument("--out", type=Path, metavar="FILE", help="result file (JSON) with machine, versions and date")
    bench.add_argument("--figure", type=Path, metavar="FILE", help="the operators under the roofline, as SVG")
    bench.add_argument(
        "--malloc",
        choices=("default", "tuned"),
        default="default",
        help="tuned: measure in a new process whose malloc keeps large buffers (glibc only), which helps the others",
    )

    gradients = add("gradcheck", _gradcheck, "hold every operator's gradient to finite differences")
    gradients.add_argument("operator", nargs="?", choices=OPERATORS, metavar="OPERATOR", help="default: all")
    gradients.add_argument("--cases", type=_positive, default=3, help="random cases per rung; default: %(default)s")

    doctor = add("doctor", _doctor, "what this machine offers, and what to do next")
    warm = add("warmup", _warmup, "compile all kernels now, so that nothing waits later")
    warm.add_argument("--all", action="store_true", help="float64 and the loops rung too")

    for sub in (evaluate, summary, costs, bench, gradients, doctor, warm):
        sub.add_argument("--json", action="store_true", help="print JSON instead of a table")
    return parser


if __name__ == "__main__":
    sys.exit(main())
