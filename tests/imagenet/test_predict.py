"""From photos to class names: the classes, scaling, decoding, the prediction itself, its figure and its command."""

from __future__ import annotations

import hashlib
import json
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

import minixception as mx
from minixception import nn, viz
from minixception.apps import cli
from minixception.errors import ArgumentError, DataError, DTypeError, NumericError, ShapeError
from minixception.imagenet import CLASSES, Prediction, decode, predict, preprocess, probabilities

RED, GREEN, BLUE = (np.full((20, 30, 3), colour, np.uint8) for colour in ([200, 0, 0], [0, 200, 0], [0, 0, 200]))


# Classes --------------------------------------------------------------------------------------------------------------


def test_the_classes_are_those_of_keras_to_the_letter():
    """Written in the form of Keras' imagenet_class_index.json, they have that file's checksum."""
    text = json.dumps({str(number): list(pair) for number, pair in enumerate(CLASSES)})
    assert hashlib.md5(text.encode()).hexdigest() == "c2c37ea517e94d9795004a39431a14cb"


def test_well_known_classes():
    assert len(CLASSES) == len({wnid for wnid, _ in CLASSES}) == 1000
    assert CLASSES[0] == ("n01440764", "tench")
    assert CLASSES[207][1] == "golden_retriever"
    assert CLASSES[388][1] == "giant_panda"
    assert CLASSES[999][1] == "toilet_tissue"
    names = [name for _, name in CLASSES]
    assert {name for name in names if names.count(name) > 1} == {"crane", "maillot"}


def test_decode_sorts_and_of_equals_takes_the_first():
    found = decode(np.array([[0.1, 0.4, 0.1, 0.4], [0.7, 0, 0.2, 0.1]]), top=3, classes=("a", "b", "c", "d"))
    assert [[p.name for p in row] for row in found] == [["b", "d", "a"], ["a", "c", "d"]]
    assert found[1] == [Prediction("", "a", 0.7), Prediction("", "c", 0.2), Prediction("", "d", 0.1)]
    assert type(found[0][0].probability) is float


def test_decode_keeps_the_order_of_many_equals(rng):
    shares = rng.integers(0, 3, (1, 1000)) / 1000
    order = sorted(range(1000), key=lambda i: (-shares[0, i], i))
    assert [p.wnid for p in decode(shares, top=1000)[0]] == [CLASSES[i][0] for i in order]


def test_decode_names_the_classes_of_imagenet():
    shares = np.zeros((1, 1000), np.float32)
    shares[0, 388], shares[0, 207] = 0.75, 0.25
    assert decode(shares, top=2) == [
        [Prediction("n02510455", "giant_panda", 0.75), Prediction("n02099601", "golden_retriever", 0.25)]
    ]
    assert len(decode(shares)[0]) == 5


@given(arrays.arrays(np.float32, (3, 7), elements=st.floats(0, 1, width=32)), st.integers(1, 10))
def test_decode_gives_each_class_its_probability(shares, top):
    for row, found in zip(shares, decode(shares, top, list("0123456")), strict=True):
        assert len(found) == len({p.name for p in found}) == min(top, 7)
        assert [p.probability for p in found] == sorted(row.tolist(), reverse=True)[:top]
        assert all(row[int(p.name)] == p.probability for p in found)


def test_what_decode_does_not_take():
    for shape in ((1000,), (2, 999), (1, 1000, 1)):
        with pytest.raises(ShapeError, match=r"expected probabilities of shape \(n, 1000\), got"):
            decode(np.zeros(shape))
    with pytest.raises(ArgumentError, match="at least 1, got 0"):
        decode(np.zeros((1, 1000)), top=0)
    with pytest.raises(NumericError, match="NaN"):
        decode(np.array([[0.5, np.nan]]), classes=("a", "b"))


# Preprocessing --------------------------------------------------------------------------------------------------------

FORMULAS = {
    "tf": lambda x: x / 127.5 - 1,
    "caffe": lambda x: np.stack([x[..., 2] - 103.939, x[..., 1] - 116.779, x[..., 0] - 123.68], -1),
    "torch": lambda x: np.stack(
        [(x[..., c] / 255 - m) / s for c, m, s in ((0, 0.485, 0.229), (1, 0.456, 0.224), (2, 0.406, 0.225))], -1
    ),
}
IMAGES = arrays.array_shapes(min_dims=3, max_dims=3, max_side=5).flatmap(
    lambda shape: st.sampled_from([np.uint8, np.int64, np.float32, np.float64]).flatmap(
        lambda dtype: arrays.arrays(dtype, (*shape, 3), elements=st.integers(0, 255))
    )
)


@given(IMAGES, st.sampled_from(sorted(FORMULAS)))
def test_preprocess_is_its_formula_and_leaves_its_input(images, mode):
    images[0, 0, 0, 0] = 255  # floats up to 1 are refused
    before = images.copy()
    x = preprocess(images, mode)
    assert x.dtype == np.float32
    assert x.flags.c_contiguous
    np.testing.assert_allclose(x, FORMULAS[mode](before.astype(np.float64)), rtol=1e-5, atol=2e-5)
    assert np.array_equal(images, before)
    assert not np.shares_memory(x, images)


def test_the_default_is_xceptions_and_ends_at_one():
    x = preprocess(np.array([[[[0, 255, 51]]]], np.uint8))
    assert x.tolist() == [[[[-1, 1, np.float32(-0.6)]]]]
    assert mx.models.Xception.preprocessing == "tf"


@given(arrays.arrays(np.float32, (1, 2, 2, 3), elements=st.floats(-1, 1, width=32)))
def test_scaled_images_are_refused(images):
    if images.any():
        with pytest.raises(ArgumentError, match=r"from 0 to 255, got .*: they look scaled already"):
            preprocess(images)
    else:
        assert np.all(preprocess(images) == -1)  # black in either scale


def test_what_preprocess_does_not_take():
    black = np.zeros((1, 2, 2, 3), np.float32)
    assert preprocess(np.ones((1, 2, 2, 3), np.uint8)).max() < 0  # whole numbers up to 1 are dark, not scaled
    for value in (-0.5 - 1, 255.5, np.inf, np.nan):
        with pytest.raises(ArgumentError, match=r"expected pixel values from 0 to 255, got \S+ to \S+$"):
            preprocess(np.where(np.arange(12).reshape(black.shape) == 5, np.float32(value), black))
    with pytest.raises(ArgumentError, match="one of tf, caffe, torch, got 'keras'"):
        preprocess(black, "keras")
    for shape in ((2, 2, 3), (1, 2, 2, 1), (0, 2, 2, 3)):
        with pytest.raises(ShapeError, match=r"shape \(n, h, w, 3\), got"):
            preprocess(np.zeros(shape, np.uint8))
    for dtype in (bool, complex, object):
        with pytest.raises(DTypeError, match="expected integers or floats"):
            preprocess(black.astype(dtype))


# Prediction -----------------------------------------------------------------------------------------------------------


def colour_model(mode="tf", dtype=np.float32, slope=10):
    """Three classes whose logits are ``slope`` times the mean of red, green and blue, as the network gets them."""
    model = nn.Sequential(avg_pool=nn.GlobalAvgPool(), predictions=nn.Linear(3, 3))
    model.load_state_dict({"predictions.weight": slope * np.eye(3), "predictions.bias": np.zeros(3)})
    model.input_shape, model.preprocessing = (8, 10, 3), mode
    return model.astype(dtype)


def softmax(z):
    e = np.exp(z - np.max(z))
    return e / e.sum()


@pytest.mark.parametrize("dtype", [np.float32, pytest.param(np.float64, marks=pytest.mark.slow)])
@pytest.mark.parametrize("mode", sorted(FORMULAS))
def test_predict_is_softmax_of_the_network_on_scaled_pixels(mode, dtype):
    photo = np.full((5, 9, 3), [40, 10, 70], np.uint8)
    model = colour_model(mode, dtype, slope=0.03)
    shares = probabilities(model, [photo])
    assert shares.dtype == dtype
    expected = softmax(0.03 * FORMULAS[mode](np.array([40.0, 10, 70])))
    np.testing.assert_allclose(shares[0], expected, rtol=1e-4)
    found = predict(model, [photo])[0]
    assert [p.name for p in found] == [str(i) for i in np.argsort(-expected)]
    np.testing.assert_allclose([p.probability for p in found], np.sort(expected)[::-1], rtol=1e-4)


