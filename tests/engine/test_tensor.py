"""The tape: order, accumulation, errors, and what is kept in memory."""

from __future__ import annotations

import gc
import weakref
from dataclasses import replace

import numpy as np
import pytest

import minixception as mx
from minixception import ops
from minixception.cpu import memory
from minixception.engine.op import Case, Op, Rung
from minixception.engine.tensor import Tensor
from minixception.errors import DTypeError, GraphError, ShapeError


def leaf(values, dtype="float64"):
    return mx.tensor(values, dtype=dtype, requires_grad=True)


def test_diamond_visits_the_shared_node_once_with_the_sum():
    x = leaf([2.0])
    a = x * x  # used twice
    (a * a + a).backward()
    np.testing.assert_allclose(x.grad, [4 * 2.0**3 + 2 * 2.0])


def test_gradients_accumulate_over_backward_calls():
    x = leaf([3.0])
    (x * 2.0).backward()
    (x * 5.0).backward()
    np.testing.assert_array_equal(x.grad, [7.0])


def test_two_leaves_of_one_sum_do_not_share_their_gradient():
    a, b = leaf([1.0, 2.0]), leaf([3.0, 4.0])
    (a + b).backward(np.array([1.0, 1.0]))
    a.grad *= 10
    np.testing.assert_array_equal(b.grad, [1.0, 1.0])


def test_cotangent_of_the_caller_is_not_touched():
    x = leaf([1.0, 2.0])
    v = np.array([1.0, 1.0])
    (x + 0.0).backward(v)
    x.grad += 5
    np.testing.assert_array_equal(v, [1.0, 1.0])


def test_depth_is_not_limited_by_recursion():
    x = leaf([1.0])
    y = x
    for _ in range(50_000):
        y = y + 1.0
    y.backward()
    np.testing.assert_array_equal(x.grad, [1.0])
    for _ in range(50_000):  # and a tape that is dropped unused comes down without recursion too
        x = x + 1.0
    del x, y


def test_second_backward_is_an_error_that_names_the_operator():
    x = leaf([2.0])
    y = (x * x).sum()
    y.backward()
    with pytest.raises(GraphError, match="sum a second time"):
        y.backward()


def test_backward_through_a_part_already_used_is_an_error():
    x = leaf([2.0])
    shared = x * x
    (shared + 1.0).backward()
    with pytest.raises(GraphError, match="multiply a second time"):
        (shared + 2.0).backward()


@pytest.mark.parametrize("cut", ["no_grad", "detach", "constant"])
def test_no_gradient_path_is_an_error(cut):
    x = leaf([2.0])
    if cut == "no_grad":
        with mx.no_grad():
            y = x * x
    else:
        y = (x.detach() if cut == "detach" else mx.tensor([2.0])) * 3.0
    with pytest.raises(GraphError, match="no path"):
        y.backward()


def test_backward_of_many_values_needs_a_cotangent_of_the_same_shape():
    x = leaf([1.0, 2.0])
    with pytest.raises(GraphError, match="cotangent"):
        (x * x).backward()
    with pytest.raises(ShapeError, match=r"\(2,\), got \(3,\)"):
        (x * x).backward(np.ones(3))


def test_retain_grad_keeps_an_intermediate_gradient():
    x = leaf([2.0])
    y = (x * x).retain_grad()
    (y * 3.0).backward()
    np.testing.assert_array_equal(y.grad, [3.0])
    assert (x * x).grad is None


def test_activations_are_freed_without_the_garbage_collector():
    gc.disable()
    try:
        x = leaf(np.ones(8))
        hidden = x * 2.0
        output = mx.ops.relu(hidden)
        data = weakref.ref(hidden)
        loss = (output * output).sum()
        del hidden, output
        assert data() is None  # nobody's backward saved it
        saved = weakref.ref(loss.node.parents[0])
        loss.backward()
        del loss
        assert saved() is None
    finally:
        gc.enable()


def test_backward_frees_the_saved_arrays_while_it_runs():
    x = leaf(np.ones(8))
    y = x * x
    node = y.node
    y.sum().backward()
    assert not isinstance(node.saved, tuple)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_dtype_is_kept(dtype):
    x = leaf([1.0, -2.0], dtype)
    y = mx.ops.relu(x * 2.0 + 1.0).mean()
    y.backward()
    assert y.dtype == np.dtype(dtype)
    assert x.grad.dtype == np.dtype(dtype)


def test_dtypes_that_cannot_be():
    with pytest.raises(DTypeError, match="float16"):
        mx.tensor(np.zeros(2, np.float16))
    with pytest.raises(DTypeError, match="require a gradient"):
        mx.tensor([1, 2], requires_grad=True)
    with pytest.raises(DTypeError, match="float32, float64"):
        mx.tensor([1.0]) + mx.tensor([1.0], dtype="float64")


def test_python_numbers_follow_the_tensor():
    x = mx.tensor([1.0, 2.0])
    assert x.dtype == np.float32
    for y in (x + 1, 1 - x, x * 2.5, 1 / x, -x, x / 2):
        assert y.dtype == np.float32
    np.testing.assert_allclose((1 / x).numpy(), [1.0, 0.5])


def test_item_and_repr():
    assert mx.tensor([[4.0]]).item() == 4.0
    with pytest.raises(ShapeError, match="one element"):
        mx.tensor([1.0, 2.0]).item()
    assert "requires_grad=True" in repr(leaf([1.0]))
    assert "op=multiply" in repr(leaf([1.0]) * 2.0)


def test_non_contiguous_input_becomes_contiguous():
    x = mx.tensor(np.ones((3, 4)).T)
    assert x.data.flags.c_contiguous


