"""The measurements of the tape and of fresh processes, at tiny sizes."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numba
import numpy as np
import pytest

import minixception as mx
from minixception.bench import records
from minixception.bench.contestants import Workload
from minixception.bench.measurement import OURS
from minixception.bench.records import cluster, fusions, growth, process, tape
from minixception.bench.records.__main__ import RECORDS, main
from minixception.bench.records.process import Network
from minixception.bench.training import our_training, random_batch
from minixception.compiler.training.plan import TrainingPlan
from minixception.engine.op import Op, Rung
from minixception.errors import ArgumentError
from minixception.models import mini_xception
from tests.helpers import contestants as fakes
from tests.helpers import mpi
from tests.helpers.processes import HANG

TAPE = importlib.import_module("minixception.engine.tape")
TINY = Workload("tiny", lambda: mini_xception(10, (8,), 1, 8), 4, training=True)
TINY_PROCESS = Network("tiny", "mini_xception(10, (8,), 1, 8)", 2)


@pytest.fixture
def model():
    mx.seed(0)
    return TINY.model().train()


@pytest.fixture
def step(model, rng):
    x = mx.tensor(rng.standard_normal((4, 32, 32, 3), np.float32))
    labels = rng.integers(0, 10, 4)

    def step():
        model.zero_grad()
        step.loss = mx.cross_entropy(model(x), labels)
        step.loss.backward()

    return step


def gradients(model):
    return {name: parameter.grad.copy() for name, parameter in model.named_tensors() if parameter.grad is not None}


# The tape -------------------------------------------------------------------------------------------------------------


def test_a_replayed_step_has_the_recorded_loss_and_gradients(model, step):
    replay = tape.Replay(step, tape.record(step))
    loss, recorded = step.loss.item(), gradients(model)
    assert len(recorded) == len(list(model.parameters()))
    for parameter in model.parameters():
        parameter.data *= np.float32(1.5)  # kernels, if any ran, would give something else
    with replay.installed():
        replay()
    replayed = gradients(model)
    assert step.loss.item() == loss
    for name, gradient in recorded.items():
        np.testing.assert_array_equal(replayed[name], gradient, err_msg=name)
    step()
    assert step.loss.item() != loss


def test_outside_of_a_replay_kernels_run_as_usual(model, step):
    step()
    loss, before = step.loss.item(), gradients(model)
    replay = tape.Replay(step, tape.record(step))
    with replay.installed():
        replay()
        step()
    assert step.loss.item() == loss
    for name, gradient in gradients(model).items():
        np.testing.assert_array_equal(gradient, before[name], err_msg=name)


def test_everything_patched_is_put_back(step):
    rung, accumulate = Op.rung, TAPE.accumulate
    replay = tape.Replay(step, tape.record(step))
    assert Op.rung is rung
    with pytest.raises(ZeroDivisionError), replay.installed():
        assert Op.rung is not rung
        assert TAPE.accumulate is not accumulate
        _ = 1 / 0
    assert (Op.rung, TAPE.accumulate) == (rung, accumulate)


def test_additions_are_timed_on_their_own(step, monkeypatch):
    added = []
    monkeypatch.setattr(TAPE, "accumulate", lambda total, term: added.append(total.shape))
    monkeypatch.setattr(tape, "perf_counter", lambda: 3.0 * len(added))  # seconds: each addition takes three
    replay = tape.Replay(step, tape.record(step))
    forks = len(added)  # of one step
    with replay.installed():
        for _ in range(2):
            replay()
            assert replay.adding == 3.0 * forks > 0


def test_a_step_without_kernels_is_shorter(monkeypatch):
    """By a clock on which a kernel takes 8 s, an addition 2 s, and the choice of a kernel 1 s."""
    now, choose, add = [0.0], Op.rung, TAPE.accumulate

    def ticking(seconds, function):
        def run(*arguments, **options):
            now[0] += seconds
            return function(*arguments, **options)

        return run

    def rung(op, backend=None):
        chosen = choose(op, backend)
        return Rung(ticking(8, chosen.forward), ticking(8, chosen.backward), chosen.selective)

    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    monkeypatch.setattr(tape, "perf_counter", lambda: now[0])
    monkeypatch.setattr(Op, "rung", ticking(1, rung))
    monkeypatch.setattr(TAPE, "accumulate", ticking(2, add))
    row = tape.measure(TINY, 1)
    assert row.name == "tiny, batch 4"
    assert row.operators > 10
    assert row.adding in range(2, 2 * row.operators)
    assert row.python.median == row.operators + row.adding
    assert row.step.median == row.python.median + 2 * 8 * row.operators
    assert row.tape == (row.python.median - row.adding) / row.step.median
    data = row.to_json()
    assert 0 < data["tape_share"] < data["python_share"] < 1
    assert json.loads(json.dumps(data)) == data


def test_the_tape_is_measured_at_least_once():
    with pytest.raises(ArgumentError, match="repeats must be at least 1, got 0"):
        tape.measure(TINY, 0)


def test_the_command_prints_a_table_and_writes_the_result(monkeypatch, capsys, tmp_path):
    only_run = Workload("untrained", TINY.model, 4, training=False)
    monkeypatch.setattr(tape, "WORKLOADS", (only_run, TINY))
    assert main(["tape", str(tmp_path / "tape.json"), "--repeats", "1"]) == 0
    printed = capsys.readouterr().out
    assert "tape % of step" in printed
    assert "untrained" not in printed
    result = json.loads((tmp_path / "tape.json").read_text())
    assert result["command"] == "python -m minixception.bench.records tape tape.json --repeats 1"
    assert (result["repeats"], result["threads"]) == (1, numba.get_num_threads())
    assert [row["name"] for row in result["networks"]] == ["tiny, batch 4"]


# Fresh processes ------------------------------------------------------------------------------------------------------


def test_a_fresh_process_answers_in_json_and_gets_its_environment(monkeypatch):
    monkeypatch.setenv("MINIXCEPTION_TEST", "inherited")
    code = "import json, os; print(json.dumps([os.getpid(), os.environ['MINIXCEPTION_TEST'], os.environ['OTHER']]))"
    (pid, inherited, given), seconds = process.in_fresh_process(code, OTHER="given")
    assert pid != os.getpid()
    assert (inherited, given) == ("inherited", "given")
    assert seconds > 0


def test_the_time_runs_from_the_start_to_the_answer(monkeypatch, tmp_path):
    """The process sees whether the clock has been read before, and ends only when it has been read again."""
    code = f"""
