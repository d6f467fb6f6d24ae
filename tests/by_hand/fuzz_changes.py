"""How fuzz_weights.py and fuzz_runs.py damage files: each way takes bytes and a random source, and gives others."""

from __future__ import annotations

import io
import json
import struct
import zipfile

import h5py
import numpy as np

HUGE = (2**31 - 1, 2**32 - 1, 2**40, 2**62, 2**63 - 1, 2**64 - 1)


# What may happen to any file ------------------------------------------------------------------------------------------


def truncate(data, rng):
    return data[: rng.randrange(len(data))]


def flip_bits(data, rng):
    data = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8, 64))):
        data[_place(data, rng)] ^= 1 << rng.randrange(8)
    return bytes(data)


def overwrite(data, rng):
    """A run of bytes becomes zeros, ones, noise, or bytes from elsewhere in the file."""
    data = bytearray(data)
    start, length = _place(data, rng), rng.choice((1, 2, 4, 8, 64, 512))
    end = min(len(data), start + length)
    length = end - start
    elsewhere = rng.randrange(len(data) - length + 1)
    runs = (b"\0" * length, b"\xff" * length, rng.randbytes(length), bytes(data[elsewhere : elsewhere + length]))
    data[start:end] = rng.choice(runs)
    return bytes(data)


def claim(data, rng):
    """An eight- or four-byte number that is small becomes huge: a size, a count, an address."""
    data = bytearray(data)
    size = rng.choice((4, 8))
    places = [i for i in range(0, len(data) - 8, 4) if 0 < int.from_bytes(data[i : i + 8], "little") <= len(data)]
    if places:
        start = rng.choice(places)
        data[start : start + size] = (rng.choice(HUGE) % 2 ** (8 * size)).to_bytes(size, "little")
    return bytes(data)


def cut_out(data, rng):
    start = rng.randrange(len(data))
    return data[:start] + data[start + rng.choice((1, 8, 100)) :]


def insert(data, rng):
    start = rng.randrange(len(data))
    return data[:start] + rng.randbytes(rng.choice((1, 8, 100))) + data[start:]


def _place(data, rng):
    """A random position, with something but zeros around it: the small files are mostly empty space."""
    for _ in range(20):
        place = rng.randrange(len(data))
        if any(data[max(0, place - 8) : place + 8]):
            break
    return place


ANY = (truncate, flip_bits, flip_bits, overwrite, claim, cut_out, insert)


# HDF5: valid files that say something else ----------------------------------------------------------------------------


def edited(data, rng, edit):
    file_like = io.BytesIO(data)
    with h5py.File(file_like, "r+") as file:
        groups, arrays = [], []
        file.visititems(lambda _, item: (groups if isinstance(item, h5py.Group) else arrays).append(item))
        edit(file, groups, arrays, rng)
    return file_like.getvalue()


def rename(file, groups, arrays, rng):
    item = rng.choice(groups + arrays)
    new = item.name + rng.choice(("_77", "x", "0", "é", "_99999999999999999999"))
    if new not in file:
        file.move(item.name, new)


def remove(file, groups, arrays, rng):
    del file[rng.choice(groups + arrays).name]


def swap(file, groups, arrays, rng):
    one, other = (item.name for item in rng.sample(arrays, 2))
    file.move(one, "/waiting")
    file.move(other, one)
    file.move("/waiting", other)


def reshape(file, groups, arrays, rng):
    item = rng.choice(arrays)
    shape = rng.choice(((), (0,), (1,), (7, 7), (*item.shape, 1), item.shape[::-1], (2,) * 9))
    _replace(file, item, np.zeros(shape, np.float32))


def retype(file, groups, arrays, rng):
    item = rng.choice(arrays)
    dtype = rng.choice((np.int64, np.uint8, np.float16, np.float64, ">f4", np.complex64, "S4", bool))
    _replace(file, item, np.zeros(item.shape, dtype))


def store_otherwise(file, groups, arrays, rng):
    item = rng.choice(arrays)
    array = np.ones(item.shape or (1,), np.float32)
    ways = ({"chunks": True}, {"compression": "gzip"}, {"maxshape": (None,) * array.ndim}, {"fletcher32": 1})
    _replace(file, item, array, **rng.choice(ways))


