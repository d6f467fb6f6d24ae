"""A finished run as a result file, with its curves."""

from __future__ import annotations

import json

from minixception import viz
from minixception.bench.records.__main__ import main
from minixception.data import shapes
from minixception.training import Recipe, Trainer

TINY = Recipe(epochs=1, batch_size=8, widths=(8,), middle_blocks=1, stem=4)


def test_a_finished_run_is_a_result_file_and_the_same_curves_each_time(tmp_path):
    records = Trainer(TINY, *(shapes(split, size=24, image_size=16) for split in ("train", "test")), tmp_path).run()
    curves = []
    for name in ("one.json", "two.json"):
        assert main(["training_run", str(tmp_path / name), "--run", str(tmp_path)]) == 0
        curves.append((tmp_path / name).with_suffix(".svg").read_text("utf-8"))
    result = json.loads((tmp_path / "one.json").read_text())
    assert result["epochs"] == records
    assert result["test_top1"] == records[-1]["test_top1"]
    assert curves == [viz.training_curves(records).svg()] * 2
