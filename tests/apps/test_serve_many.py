"""The hub's server when many ask at once: everybody gets an answer, and what is held at once is bounded."""

from __future__ import annotations

import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from minixception.apps.hub import Hub
from minixception.apps.hub import server as server_module
from minixception.apps.hub.server import Server
from tests.helpers.colours import RED, Colours, picture, serving
from tests.helpers.hub_client import ask, form, get, likeliest, post
from tests.helpers.processes import HANG

MANY = 100
PICTURE = {"Content_Type": "multipart/form-data; boundary=edge"}


class Inside:
    """A function that counts how many threads are in it, and lets none out before ``go_on`` is set."""

    def __init__(self, result):
        self.result, self.go_on, self.entered = result, threading.Event(), threading.Semaphore(0)
        self.now, self.most, self._lock = 0, 0, threading.Lock()

    def __call__(self, *arguments):
        with self._lock:
            self.now += 1
            self.most = max(self.most, self.now)
        self.entered.release()
        assert self.go_on.wait(HANG)
        time.sleep(0.02)  # for others to come in, where nothing keeps them out
        with self._lock:
            self.now -= 1
        return self.result

    def wait_for(self, number):
        for _ in range(number):
            assert self.entered.acquire(timeout=HANG)


@pytest.fixture
def clients():
    with ThreadPoolExecutor(MANY) as pool:
        yield pool


@pytest.fixture
def hub(clients):
    """A hub that waits when it is asked for a prediction, or for what is legal."""
    hub = Hub(Colours())
    hub.predict, hub.get_legal = waiting = Inside({"seen": "this"}), Inside({})
    yield hub
    for function in waiting:
        function.go_on.set()  # the clients of a test that failed


def test_a_hundred_who_come_before_any_is_answered(monkeypatch):
    monkeypatch.setattr(server_module, "_PATIENCE", HANG)
    request = form(picture(RED))
    head = f"POST /api/predict HTTP/1.1\r\nContent-Type: {PICTURE['Content_Type']}\r\nContent-Length: {len(request)}"
    with Server(Hub(Colours()), 0, seconds=HANG) as server:
        waiting = [socket.create_connection(("127.0.0.1", server.port), timeout=HANG) for _ in range(MANY)]
        for connection in waiting:
            connection.sendall(f"{head}\r\nHost: localhost:{server.port}\r\n\r\n".encode() + request)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            for connection in waiting:
                with connection, connection.makefile("rb") as file:
                    head, _, body = file.read().partition(b"\r\n\r\n")
                assert head.startswith(b"HTTP/1.0 200")
                assert likeliest(json.loads(body)) == "strawberry"
        finally:
            server.shutdown()
            thread.join()


def test_few_pictures_are_held_at_once_and_all_are_answered(hub, clients, monkeypatch):
    monkeypatch.setattr(server_module, "_PLACES", 3)
    monkeypatch.setattr(server_module, "_PATIENCE", HANG)
    with serving(hub) as server:
        answers = [clients.submit(post, server, form(picture())) for _ in range(20)]
        hub.predict.wait_for(3)
        hub.predict.go_on.set()
        assert [answer.result() for answer in answers] == [(200, {"seen": "this"})] * 20
    assert hub.predict.most == 3


def test_who_finds_no_place_is_told_so_and_the_page_goes_on(hub, clients, monkeypatch):
    monkeypatch.setattr(server_module, "_PLACES", 2)
    monkeypatch.setattr(server_module, "_PATIENCE", 0)
    with serving(hub, allow_urls=True) as server:
        held = [clients.submit(post, server, form(picture())) for _ in range(2)]
        hub.predict.wait_for(2)
        for method, path in (
            ("POST", "/api/predict"),
            ("GET", "/api/predict_sample?filename=orange.png"),
            ("GET", "/api/predict?fileurl=http://127.0.0.1:1/"),
        ):
            status, headers, body = ask(server, method, path, form(picture()) if method == "POST" else None, **PICTURE)
            assert (status, headers["Retry-After"], headers["Content-Type"]) == (503, "5", "application/json")
            assert json.loads(body) == {"error": "the server is busy with other pictures: try again in a moment"}
        with socket.create_connection(("127.0.0.1", server.port), timeout=HANG) as connection:
            head = f"POST /api/predict HTTP/1.1\r\nHost: localhost:{server.port}\r\nContent-Length: 9\r\n\r\n"
            connection.sendall(head.encode())  # and nothing of the body, which is not read without a place
            assert connection.recv(100).startswith(b"HTTP/1.0 503")
        assert ask(server, "GET", "/")[0] == get(server, "/api/get_config")[0] == 200
        hub.predict.go_on.set()
        assert [answer.result()[0] for answer in held] == [200, 200]
        for _ in range(3):  # a refused picture gives its place back, too
            assert post(server, form(b"no picture"))[0] == 400
        assert post(server, form(picture()))[0] == 200


def test_connections_have_few_threads(hub, clients, monkeypatch):
    monkeypatch.setattr(server_module, "_CONNECTIONS", 3)
    with serving(hub) as server:
        answers = [clients.submit(get, server, "/api/get_legal") for _ in range(20)]
        hub.get_legal.wait_for(3)
        hub.get_legal.go_on.set()
        assert [answer.result() for answer in answers] == [(200, {})] * 20
    assert hub.get_legal.most == 3


def test_the_wait_for_a_place_is_not_the_clients_time(hub, monkeypatch):
    clock = SimpleNamespace(now=0.0, monotonic=lambda: clock.now)
    monkeypatch.setattr(server_module, "time", clock)

    class Late:
        """A place that comes after more time than a request may take."""

        def acquire(self, timeout):
            clock.now += 2 * HANG
            return True

        def release(self):
            pass

    hub.predict.go_on.set()
    with serving(hub) as server:
        server.places = Late()
        assert post(server, form(picture()))[0] == 200
