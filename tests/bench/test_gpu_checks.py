"""What is run by hand on a GPU, as far as it goes without one: the page, sanitizers, `make gpu`, skipped tests."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from test_bench_cuda import report

from minixception.analysis.counts import races
from minixception.analysis.recorder import Recorder
from minixception.bench.records import gpu_page as page
from minixception.bench.records.__main__ import main
from minixception.errors import KernelError
from minixception.gpu import kernel as gpu
from minixception.gpu.kernel import redirected
from minixception.ops import OPERATORS
from tests.by_hand import check_gpu, check_sanitizer
from tests.by_hand.check_sanitizer import Verdict, check, read
from tests.helpers.processes import python

# The page -------------------------------------------------------------------------------------------------------------

RESULTS = Path(page.__file__).parents[3] / "docs" / "results"
MADE_BY = {"command": "a command", "date": "2026-01-02", "machine": {"processor": "A CPU", "system": "Linux"}}


def test_the_page_is_what_its_command_writes():
    assert (RESULTS / "gpu.md").read_text(encoding="utf-8") == page.page(RESULTS)


def test_the_page_says_what_has_not_been_run(tmp_path):
    assert main(["gpu_page", str(tmp_path / "gpu.md")]) == 0
    text = (tmp_path / "gpu.md").read_text(encoding="utf-8")
    for words in (
        "Nothing has run on a GPU yet",
        "Not run yet: it needs",
        "Not counted yet",
        "Not measured yet",
        "bench --device cuda",
    ):
        assert words in text


def test_the_page_shows_what_was_measured(tmp_path):
    (tmp_path / "bench_cuda.json").write_text(json.dumps(MADE_BY | report().to_json()), encoding="utf-8")
    one = {"check": "memcheck", "verdict": "clean", "errors": 0, "warnings": 0, "cases": 99, "planted": "found"}
    result = MADE_BY | {"device": "A GPU", "checks": [one]}
    (tmp_path / "sanitizer.json").write_text(json.dumps(result), encoding="utf-8")
    text = page.page(tmp_path)
    assert "Nothing has run" not in text
    assert "Not run yet" not in text
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

    def start(*command):
        started.append(command)
        return len(started) - 1  # the first one passes

    found = check_gpu.outcomes(True, "the tool is missing", start)
    assert found == {
        "tests": "passed",
        "sanitizers": "not run: the tool is missing",
        "benchmark": "failed (exit status 1)",
    }
    assert check_gpu.outcomes(False, "", start) == dict.fromkeys(check_gpu.STEPS, "not run: no GPU")
    assert len(started) == 2


def test_without_a_gpu_make_gpu_fails_and_says_what_was_not_run():
    done = python("-m", "tests.by_hand.check_gpu", CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 1
    assert done.stdout.startswith("bench --device cuda needs an NVIDIA GPU")
    assert [line for line in done.stdout.splitlines() if "not run" in line] == [
        f"{step}: not run: no GPU" for step in ("tests", "sanitizers", "benchmark")
    ]


@pytest.mark.slow
def test_where_there_is_no_gpu_what_needs_none_passes_and_the_rest_is_skipped():
    done = python("-m", "pytest", "tests/gpu/test_cuda_gemm.py", MINIXCEPTION_CUDA="", CUDA_VISIBLE_DEVICES="")
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
        "-m", "pytest", "-m", "gpu", "tests/ops/test_cuda_pooling.py", MINIXCEPTION_CUDA="", CUDA_VISIBLE_DEVICES=""
    )
    assert done.returncode == 0, done.stdout
    assert "tests marked gpu: skipped: MINIXCEPTION_CUDA is empty" in done.stdout
    assert "SKIPPED" in done.stdout
    assert " passed" not in done.stdout
