"""The hub asked from Python: ModelHub's JSON, its way with pictures, and what it refuses."""

from __future__ import annotations

import io
import json
import struct
import threading
import time
import zlib
from email.message import Message
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

import minixception as mx
from minixception import imagenet, nn
from minixception.apps.hub import Hub
from minixception.apps.hub.about import MODELHUB_ID
from minixception.apps.hub.form import check_picture, uploaded_file
from minixception.apps.hub.samples import SAMPLES, sample
from minixception.errors import ArgumentError, DataError, NumericError, ShapeError
from minixception.models import MODELS
from tests.helpers.colours import BLUE, GREEN, NUMBERS, RED, Colours, picture


class Pixels(nn.Module):
    """Logits in which every pixel has its own weight, for each of four classes."""

    input_shape = (16, 16, 3)
    preprocessing = "tf"

    def __init__(self):
        self.conv = nn.Conv2d(3, 4, 16, padding="valid")
        self.avg_pool = nn.GlobalAvgPool()

    def forward(self, x):
        return self.avg_pool(self.conv(x))


def seen(result):
    """The classes of a result, the likeliest first."""
    return [p["label"] for p in sorted(result["output"][0]["prediction"], key=lambda p: -p["probability"])]


# What it says about itself --------------------------------------------------------------------------------------------


def test_config_has_modelhubs_shape(hub):
    config = Hub(Colours(), "xception").get_config()
    assert config["id"] == MODELHUB_ID
    assert config["meta"] == {
        "name": "xception",
        "application_area": "ImageNet",
        "task": "Classification",
        "task_extended": "ImageNet classification",
        "data_type": "Image/Photo",
        "data_source": "https://www.image-net.org/challenges/LSVRC/2012/",
    }
    publication = config["publication"]
    assert list(publication) == ["title", "source", "year", "authors", "abstract", "url", "bibtex"]
    assert publication["title"] == "Xception: Deep Learning with Depthwise Separable Convolutions"
    assert list(config["model"]) == ["description", "provenance", "architecture", "learning_type", "format", "io"]
    assert config["modelhub"] == {"top": 5, "sort": True}
    assert hub.get_model_io() == config["model"]["io"] == {
        "input": {
            "format": ["image/png", "image/jpg", "image/jpeg", "image/webp"],
            "dim_limits": [{"min": 1, "max": 4}, {"min": 32}, {"min": 32}],
        },
        "output": [
            {
                "name": "probabilities",
                "type": "label_list",
                "description": "Probabilities of the 1000 classes in the ImageNet dataset.",
            }
        ],
    }  # fmt: skip
    assert json.loads(json.dumps(config)) == config


def test_legal_has_modelhubs_keys(hub):
    keys = ["modelhub_license", "modelhub_acknowledgements", "model_license", "sample_data_license"]
    assert list(hub.get_legal()) == keys
    assert all(hub.get_legal().values())


def test_every_network_of_the_zoo_has_its_paper_and_its_own_id():
    ids = set()
    for name in MODELS:
        config = Hub(Colours(), name).get_config()
        assert config["meta"]["name"] == name
        assert bool(config["publication"]["title"]) == (name != "mini_xception")
        assert bool(config["publication"]["bibtex"]) == (name != "mini_xception")
        ids.add(config["id"])
    assert len(ids) == len(MODELS)
    assert Hub(Colours(), "other").get_config()["id"] == Hub(Colours(), "other").get_config()["id"]


def test_other_classes_make_no_claim_about_imagenet():
    names = ("cat", "dog", "cow", "hen")
    hub = Hub(Pixels(), "farm", names)
    assert "ImageNet" not in json.dumps(hub.get_config())
    assert "4 classes" in hub.get_model_io()["output"][0]["description"]
    assert [p["label"] for p in hub.predict(picture())["output"][0]["prediction"]] == list(names)
    assert Hub(Pixels()).classes == ("0", "1", "2", "3")


# Predictions ----------------------------------------------------------------------------------------------------------


