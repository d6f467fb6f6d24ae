"""A compiled training step gives what the eager one gives: loss, gradients and running statistics."""

from __future__ import annotations

from functools import partial

import numba
import numpy as np
import pytest

import minixception as mx
from minixception import nn
from minixception.compiler.training import TrainingStep
from minixception.compiler.training.arena import Slot, place
from minixception.engine.tensor import Tensor
from minixception.errors import ArgumentError, BackendError, GraphError, LabelError, ShapeError, TraceError

CLASSES = 10


def batch(shape, dtype=np.float32):
    rng = np.random.default_rng(0)
    return rng.uniform(-1, 1, shape).astype(dtype), rng.integers(0, CLASSES, len(shape) and shape[0])


def state(model):
    return {name: buffer.data.copy() for name, buffer in model.named_buffers()}


def eager(model, x, labels, loss=mx.cross_entropy):
    """The step as it is written."""

    def run():
        model.zero_grad()
        value = loss(model(mx.tensor(x)), mx.tensor(labels))
        value.backward()
        return value

    return outcome(model, run)


def compiled(model, x, labels, loss=mx.cross_entropy, step=None):
    return outcome(model, lambda: (step or TrainingStep(model, loss)).gradients(x, labels)[0])


def outcome(model, run):
    """Loss, gradients and running statistics of a step, after which the statistics are put back."""
    before = state(model)
    mx.seed(1)
    result = run().item(), gradients(model), state(model)
    for name, buffer in model.named_buffers():
        buffer.data[...] = before[name]
    return result


def gradients(model):
    return {name: p.grad.copy() for name, p in model.named_parameters() if p.grad is not None}


def assert_equal(ours, theirs, tolerance):
    """Relative to the largest value of each array, and for gradients that are all rounding to the largest of all."""
    assert ours[0] == pytest.approx(theirs[0], rel=tolerance)
    for mine, expected in zip(ours[1:], theirs[1:], strict=True):
        assert mine.keys() == expected.keys()
        for name, array in expected.items():
            assert mine[name].shape == array.shape
            scale = max(np.abs(array).max(), 1e-3 * max(np.abs(a).max() for a in expected.values()))
            np.testing.assert_allclose(mine[name], array, rtol=0, atol=tolerance * scale, err_msg=name)


def small_xception(**options):
    return mx.models.mini_xception(CLASSES, (16, 24), 2, 8, (16, 16, 3), **options)


def test_small_xception_in_float32():
    model = small_xception(dropout=0.3).train()
    x, labels = batch((5, 16, 16, 3))
    assert_equal(compiled(model, x, labels), eager(model, x, labels), 2e-4)


def test_a_step_updates_as_the_step_written_out():
    x, labels = batch((4, 16, 16, 3))
    mx.seed(0)
    model = small_xception().train()
    sgd = mx.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4)
    step = mx.compile(model, mx.cross_entropy, sgd)
    losses = [step(x, labels).item() for _ in range(3)]
    mx.seed(0)
    other = small_xception().train()
    sgd = mx.optim.SGD(other.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4)
    for expected in losses:
        sgd.zero_grad()
        loss = mx.cross_entropy(other(mx.tensor(x)), mx.tensor(labels))
        loss.backward()
        sgd.step()
        assert loss.item() == pytest.approx(expected, rel=1e-4)
    for mine, theirs in zip(model.parameters(), other.parameters(), strict=True):
        np.testing.assert_allclose(mine.data, theirs.data, rtol=0, atol=2e-4 * np.abs(theirs.data).max())


def test_bits_do_not_depend_on_the_number_of_threads():
    if numba.config.NUMBA_NUM_THREADS < 2:
        pytest.fail("this test needs two threads")
    x, labels = batch((6, 16, 16, 3))
    model = small_xception().train()
    results = []
    for threads in (1, 2):
        numba.set_num_threads(threads)
        try:
            results.append(compiled(model, x, labels))
        finally:
            numba.set_num_threads(numba.config.NUMBA_NUM_THREADS)
    (loss, grads, buffers), (loss_2, grads_2, buffers_2) = results
    assert loss == loss_2
    for one, two in ((grads, grads_2), (buffers, buffers_2)):
        for name in one:
            np.testing.assert_array_equal(one[name], two[name], err_msg=name)


