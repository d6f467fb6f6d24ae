"""The figures of the course: each can be read, and shows what the object it is drawn from has."""

from __future__ import annotations

import functools
import itertools
import json
from collections import Counter
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minixception as mx
from minixception import nn, viz
from minixception.apps import gallery
from minixception.bench.limits import Limits
from minixception.bench.records.growth import JOBS
from minixception.errors import ArgumentError, ShapeError
from minixception.graph import cost
from minixception.timing import Timing
from minixception.viz.convolution_windows import strip
from minixception.viz.structure import flows, nodes_of
from minixception.viz.style import page
from tests.helpers.figure_rules import drawn_texts, overlap, problems


def log(top1):
    return [{"epoch": epoch, "test_loss": 2.0 / epoch, "test_top1": top1 - 0.2 / epoch} for epoch in (1, 2, 3)]


@functools.cache
def drawn(name):
    """The figure of this name."""
    return next(entry for entry in gallery.entries() if entry.name == name).picture()


def gids(figure):
    """How many patches are of each kind: box, arrow, block, cell, window."""
    return Counter(patch.get_gid() for ax in figure.axes for patch in ax.patches)


# All of them ----------------------------------------------------------------------------------------------------------

NAMES = [entry.name for entry in gallery.entries()]
SOON = set(NAMES[::3]) - {"zoo"}  # a third of them in `make test`, but not the slowest


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in SOON else pytest.mark.slow) for n in NAMES])
def test_every_figure_is_drawn_and_can_be_read(name):
    figure = drawn(name)
    assert problems(figure) == []
    assert ElementTree.fromstring(figure.svg()).tag == "{http://www.w3.org/2000/svg}svg"


def test_the_rules_see_what_is_wrong():
    def with_text(x, y, size=11):
        with page(400, 200) as (figure, _):
            figure.add_axes((0.1, 0.5, 0.8, 0.3), xticks=[], yticks=[]).set_title("a title")
            figure.text(x, y, "planted text", size=size)
        return [problem for problem in problems(figure) if "planted" in problem]

    assert with_text(0.4, 0.2) == []
    assert with_text(0.9, 0.2) == ["cut off: planted text"]
    assert with_text(0.4, 0.6) == ["over another axes: planted text"]
    assert with_text(0.08, 0.83) == ["over each other: a title and planted text"]
    assert with_text(0.4, 0.2, size=3) == ["7.2 points on a slide: planted text"]


def test_the_gallery_holds_what_the_course_names():
    wanted = {
        *("figure1", "figure2", "figure3", "figure4", "figure5", "spectrum", "layers", "zoo", "padding", "windows"),
        *("feature-maps", "threads-naive", "threads-tiled", "convolutions", "roofline", "ladder", "training-bands"),
    }
    assert wanted <= set(NAMES)
    assert len(set(NAMES)) == len(NAMES)


# Modules --------------------------------------------------------------------------------------------------------------


def texts(figure):
    return [text.get_text() for ax in figure.axes for text in ax.texts]


def test_an_inception_module_has_a_box_for_each_of_its_layers():
    module = nn.InceptionModule(16, 24, form=1)
    figure = viz.module(module, (8, 8, 16))
    convolutions = sum(isinstance(layer, nn.Conv2d | nn.PointwiseConv2d) for _, layer in module.named_modules())
    assert convolutions == 7
    assert gids(figure) == {"box": convolutions + 4, "arrow": 4 + 4 + 4 + 1}  # pool, concat, input, output
    assert texts(figure).count("BN, ReLU") == convolutions


def test_a_layer_more_is_a_box_more():
    module = nn.InceptionModule(16, 24, form=2)
    before = gids(viz.module(module, (8, 8, 16)))
    module.tower2 = nn.Sequential(module.tower2, nn.MaxPool2d(3, 1, "same"))
    after = gids(viz.module(module, (8, 8, 16)))
    assert after["box"] == before["box"] + 1
    assert after["arrow"] == before["arrow"] + 1


def test_segments_are_drawn_apart():
    three = viz.module(nn.InceptionModule(12, 24, form=3), (8, 8, 12))
    assert [text for text in texts(three) if text.startswith("channels")] == [
        *("channels 1 to 8", "channels 9 to 16", "channels 17 to 24")
    ]
    every = viz.module(nn.SpectrumConv2d(12, 24, 3, segments=24), (8, 8, 12))
    assert [text for text in texts(every) if "channel " in text or "more" in text] == [
        *("channel 1", "channel 2", "… 21 more …", "channel 24")
    ]
    depthwise = viz.module(nn.DepthwiseConv2d(24), (8, 8, 24))
    assert "… 21 more …" in texts(depthwise)
    assert "Concat" not in texts(viz.module(nn.Conv2d(12, 24), (8, 8, 12)))


def test_what_others_read_too_has_a_box_of_its_own():
    conv, relu = nn.Conv2d(4, 4), nn.Activation("relu")
    chain = nn.Sequential(conv, relu, nn.Flatten())  # the ReLU is in the convolution's box
    assert gids(viz.module(chain, (8, 8, 4)))["box"] == 4
    around = nn.Sequential(conv, nn.Residual(relu, nn.Conv2d(4, 4)))  # the shortcut reads what the ReLU reads
    assert gids(viz.module(around, (8, 8, 4)))["box"] == 6


@pytest.mark.parametrize("name", ["figure1", "figure2", "figure3", "figure4", "figure5"])
def test_boxes_do_not_overlap_and_hold_their_text(name):
    figure = drawn(name)
    words = drawn_texts(figure)
    boxes = [patch.get_window_extent() for patch in figure.axes[0].patches if patch.get_gid() == "box"]
    assert not any(overlap(a, b) for a, b in itertools.combinations(boxes, 2))
    held = 0
    for text, box in words:
        around = [frame for frame in boxes if overlap(box, frame, least=0)]
        assert all(f.x0 < box.x0 and box.x1 < f.x1 and f.y0 < box.y0 and box.y1 < f.y1 for f in around), text
        held += len(around)
    assert held >= len(boxes)


LARGE = [pytest.param(model, marks=pytest.mark.slow) for model in (mx.models.ResNet152, mx.models.NEXcepTionT)]


@pytest.mark.parametrize("make", [mx.models.InceptionV3, *LARGE])
def test_other_networks_are_columns_too(make):
    small = {"input_shape": (96, 96, 3)} if make is mx.models.InceptionV3 else {}
    figure = viz.architecture(make(**small))
    assert gids(figure)["box"] > 10
    assert not [problem for problem in problems(figure) if "points" not in problem]  # taller than a slide


def xception_boxes(model):
    """What figure 5 must hold, counted from the tree of modules: the middle flow's blocks are drawn once."""
    once = {name: block for name, block in model.children().items() if name not in {f"block{i}" for i in range(6, 13)}}
    kinds = Counter()
    for block in once.values():
        kinds.update(type(layer).__name__ for _, layer in block.named_modules())
    leading = sum(getattr(next(iter(block.children().values()), None), "relu", False) for block in once.values())
    layers = ("Conv2d", "PointwiseConv2d", "SeparableConv2d", "MaxPool2d", "Add", "GlobalAvgPool", "Linear")
    return sum(kinds[name] for name in layers) + leading + 6  # each flow's input and output


@pytest.mark.parametrize("residual", [True, False])
def test_xception_is_drawn_from_its_modules(residual):
    model = mx.models.Xception(residual=residual)
    figure = viz.architecture(model)
    assert gids(figure)["box"] == xception_boxes(model)
    assert gids(figure)["block"] == 7
    assert "block5 to block12, 8 times" in texts(figure)
    assert sum(text.startswith("Conv 1×1 /2") for text in texts(figure)) == 4 * residual
    assert texts(figure)[0].startswith(f"Xception: {model.num_parameters():,} parameters, 8,") or not residual


def test_a_block_that_differs_ends_the_run():
    model = mx.models.Xception()
    model.block8.sepconv2 = nn.SeparableConv2d(728, 728, 5)
    middle = [text for text in texts(viz.architecture(model)) if text.startswith("block") and "times" in text]
    assert middle == ["block5 to block7, 3 times", "block9 to block12, 4 times"]
    entry, run, last = flows(nodes_of(model, (299, 299, 3)), (299, 299, 3))
    assert [len(flow.runs) for flow in (entry, run, last)] == [6, 1, 4]
    assert run.runs[0].names == ("block9", "block10", "block11", "block12")