def test_pool_hands_a_block_out_again_only_when_nobody_looks_at_it():
    memory.release()
    first = memory.empty((1 << 16,), np.float32)
    address = first.ctypes.data
    assert address % 64 == 0
    view = first[10:20]
    del first
    assert memory.empty((1 << 16,), np.float32).ctypes.data != address  # the view still looks at the block
    del view
    assert memory.cached_bytes() >= 4 << 16
    addresses = [memory.empty((1 << 16,), np.float32).ctypes.data for _ in range(3)]
    assert address in addresses or len(set(addresses)) == 1
    memory.release()
    assert memory.cached_bytes() == 0


def test_tensor_of_a_number_keeps_its_shape():
    assert mx.tensor(3.0).shape == ()
    assert Tensor(np.ones(3)).shape == (3,)


def test_a_gradient_that_goes_to_two_inputs_is_not_added_to_in_place():
    both = Op(
        name="both",
        rungs={
            "numpy": Rung(lambda a, b: (a + b, None), lambda dy, saved: (twice := 2 * dy, twice))
        },  # one array, twice
        shape=lambda a, b: a,
        sample=lambda draw: Case((draw.normal(2), draw.normal(2))),
    )
    x = mx.tensor([1.0, 2.0], requires_grad=True)
    a, b = x * 1.0, x * 1.0
    c = a * 3.0  # older than both(a, b): its gradient comes to a when the array that is there twice has
    (both(a, b) + c).backward(np.ones(2, np.float32))
    assert x.grad.tolist() == [7.0, 7.0]  # 2 + 3 through a, 2 through b


def test_a_gradient_that_cannot_be_written_to_is_not_added_to_in_place():
    total = Op(
        name="total",
        rungs={"numpy": Rung(lambda x: (x.sum(), x.shape), lambda dy, shape: (np.broadcast_to(2 * dy, shape),))},
        shape=lambda x: (),
        sample=lambda draw: Case((draw.normal(2),)),
    )
    x = mx.tensor([1.0, 2.0], requires_grad=True)
    y = x * 1.0
    (ops.sum(y * y) + total(y)).backward()  # the youngest comes first: y starts with the gradient of total
    assert x.grad.tolist() == [4.0, 6.0]  # 2 + 2 y


def test_a_reshape_beside_a_fork_does_not_share_its_gradient():
    """What a reshape hands back is a view of what it was given: adding to it in place would change that too."""
    x = leaf(np.arange(6.0).reshape(2, 3))
    y = x * 2.0
    kept = y.reshape(3, 2).retain_grad()
    (kept * np.full((3, 2), 5.0) + y.reshape(3, 2)).sum().backward()
    np.testing.assert_array_equal(kept.grad, np.full((3, 2), 5.0))
    np.testing.assert_array_equal(x.grad, np.full((2, 3), 12.0))


def test_gradients_that_meet_leave_those_beside_them_alone():
    """Addition hands its dy on to both inputs: all look at one array when two gradients meet at ``doubled``."""
    x, y, z = (mx.tensor(np.ones(3), requires_grad=True) for _ in range(3))
    doubled, cotangent = x * 2, np.ones(3)
    ((doubled + y * 3) + (doubled + z * 5)).backward(cotangent)
    assert [x.grad[0], y.grad[0], z.grad[0], cotangent[0]] == [4, 3, 5, 1]


@pytest.mark.parametrize("size", [1 << 15, (1 << 15) + 1, (3 << 15) + 777])
def test_gradients_of_more_than_one_chunk_are_added(rng, size):
    from minixception.engine.accumulate import accumulate

    for dtype in (np.float32, np.float64):
        total, term = (rng.standard_normal(size).astype(dtype) for _ in range(2))
        expected = total + term
        accumulate(total, term)
        np.testing.assert_array_equal(total, expected)


@pytest.mark.parametrize("strided", ["total", "term"])
def test_gradients_whose_rows_lie_apart_are_added(rng, strided):
    """A flat view of such an array would be a copy: the sum would go there, and be lost."""
    from minixception.engine.accumulate import accumulate

    arrays = {name: rng.standard_normal((1 << 8, 1 << 7)) for name in ("total", "term")}
    arrays[strided] = rng.standard_normal((1 << 7, 1 << 8)).T
    expected = arrays["total"] + arrays["term"]
    accumulate(**arrays)
    np.testing.assert_array_equal(arrays["total"], expected)


def test_a_backend_lasts_as_long_as_its_block_even_after_an_error():
    from minixception.engine.backend import current_backend

    assert current_backend() == "cpu"
    with mx.use_backend("loops"):
        with pytest.raises(KeyError), mx.use_backend("numpy"):
            assert current_backend() == "numpy"
            raise KeyError
        assert current_backend() == "loops"
    assert current_backend() == "cpu"


def test_lists_of_different_lengths_are_a_shape_error():
    with pytest.raises(ShapeError, match="rows of equal length"):
        mx.tensor([[1.0, 2.0], [3.0]])


def test_an_operator_without_a_kernel_for_the_gpu_runs_on_the_processor_between_two_copies(rng):
    relu = mx.ops.OPERATORS["relu"]
    definition = replace(relu, rungs={"numpy": relu.rungs["numpy"]})
    x = mx.Tensor(rng.standard_normal((2, 3)), requires_grad=True)
    with mx.use_backend("cuda"):
        y = definition(x)
        y.sum().backward()
    assert y.device == "cuda"
    np.testing.assert_array_equal(y.numpy(), np.maximum(x.numpy(), 0))
    np.testing.assert_array_equal(x.grad, x.numpy() > 0)
