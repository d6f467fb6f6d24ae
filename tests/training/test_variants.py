"""Training runs as result files, at tiny size: variants that differ in one thing, and one run with its curves."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

import minixception as mx
from minixception import viz
from minixception.bench.records import variants as module
from minixception.bench.records.__main__ import main
from minixception.bench.records.variants import SMALL, Variant, activate_between, remove_residuals, variants
from minixception.data import shapes
from minixception.nn import Residual, SeparableConv2d
from minixception.training import RECIPES, Trainer

TINY = replace(SMALL, epochs=1, batch_size=8, widths=(8,), middle_blocks=1, stem=4)
SHAPE = (16, 16, 3)


def built(recipe):
    mx.seed(3)
    return recipe.make_model(8, SHAPE)


@pytest.fixture
def tiny(monkeypatch):
    """Tiny recipes and pictures in place of the real ones; what was asked for."""
    asked = []

    def load(spec, split):
        asked.append(spec)
        return shapes(split, size=24, image_size=16)

    monkeypatch.setattr(module, "load", load)
    monkeypatch.setattr(module, "SMALL", TINY)
    monkeypatch.setitem(RECIPES, "cifar10", TINY)
    return asked


def test_every_variant_differs_from_the_baseline_in_one_thing():
    base = variants(TINY)["baseline"]
    changed = {
        name: {key for key, value in vars(variant).items() if value != getattr(base, key)}
        for name, variant in variants(TINY).items()
    }
    assert changed == {
        "baseline": set(),
        "no residual connections": {"residual"},
        "ReLU in between": {"between"},
        "ELU in between": {"between"},
        "no averaging": {"ema_decay"},
        "the paper's decay": {"schedule"},
    }
    assert (base.decay_rate, base.decay_epochs) == (0.94, 2)  # section 4.2


def test_the_baseline_is_the_recipe():
    ours, theirs = built(variants(TINY)["baseline"]), built(TINY)
    assert {name: t.data.tobytes() for name, t in ours.named_tensors()} == {
        name: t.data.tobytes() for name, t in theirs.named_tensors()
    }


@pytest.mark.parametrize("name", variants(TINY))
def test_variants_begin_with_the_weights_of_the_baseline(name):
    base = dict(built(variants(TINY)["baseline"]).named_parameters())
    for path, tensor in built(variants(TINY)[name]).named_parameters():
        np.testing.assert_array_equal(tensor.data, base[path].data, err_msg=path)


def test_without_residual_connections_the_chains_are_left():
    model = built(variants(TINY)["baseline"]).eval()
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


def test_all_logs_are_in_the_file(tiny, tmp_path):
    out = tmp_path / "seeds.json"
    assert main(["variants", str(out), "--seeds", "2", "--epochs", "2"]) == 0
    result = json.loads(out.read_text())
    assert (
        result["command"]
        == "python -m minixception.bench.records variants seeds.json --data shapes --seeds 2 --epochs 2"
    )
    assert result["seeds"] == [0, 1]
    assert {"machine", "versions", "date", "minutes"} <= result.keys()
    assert result["runs"].keys() == result["recipes"].keys() == variants(TINY).keys()
    assert all(len(logs) == 2 and all(len(log) == 2 for log in logs) for logs in result["runs"].values())
    assert Variant.from_json(result["recipes"]["ELU in between"]) == replace(
        variants(TINY)["ELU in between"], epochs=2, data="shapes"
    )
    assert viz.training_bands(result["runs"]).axes
    assert tiny == ["shapes", "shapes"]


def test_seeds_differ_and_averaging_does_not_change_the_training(tiny, tmp_path):
    main(["variants", str(tmp_path / "seeds.json"), "--seeds", "2"])
    runs = json.loads((tmp_path / "seeds.json").read_text())["runs"]
    losses = {name: [log[-1]["train_loss"] for log in logs] for name, logs in runs.items()}
    assert losses["baseline"] == losses["no averaging"]
    assert losses["baseline"][0] != losses["baseline"][1]
    assert runs["baseline"][0][-1]["test_loss"] != runs["no averaging"][0][-1]["test_loss"]
    for other in ("no residual connections", "ReLU in between", "ELU in between"):
        assert losses[other] != losses["baseline"]


def test_a_folder_of_pictures_is_read_and_not_named(tiny, tmp_path):
    out = tmp_path / "seeds.json"
    main(["variants", str(out), "--data", "cifar10:/some/where", "--seeds", "1"])
    assert tiny == ["cifar10:/some/where"] * 2
    assert "/some/where" not in out.read_text()
    assert json.loads(out.read_text())["recipes"]["baseline"]["data"] == "cifar10"


@pytest.mark.parametrize(("name", "count"), [("seeds", "0"), ("seeds", "-1"), ("epochs", "0")])
def test_no_runs_are_refused(name, count, tiny, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["variants", str(tmp_path / "seeds.json"), f"--{name}={count}"])
    assert f"--{name} must be at least 1, got {count}" in capsys.readouterr().err
    assert not tiny and not list(tmp_path.iterdir())


def test_a_finished_run_is_a_result_file_and_the_same_curves_each_time(tmp_path):
    records = Trainer(TINY, *(shapes(split, size=24, image_size=16) for split in ("train", "test")), tmp_path).run()
    curves = []
    for name in ("one.json", "two.json"):
        assert main(["training_run", str(tmp_path / name), "--run", str(tmp_path)]) == 0
        curves.append((tmp_path / name).with_suffix(".svg").read_text("utf-8"))
    result = json.loads((tmp_path / "one.json").read_text())
    assert result["epochs"] == records
    assert result["test_top1"] == records[-1]["test_top1"]
    assert curves == [viz.training_curves(records).svg()] * 2
