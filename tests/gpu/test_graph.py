"""Work that is recorded and replayed: the same results as when it runs, from memory that nobody else is given."""

from __future__ import annotations

import gc

import numpy as np
import pytest

import minixception as mx
from minixception import nn
from minixception.errors import RecordingError
from minixception.gpu import device
from minixception.gpu import kernel as gpu
from minixception.gpu.graph import Repeated, drawn
from minixception.ops import OPERATORS
from minixception.training.batch import Gradients
from minixception.training.measure import measure

pytestmark = pytest.mark.gpu
RELU, ADD = (OPERATORS[name].rungs["cuda"].forward for name in ("relu", "add"))


def twice(x):
    """2 relu(x), by launches and a copy; one result is dropped, and its memory used again."""
    y, _ = RELU(x)
    ADD(y, y)
    return ADD(y, device.copy(y))[0]


def test_each_call_computes_the_function_of_its_own_arrays(rng):
    repeated = Repeated(twice)
    for _ in range(4):
        x = rng.standard_normal((3, 5)).astype(np.float32)
        there = device.to_gpu(x)
        np.testing.assert_array_equal(device.to_cpu(repeated(there)), 2 * np.maximum(x, 0))
        np.testing.assert_array_equal(device.to_cpu(there), x)
    assert repeated.recordable


def test_the_function_runs_twice_and_never_again():
    calls = []
    repeated = Repeated(lambda x: calls.append(0) or RELU(x)[0])
    for _ in range(5):
        repeated(device.to_gpu(np.ones(3)))
    assert len(calls) == 2


def test_a_result_lies_where_the_last_one_did():
    repeated = Repeated(twice)
    results = [repeated(device.to_gpu(np.full(3, float(number)))) for number in range(4)]
    assert len({device.address(y) for y in results[1:]}) == 1
    np.testing.assert_array_equal(device.to_cpu(results[1]), [6, 6, 6])


def test_numbers_are_drawn_before_each_replay_in_their_order():
    numbers = iter(range(100))
    repeated = Repeated(lambda x: [drawn(lambda: next(numbers)), twice(x), drawn(lambda: next(numbers))])
    for call in range(4):
        first, _, second = repeated(device.to_gpu(np.ones(1, np.float64)))  # numbers and arrays of one size
        assert [device.to_cpu(first).item(), device.to_cpu(second).item()] == [2 * call, 2 * call + 1]


def test_what_reads_its_results_runs_each_time(rng):
    def reading(x):
        return device.to_gpu(device.to_cpu(RELU(x)[0]) + 1)

    repeated = Repeated(reading)
    for _ in range(4):
        x = rng.standard_normal(7)
        np.testing.assert_array_equal(device.to_cpu(repeated(device.to_gpu(x))), np.maximum(x, 0) + 1)
    assert not repeated.recordable
    assert gpu.recording() is None


@pytest.mark.parametrize(
    ("work", "message"),
    [
        (lambda x: device.to_cpu(x), "read an array of the GPU"),
        (lambda x: device.to_gpu(np.ones(3)), "copy an array from the processor"),
        (lambda x: device.assign(x, np.ones(3)), "copy an array from the processor"),
        (lambda x: gpu.synchronize(), "wait for the GPU"),
    ],
)
def test_what_cannot_be_recorded_says_so(work, message):
    said = []

    def function(x):
        try:
            work(x)
        except RecordingError as error:
            said.append(str(error))
        return x

    repeated = Repeated(function)
    for _ in range(2):
        repeated(device.to_gpu(np.ones(3)))
    assert said == [f"what is recorded may not {message}: nothing runs while it is recorded"]


def test_one_inside_of_another_is_a_part_of_its_recording(rng):
    inner = Repeated(twice)
    outer = Repeated(lambda x: twice(inner(x)))
    for _ in range(4):
        x = rng.standard_normal(7)
        np.testing.assert_array_equal(device.to_cpu(outer(device.to_gpu(x))), 4 * np.maximum(x, 0))


def test_an_error_of_the_function_ends_the_recording(rng):
    repeated, wrong = Repeated(lambda x: 1 / 0 if wrong else RELU(x)[0]), []
    x = device.to_gpu(np.array([-1.0, 1.0]))
    repeated(x)
    wrong.append(True)
    with pytest.raises(ZeroDivisionError):
        repeated(x)
    assert gpu.recording() is None
    wrong.clear()
    np.testing.assert_array_equal(device.to_cpu(repeated(x)), [0, 1])


def test_its_memory_is_nobody_elses_while_it_lives():
    repeated = Repeated(twice)
    x = device.to_gpu(np.ones(5000))
    for _ in range(2):
        repeated(x)
    device.empty_cache()
    held = device.memory_use().held
    others = [device.to_gpu(np.full(5000, 9.0)) for _ in range(6)]
    np.testing.assert_array_equal(device.to_cpu(repeated(x)), np.full(5000, 2.0))
    for other in others:
        np.testing.assert_array_equal(device.to_cpu(other), np.full(5000, 9.0))
    del repeated, other, others, x
    gc.collect()
    assert device.memory_use().cached >= held  # and with it all of it comes back


# A training step ------------------------------------------------------------------------------------------------------


def network():
    mx.seed(5)
    layers = nn.SeparableConv2d(3, 4), nn.BatchNorm2d(4), nn.Activation(), nn.Dropout(0.5), nn.GlobalAvgPool()
    return nn.Sequential(*layers, nn.Linear(4, 3)).to("cuda").train()


def eager(model, x, labels):
    for parameter in model.parameters():
        parameter.grad = None
    logits = model(x)
    loss = mx.cross_entropy(logits, labels, 0.1)
    loss.backward()
    return measure(loss, logits, labels)


def test_a_recorded_training_step_is_the_step_to_the_bit(rng):
    batches = [(rng.standard_normal((2, 3, 3, 3)).astype(np.float32), rng.integers(0, 3, 2)) for _ in range(4)]

    def train(gradients_of):
        model = network()
        optimizer = mx.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        run, told = gradients_of(model), []
        for number, (x, labels) in enumerate(batches):
            mx.seed(number)
            optimizer.lr = 0.1 / (1 + number)
            told.append(run(mx.tensor(x).to("cuda"), labels))
            optimizer.step()
        return told, {name: tensor.numpy() for name, tensor in model.named_tensors()}

    told, weights = train(lambda model: Gradients(model, 3, 0.1))
    right, right_weights = train(lambda model: lambda x, labels: eager(model, x, labels))
    assert told == right
    for name, array in right_weights.items():
        np.testing.assert_array_equal(weights[name], array, err_msg=name)


def test_a_batch_of_another_size_is_a_recording_of_its_own(rng):
    model = nn.Linear(5, 3).to("cuda")
    run = Gradients(model, 3, 0.0)
    for size in (2, 1, 2, 1, 2, 1):
        x, labels = mx.tensor(rng.standard_normal((size, 5)).astype(np.float32)).to("cuda"), np.arange(size)
        told = run(x, labels)
        logits = model(x)
        assert told == measure(mx.cross_entropy(logits, labels), logits, labels)
