"""Where things run: the trainer and evaluation on the GPU, and the option --device.

In Numba's simulator, like tests/test_cuda.py, and so on a network of four small layers and images of 4x4 pixels.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import sys

import numba
import numpy as np
import pytest

import minixception as mx
from minixception import nn
from minixception.apps import cli, commands, demo
from minixception.data import Dataset
from minixception.engine.tensor import Tensor
from minixception.errors import ArgumentError, BackendError, NumericError
from minixception.gpu import kernel as gpu
from minixception.gpu.device import is_on_gpu, to_gpu
from minixception.training import RECIPES, Interrupted, Recipe, Trainer, evaluate, read_checkpoint
from minixception.training.evaluate import device_of
from minixception.training.measure import measure
from tests.helpers.processes import python

pytestmark = pytest.mark.gpu
NETWORK = {
    "widths": (4,),
    "middle_blocks": 1,
    "stem": 4,
}  # no larger than tiny_network, as a checkpoint's recipe must be
TINY = Recipe(epochs=2, batch_size=2, seed=3, lr=0.05, ema_decay=0.9, label_smoothing=0.1, **NETWORK)
WITH_DEVICE = ("train", "demo", "evaluate", "predict", "serve")


def tiny_network(recipe, num_classes, image_shape):
    """Takes the place of ``Recipe.make_model``: the simulator is slow."""
    layers = nn.Conv2d(3, 4, 3, stride=2), nn.BatchNorm2d(4), nn.Activation("relu"), nn.GlobalAvgPool()
    return nn.Sequential(*layers, nn.Linear(4, num_classes))


def tiny_data(number, seed=0, classes="abcdef"):
    """Random images, 4x4."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (number, 4, 4, 3), dtype=np.uint8)
    return Dataset(images, rng.integers(0, len(classes), number), tuple(classes))