def test_predict_takes_files_and_arrays_in_batches(tmp_path):
    Image.fromarray(GREEN).save(tmp_path / "green.png")
    photos = [RED, tmp_path / "green.png", (tmp_path / "green.png").read_bytes(), BLUE, Image.fromarray(GREEN)]
    model, names = colour_model(), ("red", "green", "blue")
    for batch_size in (1, 2, 5, 32):
        found = predict(model, iter(photos), top=1, batch_size=batch_size, classes=names)
        assert [row[0].name for row in found] == ["red", "green", "green", "blue", "green"]
        assert [len(row) for row in found] == [1] * 5
    assert model.predict(photos, 2, classes=names) == predict(model, photos, top=2, classes=names)
    stack = np.stack([BLUE, RED])
    assert [row[0].name for row in model.predict(stack, classes=names)] == ["blue", "red"]


def test_predict_resizes_by_the_rule():
    edge = np.zeros((8, 1000, 3), np.uint8)
    edge[:, ::100] = 255  # one column in a hundred: "nearest" misses all of them, the others do not
    model = colour_model()
    nearest, bilinear = (probabilities(model, [edge + np.uint8([0, 1, 0])], rule) for rule in ("nearest", "bilinear"))
    assert not np.allclose(nearest, bilinear, atol=1e-4)
    assert np.array_equal(probabilities(model, [edge + np.uint8([0, 1, 0])]), bilinear)


def test_a_thousand_classes_are_imagenets():
    model = nn.Sequential(avg_pool=nn.GlobalAvgPool(), predictions=nn.Linear(3, 1000))
    bias = np.zeros(1000)
    bias[388] = 5
    model.load_state_dict({"predictions.weight": np.zeros((3, 1000)), "predictions.bias": bias})
    model.input_shape, model.preprocessing = (8, 8, 3), "tf"
    assert model.predict([RED])[0][0][:2] == ("n02510455", "giant_panda")
    assert len(model.predict([RED])[0]) == 5


def test_batchnorm_is_at_inference_and_the_model_stays_in_its_mode():
    model = mx.models.mini_xception(3, (8,), 0, 8)
    state = {name: array.copy() for name, array in model.state_dict().items()}
    assert model.training
    first = probabilities(model, [RED, GREEN])
    assert model.training
    assert all(np.array_equal(array, state[name]) for name, array in model.state_dict().items())
    np.testing.assert_allclose(probabilities(model, [GREEN])[0], first[1], rtol=1e-5)  # whatever else is in its batch


