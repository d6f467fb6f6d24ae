"""What writes the files under docs/results: one module a file, all started by ``python -m minixception.bench.records``.

Each module has ``add_options``, which describes its options, and ``run``, which measures and writes ``options.out``;
the first line of its docstring is what ``--help`` says of it.
"""

from __future__ import annotations

from pathlib import Path


def command(record: str, out: Path, **options: object) -> str:
    """The command by which a result file says how it was made; no folder of this machine is in it.

    >>> command("tape", Path("docs/results/tape.json"), repeats=15)
    'python -m minixception.bench.records tape tape.json --repeats 15'
    """
    words = [f"--{name} {value}" for name, value in options.items()]
    return " ".join(["python -m minixception.bench.records", record, out.name, *words])
