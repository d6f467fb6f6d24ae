"""minixception figures: the figures of the course as SVG files."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ...tables import Table
from .common import Add, add_json, show


def register(add: Add) -> None:
    """The command and its options."""
    parser = add("figures", run, "write the figures of the course as SVG files")
    parser.add_argument("folder", type=Path, metavar="DIR", help="where to write; made if it is not there")
    parser.add_argument(
        "--results",
        type=Path,
        metavar="FOLDER",
        help="result files that measured figures are drawn from; default: those of the package",
    )
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Draw and write one figure after the other; tell which were left out, and why."""
    from tqdm import tqdm

    from .. import gallery

    options.folder.mkdir(parents=True, exist_ok=True)
    written, left_out = [], []
    with tqdm(total=len(gallery.entries()), unit=" figures", leave=False, disable=None) as bar:
        for entry, drawn in gallery.draw_all(options.results or gallery.RESULTS):
            if isinstance(drawn, str):
                left_out.append({"figure": entry.name, "why": drawn})
            else:
                path = options.folder / f"{entry.name}.svg"
                drawn.save(path)
                written.append({"figure": entry.name, "file": str(path), "shows": entry.shows})
            bar.update()
    show(options, {"written": written, "left_out": left_out}, _text(written))
    for row in left_out:
        print(f"left out {row['figure']}: {row['why']}", file=sys.stderr)
    return 0


def _text(written: list[dict[str, str]]) -> Table:
    return Table(("file", "shows"), [(row["file"], row["shows"]) for row in written])
