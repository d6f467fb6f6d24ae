"""Training curves: of one run, and of several that differ in their seed alone (median and range)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import ArgumentError

if TYPE_CHECKING:
    from .style import VectorFigure

Log = Sequence[Mapping[str, Any]]
_MEASURES = {  # what a record may hold: how it is called, and its factor
    "train_loss": ("training loss (nats)", 1),
    "test_loss": ("test loss (nats)", 1),
    "train_top1": ("training top-1 accuracy (%)", 100),
    "test_top1": ("test top-1 accuracy (%)", 100),
}
_LINES = ("-", "--", ":", "-.")


def training_curves(log_records: Sequence[Mapping[str, Any]]) -> VectorFigure:
    """Loss and top-1 accuracy over the epochs, on training and test data.

    log_records: one mapping per epoch with epoch, train_loss, train_top1, test_loss and test_top1; top-1 is a
    share from 0 to 1. Raises ArgumentError if there are none or one lacks a key.

    >>> record = {"epoch": 1, "train_loss": 1.2, "train_top1": 0.5, "test_loss": 1.3, "test_top1": 0.4}
    >>> len(training_curves([record]).axes)
    2
    """
    keys = ("epoch", "train_loss", "train_top1", "test_loss", "test_top1")
    if not log_records:
        raise ArgumentError("training_curves: expected the record of at least one epoch, got none")
    missing = [key for key in keys if any(key not in record for record in log_records)]
    if missing:
        raise ArgumentError(f"training_curves: every record needs {', '.join(keys)}; missing: {', '.join(missing)}")

    from .style import BLUE, VERMILION, canvas

    looks = {
        "train": {"color": BLUE, "linestyle": "--", "marker": "o"},
        "test": {"color": VERMILION, "marker": "s"},
    }
    epochs = [record["epoch"] for record in log_records]
    with canvas(9, 3.6, columns=2) as (figure, axes):
        for ax, measure, scale in zip(axes[0], ("loss", "top1"), (1, 100), strict=True):
            for split, look in looks.items():
                values = [scale * record[f"{split}_{measure}"] for record in log_records]
                ax.plot(epochs, values, label=split, markevery=-(-len(epochs) // 30), **look)
            ax.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
            ax.set_xlabel("epoch")
            ax.grid()
            ax.legend()
        last = log_records[-1]
        axes[0, 0].set_title(f"Test loss at the end: {last['test_loss']:.3f}")
        axes[0, 0].set_ylabel("cross-entropy (nats)")
        axes[0, 1].set_title(f"Test accuracy at the end: {last['test_top1']:.1%}")
        axes[0, 1].set_ylabel("top-1 accuracy (%)")
    return figure


def training_bands(
    runs: Mapping[str, Sequence[Log]], measures: Sequence[str] = ("test_loss", "test_top1")
) -> VectorFigure:
    """Median and range, from the lowest to the highest, over the seeds, epoch by epoch; a panel for each measure.

    runs: by what was trained, the log of each seed, as ``training_curves`` takes one: a record for each epoch.
    measures: train_loss, test_loss, train_top1, test_top1. Raises ArgumentError without logs, for unknown measures, and
    where the logs of one entry are not of the same epochs or lack a measure.

    >>> logs = [[{"epoch": 1, "test_top1": top1}, {"epoch": 2, "test_top1": 0.8}] for top1 in (0.5, 0.6, 0.7)]
    >>> training_bands({"residual": logs}, ["test_top1"]).axes[0].lines[0].get_ydata().tolist()
    [60.0, 80.0]
    """
    unknown = [measure for measure in measures if measure not in _MEASURES]
    if unknown or not measures:
        raise ArgumentError(f"training_bands: measures must be some of {', '.join(_MEASURES)}, got {list(measures)}")
    if not runs or not all(logs and all(logs) for logs in runs.values()):
        raise ArgumentError("training_bands: expected at least one log of at least one epoch for each name")
    for name, logs in runs.items():
        if len({tuple(record.get("epoch") for record in log) for log in logs}) > 1:
            raise ArgumentError(f"training_bands: the logs of {name!r} must be of the same epochs")
        missing = {key for key in ("epoch", *measures) for log in logs for record in log if key not in record}
        if missing:
            raise ArgumentError(f"training_bands: the logs of {name!r} lack {', '.join(sorted(missing))}")

    from .style import BLUE, GREEN, ORANGE, VERMILION, canvas

    colours = (BLUE, VERMILION, GREEN, ORANGE)
    with canvas(5.2 * len(measures), 4.6, columns=len(measures)) as (figure, axes):
        for ax, measure in zip(axes[0], measures, strict=True):
            label, factor = _MEASURES[measure]
            for number, (name, logs) in enumerate(runs.items()):
                values = factor * np.array([[record[measure] for record in log] for log in logs])  # (seeds, epochs)
                epochs = [record["epoch"] for record in logs[0]]
                look = {"color": colours[number % 4], "linestyle": _LINES[(number + number // 4) % 4]}
                seeds = f", {len(logs)} seeds" if len(logs) > 1 else ""
                ax.plot(epochs, np.median(values, axis=0), label=f"{name}{seeds}", **look)
                ax.fill_between(epochs, values.min(axis=0), values.max(axis=0), color=look["color"], alpha=0.2, lw=0)
            ax.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
            ax.set(xlabel="epoch", ylabel=label)
            ax.grid()
        figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=len(measures))
        axes[0, 0].set_title("Median and range over the seeds")
    return figure
