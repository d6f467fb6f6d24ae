"""Experiments at tiny size: designs that cost the same, runs in pieces, verdicts; a kill anywhere changes no result."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

import minixception as mx
from minixception.errors import ArgumentError
from minixception.experiments import classify, runs
from minixception.experiments.__main__ import main
from minixception.experiments.designs import Design, cost
from minixception.experiments.table import BASE, CLASSIFY, EXPERIMENTS, Experiment
from minixception.experiments.verdict import paired
from minixception.experiments.widths import NEAR, solve
from minixception.training import Trainer

TINY = Design(epochs=1, batch_size=8, widths=(8,), middle_blocks=1, stem=4)


# Widths -------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_solved_widths_meet_the_target_and_keep_their_proportions():
    found = solve(replace(BASE, form="segments", segments=4), cost(BASE).parameters, lambda one: cost(one).parameters)
    assert abs(cost(found).parameters - cost(BASE).parameters) <= NEAR * cost(BASE).parameters
    assert all(width % 4 == 0 for width in found.widths)
    assert all(1.5 <= b / a <= 2.5 for a, b in zip(found.widths, found.widths[1:], strict=False))


def test_a_target_that_no_widths_meet_is_an_error():
    with pytest.raises(ArgumentError, match="no widths like"):
        solve(TINY, 10**9, lambda d: cost(d).parameters)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_what_is_said_to_cost_the_same_does(name):
    experiment = EXPERIMENTS[name]
    assert {label for pair in experiment.pairs for label in pair} <= experiment.designs.keys()
    costs = {label: cost(design, experiment.task.outputs) for label, design in experiment.designs.items()}
    (_, base), *others = costs.items()
    for label, one in others:
        if label.endswith("equal MACs"):
            assert abs(one.macs - base.macs) <= NEAR * base.macs, label
        elif name in ("forms", "full_size", "equal_parameters", "depth") or (
            name == "many_labels" and "," not in label
        ):
            assert abs(one.parameters - base.parameters) <= NEAR * base.parameters, label
    if name == "equal_width":
        assert len({design.widths for design in experiment.designs.values()}) == 1


def test_experiments_that_share_a_design_share_its_runs():
    assert EXPERIMENTS["between"].designs["nothing"] == EXPERIMENTS["shortcuts"].designs["residual"]
    assert EXPERIMENTS["equal_width"].designs["32 segments"] == EXPERIMENTS["equal_parameters"].designs["32 segments"]


# Runs ---------------------------------------------------------------------------------------------------------------


def plant(monkeypatch, train=classify.train, name="forms", **designs):
    experiment = Experiment("a claim", designs, (("one", "other"),), 2, CLASSIFY._replace(train=train))
    monkeypatch.setitem(runs.EXPERIMENTS, name, experiment)


@pytest.fixture
def tiny(monkeypatch):
    """One experiment of two designs, trained here and not in other processes, with pictures of its own."""
    plant(monkeypatch, one=TINY, other=replace(TINY, form="regular"))
    monkeypatch.setattr(classify, "load", lambda spec, split: mx.data.shapes(split, size=24, image_size=16))
    classify._pictures.cache_clear()

    class Here:
        """An executor that computes at once."""

        def __init__(self, *_, **__):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def submit(self, function, *arguments):
            future = runs.Future()
            future.set_result(function(*arguments))
            return future

    monkeypatch.setattr(runs, "ProcessPoolExecutor", Here)
    yield
    classify._pictures.cache_clear()


def test_everything_is_in_the_file(tiny, tmp_path, capsys):
    out = tmp_path / "forms.json"
    assert main(["forms", str(out), "--jobs", "1"]) == 0
    result = json.loads(out.read_text())
    assert result["command"] == "python -m minixception.experiments forms forms.json --data shapes"
    assert {"machine", "versions", "date", "hours", "claim"} <= result.keys()
    assert {label: list(logs) for label, logs in result["runs"].items()} == {"one": ["0", "1"], "other": ["0", "1"]}
    assert result["designs"]["one"]["parameters"] == cost(TINY).parameters
    verdict = result["verdicts"]["one - other"]
    accuracies = [[result["runs"][name][seed][-1]["test_top1"] for seed in "01"] for name in ("one", "other")]
    assert verdict["mean"] == pytest.approx(100 * np.subtract(*accuracies).mean())
    assert not (tmp_path / "forms.unfinished").exists()
    assert "other, seed 1: test top-1" in capsys.readouterr().out


def test_a_second_call_goes_on_where_the_first_was_stopped(tiny, tmp_path, monkeypatch, capsys):
    whole, out = tmp_path / "whole.json", tmp_path / "forms.json"
    main(["forms", str(whole), "--jobs", "1"])
    begun = []

    def counted(design, data, folder):
        begun.append((design.form, design.seed))
        if len(begun) == 2:
            raise KeyboardInterrupt
        return classify.train(design, data, folder)

    plant(monkeypatch, counted, one=TINY, other=replace(TINY, form="regular"))
    with pytest.raises(KeyboardInterrupt):
        main(["forms", str(out), "--jobs", "1"])
    assert json.loads(out.read_text())["runs"].keys() == {"one"}
    assert main(["forms", str(out), "--jobs", "1"]) == 0
    assert len(begun) == 2 + 3  # and not the run that was finished

    def without_times(path):
        logs = json.loads(path.read_text())["runs"]
        return {
            (label, seed): [{key: value for key, value in record.items() if key != "seconds"} for record in log]
            for label, of_seeds in logs.items()
            for seed, log in of_seeds.items()
        }

    assert without_times(out) == without_times(whole)


def test_seeds_differ_and_averaging_does_not_change_the_training(tiny, tmp_path):
    variants = TINY, replace(TINY, seed=1), replace(TINY, ema_decay=0.0)
    one, other, plain = (classify.train(design, "shapes", tmp_path / str(n))[-1] for n, design in enumerate(variants))
    assert one["train_loss"] == plain["train_loss"] != other["train_loss"]
    assert one["test_loss"] != plain["test_loss"]


def test_a_run_that_is_stopped_within_goes_on_from_its_checkpoint(tiny, tmp_path, monkeypatch):
    design, folder = replace(TINY, epochs=2, between="elu"), tmp_path / "run"
    whole = classify.train(design, "shapes", tmp_path / "whole")
    evaluate, calls = Trainer._evaluate, []

    def stopped(trainer, title):
        calls.append(title)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return evaluate(trainer, title)

    monkeypatch.setattr(Trainer, "_evaluate", stopped)
    with pytest.raises(KeyboardInterrupt):
        classify.train(design, "shapes", folder)
    resumed = classify.train(design, "shapes", folder)
    assert len(calls) == 3  # the first epoch was not trained again
    assert [record["test_loss"] for record in resumed] == [record["test_loss"] for record in whole]


def test_a_caller_that_is_killed_leaves_nobody_who_trains():
    """The processes hold the caller's output open as long as they live."""
    code = (
        "import time; from multiprocessing import get_context; from concurrent.futures import ProcessPoolExecutor\n"
        "from minixception.experiments.runs import _begin\n"
        "pool = ProcessPoolExecutor(1, get_context('spawn'), initializer=_begin)\n"
        "pool.submit(abs, 1).result(); pool.submit(time.sleep, 3600); print('begun', flush=True)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as caller:
        assert caller.stdout.readline() == b"begun\n"
        caller.kill()
        caller.communicate(timeout=100)


def test_a_design_of_another_experiment_is_not_trained_again(tiny, tmp_path, monkeypatch):
    main(["forms", str(tmp_path / "forms.json"), "--jobs", "1"])
    begun = []

    def counted(design, data, folder):
        begun.append((design.between, design.seed))
        return classify.train(design, data, folder)

    plant(monkeypatch, counted, "between", one=TINY, other=replace(TINY, between="relu"))
    main(["between", str(tmp_path / "between.json"), "--jobs", "1"])
    assert begun == [("relu", 0), ("relu", 1)]
    one, other = (json.loads((tmp_path / f"{name}.json").read_text())["runs"]["one"] for name in ("forms", "between"))
    assert one == other


def test_a_design_may_be_added_later(tiny, tmp_path, monkeypatch):
    out = tmp_path / "forms.json"
    main(["forms", str(out), "--jobs", "1"])
    before = json.loads(out.read_text())["runs"]
    plant(monkeypatch, one=TINY, other=replace(TINY, form="regular"), third=replace(TINY, stem=5))
    main(["forms", str(out), "--jobs", "1"])
    after = json.loads(out.read_text())["runs"]
    assert {label: after[label] for label in before} == before
    assert after["third"].keys() == {"0", "1"}


def test_no_local_folder_is_named(tiny, tmp_path):
    out = tmp_path / "forms.json"
    main(["forms", str(out), "--jobs", "1", "--data", "cifar10:/some/where"])
    assert "/some/where" not in out.read_text()
    assert json.loads(out.read_text())["designs"]["one"]["recipe"]["data"] == "cifar10"


def test_no_epochs_are_refused(tiny, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["forms", str(tmp_path / "forms.json"), "--epochs", "0"])
    assert "epochs must be at least 1, got 0" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_no_run_begins_when_the_time_is_over(tiny, tmp_path, capsys):
    assert main(["forms", str(tmp_path / "forms.json"), "--minutes", "0"]) == 3
    assert "there are runs left" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_a_file_of_other_designs_is_refused(tiny, tmp_path, capsys):
    out = tmp_path / "forms.json"
    main(["forms", str(out), "--jobs", "1"])
    before = out.read_bytes()
    with pytest.raises(SystemExit):
        main(["forms", str(out), "--epochs", "2"])
    assert "was made with other designs, data or epochs" in capsys.readouterr().err
    assert out.read_bytes() == before


# Verdicts -----------------------------------------------------------------------------------------------------------


def test_the_interval_is_students():
    difference = paired([0.5, 0.6, 0.7], [0.4, 0.4, 0.4])  # differences of 10, 20 and 30 points, s = 10
    assert difference.mean == pytest.approx(20)
    assert difference.high - difference.mean == pytest.approx(4.303 * 10 / np.sqrt(3))
    assert not difference.separated  # -4.8 to 44.8
    assert paired([0.5, 0.6], [0.4, 0.5]).separated  # the same in both
    assert str(paired([0.4, 0.5], [0.5, 0.6])).startswith("-10.00 points")


@pytest.mark.parametrize(("one", "other"), [([0.5], [0.4]), ([0.5, 0.6], [0.5]), ([0.5] * 11, [0.4] * 11)])
def test_a_verdict_needs_pairs(one, other):
    with pytest.raises(ArgumentError, match="expected 2 to 10 accuracies of each"):
        paired(one, other)
