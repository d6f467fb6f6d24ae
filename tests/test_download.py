"""download() against a server of our own on the loopback interface."""

from __future__ import annotations

import hashlib
import io
import socket
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from minixception.data import cifar10
from minixception.download import cache_dir, download
from minixception.errors import ArgumentError, DataError

CONTENT = np.random.default_rng(0).integers(0, 256, 300_000, dtype=np.uint8).tobytes()
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves ``content`` at every path, and remembers the Range headers it was sent."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = CONTENT
        self.stop_after: int | None = None  # bytes of a body before the connection breaks
        self.ranges = True
        self.wrong_range = False
        self.tell_length = True
        self.seen: list[str | None] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/file.bin"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self):
        server = self.server
        wanted = self.headers.get("Range")
        server.seen.append(wanted)
        start = 0
        if self.path == "/missing":
            self.send_error(404)
            return
        if wanted and server.ranges:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            if start >= len(server.content):
                self.send_error(416)
                return
            self.send_response(206)
            told = start + 1 if server.wrong_range else start
            self.send_header("Content-Range", f"bytes {told}-{len(server.content) - 1}/{len(server.content)}")
        else:
            self.send_response(200)
        body = server.content[start:]
        if server.tell_length:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: server.stop_after])

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def only_file(folder: Path) -> str:
    (file,) = folder.iterdir()
    return file.name


def test_a_whole_file(server, tmp_path):
    target = tmp_path / "new" / "file.bin"
    assert download(server.url, target, sha256=SHA256, size=len(CONTENT)) == target
    assert target.read_bytes() == CONTENT
    assert only_file(target.parent) == "file.bin"
    assert server.seen == [None]


def test_md5_and_an_unknown_length(server, tmp_path):
    server.tell_length = False
    download(server.url, tmp_path / "f", md5=hashlib.md5(CONTENT).hexdigest())
    assert (tmp_path / "f").read_bytes() == CONTENT


def test_a_file_with_the_right_checksum_is_not_fetched_again(server, tmp_path):
    (tmp_path / "f").write_bytes(CONTENT)
    download(server.url, tmp_path / "f", sha256=SHA256)
    assert server.seen == []


def test_a_file_with_a_wrong_checksum_is_replaced(server, tmp_path):
    (tmp_path / "f").write_bytes(b"old")
    download(server.url, tmp_path / "f", sha256=SHA256)
    assert (tmp_path / "f").read_bytes() == CONTENT


def test_an_interrupted_download_resumes(server, tmp_path):
    server.stop_after = 100_000
    for expected in ("after 100,000", "after 200,000"):
        with pytest.raises(DataError, match=f"expected 300,000 bytes, .* {expected}; run it again to resume"):
            download(server.url, tmp_path / "f", sha256=SHA256)
        assert only_file(tmp_path) == "f.part"
    download(server.url, tmp_path / "f", sha256=SHA256)
    assert (tmp_path / "f").read_bytes() == CONTENT
    assert server.seen == [None, "bytes=100000-", "bytes=200000-"]


def test_a_server_without_ranges_sends_everything_again(server, tmp_path):
    server.ranges = False
    (tmp_path / "f.part").write_bytes(CONTENT[:1000])
    download(server.url, tmp_path / "f", sha256=SHA256)
    assert server.seen == ["bytes=1000-"]
    assert (tmp_path / "f").read_bytes() == CONTENT


def test_a_complete_part_is_only_checked(server, tmp_path):
    (tmp_path / "f.part").write_bytes(CONTENT)
    download(server.url, tmp_path / "f", sha256=SHA256)
    assert (tmp_path / "f").read_bytes() == CONTENT


@pytest.mark.parametrize("stale", [b"x" * 1000, CONTENT + b"x"])
def test_a_stale_part_is_removed_and_the_next_call_succeeds(server, tmp_path, stale):
    (tmp_path / "f.part").write_bytes(stale)
    with pytest.raises(DataError, match=f"expected sha256 {SHA256}.*, got sha256 .*; removed"):
        download(server.url, tmp_path / "f", sha256=SHA256)
    assert list(tmp_path.iterdir()) == []
    download(server.url, tmp_path / "f", sha256=SHA256)


def test_another_range_than_asked_for_is_refused(server, tmp_path):
    server.wrong_range = True
    (tmp_path / "f.part").write_bytes(CONTENT[:1000])
    with pytest.raises(DataError, match=r"asked for the bytes from 1000, got 'bytes 1001-"):
        download(server.url, tmp_path / "f", sha256=SHA256)
    assert (tmp_path / "f.part").read_bytes() == CONTENT[:1000]