def test_a_mean_of_ten_thousand_does_not_eat_the_variance():
    """The statistics of a separable convolution's result are taken strip by strip, and merged."""
    model = nn.Sequential(conv=nn.PointwiseConv2d(3, 8), sep=nn.SeparableConv2d(8, 16), bn=nn.BatchNorm2d(16))
    x, _ = batch((4, 12, 12, 3))
    model.sep.depthwise.data[...] = 0
    model.sep.depthwise.data[1, 1] = 1  # each pixel as it is
    for kernel in (model.conv.weight, model.sep.pointwise):
        kernel.data[...] = 0
        kernel.data[0] = 1  # the first channel, in all
    shifted = x + np.float32(1e4)
    step = TrainingStep(model.train(), lambda y, t: (y * y).mean())
    step.gradients(shifted, np.zeros(4, np.int64))
    exact = shifted[..., 0].astype(np.float64)
    moved = 0.99 * 1 + 0.01 * exact.var()
    np.testing.assert_allclose(model.bn.running_var.data, moved, rtol=1e-6)
    assert exact.var() > 0.1  # not lost to rounding: an error of 1e4**2 * 6e-8 would be 6


def test_weights_that_are_loaded_frozen_or_exchanged_are_followed():
    x, labels = batch((3, 16, 16, 3))
    model = small_xception().train()
    step = TrainingStep(model, mx.cross_entropy)
    step.gradients(x, labels)
    model.load_state_dict({name: array * np.float32(0.5) for name, array in model.state_dict().items()})
    assert_equal(compiled(model, x, labels, step=step), eager(model, x, labels), 2e-4)
    model.freeze(until="block2")
    ours = compiled(model, x, labels, step=step)
    assert not any(name.startswith("block2") for name in ours[1])
    assert_equal(ours, eager(model, x, labels), 2e-4)
    model.block3 = nn.Sequential(pool=nn.MaxPool2d(2), conv=nn.PointwiseConv2d(16, 24))
    assert_equal(compiled(model, x, labels, step=step), eager(model, x, labels), 2e-4)


def test_other_shapes_get_plans_of_their_own_and_the_memory_is_used_again():
    model = small_xception().train()
    step = TrainingStep(model, mx.cross_entropy)
    for shape in ((3, 16, 16, 3), (2, 20, 12, 3), (2, 72, 72, 3), (3, 16, 16, 3)):  # one with several strips a task
        x, labels = batch(shape)
        assert_equal(compiled(model, x, labels, step=step), eager(model, x, labels), 2e-4)
    plan = str(step.plan)
    assert "block2.sepconv1_bn + block2.sepconv2_act" in plan
    assert "reads through" in next(line for line in plan.splitlines() if "block2.pool" in line)


def test_bytes_are_counted():
    """By hand: one unit of 4 x 4 pixels with 8 channels, layer by layer and fused."""
    head = {"pool": nn.GlobalAvgPool(), "out": nn.Linear(8, CLASSES)}
    unit = {"bn1": nn.BatchNorm2d(8), "relu": nn.ReLU(), "sep": nn.SeparableConv2d(8, 8), "bn2": nn.BatchNorm2d(8)}
    model = nn.Sequential(first=nn.PointwiseConv2d(3, 8), **unit, **head).train()
    step = TrainingStep(model, mx.cross_entropy)
    step.gradients(*batch((2, 4, 4, 3)))
    y, x, others = 2 * 16 * 8, 2 * 16 * 3, 2 * 8 + 2 * CLASSES  # elements of a map, of the images, behind the pool
    layers = (2 * y + y + 3 * y + 2 * y) * 2 + 2 * y + 3 * y + 2 * y + 11 * y  # two batchnorms, the ReLU, separable
    first, last = (x + y) + 2 * (x + y), (y + 16) + (2 * y + 16) + 3 * others  # 1x1; pool; linear
    assert step.bytes_moved["layer by layer"] == 4 * (layers + first + last)
    assert step.bytes_moved["compiled"] < 0.75 * step.bytes_moved["layer by layer"]


def test_other_models_leave_the_plan_as_it_is():
    model = small_xception().train()
    step = TrainingStep(model, mx.cross_entropy)
    before = step.plan
    plans = dict(step._plans)
    small_xception()
    assert str(step.plan) == str(before)
    step.gradients(*batch((2, 16, 16, 3)))
    assert step._plans == plans


