"""What a run trained can be used: as a model in Python, and by its folder's name on the command line."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

import minixception as mx
from minixception.apps import cli
from minixception.apps.hub import Hub, server
from minixception.data import shapes
from minixception.errors import CheckpointError
from minixception.training import RECIPES, Recipe, Trainer, evaluate, read_checkpoint
from minixception.training.run_folder import CHECKPOINT
from tests.helpers.colours import serving
from tests.helpers.hub_client import form, get, post
from tests.helpers.processes import ROOT

RECIPE = Recipe(epochs=1, batch_size=8, seed=7, widths=(8,), middle_blocks=1, stem=4, ema_decay=0.9, augment=False)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of three steps, whose averages are not its weights: its folder, and the trainer."""
    data = shapes("train", size=24, image_size=16)
    trainer = Trainer(RECIPE, data, data, tmp_path_factory.mktemp("runs") / "shapes")
    trainer.run()
    return trainer.folder, trainer


def test_a_loaded_run_has_its_averaged_weights_and_knows_its_images(run):
    folder, trainer = run
    model = mx.load(folder)
    with trainer.ema.averaged():
        averaged = {name: array.copy() for name, array in trainer.model.state_dict().items()}
    assert not np.array_equal(averaged["predictions.weight"], trainer.model.state_dict()["predictions.weight"])
    for name, array in model.state_dict().items():
        np.testing.assert_array_equal(array, averaged[name])
    assert (model.class_names, model.input_shape) == (trainer.train.class_names, (16, 16, 3))
    assert model.preprocessing == "tf"
    assert not model.training
    measures = evaluate(model, trainer.test, RECIPE.batch_size)
    assert measures["loss"] == trainer.progress.records[-1]["test_loss"]


def test_it_names_what_it_sees(run):
    folder, trainer = run
    model = mx.load(folder / "checkpoint.safetensors")
    photos = [np.zeros((20, 30, 3), np.uint8)]
    found = [p.name for p in model.predict(photos, top=8)[0]]
    assert sorted(found) == sorted(trainer.train.class_names)
    assert Hub(model).classes == trainer.train.class_names
    assert [p.name for p in model.predict(photos, top=8, classes=list("abcdefgh"))[0]] == [
        "abcdefgh"[trainer.train.class_names.index(name)] for name in found
    ]


def test_a_thousand_classes_of_ones_own_are_not_imagenets():
    model = mx.models.mini_xception(1000, (8,), 0, 4)
    model.class_names = tuple(f"my {i}" for i in range(1000))
    (found,) = model.predict([np.zeros((8, 8, 3), np.uint8)])
    assert all(p.wnid == "" and p.name.startswith("my ") for p in found)
    assert Hub(model).classes[0] == "my 0"


def test_what_is_no_run(tmp_path):
    with pytest.raises(CheckpointError, match=r"no checkpoint at .*checkpoint\.safetensors"):
        mx.load(tmp_path)
    mx.nn.Linear(2, 3).save_weights(tmp_path / "w.safetensors")
    with pytest.raises(CheckpointError, match=r"w\.safetensors is not a checkpoint of this version"):
        mx.load(tmp_path / "w.safetensors")


# On the command line --------------------------------------------------------------------------------------------------


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)).save(path)
    return path


def test_predict_takes_a_run_before_the_photos(run, photo, call):
    folder, trainer = run
    expected = mx.load(folder).predict([photo, photo], top=3)
    for name in (folder, folder / "checkpoint.safetensors"):
        status, out, _ = call("predict", name, photo, photo, "--top", 3, "--json")
        assert status == 0
        for entry, predictions in zip(json.loads(out), expected, strict=True):
            assert entry == {"file": str(photo), "predictions": [p._asdict() for p in predictions]}
    lines = call("predict", folder, photo)[1].splitlines()
    assert lines[0] == str(photo)
    assert lines[1].split() == ["class", "probability", "(%)"]
    assert any(lines[3].startswith(name) for name in trainer.train.class_names)


