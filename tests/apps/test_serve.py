"""The hub over HTTP: ModelHub's addresses, and the command that starts it."""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import os
import signal
import subprocess
import sys

import pytest
from PIL import Image

from minixception.apps import cli
from minixception.apps.hub.samples import SAMPLES, sample
from minixception.models import MODELS
from tests.helpers.colours import BLUE, GREEN, RED, Colours, picture
from tests.helpers.hub_client import ask, form, get, likeliest, post, same
from tests.helpers.processes import HANG, ROOT

# ModelHub's addresses -------------------------------------------------------------------------------------------------


def test_questions_are_answered_as_in_python(server, hub):
    for question in ("get_config", "get_legal", "get_model_io"):
        status, headers, body = ask(server, "GET", f"/api/{question}")
        assert (status, headers["Content-Type"]) == (200, "application/json")
        assert json.loads(body) == getattr(hub, question)()


def test_samples_are_addresses_that_work(server, hub):
    status, addresses = get(server, "/api/get_samples")
    assert status == 200
    assert addresses == [f"{server.url}api/samples/{name}" for name in SAMPLES]
    for name in SAMPLES:
        status, headers, body = ask(server, "GET", f"/api/samples/{name}")
        assert (status, headers["Content-Type"], body) == (200, "image/png", sample(name))
    status, answer = get(server, "/api/predict_sample?filename=orange.png")
    assert status == 200
    assert same(answer, hub.predict(sample("orange.png")))


@pytest.mark.parametrize(("colour", "name"), [(RED, "strawberry"), (GREEN, "Granny Smith"), (BLUE, "jay")])
@pytest.mark.parametrize("format", ["PNG", "WEBP"])
def test_an_uploaded_picture(server, hub, colour, name, format):
    status, answer = post(server, form(picture(colour, format=format)))
    assert status == 200
    assert likeliest(answer) == name
    assert same(answer, hub.predict(picture(colour, format=format)))


def test_head_and_options(server):
    for path in ("/", "/api/get_config"):
        status, headers, body = ask(server, "HEAD", path)
        assert (status, body) == (200, b"")
        assert int(headers["Content-Length"]) == len(ask(server, "GET", path)[2])
    status, headers, body = ask(server, "OPTIONS", "/api/predict")
    assert (status, body, headers["Allow"]) == (204, b"", "GET, HEAD, POST, OPTIONS")
    assert not [name for name in headers if name.lower().startswith("access-control")]


def test_every_answer_says_what_the_browser_may_do_with_it(server):
    for path in ("/", "/api/get_config", "/nothing"):
        headers = ask(server, "GET", path)[1]
        assert headers["Content-Security-Policy"].startswith("default-src 'none'; style-src 'sha256-")
        assert "unsafe" not in headers["Content-Security-Policy"]
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
        assert headers["Server"].strip() == "minixception"


def test_the_page_takes_nothing_from_elsewhere(server):
    status, headers, body = ask(server, "GET", "/")
    assert (status, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert b"://" not in body
    assert b"innerHTML" not in body


@pytest.mark.parametrize("path", ["/nothing", "/api", "/api/", "/api/get_model_files", "/page.html", "/api/samples/"])
def test_unknown_addresses(server, path):
    assert get(server, path) == (404, {"error": f"nothing at {path}"})


def test_posting_elsewhere_and_unknown_methods(server):
    for method, path, expected in (("POST", "/", 404), ("PUT", "/api/predict", 501), ("DELETE", "/", 501)):
        status, _, body = ask(server, method, path, b"")
        assert status == expected
        assert json.loads(body)["error"]


def test_an_upright_photo_is_seen_upright(server):
    file = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (90, 60), BLUE).save(file, "JPEG", exif=exif)
    assert likeliest(post(server, form(file.getvalue()))[1]) == "jay"


# The command ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def weights(tmp_path):
    path = tmp_path / "colours.safetensors"
    Colours().save_weights(path)
    return path


def test_the_command_serves_until_ctrl_c(weights):
    script = (  # a shell that starts the tests in the background has them, and what they start, ignore Ctrl-C
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler);"
        "from tests.helpers.colours import Colours;"
        "from minixception.models import MODELS; from minixception.apps import cli;"
        "MODELS['colours'] = lambda num_classes: Colours(); sys.exit(cli.main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", script, "serve", "--port", "0", "--model", "colours", "--weights", str(weights)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        line = process.stdout.readline()
        assert line.startswith("Open http://127.0.0.1:"), process.stderr.read()
        assert line.endswith("/ in a browser. Ctrl-C stops it.\n")
        port = int(line.split(":")[2].split("/")[0])
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=HANG)
        with contextlib.closing(connection):
            connection.request("GET", "/api/predict_sample?filename=orange.png")
            assert likeliest(json.loads(connection.getresponse().read())) == "strawberry"
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=HANG) == ("", "")
        assert process.returncode == 0


def test_a_port_that_is_taken(server, weights, monkeypatch, capsys):
    monkeypatch.setitem(MODELS, "colours", lambda num_classes: Colours())
    status = cli.main(["serve", "--port", str(server.port), "--model", "colours", "--weights", str(weights)])
    captured = capsys.readouterr()
    assert (status, captured.out) == (2, "")
    assert captured.err.startswith(f"minixception: error: port {server.port} of this machine cannot be used: ")
    assert len(captured.err.splitlines()) == 1


@pytest.mark.parametrize("port", ["-1", "65536", "eighty"])
def test_what_is_no_port(port, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["serve", f"--port={port}"])
    assert stopped.value.code == 2
    assert port in capsys.readouterr().err


def test_missing_weights(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(MODELS, "colours", lambda num_classes: Colours())
    missing = tmp_path / "no.safetensors"
    assert cli.main(["serve", "--model", "colours", "--weights", str(missing)]) == 2
    assert str(missing) in capsys.readouterr().err
