"""Costs from shapes alone: Keras' Xception layer by layer, totals, alternatives, and that nothing is computed."""

from __future__ import annotations

import json
import math
import tracemalloc

import numpy as np
import pytest

import minixception as mx
from minixception import nn, ops
from minixception.engine.op import Op
from minixception.errors import ShapeError
from minixception.graph import cost
from tests.helpers.golden_rule import GOLDEN, keras_name

KERAS = json.loads((GOLDEN / "keras_xception_layers.json").read_text())
KERAS_CLASS = {
    "Input": "InputLayer",
    "Conv2d": "Conv2D",
    "PointwiseConv2d": "Conv2D",
    "SeparableConv2d": "SeparableConv2D",
    "BatchNorm2d": "BatchNormalization",
    "Activation": "Activation",
    "MaxPool2d": "MaxPooling2D",
    "Add": "Add",
    "GlobalAvgPool": "GlobalAveragePooling2D",
    "Linear": "Dense",
}


@pytest.fixture(scope="module")
def xception():
    return mx.models.Xception()


@pytest.fixture(scope="module")
def table(xception):
    return cost.table(xception, (299, 299, 3))


def test_every_layer_of_xception_costs_what_it_costs_in_keras(table):
    def ours(row):
        name = "input_layer" if row.name == "input" else keras_name(row.name)
        return name, (KERAS_CLASS[row.kind], list(row.output_shape), row.params, row.trainable, row.macs)

    def theirs(layer):
        shape = layer["output_shape"][1:]
        return layer["name"], (layer["cls"], shape, layer["params"], layer["trainable_params"], layer["macs"])

    assert len(table.rows) == 134
    assert dict(map(ours, table.rows)) == dict(map(theirs, KERAS["layers"]))


def test_totals_of_xception(table, xception):
    assert table.params == KERAS["total_params"] == xception.num_parameters() == 22_910_480
    assert table.trainable == KERAS["trainable_params"] == 22_855_952
    assert table.macs == KERAS["total_macs"] == 8_357_403_496


def test_mini_xception():
    small = mx.models.mini_xception()
    table = cost.table(small, (32, 32, 3))
    assert (table.trainable, table.macs) == (1_004_490, 35_908_096)


def test_bytes_are_inputs_and_parameters_once_and_the_output_once():
    row = cost.table(nn.Conv2d(4, 6, 3, stride=2, padding="valid"), (9, 11, 4)).rows[1]
    assert row.output_shape == (4, 5, 6)
    assert row.bytes_read == 4 * (9 * 11 * 4 + 3 * 3 * 4 * 6)
    assert row.bytes_written == 4 * (4 * 5 * 6)
    assert row.macs_per_byte == pytest.approx(4 * 5 * 6 * 3 * 3 * 4 / (row.bytes_read + row.bytes_written))


def test_an_addition_reads_both_inputs():
    table = cost.table(nn.Residual(nn.Activation("relu")), (5, 5, 2))
    add = table.rows[-1]
    assert (add.kind, add.bytes_read, add.bytes_written) == ("Add", 2 * 4 * 50, 4 * 50)


def test_alternatives_of_xception(xception):
    separable, regular, inception = cost.alternatives(xception, (299, 299, 3))
    assert (separable.params, separable.macs) == (19_760_328, KERAS["macs_by_class"]["SeparableConv2D"])
    assert (separable.network_params, separable.network_macs) == (22_910_480, 8_357_403_496)
    assert (regular.params, regular.macs) == (175_976_064, 68_167_274_112)
    for other in (regular, inception):
        assert other.network_params - other.params == separable.network_params - separable.params
        assert other.network_macs - other.macs == separable.network_macs - separable.macs
    assert separable.params < inception.params < regular.params


@pytest.mark.parametrize("channels", [(192, 192), (64, 96)])
def test_alternatives_count_what_the_layers_have(channels):
    ci, co = channels
    separable, regular, inception = cost.alternatives(nn.Sequential(nn.SeparableConv2d(ci, co)), (8, 8, ci))
    layers = nn.SeparableConv2d(ci, co), nn.Conv2d(ci, co), nn.SpectrumConv2d(ci, co, segments=3)
    for form, layer in zip((separable, regular, inception), layers, strict=True):
        built = cost.table(layer, (8, 8, ci))
        assert (form.params, form.macs) == (built.params, built.macs)


def test_alternatives_print_as_a_table(xception):
    text = str(cost.alternatives_table(cost.alternatives(xception, (299, 299, 3))))
    assert "175,976,064" in text
    assert "68,167,274,112" in text