def bomb(file, groups, arrays, rng):
    """A claimed shape of terabytes, of which nothing is stored."""
    name = rng.choice(arrays).name
    del file[name]
    file.create_dataset(name, (1 << 40,), np.float32, chunks=(1024,))


def link(file, groups, arrays, rng):
    item = rng.choice(groups + arrays)
    target, name = item.name, item.name + "_link"
    kinds = (
        h5py.SoftLink(target),
        h5py.SoftLink("/"),
        h5py.ExternalLink("/etc/hostname", "/"),
        file[target],
        file["/"],
    )
    file[name] = rng.choice(kinds)


def point_outside(file, groups, arrays, rng):
    item = rng.choice(arrays)
    name, shape = item.name, item.shape
    del file[name]
    file.create_dataset(name, shape, np.float32, external=[("/etc/passwd", 0, h5py.h5f.UNLIMITED)])


def edit_attribute(file, groups, arrays, rng):
    owner = rng.choice([item for item in (file, *groups) if len(item.attrs)] or [file])
    name = rng.choice(list(owner.attrs) or ["name"])
    old = np.atleast_1d(owner.attrs.get(name, "new")).astype("S")
    values = (
        *(np.array([b"x" * 5000]), 7, np.ones(3), "", np.array([], "S1"), "é\n", h5py.Empty("f4")),
        *(np.concatenate([old, old]), old[::-1], old[1:], old[:-1], np.array([b"../../x"] * 3)),
    )
    value = rng.choice(values)
    owner.attrs.pop(name, None)
    owner.attrs[rng.choice((name, name, name + "0", "layer_names"))] = value


def _replace(file, item, array, **options):
    name = item.name
    del file[name]
    file.create_dataset(name, data=array, **options)


HDF5 = (rename, remove, swap, reshape, retype, store_otherwise, bomb, link, point_outside, edit_attribute)


# Zip ------------------------------------------------------------------------------------------------------------------


def members_of(data):
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return [(info, archive.read(info)) for info in archive.infolist()]


def zipped(members, method=zipfile.ZIP_STORED):
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", method) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return target.getvalue()


def traversal(data, rng):
    names = ("../../evil", "/etc/evil", "..\\evil", "C:evil", "a/../../evil", "../model.weights.h5")
    members = [(info.filename, content) for info, content in members_of(data)]
    return zipped([*members, (rng.choice(names), b"x")])


def duplicate(data, rng):
    """Two members of one name: patched in, as zipfile warns of them."""
    members = [(info.filename, content) for info, content in members_of(data)]
    twin = rng.choice(members)
    name = "#" + twin[0][1:]
    return zipped([*members, (name, twin[1])]).replace(name.encode(), twin[0].encode())


def zip_bomb(data, rng):
    members = [(info.filename, content) for info, content in members_of(data)]
    zeros = bytes(rng.choice((3 << 20, 20 << 20)))
    if rng.random() < 0.5:
        members = [(name, content + zeros if name.endswith("h5") else content) for name, content in members]
    else:
        members.append(("assets/zeros", zeros))
    return zipped(members, zipfile.ZIP_DEFLATED)


def lie(data, rng):
    """A number in a header of the archive: flags (encrypted), method, checksum, sizes, offset."""
    data = bytearray(data)
    fields = {
        b"PK\1\2": (8, 10, 16, 20, 24, 28, 30, 42),
        b"PK\3\4": (6, 8, 14, 18, 22, 26, 28),
        b"PK\5\6": (8, 10, 12, 16, 20),
    }
    signature, offsets = rng.choice(list(fields.items()))
    places = [i for i in range(len(data) - 4) if data[i : i + 4] == signature]
    start = rng.choice(places) + rng.choice(offsets)
    value = rng.choice((0, 1, 9, 99, 0x7FFFFFFF, 0xFFFFFFFF, len(data)))
    data[start : start + 4] = value.to_bytes(4, "little")
    return bytes(data)


def encrypt(data, rng):
    data = bytearray(data)
    for signature, offset in ((b"PK\1\2", 8), (b"PK\3\4", 6)):
        for i in range(len(data) - 4):
            if data[i : i + 4] == signature:
                data[i + offset] |= 1
    return bytes(data)


