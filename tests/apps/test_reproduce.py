"""The paper's tables: what is published, what is counted and measured, and that the two are never mixed up."""

from __future__ import annotations

import json

import numba
import numpy as np
import pytest
from PIL import Image

import minixception as mx
from minixception import imagenet
from minixception.apps import reproduce
from minixception.apps.reproduce import Report, tables, write_report
from minixception.bench.training import random_batch, training_step
from minixception.errors import NumericError
from minixception.timing import Timing


@pytest.fixture
def small(monkeypatch):
    """Small networks in place of the two of table 3, and of those of table 1."""

    def make(dropout=0.0, **options):
        return mx.models.mini_xception(1000, (8,), 0, 4, dropout=dropout)

    networks = {name: (make, {}, *rest) for name, (_, _, *rest) in tables.TABLE3.items()}
    monkeypatch.setattr(tables, "TABLE3", networks)
    monkeypatch.setattr(tables, "MODELS", dict.fromkeys(tables.TABLE1, make))
    return make


# Counts ---------------------------------------------------------------------------------------------------------------


def test_table1_counts_and_leaves_accuracy_open():
    report = reproduce.table1()
    assert report.published == {
        "VGG-16": {"top-1": 0.715, "top-5": 0.901},
        "ResNet-152": {"top-1": 0.770, "top-5": 0.933},
        "Inception V3": {"top-1": 0.782, "top-5": 0.941},
        "Xception": {"top-1": 0.790, "top-5": 0.945},
    }
    assert report.measured == {
        "VGG-16": {"parameters": 138_357_544, "MACs": 15_470_264_320},
        "ResNet-152": {"parameters": 60_419_944, "MACs": 11_282_415_616},
        "Inception V3": {"parameters": 23_851_784, "MACs": 5_713_216_096},
        "Xception": {"parameters": 22_910_480, "MACs": 8_357_403_496},
    }
    (line,) = report.needs
    assert "VGG-16, ResNet-152, Inception V3, Xception: they need the 50,000 ImageNet validation images" in line


def test_table2_counts_the_forms_with_17000_classes(monkeypatch):
    made = []

    def make(num_classes, fc_units):
        made.append((num_classes, fc_units))
        return mx.models.mini_xception(3, (8,), 0, 4)

    monkeypatch.setattr(tables, "TABLE2", {name: (make, *rest) for name, (_, *rest) in tables.TABLE2.items()})
    report = reproduce.table2()
    assert [row["MAP@100"] for row in report.published.values()] == [6.36, 6.70, 6.50, 6.78]
    assert made == [(17_000, ()), (17_000, ()), (17_000, (4096, 4096)), (17_000, (4096, 4096))]
    assert all(row.keys() == {"parameters", "MACs"} for row in report.measured.values())
    assert "needs JFT" in report.needs[0]
    assert "6.70" in str(report)


def test_the_form_without_fc_layers_has_the_parameters_it_must():
    make, units, _ = tables.TABLE2["Xception, no FC layers"]
    assert tables._counts(make(num_classes=17_000, fc_units=units))["parameters"] == 20_861_480 + 2049 * 17_000


def test_table3_has_the_papers_parameters_exactly():
    for name, (make, options, _, parameters, _) in tables.TABLE3.items():
        assert make(dropout=0.5, **options).num_parameters(trainable=True) == parameters, name
    assert [row[3:] for row in tables.TABLE3.values()] == [(23_626_728, 31), (22_855_952, 28)]
    assert [row[2] for row in tables.TABLE3.values()] == [4e-5, 1e-5]


# Measurements ---------------------------------------------------------------------------------------------------------


def test_table3_measures_speeds_and_their_ratio(small, monkeypatch):
    asked = []

    def timed(functions, repeats, after_round):
        for function in functions.values():
            function()
        asked.append((list(functions), repeats))
        return {"Inception V3": Timing(0.5, 0.4, 0.625), "Xception": Timing(0.8, 0.5, 1.0)}

    monkeypatch.setattr(tables, "interleaved", timed)
    report = reproduce.table3(steps=9, batch_size=2)
    assert asked == [(["Inception V3", "Xception"], 9)]
    measured = report.measured
    assert measured["Xception"]["steps/s"] == 1.25
    assert measured["Xception"]["quartiles"] == (1.0, 2.0)
    assert measured["Inception V3"]["quartiles"] == (1.6, 2.5)
    assert measured["Xception / Inception V3"]["steps/s"] == 0.625
    assert round(report.published["Xception / Inception V3"]["steps/s"], 3) == 0.903
    assert round(report.published["Xception / Inception V3"]["trainable parameters"], 3) == 0.967
    assert "1.250" in str(report)
    assert "1.000 to 2.000" in str(report)
    assert "9 steps" in report.notes[0]
    assert f"on {numba.get_num_threads()} threads" in report.notes[0]
    assert "the ratio of the speeds would be 1.000" in report.notes[0]


def test_the_steps_of_table3_train(small):
    mx.seed(0)
    model = small()
    before = {name: array.copy() for name, array in model.state_dict().items()}
    x, labels = random_batch(model, 2)
    step = training_step(model, mx.tensor(x), labels, mx.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9))
    losses = [step().item() for _ in range(30)]
    assert losses[-1] < losses[0]
    assert all(not np.array_equal(before[name], array) for name, array in model.state_dict().items())


