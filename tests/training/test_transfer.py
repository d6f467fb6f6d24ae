"""Transfer learning: what freezing keeps as it is, and the recipe of docs/transfer.md, run as it is printed."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minixception as mx
from minixception.data import shapes
from minixception.engine.tape import Node
from minixception.errors import ArgumentError
from minixception.nn import BatchNorm2d, Linear, Sequential
from minixception.training import evaluate

RECIPE = Path(__file__).parents[2] / "docs" / "transfer.md"
SIZE = 71


def small(classes=4):
    """block1, block2, block3 (a middle block), predictions."""
    mx.seed(1)
    return mx.models.mini_xception(classes, widths=(8,), middle_blocks=1, stem=8)


def frozen_names(model):
    return {name for name, p in model.named_parameters() if not p.requires_grad}


def copies(model):
    return {name: array.copy() for name, array in model.state_dict().items()}


def changed(before, model):
    """Names of the tensors that are not bit for bit what they were."""
    return {name for name, array in model.state_dict().items() if before[name].tobytes() != array.tobytes()}


@pytest.fixture
def batch():
    data = shapes("train", size=12, seed=2)
    return mx.tensor(mx.data.preprocess(data.images)), data.labels % 4


# What is frozen -------------------------------------------------------------------------------------------------------


def test_everything_and_back():
    model = small()
    assert model.freeze() is model
    assert frozen_names(model) == set(dict(model.named_parameters()))
    assert model.num_parameters(trainable=True) == 0
    assert model.unfreeze() is model
    assert not frozen_names(model)
    assert model.num_parameters(trainable=True) == sum(p.data.size for p in model.parameters())


@given(depth=st.integers(1, 3), draw=st.data())
def test_a_name_freezes_what_lies_below_it_and_nothing_else(depth, draw):
    model = small()
    path = draw.draw(st.sampled_from(list(dict(model.named_parameters()))))
    name = ".".join(path.split(".")[:depth])
    model.freeze(name)
    expected = {p for p in dict(model.named_parameters()) if p.split(".")[: name.count(".") + 1] == name.split(".")}
    assert frozen_names(model) == expected
    assert not frozen_names(model.unfreeze(name))


def test_sepconv1_is_not_sepconv1_bn():
    model = small().freeze("block2.sepconv1", "predictions.bias")
    assert frozen_names(model) == {"block2.sepconv1.depthwise", "block2.sepconv1.pointwise", "predictions.bias"}


def test_until_takes_all_that_comes_before():
    model = mx.models.Xception().freeze(until="block13")
    trained = {name.partition(".")[0] for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {"block14", "predictions"}
    assert "block13.shortcut.bn.beta" in frozen_names(model)
    # From FACTS of the architecture: block14 4,755,968 with 2 * (1536 + 2048) running statistics, head 2,049,000.
    assert model.num_parameters(trainable=True) == 4_755_968 - 2 * (1536 + 2048) + 2_049_000
    assert model.num_parameters() == 22_910_480
    nested = Sequential(base=small(), head=Linear(4, 2)).freeze(until="base.block1")
    assert {name.split(".")[1] for name in frozen_names(nested)} == {"block1"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"names": ["block9"]}, r"no parameters at 'block9' in Sequential; there are: block1, block2, block3, predict"),
        ({"names": ["block"]}, "no parameters at 'block'"),
        ({"names": ["block2", "block2.conv"]}, r"'block2.conv' .* there are: block2.sepconv1, block2.sepconv1_bn, "),
        ({"names": [""]}, "no parameters at ''"),
        ({"names": [], "until": "avg_pool"}, "no parameters at 'avg_pool'"),
        ({"names": [], "until": ""}, "no parameters at ''"),
    ],
)
def test_a_name_without_parameters_is_an_error_and_freezes_nothing(arguments, message):
    model = small()
    for method in (model.freeze, model.unfreeze):
        with pytest.raises(ArgumentError, match=message):
            method(*arguments["names"], until=arguments.get("until"))
    assert not frozen_names(model)


# What that means in training ------------------------------------------------------------------------------------------


def tape(tensor):
    """The names of all operators that backward() would run through."""
    names, waiting, seen = [], [tensor.node], set()
    while waiting:
        node = waiting.pop()
        if isinstance(node, Node) and node not in seen:
            seen.add(node)
            names.append(node.op.name)
            waiting.extend(node.parents)
    return names


def test_the_backward_pass_does_not_enter_a_frozen_network(batch):
    x, labels = batch
    model = small()
    everything = tape(mx.cross_entropy(model(x), labels))
    assert "conv2d" in everything
    model.freeze(until="block3")
    assert sorted(tape(mx.cross_entropy(model(x), labels))) == ["cross_entropy", "linear"]
    model.unfreeze("block3.sepconv3")
    part = tape(mx.cross_entropy(model(x), labels))
    assert "conv2d" not in part
    assert part.count("separable_conv2d") + part.count("separable_conv2d_relu") <= 1
    assert 2 < len(part) < len(everything) / 2


def test_gradients_below_a_frozen_block_are_those_of_the_whole_network(batch):
    x, labels = batch
    whole, partly = small().eval(), small().eval()  # running statistics in both, which freezing would change
    partly.freeze("block2")
    for model in (whole, partly):
        mx.cross_entropy(model(x), labels).backward()
    gradients = {name: p.grad for name, p in partly.named_parameters()}
    for name, p in whole.named_parameters():
        if name.startswith("block2."):
            assert gradients[name] is None
        else:
            np.testing.assert_array_equal(gradients[name], p.grad, err_msg=name)


def test_frozen_batchnorm_normalises_with_its_running_statistics(batch):
    x, _ = batch
    model = small()
    for _ in range(3):
        model(x)  # moves the running statistics
    with model.inference(), mx.no_grad():
        expected = model(x).numpy()
    before = copies(model)
    model.freeze()
    assert model.training
    np.testing.assert_array_equal(model(x).numpy(), expected)
    assert changed(before, model) == set()
    model.unfreeze("block3.sepconv1_bn")
    model(x)
    assert changed(before, model) == {f"block3.sepconv1_bn.running_{kind}" for kind in ("mean", "var")}


OPTIMIZERS = {
    "sgd": lambda params: mx.optim.SGD(params, 0.05, momentum=0.9, weight_decay=0.1),
    "rmsprop": lambda params: mx.optim.RMSprop(params, 0.01, momentum=0.9, weight_decay=0.1),
    "adam": lambda params: mx.optim.Adam(params, 0.01, weight_decay=0.1),
}


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_optimisers_leave_what_is_frozen(make, batch):
    x, labels = batch
    model = small()
    optimizer = make(model.parameters())
    mx.cross_entropy(model(x), labels).backward()
    model.freeze(until="block2")  # with gradients of everything at hand, which must not be used
    before, state = copies(model), optimizer.state_dict()
    for _ in range(3):
        optimizer.step()
        optimizer.zero_grad()
        mx.cross_entropy(model(x), labels).backward()
    kept = {name for name in before if name.startswith(("block1.", "block2."))}
    assert changed(before, model) == set(before) - kept
    after = optimizer.state_dict()
    positions = {i for i, p in enumerate(model.parameters()) if not p.requires_grad}
    for name, array in state.items():
        if "/" in name:
            same = array.tobytes() == after[name].tobytes()
            assert same == (int(name.partition("/")[2]) in positions), name
    assert all(p.grad is None for p in model.parameters() if not p.requires_grad)


def test_training_goes_on_after_unfreezing(batch):
    x, labels = batch
    model = small().freeze()
    model.unfreeze()
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    before = copies(model)
    mx.cross_entropy(model(x), labels).backward()
    optimizer.step()
    assert changed(before, model) == set(before)


# The recipe -----------------------------------------------------------------------------------------------------------


def calibrated_weights(path):
    """An untrained Xception without top whose running statistics are those of the drawn images, as after training."""
    mx.seed(3)
    base = mx.models.Xception(include_top=False, pooling="avg", input_shape=(SIZE, SIZE, 3))
    for _, module in base.named_modules():
        if isinstance(module, BatchNorm2d):
            module.momentum = 0.0
    with mx.no_grad():
        base(mx.tensor(mx.data.preprocess(shapes("train", size=16, image_size=SIZE).images)))
    base.save_weights(path)


def printed_losses(text):
    return [float(number) for number in re.findall(r"^epoch \d+: loss ([\d.]+), test top-1 [\d.]+%$", text, re.M)]


@pytest.mark.slow
def test_the_recipe_of_the_docs(tmp_path, monkeypatch, capsys):
    settings, *steps = re.findall(r"^```python\n(.*?)^```$", RECIPE.read_text(), re.M | re.S)
    build, head, block, save = (compile(step, f"step {i}", "exec") for i, step in enumerate(steps, start=2))
    monkeypatch.chdir(tmp_path)
    calibrated_weights("base.safetensors")
    names = {
        "mx": mx,
        "size": SIZE,
        "train": shapes("train", size=16, image_size=SIZE),
        "test": shapes("test", size=8, image_size=SIZE),
        "weights": "base.safetensors",
        "batch_size": 8,
        "head_epochs": 3,
        "block_epochs": 2,
    }
    assert set(re.findall(r"^([\w, ]+) = ", settings, re.M)) == {
        "size", "train", "test", "weights", "batch_size, head_epochs, block_epochs"
    }  # fmt: skip

    exec(build, names)
    model = names["model"]
    assert capsys.readouterr().out == "16,392 of 20,877,872 parameters are trained\n"
    before = copies(model)

    exec(head, names)
    losses = printed_losses(capsys.readouterr().out)
    assert len(losses) == 3
    assert losses[-1] < losses[0]
    assert changed(before, model) == {"head.weight", "head.bias"}

    before = copies(model)
    exec(block, names)
    assert len(after := printed_losses(capsys.readouterr().out)) == 2
    assert max(after) < losses[-1]
    convolutions = {f"base.block14.sepconv{i}.{kind}" for i in (1, 2) for kind in ("depthwise", "pointwise")}
    assert changed(before, model) == {"head.weight", "head.bias"} | convolutions

    exec(save, names)
    assert capsys.readouterr().out.count(": taken for ") == 5
    again, test = names["again"], names["test"]
    assert again is not model
    assert changed(copies(model), again) == set()
    x = mx.data.preprocess(test.images)
    with mx.no_grad():
        logits = [network.eval()(mx.tensor(x)).numpy() for network in (model, again)]
    np.testing.assert_array_equal(*logits)
    assert evaluate(again, test) == evaluate(model, test)
