"""A page for each command of minixception: what its --help says, and an example as it ran.

The examples ran one after the other in one folder; what they printed is kept in docs/commands.json, as notebooks keep
their outputs, for some take a minute. To run them again: python docs/extensions/commands.py
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from minixception.apps.cli import parser

if TYPE_CHECKING:
    from sphinx.application import Sphinx

DOCS = Path(__file__).parents[1]
RECORD = DOCS / "commands.json"
WIDTH = 100  # columns
EXAMPLES = (
    "course my-course",
    "train --recipe demo --epochs 2 --out runs/first",
    "evaluate runs/first",
    "predict runs/first photo.png",
    "serve runs/first",
    "demo --out runs/demo",
    "summary mini_xception",
    "cost mini_xception",
    "gradcheck separable_conv2d",
    "reproduce table1",
    "figures my-figures",
    "bench --what kernels --threads 1 --repeats 1 --no-peers",
    "plan --model mini_xception --images 32 --threads 1 --processes 1..64",
    "warmup",
    "doctor",
)


def setup(app: Sphinx) -> dict[str, bool]:
    """Write the pages when the build begins."""
    app.connect("builder-inited", lambda app: _prepare(DOCS / "commands"))
    return {"parallel_read_safe": True, "parallel_write_safe": True}


# Pages ----------------------------------------------------------------------------------------------------------------


def commands() -> dict[str, argparse.ArgumentParser]:
    """The parser of each command, in the order of the help."""
    root = parser()
    (found,) = (action for action in root._actions if isinstance(action, argparse._SubParsersAction))
    return dict(found.choices)


def page(name: str, options: argparse.ArgumentParser, example: dict[str, str]) -> str:
    """What --help says, and the example, as Markdown."""
    options.formatter_class = partial(argparse.HelpFormatter, width=WIDTH)
    options.color = False  # Python 3.14 colours it where the build has a terminal
    said = f"$ minixception {example['command']}\n{example['printed']}"
    return f"# {name}\n\n```text\n{options.format_help()}```\n\n## An example\n\n```console\n{said}```\n"


def overview() -> str:
    """The table of the commands as Markdown."""
    rows = (f"| [{name}](commands/{name}.md) | {options.description} |" for name, options in commands().items())
    return "\n".join(["| command | does |", "|-|-|", *rows, ""])


def _prepare(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    (folder / "overview.txt").write_text(overview(), "utf-8")
    examples = {example["command"].split()[0]: example for example in json.loads(RECORD.read_text("utf-8"))["examples"]}
    for name, options in commands().items():
        (folder / f"{name}.md").write_text(page(name, options, examples[name]), "utf-8")


# Running the examples -------------------------------------------------------------------------------------------------


def main() -> None:
    """Run the examples and keep what they print."""
    from PIL import Image

    from minixception.bench.results import write_result
    from minixception.data import load

    with tempfile.TemporaryDirectory() as folder:
        Image.fromarray(load("shapes", "test").images[0]).save(Path(folder) / "photo.png")
        examples = [{"command": command, "printed": printed(command, folder)} for command in EXAMPLES]
    write_result(RECORD, "python docs/extensions/commands.py", {"examples": examples})


def printed(command: str, folder: str) -> str:
    """What a command prints when it is run in the folder; a server is stopped by Ctrl-C after some seconds."""
    process = subprocess.Popen(
        [sys.executable, "-m", "minixception", *shlex.split(command)],
        cwd=folder,
        env=os.environ | {"COLUMNS": str(WIDTH), "PYTHONPATH": str(DOCS.parent)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if command.startswith("serve"):
        time.sleep(20)
        process.send_signal(signal.SIGINT)
    text, _ = process.communicate()
    assert process.returncode in (0, 130), f"{command}: {text}"
    return text.replace(str(DOCS.parent), "~/minixception")


if __name__ == "__main__":
    main()