def test_a_prediction_has_modelhubs_shape_and_all_classes_in_order(hub):
    result = hub.predict(picture(RED))
    assert list(result) == ["output", "timestamp", "processing_time", "model"]
    (output,) = result["output"]
    assert set(output) == {"prediction", "shape", "type", "name", "description"}
    assert (output["shape"], output["type"], output["name"]) == ([1000], "label_list", "probabilities")
    labels = [p["label"] for p in output["prediction"]]
    assert (labels[0], labels[2], labels[999]) == ("tench", "great white shark", "toilet tissue")
    assert all(list(p) == ["label", "probability"] for p in output["prediction"])
    assert result["model"] == {"id": hub.get_config()["id"], "name": "colours"}
    time.strptime(result["timestamp"].rpartition("-")[0], "%Y-%m-%d-%H-%M-%S")
    assert result["processing_time"] == round(result["processing_time"], 3) >= 0
    assert json.loads(json.dumps(result)) == result


@pytest.mark.parametrize(("colour", "name"), [(RED, "strawberry"), (GREEN, "Granny Smith"), (BLUE, "jay")])
def test_probabilities_are_the_softmax_of_the_logits(hub, colour, name):
    result = hub.predict(picture(colour))
    assert seen(result)[:2] == [name, "envelope"]
    model = Colours()
    x = np.array(colour) / 127.5 - 1  # (3,)
    logits = x @ model.predictions.weight.numpy() + model.predictions.bias.numpy()  # (1000,)
    expected = np.exp(logits) / np.exp(logits).sum()
    got = [p["probability"] for p in result["output"][0]["prediction"]]
    np.testing.assert_allclose(got, expected, rtol=1e-5)
    assert np.argmax(got) == NUMBERS[name.replace(" ", "_")]


@pytest.mark.parametrize("dtype", ["float32", pytest.param("float64", marks=pytest.mark.slow)])
def test_pictures_are_squeezed_by_lanczos_without_a_crop(rng, dtype):
    image = Image.fromarray(rng.integers(0, 256, (40, 67, 3), dtype=np.uint8))
    file = io.BytesIO()
    image.save(file, "PNG")
    mx.seed(0)
    model = Pixels().astype(dtype)
    got = [p["probability"] for p in Hub(model).predict(file.getvalue())["output"][0]["prediction"]]

    def expected(resampling):
        x = np.array(image.resize((16, 16), resampling)).astype(np.float32)[None]
        x = ((x / 255 - 0.5) * 2).astype(dtype)  # ModelHub's own words
        with mx.no_grad():
            logits = model(mx.tensor(x)).numpy()[0]
        return np.exp(logits) / np.exp(logits).sum()

    np.testing.assert_allclose(got, expected(Image.Resampling.LANCZOS), rtol=1e-4)
    assert np.abs(got - expected(Image.Resampling.BILINEAR)).max() > 1e-3


def test_paths_bytes_and_open_files_are_the_same(hub, tmp_path):
    path = tmp_path / "green.png"
    path.write_bytes(picture(GREEN))
    with path.open("rb") as file:
        results = [hub.predict(source)["output"] for source in (path, str(path), picture(GREEN), file)]
    assert all(result == results[0] for result in results)


def test_palettes_gray_with_alpha_and_transparency_are_seen_as_people_see_them(hub):
    red = Image.new("RGB", (50, 50), RED)
    palette = io.BytesIO()
    red.quantize(4).save(palette, "PNG")
    assert Image.open(palette).mode == "P"
    assert hub.predict(palette.getvalue())["output"] == hub.predict(picture(RED))["output"]
    gray, white = picture((90, 90, 90)), picture((255, 255, 255))
    assert hub.predict(picture((90, 255), mode="LA"))["output"] == hub.predict(gray)["output"]
    assert hub.predict(picture((*RED, 0), mode="RGBA"))["output"] == hub.predict(white)["output"]