def test_blocks_that_read_from_several_are_refused():
    class Skips(nn.Module):
        def __init__(self):
            self.first, self.second, self.join = nn.Conv2d(3, 3), nn.Conv2d(3, 3), nn.Add()

        def forward(self, x):
            y = self.first(x)
            return self.join(self.second(y), y)

    with pytest.raises(ArgumentError, match="one after the other"):
        viz.architecture(Skips(), (8, 8, 3))
    assert gids(viz.module(Skips(), (8, 8, 3)))["box"] == 5


# Costs ----------------------------------------------------------------------------------------------------------------


def test_the_spectrum_runs_from_regular_to_a_channel_each():
    rows = viz.spectrum_rows(16, 24)
    assert [row.segments for row in rows] == [1, 2, 3, 4, 6, 8, 12, 24]
    for row in rows:
        module = nn.SpectrumConv2d(16, 24, 3, segments=row.segments)
        assert (row.pointwise, row.spatial) == (module.pointwise.num_parameters(), module.spatial.num_parameters())
    figure = viz.spectrum_costs(16, 24, (8, 8), times={1: Timing(2e-3, 1e-3, 3e-3), 24: Timing(1e-3, 1e-3, 1e-3)})
    upper, lower = figure.axes
    np.testing.assert_allclose(1e3 * upper.lines[0].get_ydata(), [row.pointwise + row.spatial for row in rows])
    np.testing.assert_allclose(lower.lines[0].get_xydata(), [[1, 2], [24, 1]])
    figure.draw_without_rendering()
    (macs,) = upper.child_axes
    np.testing.assert_allclose(1e3 * np.array(macs.get_ylim()), 64 * np.array(upper.get_ylim()))  # a MAC for each pixel
    assert problems(figure) == []
    assert problems(viz.spectrum_costs(728, 728, (19, 19))) == []


@pytest.mark.parametrize(
    "make", [mx.models.Xception, mx.models.mini_xception, pytest.param(mx.models.InceptionV3, marks=pytest.mark.slow)]
)
def test_layer_costs_add_up_to_the_network(make):
    model = make()
    figure, table = viz.layer_costs(model), cost.table(model, model.input_shape)
    macs, params = ([bar.get_width() for bars in ax.containers for bar in bars] for ax in figure.axes)
    assert round(1e6 * sum(macs)) == table.macs
    multiplying = {row.name for row in table.rows if row.macs}
    assert round(1e6 * sum(params)) == sum(row.params for row in table.rows if row.name in multiplying)
    assert len(figure.axes[0].get_yticks()) == len(multiplying)
    assert not [problem for problem in problems(figure) if "points" not in problem]  # a long one is higher than a slide


def test_a_wider_layer_is_a_longer_bar():
    model = mx.models.mini_xception()
    before = viz.layer_rows(model, (32, 32, 3))
    model.block1.conv1 = nn.Conv2d(3, 32, 5)
    after = viz.layer_rows(model, (32, 32, 3))
    assert after[0].macs["regular"] * 9 == before[0].macs["regular"] * 25
    assert after[1:] == before[1:]


def test_each_part_of_a_cost_is_what_the_layer_does():
    class Own(nn.Module):
        def forward(self, x):
            return mx.ops.conv2d(x, mx.tensor(np.ones((3, 3, 8, 2), np.float32)))

    class Outside(Own):  # its operator is in no layer, because it has one
        def __init__(self):
            self.alone = nn.DepthwiseConv2d(8)

    model = nn.Sequential(one=nn.Conv2d(4, 8, 1), alone=nn.Conv2d(8, 8, 3, groups=8), blur=nn.BlurPool2d(), own=Own())
    assert [(row.name, row.macs) for row in viz.layer_rows(model, (8, 8, 4))] == [
        ("one", {"1×1": 64 * 4 * 8}),
        ("alone", {"depthwise": 64 * 9 * 8}),
        ("blur", {"depthwise": 16 * 9 * 8}),
        ("own", {"other": 16 * 9 * 8 * 2}),
    ]
    assert [row.macs for row in viz.layer_rows(Outside(), (4, 4, 8))] == [{"other": 16 * 9 * 8 * 2}]
    figure = viz.layer_costs(model, (8, 8, 4))
    assert [bars.get_label() for bars in figure.axes[0].containers] == ["depthwise", "1×1", "other"]
    assert "Depthwise blur 3×3 /2" in texts(viz.module(nn.BlurPool2d(), (8, 8, 4)))