def test_bad_input_is_refused():
    model = small_xception().train()
    sgd = mx.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(ArgumentError, match="needs a loss and an optimizer"):
        mx.compile(model, mx.cross_entropy)
    with pytest.raises(ArgumentError, match="needs a loss and an optimizer"):
        mx.compile(model, optimizer=sgd)
    step = mx.compile(model, mx.cross_entropy, sgd)
    with pytest.raises(ShapeError):
        step(*batch((2, 16, 16, 4)))
    with pytest.raises(LabelError):
        step(batch((2, 16, 16, 3))[0], np.array([0, CLASSES]))
    with pytest.raises(ShapeError, match="take a step first"):
        str(TrainingStep(nn.Sequential(nn.PointwiseConv2d(3, 8)), mx.cross_entropy).plan)
    with pytest.raises(GraphError, match="no parameter"):
        mx.compile(model.freeze(), mx.cross_entropy, sgd)(*batch((2, 16, 16, 3)))


class _Branches(nn.Module):
    """A forward pass that asks for a value."""

    def __init__(self):
        self.conv, self.pool = nn.Conv2d(3, CLASSES, 3), nn.GlobalAvgPool()

    def forward(self, x):
        y = self.conv(x)
        return self.pool(y if float(y.mean()) > 0 else y * 2.0)


def test_a_model_that_looks_at_values_is_refused():
    with pytest.raises(TraceError):
        TrainingStep(_Branches().train(), mx.cross_entropy).gradients(*batch((2, 8, 8, 3)))


def test_a_model_on_the_gpu_is_refused(monkeypatch):
    model = small_xception()
    monkeypatch.setattr(type(model.predictions.weight), "device", "cuda", raising=False)
    with pytest.raises(BackendError, match="runs on the CPU"):
        TrainingStep(model, mx.cross_entropy)


# Memory ---------------------------------------------------------------------------------------------------------------


