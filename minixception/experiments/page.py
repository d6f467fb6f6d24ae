"""``python -m minixception.experiments.page PAGE``: the page of all experiments, and their figures, from their files.

A verdict says whether the interval of a difference leaves out zero, and no more than that.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain, repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .. import viz
from ..files import atomic_path
from ..tables import Table
from .table import EXPERIMENTS

if TYPE_CHECKING:
    from ..viz.style import VectorFigure

Result = Mapping[str, Any]
VERDICT = ("first - second", "points", "95 % interval", "seeds", "separated")

_HEAD = """# What is it worth?

Small networks that differ in one thing, trained with several seeds, and what the paper says. Nothing here is typed in
by hand: `python -m minixception.experiments.page docs/results/experiments.md` writes this page and its figures from the
JSON files beside it, which name machine, versions, seeds, recipes and every epoch, and which `python -m
minixception.experiments NAME docs/results/NAME.json --data cifar10:FOLDER` writes (no `--data` for what is drawn).
Runs of one seed begin with the same random numbers and see the same pictures in the same order. A difference is the
mean over the seeds, in points of accuracy, with its 95 % interval (Student's, of paired differences); it is separated
if the interval leaves out zero. That says something about these networks, this recipe and these pictures. Minutes are
of one core of a machine that did other things, too: they are no benchmark.
"""


def page(folder: Path) -> str:
    """The whole page, from the files in the folder."""
    results = {name: _read(folder, name) for name in EXPERIMENTS}
    known = {name: result for name, result in results.items() if result}
    rows = []
    for name, result in known.items():
        claims = chain((EXPERIMENTS[name].claim,), repeat(""))
        rows += [(claim, *verdict) for claim, verdict in zip(claims, verdicts(result), strict=False)]
    table = Table(("the paper", *VERDICT), rows).markdown()
    missing = [name for name in EXPERIMENTS if name not in known]
    rest = f"\nNot begun: {', '.join(missing)}.\n" if missing else ""
    return "\n".join([_HEAD, f"## Verdicts\n\n{table}\n{rest}", *(_section(*item) for item in known.items())])


def verdicts(result: Result) -> list[tuple[str, str, str, int, str]]:
    """A row for each pair of designs that were compared, as ``VERDICT`` names its cells."""
    return [
        (
            pair,
            f"{one['mean']:+.2f}",
            f"{one['low']:+.2f} to {one['high']:+.2f}",
            one["pairs"],
            "yes" if one["separated"] else "no",
        )
        for pair, one in result["verdicts"].items()
    ]


def figures(folder: Path) -> Iterator[tuple[str, VectorFigure]]:
    """(name, figure) of each that can be drawn from the files in the folder."""
    for name, (experiments, draw) in FIGURES.items():
        results = [_read(folder, one) for one in experiments]
        if any(results):
            yield name, draw(*results)


def _read(folder: Path, name: str) -> Result:
    path = folder / f"{name}.json"
    return json.loads(path.read_text("utf-8")) if path.exists() else {}


def _section(name: str, result: Result) -> str:
    """Each design of an experiment with its costs and its accuracies."""
    experiment = EXPERIMENTS[name]
    trained = dict(_trained(result, experiment.task.score))
    rows = []
    for label, design in result["designs"].items():
        logs = list(result["runs"].get(label, {}).values())
        low, median, high = 100 * np.quantile(trained.get(label, [np.nan]), (0, 0.5, 1))
        accuracy = f"{median:.2f} ({low:.2f} to {high:.2f})" if logs else "not trained yet"
        costs = design["parameters"], f"{design['macs'] / 1e6:.2f}", len(logs[0]) if logs else ""
        rows.append((label, *costs, f"{minutes(logs):.1f}" if logs else "", len(logs), accuracy))
    header = (
        "network",
        "parameters",
        "million MACs",
        "epochs",
        "minutes",
        "seeds",
        f"{experiment.task.called}, %, median and range",
    )
    pictures = "".join(f"\n![{name}]({figure}.svg)\n" for figure, (needed, _) in FIGURES.items() if name == needed[-1])
    done, all_of_them = sum(map(len, result["runs"].values())), len(result["seeds"]) * len(rows)
    head = f"## {name}\n\n{experiment.claim}.\n\n{done} of {all_of_them} runs, {result['hours']:.1f} hours."
    return f"{head}\n\n{Table(header, rows).markdown()}\n{pictures}"


def minutes(logs: Sequence[Sequence[Mapping[str, Any]]]) -> float:
    """Of training, for the median seed."""
    return float(np.median([sum(record["seconds"] for record in log) for log in logs])) / 60


def epochs(
    result: Result, labels: Iterable[str], measures: Sequence[str] = ("train_loss", "test_top1")
) -> VectorFigure:
    """Some of an experiment's networks, epoch by epoch: median and range over the seeds."""
    return viz.training_bands({label: list(result["runs"][label].values()) for label in labels}, measures)


# Figures --------------------------------------------------------------------------------------------------------------


def _forms(result: Result) -> VectorFigure:
    """Accuracy over parameters, MACs and time of training; more epochs belong to the time alone."""
    points = []
    for label, accuracies in _trained(result, "test_top1"):
        design, form = result["designs"][label], label.partition(",")[0]
        costs = {
            "parameters (thousands)": design["parameters"] / 1e3,
            "MACs for one image (millions)": design["macs"] / 1e6,
            "training on one core (minutes)": minutes(list(result["runs"][label].values())),
        }
        shown = [panel for panel in costs if "time" not in label or "minutes" in panel]
        points += [viz.TrainedPoint(panel, form, costs[panel], accuracies) for panel in shown]
    return viz.accuracy_bands(points)


def _spectrum(*results: Result) -> VectorFigure:
    """Accuracy along the number of segments."""
    lines = zip(("at equal width", "at equal parameters"), results, strict=True)
    return viz.accuracy_bands(
        [
            viz.TrainedPoint("segments of the 3x3 convolution", line, label.removesuffix(" segments"), accuracies)
            for line, result in lines
            for label, accuracies in _trained(result, "test_top1")
        ]
    )


def _depth(result: Result) -> VectorFigure:
    points = []
    for label, accuracies in _trained(result, "test_top1"):
        form, _, depth = label.partition(", ")
        points.append(
            viz.TrainedPoint("middle blocks of three convolutions", form, depth.partition(" ")[0], accuracies)
        )
    return viz.accuracy_bands(points)


def _many_labels(result: Result) -> VectorFigure:
    points = []
    for label, accuracies in _trained(result, "test_map"):
        form, _, head = label.partition(", ")
        points.append(viz.TrainedPoint("head", form, head or "logits alone", accuracies))
    return viz.accuracy_bands(points, EXPERIMENTS["many_labels"].task.called)


def _epochs(result: Result) -> VectorFigure:
    return epochs(result, result["runs"])


def _trained(result: Result, score: str) -> Iterator[tuple[str, list[float]]]:
    """(label, the score of each seed at its last epoch) of the designs that have been trained: none of no result."""
    for label in result.get("designs", ()):
        if logs := result["runs"].get(label):
            yield label, [log[-1][score] for log in logs.values()]


class Figure(NamedTuple):
    """How a figure is drawn from the results of its experiments, of which one may not have been begun."""

    experiments: tuple[str, ...]
    draw: Callable[..., VectorFigure]


FIGURES = {
    "worth_forms": Figure(("forms",), _forms),
    "worth_full_size": Figure(("full_size",), _forms),
    "worth_spectrum": Figure(("equal_width", "equal_parameters"), _spectrum),
    "worth_shortcuts": Figure(("shortcuts",), _epochs),
    "worth_between": Figure(("between",), _epochs),
    "worth_recipe": Figure(("recipe",), _epochs),
    "worth_depth": Figure(("depth",), _depth),
    "worth_many_labels": Figure(("many_labels",), _many_labels),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the page and the figures beside it."""
    parser = argparse.ArgumentParser(prog="python -m minixception.experiments.page", description=__doc__)
    parser.add_argument("out", type=Path, help="the page, beside the result files")
    out = parser.parse_args(arguments).out
    for name, figure in figures(out.parent):
        figure.save(out.with_name(f"{name}.svg"))
    with atomic_path(out) as temporary:
        temporary.write_text(page(out.parent), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