import os, time
folder = {str(tmp_path)!r}
print(len(os.listdir(folder)), flush=True)
end = time.monotonic() + {HANG}
while len(os.listdir(folder)) < 2:
    assert time.monotonic() < end
    time.sleep(0.01)
"""

    def clock():
        reads = len(list(tmp_path.iterdir()))
        (tmp_path / str(reads)).touch()
        return float(reads)

    monkeypatch.setattr(process.time, "perf_counter", clock)
    assert process.in_fresh_process(code) == (1, 1.0)


def test_a_process_that_fails_is_an_error(capfd):
    with pytest.raises(subprocess.CalledProcessError):
        process.in_fresh_process("raise SystemExit('no result')")
    assert "no result" in capfd.readouterr().err


def test_the_first_result_of_a_tiny_network():
    code = process._FIRST_RESULT.format(network=TINY_PROCESS)
    logits, seconds = process.in_fresh_process(code)
    assert (logits, seconds > 0) == (2 * 10, True)


def test_cold_starts_leave_out_the_first_and_compiling_starts_from_an_empty_cache(monkeypatch):
    started = []

    def start(code, **environment):
        assert "mini_xception(10, (8,), 1, 8)" in code
        folder = environment.get("NUMBA_CACHE_DIR")
        started.append(os.listdir(folder) if folder else None)
        return 20, float(len(started))

    monkeypatch.setattr(process, "in_fresh_process", start)
    assert process.cold_starts(TINY_PROCESS, 2) == [2.0, 3.0]
    assert process.first_compile(TINY_PROCESS) == 4.0
    assert started == [None, None, None, []]


def test_peak_memory_of_training_in_a_fresh_process():
    memory = process.peak_memory(TINY_PROCESS, OURS)
    assert 20e6 < memory["before"] <= memory["peak"] < 50e9  # Python and NumPy take more than 20 MB


def test_train_takes_steps_and_sees_what_they_take(monkeypatch):
    hoard, threads = [], numba.get_num_threads()

    def build(model, x, labels, count, lr):
        assert (x.shape, len(labels), count) == ((3, 32, 32, 3), 3, threads)
        return lambda: hoard.append(None), lambda: []

    monkeypatch.setitem(process._TRAINERS, "someone", process.Peer((), build))
    monkeypatch.setattr(process, "peak_bytes", lambda: 1000 + len(hoard))
    assert process.train(TINY.model, 3, "someone") == {"before": 1000, "peak": 1000 + process._STEPS}


def test_ours_trains():
    rng = np.random.default_rng(0)
    x, labels = rng.standard_normal((4, 32, 32, 3), np.float32), np.array([1, 2, 3, 4])
    model = TINY.model()
    before = next(iter(model.parameters())).data.copy()
    step, grads = our_training(model, x, labels, numba.get_num_threads(), 0.1)
    step()
    assert len(grads()) == len(list(model.parameters()))
    assert not np.array_equal(next(iter(model.parameters())).data, before)


@pytest.mark.parametrize(("system", "expected"), [("Linux", 5 << 10), ("Darwin", 5)])
def test_peak_memory_is_in_bytes(monkeypatch, system, expected):
    class Resource:
        RUSAGE_SELF = 0

        @staticmethod
        def getrusage(who):
            assert who == Resource.RUSAGE_SELF
            return type("Usage", (), {"ru_maxrss": 5})

    monkeypatch.setitem(sys.modules, "resource", Resource)
    monkeypatch.setattr(process.platform, "system", lambda: system)
    assert process.peak_bytes() == expected


def test_without_the_module_resource_nothing_is_measured(monkeypatch, capsys, tmp_path):
    def start(code, **environment):
        raise AssertionError("a process was started")

    monkeypatch.setitem(sys.modules, "resource", None)  # import then raises ImportError
    monkeypatch.setattr(process.platform, "system", lambda: "Windows")
    monkeypatch.setattr(process, "in_fresh_process", start)
    with pytest.raises(SystemExit):
        main(["process", str(tmp_path / "process.json")])
    assert "module resource, which Windows does not have" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_process_command(monkeypatch, capsys, tmp_path):
    answers = {OURS: {"before": 1 << 20, "peak": 3 << 20}}
    nobody = process.Peer(("no_such_library",), print)
    monkeypatch.setattr(process, "_TRAINERS", {OURS: process._TRAINERS[OURS], "nobody": nobody})
    monkeypatch.setattr(process, "TRAINED", (TINY_PROCESS,))
    monkeypatch.setattr(process, "peak_memory", lambda network, who: answers[who])
    cold_starts = process.cold_starts
    monkeypatch.setattr(process, "cold_starts", lambda network, repeats: [3.0, 1.0, 2.0][:repeats])
    monkeypatch.setattr(process, "first_compile", lambda network: 40.0)
    assert main(["process", str(tmp_path / "process.json"), "--repeats", "3"]) == 0
    printed = capsys.readouterr().out
    assert "nobody is left out: no_such_library is not installed" in printed
    assert "tiny, batch 2" in printed
    result = json.loads((tmp_path / "process.json").read_text())
    first = result["first_result"]
    assert (first["cold_starts"], first["cold_start"], first["first_compile"]) == ([3.0, 1.0, 2.0], 2.0, 40.0)
    assert result["memory"] == [{"network": "tiny, batch 2", "by": OURS, "before": 1 << 20, "peak": 3 << 20}]
    monkeypatch.setattr(process, "cold_starts", cold_starts)
    with pytest.raises(SystemExit):
        main(["process", str(tmp_path / "process.json"), "--repeats", "0"])
    assert "repeats must be at least 1, got 0" in capsys.readouterr().err


# Growth ---------------------------------------------------------------------------------------------------------------


def test_each_job_varies_one_thing():
    """From one job of a series to the next, the arithmetic grows as what is varied says."""
    macs = {}
    for job in growth.JOBS:
        model = job.workload.model()
        assert job.workload.training
        total = job.workload.batch * mx.cost.table(model, model.input_shape).macs
        macs.setdefault((job.workload.name, job.varied), []).append((job.value, total))
    assert len(macs) == 5
    for (_, varied), series in macs.items():
        power = {"batch": 1, "image size": 2, "width": 2}[varied]
        (low, few), (high, many) = series[0], series[-1]
        assert many / few == pytest.approx(
            (high / low) ** power, rel={"batch": 0, "image size": 0.15, "width": 0.5}[varied]
        )


def test_the_growth_command(monkeypatch, capsys, tmp_path):
    jobs = tuple(growth.Job("batch", n, Workload("linear", fakes.linear, n, training=True)) for n in (1, 4))
    monkeypatch.setattr(growth, "JOBS", jobs)
    assert main(["growth", str(tmp_path / "growth.json"), "--repeats", "1"]) == 0
    assert "ps per MAC" in capsys.readouterr().out
    result = json.loads((tmp_path / "growth.json").read_text())
    assert result["command"] == "python -m minixception.bench.records growth growth.json --repeats 1"
    assert [(row["network"], row["varied"], row["value"], row["batch"]) for row in result["rows"]] == [
        ("linear", "batch", 1, 1), ("linear", "batch", 4, 4)
    ]  # fmt: skip
    for row in result["rows"]:
        assert row["macs"] == 3 * row["batch"] * 30
        assert row["picoseconds_per_mac"] == 1e12 * row["seconds"]["median"] / row["macs"]
    assert (tmp_path / "growth.svg").read_text().startswith("<?xml")


@pytest.mark.slow
def test_the_cluster_command(monkeypatch, capsys, tmp_path):
    mpi.program()
    monkeypatch.setattr(cluster, "_STEPS", ((1, 1, 2, ""), (2, 1, 2, "late")))
    monkeypatch.setattr(cluster, "_LARGE", cluster._SMALL // 2)
    assert main(["cluster", str(tmp_path / "cluster.json"), "--repeats", "1", "--steps", "1"]) == 0
    assert "late" in capsys.readouterr().out
    result = json.loads((tmp_path / "cluster.json").read_text())
    assert result["command"] == "python -m minixception.bench.records cluster cluster.json --repeats 1 --steps 1"
    assert [(row["processes"], len(row["seconds"])) for row in result["steps"]] == [(1, 1), (2, 1)]
    assert [row["bytes"] for row in result["means"]] == [cluster._SMALL, cluster._LARGE]
    assert result["link"]["bandwidth"] > 0 < result["link"]["latency"]
    assert result["epoch"] == []


# The entry point ------------------------------------------------------------------------------------------------------


def test_help_says_of_every_record_what_it_writes(capsys):
    with pytest.raises(SystemExit) as left:
        main(["--help"])
    assert left.value.code == 0
    said = "".join(capsys.readouterr().out.split())  # lines may be broken anywhere
    for name, record in RECORDS.items():
        first = record.__doc__.partition("\n")[0]
        assert first.endswith(".")
        assert f"{name}{first}".replace(" ", "") in said


def test_every_record_has_its_entry():
    folder = Path(records.__file__).parent
    assert set(RECORDS) == {path.stem for path in folder.glob("[a-z]*.py")}


def test_a_step_without_a_fusion_computes_the_same():
    mx.seed(0)
    model = TINY.model().train()
    x, labels = random_batch(model, 4)
    found = {}
    for one in fusions.WITHOUT:
        with one.replaced():
            TrainingPlan(model, x.shape, x.dtype)(x, mx.tensor(labels), mx.cross_entropy)
        found[one.name] = np.concatenate([p.grad.ravel() for p in model.parameters()])
    expected = found.pop("nothing: all fusions")
    for name, gradients in found.items():
        assert np.linalg.norm(gradients - expected) < 1e-3 * np.linalg.norm(expected), name


def test_the_fusions_command(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(fusions, "WORKLOADS", (TINY,))
    assert main(["fusions", str(tmp_path / "fusions.json"), "--repeats", "1"]) == 0
    table = capsys.readouterr().out
    result = json.loads((tmp_path / "fusions.json").read_text())
    moved = {row["without"]: row["elements"] for row in result["rows"]}
    for one in fusions.WITHOUT[1:]:
        assert one.name in table
        assert moved["nothing: all fusions"] <= moved[one.name] < moved["everything: layer by layer"]
