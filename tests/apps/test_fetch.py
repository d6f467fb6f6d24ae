"""Pictures that the hub's server fetches: from the public web alone, whatever an address says, and within limits."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import quote

import pytest

from minixception.apps.hub import fetch as fetch_module
from minixception.apps.hub import server as server_module
from minixception.apps.hub.fetch import fetch
from minixception.errors import ArgumentError, DataError
from tests.helpers.colours import GREEN, RED, picture, serving
from tests.helpers.hub_client import get, likeliest, refused
from tests.helpers.processes import HANG

PUBLIC = "93.184.216.34"  # nothing is sent there: connections to it end on this machine


@pytest.fixture(scope="module")
def fetching(hub):
    """A server that was started with --allow-urls."""
    with serving(hub, allow_urls=True) as server:
        yield server


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
        server.url = f"http://elsewhere.example:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


class Internet:
    """Name service and connections: names with the addresses of each lookup, and what was connected to."""

    def __init__(self):
        self.names, self.connected = {"elsewhere.example": [[PUBLIC]]}, []

    def getaddrinfo(self, host, port, type):
        answers = self.names.get(host, [[host]])
        found = answers.pop(0) if len(answers) > 1 else answers[0]
        return [entry for address in found for entry in socket.getaddrinfo(address, port, type=type)]

    def create_connection(self, address, timeout):
        self.connected.append(address)
        if address[0] != PUBLIC:
            raise TimeoutError("timed out")
        return socket.create_connection(("127.0.0.1", address[1]), timeout)


@pytest.fixture(autouse=True)
def internet(monkeypatch):
    stub = Internet()
    for name in ("getaddrinfo", "create_connection"):
        monkeypatch.setattr(fetch_module, name, getattr(stub, name))
    return stub


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
        status, message = refused(predict_from(fetching, f"http://elsewhere.example:{unused.getsockname()[1]}/p.png"))
    assert status == 400
    assert message.startswith("could not fetch http://elsewhere.example")


# Addresses of this machine and its network ---------------------------------------------------------------------------

PRIVATE = (
    *("127.0.0.1", "127.9.9.9", "localhost", "127.1", "2130706433", "0x7f000001", "0.0.0.0", "10.1.2.3", "172.16.0.1"),
    *("192.168.0.1", "100.64.0.1", "169.254.169.254", "224.0.1.1", "240.0.0.1", "255.255.255.255", "192.0.2.1"),
    *("[::1]", "[::]", "[::ffff:127.0.0.1]", "[::ffff:10.1.2.3]", "[::127.0.0.1]", "[fe80::1]", "[fd12::1]"),
    *("[fec0::1]", "[ff02::1]", "[2001:db8::1]", "[2002:7f00:1::1]", "[2001:0:7f00:1::1]", "[64:ff9b::7f00:1]"),
)


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("host", PRIVATE)
def test_addresses_that_are_not_public(scheme, host, internet):
    with pytest.raises(ArgumentError, match=r"expected an address on the public internet, .* is .*as a file"):
        fetch(f"{scheme}://{host}/picture", 1000, HANG)
    assert internet.connected == []


def test_a_name_for_this_machine_and_one_for_this_and_another(fetching, elsewhere, internet):
    elsewhere.seen.clear()
    internet.names |= {"here.example": [["127.0.0.1"]], "both.example": [[PUBLIC, "::1"]]}
    for name, address in (("here.example", "127.0.0.1"), ("both.example", "::1")):
        status, message = refused(predict_from(fetching, f"http://{name}:{elsewhere.server_address[1]}/picture"))
        assert (status, message) == (
            400,
            f"expected an address on the public internet, {name} is {address}: send a picture of this machine or its "
            "network as a file",
        )
    assert (internet.connected, elsewhere.seen) == ([], [])


def test_redirects_lead_to_no_private_address(fetching, elsewhere):
    elsewhere.seen.clear()
    path = f"/to?http://127.0.0.1:{elsewhere.server_address[1]}/picture"
    status, message = refused(predict_from(fetching, elsewhere.url + path))
    assert status == 400
    assert message.startswith("expected an address on the public internet, 127.0.0.1 is 127.0.0.1")
    assert elsewhere.seen == [path]


def test_a_name_is_looked_up_once_and_what_was_checked_is_connected_to(elsewhere, internet):
    port = elsewhere.server_address[1]
    internet.names["rebound.example"] = [[PUBLIC], ["127.0.0.1"]]
    assert fetch(f"http://rebound.example:{port}/picture", 1 << 20, HANG) == picture(GREEN)
    assert internet.connected == [(PUBLIC, port)]
    with pytest.raises(ArgumentError, match=r"rebound\.example is 127\.0\.0\.1"):
        fetch(f"http://rebound.example:{port}/picture", 1 << 20, HANG)


def test_the_next_address_where_one_does_not_answer(elsewhere, internet):
    port = elsewhere.server_address[1]
    internet.names["two.example"] = [["1.1.1.1", PUBLIC]]
    assert fetch(f"http://two.example:{port}/picture", 1 << 20, HANG) == picture(GREEN)
    assert internet.connected == [("1.1.1.1", port), (PUBLIC, port)]
    internet.names["none.example"] = [["1.1.1.1", "1.0.0.1"]]
    with pytest.raises(DataError, match=r"could not fetch http://none\.example/p: .*timed out"):
        fetch("http://none.example/p", 1 << 20, HANG)


def test_no_proxy_goes_around_the_check(elsewhere, internet, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://1.1.1.1:3128")
    assert fetch(f"{elsewhere.url}/picture", 1 << 20, HANG) == picture(GREEN)
    assert internet.connected == [(PUBLIC, elsewhere.server_address[1])]


def test_https_speaks_tls_to_the_address_that_was_checked(elsewhere, internet):
    with pytest.raises(DataError, match=r"could not fetch https://elsewhere\.example.*SSL"):  # it has none
        fetch(f"{elsewhere.url.replace('http', 'https')}/picture", 1 << 20, HANG)
    assert internet.connected == [(PUBLIC, elsewhere.server_address[1])]


def test_what_is_no_name():
    with pytest.raises(ArgumentError, match=r"expected the name of a host, got 'a\.\.b'"):
        fetch("http://a..b/picture", 1 << 20, HANG)
