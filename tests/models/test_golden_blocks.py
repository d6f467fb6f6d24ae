"""A miniature Xception against Keras and PyTorch: loss, all gradients, batchnorm updates, SGD, momentum; rtol 1e-9."""

from __future__ import annotations

import numpy as np
import pytest

import minixception as mx
from minixception import ops
from minixception.engine.tensor import Tensor
from minixception.nn import BatchNorm2d, Conv2d, Linear, Module, PointwiseConv2d, SeparableConv2d
from tests.helpers.golden_rule import GOLDEN

DATA = dict(np.load(GOLDEN / "block_gradients.npz"))
NAMES = [str(name) for name in DATA["names"]]
ROLES = {"kernel": "weight"}  # golden role -> our attribute, where they differ


class Miniature(Module):
    """Entry, middle and exit of Xception in small; attributes carry the golden names."""

    def __init__(self):
        self.conv1, self.bn1 = Conv2d(3, 4, 3, 2, "valid"), BatchNorm2d(4)
        self.conv2, self.bn2 = Conv2d(4, 6, 3, 1, "valid"), BatchNorm2d(6)
        self.e_res, self.e_resbn = PointwiseConv2d(6, 8, 2), BatchNorm2d(8)
        self.x_res, self.x_resbn = PointwiseConv2d(8, 12, 2), BatchNorm2d(12)
        widths = {"e_sep1": (6, 8), "e_sep2": (8, 8), "x_sep1": (8, 8), "x_sep2": (8, 12), "t_sep": (12, 16)}
        widths |= {f"m_sep{k}": (8, 8) for k in (1, 2, 3)}
        for name, (ci, co) in widths.items():
            setattr(self, name, SeparableConv2d(ci, co))
            setattr(self, name.replace("sep", "bn"), BatchNorm2d(co))
        self.fc = Linear(16, 5)

    def sepbn(self, name, x):
        return getattr(self, name.replace("sep", "bn"))(getattr(self, name)(x))

    def forward(self, x, seen):
        relu = ops.relu
        x = relu(self.bn1(self.conv1(x)))
        x = seen["stem"] = relu(self.bn2(self.conv2(x)))
        y = self.sepbn("e_sep2", relu(self.sepbn("e_sep1", x)))
        x = seen["entry"] = ops.max_pool2d(y, 3, 2, "same") + self.e_resbn(self.e_res(x))
        y = x
        for k in (1, 2, 3):
            y = self.sepbn(f"m_sep{k}", relu(y))
        x = seen["middle"] = y + x
        y = self.sepbn("x_sep2", relu(self.sepbn("x_sep1", relu(x))))
        x = seen["exit"] = ops.max_pool2d(y, 3, 2, "same") + self.x_resbn(self.x_res(x))
        x = seen["tail"] = relu(self.sepbn("t_sep", x))
        x = seen["gap"] = ops.global_avg_pool(x)
        x = seen["logits"] = self.fc(x)
        for tensor in seen.values():
            tensor.retain_grad()
        return x


@pytest.fixture(params=["numpy", "loops", pytest.param("cpu", marks=pytest.mark.slow)])
def model(request):
    with mx.use_backend(request.param):
        model = Miniature().astype(np.float64)
        for name in NAMES:
            target = parameter(model, name)
            target.data = DATA[f"param/{name}"].reshape(target.shape).copy()
        for name, child in model.children().items():
            if isinstance(child, BatchNorm2d):
                child.running_mean.data = DATA[f"bn/{name}/mean0"].copy()
                child.running_var.data = DATA[f"bn/{name}/var0"].copy()
        yield model


def parameter(model, name):
    layer, role = name.split("/")
    return getattr(getattr(model, layer), ROLES.get(role, role))


def close(got, key):
    expected = DATA[key]
    np.testing.assert_allclose(
        np.reshape(got, expected.shape),
        expected,
        rtol=1e-9,
        atol=1e-9 * max(np.abs(expected).max(), 1e-3),
        err_msg=key,
    )


def loss_of(model, x, seen=None):
    return mx.cross_entropy(model(x, {} if seen is None else seen), DATA["labels"])


def test_loss_activations_and_every_gradient(model):
    x, seen = Tensor(DATA["x"], requires_grad=True), {}
    loss = loss_of(model, x, seen)
    close(loss.item(), "loss")
    loss.backward()
    close(x.grad, "grad_x")
    for name, tensor in seen.items():
        close(tensor.numpy(), f"act/{name}")
        close(tensor.grad, f"dact/{name}")
    assert len(NAMES) == 46
    for name in NAMES:
        close(parameter(model, name).grad, f"grad/{name}")


def test_batchnorm_updates(model):
    loss_of(model, Tensor(DATA["x"]))
    checked = 0
    for name, child in model.children().items():
        if isinstance(child, BatchNorm2d):
            close(child.running_mean.numpy(), f"bn/{name}/mean1")
            close(child.running_var.numpy(), f"bn/{name}/var1")
            checked += 1
    assert checked == 12


def test_sgd_step(model):
    loss_of(model, Tensor(DATA["x"])).backward()
    mx.optim.SGD(model.parameters(), lr=0.045).step()
    for name in NAMES:
        close(parameter(model, name).numpy(), f"sgd1/{name}")


def test_three_momentum_steps_with_weight_decay_on_kernels(model):
    optimizer = mx.optim.SGD(model.parameters(), lr=0.045, momentum=0.9, weight_decay=1e-5)
    for step in range(3):
        optimizer.zero_grad()
        loss = loss_of(model, Tensor(DATA["x"]))
        np.testing.assert_allclose(loss.item(), DATA["mom3/losses"][step], rtol=1e-9)
        loss.backward()
        optimizer.step()
    for name in NAMES:
        close(parameter(model, name).numpy(), f"mom3/{name}")


def test_inference_mode_loss_and_gradients(model):
    model.eval()
    seen = {}
    loss = loss_of(model, Tensor(DATA["x"]), seen)
    close(seen["logits"].numpy(), "eval/logits")
    close(loss.item(), "eval/loss")
    loss.backward()
    for name in NAMES:
        close(parameter(model, name).grad, f"eval_grad/{name}")
    for name, child in model.children().items():
        if isinstance(child, BatchNorm2d):
            np.testing.assert_array_equal(child.running_mean.numpy(), DATA[f"bn/{name}/mean0"])
