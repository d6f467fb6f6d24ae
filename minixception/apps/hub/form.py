"""The uploaded file in a request's body, as browsers and ``curl -F file=@photo.jpg`` send it."""

from __future__ import annotations

from email.message import Message
from email.parser import BytesHeaderParser

from ...errors import DataError
from ...imagenet.images import opened

_MAX_FIELDS = 10  # of a form: one is needed, and each costs time to read
_MAX_HEAD = 4096  # bytes that describe a field
_FORMATS = ("PNG", "JPEG", "WEBP")


def uploaded_file(headers: Message, body: bytes) -> bytes:
    """The content of the field "file" of a multipart/form-data body; DataError if there is none.

    Names of files and claimed types are ignored. Source: RFC 7578, with the delimiters of RFC 2046, section 5.1.1.

    >>> headers = Message()
    >>> headers["Content-Type"] = "multipart/form-data; boundary=x"
    >>> body = b'--x\\r\\nContent-Disposition: form-data; name="file"\\r\\n\\r\\ncontent\\r\\n--x--\\r\\n'
    >>> uploaded_file(headers, body)
    b'content'
    """
    boundary = headers.get_boundary()
    if headers.get_content_type() != "multipart/form-data" or not boundary or not boundary.isascii():
        raise DataError('expected a form (multipart/form-data) with the picture in its field "file"')
    parts = (b"\r\n" + body).split(b"\r\n--" + boundary.encode(), _MAX_FIELDS + 1)
    if not parts[-1].startswith(b"--"):  # as the last delimiter goes on
        raise DataError(f"expected a whole form of at most {_MAX_FIELDS} fields")
    for part in parts[1:-1]:  # nothing of the form is before the first delimiter or after the last
        head, _, content = part.partition(b"\r\n\r\n")
        if len(head) <= _MAX_HEAD:
            described = BytesHeaderParser().parsebytes(head.lstrip())
            if described.get_param("name", header="Content-Disposition") == "file":
                return content
    raise DataError('expected a picture in the form\'s field "file", found no such field')


def check_picture(content: bytes) -> None:
    """DataError unless the bytes begin like a PNG, JPEG or WebP file, whatever name or type they were sent under.

    >>> check_picture(b"<svg/>")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    minixception.errors.DataError: expected an image, got something else: ... (what is read: PNG, JPEG, WEBP)
    """
    with opened(content, _FORMATS):
        pass
