"""A picture from an address on the web, which the server fetches only when it was started with --allow-urls.

Whoever may ask the server could otherwise reach through it what only this machine can: its own services, and those of
its network. So a name is looked up once, every address it has must be on the public internet, and the connection goes
to one of those, whatever the name means a moment later (DNS rebinding). Redirects come the same way. No proxy is used:
it would look the name up for itself.
"""

from __future__ import annotations

import ipaddress
import socket
import ssl
import time
import urllib.request
from http.client import HTTPConnection, HTTPException, HTTPMessage, HTTPResponse, HTTPSConnection
from socket import create_connection, getaddrinfo
from typing import IO
from urllib.parse import urlsplit

from ...errors import ArgumentError, DataError

_SCHEMES = ("http", "https")
_BLOCK = 1 << 16  # bytes read at once
_GIVEN_OUT = ipaddress.ip_network("2000::/3")  # of IPv6, for unicast; the rest stands for something else, or nothing


class _WebRedirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects (ten at most) to http and https alone; urllib's own would follow them to ftp too."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> urllib.request.Request | None:
        _check_scheme(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def fetch(url: str, limit: int, seconds: float) -> bytes:
    """The content behind an http or https address, of at most ``limit`` bytes and within about ``seconds``.

    Raises ArgumentError for other addresses, and for those of this machine and its network; DataError when nothing
    comes, too much, or too slowly.
    """
    _check_scheme(url)
    end = time.monotonic() + seconds
    try:
        with _opener().open(url, timeout=seconds) as response:
            content = bytearray()
            while block := response.read1(_BLOCK):
                content += block
                if len(content) > limit:
                    raise DataError(f"expected at most {limit:,} bytes at {url}")
                if time.monotonic() > end:
                    raise DataError(f"expected an answer within {seconds:g} s from {url}")
    except DataError:
        raise
    except (OSError, HTTPException) as error:
        raise DataError(f"could not fetch {url}: {error}") from None
    return bytes(content)


def _check_scheme(url: str) -> None:
    parts = urlsplit(url)
    if parts.scheme not in _SCHEMES or not parts.hostname:
        raise ArgumentError(f"expected an http or https address, got {url!r}")


# Connections to the public internet alone ----------------------------------------------------------------------------


class _Connection(HTTPConnection):
    def connect(self) -> None:
        self.sock = _connected(self.host, self.port, self.timeout)


class _SecureConnection(HTTPSConnection):
    def connect(self) -> None:
        plain = _connected(self.host, self.port, self.timeout)
        self.sock = ssl.create_default_context().wrap_socket(plain, server_hostname=self.host)


class _HTTPHandler(urllib.request.HTTPHandler):
    def http_open(self, req: urllib.request.Request) -> HTTPResponse:
        return self.do_open(_Connection, req)


class _HTTPSHandler(urllib.request.HTTPSHandler):
    def https_open(self, req: urllib.request.Request) -> HTTPResponse:
        return self.do_open(_SecureConnection, req)


def _connected(host: str, port: int, timeout: float | None) -> socket.socket:
    """A connection to a public address of the host; ArgumentError if it has another one, OSError if none answers."""
    try:
        addresses = [str(found[0]) for *_, found in getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    except UnicodeError:
        raise ArgumentError(f"expected the name of a host, got {host!r}") from None
    for address in addresses:
        if not is_public(address):
            raise ArgumentError(
                f"expected an address on the public internet, {host} is {address}: send a picture of this machine or "
                "its network as a file"
            )
    failed = OSError(f"{host} has no address")
    for address in addresses:
        try:
            return create_connection((address, port), timeout)
        except OSError as error:
            failed = error
    raise failed


def is_public(address: str) -> bool:
    """Whether an IP address is one machine on the public internet, not this one and not of its network.

    Loopback, private, shared, link-local, multicast, reserved and unspecified addresses are not, nor are those of IPv6
    that lead to one of IPv4: mapped ones are what they stand for; 6to4 and Teredo are refused.

    >>> [is_public(address) for address in ("1.1.1.1", "127.0.0.1", "192.168.0.1", "::ffff:10.0.0.1", "fe80::1%eth0")]
    [True, False, False, False, False]
    """
    ip = ipaddress.ip_address(address)
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped:
            return is_public(str(ip.ipv4_mapped))
        if ip not in _GIVEN_OUT or ip.sixtofour or ip.teredo:
            return False
    return ip.is_global and not ip.is_multicast


def _opener() -> urllib.request.OpenerDirector:
    """Opens public http and https and nothing else: urllib's usual one knows file, ftp and data addresses too."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        _HTTPHandler(),
        _HTTPSHandler(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.UnknownHandler(),
        _WebRedirects(),
    ):
        opener.add_handler(handler)
    return opener