@pytest.mark.slow  # all networks are built
def test_the_zoo_shows_published_accuracy_over_counts():
    figure = drawn("zoo")
    left, right = figure.axes
    names = [text.get_text() for text in left.texts]
    assert names == [text.get_text() for text in right.texts]
    places = {name: text.xy for name, text in zip(names, left.texts, strict=True)}
    assert len(places) == 7
    np.testing.assert_allclose(places["Xception"], (22.91048, 79.0))
    np.testing.assert_allclose(places["Inception V3"], (23.851784, 78.2))
    macs = dict(zip(names, (text.xy[0] for text in right.texts), strict=True))
    np.testing.assert_allclose(macs["Xception"], 8.357403496)
    assert len(left.collections) == 2  # one marker for each source


def test_the_ladder_has_a_point_for_each_rung_that_multiplies():
    result = json.loads((gallery.RESULTS / "ladder.json").read_text())
    limits, points = viz.ladder_points(result)
    operators = {"depthwise conv2d", "pointwise conv2d", "conv2d"}
    expected = {(name, way, rung) for name in operators for way in ("forward", "backward") for rung in
                ("numpy", "loops", "cpu")}  # fmt: skip
    assert {(p.name, p.direction, p.rung) for p in points} == expected
    assert len(points) == len(expected)
    for point in points:  # nothing beats the limit, and the share of it is the one in the file
        row = next(
            row for row in result["rows"]
            if (row["operator"].replace("_", " "), row["direction"], row["rung"]) == (point.name, point.direction,
                                                                                      point.rung)
        )  # fmt: skip
        flop = point.flops * row["seconds"]["median"]
        bound = Limits.from_json(result["limits"]).seconds(flop, flop / point.intensity)
        assert bound / row["seconds"]["median"] == pytest.approx(row["share_of_limit"], rel=1e-6)
    figure = viz.roofline(limits, points)
    markers = [line for line in figure.axes[0].lines if line.get_marker() not in ("None", "")]
    assert sum(len(line.get_xdata()) for line in markers) == len(points)
    assert len({line.get_marker() for line in markers}) == 3


# Windows, maps, curves ------------------------------------------------------------------------------------------------


@given(st.integers(1, 9), st.integers(1, 5), st.integers(1, 3), st.sampled_from(["same", "valid", 0, 1, 2]))
def test_strips_are_where_a_convolution_looks(size, kernel, stride, padding):
    try:
        one = strip(size, kernel, stride, padding)
    except (ShapeError, ArgumentError):
        with pytest.raises((ShapeError, ArgumentError)):
            mx.ops.conv2d(mx.tensor(np.ones((1, size, size, 1))), mx.tensor(np.ones((kernel, kernel, 1, 1))), stride,
                          padding)  # fmt: skip
        return
    images = np.zeros((size, size, size, 1))
    images[np.arange(size), :, np.arange(size)] = 1  # image n has its column n alone
    weight = mx.tensor(np.ones((kernel, kernel, 1, 1)))
    with mx.use_backend("numpy"):
        seen = mx.ops.conv2d(mx.tensor(images), weight, stride, padding).numpy()[:, 0, :, 0] > 0  # (columns, outputs)
    expected = [[start <= column < start + kernel for start in one.starts] for column in range(size)]
    np.testing.assert_array_equal(seen, expected)
    assert one.before == -min(0, *one.starts, 0)
    end = one.starts[-1] + kernel
    assert one.after == (max(0, end - size) if isinstance(padding, str) else padding)
    assert one.dropped == one.size + one.after - end


def test_a_strip_draws_pixels_padding_and_windows():
    figure = viz.padding_strips(6, 3, [(2, "same"), (2, "valid")])
    same, valid = figure.axes
    assert sum(patch.get_gid() == "cell" for patch in same.patches) == 7 + 3 * 3 + 3  # pixels, windows, outputs
    assert sum(line.get_gid() == "window" for line in same.lines) == 3
    assert [sum(line.get_gid() == "dropped" for line in ax.lines) for ax in (same, valid)] == [0, 1]
    assert "padding: 0 before, 1 after" in texts(figure)
    assert sum(patch.get_linestyle() == "--" for patch in same.patches) == 2  # the extra pixel, and in its window


