"""The figures of the course by name: those that follow from the package, and those drawn from result files."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import nn, viz
from ..analysis.memory_trace import trace
from ..bench.command import Report
from ..bench.kernels import WORKLOADS
from ..bench.results import results_folder
from ..data import load, preprocess
from ..engine.random import generator, seed
from ..engine.tape import no_grad
from ..engine.tensor import Tensor
from ..errors import DataError
from ..experiments import page
from ..graph import cost
from ..models import Xception, mini_xception
from ..ops.window import Padding

if TYPE_CHECKING:
    from ..viz.style import VectorFigure

RESULTS = results_folder()


@dataclass(frozen=True)
class Entry:
    """A figure: its name, what it shows, and how it is drawn, from the content of its result file if it has one."""

    name: str
    shows: str
    draw: Callable[..., VectorFigure]
    result: str | None = None

    def picture(self, results: Path = RESULTS) -> VectorFigure:
        """Draw it. results: the folder of its result file. Raises DataError if that is missing or corrupt."""
        if self.result is None:
            return self.draw()
        path = results / self.result
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise DataError(f"{path} is not a JSON file that can be read: {error}") from error
        try:
            return self.draw(content)
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{path} is not what {self.name!r} is drawn from: {error}") from error


def entries() -> list[Entry]:
    """All figures, in the order of the course."""
    padding: list[tuple[int, Padding]] = [(1, "same"), (1, "valid"), (2, "same"), (2, "valid")]
    extra: list[tuple[int, Padding]] = [(2, "same"), (2, 1)]  # the second as PyTorch does it
    strips = partial(viz.padding_strips, 6, 3)
    block = "one CUDA block of depthwise"
    bands = "residual or not, an activation in between or not: median and range of several seeds"
    rows: list[tuple[Any, ...]] = [
        ("figure1", "a canonical Inception module (figure 1 of the paper)", partial(_inception, 1)),
        ("figure2", "the simplified Inception module (figure 2)", partial(_inception, 2)),
        ("figure3", "its equivalent form: one 1x1 convolution, then segments (figure 3)", partial(_inception, 3)),
        ("figure4", "the extreme form: a segment for each channel (figure 4)", _extreme),
        ("figure5", "Xception from the model object (figure 5)", lambda: viz.architecture(Xception())),
        (
            "spectrum",
            "parameters and MACs from g = 1 to g = c segments",
            partial(viz.spectrum_costs, 192, 192, (28, 28)),
        ),
        ("layers", "MACs and parameters of Xception, layer by layer", lambda: viz.layer_costs(Xception())),
        ("zoo", "published accuracy over parameters and MACs", lambda: viz.accuracy_costs(viz.zoo_points())),
        ("padding", "padding and window positions along a row of pixels", partial(strips, padding)),
        ("padding-extra", "where the extra pixel goes, beside PyTorch's padding", partial(strips, extra)),
        ("windows", "the window of every output of a small image", lambda: viz.window_frames((5, 5), 3, 2, "same")),
        ("feature-maps", "what an untrained mini_xception makes of a picture", _feature_maps),
        ("tape", "the tape of a residual block", _tape),
        ("threads-naive", f"a thread per output: {block}", partial(_threads, "cuda_naive", 16, 1)),
        ("threads-tiled", f"a tile in shared memory: {block}", partial(_threads, "cuda_tiled", 24, 3)),
        ("convolutions", "three forms of a convolution: cost and time", _convolutions, "bench_kernels.json"),
        ("roofline", "operators under the roofline", _roofline, "bench_kernels.json"),
        ("ladder", "every rung of the ladder under the roofline", _ladder, "ladder.json"),
        ("training", "loss and accuracy of a training run", _training, "cifar10.json"),
        ("training-bands", f"{bands} (drawn pictures)", _bands, "drawn.json"),
        (
            "worth",
            "what three forms are worth: accuracy over parameters, MACs and time",
            page.FIGURES["worth_forms"].draw,
            "forms.json",
        ),
    ]
    return [Entry(*row) for row in rows]


def draw_all(results: Path = RESULTS) -> Iterator[tuple[Entry, VectorFigure | str]]:
    """Each figure, or why it was left out. results: the folder of result files. Raises DataError for a corrupt one."""
    for entry in entries():
        if entry.result and not (results / entry.result).exists():
            yield entry, f"it needs {entry.result}, which is not in the folder of results"
        else:
            yield entry, entry.picture(results)


# Drawn from the package -----------------------------------------------------------------------------------------------


def _inception(form: int) -> VectorFigure:
    names = {1: "an Inception module", 2: "simplified", 3: "an equivalent form of figure 2"}
    return viz.module(nn.InceptionModule(192, 240, form), (35, 35, 192), f"Figure {form}: {names[form]}")


def _extreme() -> VectorFigure:
    convolution = nn.SpectrumConv2d(192, 240, 3, segments=240)
    return viz.module(convolution, (35, 35, 192), "Figure 4: a segment for each channel")


def _feature_maps() -> VectorFigure:
    before = generator().bit_generator.state
    seed(0)
    model = mini_xception()
    generator().bit_generator.state = before
    with model.inference(), no_grad():
        maps = model.children()["block1"](Tensor(preprocess(load("shapes", "test").images[:1]))).numpy()[0]  # (h, w, c)
    return viz.feature_maps(maps, "mini_xception, untrained: block1 on a picture of the built-in set")


def _tape() -> VectorFigure:
    x = Tensor(np.ones((1, 19, 19, 8), np.float32), requires_grad=True)
    block = nn.Residual(act=nn.Activation("relu"), sepconv=nn.SeparableConv2d(8, 8), bn=nn.BatchNorm2d(8))
    return viz.graph(block(x), {"x": x, "block": block})


def _threads(rung: str, side: int, blocks: int) -> VectorFigure:
    return trace("depthwise_conv2d", rung, shape=(1, side, side, 32), blocks=blocks).figure()


# Drawn from results ---------------------------------------------------------------------------------------------------


def _convolutions(result: Mapping[str, Any]) -> VectorFigure:
    rows = Report.from_json(result).kernels
    most = max(row.threads for row in rows)
    times = {row.name: row.ours for row in rows if row.threads == most and row.direction == "forward"}
    forms = {work.name.partition(" ")[0]: work for work in WORKLOADS}
    costs = []
    for form in ("regular", "Inception-style", "separable"):
        work = forms[form]
        table = cost.table(work.module(), work.x[1:])
        costs.append(viz.ConvolutionCost(form, table.params, table.macs, times[work.name]))
    return viz.convolution_costs(costs)


def _roofline(result: Mapping[str, Any]) -> VectorFigure:
    return Report.from_json(result).figure()


def _ladder(result: Mapping[str, Any]) -> VectorFigure:
    return viz.roofline(*viz.ladder_points(result))


def _training(result: Mapping[str, Any]) -> VectorFigure:
    return viz.training_curves(result["epochs"])


def _bands(result: Mapping[str, Any]) -> VectorFigure:
    names = "baseline", "no residual connections", "ReLU in between", "ELU in between"  # figures 9 and 10 of the paper
    return page.epochs(result, names)
