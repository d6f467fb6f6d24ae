"""The benchmark of the GPU without one: all but the timing itself runs here, at tiny sizes and with a fake clock."""

from __future__ import annotations

import json
import sys
from importlib.machinery import ModuleSpec
from importlib.util import module_from_spec
from types import SimpleNamespace

import numpy as np
import pytest

from minixception import nn
from minixception.apps import cli
from minixception.bench import kernels as cpu_kernels
from minixception.bench import models, peers
from minixception.bench.contestants import Workload
from minixception.bench.cuda import command, kernels, limits, targets
from minixception.bench.cuda.command import GpuReport
from minixception.bench.cuda.limits import GpuLimits
from minixception.bench.measurement import Measurement
from minixception.engine.op import Rung
from minixception.errors import BackendError, DeviceMemoryError
from minixception.gpu import kernel as gpu
from minixception.gpu.device import to_cpu, to_gpu
from minixception.timing import Timing
from tests.helpers import contestants as fakes

DEVICE = SimpleNamespace(
    name=b"A GPU", compute_capability=(9, 0), MULTIPROCESSOR_COUNT=2, L2_CACHE_SIZE=1 << 20, CLOCK_RATE=1_000_000,
    MEMORY_CLOCK_RATE=500_000, GLOBAL_MEMORY_BUS_WIDTH=512,
)  # fmt: skip
FOUND = GpuLimits("A GPU", "9.0", 2, 1 << 20, fma_flops=5e11, copy=6e10, nominal_flops=5.12e11, nominal_copy=6.4e10)
LAYERS = (
    cpu_kernels.Workload("depthwise", lambda: nn.DepthwiseConv2d(3), (1, 2, 3, 3)),
    cpu_kernels.Workload("pointwise", lambda: nn.PointwiseConv2d(3, 4), (1, 1, 3, 3)),
    cpu_kernels.Workload("batchnorm", lambda: nn.BatchNorm2d(3), (2, 3, 2, 3)),
)


def tiny():
    """As few threads as an image network can have."""
    model = nn.Sequential(nn.GlobalAvgPool(), nn.Linear(3, 10))
    model.input_shape = (1, 2, 3)
    return model


NETWORKS = tuple(Workload("tiny", tiny, 2, training) for training in (False, True))


def keep(report):
    """Nothing."""


def counted(function):
    """A clock on which every call takes a second."""
    function()
    return 1.0


# Kernels --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def untimed(monkeypatch):
    """Checks without the timing: the simulator is slow."""
    second = Timing(1.0, 1.0, 1.0)
    monkeypatch.setattr(kernels, "interleaved", lambda functions, **_: dict.fromkeys(functions, second))


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: layer.name)
def test_every_rung_is_timed_at_the_cost_of_the_operator(layer, bar, untimed):
    rows = kernels.measure(layer, FOUND, 1, False, counted, bar)
    prepared = cpu_kernels.prepare(layer)
    rungs = [name for name in prepared.stages[0].op.rungs if name.startswith("cuda")]
    for row, one in zip(rows, prepared.passes, strict=True):
        assert list(row.times) == rungs[::-1]
        assert row.times["cuda"] is row.ours
        assert (row.direction, row.flop, row.nbytes) == (one.direction, one.flop, one.nbytes)
        assert row.bound == max(one.flop / FOUND.fma_flops, one.nbytes / FOUND.copy)
        assert all(0 <= value < 1e-5 for value in row.differences.values())
        assert set(row.differences) == set(rungs)


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_a_rung_that_computes_something_else_is_not_timed(direction, bar, monkeypatch):
    op = cpu_kernels.prepare(LAYERS[0]).stages[0].op
    right = op.rungs["cuda_coalesced"]

    def wrong_forward(x, w, **params):
        y, saved = right.forward(x, w, **params)
        return to_gpu(to_cpu(y) * np.float32(1.001)), saved

    def wrong_backward(dy, saved):
        dx, dw = right.backward(dy, saved)
        return dx, to_gpu(to_cpu(dw) * np.float32(1.001))

    wrong = Rung(wrong_forward, right.backward) if direction == "forward" else Rung(right.forward, wrong_backward)
    monkeypatch.setitem(op.rungs, "cuda_coalesced", wrong)
    with pytest.raises(ArithmeticError, match=f"depthwise, {direction}, cuda_coalesced: the results differ by 1.0e-03"):
        kernels.measure(LAYERS[0], FOUND, 1, False, counted, bar)