def test_two_threads_take_turns():
    hub = Hub(Colours())
    network, inside, most = hub._network, [], []

    def slow(x):
        inside.append(x)
        most.append(len(inside))
        time.sleep(0.02)
        inside.pop()
        return network(x)

    hub._network = slow
    threads = [threading.Thread(target=hub.predict, args=(picture(),)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1, 1, 1, 1]


def test_one_picture_is_in_memory_at_a_time(monkeypatch):
    hub = Hub(Colours())
    read, locked = imagenet.read_image, []

    def reading(*arguments):
        locked.append(hub._lock.locked())
        return read(*arguments)

    monkeypatch.setattr(imagenet, "read_image", reading)
    hub.predict(picture())
    assert locked == [True]
    assert not hub._lock.locked()


def test_a_network_that_was_trained_here_sees_what_predict_shows_it(rng):
    small = Image.fromarray(rng.integers(0, 256, (20, 31, 3), dtype=np.uint8))
    file = io.BytesIO()
    small.save(file, "PNG")
    model = Pixels()
    model.class_names = ("cat", "dog", "cow", "hen")
    hub = Hub(model, "xception")
    expected = {p.name: p.probability for p in model.predict([small], top=4)[0]}
    got = {p["label"]: p["probability"] for p in hub.predict(file.getvalue())["output"][0]["prediction"]}
    assert got == pytest.approx(expected, rel=1e-5)
    config = hub.get_config()
    assert (hub.get_samples()["files"], config["publication"]["title"]) == ([], "")
    assert config["id"] != MODELHUB_ID
    assert hub.get_model_io()["input"]["dim_limits"][1:] == [{"min": 1}, {"min": 1}]


@pytest.mark.parametrize(
    "source", [b"", b"no picture", picture()[:60], picture(size=(31, 100)), picture(size=(100, 31))]
)
def test_what_is_no_picture_or_too_small(hub, source):
    with pytest.raises(DataError, match="expected"):
        hub.predict(source)


def test_a_missing_file(hub, tmp_path):
    with pytest.raises(DataError, match=r"nothing\.png"):
        hub.predict(tmp_path / "nothing.png")


def test_networks_that_a_hub_cannot_show():
    class Odd(Pixels):
        pass

    Odd.input_shape = None
    with pytest.raises(ShapeError, match=r"input_shape \(h, w, 3\), got None"):
        Hub(Odd())
    Odd.input_shape, Odd.preprocessing = (16, 16, 3), None
    with pytest.raises(ArgumentError, match="set its preprocessing"):
        Hub(Odd())
    with pytest.raises(ArgumentError, match="one label for each of 4 outputs, got 2"):
        Hub(Pixels(), classes=("yes", "no"))

    class Map(Pixels):
        def forward(self, x):
            return self.conv(x)

    with pytest.raises(ShapeError, match=r"must return logits \(n, classes\), got an output of shape \(1, 1, 1, 4\)"):
        Hub(Map())


def test_weights_that_are_not_finite():
    model = Pixels()
    model.conv.weight.data[...] = np.nan
    with pytest.raises(NumericError, match="not finite"):
        Hub(model).predict(picture())


# Samples --------------------------------------------------------------------------------------------------------------


def test_samples_lie_in_the_folder_that_is_named(hub, monkeypatch, tmp_path):
    monkeypatch.setenv("MINIXCEPTION_CACHE", str(tmp_path))
    for _ in range(2):
        samples = hub.get_samples()
        assert samples == {"folder": str(tmp_path / "samples"), "files": list(SAMPLES)}
    files = sorted(Path(samples["folder"]).iterdir())
    assert [file.name for file in files] == sorted(SAMPLES)
    assert {file.read_bytes() for file in files} == {sample(name) for name in SAMPLES}
    assert seen(hub.predict(Path(samples["folder"], "orange.png")))[0] == "strawberry"


@pytest.mark.parametrize("name", ["", "../api.py", "/etc/passwd", "orange", "ORANGE.png"])
def test_no_other_name_is_a_sample(name):
    with pytest.raises(ArgumentError, match=r"expected a sample out of traffic_light\.png"):
        sample(name)


# Uploads --------------------------------------------------------------------------------------------------------------


def headers(boundary="edge", media_type="multipart/form-data"):
    message = Message()
    message["Content-Type"] = f'{media_type}; boundary="{boundary}"'
    return message


def field(name, content):
    return f'--edge\r\nContent-Disposition: form-data; name="{name}"; filename="x"\r\n\r\n'.encode() + content + b"\r\n"


@example(b"\r\n white space \n\n", [])
@given(st.binary(max_size=200), st.lists(st.binary(max_size=20), max_size=9))
def test_the_file_comes_out_as_it_went_in(content, others):
    before = b"".join(field(f"other{i}", other) for i, other in enumerate(others))
    if b"\r\n--edge" not in before + b"\r\n" + content:
        assert uploaded_file(headers(), before + field("file", content) + b"--edge--\r\n") == content


@given(st.binary(max_size=300))
def test_no_body_does_more_than_be_refused(body):
    with pytest.raises(DataError, match="expected"):
        uploaded_file(headers(), body)


WHOLE = field("file", b"content") + b"--edge--\r\n"
MALFORMED = {
    "no closing delimiter": WHOLE.replace(b"--edge--", b""),
    "no field of that name": WHOLE.replace(b'"file"', b'"photo"'),
    "no headers": b"--edge\r\n\r\ncontent\r\n--edge--\r\n",
    "a long description": WHOLE.replace(b"; filename", b"; a=" + b"x" * 4096 + b"; filename"),
    "another boundary": WHOLE.replace(b"--edge", b"--other"),
    "too many fields before": field("a", b"") * 10 + WHOLE,
    "too many fields behind": field("file", b"content") + field("a", b"") * 10 + b"--edge--",
    "a field without an end": field("file", b"content") + field("a", b"cut off"),
    "nothing": b"",
}


@pytest.mark.parametrize("kind", MALFORMED)
def test_malformed_forms(kind):
    with pytest.raises(DataError, match="expected"):
        uploaded_file(headers(), MALFORMED[kind])


@pytest.mark.parametrize("sent", [Message(), headers(media_type="text/plain"), headers(boundary=""), headers("é")])
def test_what_is_no_form(sent):
    with pytest.raises(DataError, match="multipart/form-data"):
        uploaded_file(sent, WHOLE)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
def test_pictures_that_may_be_uploaded(format):
    check_picture(picture(format=format))


def test_a_jpeg_with_more_pictures_behind_is_one():
    file = io.BytesIO()
    Image.new("RGB", (40, 40)).save(file, "MPO", save_all=True, append_images=[Image.new("RGB", (40, 40))])
    assert Image.open(file).format == "MPO"
    check_picture(file.getvalue())


@pytest.mark.parametrize("side", [10_000, 60_000])
def test_a_small_file_that_claims_a_huge_picture(hub, side):
    whole = picture()
    head = struct.pack(">4sIIBBBBB", b"IHDR", side, side, 8, 2, 0, 0, 0)
    claims = whole[:12] + head + struct.pack(">I", zlib.crc32(head)) + whole[33:]
    with pytest.raises(DataError, match="at most 64,000,000 pixels"):
        check_picture(claims)
    with pytest.raises(DataError, match="at most 64,000,000 pixels"):
        hub.predict(claims)


GIF = picture(format="GIF", mode="L", colour=7)
REFUSED = {
    "SVG": b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>',
    "HTML": b"<!doctype html><script>alert(1)</script>",
    "GIF": GIF,
    "GIF that is JavaScript too": GIF[:6] + b"/*" + GIF[8:] + b"*/=1;alert(1)",
    "TIFF": picture(format="TIFF"),
    "BMP": picture(format="BMP"),
    "PDF": b"%PDF-1.7\n",
    "EPS": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 50 50\n",
    "empty": b"",
    "PNG's first bytes alone": picture()[:12],
}


@pytest.mark.parametrize("kind", REFUSED)
def test_other_files_are_refused_by_their_content(kind):
    with pytest.raises(DataError, match=r"something else.*PNG, JPEG, WEBP"):
        check_picture(REFUSED[kind])
