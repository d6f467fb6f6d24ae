"""Designs: networks that differ from the recipe's in one thing, and begin with its weights."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import minixception as mx
from minixception.errors import ArgumentError
from minixception.experiments.designs import FORMS, Design, activate_between, remove_residuals
from minixception.experiments.table import EXPERIMENTS
from minixception.nn import Conv2d, Residual, SeparableConv2d, SpectrumConv2d

TINY = Design(epochs=1, batch_size=8, widths=(8,), middle_blocks=1, stem=4)
SHAPE = (16, 16, 3)


def built(design):
    mx.seed(3)
    return design.make_model(8, SHAPE)


def spatial(model):
    """The layers that filter space, behind the stem and beside the shortcuts."""
    kinds = (Conv2d, SeparableConv2d)
    return [part for name, part in model.named_modules() if isinstance(part, kinds) and not name.startswith("block1.")]


def test_the_separable_design_is_the_recipe():
    ours = built(TINY)
    mx.seed(3)
    theirs = mx.models.mini_xception(8, (8,), 1, 4, SHAPE)
    assert {name: t.data.tobytes() for name, t in ours.named_tensors()} == {
        name: t.data.tobytes() for name, t in theirs.named_tensors()
    }


@pytest.mark.parametrize(
    ("form", "segments", "groups"),
    [("regular", 1, 1), ("segments", 1, 1), ("segments", 4, 4), ("pointwise first", 1, 8)],
)
def test_every_unit_has_the_form(form, segments, groups):
    model = replace(TINY, form=form, segments=segments).make_model(8, SHAPE)
    units = spatial(model)
    assert [part.groups for part in units] == [groups] * 5
    assert all(part.weight.shape[:2] == (3, 3) for part in units)
    mixed = [part for _, part in model.named_modules() if isinstance(part, SpectrumConv2d)]
    assert len(mixed) == (0 if form == "regular" else 5)


def test_a_reformed_unit_keeps_the_relu_in_front(rng):
    """The pointwise-first network with its 1x1 at the identity is a separable one with its 1x1 at the identity."""
    one = replace(TINY, widths=(4,), form="pointwise first").make_model(8, SHAPE).eval()
    other = replace(TINY, widths=(4,)).make_model(8, SHAPE).eval()
    own, theirs = dict(one.named_tensors()), dict(other.named_tensors())
    for name, tensor in theirs.items():
        path = name.removesuffix(".depthwise").removesuffix(".pointwise")
        if name.endswith(("depthwise", "pointwise")):
            conv = path if f"{path}.pointwise.weight" in own else f"{path}.conv"
            if name.endswith("pointwise"):
                tensor.data[...] = np.eye(4)
                own[f"{conv}.pointwise.weight"].data[...] = np.eye(4)
            else:
                own[f"{conv}.spatial.weight"].data[...] = tensor.data[:, :, None]
        else:
            own[name].data[...] = tensor.data
    x = mx.tensor(rng.standard_normal((2, *SHAPE)).astype(np.float32))
    with mx.no_grad():
        np.testing.assert_allclose(one(x).numpy(), other(x).numpy(), rtol=1e-4, atol=1e-5)


def test_impossible_designs_are_refused():
    with pytest.raises(ArgumentError, match=r"form must be one of separable, .* got 'round'"):
        replace(TINY, form="round")
    with pytest.raises(ArgumentError, match="groups=3 must divide 8 and 8 channels"):
        replace(TINY, form="segments", segments=3).make_model(8, SHAPE)
    assert len(FORMS) == 4


# One thing at a time ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["drawn", "recipe", "shortcuts", "between"])
def test_every_variant_differs_from_the_first_in_one_thing(name):
    designs = EXPERIMENTS[name].designs
    (_, base), *others = designs.items()
    changed = {
        label: {key for key, value in vars(design).items() if value != getattr(base, key)} for label, design in others
    }
    known = {
        "no residual connections": {"residual"},
        "ReLU in between": {"between"},
        "ReLU": {"between"},
        "ELU in between": {"between"},
        "ELU": {"between"},
        "no averaging": {"ema_decay"},
        "the paper's decay": {"schedule"},
    }
    assert changed == {label: known[label] for label, _ in others}
    assert (base.decay_rate, base.decay_epochs) == (0.94, 2)  # section 4.2


@pytest.mark.parametrize("change", [{"residual": False}, {"between": "relu"}, {"between": "elu"}])
def test_variants_begin_with_the_weights_of_the_baseline(change):
    base = dict(built(TINY).named_parameters())
    for path, tensor in built(replace(TINY, **change)).named_parameters():
        np.testing.assert_array_equal(tensor.data, base[path].data, err_msg=path)


def test_without_residual_connections_the_chains_are_left():
    model = built(TINY).eval()
    x = mx.tensor(np.random.default_rng(0).standard_normal((2, *SHAPE)).astype(np.float32))
    inside = model.block1(x)
    chain = model.block2
    for name in chain.chain:
        inside = getattr(chain, name)(inside)
    with_shortcuts = model(x).numpy()
    remove_residuals(model)
    assert not any(isinstance(part, Residual) for _, part in model.named_modules())
    assert not any("shortcut" in name for name, _ in model.named_parameters())
    np.testing.assert_allclose(model.block2(model.block1(x)).numpy(), inside.numpy(), rtol=1e-5, atol=1e-6)
    assert np.abs(model(x).numpy() - with_shortcuts).max() > 1e-3


@pytest.mark.parametrize("activation", [None, "relu", "elu"])
def test_every_separable_convolution_has_the_activation_between(activation):
    model = built(TINY)
    activate_between(model, activation)
    found = [part.activation for _, part in model.named_modules() if isinstance(part, SeparableConv2d)]
    assert found == [activation] * 5