def test_steps_that_diverge_are_not_reported(small, monkeypatch):
    monkeypatch.setattr(tables, "training_step", lambda *arguments: lambda: mx.tensor(np.float32("nan")))
    with pytest.raises(NumericError, match="Inception V3: the loss is not finite"):
        reproduce.table3(steps=1)


def test_table1_with_images_and_some_weights(small, tmp_path, call):
    rng, place = np.random.default_rng(0), tmp_path / "val" / imagenet.CLASSES[3][0]
    place.mkdir(parents=True)
    for i in range(3):
        Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(place / f"{i}.png")
    model = small()
    model.predictions.bias.data[3] = 50  # right for every image
    model.save_weights(tmp_path / "w.safetensors")
    monkey = pytest.MonkeyPatch()
    monkey.setattr("minixception.training.imagenet.MODELS", {"xception": lambda num_classes: small()})
    given = ("--data", f"imagenet:{tmp_path / 'val'}", "--weights", f"xception={tmp_path / 'w.safetensors'}")
    try:
        status, out, err = call("reproduce", "table1", *given, "--json", "--out", tmp_path / "out" / "table1.json")
    finally:
        monkey.undo()
    assert status == 0, err
    report = json.loads(out)
    assert report["measured"]["Xception"].items() >= {"top-1": 1.0, "top-5": 1.0, "images": 3}.items()
    assert "top-1" not in report["measured"]["VGG-16"]
    assert report["needs"][0].startswith("top-1 and top-5 of VGG-16, ResNet-152, Inception V3: they need")
    written = (tmp_path / "out" / "table1.json").read_text()
    assert str(tmp_path) not in written  # no local paths in a result file
    assert json.loads(written)["command"].endswith("table1 --data imagenet:DIR --weights xception=FILE")


# Text and files -------------------------------------------------------------------------------------------------------

REPORT = Report(
    "Table 9", {"A": {"top-1": 0.5}}, {"A": {"MACs": 1200, "spread": (0.25, 0.75)}}, ["a GPU"], ["Read it."]
)


def test_published_and_measured_stand_apart():
    lines = str(REPORT).splitlines()
    assert lines[2].split("  ") == ["network", "paper: top-1", "here: MACs", "here: spread"]
    assert lines[4].split() == ["A", "0.500", "1,200", "0.250", "to", "0.750"]
    assert lines[5:] == ["", "Not measured here:", "- a GPU", "", "Read it."]
    assert "| A | 0.500 | 1,200 | 0.250 to 0.750 |" in REPORT.markdown().splitlines()
    assert Report(**REPORT.to_json()) == REPORT


def test_the_page_has_every_table_that_lies_there(tmp_path):
    for number in (3, 1):
        report = Report(**(REPORT.to_json() | {"title": f"Table {number}"}))
        write_report(tmp_path / f"table{number}.json", f"minixception reproduce table{number}", report)
    result = json.loads((tmp_path / "table1.json").read_text())
    assert {"command", "date", "machine", "versions", "seed"} <= result.keys()
    page = (tmp_path / "tables.md").read_text()
    assert page.startswith("# The paper's tables, next to ours\n")
    assert [line for line in page.splitlines() if line.startswith("## ")] == ["## Table 1", "## Table 3"]
    assert f"[table3.json](table3.json): `minixception reproduce table3`, {result['date']}, " in page
    assert page.count("| network | paper: top-1 | here: MACs | here: spread |\n| - | - | - | - |\n| A |") == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == ["table1.json", "table3.json", "tables.md"]


def test_table3_from_the_command_line(small, tmp_path, call):
    out = tmp_path / "table3.json"
    status, text, err = call("reproduce", "table3", "--steps", 2, "--batch-size", 2, "--out", out)
    assert status == 0, err
    assert text.startswith("Table 3: size and training speed\n")
    assert "2/2" in err
    result = json.loads(out.read_text())
    assert result["command"] == "minixception reproduce table3 --steps 2 --batch-size 2"
    low, high = result["measured"]["Xception"]["quartiles"]
    assert 0 < low <= result["measured"]["Xception"]["steps/s"] <= high
    assert (tmp_path / "tables.md").exists()


def test_every_table_has_help(call):
    for table in ("table1", "table2", "table3"):
        status, out, err = call("reproduce", table, "--help")
        assert (status, err) == (0, "")
        assert out.startswith(f"usage: minixception reproduce {table}")
        assert "--out FILE" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "required: TABLE"),
        (("table4",), "invalid choice: 'table4'"),
        (("table3", "--steps", "0"), "at least 1, got 0"),
        (("table3", "--data", "imagenet:x"), "unrecognized arguments: --data"),
        (("table1", "--data", "imagenet:x"), "needs both --data imagenet:DIR and --weights NAME=FILE"),
        (("table1", "--weights", "xception=x"), "needs both"),
        (("table1", "--data", "x", "--weights", "xception=x"), "needs both"),
        (("table1", "--data", "imagenet:", "--weights", "xception=x"), "needs both"),
        (("table1", "--data", "imagenet:x", "--weights", "xception"), "NAME=FILE once for each NAME"),
        (
            ("table1", "--data", "imagenet:x", "--weights", "alexnet=x"),
            "out of vgg16, resnet152, inception_v3, xception",
        ),
        (("table1", "--data", "imagenet:x", "--weights", "vgg16=x", "vgg16=y"), "once for each NAME"),
    ],
)
def test_wrong_usage(arguments, message, call):
    status, out, err = call("reproduce", *arguments)
    assert (status, out) == (2, "")
    assert err.startswith("usage: minixception")
    assert message in err
