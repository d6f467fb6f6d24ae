"""Evaluation on a folder of synsets: the figures, stopping and resuming, and what is refused."""

from __future__ import annotations

import json
import shlex
import shutil
import signal
import weakref

import numpy as np
import pytest
from PIL import Image

import minixception as mx
from minixception import imagenet
from minixception.apps.commands import evaluate
from minixception.data import ImageNetFolder, imagenet_folder
from minixception.data.imagenet_folder import Crop
from minixception.errors import ArgumentError, CheckpointError, DataError, NumericError
from minixception.nn import Linear, Sequential
from minixception.training import imagenet as evaluation
from minixception.training.imagenet import SavedScore, Score, crop_for, evaluate_imagenet, imagenet_model

CLASSES = (0, 7, 500, 999)  # the synsets of the folder, by their class numbers
PER_CLASS = 5


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Twenty pictures of noise in four synset folders, named as ImageNet's are."""
    rng = np.random.default_rng(0)
    root = tmp_path_factory.mktemp("ilsvrc") / "val"
    for number in CLASSES:
        place = root / imagenet.CLASSES[number][0]
        place.mkdir(parents=True)
        for i in range(PER_CLASS):
            pixels = rng.integers(0, 256, (40, 60, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(place / f"ILSVRC2012_val_{number:04d}{i:04d}.JPEG")
    (root / ".cache").mkdir()
    (root / "readme.txt").write_text("no synset")
    return root


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A small network for 1000 classes, of which the folder's are far ahead of the others."""
    mx.seed(5)
    model = mx.models.mini_xception(1000)
    model.predictions.bias.data[[*CLASSES, 1, 2, 3]] = 20
    path = tmp_path_factory.mktemp("weights") / "mini.safetensors"
    model.save_weights(path)
    return path


def load(weights):
    return imagenet_model("mini_xception", str(weights))


def command(folder, weights, *more):
    return ("evaluate", "--model", "mini_xception", "--weights", weights, "--data", f"imagenet:{folder}", *more)


# Figures --------------------------------------------------------------------------------------------------------------


def expected_hits(folder, weights, **crop):
    """Images whose class is first, and among the first five, photo by photo through the eager network."""
    model = mx.models.mini_xception(1000)
    model.load_weights(weights)
    model.eval()
    first = among = 0
    for place in (p for p in folder.iterdir() if p.name.startswith("n")):
        label = [wnid for wnid, _ in imagenet.CLASSES].index(place.name)
        for file in place.iterdir():
            photo = imagenet.center_crop(imagenet.read_image(file), crop.get("center_crop", 1.0))
            x = imagenet.preprocess(imagenet.resize(photo, (32, 32), crop.get("resize", "bilinear"))[None], "tf")
            with mx.no_grad():
                order = np.argsort(-model(mx.tensor(x)).numpy()[0])
            first += order[0] == label
            among += label in order[:5]
    return first, among


@pytest.mark.parametrize("crop", [{}, {"center_crop": 0.5, "resize": "nearest"}], ids=["whole", "crop"])
def test_accuracy_is_that_of_each_photo_on_its_own(crop, folder, weights):
    model, images = load(weights), ImageNetFolder(folder)
    score = evaluate_imagenet(model, images, crop_for(model, **crop), batch_size=6)
    first, among = expected_hits(folder, weights, **crop)
    assert 0 < first < among < 20  # the fixture leaves room for both to be wrong
    assert (score.images, score.top1_hits, score.top5_hits) == (20, first, among)
    assert (score.top1, score.top5) == (first / 20, among / 20)
    assert score.images_per_second == 20 / score.seconds > 0


def test_a_class_number_is_the_synsets_place(folder):
    images = ImageNetFolder(folder)
    assert len(images) == 20
    assert sorted(set(images.labels.tolist())) == list(CLASSES)
    for file, label in zip(images.files, images.labels, strict=True):
        assert file.startswith(imagenet.CLASSES[label][0] + "/")
    assert (np.diff(images.labels[:10]) < 0).any()  # mixed, so that the first figures mean something
    assert ImageNetFolder(folder).files == images.files


def test_one_batch_in_memory_at_a_time(folder):
    alive, most = weakref.WeakSet(), 0

    class Watched(np.ndarray):
        pass

    class WatchedCrop(Crop):
        def __call__(self, paths):
            x = super().__call__(paths).view(Watched)
            alive.add(x)
            return x

    Watched.__hash__ = object.__hash__  # a WeakSet needs it
    Watched.__eq__ = object.__eq__
    sizes = []
    for x, labels in ImageNetFolder(folder).batches(WatchedCrop(16), 8):
        most = max(most, len(alive))
        sizes.append((x.shape, len(labels)))
    assert sizes == [((8, 16, 16, 3), 8), ((8, 16, 16, 3), 8), ((4, 16, 16, 3), 4)]
    assert most <= 2  # the one at hand, and the one before until its name is used again


def test_the_command_prints_and_leaves_nothing_behind(folder, weights, tmp_path, monkeypatch, call):
    monkeypatch.chdir(tmp_path)
    first, among = expected_hits(folder, weights)
    status, out, err = call(*command(folder, weights, "--batch-size", 6, "--json"))
    assert status == 0, err
    result = json.loads(out)
    assert result.pop("images_per_second") > 0
    assert result == {"model": "mini_xception", "images": 20, "top1": first / 20, "top5": among / 20}
    assert f"top1={first / 20:.2%}" in err
    assert list(tmp_path.iterdir()) == []
    status, out, _ = call(*command(folder, weights))
    assert status == 0
    assert f"top-1              {first / 20:.2%}" in out
    assert "20 images" in out


def test_size_crop_and_rule_reach_the_network(folder, weights, call, monkeypatch):
    seen = []
    original = evaluate.evaluate_imagenet

    def spy(model, images, crop, *arguments, **options):
        seen.append((model.input_shape, crop))
        return original(model, images, crop, *arguments, **options)

    monkeypatch.setattr(evaluate, "evaluate_imagenet", spy)
    options = ("--size", 48, "--center-crop", 0.875, "--resize", "lanczos")
    assert call(*command(folder, weights, *options))[0] == 0
    assert seen == [((48, 48, 3), Crop(48, 0.875, "lanczos", "tf"))]


def test_other_networks_have_their_own_preprocessing():
    assert crop_for(mx.models.NEXcepTionT(10)) == Crop(224, 1.0, "bilinear", "torch")
    assert crop_for(mx.models.Xception(10)).size == 299


# Stopping and resuming ------------------------------------------------------------------------------------------------


def interrupt_after(monkeypatch, photos):
    """Ctrl-C when so many photos have been read."""
    original, read = imagenet.read_image, []

    def reading(path):
        read.append(path)
        if len(read) == photos:
            signal.raise_signal(signal.SIGINT)
        return original(path)

    monkeypatch.setattr(imagenet_folder.imagenet, "read_image", reading)
    return read


def test_ctrl_c_then_the_command_that_the_message_names(folder, weights, tmp_path, monkeypatch, call):
    monkeypatch.chdir(tmp_path)
    with monkeypatch.context() as patched:
        interrupt_after(patched, 10)
        options = ("--batch-size", 4, "--center-crop", 0.9, "--resize", "nearest", "--size", 40, "--json")
        status, out, err = call(*command(folder, weights, *options))
    assert (status, out) == (130, "")
    message = err.splitlines()[-1]
    assert message.startswith("stopped after 8 of 20 images; go on with: minixception evaluate --model mini_xception ")
    state = tmp_path / "runs" / "evaluate-mini_xception.json"
    assert json.loads(state.read_text())["score"]["images"] == 8

    status, out, err = call(*command(folder, weights, *options))
    assert status == 2
    assert "holds an unfinished evaluation: go on with --resume, or name another file" in err

    read = interrupt_after(monkeypatch, 99)
    status, resumed, _ = call(*shlex.split(message.split("go on with: minixception ")[1]))
    assert status == 0
    assert len(read) == 12
    assert not state.exists()
    whole = json.loads(call(*command(folder, weights, *options))[1])
    assert {**json.loads(resumed), "images_per_second": 0} == {**whole, "images_per_second": 0}


def test_a_result_that_could_not_be_printed_is_kept(folder, weights, tmp_path, monkeypatch, call):
    monkeypatch.chdir(tmp_path)
    whole = json.loads(call(*command(folder, weights, "--json"))[1])

    def full(*arguments):
        raise OSError("no space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(evaluate, "show", full)
        assert call(*command(folder, weights))[0] == 2
    monkeypatch.setattr(Crop, "__call__", None)  # no image is read again
    status, out, _ = call(*command(folder, weights, "--resume", "--json"))
    assert status == 0
    assert {**json.loads(out), "images_per_second": 0} == {**whole, "images_per_second": 0}


def test_ctrl_c_before_the_first_batch_leaves_no_state(folder, weights, tmp_path, monkeypatch, call):
    interrupt_after(monkeypatch, 1)
    status, _, err = call(*command(folder, weights, "--state", tmp_path / "state.json"))
    assert status == 130
    assert "stopped after 0 of 20 images" in err
    assert list(tmp_path.iterdir()) == []
    again = err.splitlines()[-1].split("go on with: minixception ")[1]
    assert call(*shlex.split(again))[0] == 0


def test_an_unreadable_photo_is_named_and_keeps_what_is_done(folder, weights, tmp_path, call):
    copy, state = tmp_path / "val", tmp_path / "state" / "state.json"
    shutil.copytree(folder, copy)
    broken = copy / ImageNetFolder(copy).files[13]
    whole = broken.read_bytes()
    broken.write_bytes(whole[: len(whole) // 2])
    options = ("--batch-size", 5, "--state", state)
    status, out, err = call(*command(copy, weights, *options))
    assert (status, out) == (2, "")
    assert err.splitlines()[-1].startswith("minixception: error: ")
    assert str(broken) in err.splitlines()[-1]
    broken.write_bytes(whole)
    status, out, _ = call(*command(copy, weights, *options, "--resume", "--json"))
    assert status == 0
    first, among = expected_hits(folder, weights)
    assert (json.loads(out)["top1"], json.loads(out)["top5"]) == (first / 20, among / 20)


def test_the_state_is_written_from_time_to_time(folder, weights, tmp_path, monkeypatch):
    model, images = load(weights), ImageNetFolder(folder)
    saved = SavedScore(tmp_path / "state.json", model, images, crop_for(model))
    saved.update(Score(4, 1, 2, 0.5))
    assert not saved.path.exists()
    monkeypatch.setattr(evaluation, "SECONDS_BETWEEN_SAVES", 0.0)
    saved.update(Score(8, 2, 4, 1.0))
    assert SavedScore(saved.path, model, images, crop_for(model), resume=True).score == Score(8, 2, 4, 1.0)
    assert [p.name for p in tmp_path.iterdir()] == ["state.json"]


@pytest.mark.parametrize("change", ["size", "center_crop", "resize", "preprocessing", "weights", "images"])
def test_a_state_of_other_settings_is_refused(change, folder, weights, tmp_path):
    model, images = load(weights), ImageNetFolder(folder)
    crop = crop_for(model)
    saved = SavedScore(tmp_path / "s.json", model, images, crop)
    saved.update(Score(4, 1, 2, 0.5))
    saved.write()
    other = {"size": 64, "center_crop": 0.5, "resize": "nearest", "preprocessing": "caffe"}
    if change == "weights":
        model.predictions.bias.data[5] += 1e-6
    elif change == "images":
        shutil.copytree(folder, tmp_path / "val")
        (tmp_path / "val" / images.files[0]).unlink()
        images = ImageNetFolder(tmp_path / "val")
    else:
        crop = Crop(**{**vars(crop), change: other[change]})
    with pytest.raises(CheckpointError, match=f"belongs to another evaluation: it differs in {change}$"):
        SavedScore(tmp_path / "s.json", model, images, crop, resume=True)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        '{"settings": {}}',
        '{"settings": {}, "score": {"images": 3}}',
        '{"settings": {}, "score": {"image": 3}}',
        '{"settings": {}, "score": {"images": "3", "top1_hits": 1, "top5_hits": 1, "seconds": 1}}',
        '{"settings": {}, "score": {"images": 3, "top1_hits": 4, "top5_hits": 4, "seconds": 1}}',
    ],
)
def test_a_damaged_state(text, folder, weights, tmp_path):
    model, path = load(weights), tmp_path / "s.json"
    path.write_text(text)
    with pytest.raises(CheckpointError, match=r"s.json is not a saved evaluation, or it is damaged"):
        SavedScore(path, model, ImageNetFolder(folder), crop_for(model), resume=True)


def test_nothing_to_resume(folder, weights, tmp_path, call):
    status, _, err = call(*command(folder, weights, "--state", tmp_path / "s.json", "--resume"))
    assert status == 2
    assert "s.json: start one without --resume" in err


# What is refused ------------------------------------------------------------------------------------------------------


def test_folders_that_are_no_synsets(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "val")
    (tmp_path / "val" / "n00000000").mkdir()
    with pytest.raises(DataError, match=r"folders named after the 1000 synsets .*, got 'n00000000'"):
        ImageNetFolder(tmp_path / "val")
    with pytest.raises(DataError, match="no such folder"):
        ImageNetFolder(tmp_path / "train")
    (tmp_path / "flat").mkdir()
    (tmp_path / "flat" / "a.JPEG").write_bytes(b"")
    with pytest.raises(DataError, match="found none"):
        ImageNetFolder(tmp_path / "flat")
    (tmp_path / "empty" / "n01440764").mkdir(parents=True)
    with pytest.raises(DataError, match=r"expected images \(.*\) in the synset folders"):
        ImageNetFolder(tmp_path / "empty")


def test_another_number_of_classes(folder):
    model = mx.models.mini_xception(10, widths=(8,), middle_blocks=0, stem=4)
    with pytest.raises(ArgumentError, match=r"logits of 1000 classes, the model gives \(6, 10\)"):
        evaluate_imagenet(model, ImageNetFolder(folder), Crop(32), batch_size=6)
    features = Sequential(base=mx.models.mini_xception(10, (8,), 0, 4), head=Linear(10, 1000))
    assert evaluate_imagenet(features, ImageNetFolder(folder), Crop(32), batch_size=6).images == 20


def test_logits_that_are_no_numbers(folder, weights):
    model = load(weights)
    model.predictions.bias.data[0] = np.nan
    with pytest.raises(NumericError, match="NaN"):
        evaluate_imagenet(model, ImageNetFolder(folder), crop_for(model))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "required: RUN or --model"),
        (("run", "--model", "xception"), "RUN does not go with --model"),
        (("run", "--center-crop", "0.5"), "--center-crop goes with --model"),
        (("run", "--resume"), "--resume goes with --model"),
        (("--model", "xception", "--split", "train"), "--split goes with RUN"),
        (("--model", "xception", "--weights", "w.h5"), "--model needs --weights W and --data imagenet:DIR"),
        (("--model", "xception", "--data", "imagenet:val"), "--model needs --weights W and"),
        (("--model", "xception", "--weights", "w.h5", "--data", "imagenet:"), "--model needs --weights W and"),
        (("--model", "xception", "--weights", "w.h5", "--data", "cifar10:val"), "--model needs --weights W and"),
        (("--model", "alexnet"), "invalid choice: 'alexnet'"),
        (("--model", "xception", "--resize", "cubic"), "invalid choice: 'cubic'"),
        (("--model", "xception", "--batch-size", "0"), "at least 1, got 0"),
    ],
)
def test_wrong_usage(arguments, message, call):
    status, out, err = call("evaluate", *arguments)
    assert (status, out) == (2, "")
    assert err.startswith("usage: minixception evaluate")
    assert message in err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--center-crop", 0), "center_crop: expected a fraction above 0 and up to 1, got 0.0"),
        (("--center-crop", 1.1), "center_crop: expected a fraction"),
        (("--weights", "/no/such/file.safetensors"), "/no/such/file.safetensors"),
        (("--data", "imagenet:/no/such/folder"), "found no such folder"),
    ],
)
def test_bad_values(options, message, folder, weights, tmp_path, call):
    status, out, err = call(*command(folder, weights, "--state", tmp_path / "s.json", *options))
    assert (status, out) == (2, "")
    assert message in err.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []
