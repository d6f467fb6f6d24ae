"""Damaged and hostile files: nothing of them is run, trusted or waited for, and each is a WeightsError."""

from __future__ import annotations

import io
import json
import struct
import zipfile

import h5py
import numpy as np
import pytest
from safetensors.numpy import save_file

from minixception.errors import WeightsError
from minixception.weights import archive, hdf5, safetensors
from minixception.weights.hdf5 import read_hdf5
from minixception.weights.source import Source, StoredTensor
from tests.by_hand.fuzz_weights import fuzz
from tests.helpers.weight_files import BODY, TOP, keras_layers, small_model, write_archive, write_keras2, write_keras3


@pytest.fixture
def layers():
    return keras_layers(small_model(), BODY + TOP)


@pytest.fixture
def weights(layers):
    """The bytes of a .weights.h5 file."""
    file = io.BytesIO()
    write_keras3(file, layers)
    return file.getvalue()


def refused(path, match):
    """Loading raises a WeightsError that names the file, and leaves the model as it was."""
    model = small_model(seed=1)
    with pytest.raises(WeightsError, match=match) as caught:
        model.load_weights(path)
    assert str(path) in str(caught.value)
    for name, array in small_model(seed=1).state_dict().items():
        np.testing.assert_array_equal(model.state_dict()[name], array)


def root_of(data):
    return read_hdf5(Source(io.BytesIO(data), 0, len(data)))


@pytest.mark.parametrize(("offset", "length"), [(2, 2), (-1, 2), (0, -1), (2**63, 8), (4, 1)])
def test_bytes_beyond_the_ends_of_a_source(offset, length):
    source = Source(io.BytesIO(b"abcdef"), 1, 3)
    assert source.read(1, 2) == b"cd"
    with pytest.raises(WeightsError, match="the file has 3"):
        source.read(offset, length)


# HDF5: what is read is what h5py reads --------------------------------------------------------------------------------


def test_groups_of_many_members_and_every_kind_of_text():
    target = io.BytesIO()
    with h5py.File(target, "w") as file:
        for i in range(700):  # more than one level of the tree
            file.create_dataset(f"many/{i}", data=np.full((i % 3, 2), i, np.float32))
        file.attrs["fixed"] = np.array([b"a", b"bcd", b"layer/name"])
        file.attrs["variable"] = ["a", "Größe", "c" * 4000]
        file.attrs["one"] = "name"
        file.attrs["none"] = []
        file.attrs["null"] = h5py.Empty("S1")
        for i in range(200):  # the header goes on in further blocks
            file.attrs[f"more{i}"] = np.array([b"x" * 200])
        file.attrs["last"] = "here"
    root = root_of(target.getvalue())
    assert sorted(root.group("many"), key=int) == [str(i) for i in range(700)]
    for i in range(700):
        np.testing.assert_array_equal(root.group("many").tensor(str(i)).read(), np.full((i % 3, 2), i, np.float32))
    assert root.texts("fixed") == ["a", "bcd", "layer/name"]
    assert root.texts("variable") == ["a", "Größe", "c" * 4000]
    assert (root.texts("one"), root.texts("none"), root.texts("last")) == (["name"], [], ["here"])
    assert (root.texts("null"), root.texts("other")) == ([], None)


@pytest.mark.parametrize("dtype", ["<f2", ">f2", "<f4", ">f4", "<f8", ">f8"])
def test_floats_of_every_kind(dtype, rng):
    array = rng.standard_normal((3, 4, 5)).astype(dtype)
    target = io.BytesIO()
    with h5py.File(target, "w") as file:
        file["x"] = array
        file["scalar"] = array[0, 0, 0]
    root = root_of(target.getvalue())
    np.testing.assert_array_equal(root.tensor("x").read(), array)
    assert root.tensor("scalar").shape == ()
    assert root.tensor("scalar").read() == array[0, 0, 0]


def _external(file):
    del file["layers/conv2d/vars/0"]
    file.create_dataset("layers/conv2d/vars/0", (3, 3, 3, 4), np.float32, external=[("/etc/passwd", 0, 432)])


def _replaced(**options):
    def edit(file):
        array = file["layers/conv2d/vars/0"][()]
        del file["layers/conv2d/vars/0"]
        file.create_dataset("layers/conv2d/vars/0", data=array.astype(options.pop("dtype", np.float32)), **options)

    return edit


def _moved(to):
    def edit(file):
        file.move("layers/conv2d/vars/0", "aside")
        file["layers/conv2d/vars/0"] = to(file)

    return edit


def _virtual(file):
    del file["layers/conv2d/vars/0"]
    layout = h5py.VirtualLayout((3, 3, 3, 4), np.float32)
    layout[...] = h5py.VirtualSource("/etc/passwd", "x", (3, 3, 3, 4))
    file.create_virtual_dataset("layers/conv2d/vars/0", layout)


EDITS = {
    "in chunks": (_replaced(chunks=(1, 1, 1, 1)), "in one piece"),
    "compressed": (_replaced(compression="gzip"), "in one piece"),
    "integers": (_replaced(dtype=np.int32), "floats of 16, 32 or 64 bits"),
    "complex": (_replaced(dtype=np.complex64), "floats of 16, 32 or 64 bits"),
    "in another file": (_external, "in one piece"),
    "virtual": (_virtual, "in one piece"),
    "a soft link": (_moved(lambda file: h5py.SoftLink("/aside")), "no soft link"),
    "an external link": (_moved(lambda file: h5py.ExternalLink("/etc/passwd", "/x")), "classic groups"),
    "one array twice": (_moved(lambda file: file["aside"]), "every object once"),
    "a cycle": (lambda file: file.__setitem__("layers/again", file["layers"]), "every object once"),
    "too deep": (lambda file: file.create_group("layers/x/layers" * 20 + "/y"), "at most 32 deep"),
    "a group for an array": (
        lambda file: (file.pop("layers/conv2d/vars/0"), file.create_group("layers/conv2d/vars/0")),
        "got a group",
    ),
    "an array out of line": (
        lambda file: file.move("layers/separable_conv2d/vars/1", "layers/separable_conv2d/vars/7"),
        "surplus: /layers/separable_conv2d/vars/7",
    ),
    "long text": (lambda file: file["layers/conv2d/vars"].attrs.modify("name", "x" * 5000), "5,000 bytes"),
    "no text": (lambda file: file["layers/conv2d/vars"].attrs.create("name", 7), "expected text"),
}


@pytest.mark.parametrize(("edit", "match"), EDITS.values(), ids=EDITS)
def test_hdf5_that_keras_does_not_write(tmp_path, weights, edit, match):
    path = tmp_path / "w"
    path.write_bytes(weights)
    with h5py.File(path, "r+") as file:
        edit(file)
    refused(path, match)


def test_the_newer_format(tmp_path, weights):
    with h5py.File(tmp_path / "new", "w", libver="latest") as new, h5py.File(io.BytesIO(weights)) as old:
        old.copy("layers", new)
    refused(tmp_path / "new", "classic format that Keras writes")
    with h5py.File(tmp_path / "tracked", "w", track_order=True) as file:
        file.create_group("layers")
    refused(tmp_path / "tracked", "a classic object header")