def test_one_that_computes_something_else_is_named_and_the_others_are_timed(pretended, monkeypatch):
    def measure(layer, *_):
        if layer is LAYERS[0]:
            raise ArithmeticError("depthwise, forward, cuda: the results differ by 1.0e-03")
        return [row(layer.name, "forward", {"cuda": 1.0})]

    kept = []
    monkeypatch.setattr(kernels, "WORKLOADS", LAYERS)
    monkeypatch.setattr(kernels, "measure", measure)
    found = GpuReport(FOUND, {})
    command.measure_kernels(found, 1, False, Late(), lambda report: kept.append(len(report.kernels)))
    assert found.wrong == ["depthwise, forward, cuda: the results differ by 1.0e-03"]
    assert [one.name for one in found.kernels] == ["pointwise", "batchnorm"]
    assert kept == [0, 1, 2]
    assert "Wrong: depthwise, forward, cuda: the results differ by 1.0e-03." in str(found)


def test_what_is_slow_is_called_three_times(bar, monkeypatch):
    calls = []
    monkeypatch.setattr(kernels, "interleaved", lambda runs, repeats, **_: calls.append(repeats) or dict.fromkeys(runs))
    monkeypatch.setattr(kernels, "compare", lambda *arguments: arguments[-1]({"quick": 0.01, "slow": 0.4}))
    monkeypatch.setattr(kernels, "_ours", lambda layer: {})
    assert list(kernels.measure(LAYERS[0], FOUND, 9, False, lambda seconds: seconds, bar)) == ["quick", "slow"]
    assert calls == [9, 3]


def test_the_sizes_are_those_of_the_targets():
    assert {layer.x for layer in kernels.WORKLOADS} == {(32, 19, 19, 728), (32, 147, 147, 64)}
    assert [(net.batch, net.training) for net in command.NETWORKS][:2] == [(32, False), (32, True)]
    for layer in kernels.WORKLOADS:
        (stage,) = cpu_kernels._stages(layer.module(), layer.x)
        assert "cuda_naive" in stage.op.rungs
    *_, batchnorm = kernels.WORKLOADS
    assert cpu_kernels._stages(batchnorm.module(), batchnorm.x)[0].params["training"]


# Targets --------------------------------------------------------------------------------------------------------------


def row(name, direction, seconds, nbytes=0):
    times = {who: Timing(value, value, value) for who, value in seconds.items()}
    return Measurement(name, direction, 1, 0, nbytes, 1.0, "memory", times, {})


def test_the_better_layout_of_pytorch_counts():
    slow = {"cuda": 1.0, "cuda_naive": 9.0, "torch channels_last": 0.9, "torch contiguous": 2.0}
    (speed,) = targets.judge([row("depthwise 3x3", "backward", slow)], FOUND)
    assert (speed.measured, speed.at_least, speed.verdict) == (0.9, 1.0, "missed")
    (speed,) = targets.judge([row("Xception 299, batch 32", "training step", slow)], FOUND)
    assert speed.at_least == pytest.approx(0.769, abs=1e-3)
    assert speed.verdict == "met"