def test_the_readmes_lines_lead_from_photos_to_classes(tmp_path, photo, call, monkeypatch):
    text = (ROOT / "README.md").read_text("utf-8")
    words = [line.split("#")[0].split() for line in text.splitlines() if re.match("minixception .*photos", line)]
    assert [line[:2] for line in words] == [["minixception", name] for name in ("train", "predict", "serve")]
    for name in ("daisy", "tulip"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(10):
            (tmp_path / "photos" / name / f"{i}.png").write_bytes(photo.read_bytes())
    photo.rename(tmp_path / "new.jpg")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(RECIPES, "photos", replace(RECIPE, ema_decay=0.5))
    assert call(*words[0][1:])[0] == 0
    assert read_checkpoint(tmp_path / words[1][2] / CHECKPOINT).recipe.ema_decay == 0.5  # the recipe for photos
    status, out, _ = call(*words[1][1:], "--json")
    assert status == 0
    assert {p["name"] for p in json.loads(out)[0]["predictions"]} == {"daisy", "tulip"}
    served = cli.parser().parse_args(words[2][1:])
    assert mx.load(served.run).class_names == ("daisy", "tulip")


@pytest.mark.slow
def test_some_dozens_of_photos_are_learned_by_the_recipe_for_photos(tmp_path):
    drawn = mx.data.shapes("train", seed=3)
    for i in [i for i in range(250) if drawn.labels[i] < 4]:
        file = tmp_path / "photos" / drawn.class_names[drawn.labels[i]] / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(drawn.images[i]).save(file)
    recipe = replace(RECIPES["photos"], data=f"folder:{tmp_path / 'photos'}")
    train, test = (mx.data.load(recipe.data, split) for split in ("train", "test"))
    assert 80 < len(train) < 120
    records = Trainer(recipe, train, test, tmp_path / "run").run()
    assert records[-1]["test_top1"] > 0.75  # of averaged weights; with the recipe for CIFAR-10 it is chance, 0.25


def test_evaluate_takes_the_runs_image_size(run, call):
    folder, _ = run
    status, out, _ = call("evaluate", folder, "--json")
    assert status == 0
    expected = evaluate(mx.load(folder), mx.data.load("shapes", "test", image_size=16, seed=7), RECIPE.batch_size)
    assert json.loads(out) == {"images": 1000, **expected}


def test_serve_takes_a_run(run, call, monkeypatch):
    class Served:
        """A server that is stopped at once."""

        def __init__(self, hub, port, allow_urls):
            hubs.append(hub)
            self.url = "http://here/"

        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

        def serve_forever(self):
            raise KeyboardInterrupt

    hubs = []
    monkeypatch.setattr(server, "Server", Served)
    folder, trainer = run
    status, out, err = call("serve", folder, "--port", 0)
    assert (status, out, err) == (0, "Open http://here/ in a browser. Ctrl-C stops it.\n", "")
    (hub,) = hubs
    assert hub.classes == trainer.train.class_names
    assert hub.get_config()["model"]["description"].startswith(f"{folder}, 8 classes, pictures resized to 16x16 pixels")
    weights = folder / "weights.safetensors"
    mx.models.MODELS["mini_xception"](num_classes=3).save_weights(weights)
    assert call("serve", "--model", "mini_xception", "--weights", weights, "--classes", 3)[0] == 0
    assert hubs[1].classes == ("0", "1", "2")


def test_an_uploaded_photo_gets_what_predict_says(run, photo, call):
    folder, trainer = run
    model = mx.load(folder)
    with serving(Hub(model, str(folder))) as server:
        for size in ((60, 40), (20, 9)):
            Image.open(photo).resize(size).save(photo)
            (predicted,) = json.loads(call("predict", folder, photo, "--top", 8, "--json")[1])
            status, answer = post(server, form(photo.read_bytes()))
            assert status == 200
            (output,) = answer["output"]
            assert [p["label"] for p in output["prediction"]] == list(trainer.train.class_names)
            got = {p["label"]: p["probability"] for p in output["prediction"]}
            expected = {p["name"]: p["probability"] for p in predicted["predictions"]}
            assert got == pytest.approx(expected, rel=1e-5)
        assert answer["model"]["name"] == str(folder)
        assert get(server, "/api/get_samples") == (200, [])


def test_a_run_brings_its_network_with_it(run, photo, call, tmp_path):
    folder, _ = run
    status, out, err = call("predict", folder, photo, "--weights", "imagenet", "--size", 71)
    assert (status, out) == (2, "")
    assert err.endswith("is a run, which brings its network with it: leave out --weights, --size\n")
    assert call("serve", folder, "--model", "xception")[0] == 2
    status, _, err = call("predict", folder)
    assert status == 2
    assert "required: PHOTO" in err
    for command in (("predict", tmp_path, photo), ("serve", tmp_path)):
        status, out, err = call(*command)
        assert (status, out) == (2, "")
        assert err == f"minixception: error: no checkpoint at {tmp_path / 'checkpoint.safetensors'}\n"


@pytest.mark.parametrize("command", [("summary",), ("predict", "photo.png", "--model"), ("evaluate", "--model")])
def test_networks_are_named_as_in_python_too(command):
    for name, network in mx.models.MODELS.items():
        for spelled in (name, network.__name__):
            assert cli.parser().parse_args([*command, spelled]).model == name
