"""The code of docs/weights.md, run as it is printed, on a file of Keras' layout at the least size."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import minixception as mx

PAGE = Path(__file__).parents[2] / "docs" / "weights.md"


@pytest.mark.slow
def test_the_code_of_the_page_runs(tmp_path, monkeypatch, capsys):
    text = PAGE.read_text("utf-8")
    assert "size = 150\n" in text
    code = "\n".join(re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE))
    monkeypatch.chdir(tmp_path)
    flowers = mx.models.Xception(num_classes=3, fc_units=(16,), input_shape=(71, 71, 3))
    flowers.save_weights("flowers.weights.h5")
    exec(compile(code.replace("size = 150\n", "size = 71\n"), PAGE.name, "exec"), {})
    assert capsys.readouterr().out.splitlines() == [
        "234 loaded, left: /layers/dense/vars/0 /layers/dense/vars/1 /layers/dense_1/vars/0 /layers/dense_1/vars/1",
        "{'/layers/dense/vars/0': (2048, 16), '/layers/dense/vars/1': (16,), "
        "'/layers/dense_1/vars/0': (16, 3), '/layers/dense_1/vars/1': (3,)}",
        "as they were: predictions.weight predictions.bias",
    ]
    again = mx.models.Xception(num_classes=3, fc_units=(16,), input_shape=(71, 71, 3))
    for name in ("nested", "flat"):
        again.load_weights(f"{name}.weights.h5")
        for tensor, array in flowers.state_dict().items():
            assert (again.state_dict()[tensor] == array).all(), tensor