def most_at_once(slots):
    """Bytes of the slots, in whole cache lines, at the moment when they are most: no placement can do with less."""
    moments = {moment for slot in slots for moment in (slot.first, slot.last)}
    return max(sum(-(-4 * s.shape[0] // 64) * 64 for s in slots if s.first <= now <= s.last) for now in moments)


def test_slots_that_are_needed_together_do_not_overlap():
    rng = np.random.default_rng(0)
    for _ in range(20):
        slots = []
        for _ in range(40):
            slot = Slot((int(rng.integers(1, 500)),), int(rng.integers(0, 30)))
            slot.last = slot.first + int(rng.integers(0, 10))
            slots.append(slot)
        total = place(slots, np.dtype(np.float32))
        assert most_at_once(slots) <= total <= 2 * most_at_once(slots)
        for i, one in enumerate(slots):
            for other in slots[:i]:
                if one.first <= other.last and other.first <= one.last:
                    assert not np.may_share_memory(one.array, other.array)


# All the ways in which layers meet, in float64, where eager and compiled must agree to rounding -----------------------


class _Net(nn.Module):
    """Layers by name, and a function of them and x."""

    def __init__(self, forward, **layers):
        vars(self).update(layers)
        self._forward = forward

    def forward(self, x):
        return self._forward(self, x)


def _head(net, y):
    return net.out(net.pool(y))


def _sep(ci=6, co=6, size=3, **options):
    return nn.SeparableConv2d(ci, co, size, **options)


def _networks():
    bn, relu = lambda c=6: nn.BatchNorm2d(c), nn.ReLU
    head = {"pool": nn.GlobalAvgPool(), "out": nn.Linear(6, CLASSES)}
    stem = {"stem": nn.Conv2d(3, 6, 3), "stem_bn": bn()}
    make = partial(_Net, **stem, **head)
    yield (
        "batchnorm, then a separable convolution without a ReLU",
        make(lambda m, x: _head(m, m.bn(m.sep(m.stem_bn(m.stem(x))))), sep=_sep(), bn=bn()),
    )
    yield "5x5, valid, other widths", make(
        lambda m, x: _head(m, m.b2(m.s2(m.r(m.b1(m.s1(m.r0(m.stem_bn(m.stem(x))))))))),
        s1=_sep(6, 20, 5, padding="valid"), b1=bn(20), r=relu(), r0=relu(), s2=_sep(20, 6, 5), b2=bn(),
    )  # fmt: skip
    yield (
        "no batchnorm behind",
        make(lambda m, x: _head(m, m.s2(m.r(m.s1(m.stem_bn(m.stem(x)))))), s1=_sep(), s2=_sep(), r=relu()),
    )
    yield "a raw result that two read", make(
        lambda m, x: (lambda y: _head(m, m.add(m.b1(y), y)))(m.s1(m.stem_bn(m.stem(x)))),
        s1=_sep(), b1=bn(), add=nn.Add(),
    )  # fmt: skip
    yield "a normalised result that two read", make(
        lambda m, x: (lambda y: _head(m, m.add(m.s2(y), y)))(m.b1(m.s1(m.stem_bn(m.stem(x))))),
        s1=_sep(), b1=bn(), s2=_sep(), add=nn.Add(),
    )  # fmt: skip
    yield "one ReLU, two separable convolutions", make(
        lambda m, x: (lambda y: _head(m, m.add(m.s1(y), m.s2(y))))(m.r(m.stem_bn(m.stem(x)))),
        s1=_sep(), s2=_sep(), r=relu(), add=nn.Add(),
    )  # fmt: skip
    yield "a sum of two batchnorms, rectified", make(
        lambda m, x: (lambda y: _head(m, m.r(m.add(m.b1(m.s1(y)), m.b2(m.c(y))))))(m.stem_bn(m.stem(x))),
        s1=_sep(), b1=bn(), c=nn.PointwiseConv2d(6, 6), b2=bn(), r=relu(), add=nn.Add(),
    )  # fmt: skip
    yield "x plus itself", make(lambda m, x: (lambda y: _head(m, m.add(y, y)))(m.stem_bn(m.stem(x))), add=nn.Add())
    yield "a residual around two units, read again behind", make(
        lambda m, x: (lambda y: _head(m, m.a2(m.add(m.b2(m.s2(m.r(m.b1(m.s1(m.r1(y)))))), y), y)))(m.stem(x)),
        s1=_sep(), b1=bn(), s2=_sep(), b2=bn(), r=relu(), r1=relu(), add=nn.Add(), a2=nn.Add(),
    )  # fmt: skip
    yield (
        "a layer that runs twice",
        make(lambda m, x: _head(m, m.bn(m.sep(m.r(m.bn(m.sep(m.stem_bn(m.stem(x)))))))), sep=_sep(), bn=bn(), r=relu()),
    )
    yield "batchnorm without gamma, frozen batchnorm, an activation inside", make(
        lambda m, x: _head(m, m.b3(m.s3(m.b2(m.s2(m.b1(m.s1(m.stem_bn(m.stem(x)))))))))
        , s1=_sep(), b1=nn.BatchNorm2d(6, scale=False), s2=_sep(), b2=bn().freeze(), s3=_sep(activation="elu"), b3=bn(),
    )  # fmt: skip
    yield "strides, dilations, pools, other activations", make(
        lambda m, x: _head(m, m.b2(m.s2(m.gelu(m.b1(m.s1(m.mp(m.stem_bn(m.stem(x))))))))),
        s1=_sep(stride=2), b1=bn(), s2=_sep(dilation=2), b2=bn(), mp=nn.MaxPool2d(2), gelu=nn.GELU(),
    )  # fmt: skip
    yield "max pooling behind a batchnorm, and behind a ReLU", make(
        lambda m, x: _head(
            m, m.p3(m.r(m.add(m.p2(m.r2(m.b1(m.s1(m.p1(m.stem_bn(m.stem(x))))))), m.b2(m.c(x)))))
        ),
        p1=nn.MaxPool2d(3, 1, "same"), s1=_sep(), b1=bn(), r2=relu(), p2=nn.MaxPool2d(3, 2, "same"),
        c=nn.PointwiseConv2d(3, 6, stride=2), b2=bn(), add=nn.Add(), r=relu(), p3=nn.MaxPool2d(2, 2, 1),
    )  # fmt: skip
    yield "a separable convolution first", _Net(
        lambda m, x: _head(m, m.b2(m.s2(m.r(m.b1(m.s1(x)))))),
        s1=_sep(3, 6), b1=bn(), s2=_sep(), b2=bn(), r=relu(), **head,
    )  # fmt: skip
    yield (
        "operators between layers",
        make(lambda m, x: _head(m, m.b1(m.s1(m.stem_bn(m.stem(x)) * 2.0).clip(-3, 3))), s1=_sep(), b1=bn()),
    )
    yield "batchnorm of rows", _Net(
        lambda m, x: m.out(m.r(m.bn(m.fc(m.pool(m.stem(x)))))),
        **head, stem=nn.Conv2d(3, 6, 3), fc=nn.Linear(6, 6), bn=bn(), r=relu(),
    )  # fmt: skip


NETWORKS = dict(_networks())
OTHER_WINDOWS = ("5x5, valid, other widths", "strides, dilations, pools, other activations")  # compiled for long


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow if n in OTHER_WINDOWS else ()) for n in NETWORKS]
)
def test_every_way_in_which_layers_meet(name):
    model = NETWORKS[name].astype(np.float32).train()
    x, labels = batch((3, 11, 9, 3))
    assert_equal(compiled(model, x, labels), eager(model, x, labels), 2e-3)


