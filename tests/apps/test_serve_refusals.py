"""What the hub's server refuses: other machines' names, other sites' pages, paths, and uploads past its limits."""

from __future__ import annotations

import io
import socket
import struct
import sys
import time

import pytest

from minixception.apps.hub import server as server_module
from tests.helpers.colours import picture, serving
from tests.helpers.hub_client import ask, form, get, post, refused, talk
from tests.helpers.processes import HANG

# Names and paths ------------------------------------------------------------------------------------------------------

TRAVERSALS = (
    "../api.py",
    "../../../../../../etc/passwd",
    "..%2fapi.py",
    "%2e%2e/page.html",
    "/etc/passwd",
    "//etc/passwd",
    "orange.png/../../page.html",
    "orange.png%00.txt",
    "orange.png/",
)


@pytest.mark.parametrize("name", TRAVERSALS)
def test_sample_names_name_no_files(server, name):
    status, answer = get(server, f"/api/samples/{name}")
    assert status == 404
    assert list(answer) == ["error"]
    status, answer = get(server, f"/api/predict_sample?filename={name}")
    assert status == 400
    assert answer["error"].startswith("expected a sample out of traffic_light.png")


@pytest.mark.parametrize("query", ["", "?filename=", "?filename=orange.png&filename=x", "?name=orange.png"])
def test_a_sample_must_be_named_once(server, query):
    assert get(server, f"/api/predict_sample{query}")[0] == 400


# Who may ask ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["localhost", "LOCALHOST", "127.0.0.1", "[::1]"])
def test_names_of_this_machine(server, name):
    assert get(server, "/api/get_legal", Host=f"{name}:{server.port}")[0] == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:PORT",
        "localhost",
        "localhost:1",
        "localhost.evil.example:PORT",
        "127.0.0.2:PORT",
        "",
    ],
)
def test_other_names_are_refused_whatever_points_here(server, host):
    for path in ("/", "/api/get_legal"):
        status, answer = get(server, path, Host=host.replace("PORT", str(server.port)))
        assert status == 403
        assert "localhost" in answer["error"]


def test_no_name_or_two(server):
    own = f"Host: localhost:{server.port}\r\n"
    for names in ("", own + "Host: evil.example\r\n"):
        assert talk(server, f"GET /api/get_legal HTTP/1.1\r\n{names}\r\n".encode()).startswith(b"HTTP/1.0 403")
    assert talk(server, f"GET /api/get_legal HTTP/1.1\r\n{own}\r\n".encode()).startswith(b"HTTP/1.0 200")


def test_other_sites_pages_may_not_ask(server):
    own = server.url.rstrip("/")
    for origin in ("http://evil.example", "null", own.replace("http", "https"), f"http://localhost:{server.port}"):
        assert post(server, form(picture()), Origin=origin)[0] == 403
    assert post(server, form(picture()), Origin=own)[0] == 200
    for site in ("cross-site", "same-site"):
        assert get(server, "/api/predict_sample?filename=orange.png", Sec_Fetch_Site=site)[0] == 403
        assert ask(server, "GET", "/", Sec_Fetch_Site=site)[0] == 200  # a link to the page
    assert get(server, "/api/get_legal", Sec_Fetch_Site="same-origin")[0] == 200


def test_the_server_listens_on_loopback_alone(server):
    assert server.server_address[0] == "127.0.0.1"


# Uploads --------------------------------------------------------------------------------------------------------------


OTHER_FILES = {
    "SVG": b'<svg xmlns="http://www.w3.org/2000/svg"/>',
    "HTML": b"<!doctype html><script>alert(1)</script>",
    "GIF that is JavaScript too": b"GIF89a/*" + picture(format="GIF", mode="L", colour=7)[8:] + b"*/=1",
    "TIFF": picture(format="TIFF"),
    "empty": b"",
}


@pytest.mark.parametrize("kind", OTHER_FILES)
def test_files_of_other_types_whatever_they_are_called(server, kind):
    assert refused(post(server, form(OTHER_FILES[kind]))) == (
        400,
        "expected an image, got something else: the bytes given (what is read: PNG, JPEG, WEBP)",
    )


def test_pictures_that_are_broken_or_too_small(server):
    status, message = refused(post(server, form(picture()[:70])))
    assert status == 400
    assert message.startswith("expected a")
    assert refused(post(server, form(picture(size=(20, 20)))))[1].endswith("at least 32x32 pixels, got 20x20")


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (form(picture(), name="photo"), "multipart/form-data; boundary=edge"),
        (form(picture())[:-10], "multipart/form-data; boundary=edge"),
        (form(picture()), "multipart/form-data; boundary=other"),
        (form(picture()), "multipart/form-data"),
        (form(picture()), "image/png"),
        (picture(), "image/png"),
        (b"", "multipart/form-data; boundary=edge"),
        (b"\r\n" * 1000, 'multipart/form-data; boundary="'),
    ],
)
def test_malformed_forms(server, body, content_type):
    assert refused(post(server, body, content_type))[0] == 400