def test_a_file_cut_short_or_empty(tmp_path, weights):
    for length in (*range(0, 700, 13), len(weights) // 2, len(weights) - 1):
        (tmp_path / "w").write_bytes(weights[:length])
        refused(tmp_path / "w", "w: ")


def test_claimed_sizes_cost_nothing(tmp_path, weights):
    """A shape of 2**60 numbers, in the header of a file of a few kilobytes."""
    data = bytearray(weights)
    shape = struct.pack("<4Q", 3, 3, 3, 4)
    start = data.index(shape)
    data[start : start + 32] = struct.pack("<4Q", 2**30, 2**30, 3, 4)
    (tmp_path / "w").write_bytes(data)
    refused(tmp_path / "w", "shape of block1.conv1.weight")
    tensor = next(t for t in root_of(bytes(data)).tensors() if t.shape[:1] == (2**30,))
    assert isinstance(tensor, StoredTensor)
    with pytest.raises(WeightsError, match="expected 55,340,232,221,128,654,848 bytes of its own"):
        tensor.read()


def test_a_stored_size_that_is_not_the_shapes(tmp_path, weights):
    start = weights.index(struct.pack("<Q", 432), weights.index(struct.pack("<4Q", 3, 3, 3, 4)))  # behind its shape
    (tmp_path / "w").write_bytes(weights[:start] + struct.pack("<Q", 400) + weights[start + 8 :])
    refused(tmp_path / "w", r"expected 432 bytes of its own for /layers/conv2d/vars/0 \(3, 3, 3, 4\), got 400")


def test_limits_of_objects_and_of_shared_bytes(monkeypatch, weights):
    monkeypatch.setattr(hdf5, "MAX_OBJECTS", 20)
    with pytest.raises(WeightsError, match="at most 20"):
        list(root_of(weights).tensors())
    monkeypatch.undo()
    root = root_of(weights)
    root._file._bytes_left = 100  # as if many headers before had pointed at the same large heap
    with pytest.raises(WeightsError, match="share no bytes"):
        list(root.tensors())
    root = root_of(weights)
    root._file._data_left = 431  # as if many arrays before had lain at one address
    with pytest.raises(WeightsError, match="expected 432 bytes of its own for /layers/conv2d/vars/0"):
        root.at("layers/conv2d/vars").tensor("0").read()
    root = root_of(weights)
    root._file._text_left = 11  # as if many attributes before had pointed at the same long text
    with pytest.raises(WeightsError, match="a text of 12 bytes"):
        root.at("layers/conv2d/vars").texts("name")


def test_lists_of_names_that_repeat_or_name_nothing(tmp_path, layers):
    def edited(edit):
        write_keras2(tmp_path / "w", layers)
        with h5py.File(tmp_path / "w", "r+") as file:
            edit(file)
        return tmp_path / "w"

    names = np.array([name for name, _, _ in layers], "S")
    refused(
        edited(lambda f: f.attrs.__setitem__("layer_names", [*names, names[0]])),
        "duplicated in layer_names: block1_conv1",
    )
    refused(edited(lambda f: f.attrs.__setitem__("layer_names", [*names, b"none"])), "'none' in /, it is not there")
    refused(
        edited(lambda f: f.attrs.__setitem__("layer_names", names[:-1])), r"surplus: /predictions/predictions/bias:0"
    )
    weight = [b"predictions/kernel:0", b"predictions/bias:0"]
    group = "predictions"
    refused(edited(lambda f: f[group].attrs.__setitem__("weight_names", [weight[0]] * 2)), "duplicated in /predictions")
    refused(
        edited(lambda f: f[group].attrs.__setitem__("weight_names", weight[:1])),
        r"surplus: /predictions/predictions/bias:0",
    )
    refused(edited(lambda f: f[group].attrs.__setitem__("weight_names", [b"../kernel:0"])), "'..' in /predictions")

    def one_role_twice(file):
        file[group].attrs["weight_names"] = [*weight, b"predictions/kernel"]
        file["predictions/predictions/kernel"] = np.ones((6, 5), np.float32)

    refused(edited(one_role_twice), "duplicated: kernel of predictions")
    refused(edited(lambda f: f.attrs.__setitem__("layer_names", [])), "surplus: /block1_conv1/block1_conv1/kernel:0")


def test_an_array_beside_the_model(tmp_path, layers):
    write_keras2(tmp_path / "w", layers, full_model=True)
    with h5py.File(tmp_path / "w", "r+") as file:
        file["aside"] = np.ones(3, np.float32)
    refused(tmp_path / "w", r"surplus: /aside \(3,\)")


# Archives -------------------------------------------------------------------------------------------------------------


def test_nothing_in_the_configuration_is_looked_at(tmp_path, weights):
    with zipfile.ZipFile(tmp_path / "w", "w") as file:
        file.writestr("config.json", b"\xff{" * 1000)
        file.writestr("model.weights.h5", weights)
    model = small_model(seed=1)
    assert model.load_weights(tmp_path / "w").tensors == 18


@pytest.mark.parametrize("name", ["../evil", "/etc/evil", "a/../../evil", "C:evil", "..\\evil"])
def test_names_that_lead_out_of_the_archive(tmp_path, weights, name):
    write_archive(tmp_path / "w", weights)
    with zipfile.ZipFile(tmp_path / "w", "a") as file:
        file.writestr(name, b"x")
    refused(tmp_path / "w", "plain names in the archive")


def test_two_members_of_one_name(tmp_path, weights):
    with zipfile.ZipFile(tmp_path / "w", "w") as file:
        file.writestr("model.weights.h5", weights)
        file.writestr("xodel.weights.h5", weights)
    (tmp_path / "w").write_bytes((tmp_path / "w").read_bytes().replace(b"xodel", b"model"))
    refused(tmp_path / "w", "duplicated in the archive: 'model.weights.h5'")


def test_a_bomb(tmp_path, weights):
    """Zeros that shrink to a thousandth: behind the weights, or in another member."""
    zeros = bytes(8 << 20)
    write_archive(tmp_path / "w", weights + zeros, zipfile.ZIP_DEFLATED)
    refused(tmp_path / "w", "at most 2 times the archive's")
    write_archive(tmp_path / "w", weights)
    with zipfile.ZipFile(tmp_path / "w", "a", zipfile.ZIP_DEFLATED) as file:
        file.writestr("assets/zeros", zeros)
    refused(tmp_path / "w", "at most 2 times the archive's")


def test_a_member_that_unpacks_to_more_than_it_claims(tmp_path, weights):
    write_archive(tmp_path / "w", weights + bytes(8 << 20), zipfile.ZIP_DEFLATED)
    data = (tmp_path / "w").read_bytes()
    size = struct.pack("<I", len(weights) + (8 << 20))
    (tmp_path / "w").write_bytes(data.replace(size, struct.pack("<I", len(weights))))
    refused(tmp_path / "w", "expected a whole .keras archive: Bad CRC-32")


def test_encryption_other_methods_and_missing_weights(tmp_path, weights):
    write_archive(tmp_path / "w", weights)
    data = bytearray((tmp_path / "w").read_bytes())
    data[data.index(b"PK\1\2") + 8] |= 1
    (tmp_path / "encrypted").write_bytes(data)
    refused(tmp_path / "encrypted", "without encryption")
    write_archive(tmp_path / "w", weights, zipfile.ZIP_LZMA)
    refused(tmp_path / "w", "stored or deflated, got method 14")
    with zipfile.ZipFile(tmp_path / "w", "w") as file:
        file.writestr("config.json", "{}")
    refused(tmp_path / "w", r"expected model\.weights\.h5 in the archive, got config\.json")


def test_a_damaged_byte_in_an_archive_is_noticed(tmp_path, weights):
    write_archive(tmp_path / "w", weights)
    data = bytearray((tmp_path / "w").read_bytes())
    kernel = small_model().block1.conv1.weight.data.tobytes()
    data[data.index(kernel)] ^= 1
    (tmp_path / "w").write_bytes(data)
    refused(tmp_path / "w", "Bad CRC-32")


def test_a_directory_of_millions(tmp_path, weights, monkeypatch):
    monkeypatch.setattr(archive, "MAX_DIRECTORY", 200)
    write_archive(tmp_path / "w", weights)
    with zipfile.ZipFile(tmp_path / "w", "a") as file:
        for i in range(5):
            file.writestr(f"assets/{i}", b"")
    refused(tmp_path / "w", "a directory of at most 200 bytes")
    end = bytearray(22)
    end[:4] = b"PK\5\6"
    (tmp_path / "w").write_bytes(b"PK\3\4" + b"PK\6\7" + bytes(16) + end)  # a second directory, of version 64
    refused(tmp_path / "w", "a directory of at most 200 bytes")


# Safetensors ----------------------------------------------------------------------------------------------------------


def write_header(path, header, body):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)