def test_shares_of_bandwidth_count_what_must_cross_the_bus():
    half = int(0.5 * FOUND.copy)
    alone = {"cuda": 1.0}
    forward, backward = ([row("batchnorm", direction, alone, half)] for direction in ("forward", "backward"))
    assert targets.judge(forward, FOUND)[0].measured == pytest.approx(0.75)  # x, x and y for x and y
    assert targets.judge(backward, FOUND)[0].measured == pytest.approx(5 / 6)  # x, dy, x, dy, dx for x, dy and dx
    speed, share = targets.judge([row("depthwise 3x3", "forward", alone, half)], FOUND)
    assert (speed.verdict, share.measured, share.verdict) == ("not measured", pytest.approx(0.5), "missed")


def test_every_job_of_the_run_but_the_small_network_has_a_target():
    jobs = [(layer.name, direction) for layer in kernels.WORKLOADS for direction in ("forward", "backward")]
    jobs += [(f"{n.name}, batch {n.batch}", "training step" if n.training else "forward") for n in command.NETWORKS]
    without = [job for job in jobs if not targets.judge([row(*job, {"cuda": 1.0})], FOUND)]
    assert {name for name, _ in without} == {"mini_xception 32, batch 64"}


# The report, the command and the page ---------------------------------------------------------------------------------


def report():
    times = {"cuda": 1e-3, "cuda_naive": 4e-3, "torch channels_last": 2e-3}
    forward = row("depthwise 3x3, 32x19x19x728", "forward", times, 30_000_000)
    net = row("Xception 299, batch 32", "forward", {"minixception eager": 0.2, "torch contiguous": 0.1})
    return GpuReport(FOUND, {"torch": "2.9", "tf32_matmul": False}, [forward], [net], ["depthwise 3x3"], ["VGG"])


def test_the_report_survives_json():
    data = json.loads(json.dumps(report().to_json()))
    assert GpuReport.from_json(data | {"date": "today"}) == report()
    assert [one["verdict"] for one in data["targets"]] == ["met", "missed", "missed"]


def test_the_report_says_what_the_tables_do_not():
    text = str(report())
    for words in (
        "A GPU, compute capability 9.0",
        "Kernels: the GPU's time alone",
        "tf32_matmul False",
        "cuda_naive",
        "Left out: VGG.",
        "Python's",
    ):
        assert words in text
    assert "Networks" not in str(GpuReport(FOUND, {"left out": "not asked for"}))


class Late:
    """A clock that is late with every call."""

    def __init__(self, *arguments):
        self.late = 0

    def __call__(self, function):
        self.late += 1
        return counted(function)


@pytest.fixture
def pretended(monkeypatch):
    """A GPU for the command: the simulator's arrays and kernels at tiny sizes, and a clock of our own."""
    monkeypatch.setattr(command, "require_device", lambda: None)
    monkeypatch.setattr(command, "QueuedClock", Late)
    monkeypatch.setattr(command, "EventClock", Late)
    monkeypatch.setattr(limits, "measure", lambda device, clock: FOUND)
    monkeypatch.setattr(limits, "filler", lambda: None)
    monkeypatch.setattr(gpu.numba_cuda(), "get_current_device", lambda: DEVICE, raising=False)
    monkeypatch.setattr(kernels, "WORKLOADS", LAYERS[1:2])
    monkeypatch.setattr(command, "NETWORKS", NETWORKS)


def test_the_command_writes_a_result_and_prints_it(pretended, capsys, tmp_path):
    out = tmp_path / "bench_cuda.json"
    arguments = ["bench", "--device", "cuda", "--what", "kernels", "--repeats", "2", "--no-peers"]
    assert cli.main([*arguments, "--json", "--out", str(out)]) == 0
    printed, progress = capsys.readouterr()
    written = json.loads(out.read_text())
    assert written["command"] == "minixception bench --device cuda --what kernels --repeats 2 --no-peers"
    assert GpuReport.from_json(written).late == ["pointwise"]
    assert written["peer"] == {"left out": "not asked for"}
    assert (written["repeats"], len(written["kernels"]), written["models"]) == (2, 2, [])
    assert json.loads(printed)["kernels"] == written["kernels"]
    assert written["kernels"][0]["times"]["cuda"]["median"] == 1.0
    assert "PyTorch is left out: not asked for" in progress


