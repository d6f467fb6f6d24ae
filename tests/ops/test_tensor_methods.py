"""What a tensor does as an array does: the same expression on both, and its gradient."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pytest

import minixception as mx
from minixception.errors import ArgumentError, DTypeError, GraphError, IndexingError, ShapeError

W = np.arange(12.0).reshape(4, 3) / 7 - 0.6

# Of x (2, 3, 4) with positive elements, a tensor or an array.
SAME = {
    "an index": lambda x: x[1],
    "slices": lambda x: x[:, ::2, -3:-1],
    "the last, and a new dimension": lambda x: x[..., -1, None],
    "a list": lambda x: x[:, [2, 0, 2]],
    "a mask": lambda x: x[x > 1.04],
    "a matrix product": lambda x: x[0] @ W,
    "a stack of products": lambda x: x @ W,
    "products from the left": lambda x: W @ x,
    "two stacks": lambda x: x @ x.transpose(0, 2, 1),
    "a matrix and a vector": lambda x: x[0] @ W[:, 0],
    "a vector and a matrix": lambda x: x[0, 0] @ W,
    "two vectors": lambda x: x[0, 0] @ x[1, 1],
    "a vector and a stack": lambda x: W[:, 0] @ x.transpose(0, 2, 1),
    "the transpose": lambda x: x[0].T,
    "all dimensions reversed": lambda x: x.transpose(),
    "an order of dimensions": lambda x: x.transpose((2, 0, 1)),
    "a shape": lambda x: x.reshape(4, -1) + x.reshape((4, 6)),
    "a power": lambda x: x**2 - x**-0.5,
    "a power of 2": lambda x: 2**x,
    "the absolute value": lambda x: abs(x - 1) + np.abs(1.5 - x),
    "elementary functions": lambda x: np.exp(x) + np.log(x) * np.sqrt(x) - np.tanh(x),
    "a clip": lambda x: x.clip(0.7, 1.78) + np.clip(x, None, 1.54),
    "the largest": lambda x: x.max() + x.max(axis=1, keepdims=True) + x.max(axis=(0, 2), keepdims=True),
    "the smallest": lambda x: x.min(0) * np.min(x, axis=-2, keepdims=True),
    "a variance": lambda x: x.var() + x.var(axis=(0, 2), keepdims=True) + np.var(x, axis=1, keepdims=True),
    "what sums up to 1": lambda x: x / x.sum(axis=2, keepdims=True) - x.mean(axis=-1, keepdims=True),
    "NumPy's functions": lambda x: np.sum(x, axis=1) + np.concatenate([x, x]).mean() - np.mean(x) + np.max(x),
    "NumPy's operators": lambda x: np.add(W[0, 0], x) @ W - np.square(np.negative(x)) @ W + np.transpose(x)[0, 0, 0],
    "rows": lambda x: sum(row * (i + 1) for i, row in enumerate(x)),
}


@pytest.fixture
def x(rng):
    return mx.tensor(rng.permutation(np.arange(1, 25) / 12).reshape(2, 3, 4), requires_grad=True)


@pytest.mark.parametrize("expression", SAME.values(), ids=SAME)
def test_it_is_numpys_and_has_a_gradient(expression, x):
    y = expression(x)
    assert isinstance(y, mx.Tensor)
    expected = expression(x.numpy())
    np.testing.assert_allclose(y.numpy(), expected, rtol=1e-12)
    assert y.shape == np.shape(expected)
    assert y.numpy().flags.c_contiguous
    mx.gradcheck(expression, [x])


def test_permute_gives_the_order_of_all_dimensions(x):
    assert x.permute(2, 0, 1).shape == x.permute((2, 0, 1)).shape == (4, 2, 3)


def test_comparisons_are_arrays_without_gradient(x):
    a = x.numpy()
    for ours, expected in [
        (x == x, a == a),
        (x != 1, a != 1),
        (x < 1, a < 1),
        (x <= a, a <= a),
        (x < 1, a < 1),
        (a >= x, a >= a),
        (a == x, a == a),
        (x > [0.5, 1, 1.5, 2], a > [0.5, 1, 1.5, 2]),
    ]:
        assert type(ours) is np.ndarray
        np.testing.assert_array_equal(ours, expected)
    assert (x == None) is False  # noqa: E711
    assert (x != "x") is True
    assert {x: 1}[x] == 1  # by identity, as before


def test_one_number_is_a_number():
    loss = mx.tensor([[2.5]], requires_grad=True) * 2
    assert float(loss) == 5.0
    assert int(loss) == 5
    assert bool(loss)
    assert f"{loss:.3f}" == "5.000"
    assert f"{loss}" == repr(loss)
    assert loss.tolist() == [[5.0]]


def test_many_numbers_are_no_number(x):
    for number in (float, int, "{:.3f}".format):
        with pytest.raises(ShapeError, match="one element"):
            number(x)
    with pytest.raises(ShapeError, match=r"\(2, 3, 4\) is neither true nor false: .*any\(\)"):
        bool(x)


def test_iteration_is_along_the_first_dimension(x):
    rows = list(x)
    assert [row.shape for row in rows] == [(3, 4), (3, 4)]
    with pytest.raises(TypeError, match="without dimensions"):
        iter(x.sum())


def test_numpy_has_the_values(x):
    for array in (np.asarray(x), np.array(x), np.asarray(x, np.float32), np.stack([x.detach(), x.detach()])[0]):
        assert type(array) is np.ndarray
        np.testing.assert_allclose(array, x.numpy(), rtol=1e-6)
    assert np.shares_memory(np.asarray(x), x.numpy())
    assert not np.shares_memory(np.array(x), x.numpy())
    assert np.array([x.sum(), x.mean()]).tolist() == [x.sum().item(), x.mean().item()]
    assert np.argmax(x) == x.argmax() == x.numpy().argmax()
    np.testing.assert_array_equal(x.argmax(1), x.numpy().argmax(1))
    np.testing.assert_array_equal(mx.tensor(x).numpy(), x.numpy())


def test_numpy_does_not_end_a_gradient_without_a_word(x):
    for function in (np.floor, np.prod, np.stack, np.linalg.norm, np.maximum.reduce):
        with pytest.raises(GraphError, match=r"np\.\w+ knows of no gradients"):
            function(x)
        function(x.detach())
        with mx.no_grad():
            function(x)


def test_arrays_and_numbers_of_numpy_stand_on_the_left(x):
    for left in (x.numpy(), np.float64(2), np.float32(2)):
        y = left * x
        assert isinstance(y, mx.Tensor)
        np.testing.assert_array_equal(y.numpy(), left * x.numpy())
    total = np.ones(x.shape)
    total += x.detach()
    np.testing.assert_array_equal(total, 1 + x.numpy())
    with pytest.raises(GraphError, match=r"np\.add knows of no gradients"):
        total += x


def test_plots_take_tensors(x):
    figure, axes = plt.subplots()
    axes.plot(x[0])
    axes.plot([x.sum(), x.mean()])
    axes.hist(x.reshape(-1))
    axes.imshow(x[0])
    axes.scatter(x[0, 0], x[1, 1])
    axes.bar(range(4), x[0, 0])
    plt.close(figure)


def test_elements_are_not_assigned(x):
    with pytest.raises(GraphError, match=r"x\.data\[\.\.\.\] = value"):
        x[0] = 1


def test_an_index_that_is_not_there_is_an_index_error(x):
    for index in (2, (0, 3), (0, 0, 0, 0), "a", 1.0, np.ones(3, bool)):
        with pytest.raises(IndexingError, match=r"shape \(2, 3, 4\) has no such elements"):
            x[index]
    assert issubclass(IndexingError, IndexError)


def test_transpose_of_two_dimensions_is_not_taken_for_numpys(x):
    for tensor, order in ((x, (0, 1)), (x[0], (0, 1))):
        with pytest.raises(ArgumentError, match=r"to swap two, write \.T"):
            tensor.transpose(*order)
    np.testing.assert_array_equal(x[0].transpose(1, 0).numpy(), x.numpy()[0].T)
    with pytest.raises(ArgumentError, match="each of the 3 dimensions"):
        x.permute(0, 1)


def test_what_does_not_fit_is_said(x):
    for wrong in (lambda: x @ W.T, lambda: x @ x, lambda: x @ 2.0, lambda: x.sum() @ x):
        with pytest.raises((ShapeError, DTypeError), match="matmul"):
            wrong()
    with pytest.raises(ShapeError, match=r"stacks \(2,\) and \(3,\)"):
        x @ mx.tensor(np.zeros((3, 4, 4)))
    with pytest.raises(ArgumentError, match="exponent must be a number, got Tensor"):
        x**x
    with pytest.raises(ArgumentError, match="base of a power must be a positive number"):
        (-2) ** x
    with pytest.raises(ArgumentError, match="low must not be above high"):
        x.clip(2, 1)
    with pytest.raises(ShapeError, match="at least one element to choose from"):
        mx.tensor(np.zeros((2, 0))).max(axis=1)
    with pytest.raises(ArgumentError, match="max: axis must name"):
        x.max(axis=3)


def test_the_first_of_equal_elements_gets_the_gradient():
    x = mx.tensor([[1.0, 3.0, 3.0], [3.0, 0.0, 1.0]], requires_grad=True)
    x.max().backward()
    np.testing.assert_array_equal(x.grad, [[0, 1, 0], [0, 0, 0]])


def test_nan_is_an_extreme():
    assert np.isnan(mx.tensor([1.0, np.nan, 2.0]).max().item())
    assert np.isnan(mx.tensor([1.0, np.nan, 2.0]).min().item())


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_fast_tanh_is_exact_near_0_and_far_from_it(dtype):
    x = np.concatenate([np.logspace(-30, 3, 200), [0.0, np.inf]]).astype(dtype)
    x = np.concatenate([x, -x])
    np.testing.assert_allclose(mx.ops.tanh(mx.tensor(x)).numpy(), np.tanh(x), rtol=4 * np.finfo(dtype).eps)
    assert np.isnan(mx.ops.tanh(mx.tensor(np.array([np.nan], dtype))).item())