def test_a_tensor_with_two_entries(tmp_path):
    save_file(small_model().state_dict(), tmp_path / "w")
    data = (tmp_path / "w").read_bytes()
    (length,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8 : 8 + length])
    again = json.dumps({"predictions.bias": header["predictions.bias"]}).encode()
    write_header(tmp_path / "w", json.dumps(header).encode()[:-1] + b", " + again[1:], data[8 + length :])
    refused(tmp_path / "w", "duplicated: predictions.bias")


@pytest.mark.parametrize(("dtype", "size"), [("BF16", 2), ("I32", 4), ("F8_E4M3", 1)])
def test_numbers_that_are_no_floats_of_numpy(tmp_path, dtype, size):
    state = small_model().state_dict()
    header, body = {}, b""
    for name, array in state.items():
        kind, data = ("F32", array.tobytes()) if name != "predictions.bias" else (dtype, bytes(array.size * size))
        header[name] = {"dtype": kind, "shape": array.shape, "data_offsets": [len(body), len(body) + len(data)]}
        body += data
    write_header(tmp_path / "w", header, body)
    refused(tmp_path / "w", f"floats of 16, 32 or 64 bits in predictions.bias, got {dtype}")


def test_headers_that_claim_or_nest_too_much(tmp_path, monkeypatch):
    for header in (b"[" * 100_000, b'{"a":' * 10_000, b"", b"null"):
        write_header(tmp_path / "w", header, b"")
        refused(tmp_path / "w", "nor a whole .safetensors file")
    (tmp_path / "w").write_bytes(struct.pack("<Q", 2**63) + bytes(100))
    refused(tmp_path / "w", "nor a whole .safetensors file")
    monkeypatch.setattr(safetensors, "MAX_HEADER", 100)
    save_file(small_model().state_dict(), tmp_path / "w")
    refused(tmp_path / "w", "a header of at most 100 bytes")


# All at once ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("files", [60, pytest.param(300, marks=pytest.mark.slow)])
def test_damaged_files(files):
    outcomes, layouts, failures, _ = fuzz(files, processes=1)
    assert not failures
    assert sum(outcomes.values()) == files
    assert len(layouts) == 11
    assert {outcome for _, outcome in outcomes} == {"loaded", "refused"}
