"""Pictures: graphs that can be read, and figures that say what they were given and leave nothing behind."""

from __future__ import annotations

import io
import itertools
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
import pytest
from PIL import Image

import minixception as mx
from minixception import nn, viz
from minixception.errors import ArgumentError, DTypeError, GraphError, ShapeError
from minixception.timing import Timing
from minixception.viz import style
from tests.helpers.processes import python

SVG = "{http://www.w3.org/2000/svg}"


def image(*shape):
    return mx.tensor(np.ones(shape, np.float32), requires_grad=True)


def residual_block(channels=8):
    return nn.Residual(sepconv=nn.SeparableConv2d(channels, channels, relu=True), bn=nn.BatchNorm2d(channels))


def texts(picture):
    return [text.get_text() for text in picture.axes[0].texts]


def rectangles(picture):
    """(left, top, right, bottom) of every box."""
    boxes = [patch.get_bbox() for patch in picture.axes[0].patches if patch.get_gid() == "box"]
    return [(box.x0, box.y0, box.x1, box.y1) for box in boxes]


def arrows(picture):
    """The path of every arrow from a box to one below it."""
    return [patch._path_original for patch in picture.axes[0].patches if patch.get_gid() == "arrow"]


def test_a_graph_names_operators_shapes_leaves_and_parameters():
    x, block = image(2, 6, 6, 8), residual_block()
    picture = viz.graph(block(x), {"x": x, "block": block})
    shape = "(2, 6, 6, 8)"
    assert texts(picture) == [
        *("x", shape, "relu_separable_conv2d", shape, "batch_norm", shape, "add", shape),
        *("block.sepconv.depthwise (3, 3, 8)", "block.sepconv.pointwise (8, 8)"),
        *("block.bn.gamma (8,)", "block.bn.beta (8,)"),
    ]


def test_a_model_names_its_own_parameters_and_a_plain_input_is_not_on_the_tape():
    block = residual_block()
    words = texts(viz.graph(block(mx.tensor(np.ones((1, 4, 4, 8), np.float32))), block))
    assert "sepconv.depthwise (3, 3, 8)" in words
    assert "leaf" not in words


def test_without_names_leaves_are_leaves():
    words = texts(viz.graph(residual_block()(image(1, 4, 4, 8))))
    assert words.count("leaf") == 1
    assert words.count("parameter (8,)") == 2


def test_each_use_of_a_tensor_is_an_arrow():
    x = image(3)
    assert len(arrows(viz.graph(x * x))) == 2
    assert len(arrows(viz.graph(x * 2.0))) == 1


@pytest.mark.parametrize("form", [1, 2, 3])
def test_boxes_do_not_overlap_and_long_edges_go_around_them(form):
    x = image(1, 4, 4, 8)
    y = nn.Sequential(residual_block(), nn.InceptionModule(8, 12, form), nn.GlobalAvgPool())(x)
    picture = viz.graph((y * y).sum() + x.sum(), {"x": x})
    boxes = rectangles(picture)
    for (left, top, right, bottom), (left2, top2, right2, bottom2) in itertools.combinations(boxes, 2):
        assert right <= left2 or right2 <= left or bottom <= top2 or bottom2 <= top
    straight = [
        (x, y0, y1)
        for path in arrows(picture)
        for (_, y0), (x, y1), code in zip(path.vertices, path.vertices[1:], path.codes[1:], strict=False)
        if code == path.LINETO
    ]
    assert len(straight) > len(arrows(picture))  # a tip each, and the long ones
    for x_line, y0, y1 in straight:
        assert not any(left < x_line < right and top < y1 and y0 < bottom for left, top, right, bottom in boxes)


def test_a_chain_with_a_shortcut_is_straight():
    x, block = image(1, 4, 4, 8), residual_block()
    straight = [path for path in arrows(viz.graph(block(x))) if list(path.codes).count(path.LINETO) == 1]
    assert len(straight) == 3
    assert np.ptp(np.concatenate([path.vertices[:, 0] for path in straight])) < 1e-9


def test_what_two_equal_branches_share_stands_in_the_middle():
    x = image(3)
    leaf, relu, sigmoid, multiply = [
        (left + right) / 2 for left, _, right, _ in rectangles(viz.graph(mx.ops.relu(x) * mx.ops.sigmoid(x)))
    ]
    assert relu < sigmoid
    assert leaf == multiply == pytest.approx((relu + sigmoid) / 2)


