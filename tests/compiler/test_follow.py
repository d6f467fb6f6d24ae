"""A compiled model computes what its model computes now, and says so where it cannot."""

import numpy as np
import pytest

import minixception as mx
from minixception import nn
from minixception.compiler.watch import Watch
from minixception.errors import TraceError

X = np.random.default_rng(0).standard_normal((2, 8, 8, 3)).astype(np.float32)


def small():
    return nn.Sequential(
        conv=nn.Conv2d(3, 4),
        bn=nn.BatchNorm2d(4),
        act=nn.Activation("relu"),
        pool=nn.GlobalAvgPool(),
        fc=nn.Linear(4, 5),
    ).eval()


def eager(model, x=X):
    with mx.no_grad(), model.inference():
        return model(mx.tensor(x)).numpy()


def train(model):
    model.train()
    mx.cross_entropy(model(mx.tensor(X)), np.array([1, 2])).backward()
    mx.optim.SGD(model.parameters(), lr=1.0).step()
    model.eval()


def load(model):
    model.load_state_dict({name: array + 1 for name, array in model.state_dict().items()})


def new_array(model):
    model.fc.weight.data = model.fc.weight.data + 1


def new_parameter(model):
    model.fc.bias = nn.Parameter(np.ones(5, np.float32))


def new_layer(model):
    model.act = nn.Activation("elu")


def other_head(model):
    model.fc = nn.Linear(4, 7)


def statistics_alone(model):
    model.train()
    with mx.no_grad():
        model(mx.tensor(10 * X))
    model.eval()


def one_element(model):
    model.conv.weight.data[1, 2, 0, 3] += 1


@pytest.mark.parametrize(
    "change",
    [train, load, new_array, new_parameter, new_layer, other_head, statistics_alone, one_element],
)
def test_a_compiled_model_follows_its_model(change):
    model = small()
    fast = mx.compile(model)
    before = fast(X)
    assert np.allclose(before, eager(model), atol=1e-5)
    change(model)
    after = eager(model)
    assert before.shape != after.shape or not np.allclose(before, after, atol=1e-4)
    assert np.allclose(fast(X), after, atol=1e-5)
    assert np.allclose(fast(X[:1]), eager(model, X[:1]), atol=1e-5)  # another plan of the same weights


def test_what_does_not_change_is_not_made_again(monkeypatch):
    model = small()
    fast = mx.compile(model)
    fast(X)
    plans = list(fast._plans.values())
    small().fc.bias = nn.Parameter(np.ones(5, np.float32))  # of another model
    model.note = "what is neither a layer nor a tensor"
    fast(X)
    assert list(fast._plans.values()) == plans


def test_weights_that_are_not_a_number_are_no_change():
    model = small()
    model.fc.bias.data[:] = np.nan
    watch = Watch(model)
    assert not watch.sees_change()


def test_a_large_array_is_watched_in_all_its_channels():
    model = nn.Conv2d(64, 64)
    watch = Watch(model)
    for channel in range(64):
        model.weight.data[..., channel] += 1
        assert watch.sees_change(), channel
        watch = Watch(model)


def test_arrays_in_any_order_are_watched():
    model = nn.Linear(40, 50)
    model.weight.data = np.asfortranarray(np.ones((40, 50), np.float32))
    watch = Watch(model)
    model.weight.data *= 2
    assert watch.sees_change()


# What cannot be followed ---------------------------------------------------------------------------------------------


class Wrapped(nn.Module):
    def __init__(self):
        self.conv = nn.Conv2d(3, 3)


class ByNumpy(Wrapped):
    def forward(self, x):
        return mx.tensor(np.maximum(self.conv(x).numpy(), 0)) + x


class Branches(Wrapped):
    def forward(self, x):
        return self.conv(x) if x.numpy().mean() > 0 else x


class Pair(Wrapped):
    def forward(self, x):
        return self.conv(x), x


class PairInside(Wrapped):
    def __init__(self):
        super().__init__()
        self.split = Split()

    def forward(self, x):
        return self.split(self.conv(x))[0]


class Split(nn.Module):
    def forward(self, x):
        return x, x


class Scaled(nn.Module):
    def forward(self, x, factor):
        return x * factor


class NumberInside(Wrapped):
    def __init__(self):
        super().__init__()
        self.scaled = Scaled()

    def forward(self, x):
        return self.scaled(self.conv(x), 2.0)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (ByNumpy(), "ByNumpy cannot be compiled: its forward pass branches on the values of a tensor, or computes"),
        (Branches(), "Branches cannot be compiled"),
        (Pair(), r"Pair.forward returns one tensor, and here is tuple"),
        (PairInside(), r"layer 'split' \(Split\) takes tensors and returns one, and here is tuple"),
        (NumberInside(), r"layer 'scaled' \(Scaled\) takes tensors and returns one, and here is float"),
    ],
)
def test_what_cannot_be_traced_is_told(model, words):
    with pytest.raises(TraceError, match=words):
        mx.compile(model)(X)


class Flipped(nn.Module):
    """A layer without layers in it runs as it is, NumPy and all."""

    def forward(self, x):
        return mx.tensor(x.numpy()[:, ::-1].copy())


class WithConstant(Wrapped):
    def forward(self, x):
        return self.conv(x) * mx.tensor(np.full((2, 8, 8, 3), 0.5, np.float32))


@pytest.mark.parametrize("model", [nn.Sequential(nn.Conv2d(3, 3), Flipped(), nn.Conv2d(3, 3)), WithConstant()])
def test_what_runs_as_it_is_and_what_does_not_depend_on_the_input_is_compiled(model):
    assert np.allclose(mx.compile(model)(X), eager(model), atol=1e-5)


def test_a_model_that_does_nothing_is_compiled():
    class Nothing(Wrapped):
        def forward(self, x):
            return x

    assert np.array_equal(mx.compile(Nothing())(X), X)