def test_padding_on_each_side_is_drawn_on_each_side():
    figure = viz.padding_strips(6, 3, [(2, 1)])
    (ax,) = figure.axes
    assert "padding: 1 before, 1 after; 1 dropped" in texts(figure)  # the pixel behind, which no window reaches
    assert sum(text.get_text() == "0" for text in ax.texts) == 2
    (crossed,) = (line for line in ax.lines if line.get_gid() == "dropped")
    assert 6 < min(crossed.get_xdata()) < max(crossed.get_xdata()) < 7


def test_a_frame_for_each_output():
    figure = viz.window_frames((5, 7), 3, 2, "same")
    assert len(figure.axes) == 3 * 4
    assert gids(figure) == {"cell": 12 * 7 * 9, "window": 12}
    assert problems(figure) == []


def test_feature_maps_are_the_channels():
    maps = np.arange(4 * 5 * 40, dtype=np.float32).reshape(4, 5, 40)
    figure = viz.feature_maps(maps, channels=[3, 39])
    pictures = [ax.images[0] for ax in figure.axes]
    np.testing.assert_array_equal(pictures[1].get_array(), maps[..., 39])
    assert pictures[0].get_clim() != pictures[1].get_clim()
    assert len(viz.feature_maps(maps).axes) == 32
    shared = viz.feature_maps(maps - 300, "both signs", [3, 39], shared_scale=True)
    assert shared.axes[0].images[0].get_clim() == shared.axes[1].images[0].get_clim()
    assert shared.axes[0].images[0].norm.vcenter == 0
    assert problems(shared) == []


def test_bands_are_median_and_range():
    logs = [log(top1) for top1 in (0.7, 0.9, 0.8)]
    (ax,) = viz.training_bands({"one": logs}, ["test_top1"]).axes
    np.testing.assert_allclose(ax.lines[0].get_ydata(), [60, 70, 80 - 20 / 3])
    band = ax.collections[0].get_paths()[0].vertices
    np.testing.assert_allclose([band[:, 1].min(), band[:, 1].max()], [50, 90 - 20 / 3])
    five = viz.training_bands({str(i): logs for i in range(6)}, ["test_loss"]).axes[0].lines
    assert len({(line.get_color(), line.get_linestyle()) for line in five}) == 6


def test_accuracies_of_seeds_are_median_band_and_dots():
    points = [viz.TrainedPoint("parameters", name, x, (0.7, 0.9, 0.8)) for name in ("one", "two") for x in (400, 90)]
    points += [viz.TrainedPoint("segments", "one", word, (0.5, 0.7, 0.6)) for word in ("1", "2", "C")]
    figure = viz.accuracy_bands(points)
    numbers, words = figure.axes
    line = numbers.lines[0]
    assert (line.get_xdata().tolist(), line.get_ydata().tolist()) == ([90, 400], [80, 80])
    assert [line.get_linestyle() for line in (*numbers.lines, *words.lines)] == ["None", "None", "-"]
    bars = numbers.collections[0].get_segments()
    np.testing.assert_allclose(bars, [[[90, 70], [90, 90]], [[400, 70], [400, 90]]])
    band = words.collections[0].get_paths()[0].vertices
    np.testing.assert_allclose([band[:, 1].min(), band[:, 1].max()], [50, 70])
    dots = [c.get_offsets() for c in numbers.collections if len(c.get_offsets()) == 3]
    assert len(dots) == 4
    assert [text.get_text() for text in words.get_xticklabels()] == ["1", "2", "C"]
    assert len(words.lines) == 1
    assert problems(figure) == []


def test_the_growth_of_all_jobs_can_be_read():
    points = [viz.GrowthPoint(job.workload.name, job.varied, job.value, 10**9, 0.05) for job in JOBS]
    assert problems(viz.growth(points)) == []