def test_names_are_text_whatever_they_contain():
    x = image(2)
    name = "<script>alert('&')</script> $\\frac{1}$"
    picture = viz.graph(x + 1.0, {name: x})
    assert texts(picture)[0] == name
    assert "<script>" not in picture.svg()


def test_a_graph_can_be_drawn_after_backward():
    x = image(2)
    y = (x * x).sum()
    before = viz.graph(y).svg()
    y.backward()
    assert viz.graph(y).svg() == before


@pytest.mark.slow
def test_a_long_tape_needs_no_recursion():
    x = image(1)
    y = x
    for _ in range(1100):  # Python's limit is 1000
        y = y + 1.0
    figure = viz.graph(y)
    assert len(rectangles(figure)) == 1101
    png, sizes = figure._repr_png_()
    assert png.startswith(b"\x89PNG") and sizes["height"] > 50_000  # fewer pixels than that, or it could not be drawn


def test_tensors_without_a_tape_have_no_graph():
    x = image(2)
    with mx.no_grad():
        constant = x * 2.0
    for tensor in (x, constant, (x * 2.0).detach(), mx.tensor([1.0]) * 2.0):
        with pytest.raises(GraphError, match="no tape"):
            viz.graph(tensor)


def test_names_must_be_of_tensors_or_modules():
    x = image(2)
    with pytest.raises(ArgumentError, match="'x' is a ndarray"):
        viz.graph(x * x, {"x": x.data})


def test_a_saved_graph_is_what_the_notebook_shows(tmp_path):
    x = image(2)
    picture = viz.graph(x * x, {"α": x})
    picture.save(tmp_path / "graph.svg")
    assert (tmp_path / "graph.svg").read_text(encoding="utf-8") == picture.svg()
    assert [path.name for path in tmp_path.iterdir()] == ["graph.svg"]


# Figures ------------------------------------------------------------------------------------------------------------


def record(epoch, **changes):
    return {
        "epoch": epoch,
        "train_loss": 2 / epoch,
        "train_top1": 0.5,
        "test_loss": 3 / epoch,
        "test_top1": 0.25,
    } | changes


ROWS = [
    viz.ConvolutionCost("regular", 900, 90_000, Timing(0.006, 0.005, 0.008)),
    viz.ConvolutionCost("separable", 100, 10_000, Timing(0.002, 0.001, 0.003)),
]


def figures():
    images = np.zeros((7, 8, 8, 3), np.uint8)
    return {
        "curves": viz.training_curves([record(1), record(2)]),
        "samples": viz.sample_sheet(images, [("cat", "cat")] * 6 + [("cat", "dog")]),
        "costs": viz.convolution_costs(ROWS),
        "spectrum": viz.spectrum_costs(12, 12, (8, 8)),
    }


def test_training_curves_show_losses_and_percentages():
    loss, top1 = viz.training_curves([record(1), record(2, test_top1=0.75)]).axes
    train, test = loss.lines
    np.testing.assert_array_equal(train.get_xydata(), [[1, 2], [2, 1]])
    np.testing.assert_array_equal(test.get_xydata(), [[1, 3], [2, 1.5]])
    np.testing.assert_array_equal(top1.lines[1].get_ydata(), [25, 75])
    assert top1.get_title("left") == "Test accuracy at the end: 75.0%"
    assert train.get_linestyle() != test.get_linestyle()  # told apart without colour
    assert train.get_marker() != test.get_marker()


def test_a_mistake_is_marked_by_more_than_colour():
    right, wrong = viz.sample_sheet(np.zeros((2, 8, 8, 3), np.uint8), [("cat", "cat"), ("cat", "dog")]).axes
    assert (right.get_title("left"), right.get_xlabel()) == ("cat", "")
    assert (wrong.get_title("left"), wrong.get_xlabel()) == ("✗ cat", "true: dog")
    assert not right.spines["left"].get_visible()
    assert wrong.spines["left"].get_visible()


def test_a_sample_sheet_has_an_axes_per_image():
    assert len(figures()["samples"].axes) == 7


def test_convolution_costs_show_values_and_factors():
    params, macs, times = viz.convolution_costs(ROWS).axes
    assert [bar.get_width() for bar in params.patches] == [0.9, 0.1]
    assert [bar.get_width() for bar in macs.patches] == [0.09, 0.01]
    assert [text.get_text() for text in params.texts] == ["0.9  (9.0×)", "0.1  (1.0×)"]
    assert [text.get_text() for text in times.texts] == ["6  (3.0×)", "2  (1.0×)"]