@pytest.mark.parametrize("training", [False, True])
def test_networks_run_on_the_gpu_beside_pytorch(training, pretended, monkeypatch):
    """PyTorch's part is played by our own network on the CPU."""
    monkeypatch.setattr(command, "NETWORKS", [net for net in NETWORKS if net.training == training])
    monkeypatch.setattr(command, "on_gpu", lambda kind: {"torch someone": peers.Peer(("torch",), PLAYED[kind])})
    found = GpuReport(FOUND, {"torch": "2"})
    command.measure_networks(found, 1, True, counted, keep)
    (one,) = found.models
    assert one.direction == ("training step" if training else "forward")
    assert list(one.times)[-1] == "torch someone"
    assert all(value < 1e-3 for value in one.differences.values())


PLAYED = {"inference": fakes.logits, "training": fakes.training(off=1e-4)}


def test_a_network_that_does_not_fit_is_left_out_with_the_reason(pretended, monkeypatch):
    class OutOfMemoryError(RuntimeError):
        """As PyTorch's."""

    errors = iter([OutOfMemoryError("CUDA out of memory. Tried to"), DeviceMemoryError("no room for an array")])

    def measure(*arguments):
        raise next(errors)

    monkeypatch.setattr(models, "measure", measure)
    found = GpuReport(FOUND, {})
    command.measure_networks(found, 1, False, counted, keep)
    assert found.left_out == [
        "tiny, batch 2, inference: the GPU's memory is too small",
        "tiny, batch 2, training: the GPU's memory is too small",
    ]
    errors = iter([RuntimeError("something else")])
    with pytest.raises(RuntimeError, match="something else"):
        command.measure_networks(found, 1, False, counted, keep)


# Without a GPU --------------------------------------------------------------------------------------------------------


def test_the_simulator_is_refused(capsys, tmp_path):
    out = tmp_path / "bench_cuda.json"
    assert cli.main(["bench", "--device", "cuda", "--out", str(out)]) == 2
    assert "those of the simulator mean nothing" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_without_a_gpu_the_error_says_what_is_missing(monkeypatch):
    absent = SimpleNamespace(cuda_error=lambda: "\nCUDA driver library\ncannot be found.\n")
    monkeypatch.setattr(gpu, "is_simulated", lambda: False)
    monkeypatch.setattr(gpu, "is_available", lambda: False)
    monkeypatch.setattr(gpu, "numba_cuda", lambda: absent)
    with pytest.raises(BackendError, match=r"needs an NVIDIA GPU.* Missing: CUDA driver library cannot be found\."):
        command.run("all", 1, True)
    absent.cuda_error = lambda: None
    with pytest.raises(BackendError, match="Missing: Numba finds no NVVM library"):
        command.run("all", 1, True)


@pytest.mark.parametrize("option", [["--figure", "f.svg"], ["--malloc", "tuned"]])
def test_options_of_the_cpu_are_refused(option, capsys):
    assert cli.main(["bench", "--device", "cuda", *option]) == 2
    assert "are about the CPU" in capsys.readouterr().err


def test_pytorch_that_cannot_be_timed_is_left_out_with_a_line(monkeypatch, capsys):
    def settings(beside):
        with command._peer(beside, 7) as found:
            return found

    monkeypatch.setitem(sys.modules, "torch", None)
    assert settings(True) == {"left out": "torch is not installed"}
    assert settings(False) == {"left out": "not asked for"}
    assert capsys.readouterr().err.count("PyTorch is left out") == 2
    monkeypatch.setitem(sys.modules, "torch", module_from_spec(ModuleSpec("torch", None)))
    ours = SimpleNamespace(compared=None, why_not=lambda: "PyTorch 2.9 was built without CUDA")
    monkeypatch.setitem(sys.modules, "minixception.bench.cuda.torch_gpu", ours)
    assert settings(True) == {"left out": "PyTorch 2.9 was built without CUDA"}
