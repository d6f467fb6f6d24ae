"""What doctor says of the GPU: on a machine with one, without, and where numba.cuda cannot even be imported."""

from __future__ import annotations

import json
import re
from types import SimpleNamespace

import pytest

from minixception.apps import doctor
from minixception.errors import BackendError
from minixception.gpu import kernel as gpu
from tests.helpers.processes import python


def fake_cuda(error=None, name="NVIDIA H200", compiles=True, implementation="NVIDIA", device=None):
    """What doctor asks of numba.cuda, on a machine with a GPU."""
    found = SimpleNamespace(name=name, compute_capability=(9, 0))
    memory = SimpleNamespace(get_memory_info=lambda: SimpleNamespace(free=1 << 30, total=141 << 30))
    return SimpleNamespace(
        implementation=implementation,
        is_available=lambda: compiles and not error,
        cuda_error=lambda: error,
        get_current_device=device or (lambda: found),
        current_context=lambda: memory,
    )


WITHOUT = (
    "without numba-cuda and NVVM to use it: make setup CUDA=1 in a clone, elsewhere pip install 'minixception[cuda]'"
)


def broken():
    raise RuntimeError("\n  the device is busy.\n  more about it\n")


@pytest.mark.parametrize(
    ("cuda", "expected"),
    [
        (fake_cuda(), "NVIDIA H200, compute capability 9.0, 141.0 GiB"),
        (fake_cuda(name=b"Tesla T4"), "Tesla T4, compute capability 9.0, 141.0 GiB"),
        (
            fake_cuda(compiles=False),
            f"NVIDIA H200, compute capability 9.0, 141.0 GiB; {WITHOUT}",
        ),
        (fake_cuda("\nCUDA driver library cannot be found.\nTry this.\n"), "none: CUDA driver library cannot be found"),
        (fake_cuda(device=broken), "none: the device is busy"),
    ],
)
def test_doctor_tells_the_gpu_or_why_there_is_none(cuda, expected, monkeypatch):
    monkeypatch.setattr(gpu, "is_simulated", lambda: False)
    monkeypatch.setattr(gpu, "numba_cuda", lambda: cuda)
    monkeypatch.setattr(doctor, "version", {"numba-cuda": "0.22", "numba": "0.62"}.__getitem__)
    assert doctor._gpu_facts() == [("numba.cuda", "of the package numba-cuda 0.22"), ("GPU", expected)]
    cuda.implementation = "Built-in"
    package, found = doctor._gpu_facts()
    assert package == ("numba.cuda", "of the package numba 0.62")
    assert found[1].endswith(WITHOUT) or found[1].startswith("none: ")


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (BackendError("MINIXCEPTION_CUDA must be 'simulator'"), "MINIXCEPTION_CUDA must be 'simulator'"),
        (ImportError(), "ImportError"),
    ],
)
def test_doctor_without_numba_cuda(error, reason, monkeypatch):
    def importing():
        raise error

    monkeypatch.setattr(gpu, "numba_cuda", importing)
    assert doctor._gpu_facts() == [("numba.cuda", "cannot be imported"), ("GPU", f"none: {reason}")]


PRINT_FACTS = """
import json
from minixception.apps import doctor
print(json.dumps({"facts": dict(doctor._gpu_facts())}))
"""


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(("-c", PRINT_FACTS), id="facts"),
        pytest.param(("-m", "minixception", "doctor", "--json"), id="command", marks=pytest.mark.slow),  # it measures
    ],
)
def test_doctor_without_a_gpu_in_truth(command):
    done = python(*command, MINIXCEPTION_CUDA="", CUDA_VISIBLE_DEVICES="-1")
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)["facts"]
    assert facts["numba.cuda"].startswith("of the package numba")
    assert facts["GPU"].startswith("none: ")
    assert "\n" not in facts["GPU"]


def test_doctor_in_the_simulator():
    (_, source), fact = doctor._gpu_facts()
    assert source.endswith(", its simulator")
    assert fact == ("GPU", "none: the simulator runs the kernels, slowly")


NO_FOLDER = """
from numba.core import caching
caching.CacheImpl._locator_classes = []  # as where neither the package's folder nor the user's can be written to
from minixception.apps import cli
raise SystemExit(cli.main(["doctor"]))
"""


def test_doctor_where_no_folder_can_be_written_to():
    done = python("-c", NO_FOLDER)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(r"^kernel cache +none: no folder can be written to$", done.stdout, re.MULTILINE)
    assert "- The folder for compiled kernels cannot be written to, so kernels compile anew every time." in done.stdout


@pytest.mark.parametrize("layer", ["omp", "tbb", "workqueue"])
def test_doctor_says_what_workqueue_lacks(layer, tmp_path):
    numba = SimpleNamespace(get_num_threads=lambda: 1 << 20, threading_layer=lambda: layer)
    advice = [] if layer != "workqueue" else ["On workqueue, kernels of several Python threads wait for each other. "]
    assert [line.removesuffix("Run: pip install tbb") for line in doctor._advice(numba, 1 << 20, tmp_path)] == advice