@pytest.mark.slow  # kernels of float64
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("shape", [(3, 11, 9, 3), (2, 24, 26, 3)], ids=str)
def test_every_way_in_which_layers_meet_in_float64(name, shape):
    model = NETWORKS[name].astype(np.float64).train()
    x, labels = batch(shape, np.float64)
    assert_equal(compiled(model, x, labels), eager(model, x, labels), 1e-10)


ZOO = {
    "mini_xception": (lambda: mx.models.mini_xception(CLASSES, dropout=0.2), (3, 32, 32, 3)),
    "Xception": (lambda: mx.models.Xception(CLASSES, input_shape=(71, 71, 3), dropout=0.5), (2, 71, 71, 3)),
    "Xception without residuals": (
        lambda: mx.models.Xception(CLASSES, input_shape=(71, 71, 3), residual=False), (2, 71, 71, 3)
    ),
    "Xception with an activation": (
        lambda: mx.models.Xception(CLASSES, input_shape=(71, 71, 3), intermediate_activation="elu"), (2, 71, 71, 3)
    ),
    "InceptionV3": (lambda: mx.models.InceptionV3(CLASSES, input_shape=(75, 75, 3)), (2, 75, 75, 3)),
    "VGG16": (lambda: mx.models.VGG16(CLASSES, input_shape=(32, 32, 3)), (2, 32, 32, 3)),
    "ResNet152": (lambda: mx.models.ResNet152(CLASSES, input_shape=(64, 64, 3)), (2, 64, 64, 3)),
    "NEXcepTionT": (lambda: mx.models.NEXcepTionT(CLASSES, input_shape=(64, 64, 3)), (2, 64, 64, 3)),
    "NEXcepTionTP": (lambda: mx.models.NEXcepTionTP(CLASSES, input_shape=(64, 64, 3)), (2, 64, 64, 3)),
    "NEXcepTionS": (lambda: mx.models.NEXcepTionS(CLASSES, input_shape=(64, 64, 3)), (2, 64, 64, 3)),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", ZOO)
def test_every_model_of_the_zoo(name):
    make, shape = ZOO[name]
    mx.seed(0)
    model = make().astype(np.float64).train()
    x, labels = batch(shape, np.float64)
    assert_equal(compiled(model, x, labels), eager(model, x, labels), 1e-8)


def test_each_parameter_is_announced_once_when_its_gradient_is_complete():
    """Also of a layer that runs twice, and not before the last one has been reached by the pass."""

    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = mx.models.mini_xception(CLASSES, (8,), 1, 4)
            self.linear = nn.Linear(CLASSES, CLASSES)

        def forward(self, x):
            return self.linear(self.linear(self.inner(x)))

    mx.seed(0)
    model = Twice()
    model.inner.freeze("block1")
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    announced = {}

    def ready(parameter):
        assert names[id(parameter)] not in announced
        announced[names[id(parameter)]] = parameter.grad.copy()

    TrainingStep(model, mx.cross_entropy).gradients(*batch((2, 16, 16, 3)), ready)
    trained = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert announced.keys() == trained.keys() != dict(model.named_parameters()).keys()
    order = list(announced)
    assert order[0].startswith("linear") and not order[-1].startswith("linear")
    for name, gradient in trained.items():
        assert np.array_equal(gradient, announced[name]), name


def test_the_tensor_of_a_loss_has_no_tape():
    model = small_xception().train()
    loss, logits = TrainingStep(model, mx.cross_entropy).gradients(*batch((2, 16, 16, 3)))
    assert isinstance(loss, Tensor)
    assert not loss.requires_grad
    assert not logits.requires_grad
