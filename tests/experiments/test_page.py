"""The page of all experiments: what stands in the files stands on it, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from minixception.bench.results import results_folder
from minixception.experiments import page as module
from minixception.experiments.table import EXPERIMENTS


def result(name, scores, trained=2):
    """A result file of an experiment, ``trained`` of whose designs have been trained with the given last scores."""
    experiment = EXPERIMENTS[name]
    record = {"train_loss": 1.0, "test_top1": 0.5, "test_map": 0.5, "seconds": 60}
    log = [[{**record, "epoch": 1}, {**record, "epoch": 2, experiment.task.score: score}] for score in scores]
    return {
        "seeds": list(range(experiment.seeds)),
        "hours": 0.25,
        "designs": {label: {"parameters": 1000, "macs": 2_000_000} for label in experiment.designs},
        "runs": {label: dict(zip("012", log, strict=False)) for label in list(experiment.designs)[:trained]},
        "verdicts": {"one - other": {"mean": 1.5, "low": -0.5, "high": 3.5, "pairs": 3, "separated": False}},
    }


@pytest.fixture
def folder(tmp_path):
    for name in ("forms", "shortcuts", "many_labels", "depth", "equal_width", "equal_parameters"):
        (tmp_path / f"{name}.json").write_text(json.dumps(result(name, (0.8, 0.82, 0.81))))
    return tmp_path


def test_everything_is_on_the_page(folder):
    assert module.main([str(folder / "experiments.md")]) == 0
    text = (folder / "experiments.md").read_text()
    assert "| separable | 1000 | 2.00 | 2 | 2.0 | 3 | 81.00 (80.00 to 82.00) |" in text
    assert f"| {EXPERIMENTS['forms'].claim} | one - other | +1.50 | -0.50 to +3.50 | 3 | no |" in text
    assert "not trained yet" in text
    assert "Not begun: full_size, between, recipe, drawn." in text
    assert "6 of 21 runs, 0.2 hours." in text  # two of seven forms, three seeds each
    for name in ("forms", "shortcuts", "many_labels", "depth", "equal_parameters"):
        picture = f"worth_{name.replace('equal_parameters', 'spectrum')}.svg"
        assert f"({picture})" in text
        assert (folder / picture).read_text().startswith("<?xml")
    assert not (folder / "worth_between.svg").exists()


def test_the_committed_page_is_that_of_the_committed_files():
    folder = results_folder()
    assert (folder / "experiments.md").read_text("utf-8") == module.page(folder)
    drawn = {f"{name}.svg" for name, _ in module.figures(folder)}
    assert {path.name for path in Path(folder).glob("worth_*.svg")} == drawn
