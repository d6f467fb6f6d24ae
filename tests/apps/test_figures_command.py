"""The command that writes the figures: what it writes, what it leaves out, and what it says of a corrupt result."""

from __future__ import annotations

import json

import pytest

from minixception.apps import gallery
from minixception.errors import DataError


@pytest.fixture
def two(monkeypatch):
    """A gallery of two figures: one from the package, one from a result."""
    chosen = [entry for entry in gallery.entries() if entry.name in ("padding", "ladder")]
    monkeypatch.setattr(gallery, "entries", lambda: chosen)


def test_the_command_writes_each_figure_and_says_what_it_left_out(two, tmp_path, call):
    folder = tmp_path / "new" / "figures"
    status, out, err = call("figures", folder, "--results", tmp_path, "--json")
    report = json.loads(out)
    assert status == 0
    assert [row["figure"] for row in report["written"]] == ["padding"]
    assert report["left_out"] == [
        {"figure": "ladder", "why": "it needs ladder.json, which is not in the folder of results"}
    ]
    assert "left out ladder: it needs ladder.json" in err
    assert [path.name for path in folder.iterdir()] == ["padding.svg"]
    first = (folder / "padding.svg").read_bytes()
    status, out, _ = call("figures", folder, "--results", gallery.RESULTS)
    assert status == 0
    assert "every rung of the ladder" in out
    assert sorted(path.name for path in folder.iterdir()) == ["ladder.svg", "padding.svg"]
    assert (folder / "padding.svg").read_bytes() == first


@pytest.mark.parametrize("content", ["{", "[]", '{"limits": {}, "rows": []}', '{"limits": 1, "rows": 2}'])
def test_a_corrupt_result_is_an_error_with_its_name(content, two, tmp_path, call):
    (tmp_path / "ladder.json").write_text(content)
    status, _, err = call("figures", tmp_path / "out", "--results", tmp_path)
    assert status == 2
    assert "ladder.json is not" in err
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["padding.svg"]
    with pytest.raises(DataError):
        list(gallery.draw_all(tmp_path))


def test_a_picture_is_drawn_from_its_result_or_says_what_is_missing(two, tmp_path):
    padding, ladder = gallery.entries()
    assert padding.picture(tmp_path).axes and ladder.picture().axes
    with pytest.raises(DataError, match=r"ladder\.json is not a JSON file that can be read: .* No such file"):
        ladder.picture(tmp_path)