@pytest.mark.parametrize(
    ("draw", "error", "message"),
    [
        (lambda: viz.training_curves([]), ArgumentError, "at least one epoch"),
        (lambda: viz.training_curves([{"epoch": 1, "train_loss": 1.0}]), ArgumentError, "train_top1, test_loss"),
        (lambda: viz.sample_sheet(np.zeros((2, 8, 8), np.uint8), []), ShapeError, r"\(n, h, w, 3\)"),
        (lambda: viz.sample_sheet(np.zeros((0, 8, 8, 3), np.uint8), []), ShapeError, "at least 1"),
        (lambda: viz.sample_sheet(np.zeros((1, 8, 8, 3)), [("a", "a")]), DTypeError, "uint8"),
        (lambda: viz.sample_sheet(np.zeros((2, 8, 8, 3), np.uint8), [("a", "a")]), ShapeError, "2 titles"),
        (lambda: viz.convolution_costs([]), ArgumentError, "at least one"),
    ],
)
def test_wrong_input_is_an_error_that_says_so(draw, error, message):
    with pytest.raises(error, match=message):
        draw()


def test_figures_look_the_same_whatever_the_caller_has_set():
    before = {name: figure.svg() for name, figure in figures().items()}
    drawn = {"font.size": 40, "figure.facecolor": "black", "axes.grid": True, "svg.fonttype": "none"}
    with mpl.rc_context(drawn | {"savefig.bbox": "tight", "savefig.facecolor": "black"}):
        after = {name: figure.svg() for name, figure in figures().items()}
    assert before == after
    for svg in before.values():
        assert ElementTree.fromstring(svg).tag == f"{SVG}svg"


def test_a_notebook_gets_twice_the_pixels_and_words_for_those_who_cannot_see_them():
    with style.canvas(4, 2) as (figure, axes):
        axes[0, 0].set(title="a title", xlabel="steps", ylabel="loss")
    png, shown = figure._repr_png_()
    assert shown == {"width": 384, "height": 192, "alt": "a title; loss over steps"}
    assert Image.open(io.BytesIO(png)).size == (768, 384)
    x = image(2)
    assert viz.graph(x * x, {"x": x})._repr_png_()[1]["alt"] == "x; (2,); multiply"


def test_a_figure_that_was_shown_is_saved_as_if_it_had_not_been():
    with style.canvas(6, 3, columns=2) as (figure, axes):
        figure.colorbar(axes[0, 1].imshow(np.eye(2)), ax=axes[0, 1], label="weight")
    for one in (*list(figures().values())[:2], figure):
        before, shown = one.svg(), one._repr_png_()
        assert (one.svg(), one._repr_png_()) == (before, shown)


def test_the_words_of_a_figure_are_its_titles_and_all_its_scales():
    with style.canvas(6, 3, columns=2) as (figure, (row,)):
        row[0].set(title="left", xlabel="steps", ylabel="loss")
        row[0].twinx().set_ylabel("accuracy")
        row[0].secondary_xaxis("top").set_xlabel("hours")
        row[1].set_title("in the middle", loc="center")
        figure.colorbar(row[1].imshow(np.eye(2)), ax=row[1], label="weight")
        figure.suptitle("both")
        row[1].text(0, 0, "a note")
    assert figure.words() == "both; left; loss over steps; hours; in the middle; accuracy; weight"


def test_a_figure_without_titles_has_the_words_that_are_written_in_it():
    with style.canvas(4, 2) as (figure, axes):
        assert figure.words() == ""
        axes[0, 0].text(0, 0, "a note")
    assert figure.words() == "a note"


def test_the_frame_of_parameters_is_dashed():
    (axes,) = viz.graph(residual_block()(image(1, 4, 4, 8))).axes
    lines = [patch.get_linestyle() for patch in axes.patches if patch.get_gid() == "box"]
    assert sorted(lines) == ["-"] * 4 + ["--"] * 2  # leaf and operators; convolution's and batchnorm's


def test_figures_need_no_pyplot_and_change_no_setting():
    program = """
import sys, minixception.viz as viz
assert "matplotlib" not in sys.modules
import matplotlib
before = dict(matplotlib.rcParams)
record = {"epoch": 1, "train_loss": 1.0, "train_top1": 0.5, "test_loss": 1.0, "test_top1": 0.5}
viz.training_curves([record]).svg()
assert "matplotlib.pyplot" not in sys.modules
assert dict(matplotlib.rcParams) == before
"""
    done = python("-c", program)
    assert done.returncode == 0, done.stderr
