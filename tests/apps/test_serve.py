"""The hub over HTTP: ModelHub's addresses, pictures from the web, and the command that starts it."""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import quote

import pytest
from PIL import Image

from minixception.apps import cli
from minixception.apps.hub import server as server_module
from minixception.apps.hub.samples import SAMPLES, sample
from minixception.models import MODELS
from tests.helpers.colours import BLUE, GREEN, RED, Colours, picture, serving
from tests.helpers.hub_client import ask, form, get, likeliest, post, refused, same
from tests.helpers.processes import HANG, ROOT


@pytest.fixture(scope="module")
def fetching(hub):
    """A server that was started with --allow-urls."""
    with serving(hub, allow_urls=True) as server:
        yield server


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


# Pictures from addresses ----------------------------------------------------------------------------------------------


class Elsewhere(BaseHTTPRequestHandler):
    """Another web server: a picture, too much, too slow, and redirects."""

    def do_GET(self):
        self.server.seen.append(self.path)
        if self.path.startswith("/to?"):
            self.send_response(302)
            self.send_header("Location", self.path.removeprefix("/to?"))
            self.end_headers()
        elif self.path == "/missing":
            self.send_error(404)
        else:
            self.send_response(200)
            self.end_headers()
            with contextlib.suppress(OSError):
                self.body()

    def body(self):
        if self.path == "/slow":
            while True:  # until the client goes away
                self.wfile.write(b"x")
                time.sleep(0.05)
        elif self.path == "/large":
            for _ in range(server_module.MAX_UPLOAD // 2**16 + 1):
                self.wfile.write(bytes(1 << 16))
        else:
            self.wfile.write(b"<svg/>" if self.path == "/svg" else picture(GREEN))

    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def elsewhere():
    with ThreadingHTTPServer(("127.0.0.1", 0), Elsewhere) as server:
        server.seen = []
        server.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def predict_from(server, url):
    return get(server, f"/api/predict?fileurl={quote(url, safe='')}")


def test_addresses_are_fetched_only_where_allowed(server, fetching, elsewhere):
    elsewhere.seen.clear()
    status, message = refused(predict_from(server, elsewhere.url + "/picture"))
    assert status == 400
    assert "--allow-urls" in message
    assert elsewhere.seen == []
    for path in ("/picture", "/to?/picture", f"/to?{elsewhere.url}/picture"):
        status, answer = predict_from(fetching, elsewhere.url + path)
        assert status == 200
        assert likeliest(answer) == "Granny Smith"


OTHER_SCHEMES = ("file://PATH", "FILE:PATH", "ftp://127.0.0.1PATH", "data:image/png;base64,AA")


@pytest.fixture
def secret(tmp_path):
    """The path of a picture that lies on this machine alone."""
    path = tmp_path / "secret.png"
    path.write_bytes(picture(RED))
    return path.as_posix()


@pytest.mark.parametrize("url", [*OTHER_SCHEMES, "PATH", "http://", "http:PATH", "", "http://["])
def test_other_schemes_are_refused(fetching, secret, url):
    status, message = refused(predict_from(fetching, url.replace("PATH", secret)))
    assert status == 400
    assert message.startswith(("expected an http or https address", "expected one fileurl", "Invalid IPv6"))


@pytest.mark.parametrize("url", OTHER_SCHEMES)
def test_redirects_lead_to_no_other_scheme(fetching, elsewhere, secret, url):
    status, message = refused(predict_from(fetching, f"{elsewhere.url}/to?{url.replace('PATH', secret)}"))
    assert status == 400
    assert "not allowed" in message or "expected an http or https address" in message


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/missing", "404"),
        ("/svg", "PNG, JPEG, WEBP"),
        ("/large", "at most 16,777,216 bytes"),
        ("/to?/to?/to?/missing", "404"),
    ],
)
def test_what_may_come_from_an_address(fetching, elsewhere, path, message):
    status, told = refused(predict_from(fetching, elsewhere.url + path))
    assert status == 400
    assert message in told


def test_an_address_that_drips_is_given_up(hub, elsewhere):
    with serving(hub, allow_urls=True, seconds=0.5) as impatient:
        status, told = refused(predict_from(impatient, elsewhere.url + "/slow"))
    assert status == 400
    assert "within 0.5 s" in told


def test_nobody_at_an_address(fetching):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        status, message = refused(predict_from(fetching, f"http://127.0.0.1:{unused.getsockname()[1]}/p.png"))
    assert status == 400
    assert message.startswith("could not fetch http://127.0.0.1")


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
