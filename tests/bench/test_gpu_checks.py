"""What is run by hand on a GPU, as far as it goes without one: the page, sanitizers, `make gpu`, skipped tests."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from test_bench_cuda import report

from minixception.analysis.counts import races
from minixception.analysis.recorder import Recorder
from minixception.bench.records import gpu_page as page
from minixception.bench.records.__main__ import main
from minixception.engine.op import Rung
from minixception.errors import KernelError
from minixception.gpu import kernel as gpu
from minixception.gpu.device import to_cpu, to_gpu
from minixception.gpu.kernel import redirected
from minixception.ops import OPERATORS
from tests.by_hand import check_gpu, check_sanitizer, gpu_steps, tile_128
from tests.by_hand.check_sanitizer import Verdict, check, read
from tests.by_hand.gpu_steps import Rows
from tests.helpers.processes import python

# The page -------------------------------------------------------------------------------------------------------------

RESULTS = Path(page.__file__).parents[3] / "docs" / "results"
MADE_BY = {"command": "a command", "date": "2026-01-02", "machine": {"processor": "A CPU", "system": "Linux"}}


def test_the_page_is_what_its_command_writes():
    assert (RESULTS / "gpu.md").read_text(encoding="utf-8") == page.page(RESULTS)


def test_the_page_says_what_has_not_been_run(tmp_path):
    assert main(["gpu_page", str(tmp_path / "gpu.md")]) == 0
    text = (tmp_path / "gpu.md").read_text(encoding="utf-8")
    nothing = "Nothing has run on a GPU yet", "| first | every rung", "| not run |"
    for words in (*nothing, "Not run yet: it needs", "Not counted yet", "Not measured yet", "No time and no bandwidth"):
        assert words in text


def test_the_page_shows_what_was_measured(tmp_path):
    (tmp_path / "bench_cuda.json").write_text(json.dumps(MADE_BY | report().to_json()), encoding="utf-8")
    one = {"check": "memcheck", "verdict": "clean", "errors": 0, "warnings": 0, "cases": 99, "planted": "found"}
    result = MADE_BY | {"device": "A GPU", "checks": [one]}
    (tmp_path / "sanitizer.json").write_text(json.dumps(result), encoding="utf-8")
    rows = Rows(tmp_path / "gpu_first.jsonl")
    rows.add("environment", {"device": "A GPU"})
    rows.add("relu, cuda", {"seconds": 1.0})
    rows.add("relu, cuda_naive", {"error": "further than 0.0001 from the definition"})
    text = page.page(tmp_path)
    for words in ("Nothing has run", "Not run yet", "No time and no bandwidth"):
        assert words not in text
    assert re.search(r"^\| first \| every rung .* \| A GPU \| 1 \|$", text, re.MULTILINE)
    assert re.search(r"^\| tests \| .* \| not run \|  \|$", text, re.MULTILINE)
    for line in (
        "On A GPU.",
        "| multiply-add, TFLOP/s | 0.5 | 0.5 |",
        "| depthwise 3x3, 32x19x19x728 | forward | 1 | cuda_naive | 4.00 ms (4.00 to 4.00) | 4.00 | 25000% |  |",
        "| depthwise 3x3, 32x19x19x728, forward | speed of PyTorch's eager float32 | 1.00 | 2.00 | met |",
        "| memcheck | clean | 0 | 0 | 99 | found |",
        "[bench_cuda.json](bench_cuda.json): `a command`, 2026-01-02, A CPU, Linux.",
    ):
        assert line in text


# Sanitizers: what the tools print, as NVIDIA documents it -------------------------------------------------------------

MEMCHECK = """========= COMPUTE-SANITIZER
========= Invalid __global__ write of size 4 bytes
=========     at past_the_end+0x160
=========     by thread (0,0,0) in block (1,0,0)
=========     Address 0x7f6ba2c00200 is out of bounds
=========     and is 1 bytes after the nearest allocation at 0x7f6ba2c00000 of size 512 bytes
=========
========= ERROR SUMMARY: 1 error
"""
RACECHECK = """========= COMPUTE-SANITIZER
========= Error: Race reported between Write access at without_a_barrier+0x90
=========     and Read access at without_a_barrier+0x100 [127 hazards]
=========
========= RACECHECK SUMMARY: 1 hazard displayed (1 error, 0 warnings)
"""
CLEAN = "========= COMPUTE-SANITIZER\ncases run: 240\n========= ERROR SUMMARY: 0 errors\n"
NO_RACES = "cases run: 240\n========= RACECHECK SUMMARY: 0 hazards displayed (0 errors, 0 warnings)\n"
DEAD = (
    "========= COMPUTE-SANITIZER\n========= Error: Target application terminated before first instrumented API call\n"
)


@pytest.mark.parametrize(
    ("tool", "text", "status", "expected"),
    [
        ("memcheck", MEMCHECK, 99, ("found", 1, 0)),
        ("memcheck", MEMCHECK.replace("1 error\n", "12 errors\n"), 99, ("found", 12, 0)),
        ("memcheck", CLEAN, 0, ("clean", 0, 0)),
        ("initcheck", CLEAN, 1, ("exit status 1", 0, 0)),  # the program under test failed by itself
        ("synccheck", CLEAN + CLEAN, 0, ("2 summaries", 0, 0)),
        ("memcheck", DEAD, 1, ("0 summaries", 0, 0)),
        ("memcheck", "", 0, ("0 summaries", 0, 0)),
        ("racecheck", RACECHECK, 99, ("found", 1, 0)),
        ("racecheck", RACECHECK.replace("(1 error, 0 warnings)", "(0 errors, 1 warning)"), 0, ("found", 0, 1)),
        ("racecheck", NO_RACES, 0, ("clean", 0, 0)),
        ("racecheck", NO_RACES, -11, ("exit status -11", 0, 0)),
        ("racecheck", CLEAN, 0, ("0 summaries", 0, 0)),  # another tool's
    ],
)
def test_only_a_whole_run_with_a_summary_of_zero_is_clean(tool, text, status, expected):
    assert read(tool, text, status) == expected


def _started(cases, planted):
    """Plays the sanitizer: what it prints and returns for the cases and for the planted mistake."""
    return lambda command: planted if "--planted" in command else cases


@pytest.mark.parametrize(
    ("cases", "planted", "verdict", "seen", "is_clean"),
    [
        ((CLEAN, 0), (MEMCHECK, 99), "clean", "found", True),
        ((CLEAN, 0), (CLEAN, 0), "clean", "clean", False),  # a tool that sees nothing
        ((CLEAN.replace("cases run: 240\n", ""), 0), (MEMCHECK, 99), "no case ran", "found", False),
        ((MEMCHECK, 99), (MEMCHECK, 99), "found", "found", False),
        ((DEAD, 1), (DEAD, 1), "0 summaries", "0 summaries", False),
    ],
)
def test_a_tool_must_see_its_planted_mistake(cases, planted, verdict, seen, is_clean):
    found = check("compute-sanitizer", "memcheck", _started(cases, planted))
    assert (found.verdict, found.planted, found.is_clean) == (verdict, seen, is_clean)
    assert found.cases == (240 if cases[0] == CLEAN else 0)
    assert bool(found.output) == (verdict != "clean")


def test_the_command_names_tool_and_exit_status():
    commands = []
    check("/cuda/bin/compute-sanitizer", "racecheck", lambda command: commands.append(command) or (NO_RACES, 0))
    assert [command[:3] for command in commands] == [["/cuda/bin/compute-sanitizer", "--tool", "racecheck"]] * 2
    assert [command[-1] for command in commands] == ["racecheck", "racecheck"]
    assert all(command[3:5] == ["--error-exitcode", str(check_sanitizer.FOUND)] for command in commands)


def test_every_operator_has_a_case_and_those_with_a_ladder_a_larger_one():
    for name, op in OPERATORS.items():
        for case in check_sanitizer.cases(name):
            op.shape(*[array.shape for array in case.arrays], **case.params)
    ladders = {name for name, op in OPERATORS.items() if "cuda_naive" in op.rungs}
    assert {"depthwise_conv2d", "pointwise_conv2d", "batch_norm"} == set(check_sanitizer.LARGER) <= ladders


def test_the_cases_run_in_both_directions(monkeypatch):
    monkeypatch.setattr(check_sanitizer, "OPERATORS", {"relu": OPERATORS["relu"]})
    monkeypatch.setattr(gpu, "pool", check_sanitizer.ExactMemory)
    assert check_sanitizer.run_cases("memcheck") == 2


def test_planted_mistakes_are_mistakes():
    """As our own recorder sees them. It does not mind threads that end before a barrier, or memory never written to."""

    def run(tool):
        recorder = Recorder(None)
        with redirected(recorder):
            check_sanitizer.run_planted(tool)
        return list(races(recorder.launches[0]))

    with pytest.raises(KernelError, match="past_the_end"):
        run("memcheck")
    assert any("with no barrier between" in race for race in run("racecheck"))


def test_without_gpu_or_tool_one_line_says_so(monkeypatch, capsys):
    assert "asks for the simulator" in check_sanitizer.missing()
    monkeypatch.setattr(gpu, "is_simulated", lambda: False)
    monkeypatch.setattr(gpu, "is_available", lambda: False)
    monkeypatch.setenv(gpu.VARIABLE, "")
    assert check_sanitizer.main([]) == 2
    assert capsys.readouterr().err == "compute-sanitizer was not run: Numba finds no NVIDIA GPU that it can use\n"
    monkeypatch.setattr(gpu, "is_available", lambda: True)
    monkeypatch.setattr(check_sanitizer, "find_sanitizer", lambda: "")
    assert "part of the CUDA toolkit" in check_sanitizer.missing()


def test_the_result_file_has_a_row_for_each_check(monkeypatch, tmp_path, capsys):
    device = type("Device", (), {"name": b"A GPU"})
    monkeypatch.setenv(gpu.VARIABLE, "")
    monkeypatch.setattr(check_sanitizer, "missing", lambda: "")
    monkeypatch.setattr(gpu.numba_cuda(), "get_current_device", lambda: device, raising=False)
    monkeypatch.setattr(check_sanitizer, "check", lambda path, name, start: Verdict(name, "clean", 0, 0, 240, "found"))
    out = tmp_path / "sanitizer.json"
    assert check_sanitizer.main(["--out", str(out)]) == 0
    written = json.loads(out.read_text(encoding="utf-8"))
    assert (written["device"], [one["check"] for one in written["checks"]]) == ("A GPU", list(check_sanitizer.CHECKS))
    assert "planted mistake" in capsys.readouterr().out
    monkeypatch.setattr(check_sanitizer, "check", lambda path, name, start: Verdict(name, "clean", 0, 0, 240, "clean"))
    assert check_sanitizer.main([]) == 1


# make gpu, and tests marked gpu ---------------------------------------------------------------------------------------


def test_every_step_runs_whatever_became_of_the_others():
    started = []

    def start(step):
        started.append(step)
        return "stopped after 1 s" if step == "products" else ""

    assert check_gpu.outcomes(check_gpu.STEPS, True, start) == dict.fromkeys(check_gpu.STEPS, "passed") | {
        "products": "stopped after 1 s"
    }
    assert check_gpu.outcomes(check_gpu.STEPS, False, start) == dict.fromkeys(check_gpu.STEPS, "not run: no GPU")
    assert started == list(check_gpu.STEPS) == list(gpu_steps.STEPS)


def test_without_a_gpu_make_gpu_fails_and_says_what_was_not_run():
    done = python("-m", "tests.by_hand.check_gpu", CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 1
    assert done.stdout.startswith("bench --device cuda needs an NVIDIA GPU")
    assert [line for line in done.stdout.splitlines() if "not run" in line] == [
        f"{step}: not run: no GPU" for step in check_gpu.STEPS
    ]


def test_a_step_that_takes_too_long_is_stopped(tmp_path):
    assert check_gpu.run_step("first", tmp_path, seconds=0.01) == "stopped after 0 s"


# The steps ------------------------------------------------------------------------------------------------------------


def test_each_row_is_on_the_disk_before_the_next_is_measured_and_an_error_is_a_row(tmp_path):
    rows = Rows(tmp_path / "new" / "gpu_first.jsonl")

    def written():
        return [json.loads(line) for line in (tmp_path / "new" / "gpu_first.jsonl").read_text().splitlines()]

    rows.attempt("one", lambda: {"seconds": 1.5})
    rows.attempt("two", lambda: {"rows so far": len(written())})
    rows.attempt("three", lambda: 1 / 0)
    rows.add("four", {"error": "further than 0.0001 from the definition"})
    assert written() == [
        {"what": "one", "seconds": 1.5},
        {"what": "two", "rows so far": 1},
        {"what": "three", "error": "ZeroDivisionError: division by zero"},
        {"what": "four", "error": "further than 0.0001 from the definition"},
    ]
    assert rows.faults == 2


@pytest.mark.parametrize("rung", ["cuda_naive", "cuda"])
def test_a_rung_agrees_with_its_definition(rung, monkeypatch):
    monkeypatch.setattr(check_sanitizer, "LARGER", {})
    found = gpu_steps.agreement("depthwise_conv2d", rung)
    assert "error" not in found
    assert len(found["distances"]) == 1
    assert all(value < 1e-6 for value in found["distances"][0])


@pytest.mark.parametrize("value", [2.0, np.nan])
def test_a_rung_that_does_not_agree_is_an_error(value, monkeypatch):
    right = OPERATORS["relu"].rungs["cuda"]

    def wrong(x):
        return to_gpu(np.full(x.shape, value, x.dtype)), right.forward(x)[1]

    monkeypatch.setitem(OPERATORS["relu"].rungs, "cuda", Rung(wrong, right.backward))
    assert gpu_steps.agreement("relu", "cuda")["error"] == "further than 0.0001 from the definition"


def test_tiles_of_128_are_a_product(rng):
    a, b = (rng.standard_normal(shape, dtype=np.float32) for shape in ((128, 32), (32, 256)))
    c = gpu.empty((128, 256), np.float32)
    tile_128.multiply(to_gpu(a), to_gpu(b), c)
    np.testing.assert_allclose(to_cpu(c), a @ b, rtol=1e-4, atol=1e-5)


NCU = """==PROF== Connected to process 7
"ID","Process ID","Process Name","Host Name","Kernel Name","Context","Stream","Block Size","Grid Size","Device","CC",\
"Section Name","Metric Name","Metric Unit","Metric Value"
"0","7","python","host","filter_strips","1","13","(32, 8, 1)","(95, 23, 1)","0","9.0","Command line profiler metrics",\
"sm__inst_issued.avg.pct_of_peak_sustained_active","%","51.5"
"1","7","python","host","filter_strips","1","13","(32, 8, 1)","(95, 23, 1)","0","9.0","Command line profiler metrics",\
"sm__inst_issued.avg.pct_of_peak_sustained_active","%","52.5"
"1","7","python","host","filter_strips","1","13","(32, 8, 1)","(95, 23, 1)","0","9.0","Command line profiler metrics",\
"dram__throughput.avg.pct_of_peak_sustained_elapsed","%","70.0"
""".replace("\\\n", "")


def test_what_the_profiler_prints_is_read():
    assert gpu_steps.shares(NCU) == {"filter_strips": {"issue slots": 52.0, "DRAM": 70.0}}
    assert gpu_steps.shares("==ERROR== no permission") == {}


@pytest.mark.slow
def test_where_there_is_no_gpu_what_needs_none_passes_and_the_rest_is_skipped():
    done = python("-m", "pytest", "tests/gpu/test_cuda_gemm.py", MINIXCEPTION_CUDA="", CUDA_VISIBLE_DEVICES="", CI="")
    assert done.returncode == 0, done.stdout
    assert re.search(r"\d+ passed, \d+ skipped", done.stdout)


@pytest.mark.slow
def test_tests_of_a_gpu_are_collected_without_what_notebooks_need():
    code = (
        "import sys; sys.modules['nbformat'] = None; import pytest; sys.exit(pytest.main(['-m', 'gpu', '--co', '-q']))"
    )
    done = python("-c", code)
    assert done.returncode == 0, done.stdout


def test_tests_of_a_gpu_that_is_not_there_are_skipped_with_the_reason():
    done = python(
        *("-m", "pytest", "-m", "gpu", "tests/ops/test_cuda_pooling.py"),
        MINIXCEPTION_CUDA="", CUDA_VISIBLE_DEVICES="", CI="",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert "tests marked gpu: skipped: MINIXCEPTION_CUDA is empty" in done.stdout
    assert "SKIPPED" in done.stdout
    assert " passed" not in done.stdout
