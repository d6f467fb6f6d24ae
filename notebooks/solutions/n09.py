"""Solutions of notebook 09, and wrong answers with words of the verdict that they get."""

from __future__ import annotations

from typing import Any


def sgd_step(w, v, g, lr, momentum, weight_decay):
    v = momentum * v + g + weight_decay * w
    return w - lr * v, v


SOLUTIONS: dict[str, Any] = {
    "sgd-step": sgd_step,
    "half-the-rate": 22.4,
    "why-averaging-helps": "C",
}


def step_of_keras(w, v, g, lr, momentum, weight_decay):
    v = momentum * v - lr * (g + weight_decay * w)
    return w + v, v


def step_with_old_velocity(w, v, g, lr, momentum, weight_decay):
    w_new = w - lr * v
    return w_new, momentum * v + g + weight_decay * w


def step_without_decay(w, v, g, lr, momentum, weight_decay):
    v = momentum * v + g
    return w - lr * v, v


def step_uphill(w, v, g, lr, momentum, weight_decay):
    v = momentum * v + g + weight_decay * w
    return w + lr * v, v


def step_of_an_average(w, v, g, lr, momentum, weight_decay):
    v = momentum * v + (1 - momentum) * (g + weight_decay * w)
    return w - lr * v, v


def step_in_place(w, v, g, lr, momentum, weight_decay):
    v *= momentum
    v += g + weight_decay * w
    w -= lr * v
    return w, v


MISTAKES: list[tuple[str, Any, str]] = [
    ("sgd-step", step_of_keras, "part of the velocity"),
    ("sgd-step", step_with_old_velocity, "First v, then w"),
    ("sgd-step", step_without_decay, "Weight decay is missing"),
    ("sgd-step", step_uphill, "This climbs"),
    ("sgd-step", step_of_an_average, "In the paper's SGD v is a sum"),
    ("sgd-step", step_in_place, "makes a new one"),
    ("half-the-rate", 11.2, "every second epoch"),
    ("half-the-rate", 44.8, "a quarter"),
    ("half-the-rate", 16.7, "6 % of what is left"),
    ("why-averaging-helps", "A", "the weights of the last steps"),
    ("why-averaging-helps", "D", "one network is run"),
]