@contextlib.contextmanager
def everything_tiny():
    """Recipes make the tiny network, and the data is tiny."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Recipe, "make_model", tiny_network)
        patched.setitem(RECIPES, "demo", TINY)
        for module in (mx.data, commands.train, commands.evaluate):
            patched.setattr(module, "load", lambda spec, split, **_: tiny_data(4 if split == "train" else 3))
        yield


@pytest.fixture(autouse=True, scope="module")
def tiny():
    with everything_tiny():
        yield


def trainer(folder, device, resume=False, recipe=TINY):
    return Trainer(recipe, tiny_data(4), tiny_data(3), folder, resume=resume, device=device)


def outcome(run):
    """The log without times, and all arrays of the checkpoint."""
    log = [json.loads(line) for line in (run.folder / "log.jsonl").read_text().splitlines()]
    parts = read_checkpoint(run.path).parts
    arrays = {f"{part}/{name}": array for part, named in parts.items() for name, array in named.items()}
    return [{name: value for name, value in record.items() if name != "seconds"} for record in log], arrays


def assert_same_outcome(got, expected):
    """The logs agree to 1e-5 and so do the arrays, relative to the largest number of each."""
    assert [set(record) for record in got[0]] == [set(record) for record in expected[0]]
    for record, right in zip(got[0], expected[0], strict=True):
        assert list(record.values()) == pytest.approx([right[name] for name in record], rel=1e-5)
    assert got[1].keys() == expected[1].keys()
    for name, array in expected[1].items():
        assert (got[1][name].dtype, got[1][name].shape) == (array.dtype, array.shape)
        np.testing.assert_allclose(got[1][name], array, rtol=1e-5, atol=1e-5 * np.abs(array).max(), err_msg=name)


@pytest.fixture(scope="module")
def on_the_cpu(tmp_path_factory):
    """The outcome of the tiny run, all of it on the CPU."""
    run = trainer(tmp_path_factory.mktemp("cpu"), "cpu")
    run.run()
    return outcome(run)


# Training and evaluation ----------------------------------------------------------------------------------------------


def arrays_of(run):
    """Everything a trainer holds that should be where it trains."""
    tensors = [t.data for _, t in run.model.named_tensors()]
    return [*tensors, *run.optimizer._flat_slots().values(), *run.ema._flat().values()]


@pytest.mark.parametrize("first", ["cuda", pytest.param("cpu", marks=pytest.mark.slow)])
def test_a_run_goes_on_on_the_other_device(first, tmp_path, on_the_cpu, monkeypatch):
    """One of four steps on one device, the second of the first epoch and all after it on the other."""
    original = Trainer.step

    def stepping(self, x, labels):
        assert x.device == self.device
        signal.raise_signal(signal.SIGINT)
        return original(self, x, labels)

    begun = trainer(tmp_path, first)
    with monkeypatch.context() as patched, pytest.raises(Interrupted):
        patched.setattr(Trainer, "step", stepping)
        begun.run()
    other = {"cpu": "cuda", "cuda": "cpu"}[first]
    ended = trainer(tmp_path, other, resume=True)
    assert ended.progress.step == 1
    ended.run()
    for run, device in ((begun, first), (ended, other)):
        assert {is_on_gpu(array) for array in arrays_of(run)} == {device == "cuda"}
    assert_same_outcome(outcome(ended), on_the_cpu)


def test_a_step_reads_one_small_array_back(tmp_path, monkeypatch):
    run = trainer(tmp_path, "cuda")
    kind = type(to_gpu(np.zeros(1)))
    copy_to_host, read = kind.copy_to_host, []
    forward, inputs = nn.Sequential.forward, []

    def reading(self, *arguments, **options):
        read.append(self.size)
        return copy_to_host(self, *arguments, **options)

    def computing(self, x):
        inputs.append(x.device)
        return forward(self, x)

    monkeypatch.setattr(kind, "copy_to_host", reading)
    monkeypatch.setattr(nn.Sequential, "forward", computing)
    run.step(np.ones((2, 4, 4, 3), np.float32), np.array([0, 5]))
    assert read == [1 + 2]
    evaluate(run.model, run.test, batch_size=3)
    assert read == [1 + 2, 1 + 3]
    assert inputs == ["cuda", "cuda"]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_measures_are_those_of_the_cpu(dtype):
    logits = np.random.default_rng(0).integers(0, 4, (4, 140)).astype(dtype)  # many equal, and more than threads
    labels = np.array([7, 139, 130, 0])
    ks = range(1, 141)
    here, there = Tensor(logits), Tensor(logits).to("cuda")
    expected = measure(mx.cross_entropy(here, labels), here, labels, ks)
    assert expected[1:] == [mx.metrics.topk_accuracy(logits, labels, k) for k in ks]
    assert len(set(expected[1:])) == 5  # each row has a rank of its own
    got = measure(mx.cross_entropy(there, labels), there, labels, ks)
    assert got[1:] == expected[1:]
    assert got[0] == pytest.approx(expected[0], rel={"float32": 1e-6, "float64": 1e-14}[dtype])


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_loss_that_is_no_number(device, tmp_path):
    run = trainer(tmp_path, device)
    weight = run.model.parameters()[-1]
    weight.data = Tensor(np.full(weight.shape, np.nan, weight.dtype)).to(device).data
    with pytest.raises(NumericError, match=r"^the loss is nan in epoch 1, step 1: lower the learning rate"):
        run.step(np.ones((2, 4, 4, 3), np.float32), np.array([0, 5]))
    with pytest.raises(NumericError, match=r"^the loss is nan in evaluation"):
        evaluate(run.model, run.test)
    logits = run.model(Tensor(np.ones((1, 4, 4, 3), np.float32)).to(device))
    labels = np.array([0])
    assert all(map(math.isnan, measure(mx.cross_entropy(logits, labels), logits, labels, (1, 5))))


def test_devices_that_are_not_there(tmp_path, monkeypatch):
    with pytest.raises(ArgumentError, match="device must be one of cpu, cuda, got 'tpu'"):
        trainer(tmp_path / "run", "tpu")
    monkeypatch.setattr(gpu, "is_available", lambda: False)
    with pytest.raises(BackendError, match="needs an NVIDIA GPU"):
        trainer(tmp_path / "run", "cuda")
    assert not (tmp_path / "run").exists()


# The option -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", WITH_DEVICE)
def test_the_commands_that_have_it(command, call):
    status, out, _ = call(command, "--help")
    assert status == 0
    assert "--device {cpu,cuda,simulator}" in out
    assert "of a few pixels and channels" in " ".join(out.split())
    assert "invalid choice: 'gpu'" in call(command, "--device", "gpu")[2]


def test_train_and_evaluate_on_the_gpu(tmp_path, call, monkeypatch):
    devices = []
    original = Trainer.step

    def stepping(self, x, labels):
        devices.append(x.device)
        if len(devices) == 2:
            signal.raise_signal(signal.SIGINT)
        return original(self, x, labels)

    monkeypatch.setattr(Trainer, "step", stepping)
    out = tmp_path / "run"
    status, _, err = call("train", "--recipe", "demo", "--epochs", 1, "--out", out, "--device", "cuda")
    assert status == 130
    again = f"minixception train --out {out} --resume --device cuda"
    assert err.splitlines()[-1] == f"stopped in epoch 1 after step 2 of 2; go on with: {again}"
    assert call(*again.split()[1:])[0] == 0
    assert devices == ["cuda", "cuda"]
    record = json.loads((out / "log.jsonl").read_text())
    for device in ("cpu", "cuda"):
        status, text, _ = call("evaluate", out, "--device", device, "--json")
        assert status == 0
        assert json.loads(text)["loss"] == pytest.approx(record["test_loss"], rel=1e-5)


@pytest.fixture
def untrained(monkeypatch):
    """Networks of the package as they are made, in place of downloaded weights."""
    monkeypatch.setattr(nn.Module, "load_weights", lambda model, path: None)


@pytest.fixture
def photo(tmp_path):
    """A photo in a folder of ImageNet's form."""
    from PIL import Image

    path = tmp_path / "val" / "n01440764" / "photo.png"
    path.parent.mkdir(parents=True)
    Image.new("RGB", (8, 8), "red").save(path)
    return path