def test_wrong_contents_and_a_wrong_size(server, tmp_path):
    with pytest.raises(DataError, match="expected sha256 00"):
        download(server.url, tmp_path / "f", sha256="00")
    with pytest.raises(DataError, match=r"and 299,999 bytes, got sha256 .* and 300,000 bytes"):
        download(server.url, tmp_path / "f", sha256=SHA256, size=len(CONTENT) - 1)
    assert list(tmp_path.iterdir()) == []


def one_line(error) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_missing_file_and_a_refused_connection_name_file_and_folder(server, tmp_path):
    with pytest.raises(DataError, match="404") as error:
        download(server.url.replace("file.bin", "missing"), tmp_path / "f", sha256=SHA256)
    assert "could not download f from http://127.0.0.1" in one_line(error)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        with pytest.raises(DataError, match="could not download f ") as error:
            download(f"http://127.0.0.1:{port}/f", tmp_path / "f", sha256=SHA256)
    assert f"into {tmp_path}: " in one_line(error)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://example.org/f", "f"])
def test_only_http(tmp_path, url):
    with pytest.raises(ArgumentError, match="http or https"):
        download(url, tmp_path / "f", sha256=SHA256)


def test_exactly_one_checksum(tmp_path):
    for checksums in ({}, {"md5": "0", "sha256": "0"}):
        with pytest.raises(ArgumentError, match="exactly one checksum"):
            download("http://127.0.0.1/f", tmp_path / "f", **checksums)


def test_cache_dir_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("MINIXCEPTION_CACHE", str(tmp_path))
    assert cache_dir() == tmp_path
    monkeypatch.delenv("MINIXCEPTION_CACHE")
    for platform, variable in (("linux", "XDG_CACHE_HOME"), ("win32", "LOCALAPPDATA")):
        monkeypatch.setattr("sys.platform", platform)
        monkeypatch.setenv(variable, str(tmp_path))
        assert cache_dir() == tmp_path / "minixception"
    monkeypatch.setattr("sys.platform", "darwin")
    assert cache_dir() == Path.home() / "Library" / "Caches" / "minixception"


# CIFAR-10 from an archive


def archive(names, **contents: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name in names:
            body = contents.get(name, bytes(3073))
            member = tarfile.TarInfo(name)
            member.size = len(body)
            tar.addfile(member, io.BytesIO(body))
    return buffer.getvalue()


NAMES = {"cifar-10-batches-bin/batches.meta.txt": "\n".join("abcdefghij").encode()}
BATCHES = [f"cifar-10-batches-bin/{name}" for name in (*cifar10.SPLITS["train"], *cifar10.SPLITS["test"])]


@pytest.fixture
def serve_archive(server, monkeypatch, tmp_path):
    def serve(contents: bytes) -> Path:
        server.content = contents
        monkeypatch.setattr(cifar10, "URL", server.url.replace("file.bin", "cifar.tar.gz"))
        monkeypatch.setattr(cifar10, "MD5", hashlib.md5(contents).hexdigest())
        monkeypatch.setenv("MINIXCEPTION_CACHE", str(tmp_path / "cache"))
        return tmp_path / "cache"

    return serve


def test_cifar10_is_downloaded_once_and_only_its_own_files_are_unpacked(server, serve_archive, tmp_path):
    cache = serve_archive(archive([*BATCHES, *NAMES, "../evil", "cifar-10-batches-bin/readme.html"], **NAMES))
    with pytest.raises(DataError, match="found neither"):
        cifar10.load_cifar10()
    assert len(cifar10.load_cifar10(split="train", download=True)) == 5
    assert len(cifar10.load_cifar10(split="test", download=True)) == 1
    assert len(server.seen) == 1
    assert [entry.name for entry in cache.iterdir()] == ["cifar-10-batches-bin"]
    assert len(list((cache / "cifar-10-batches-bin").iterdir())) == 7
    assert not (tmp_path / "evil").exists()


def test_an_archive_without_a_batch_leaves_nothing_unpacked(serve_archive):
    cache = serve_archive(archive([*BATCHES[:-1], *NAMES], **NAMES))
    with pytest.raises(DataError, match=r"test_batch\.bin"):
        cifar10.load_cifar10(download=True)
    assert not (cache / "cifar-10-batches-bin").exists()
