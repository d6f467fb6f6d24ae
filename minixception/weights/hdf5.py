"""A small HDF5 reader: groups, text attributes and contiguous arrays of numbers, every byte range checked.

Why not h5py, which writes these files? The C library below it trusts what it reads. Of 4,000 copies of two Keras files
of 50 KB, damaged in a few bytes, HDF5 1.14.6 and 2.0.0 each crashed on 3, ran without end on 2, and took up to 1.5 GB;
a crash there is a crash of the notebook. What Keras writes needs little of the format: the classic kind that h5py
writes by default, the oldest. This reader knows that kind, follows hard links only, visits every object once, and
raises WeightsError for all else. Data is read by offset, straight into an array.

    superblock --> object header of "/" --> messages: symbol table (a group), or shape + type + layout (an array)
    symbol table --> B-tree --> symbol nodes --> (name in the local heap, object header) per member
    attributes are messages; text of variable length lies in a global heap

Source: HDF5 File Format Specification, version 3.0, sections II to IV.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator

import numpy as np

from ..errors import WeightsError
from .source import Source, StoredTensor

SIGNATURE = b"\x89HDF\r\n\x1a\n"
MAX_OBJECTS = 100_000  # groups and arrays in a file; ResNet152 with its optimizer needs some 5,000
MAX_DEPTH = 32  # groups within groups
MAX_TEXT = 4096  # bytes in one piece of text: a layer's name, not a model's configuration

# Message types of an object header (section IV.A.2)
_DATASPACE, _LINK_INFO, _DATATYPE, _LINK, _EXTERNAL, _LAYOUT = 0x01, 0x02, 0x03, 0x06, 0x07, 0x08
_FILTERS, _ATTRIBUTE, _CONTINUATION, _SYMBOL_TABLE = 0x0B, 0x0C, 0x10, 0x11
# IEEE floats: (size, exponent location and size, mantissa location and size, exponent bias)
_FLOATS = {(2, 10, 5, 0, 10, 15): "f2", (4, 23, 8, 0, 23, 127): "f4", (8, 52, 11, 0, 52, 1023): "f8"}

Message = tuple[int, bytes]


class Group:
    """A group: its members by name, read when they are asked for, and its text attributes."""

    def __init__(self, file: _File, path: str, messages: list[Message], table: bytes, depth: int) -> None:
        if depth > MAX_DEPTH:
            raise WeightsError(f"expected groups at most {MAX_DEPTH} deep, got {path}")
        self.path = path
        self._file, self._messages, self._depth = file, messages, depth
        self._addresses = file.members(table)
        self._members: dict[str, Group | StoredTensor] = {}

    def __iter__(self) -> Iterator[str]:
        return iter(self._addresses)

    def __contains__(self, name: str) -> bool:
        return name in self._addresses

    def __getitem__(self, name: str) -> Group | StoredTensor:
        if name not in self._members:
            if name not in self._addresses:
                raise WeightsError(f"expected {name!r} in {self.path}, it is not there")
            path = f"{self.path.rstrip('/')}/{name}"
            self._members[name] = self._file.member(path, self._addresses[name], self._depth + 1)
        return self._members[name]

    def group(self, name: str) -> Group:
        """The member of that name, which must be a group."""
        member = self[name]
        if not isinstance(member, Group):
            raise WeightsError(f"expected a group at {member.name}, got an array")
        return member

    def tensor(self, name: str) -> StoredTensor:
        """The member of that name, which must be an array."""
        member = self[name]
        if isinstance(member, Group):
            raise WeightsError(f"expected an array at {member.path}, got a group")
        return member

    def at(self, path: str) -> Group:
        """The group at a path below this one."""
        group = self
        for name in path.split("/"):
            group = group.group(name)
        return group

    def tensors(self) -> Iterator[StoredTensor]:
        """All arrays in this group and the groups below it."""
        for name in self:
            yield from self.tensors_of(name)

    def tensors_of(self, name: str) -> Iterator[StoredTensor]:
        """The array that the member of that name is, or all that it holds."""
        member = self[name]
        if isinstance(member, Group):
            yield from member.tensors()
        else:
            yield member

    def texts(self, name: str) -> list[str] | None:
        """An attribute that holds text or a list of texts; None if there is none of that name."""
        found = [a for kind, body in self._messages if kind == _ATTRIBUTE if (a := _Attribute(body)).name == name]
        if len(found) > 1:
            raise WeightsError(f"expected one attribute {name!r} of {self.path}, got {len(found)}")
        return self._file.texts(found[0]) if found else None


def read_hdf5(source: Source) -> Group:
    """The root group of an HDF5 file. WeightsError unless it is whole and of the kind that Keras writes."""
    head = source.read(0, 96)
    version, offsets, lengths = head[8], head[13], head[14]
    if head[:8] != SIGNATURE or version not in (0, 1) or (offsets, lengths) != (8, 8):
        raise WeightsError(
            f"expected an HDF5 file of the classic format that Keras writes (superblock 0), got superblock {version}; "
            "save it again with Keras, or with h5py and its default libver"
        )
    base, _, end, _, _, root = struct.unpack_from("<6Q", head, 24 if version == 0 else 28)
    if base != 0 or end > source.size:
        raise WeightsError(f"expected {end:,} bytes, the file has {source.size:,}: it is truncated or damaged")
    file = _File(source)
    member = file.member("/", root, 0)
    if not isinstance(member, Group):
        raise WeightsError("expected a group at the root of the file")
    return member


class _File:
    """What the groups of one file share: the bytes, and the limits on what they may claim."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self._seen: set[int] = set()  # addresses of objects, tree nodes and header blocks: each is read once
        self._heaps: dict[int, dict[int, bytes]] = {}
        # Many headers may point at the same bytes, so all that one file can make us read is bounded by its size.
        self._bytes_left = 2 * source.size + 4096
        self._text_left = source.size
        self._data_left = source.size

    def _read(self, address: int, length: int) -> bytes:
        """Bytes of a header, a tree or a heap."""
        self._bytes_left -= length
        if self._bytes_left < 0:
            raise WeightsError("expected headers that share no bytes")
        return self.source.read(address, length)

    def _visit(self, address: int) -> int:
        if address in self._seen or len(self._seen) >= MAX_OBJECTS:
            raise WeightsError(f"expected every object once and at most {MAX_OBJECTS:,}, got {address:#x} again")
        self._seen.add(address)
        return address

    # Objects ------------------------------------------------------------------------------------------------------

    def member(self, path: str, address: int, depth: int) -> Group | StoredTensor:
        messages = self._messages(self._visit(address))
        kinds = dict(messages)
        if _SYMBOL_TABLE in kinds:
            return Group(self, path, messages, kinds[_SYMBOL_TABLE], depth)
        if {_DATASPACE, _DATATYPE, _LAYOUT} <= kinds.keys():
            return self._tensor(path, kinds)
        raise WeightsError(f"expected a classic group or an array at {path}, got something else")

    def _messages(self, address: int) -> list[Message]:
        """The messages of an object header: its first block, then the blocks that continue it."""
        version, _, count, _, size = struct.unpack("<BBHII", self._read(address, 12))
        if version != 1:
            raise WeightsError(f"expected a classic object header at {address:#x}, as h5py writes by default")
        messages: list[Message] = []
        blocks = [(address + 16, size)]
        for start, length in blocks:  # grows as continuations are found
            block = self._read(start, length)
            position = 0
            while position + 8 <= length and len(messages) < count:
                kind, size, flags = struct.unpack_from("<HHB", block, position)
                body = block[position + 8 : position + 8 + size]
                if len(body) != size or (flags & 2 and kind in (_DATASPACE, _DATATYPE, _LAYOUT, _ATTRIBUTE)):
                    raise WeightsError(f"expected a whole header message at {start + position:#x}")
                if kind == _CONTINUATION:
                    start_of_next, length_of_next = _unpack("<QQ", body)
                    blocks.append((self._visit(start_of_next), length_of_next))
                if kind in (_LINK_INFO, _LINK):
                    raise WeightsError("expected classic groups, as h5py writes by default, got the newer kind")
                messages.append((kind, body))
                position += 8 + size
        return messages

    def _tensor(self, path: str, kinds: dict[int, bytes]) -> StoredTensor:
        """An array that lies in one piece. A type or a layout that is not read is an error only for who reads it."""
        shape = _dataspace(kinds[_DATASPACE])
        layout = kinds[_LAYOUT].ljust(18, b"\0")

        def read() -> np.ndarray:
            dtype = _number(kinds[_DATATYPE])
            if dtype is None:
                raise WeightsError(f"expected floats of 16, 32 or 64 bits, or integers, in {path}")
            if layout[0] not in (3, 4) or layout[1] != 1 or {_FILTERS, _EXTERNAL} & kinds.keys():
                raise WeightsError(f"expected {path} in one piece: not in chunks, compressed, or in another file")
            address, size = struct.unpack_from("<QQ", layout, 2)
            expected = math.prod(shape) * dtype.itemsize  # Python integers: no claimed shape overflows them
            self._data_left -= expected
            if size != expected or self._data_left < 0:
                raise WeightsError(f"expected {expected:,} bytes of its own for {path} {shape}, got {size:,}")
            return self.source.array(address, shape, dtype)

        return StoredTensor(path, shape, read)

    # Groups -------------------------------------------------------------------------------------------------------

    def members(self, table: bytes) -> dict[str, int]:
        """The object header's address of each member of the group with this symbol table message."""
        tree, heap = _unpack("<QQ", table)
        signature, _, size, _, address = struct.unpack("<4sIQQQ", self._read(heap, 32))
        if signature != b"HEAP":
            raise WeightsError(f"expected a heap of names at {heap:#x}")
        names = self._read(address, size)
        addresses: dict[str, int] = {}
        for name_offset, header, cache in self._entries(tree, 0):
            name = _text(names[name_offset : name_offset + MAX_TEXT + 1].split(b"\0")[0])
            if cache == 2 or name in addresses or name in ("", ".") or "/" in name:
                raise WeightsError(f"expected links of different plain names, and no soft link, got {name!r}")
            addresses[name] = header
        return addresses

    def _entries(self, address: int, depth: int) -> Iterator[tuple[int, int, int]]:
        """(offset of the name, object header, cache type) of every member, below a node of the group's B-tree."""
        head = self._read(self._visit(address), 24)
        count = int.from_bytes(head[6:8], "little")
        if head[:5] == b"TREE\0" and depth <= MAX_DEPTH:
            children = struct.unpack(f"<{2 * count}Q", self._read(address + 24, 16 * count))[1::2]
            for child in children:
                yield from self._entries(child, depth + 1)
        elif head[:5] == b"SNOD\1":
            yield from struct.iter_unpack("<QQI20x", self._read(address + 8, 40 * count))
        else:
            raise WeightsError(f"expected a node of a group's tree at {address:#x}")

    # Text ---------------------------------------------------------------------------------------------------------

    def texts(self, attribute: _Attribute) -> list[str]:
        size = attribute.item_size
        if not attribute.count:
            return []  # an empty list is stored as no floats
        if not attribute.fixed_text and not attribute.variable_text:
            raise WeightsError(f"expected text in the attribute {attribute.name!r}")
        if size == 0 or size * attribute.count > len(attribute.data):
            raise WeightsError(f"expected {attribute.count} texts in {attribute.name!r}, it is too short for them")
        items = [attribute.data[i * size : (i + 1) * size] for i in range(attribute.count)]
        if attribute.variable_text:
            items = [self._heap_text(item) for item in items]
        return [_text(item.split(b"\0")[0]) for item in items]

    def _heap_text(self, reference: bytes) -> bytes:
        length, address, index = _unpack("<IQI", reference)
        if address not in self._heaps:
            self._heaps[address] = self._heap(self._visit(address))
        text = self._heaps[address].get(index, b"")[:length]
        self._text_left -= length
        if len(text) != length or length > MAX_TEXT or self._text_left < 0:
            raise WeightsError(f"expected a text of {length:,} bytes in the heap at {address:#x}")
        return text

    def _heap(self, address: int) -> dict[int, bytes]:
        """The objects of a global heap collection, each cut to what one text may be."""
        signature, size = struct.unpack("<4s4xQ", self._read(address, 16))
        if signature != b"GCOL":
            raise WeightsError(f"expected a heap of texts at {address:#x}")
        block = self._read(address, size)
        objects: dict[int, bytes] = {}
        position = 16
        while position + 16 <= size:
            index, length = struct.unpack_from("<H6xQ", block, position)
            if index == 0:  # the free space at the end
                break
            objects[index] = block[position + 16 : position + 16 + min(length, MAX_TEXT + 1)]
            position += 16 + _padded(length)
        return objects