@pytest.mark.parametrize(("option", "expected"), [((), "cpu"), (("--device", "cuda"), "cuda")])
def test_published_networks_are_put_there(option, expected, photo, tmp_path, untrained, call, monkeypatch):
    devices = []

    def stopping(model, *arguments, **options):
        devices.append(device_of(model))
        raise KeyboardInterrupt

    monkeypatch.setattr(commands.predict, "predict", stopping)
    monkeypatch.setattr(commands.evaluate, "evaluate_imagenet", stopping)
    monkeypatch.setattr(mx.hub, "Hub", stopping)
    assert call("predict", photo, "--model", "mini_xception", *option)[0] == 130
    assert call("serve", "--model", "mini_xception", *option)[0] == 130
    evaluation = ("--model", "mini_xception", "--weights", "imagenet", "--data", f"imagenet:{photo.parents[1]}")
    status, _, err = call("evaluate", *evaluation, "--state", tmp_path / "state.json", *option)
    assert status == 130
    assert ("--device cuda" in err.splitlines()[-1]) == (expected == "cuda")
    assert devices == [expected] * 3


def test_the_demo_is_trained_there(call, monkeypatch):
    seen = []
    monkeypatch.setattr(demo, "run", lambda folder, device: seen.append(device))
    assert call("demo")[0] == 0
    assert call("demo", "--device", "cuda")[0] == 0
    assert seen == ["cpu", "cuda"]


def test_the_demo_predicts_on_the_gpu(tmp_path):
    here, there = trainer(tmp_path, "cpu"), trainer(tmp_path, "cuda")
    data = tiny_data(5)
    np.testing.assert_array_equal(demo._predict(there, data), demo._predict(here, data))


def run_alone(*arguments, first=""):
    """A command in a new process, with everything tiny, where there is neither the variable nor a GPU."""
    code = f"{first}\nimport sys; from tests.training import test_device_option as t; t.main(sys.argv[1:])"
    return python("-c", code, *arguments, MINIXCEPTION_CUDA="", CUDA_VISIBLE_DEVICES="-1", NUMBA_NUM_THREADS=1)


def main(arguments):
    """For ``run_alone``: run the command, print whether numba.cuda and its simulator are in use, exit."""
    with everything_tiny():
        status = cli.main(arguments)
    found = {"cuda": "numba.cuda" in sys.modules, "simulated": bool(numba.config.ENABLE_CUDASIM)}
    print(json.dumps({**found, "variable": os.environ[gpu.VARIABLE]}))
    sys.exit(status)


def test_the_simulator_is_set_up_by_the_option(tmp_path, call):
    options = ("train", "--recipe", "demo", "--epochs", 1, "--out")
    done = run_alone(*options, tmp_path / "there", "--device", "simulator")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {"cuda": True, "simulated": True, "variable": "simulator"}
    assert call(*options, tmp_path / "here")[0] == 0
    losses = [json.loads((tmp_path / run / "log.jsonl").read_text())["train_loss"] for run in ("there", "here")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_the_cpu_needs_no_cuda(tmp_path):
    done = run_alone("train", "--recipe", "demo", "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {"cuda": False, "simulated": False, "variable": ""}


@pytest.mark.parametrize("command", WITH_DEVICE)
def test_no_gpu_is_one_line_that_says_what_to_do(command, tmp_path, call, monkeypatch):
    monkeypatch.setattr(gpu, "is_available", lambda: False)
    more = {
        "train": ("--out", tmp_path / "run"),
        "demo": ("--out", tmp_path / "run"),
        "evaluate": (tmp_path,),
        "predict": (tmp_path / "photo.png",),
        "serve": (),
    }
    status, out, err = call(command, *more[command], "--device", "cuda")
    assert (status, out) == (2, "")
    assert err.startswith(
        "minixception: error: --device cuda needs an NVIDIA GPU with its driver, and none was found: "
    )
    assert "Use --device cpu, or for a tiny network --device simulator" in err
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_no_gpu_in_truth(tmp_path):
    done = run_alone("train", "--out", tmp_path / "run", "--device", "cuda")
    assert done.returncode == 2
    assert done.stderr.startswith("minixception: error: --device cuda needs an NVIDIA GPU")


def test_the_simulator_comes_too_late(tmp_path, call, monkeypatch):
    done = run_alone("train", "--out", tmp_path / "run", "--device", "simulator", first="import numba.cuda")
    assert done.returncode == 2
    assert done.stderr.startswith("minixception: error: MINIXCEPTION_CUDA=simulator comes too late: numba.cuda was")
    assert done.stderr.count("\n") == 1
    monkeypatch.setenv(gpu.VARIABLE, "simulator")  # brings the variable back afterwards
    monkeypatch.setattr(gpu, "is_simulated", lambda: False)  # as if a GPU were in use in this process
    status, _, err = call("train", "--out", tmp_path / "run", "--device", "simulator")
    assert status == 2
    assert err == (
        "minixception: error: --device simulator comes too late: numba.cuda is in use for a GPU. Start Python anew "
        "for it\n"
    )