class Functional(nn.Module):
    """A layer, and operators applied without one: an activation and a matrix product."""

    def __init__(self):
        self.conv = nn.Conv2d(3, 4, 3)
        self.head = nn.Parameter(np.ones((4, 5), np.float32))

    def forward(self, x):
        return ops.linear(ops.global_avg_pool(ops.relu(self.conv(x))), self.head, mx.tensor(np.zeros(5, np.float32)))


def test_operators_outside_of_layers_are_rows_of_their_own():
    model = Functional()
    table = cost.table(model, (8, 8, 3))
    assert [row.name for row in table.rows] == ["input", "conv", "relu", "global_avg_pool", "linear"]
    assert [row.macs for row in table.rows] == [0, 8 * 8 * 9 * 3 * 4, 0, 0, 4 * 5]
    assert [row.params for row in table.rows] == [0, 9 * 3 * 4, 0, 0, 4 * 5]
    assert table.params == model.num_parameters()
    assert table.rows[-1].output_shape == (5,)


def test_a_layer_of_several_operators_is_one_row_with_their_sum():
    plain, between = (nn.SeparableConv2d(6, 10, activation=activation) for activation in (None, "relu"))
    row, other = (cost.table(layer, (8, 8, 6)).rows[1] for layer in (plain, between))
    assert row == other
    assert row.macs == 8 * 8 * (9 * 6 + 6 * 10)


def test_nothing_is_computed(xception, monkeypatch):
    def no_kernel(self, backend=None):
        raise AssertionError(f"{self.name} was about to run")

    monkeypatch.setattr(Op, "rung", no_kernel)
    largest = 4 * KERAS["max_activation_elems"]  # bytes of the largest activation: 11 MB
    tracemalloc.start()
    try:
        cost.table(xception, (299, 299, 3))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < largest / 10


def test_counting_leaves_no_trace_in_the_model():
    bn = nn.BatchNorm2d(4)
    cost.table(bn, (5, 5, 4))
    np.testing.assert_array_equal(bn.running_mean.data, np.zeros(4))
    np.testing.assert_array_equal(bn.running_var.data, np.ones(4))
    assert bn.training


def test_a_shape_that_does_not_fit_is_an_error_of_the_layer():
    with pytest.raises(ShapeError, match="channels"):
        cost.table(nn.Conv2d(3, 4), (8, 8, 5))


def test_summary_as_text(xception):
    lines = repr(xception.summary()).splitlines()
    assert lines[0].split() == [
        "layer",
        "kind",
        "output",
        "params",
        "MACs",
        "bytes",
        "read",
        "bytes",
        "written",
        "MACs/byte",
    ]
    assert lines[3].split()[:5] == ["block1.conv1", "Conv2d", "149x149x32", "864", "19,181,664"]
    assert len(lines) == 134 + 4  # header, two rules, total
    assert all(part in lines[-1] for part in ("134 layers", "22,855,952 trainable", "22,910,480", "8,357,403,496"))
    assert len(set(map(len, lines))) == 1  # the last column of numbers is aligned


def test_summary_as_html_shows_the_same(xception):
    html = xception.summary()._repr_html_()
    assert html.count("<tr>") == 134 + 2
    assert "22,910,480" in html
    assert "block14.sepconv2" in html


def test_summary_needs_a_size():
    with pytest.raises(ShapeError, match="input_shape"):
        nn.Conv2d(3, 4).summary()
    assert mx.models.Xception().summary((71, 71, 3)).macs < KERAS["total_macs"] / 10


def test_table_as_plain_data(table):
    data = json.loads(json.dumps(table.to_json()))
    assert (data["params"], data["macs"], len(data["layers"])) == (22_910_480, 8_357_403_496, 134)
    assert data["layers"][1]["macs_per_byte"] == table.rows[1].macs_per_byte


def test_pixels_times_parameters_are_the_macs_of_every_convolution(table):
    for row in table.rows:
        if row.kind.endswith("Conv2d"):
            assert row.macs == row.params * math.prod(row.output_shape[:2])


class Twice(nn.Module):
    """One convolution at two places."""

    def __init__(self):
        self.conv, self.norm = nn.PointwiseConv2d(3, 3), nn.BatchNorm2d(3)

    def forward(self, x):
        return self.norm(self.conv(self.conv(x)))


def test_a_layer_that_runs_twice_has_its_parameters_once_and_its_macs_twice():
    model = Twice()
    table = cost.table(model, (4, 5, 3))
    assert table.macs == 2 * 4 * 5 * 3 * 3
    assert table.params == model.num_parameters() == 9 + 12
    assert table.trainable == model.num_parameters(trainable=True) == 9 + 6