class _Attribute:
    """An attribute message taken apart: name, how many items of which type, and their bytes."""

    def __init__(self, body: bytes) -> None:
        version, shared, name, datatype, dataspace = _unpack("<BBHHH", body)
        if version not in (1, 2, 3) or shared:
            raise WeightsError(f"expected an attribute of version 1 to 3 with its own type, got version {version}")
        pad = _padded if version == 1 else int
        position = 9 if version == 3 else 8  # version 3 also names the character set
        parts = []
        for size in (name, datatype, dataspace):
            parts.append(body[position : position + size])
            position += pad(size)
        self.name = _text(parts[0].split(b"\0")[0])
        self.data = body[position:]
        head, self.item_size = _unpack("<I", parts[1])[0], _unpack("<4xI", parts[1])[0]
        self.fixed_text = head & 0x0F == 3
        self.variable_text = head & 0x0F == 9 and head >> 8 & 0x0F == 1 and self.item_size == 16
        self.count = math.prod(_dataspace(parts[2]))


def _dataspace(body: bytes) -> tuple[int, ...]:
    """The shape in a dataspace message."""
    version, rank, _, kind = _unpack("<BBBB", body)
    start = {1: 8, 2: 4}.get(version)
    if start is None or rank > 8 or len(body) < start + 8 * rank:
        raise WeightsError("expected a shape of at most 8 dimensions")
    if version == 2 and kind == 2:  # "null": no values at all
        return (0,)
    return struct.unpack_from(f"<{rank}Q", body, start)