def drop_member(data, rng):
    members = [(info.filename, content) for info, content in members_of(data)]
    members.pop(rng.randrange(len(members)))
    return zipped(members)


ZIP = (traversal, duplicate, zip_bomb, lie, lie, encrypt, drop_member)


# Safetensors ----------------------------------------------------------------------------------------------------------


def _header(data):
    (length,) = struct.unpack_from("<Q", data)
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def _with_header(header, body):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def header_length(data, rng):
    return struct.pack("<Q", rng.choice((0, 1, len(data) - 8, len(data), *HUGE))) + data[8:]


def header_entry(data, rng):
    """A name, a dtype, a shape or offsets of one tensor."""
    header, body = _header(data)
    name = rng.choice([key for key in header if key != "__metadata__"])
    entry = header[name]
    changes = {
        "name": lambda: header.update({name + "x": header.pop(name)}),
        "remove": lambda: header.pop(name),
        "dtype": lambda: entry.update(dtype=rng.choice(("F16", "F64", "I32", "BF16", "F8_E4M3", "U8", "x", None))),
        "shape": lambda: entry.update(
            shape=rng.choice(([], [0], [1, *entry["shape"]], entry["shape"][::-1], [2**62, 4], [-1]))
        ),
        "offsets": lambda: entry.update(data_offsets=rng.choice(([0, 4], [4, 0], [0, len(body)], [2**63, 2**64], "x"))),
    }
    changes[rng.choice(list(changes))]()
    return _with_header(header, body)


def header_twice(data, rng):
    """A name with two entries, which a dictionary could not hold."""
    header, body = _header(data)
    name = rng.choice([key for key in header if key != "__metadata__"])
    text = json.dumps(header).encode()
    return _with_header(text[:-1] + b', "' + name.encode() + b'": ' + json.dumps(header[name]).encode() + b"}", body)


def header_text(data, rng):
    body = _header(data)[1]
    return _with_header(
        rng.choice((b"", b"{", b"[]", b"null", b"{}", b'{"a":' * 2000, b"\xff" * 50, b"[" * 50_000)), body
    )


SAFETENSORS = (header_length, header_entry, header_entry, header_twice, header_text)


# JSON: valid texts that say something else ----------------------------------------------------------------------------

STRANGE = (
    *(None, True, False, 0, 1, -1, 7, 2**31, 2**63, -(2**70), 10**400, 0.0, 0.5, -2.5, 1e308, 5e-324),
    *(float("nan"), float("inf"), float("-inf"), "", "x", "1", "é\n", "\0", "\ud800", "nan", "adam"),
    *([], [1], [[]], [None], ["a", "a"], {}, {"a": 1}, {"total": "x", "weight": 1}, {"": {}}),
)


def edit_json(data, rng):
    """One value, anywhere, becomes another one, goes, comes twice, gets another name, or gets company."""
    root = {"": json.loads(data)}
    holder = root
    while True:  # down to a random depth
        key = rng.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))
        value = holder[key]
        if not isinstance(value, dict | list) or not value or (holder is not root and rng.random() < 0.2):
            break
        holder = value
    if isinstance(holder, dict) and rng.random() < 0.3:
        del holder[key]
        if rng.random() < 0.6:
            holder[rng.choice(("x", "", key + "s", key.upper()))] = value
    elif isinstance(holder, list) and rng.random() < 0.3:
        holder[key:] = rng.choice(([], [value, value], [value] * 50))
    else:
        holder[key] = rng.choice((*3 * STRANGE, [value], {"x": value}, str(value)))
    return json.dumps(root.get("", root)).encode()


def edit_text(data, rng):
    """The text is no JSON, or none of a thousand levels."""
    texts = (
        b"",
        b"{",
        b"null",
        b"[]",
        b"7",
        b'"x"',
        b"[" * 50_000,
        b'{"a":' * 50_000,
        b"9" * 5000,
        b"\xff\xfe",
        data * 2,
    )
    return rng.choice((*texts, truncate(data, rng), flip_bits(data, rng), overwrite(data, rng)))
