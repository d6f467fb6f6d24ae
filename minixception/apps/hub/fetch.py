"""A picture from an address on the web, which the server fetches only when it was started with --allow-urls."""

from __future__ import annotations

import time
import urllib.request
from http.client import HTTPException, HTTPMessage
from typing import IO
from urllib.parse import urlsplit

from ...errors import ArgumentError, DataError

_SCHEMES = ("http", "https")
_BLOCK = 1 << 16  # bytes read at once


class _WebRedirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects (ten at most) to http and https alone; urllib's own would follow them to ftp too."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> urllib.request.Request | None:
        _check_scheme(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def fetch(url: str, limit: int, seconds: float) -> bytes:
    """The content behind an http or https address, of at most ``limit`` bytes and within about ``seconds``.

    Raises ArgumentError for other addresses, DataError when nothing comes, too much, or too slowly.
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


def _opener() -> urllib.request.OpenerDirector:
    """Opens http and https and nothing else: urllib's usual one knows file, ftp and data addresses too."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.UnknownHandler(),
        _WebRedirects(),
    ):
        opener.add_handler(handler)
    return opener
