"""The benchmark command: limits are sane, costs are the operators' own, and missing peers are only left out."""

from __future__ import annotations

import json
import sys
import time
from functools import partial
from importlib.machinery import ModuleSpec
from importlib.util import module_from_spec
from xml.etree import ElementTree

import numba
import numpy as np
import pytest
from matplotlib.text import Text

from minixception import nn, viz
from minixception.apps import cli
from minixception.bench import command, contestants, kernels, layers, limits, malloc, measurement, models, peers, tile
from minixception.bench.apart import Apart
from minixception.bench.contestants import Here, Workload
from minixception.bench.limits import Limits
from minixception.bench.measurement import OURS, require_equal
from minixception.bench.records import ladder
from minixception.bench.threads import numba_threads
from minixception.errors import ArgumentError
from minixception.graph import cost
from minixception.models import mini_xception
from minixception.ops import OPERATORS
from minixception.timing import Timing
from tests.helpers import contestants as fakes

LIMITS = Limits(1, "float32", fma_flops=2e11, read=5e10, copy=4e10, triad=4e10, copies={1 << 20: 8e10, 1 << 29: 4e10})
LAYERS = (
    kernels.Workload("depthwise", lambda: nn.DepthwiseConv2d(8), (1, 6, 6, 8)),
    kernels.Workload("regular", lambda: nn.Conv2d(6, 6, 3), (1, 6, 6, 6)),
    kernels.Workload("Inception-style", lambda: nn.SpectrumConv2d(6, 6, 3, 3), (1, 6, 6, 6)),
    kernels.Workload("separable", lambda: nn.SeparableConv2d(6, 6, 3), (1, 6, 6, 6)),
    kernels.Workload("batchnorm", lambda: nn.BatchNorm2d(8), (1, 6, 6, 8)),
    kernels.Workload("max pool", lambda: nn.MaxPool2d(3, 2, "same"), (1, 6, 6, 8)),
)
TINY = partial(mini_xception, 10, (8,), 1, 8)
NETWORKS = tuple(Workload("mini", TINY, 2, training) for training in (False, True))
LINEAR = Workload("linear", fakes.linear, 2, training=True)  # whose kernels in float64 are quickly compiled


@pytest.fixture
def small(monkeypatch):
    """The command with small layers, networks and arrays, a register tile that is not compiled, all in one process."""
    monkeypatch.setattr(kernels, "WORKLOADS", LAYERS)
    monkeypatch.setattr(layers, "WORKLOAD", NETWORKS[0])
    monkeypatch.setattr(models, "WORKLOADS", (NETWORKS[0], LINEAR))
    monkeypatch.setattr(command, "Apart", Here)
    monkeypatch.setattr(tile, "_products", lambda a, b, packed, c, products: time.sleep(0.001))
    measured = limits.measure(1, footprints=(1 << 20, 1 << 22))
    monkeypatch.setattr(limits, "measure", lambda threads: measured)


def run(capsys, *arguments):
    status = cli.main(["bench", "--threads", "1", "--repeats", "1", *map(str, arguments)])
    return status, *capsys.readouterr()


# Limits ---------------------------------------------------------------------------------------------------------------


def test_limits_are_positive_and_plausible():
    before = numba.get_num_threads()
    found = limits.measure(1, footprints=(1 << 20, 1 << 22))
    assert (found.threads, found.dtype, numba.get_num_threads()) == (1, "float32", before)
    assert list(found.copies) == [1 << 20, 1 << 22]
    assert found.copy == found.copies[1 << 22]
    for rate in (found.read, found.copy, found.triad, *found.copies.values()):
        assert 1e8 < rate < 1e13
    for flops in (found.fma_flops, limits._fma_rate(1, np.dtype(np.float64))):
        assert 1e8 < flops < 1e14


