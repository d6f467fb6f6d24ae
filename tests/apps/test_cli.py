"""The command line as a user meets it: what each command prints, its messages, and its exit status."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import minixception as mx
from minixception.apps import cli, demo, warmup
from minixception.apps.commands import doctor
from minixception.apps.doctor import Report, _cache_root
from minixception.data import shapes
from minixception.engine.op import Rung
from minixception.ops import OPERATORS
from minixception.training import RECIPES, Interrupted, Trainer, evaluate, read_checkpoint
from tests.helpers.processes import ROOT, python

COMMANDS = (
    *("demo", "course", "train", "evaluate", "predict", "serve", "summary", "cost", "bench", "figures", "reproduce"),
    *("gradcheck", "doctor", "warmup"),
)


def write_images(folder, number=30):
    """A folder of class folders with ``number`` pictures of two classes each: bright and dark noise."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for name, low in (("bright", 100), ("dark", 0)):
        (folder / name).mkdir(parents=True)
        for i in range(number):
            pixels = rng.integers(low, low + 100, (20, 30, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Real files to train on: 48 for training, 12 to test."""
    return write_images(tmp_path_factory.mktemp("images") / "photos")


def training(images, out, *more):
    return ("train", "--recipe", "demo", "--data", f"folder:{images}", "--batch-size", 8, "--out", out, *more)


@pytest.fixture(scope="module")
def trained(images, tmp_path_factory):
    """The folder of a run of two epochs."""
    out = tmp_path_factory.mktemp("runs") / "photos"
    assert cli.main([str(a) for a in training(images, out, "--epochs", 2)]) == 0
    return out


# Help and usage -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command, call):
    status, out, err = call(command, "--help")
    assert status == 0
    assert out.startswith(f"usage: minixception {command}")
    assert not err


def test_help_names_every_command_and_version_the_version(call):
    status, out, _ = call("--help")
    assert status == 0
    assert all(f"\n    {command}" in out for command in COMMANDS)
    assert call("--version") == (0, f"minixception {mx.__version__}\n", "")


def test_the_module_is_the_command_line():
    done = python("-m", "minixception", "summary", "mini_xception", "--json")
    assert done.returncode == 0
    assert json.loads(done.stdout)["trainable"] == 1_004_490
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "required: COMMAND"),
        (("trian",), "invalid choice: 'trian'"),
        (("train", "--epoch"), "--epochs: expected one argument"),
        (("train", "--epochs", "two"), "invalid int value: 'two'"),
        (("train", "--faster"), "unrecognized arguments: --faster"),
        (("train", "--recipe", "imagenet"), "invalid choice: 'imagenet'"),
        (("evaluate",), "required: RUN"),
        (("evaluate", ".", "--split", "val"), "invalid choice: 'val'"),
        (("summary", "vgg"), "invalid choice: 'vgg'"),
        (("summary", "--size", "0"), "at least 1, got 0"),
        (("gradcheck", "nope"), "invalid choice: 'nope'"),
        (("gradcheck", "relu", "--cases", "0"), "at least 1, got 0"),
    ],
)
def test_wrong_usage(arguments, message, call):
    status, out, err = call(*arguments)
    assert status == 2
    assert not out
    assert err.startswith("usage: minixception")
    assert message in err


# Tables ---------------------------------------------------------------------------------------------------------------


def test_summary_and_cost_have_the_papers_totals(call):
    for command in ("summary", "cost"):
        status, out, _ = call(command, "--json")
        assert status == 0
        data = json.loads(out)
        assert (data["params"], data["trainable"], data["macs"]) == (22_910_480, 22_855_952, 8_357_403_496)
        assert sum(layer["params"] for layer in data["layers"]) == 22_910_480
    separable, regular, inception = data["alternatives"]
    assert separable["network_params"] == 22_910_480
    assert regular["params"] == 175_976_064
    assert round(regular["macs"] / 1e9, 2) == 68.17
    assert separable["macs"] < inception["macs"] < regular["macs"]
    for command, number in (("summary", "8,357,403,496"), ("cost", "175,976,064")):
        status, out, err = call(command)
        assert (status, err) == (0, "")
        assert number in out
        assert "22,910,480" in out


def test_another_size_and_the_small_network(call):
    rows = {
        row["name"]: row for row in json.loads(call("summary", "mini_xception", "--size", 64, "--json")[1])["layers"]
    }
    assert rows["input"]["output_shape"] == [64, 64, 3]
    assert rows["block2.pool"]["output_shape"] == [32, 32, 64]
    status, out, err = call("summary", "--size", 70)
    assert (status, out) == (2, "")
    assert err.startswith(
        "minixception: error: Xception: the input must be (n, h, w, c) with h and w of at least 71, got"
    )


def test_a_closed_pipe_is_no_error():
    process = subprocess.Popen(
        [sys.executable, "-m", "minixception", "summary"],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    process.stdout.close()
    message = process.stderr.read()
    process.stderr.close()
    assert (process.wait(), message) == (0, b"")


def test_gradcheck_of_one_operator(call):
    status, out, _ = call("gradcheck", "relu", "--cases", 2)
    assert status == 0
    assert out.count("agrees with finite differences") == 4
    rows = json.loads(call("gradcheck", "relu", "--cases", 2, "--json")[1])
    assert [row["rung"] for row in rows] == ["numpy", "loops", "cpu", "cuda"]  # the simulator


def test_gradcheck_of_a_wrong_gradient_fails(call, monkeypatch):
    op = OPERATORS["relu"]
    right = op.rungs["numpy"]
    wrong = Rung(right.forward, lambda dy, saved: (2 * right.backward(dy, saved)[0],))
    monkeypatch.setitem(OPERATORS, "relu", replace(op, rungs={"numpy": right, "cpu": wrong}))
    status, out, _ = call("gradcheck", "relu", "--json")
    assert status == 1
    results = {row["rung"]: row["result"] for row in json.loads(out)}
    assert results["numpy"] == "agrees with finite differences"
    assert "analytic" in results["cpu"]
    assert "numeric" in results["cpu"]


def test_doctor(call):
    status, out, err = call("doctor")
    assert (status, err) == (0, "")
    assert "What to do next\n- " in out
    data = json.loads(call("doctor", "--json")[1])
    assert {"Numba", "threads", "threading layer", "vector registers", "GPU", "kernel cache"} <= set(data["facts"])


def test_doctor_looks_for_kernels_where_they_are():
    package = Path(mx.__file__).parent
    assert _cache_root(package / "ops" / "depthwise" / "__pycache__") == package
    elsewhere = Path("/elsewhere") / "numba"
    assert _cache_root(elsewhere / "depthwise_0123") == elsewhere
    assert "Nothing: all is well" in str(Report([("a", "b")]))
    assert "- Do this." in str(Report([("a", "b")], ["Do this."]))


def test_warmup_names_every_kernel(call, monkeypatch):
    monkeypatch.setattr(warmup, "OPERATORS", {name: OPERATORS[name] for name in ("add", "reshape", "relu")})
    monkeypatch.setattr(warmup, "MODELS", {})
    status, out, err = call("warmup", "--json")
    assert status == 0
    assert [row["operator"] for row in json.loads(out)] == ["add", "relu"]  # a reshape has no kernel
    assert "compiling relu (cpu, float32)" in err


AFTER_WARMUP = """
import gc
import numpy as np
from numba.core.registry import CPUDispatcher
import minixception as mx
from minixception.apps.warmup import warmup

kernels = lambda: {(k.__module__, k.__qualname__, s) for k in gc.get_objects() if isinstance(k, CPUDispatcher)
                   for s in k.signatures if k.targetoptions.get("parallel")}
warmup()
ready = kernels()
model, images = mx.models.Xception(num_classes=3, input_shape=(96, 96, 3)), np.zeros((2, 96, 96, 3), np.float32)
mx.compile(model.eval())(images)
mx.cross_entropy(model.train()(mx.tensor(images)), np.zeros(2, np.int64)).backward()
print(len(ready) > 30, sorted(kernels() - ready))
"""


@pytest.mark.slow
def test_after_warmup_models_need_no_other_kernels():
    done = python("-c", AFTER_WARMUP)
    assert done.stdout == "True []\n", done.stderr


# Training and evaluation ----------------------------------------------------------------------------------------------


def test_train_writes_a_log_and_evaluate_repeats_its_last_line(trained, call):
    log = [json.loads(line) for line in (trained / "log.jsonl").read_text().splitlines()]
    assert [record["epoch"] for record in log] == [1, 2]
    for run in (trained, trained / "checkpoint.safetensors"):
        status, out, err = call("evaluate", run, "--json")
        assert (status, err) == (0, "")
        assert json.loads(out) == {"images": 12, "loss": log[-1]["test_loss"], "top1": log[-1]["test_top1"]}
    status, out, _ = call("evaluate", trained, "--split", "train")
    assert status == 0
    assert "48 images" in out


def test_a_finished_run_is_not_overwritten_and_resumes_to_its_result(images, trained, call):
    status, _, err = call(*training(images, trained, "--epochs", 2))
    assert status == 2
    assert "holds a run already: resume it, or name another folder" in err
    status, out, _ = call("train", "--out", trained, "--resume")
    assert status == 0
    assert "after 2 epochs; log:" in out
    assert "instead of" not in out
    assert out.endswith(f"use it: minixception predict {trained} PHOTO\n")
    status, _, err = call(*training(images, trained, "--lr", 0.5, "--resume"))
    assert status == 2
    assert "belongs to another recipe (lr: 0.05 -> 0.5): resume with the same settings" in err


def test_an_epoch_is_a_line_where_there_is_no_terminal(images, tmp_path, call):
    status, out, err = call(*training(images, tmp_path / "run", "--epochs", 1))
    assert (status, err) == (0, "")
    assert [line.split("  ")[0] for line in out.splitlines()[1:2]] == ["epoch 1/1"]
    assert len(out.splitlines()) == 4  # the data, the epoch, the result and how to use it


def test_a_finished_run_is_extended(images, trained, tmp_path, call):
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    status, out, _ = call("train", "--out", run, "--resume", "--epochs", 3)
    assert status == 0
    rate = replace(RECIPES["demo"], epochs=3).make_schedule()(2, 0)
    message = (
        f"3 epochs instead of 2: the learning rate follows the schedule of 3 from epoch 3 on, where it is {rate:.4g}"
    )
    assert message in out.splitlines()
    assert "after 3 epochs; log:" in out
    assert "instead of" not in call(*training(images, run, "--resume"))[1]
    status, _, err = call("train", "--out", run, "--resume", "--epochs", 2)
    assert status == 2
    assert "has begun epoch 3, which is beyond 2: name more epochs" in err


def test_ctrl_c_then_the_command_that_the_message_names(images, trained, tmp_path, call, monkeypatch):
    original = Trainer.step

    def stepping(self, x, labels):
        if (self.progress.epoch, self.progress.step) == (1, 0):
            signal.raise_signal(signal.SIGINT)
        return original(self, x, labels)

    out = tmp_path / "run"
    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "step", stepping)
        status, _, err = call(*training(images, out, "--epochs", 2))
    assert status == 130
    message = err.splitlines()[-1]
    assert message == f"stopped in epoch 2 after step 1 of 6; go on with: minixception train --out {out} --resume"
    assert call(*message.split("minixception ")[1].split())[0] == 0
    assert (out / "checkpoint.safetensors").stat().st_size > 0
    assert json.loads(call("evaluate", out, "--json")[1]) == json.loads(call("evaluate", trained, "--json")[1])


def test_the_message_can_be_typed_where_a_folder_has_a_space_in_its_name(images, tmp_path, call, monkeypatch):
    def interrupted(self):
        raise Interrupted

    monkeypatch.setattr(Trainer, "run", interrupted)
    status, _, err = call(*training(images, tmp_path / "my run"))
    again = shlex.split(err.split("go on with: ")[1])
    assert (status, again) == (130, ["minixception", "train", "--out", str(tmp_path / "my run"), "--resume"])


def test_a_run_remembers_its_image_size(images, tmp_path, call):
    run = tmp_path / "run"
    status, out, _ = call(*training(images, run, "--epochs", 1, "--image-size", 48))
    assert status == 0
    assert out.startswith("48 training and 12 test images of 48x48 pixels, ")
    model = mx.load(run)
    assert model.input_shape == (48, 48, 3)
    status, out, _ = call("evaluate", run, "--json")
    expected = evaluate(model, mx.data.load(f"folder:{images}", "test", image_size=48), 8)
    assert (status, json.loads(out)) == (0, {"images": 12, **expected})
    status, out, _ = call("train", "--out", run, "--resume", "--epochs", 2)
    assert status == 0
    assert "of 48x48 pixels" in out
    status, _, err = call("train", "--out", run, "--resume", "--image-size", 32)
    assert status == 2
    assert "was trained on other classes or image sizes than folder:" in err


def test_image_sizes_that_the_data_cannot_have(tmp_path, call):
    status, _, err = call("train", "--image-size", 64, "--out", tmp_path / "run")
    assert status == 2
    assert err == "minixception: error: expected image_size 32 for CIFAR-10, got 64\n"
    assert call("train", "--image-size", 0)[0] == 2


@pytest.mark.parametrize(
    ("arguments", "folder"),
    [
        ((), "cifar10"),
        (("--recipe", "demo"), "demo"),
        (("--recipe", "demo", "--data", "shapes"), "shapes"),
        (("--data", "cifar10:elsewhere"), "cifar10"),
        (("--data", "folder:my/photos/"), "photos"),
        (("--data", "folder:."), "here"),
        (("--data", "folder:photos", "--out", "runs/mine"), "mine"),
    ],
)
def test_a_run_is_called_after_its_data_or_recipe(arguments, folder, tmp_path, call, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    status, _, err = call("train", *arguments, "--resume")
    assert status == 2
    assert err == f"minixception: error: no checkpoint at {Path('runs', folder, 'checkpoint.safetensors')}\n"


def test_a_run_goes_on_when_nobody_reads_its_lines(images, tmp_path, monkeypatch):
    reader, writer = os.pipe()
    os.close(reader)  # as head does behind its last line
    with open(writer, "w", encoding="utf-8") as pipe:
        monkeypatch.setattr(sys, "stdout", pipe)
        assert cli.main([str(a) for a in training(images, tmp_path / "run", "--epochs", 2)]) == 0
    log = (tmp_path / "run" / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in log] == [1, 2]
    assert read_checkpoint(tmp_path / "run" / "checkpoint.safetensors").progress.epoch == 2


def test_ctrl_c_elsewhere(call, monkeypatch):
    def interrupted(options):
        raise KeyboardInterrupt

    monkeypatch.setattr(doctor, "run", interrupted)
    assert call("doctor") == (130, "", "minixception: stopped\n")


BAD_DATA = {
    "mnist": "expected a data set out of shapes, cifar10",
    "folder:": "expected a data set out of shapes, cifar10",
    "folder:/no/such/folder": "found no such folder",
    "cifar10:/no/such/folder": "expected CIFAR-10",
    "folder:EMPTY": "expected images (.bmp",
    "folder:CORRUPT": "9.png",
    "folder:TRUNCATED": "truncated",
}


@pytest.mark.parametrize("spec", BAD_DATA)
def test_bad_data(spec, images, tmp_path, call):
    for name in ("bright", "dark"):
        (tmp_path / "EMPTY" / name).mkdir(parents=True)
    for kind in ("CORRUPT", "TRUNCATED"):
        shutil.copytree(images, tmp_path / kind)
    (tmp_path / "CORRUPT" / "dark" / "9.png").write_bytes(b"not an image")
    whole = (images / "dark" / "9.png").read_bytes()
    (tmp_path / "TRUNCATED" / "dark" / "9.png").write_bytes(whole[: len(whole) // 2])
    place = spec.partition(":")[2]
    found = spec.replace(place, str(tmp_path / place)) if place.isupper() else spec
    status, out, err = call("train", "--recipe", "demo", "--data", found, "--out", tmp_path / "run")
    assert (status, out) == (2, "")
    assert err.startswith("minixception: error: ")
    assert BAD_DATA[spec] in err
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--epochs", 0), "epochs must be at least 1, got 0"),
        (("--batch-size", 49), "a batch of 49 is larger than the training set of 48 images"),
        (("--lr", -1), "expected a learning rate"),
        (("--lr", "nan"), "lr must be a finite number, got nan"),
        (("--seed", -1), "seed must be at least 0, got -1"),
        (("--resume",), "no checkpoint at"),
    ],
)
def test_bad_numbers(options, message, images, tmp_path, call):
    status, out, err = call(*training(images, tmp_path / "run", *options))
    assert (status, out) == (2, "")
    assert err.startswith("minixception: error: ")
    assert message in err
    assert not (tmp_path / "run").exists()


def test_a_loss_that_is_not_finite(images, tmp_path, call):
    status, _, err = call(*training(images, tmp_path / "run", "--lr", 1e30, "--epochs", 4))
    assert status == 2
    assert "minixception: error: the loss is" in err
    assert "lower the learning rate" in err


def test_evaluate_what_is_no_run(trained, tmp_path, call):
    assert "no checkpoint at" in call("evaluate", tmp_path / "nothing")[2]
    assert "no checkpoint at" in call("evaluate", tmp_path)[2]
    whole = (trained / "checkpoint.safetensors").read_bytes()
    (tmp_path / "checkpoint.safetensors").write_bytes(whole[:-100])
    status, out, err = call("evaluate", tmp_path)
    assert (status, out) == (2, "")
    assert "is not a whole .safetensors file" in err
    status, _, err = call("evaluate", trained, "--data", "shapes")
    assert status == 2
    assert "trained on the classes bright, dark; the data has stripes RGB" in err


# The demo -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def short_demo(monkeypatch):
    """The demo with few pictures and one epoch."""
    monkeypatch.setitem(RECIPES, "demo", replace(RECIPES["demo"], epochs=1, widths=(8,), stem=4, batch_size=32))
    monkeypatch.setattr(demo, "load", lambda spec, split, seed: shapes(split, size=64, seed=seed))


def test_demo_prints_what_it_learned_and_draws_it(short_demo, tmp_path, call):
    for _ in range(2):  # the second replaces the first
        status, out, _ = call("demo", "--out", tmp_path / "demo")
        assert status == 0
        assert "stripes RGB" in out
        assert "pictures it has never seen; guessing would get 12.5%" in out
        files = {path.name: path.stat().st_size for path in (tmp_path / "demo").iterdir()}
        assert set(files) == {"checkpoint.safetensors", "log.jsonl", "curves.svg", "samples.png"}
        assert min(files.values()) > 0


def test_demo_does_not_replace_another_run(trained, call):
    before = (trained / "checkpoint.safetensors").read_bytes()
    status, _, err = call("demo", "--out", trained)
    assert status == 2
    assert "holds a run that is not a demo: name another folder with --out" in err
    assert (trained / "checkpoint.safetensors").read_bytes() == before
