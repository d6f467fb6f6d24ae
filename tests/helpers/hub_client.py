"""Asks a hub's server over HTTP, properly or not, and reads what comes back."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket

from tests.helpers.processes import HANG


def ask(server, method, path, body=None, **headers):
    """Status, headers and body of one answer."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=HANG)
    with contextlib.closing(connection):
        connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        response = connection.getresponse()
        return response.status, response.headers, response.read()


def get(server, path, **headers):
    """Status and JSON of one answer."""
    status, _, body = ask(server, "GET", path, **headers)
    return status, json.loads(body)


def form(content, name="file", boundary="edge"):
    """The body of a form with one file."""
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"; filename="p.png"\r\n'
    return f"{head}Content-Type: image/png\r\n\r\n".encode() + content + f"\r\n--{boundary}--\r\n".encode()


def post(server, body, content_type="multipart/form-data; boundary=edge", **headers):
    status, _, answer = ask(server, "POST", "/api/predict", body, Content_Type=content_type, **headers)
    return status, json.loads(answer)


def talk(server, request):
    """Send bytes as they are; what comes back until the server closes."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=HANG) as connection:
        connection.sendall(request)
        answer = b""
        while block := connection.recv(1 << 16):
            answer += block
        return answer


def likeliest(answer):
    return max(answer["output"][0]["prediction"], key=lambda p: p["probability"])["label"]


def same(answer, other):
    """Whether two predictions agree but for the time they took."""
    return answer["output"] == other["output"] and answer["model"] == other["model"]


def refused(answer):
    """Status and message of a refusal."""
    status, data = answer
    assert list(data) == ["error"]
    return status, data["error"]