def test_growth_has_a_panel_for_what_was_varied_and_a_line_for_each_network():
    sides = [
        viz.GrowthPoint(name, "image size", side, 10**8 * side**2, 0.01 * side**2) for name in "ab" for side in (64, 32)
    ]
    figure = viz.growth([*sides, viz.GrowthPoint("b", "batch", 4, 2 * 10**9, 0.01)])
    assert [ax.get_xlabel() for ax in figure.axes] == ["image size", "batch"]
    assert [[line.get_label() for line in ax.lines] for ax in figure.axes] == [["a", "b"], ["b"]]
    np.testing.assert_allclose(figure.axes[0].lines[0].get_data(), [[32, 64], [100, 100]])  # ps, flat
    np.testing.assert_allclose(figure.axes[1].lines[0].get_ydata(), [5])
    looks = [(line.get_color(), line.get_marker()) for line in (figure.axes[0].lines[1], figure.axes[1].lines[0])]
    assert looks[0] == looks[1]  # a network looks the same in every panel
    assert problems(figure) == []


def test_scaling_has_a_line_for_each_name_with_its_numbers_in_order():
    counts = (1024, 1, 2, 4, 8, 16, 60, 256)
    figure = viz.scaling([viz.ScalingPoint(name, count, 1 / count) for name in "ab" for count in counts])
    assert [line.get_label() for line in figure.axes[0].lines] == ["a", "b"]
    np.testing.assert_allclose(figure.axes[0].lines[1].get_data()[0], sorted(counts))
    np.testing.assert_allclose(figure.axes[0].lines[1].get_data()[1], 100 / np.array(sorted(counts)))
    assert problems(figure) == []


@pytest.mark.parametrize(
    ("draw", "error", "message"),
    [
        (lambda: viz.scaling([]), ArgumentError, "at least one process"),
        (lambda: viz.scaling([viz.ScalingPoint("a", 0, 1.0)]), ArgumentError, "at least one process"),
        (lambda: viz.module(nn.Conv2d(3, 4), (8, 8, 5)), ShapeError, "3 input channels"),
        (lambda: viz.architecture(nn.Sequential(nn.Conv2d(3, 4))), ShapeError, "input_shape"),
        (lambda: viz.layer_costs(nn.Sequential(nn.Conv2d(3, 4))), ShapeError, "input_shape"),
        (lambda: viz.spectrum_costs(0, 4, (8, 8)), ArgumentError, "1 or more"),
        (lambda: viz.spectrum_costs(4, 4, (8, 8), times={9: Timing(1, 1, 1)}), ArgumentError, "has none of"),
        (lambda: viz.accuracy_costs([]), ArgumentError, "at least one network"),
        (lambda: viz.growth([]), ArgumentError, "at least one point"),
        (lambda: viz.growth([viz.GrowthPoint("small", "batch", 1, 0, 1.0)]), ArgumentError, "must be positive"),
        (lambda: viz.ladder_points({"rows": []}), ArgumentError, "bench.records ladder"),
        (lambda: viz.padding_strips(2, 3, [(1, "valid")]), ShapeError, "does not fit"),
        (lambda: viz.padding_strips(5, 3, [(0, "same")]), ArgumentError, "stride"),
        (lambda: viz.window_frames((9, 9), 3, 1, "same"), ShapeError, "at most 25"),
        (lambda: viz.feature_maps(np.zeros((3, 3))), ShapeError, r"\(h, w, c\)"),
        (lambda: viz.feature_maps(np.zeros((3, 3, 2)), channels=[2]), ArgumentError, "0 to 1"),
        (lambda: viz.accuracy_bands([]), ArgumentError, "at least one seed"),
        (lambda: viz.accuracy_bands([viz.TrainedPoint("p", "a", 1, ())]), ArgumentError, "at least one seed"),
        (
            lambda: viz.accuracy_bands([viz.TrainedPoint("p", "a", x, (0.5,)) for x in (1, "C")]),
            ArgumentError,
            "mixes numbers and words",
        ),
        (lambda: viz.training_bands({}), ArgumentError, "at least one log"),
        (lambda: viz.training_bands({"a": [log(1)]}, ["speed"]), ArgumentError, "train_loss"),
        (lambda: viz.training_bands({"a": [log(1), log(1)[:2]]}), ArgumentError, "same epochs"),
        (lambda: viz.training_bands({"a": [log(1)]}, ["train_loss"]), ArgumentError, "lack train_loss"),
    ],
)
def test_wrong_input_is_an_error_that_says_so(draw, error, message):
    with pytest.raises(error, match=message):
        draw()