def test_what_predict_does_not_take(tmp_path):
    model = colour_model()
    for single in ("photo.png", tmp_path / "photo.png", b"bytes", Image.fromarray(RED)):
        with pytest.raises(ArgumentError, match="expected a list of photos, got a single one"):
            model.predict(single)
    with pytest.raises(ArgumentError, match="a batch size of at least 1, got 0"):
        model.predict([RED], batch_size=0)
    with pytest.raises(ArgumentError, match="at least one photo, got none"):
        model.predict([])
    with pytest.raises(ShapeError, match=r"expected an image of shape \(h, w, 3\), got \(30, 3\)"):
        model.predict(RED)
    (tmp_path / "bad.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"bad\.png"):
        model.predict([RED, tmp_path / "bad.png"])
    with pytest.raises(ShapeError, match=r"shape \(n, 2\), got \(1, 3\)"):
        model.predict([RED], classes=("a", "b"))
    for attribute in ("input_shape", "preprocessing"):
        incomplete = colour_model()
        setattr(incomplete, attribute, None)
        with pytest.raises(ArgumentError, match="Sequential does not say what its input is: set input_shape"):
            incomplete.predict([RED])
    headless = nn.Sequential(conv=nn.Conv2d(3, 4, 3))
    headless.input_shape, headless.preprocessing = (8, 8, 3), "tf"
    with pytest.raises(ShapeError, match=r"logits of shape \(n, classes\), it gave \(1, 8, 8, 4\)"):
        headless.predict([RED])


# The figure -----------------------------------------------------------------------------------------------------------

FOUND = [Prediction("", "giant_panda", 0.9876), Prediction("", "red_fox", 0.012), Prediction("", "tench", 0.0004)]


def test_a_figure_shows_the_photo_and_its_bars():
    figure = viz.predictions([RED], [FOUND])
    photo, bars = figure.axes
    assert figure.words() == "taken for giant panda"
    assert np.array_equal(photo.images[0].get_array(), RED)
    assert [label.get_text() for label in bars.get_yticklabels()] == ["giant panda", "red fox", "tench"]
    assert [bar.get_width() for bar in bars.patches] == [0.9876, 0.012, 0.0004]
    assert [text.get_text() for text in bars.texts] == ["98.8%", "1.2%", "< 0.1%"]
    places = [bar.get_window_extent().y0 for bar in bars.patches]
    assert places == sorted(places, reverse=True)  # the likeliest on top


def test_no_text_of_a_figure_leaves_it_or_covers_another():
    long = [Prediction("", name, share) for (_, name), share in zip(CLASSES[178:190], [1.0] + [0.0] * 11, strict=True)]
    tall = np.zeros((900, 100, 3), np.uint8)
    figure = viz.predictions([RED, tall, tall], [FOUND, long, long[:1]])
    figure.draw_without_rendering()
    whole = figure.bbox
    boxes = []
    for photo, bars in zip(figure.axes[::2], figure.axes[1::2], strict=True):
        boxes.append(photo.images[0].get_window_extent())
        boxes += [text.get_window_extent() for text in (*bars.get_yticklabels(), *bars.texts)]
    assert len(boxes) == 3 + 2 * (3 + 12 + 1)
    for i, box in enumerate(boxes):
        assert box.width > 0 and box.height > 0
        assert whole.x0 <= box.x0 and box.x1 <= whole.x1 and whole.y0 <= box.y0 and box.y1 <= whole.y1
        assert not any(box.overlaps(other) for other in boxes[:i])


def test_what_a_figure_does_not_take():
    with pytest.raises(ArgumentError, match=r"each of 0 photos, at least 1, got \[\]"):
        viz.predictions([], [])
    with pytest.raises(ArgumentError, match=r"each of 2 photos, at least 1, got \[3\]"):
        viz.predictions([RED, RED], [FOUND])
    with pytest.raises(ArgumentError, match=r"at least 1, got \[0\]"):
        viz.predictions([RED], [[]])
    with pytest.raises(ShapeError, match=r"\(h, w, 3\), got \(20, 30\)"):
        viz.predictions([RED[..., 0]], [FOUND])
    with pytest.raises(DTypeError, match="uint8, from 0 to 255, got float32"):
        viz.predictions([RED.astype(np.float32)], [FOUND])


# The command ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Two photos, and the weights of an Xception with seven classes."""
    folder = tmp_path_factory.mktemp("predict")
    rng = np.random.Generator(np.random.PCG64(7))
    Image.fromarray(rng.integers(0, 256, (90, 120, 3), dtype=np.uint8)).save(folder / "noise.png")
    Image.fromarray(np.linspace(0, 65535, 900).astype(np.uint16).reshape(30, 30)).save(folder / "ramp.png")
    mx.seed(7)
    model = mx.models.Xception(num_classes=7, input_shape=(71, 71, 3))
    model.save_weights(folder / "weights.safetensors")
    return folder, model


@pytest.fixture
def call(capsys, files, monkeypatch):
    """``minixception predict`` in the folder of the files: exit status, stdout, stderr."""
    monkeypatch.chdir(files[0])

    def run(*arguments):
        fixed = ("--weights", "weights.safetensors", "--classes", "7", "--size", "71")
        status = cli.main(["predict", *fixed, *(str(a) for a in arguments)])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


def test_the_command_names_what_is_in_each_photo(call, files):
    status, out, _ = call("noise.png", "ramp.png", "--json")
    assert status == 0
    data = json.loads(out)
    assert [entry["file"] for entry in data] == ["noise.png", "ramp.png"]
    expected = files[1].predict([files[0] / "noise.png", files[0] / "ramp.png"])
    for entry, predictions in zip(data, expected, strict=True):
        assert len(entry["predictions"]) == 5
        assert [row["name"] for row in entry["predictions"]] == [p.name for p in predictions]
        assert [set(row) for row in entry["predictions"]] == [{"wnid", "name", "probability"}] * 5
        got = [row["probability"] for row in entry["predictions"]]
        np.testing.assert_allclose(got, [p.probability for p in predictions], rtol=1e-5)


def test_the_command_prints_a_table_and_draws_a_figure(call, files):
    status, out, _ = call("noise.png", "ramp.png", "--top", 2, "--resize", "nearest", "--figure", "figure.svg")
    assert status == 0
    tables = out.split("\n\n")
    expected = files[1].predict([files[0] / "noise.png", files[0] / "ramp.png"], 2, rule="nearest")
    for name, table, predictions in zip(("noise.png", "ramp.png"), tables, expected, strict=True):
        lines = table.splitlines()
        assert lines[0] == name
        assert lines[1].split() == ["synset", "class", "probability", "(%)"]
        assert [line.split() for line in lines[3:]] == [[p.name, f"{100 * p.probability:.2f}"] for p in predictions]
    assert ElementTree.parse(files[0] / "figure.svg").getroot().tag == "{http://www.w3.org/2000/svg}svg"
    assert sorted(path.name for path in files[0].glob("*figure*")) == ["figure.svg"]


def test_a_figure_is_written_whole_or_not_at_all(call, files, monkeypatch):
    def disk_full(figure, path, **options):
        path.write_bytes(b"half a figure")
        raise OSError("no space left on device")

    (files[0] / "old.png").write_bytes(b"old")
    with monkeypatch.context() as patched:
        patched.setattr("matplotlib.figure.Figure.savefig", disk_full)
        status, out, err = call("noise.png", "--figure", "old.png")
    assert (status, out) == (2, "")
    assert err.endswith("minixception: error: no space left on device\n")  # behind the bar of a slow compilation
    assert [path.read_bytes() for path in files[0].glob("*old*")] == [b"old"]
    assert call("noise.png", "--figure", "old.png")[0] == 0
    with Image.open(files[0] / "old.png") as image:
        assert image.width == 1800


def test_a_figure_of_an_unknown_format(call, files):
    status, out, err = call("noise.png", "--figure", "figure.nonsense")
    assert (status, out) == (2, "")
    assert "'nonsense' is not supported" in err
    assert not list(files[0].glob("*nonsense*"))


def test_one_bad_photo_is_named_before_weights_are_read(call, files):
    (files[0] / "bad.png").write_bytes(b"no image")
    for name in ("bad.png", "missing.png"):
        status, out, err = call("noise.png", name, "--weights", "missing.safetensors", "--figure", "never.png")
        assert (status, out) == (2, "")
        assert err.startswith("minixception: error: ")
        assert name in err
        assert "weights" not in err
        assert err.count("\n") == 1
    assert not (files[0] / "never.png").exists()


def test_missing_weights_are_one_line(call):
    status, out, err = call("noise.png", "--weights", "missing.safetensors")
    assert (status, out) == (2, "")
    assert err.startswith("minixception: error: ")
    assert "missing.safetensors" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "required: PHOTO"),
        (("a.png", "--top", "0"), "at least 1, got 0"),
        (("a.png", "--resize", "cubic"), "invalid choice: 'cubic'"),
        (("a.png", "--model", "alexnet"), "invalid choice: 'alexnet'"),
    ],
)
def test_wrong_usage(arguments, message, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(["predict", *arguments])
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def test_the_default_is_xception_with_the_released_weights(monkeypatch, files, capsys):
    asked = []
    monkeypatch.setattr(nn.Module, "load_weights", lambda model, path: asked.append((type(model), path)))
    assert cli.main(["predict", str(files[0] / "noise.png"), "--size", "71", "--json"]) == 0
    assert asked == [(mx.models.Xception, "imagenet")]
    names = {row["wnid"] for row in json.loads(capsys.readouterr().out)[0]["predictions"]}
    assert names <= {wnid for wnid, _ in CLASSES}