def test_the_sums_behind_the_peak_are_computed():
    starts = np.arange(3, 3 + limits.ROWS * limits.panel_width(np.float32), dtype=np.float32)
    starts = starts.reshape(limits.ROWS, -1)
    half, one, out = np.float32(0.5), np.float32(1), np.zeros((1, *starts.shape), np.float32)
    limits._fma(starts, half, one, out, 1)
    np.testing.assert_allclose(out[0], starts / 2 + 1)
    limits._fma(starts, half, one, out, 1000)
    np.testing.assert_allclose(out, 2)  # where sum = sum / 2 + 1 stands still


def test_the_reader_reads_everything():
    width = limits.lanes(np.float32)
    out = np.zeros(2 * width, np.float32)
    limits._read(np.ones(1 << 14, np.float32), out, 2, width)
    assert out.sum() == 1 << 14


def test_the_bound_is_the_slower_of_arithmetic_and_memory():
    assert LIMITS.seconds(2 * 10**11, 0) == 1
    assert LIMITS.seconds(0, 4 * 10**10) == 1
    assert LIMITS.seconds(10, 4 * 10**10) == 1
    assert LIMITS.bandwidth(1 << 29) == LIMITS.bandwidth(1 << 40) == 4e10
    assert LIMITS.bandwidth(1 << 20) == LIMITS.bandwidth(0) == 8e10
    assert LIMITS.bandwidth(3 << 23) == pytest.approx(6e10, rel=0.02)  # about half way, by the number of doublings


def test_limits_come_back_from_a_result_file():
    assert Limits.from_json(json.loads(json.dumps(vars(LIMITS)))) == LIMITS


@pytest.mark.parametrize("case", ladder.CASES, ids=lambda case: case.operator)
def test_a_case_of_the_ladder_counts_what_its_arrays_hold(case):
    op, inputs = OPERATORS[case.operator], [np.ones(shape, np.float32) for shape in case.shapes]
    read, written = sum(x.nbytes for x in inputs), op.rungs["cpu"].forward(*inputs, **case.params)[0].nbytes
    macs = op.macs(*case.shapes, **case.params)
    assert case.counts("forward") == (2 * macs, read + written)
    assert case.counts("backward") == (4 * macs, 2 * read + written)


def test_threads_are_given_back():
    before = numba.get_num_threads()
    with pytest.raises(ZeroDivisionError), numba_threads(1):
        assert numba.get_num_threads() == 1
        _ = 1 / 0
    assert numba.get_num_threads() == before
    with pytest.raises(ValueError, match="number of threads"):
        limits.measure(1000)


# Operators ------------------------------------------------------------------------------------------------------------


def shapes_of(layer):
    return [parameter.shape for parameter in layer.module().parameters()]


def test_flop_are_the_operators_macs_and_bytes_the_arrays(bar):
    rows = {(row.name, row.direction): row for layer in LAYERS for row in kernels.measure(layer, LIMITS, 1, False, bar)}
    macs = OPERATORS["depthwise_conv2d"].macs((1, 6, 6, 8), (3, 3, 8), stride=1, padding="same")
    assert macs == 36 * 9 * 8
    assert rows["depthwise", "forward"].flop == 2 * macs
    assert rows["depthwise", "backward"].flop == 4 * macs
    assert rows["depthwise", "forward"].nbytes == 4 * (288 + 72 + 288)
    assert rows["depthwise", "backward"].nbytes == 4 * (288 + 288 + 72 + 288 + 72)  # dy, x, w, dx, dw
    assert rows["regular", "forward"].flop == 2 * 36 * 9 * 36
    assert rows["Inception-style", "forward"].flop == 2 * 36 * (36 + 9 * 36 // 3)
    assert rows["separable", "forward"].flop == 2 * 36 * (6 * 9 + 36)
    assert rows["batchnorm", "forward"].flop == rows["max pool", "backward"].flop == 0
    assert rows["max pool", "forward"].nbytes == 4 * 288 + 4 * 72 + 72  # x, y, and a byte for each winner
    for row in rows.values():
        assert 0 < row.share(OURS) < 1.5
        assert row.limited_by in ("arithmetic", "memory")
        assert (row.threads, set(row.times), row.differences) == (1, {OURS}, {})


@pytest.mark.slow  # to compile; what it measures are the strips of cpu/gemm.py, which every product is tested with
def test_the_tile_is_limited_by_arithmetic_alone(bar, monkeypatch):
    monkeypatch.setattr(tile, "_PRODUCTS", 2)
    row = tile.measure(LIMITS, 1, bar)
    assert (row.nbytes, row.limited_by) == (0, "arithmetic")
    assert row.flop % (2 * tile.ROW_BLOCK * tile.K_BLOCK) == 0
    assert row.bound == row.flop / LIMITS.fma_flops


@pytest.mark.slow
def test_the_tile_multiplies():
    m, k, width = 4, 3, tile.panel_width(np.dtype(np.float32))
    a = np.arange(m * k, dtype=np.float32).reshape(1, m, 1, 1, k)
    b = np.arange(k * width, dtype=np.float32).reshape(k, width)
    packed, c = np.empty((1, k, width), np.float32), np.empty((1, m, width), np.float32)
    tile._products(a, b, packed, c, 2)
    np.testing.assert_allclose(c[0], a[0, :, 0, 0] @ b)


def test_results_that_differ_are_an_error():
    ours = np.array([1.0, 0.0])
    assert require_equal("y", ours, np.array([1.0, 1e-6])) == pytest.approx(1e-6, rel=1e-3)
    for wrong in (np.array([1.0, 1e-4]), np.array([1.0, np.nan])):
        with pytest.raises(ArithmeticError, match="y: the results differ by"):
            require_equal("y", ours, wrong)


# Networks and peers ---------------------------------------------------------------------------------------------------


def test_networks_beside_a_peer(bar):
    everybody = contestants.ours(training=False) | {"someone": peers.Peer(("a library",), fakes.logits)}
    row = models.measure(NETWORKS[0], LIMITS, 1, everybody, bar, Here)
    assert list(row.times) == [f"{OURS} compiled", f"{OURS} eager", "someone"]
    assert row.ours is row.times[f"{OURS} compiled"]
    assert set(row.differences) == {f"{OURS} eager", "someone"}
    assert row.direction == "forward"
    everybody["someone"] = peers.Peer(("a library",), fakes.ones)
    with pytest.raises(ArithmeticError, match="logits, someone"):
        models.measure(NETWORKS[0], LIMITS, 1, everybody, bar, Here)


def test_a_training_step_counts_three_forward_passes(bar):
    forward, step = (models.measure(n, LIMITS, 1, contestants.ours(n.training), bar, Here) for n in NETWORKS)
    assert step.flop == 3 * forward.flop > 0
    assert (step.direction, list(step.times)) == ("training step", [f"{OURS} compiled", f"{OURS} eager"])
    assert forward.nbytes == 4 * (NETWORKS[0].model().num_parameters() + 2 * 32 * 32 * 3)


@pytest.mark.parametrize(("fake", "reason"), fakes.FAILING.items(), ids=[build.__name__ for build in fakes.FAILING])
def test_a_peer_that_fails_is_left_out_with_the_reason_and_our_own_is_an_error(fake, reason, bar, capsys):
    def start(build):
        return (Apart if build.args[1] is fake else Here)(build)

    everybody = contestants.ours(training=False) | {"someone": peers.Peer(("a library",), fake)}
    row = models.measure(NETWORKS[0], LIMITS, 1, everybody, bar, start)
    assert list(row.times) == list(row.differences | {f"{OURS} compiled": 0})[::-1] == list(contestants.ours(False))
    assert capsys.readouterr().err == f"someone is left out: {reason}\n"
    with pytest.raises(ChildProcessError, match=f"us: {reason}"):
        models.measure(NETWORKS[0], LIMITS, 1, {"us": peers.Peer((), fake)}, bar, start)


def test_peers_that_are_not_installed_are_left_out_with_a_line(monkeypatch):
    for library in ("torch", "onnx", "onnxruntime", "openvino", "tensorflow", "ai_edge_litert"):
        monkeypatch.setitem(sys.modules, library, None)  # import then raises ImportError
    lines = []
    assert peers.installed(peers.INFERENCE, lines.append) == {}
    assert lines == [f"{name} is left out: {peer.needs[0]} is not installed" for name, peer in peers.INFERENCE.items()]
    assert peers.versioned() == ()


def test_without_tensorflow_only_what_is_made_of_its_graph_is_left_out(monkeypatch):
    for library in ("torch", "onnx", "onnxruntime", "openvino", "ai_edge_litert"):
        monkeypatch.setitem(sys.modules, library, module_from_spec(ModuleSpec(library, None)))
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    lines = []
    without = [name for name in peers.INFERENCE if name not in ("tensorflow", "litert")]
    assert list(peers.installed(peers.INFERENCE, lines.append)) == without
    assert lines == [f"{name} is left out: tensorflow is not installed" for name in ("tensorflow", "litert")]


def test_versions_are_those_of_the_distributions_that_libraries_come_in(monkeypatch):
    monkeypatch.setattr(peers, "INFERENCE", {"images": peers.Peer(("PIL",), print)})
    assert [name.lower() for name in peers.versioned()] == ["pillow"]


def gradients_beside(network, someone, bar):
    everybody = contestants.ours(training=True) | {"someone": peers.Peer(("a library",), someone)}
    with models.equal(network, 1, everybody, bar, Here) as (_, differences):
        return differences


def test_gradients_that_rounding_explains_are_equal(bar):
    differences = gradients_beside(LINEAR, fakes.training(off=1e-3), bar)
    assert differences["someone"] == pytest.approx(1e-3, rel=1e-2)
    assert differences[f"{OURS} compiled"] < 1e-5


@pytest.mark.parametrize(
    ("mistake", "found"),
    [
        ({"off": 0.1}, "gradients in float32 and in float64"),
        ({"lr": 0.011}, "gradients of the third step in float64"),
        ({"momentum": 0.0}, "gradients of the third step in float64"),
        ({"alter": fakes.with_another_bias}, "gradients of the first step in float64"),
    ],
    ids=["float32", "lr", "momentum", "another network"],
)
def test_gradients_that_differ_are_an_error(mistake, found, bar):
    with pytest.raises(ArithmeticError, match=f"^{found}, someone: the results differ by"):
        gradients_beside(LINEAR, fakes.training(**mistake), bar)


@pytest.mark.slow  # for the kernels in float64
@pytest.mark.parametrize("alter", [fakes.without_a_relu, fakes.with_another_stride, fakes.with_another_eps])
def test_a_layer_that_differs_is_an_error(alter, bar):
    assert gradients_beside(NETWORKS[1], fakes.training(), bar)["someone"] < 1e-3
    with pytest.raises(ArithmeticError, match="gradients of the first step in float64, someone: the results differ by"):
        gradients_beside(NETWORKS[1], fakes.training(alter=alter), bar)


@pytest.mark.slow  # for the kernels in float64
@pytest.mark.parametrize("draw", range(5))
def test_gradients_of_a_whole_network_are_never_unequal_by_luck(draw, bar, monkeypatch):
    """Of any images: in float32 some of them open a ReLU that is closed in float64."""
    images = np.random.default_rng(draw).uniform(-1, 1, (64, 32, 32, 3)).astype(np.float32)
    monkeypatch.setattr(contestants, "random_batch", lambda model, size: (images, np.arange(64) % 10))
    network = Workload("mini_xception 32", mini_xception, 64, training=True)
    with models.equal(network, numba.get_num_threads(), contestants.ours(training=True), bar, Here) as (_, found):
        assert found[f"{OURS} compiled"] > 0


# Layers ---------------------------------------------------------------------------------------------------------------


def test_each_step_of_a_compiled_network_has_its_time_and_its_limit(bar):
    net = NETWORKS[0]
    rows = layers.measure(net, LIMITS, 3, bar)
    model = net.model()
    paths = [path for row in rows for path in row.name.split(" + ")]
    assert len(rows) < len(paths) == len(set(paths))
    assert sum(row.flop for row in rows) == 2 * net.batch * cost.table(model, model.input_shape).macs
    assert rows[0].nbytes == 4 * (2 * 32 * 32 * 3 + 9 * 3 * 8 + 2 * 32 * 32 * 8)
    for row in rows:
        assert row.ours.median > 0
        assert row.bound == LIMITS.seconds(row.flop, row.nbytes)
        assert (row.threads, row.direction) == (1, "forward")


def test_what_loses_most_time_comes_first():
    def step(name, milliseconds, least):
        time_taken = Timing(*[1e-3 * milliseconds] * 3)
        return measurement.Measurement(name, "forward", 1, 1, 1, 1e-3 * least, "memory", {OURS: time_taken}, {})

    table = layers.table([step("near", 9.0, 8.5), step("far", 5.0, 3.0), step("below", 1.0, 1.5)])
    assert [row[0] for row in table.rows] == ["far", "near", "below"]
    assert table.rows[0][1:] == pytest.approx((5.0, 3.0, "memory", "60%", 2.0))
    assert table.total == ("3 steps", pytest.approx(15.0), pytest.approx(13.0), "", "87%", pytest.approx(2.0))


# The command ----------------------------------------------------------------------------------------------------------


def test_help(capsys):
    with pytest.raises(SystemExit) as left:
        cli.main(["bench", "--help"])
    assert left.value.code == 0
    assert "--malloc {default,tuned}" in capsys.readouterr().out


def test_tables_json_result_file_and_figure(small, capsys, tmp_path):
    out, figure = tmp_path / "bench.json", tmp_path / "roofline.svg"
    status, printed, progress = run(capsys, "--no-peers", "--json", "--out", out, "--figure", figure)
    assert status == 0
    data, written = json.loads(printed), json.loads(out.read_text())
    assert written["command"].startswith("minixception bench --what all --threads 1 --repeats 1 --no-peers --malloc ")
    assert data["machine"] == written["machine"]
    assert data["machine"]["malloc"] in ("default", "tuned")
    assert data["machine"]["simd_bits"] == 32 * limits.lanes(np.float32)
    for part in ("limits", "kernels", "layers", "models"):
        assert data[part] == written[part]
    assert len(data["kernels"]) == 1 + 2 * len(LAYERS)
    assert {"name", "direction", "threads", "flop", "nbytes", "bound", "limited_by", "times", "differences"} <= set(
        data["kernels"][1]
    )
    for row in data["kernels"] + data["layers"] + data["models"]:
        for who, found in row["times"].items():
            assert found["low"] <= found["median"] <= found["high"]
            assert row["share_of_limit"][who] == pytest.approx(row["bound"] / found["median"])
            assert row["bound"] > 0
            # The register tile reaches the limit, and past it on a machine that was busy while the limit was measured.
            assert row["share_of_limit"][who] < 1.5 or row["name"].startswith("register tile")
    assert "measuring the machine's limits, 1 thread" in progress
    assert ElementTree.parse(figure).getroot().tag.endswith("svg")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bench.json", "roofline.svg"]


def test_tables_on_the_terminal(small, capsys, monkeypatch):
    monkeypatch.setattr(command, "Apart", Apart)
    status, printed, _ = run(capsys, "--no-peers")
    assert status == 0
    for words in ("The machine's limits", "Operators", "Networks", "Inception-style", "training step", "register tile"):
        assert words in printed


def test_layers_alone(small, capsys, tmp_path):
    status, printed, _ = run(capsys, "--what", "layers", "--out", tmp_path / "layers.json")
    assert status == 0
    title = printed.index("Layers of a compiled network, 1 thread")
    assert "Operators" not in printed
    assert "Networks" not in printed
    found = command.Report.from_json(json.loads((tmp_path / "layers.json").read_text()))
    assert str(found)[title:] == printed.rstrip("\n")[title:]
    assert (found.kernels, found.models) == ([], [])


def test_layers_of_a_gpu_are_refused(capsys):
    status, _, message = run(capsys, "--what", "layers", "--device", "cuda")
    assert status == 2
    assert "--what layers is about the CPU" in message


def test_without_peers_installed(small, capsys, monkeypatch):
    for library in ("torch", "tensorflow"):
        monkeypatch.setitem(sys.modules, library, None)
    status, printed, progress = run(capsys, "--what", "models")
    assert status == 0
    assert progress.count(" is left out: ") == len(peers.INFERENCE)
    assert "Operators" not in printed


def test_unequal_results_fail(small, capsys, monkeypatch):
    def unequal(*arguments):
        raise ArithmeticError("logits, someone: the results differ by 1")

    monkeypatch.setattr(models, "measure", unequal)
    status, printed, progress = run(capsys, "--what", "models", "--no-peers")
    assert (status, printed) == (1, "")
    assert progress.endswith("minixception: logits, someone: the results differ by 1\n")


def test_a_figure_of_networks_is_refused(capsys, tmp_path):
    status, _, message = run(capsys, "--what", "models", "--figure", tmp_path / "f.svg")
    assert status == 2
    assert "--figure draws operators" in message


def test_tuned_malloc_starts_the_same_command_anew(capsys, monkeypatch, tmp_path):
    started = []
    for name in malloc._TUNED:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(malloc.platform, "libc_ver", lambda: ("glibc", "2.39"))
    monkeypatch.setattr(malloc.subprocess, "run", lambda command, env: started.append((command, env)) or Done)
    out = tmp_path / "bench.json"
    status, _, _ = run(capsys, "--what", "kernels", "--no-peers", "--json", "--malloc", "tuned", "--out", out)
    assert status == Done.returncode
    (arguments, environment), = started  # fmt: skip
    assert arguments[1:4] == ["-m", "minixception", "bench"]
    assert environment["MALLOC_MMAP_THRESHOLD_"] == "8589934592"
    assert environment["MALLOC_TRIM_THRESHOLD_"] == "17179869184"
    asked = cli.parser().parse_args(arguments[3:])
    assert (asked.what, asked.threads, asked.repeats, asked.peers, asked.json) == ("kernels", [1], 1, False, True)
    assert (asked.malloc, asked.out, asked.figure) == ("tuned", out, None)
    monkeypatch.setattr(malloc.platform, "libc_ver", lambda: ("", ""))
    with pytest.raises(ArgumentError, match="glibc"):
        malloc.rerun_tuned(["bench"])


class Done:
    returncode = 7


# The figure -----------------------------------------------------------------------------------------------------------


def test_the_roofline_names_each_operator_once_and_no_two_names_overlap():
    points = [
        viz.RooflinePoint(f"operator {i}", direction, 1 + i, 1e11 + share)
        for i in range(12)
        for direction, share in (("forward", 0), ("backward", 1e9))
    ]
    figure = viz.roofline(LIMITS, points)
    figure.draw_without_rendering()
    texts = {t.get_text(): t for t in figure.axes[0].texts}
    names = [Text.get_window_extent(texts[f"operator {i}"]) for i in range(12)]
    assert not any(a.overlaps(b) for i, a in enumerate(names) for b in names[:i])
    assert all(box.x0 >= 0 and box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1 for box in names)
    assert sum(text.startswith("operator") for text in texts) == 12


def test_a_roofline_needs_positive_points():
    with pytest.raises(ArgumentError, match="at least one point"):
        viz.roofline(LIMITS, [])
    with pytest.raises(ArgumentError, match="must be positive"):
        viz.roofline(LIMITS, [viz.RooflinePoint("pool", "forward", 0.0, 0.0)])


def test_a_report_draws_only_what_has_arithmetic_and_bytes(bar):
    rows = [row for layer in LAYERS for row in kernels.measure(layer, LIMITS, 1, False, bar)]
    figure = command.Report([LIMITS], rows).figure()
    words = {t.get_text() for t in figure.axes[0].texts}
    assert {"depthwise", "regular", "separable", "Inception-style"} <= words
    assert not {"batchnorm", "max pool"} & words
    assert isinstance(measurement.EQUAL, float)