def _number(body: bytes) -> np.dtype | None:
    """The type of floats, or of whole integers, in a datatype message; None for other types."""
    head, size = _unpack("<II", body)
    name, order = None, {0: "<", 1: ">"}.get(head >> 8 & 0x41)
    if head & 0x0F == 1 and len(body) >= 20:
        name = _FLOATS.get((size, *struct.unpack_from("<4BI", body, 12)))
    elif head & 0x0F == 0 and size in (1, 2, 4, 8) and body[8:12] == struct.pack("<2H", 0, 8 * size):
        name = f"{'i' if head >> 8 & 8 else 'u'}{size}"
    return np.dtype(order + name) if order and name else None


def _unpack(form: str, body: bytes) -> tuple[int, ...]:
    if len(body) < struct.calcsize(form):
        raise WeightsError(f"expected {struct.calcsize(form)} bytes in a header, got {len(body)}")
    return struct.unpack_from(form, body)


def _padded(length: int) -> int:
    return (length + 7) // 8 * 8


def _text(data: bytes) -> str:
    try:
        text = data.decode("utf8")
    except UnicodeDecodeError:
        text = ""
    if not text.isprintable() or len(data) > MAX_TEXT:
        raise WeightsError(f"expected printable text of at most {MAX_TEXT} bytes, got {data[:40]!r}")
    return text