def test_a_body_that_is_too_large_is_refused_unread(server):
    head = f"POST /api/predict HTTP/1.1\r\nHost: localhost:{server.port}\r\nContent-Length: "
    for length in (server_module.MAX_UPLOAD + 1, 10**12, "9" * 5000):
        with socket.create_connection(("127.0.0.1", server.port), timeout=HANG) as connection:
            connection.sendall(f"{head}{length}\r\n\r\n".encode())  # and nothing of the body, for which it would wait
            assert connection.recv(100).startswith(b"HTTP/1.0 413")


def test_who_sends_too_much_all_the_same_gets_the_answer(server):
    status, message = refused(post(server, form(bytes(server_module.MAX_UPLOAD))))
    assert (status, message) == (413, "expected a picture of at most 16 MB")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ("", 411),
        ("Transfer-Encoding: chunked\r\n", 411),
        ("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", 411),
        ("Content-Length: -1\r\n", 400),
        ("Content-Length: five\r\n", 400),
        ("Content-Length: \u0665\r\n", 400),
        ("Content-Length: 0\r\n", 400),
    ],
)
def test_lengths(server, headers, status):
    head = f"POST /api/predict HTTP/1.1\r\nHost: localhost:{server.port}\r\n{headers}\r\n"
    answer = talk(server, head.encode())
    assert answer.startswith(f"HTTP/1.0 {status}".encode())
    assert b'{"error": "' in answer


def test_an_upload_that_ends_early(server):
    head = f"POST /api/predict HTTP/1.1\r\nHost: localhost:{server.port}\r\nContent-Length: 1000\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=HANG) as connection:
        connection.sendall(head.encode() + b"only this")
        connection.shutdown(socket.SHUT_WR)
        assert b"expected 1,000 bytes, the upload ended after 9" in connection.makefile("rb").read()


@pytest.mark.parametrize("start", [b"", b"GET / HT", b"POST /api/predict HTTP/1.1\r\nHost: localhost:PORT\r\n"])
def test_a_client_that_drips_is_cut_off(hub, start):
    with serving(hub, seconds=0.3) as server:
        end = time.monotonic() + HANG
        with socket.create_connection(("127.0.0.1", server.port), timeout=HANG) as connection:
            connection.sendall(start.replace(b"PORT", str(server.port).encode()))
            with pytest.raises(ConnectionError):
                while time.monotonic() < end:
                    connection.sendall(b"x")
                    time.sleep(0.05)


@pytest.mark.parametrize("seconds", [HANG, 0.5])
def test_a_body_that_drips_is_answered_and_others_need_not_wait(hub, seconds):
    with serving(hub, seconds=seconds) as server:
        head = f"POST /api/predict HTTP/1.1\r\nHost: localhost:{server.port}\r\nContent-Length: 100\r\n\r\n"
        with socket.create_connection(("127.0.0.1", server.port), timeout=HANG) as connection:
            connection.sendall(head.encode() + b"x")
            if seconds == HANG:
                assert get(server, "/api/get_legal")[0] == 200
            else:
                assert connection.makefile("rb").read().startswith(b"HTTP/1.0 408")


@pytest.mark.parametrize(
    "line", [b"\r\n", b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"GET /%s HTTP/1.1\r\n\r\n" % (b"x" * 70_000)]
)
def test_broken_requests(server, line):
    answer = talk(server, line)
    assert answer == b"" or b'{"error": "' in answer
    assert get(server, "/api/get_legal")[0] == 200


def test_a_mistake_of_the_server_is_told_and_printed(server, monkeypatch):
    def broken():
        raise KeyError("planted")

    monkeypatch.setattr(server.hub, "get_legal", broken)
    monkeypatch.setattr(sys, "stderr", printed := io.StringIO())
    assert get(server, "/api/get_legal") == (500, {"error": "the server made a mistake, which its terminal shows"})
    deadline = time.monotonic() + HANG
    while "KeyError: 'planted'" not in printed.getvalue():  # printed by another thread, after the answer
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_client_that_goes_away_is_no_mistake(server, capsys):
    for _ in range(3):
        connection = socket.create_connection(("127.0.0.1", server.port))
        connection.sendall(f"GET / HTTP/1.1\r\nHost: localhost:{server.port}\r\n\r\n".encode())
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset, no goodbye
        connection.close()
    assert get(server, "/api/get_legal")[0] == 200
    time.sleep(0.1)
    assert capsys.readouterr().err == ""
