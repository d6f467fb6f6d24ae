"""The package as a whole: what importing it does, its errors, its cache of kernels, and the size of its files."""

from __future__ import annotations

import ast
import importlib.metadata
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import minixception as mx
from minixception import errors, training, viz
from tests.helpers import processes
from tests.helpers.processes import python

PACKAGE = Path(mx.__file__).parent
ROOT = PACKAGE.parent
MAKE = shutil.which("make")
FILES = sorted(PACKAGE.rglob("*.py"))


# What it stands on ----------------------------------------------------------------------------------------------------


def test_what_is_installed_is_what_was_declared():
    """Also of the extras that are installed: numba-cuda, for one, compiles nothing with a NumPy that is too new."""
    extras = ["", "test", "notebooks", "docs", *(["cuda"] if find_spec("numba_cuda") else [])]
    wrong = []
    for requirement in map(Requirement, importlib.metadata.requires("minixception")):
        try:
            found = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            continue
        wanted = requirement.marker is None or any(requirement.marker.evaluate({"extra": extra}) for extra in extras)
        if wanted and found not in requirement.specifier:
            wrong.append(f"{requirement}: {found} is installed")
    assert wrong == []


# What is left out where it is missing ---------------------------------------------------------------------------------


@pytest.mark.skipif(MAKE is None, reason="calls make, which Windows lacks")
@pytest.mark.parametrize(
    ("arguments", "there", "extras"),
    [
        ([], "", "test,notebooks,docs,cluster"),
        ([], "driver", "test,notebooks,docs,cluster,cuda"),
        ([], "installed before", "test,notebooks,docs,cluster,cuda"),
        (["CUDA=1"], "", "test,notebooks,docs,cluster,cuda"),
        (["CUDA="], "driver", "test,notebooks,docs,cluster"),
    ],
)
def test_setup_takes_nvidias_compilers_where_there_is_its_driver_or_where_asked(arguments, there, extras, tmp_path):
    for file in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / file, tmp_path)
    programs = tmp_path / "bin"
    programs.mkdir()
    if there == "driver":
        (programs / "nvidia-smi").touch(0o755)
    if there == "installed before":
        (tmp_path / ".venv").mkdir()
        (tmp_path / ".venv" / "installed-cuda").touch()
    environment = {name: value for name, value in os.environ.items() if name != "CUDA"} | {"PATH": str(programs)}
    command = [MAKE, "--dry-run", "--always-make", "setup", *arguments]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert f'".[{extras}]"' in done.stdout


def test_where_they_are_missing_a_test_says_how_to_have_it(monkeypatch):
    monkeypatch.setattr(processes, "find_spec", lambda name: None)
    with pytest.raises(pytest.skip.Exception, match=r"make setup CUDA=1$"):
        processes.with_nvvm("print()")


SKIPPED = """
import pytest

@pytest.mark.skipif(True, reason="no sun")
def test_marked():
    pass

def test_that_finds_out_itself():
    pytest.skip("no moon")
"""


@pytest.mark.parametrize("ci", ["true", ""])
def test_on_a_build_machine_a_test_that_is_skipped_fails(ci, tmp_path):
    file = tmp_path / "test_skipped.py"
    file.write_text(SKIPPED)
    done = python("-m", "pytest", "-p", "tests.conftest", "-p", "no:cacheprovider", "-ra", file, CI=ci)
    fails = bool(ci) and sys.platform == "linux"
    assert done.returncode == fails, done.stdout
    assert ("1 failed, 1 error in" if fails else "2 skipped in") in done.stdout
    assert "no sun" in done.stdout and "no moon" in done.stdout


def test_the_build_machines_have_all_of_it():
    assert "export CUDA=1 " in (ROOT / ".ci" / "run").read_text("utf-8")


# Importing ------------------------------------------------------------------------------------------------------------

IMPORT = """
import cProfile, json, sys

def calls(statement):
    with cProfile.Profile() as profile:
        exec(statement)
    return sum(entry.callcount for entry in profile.getstats())

numba_calls = calls("import numpy, numba")
before = set(sys.modules)
from numba.core import event
with event.install_recorder("numba:compile") as recorder:
    our_calls = calls("import minixception")
modules = sorted(set(sys.modules) - before)
print(json.dumps({"compiled": len(recorder.buffer), "modules": modules, "ours": our_calls, "numba's": numba_calls}))
"""


@pytest.fixture(scope="module")
def imported():
    """An import in a fresh process: what it reports of itself."""
    run = python("-c", IMPORT)
    assert run.returncode == 0, run.stderr
    assert run.stderr == ""
    assert len(run.stdout.splitlines()) == 1  # only our own line: importing prints nothing
    return json.loads(run.stdout)


def test_importing_takes_half_the_steps_of_importing_numba(imported):
    """Calls of functions are counted, which no busy machine changes; for seconds see docs/results/process.json."""
    assert imported["ours"] <= imported["numba's"] / 2


def test_importing_compiles_nothing(imported):
    assert imported["compiled"] == 0


def test_importing_loads_numpy_numba_and_nothing_else(imported):
    loaded = {name.partition(".")[0] for name in imported["modules"]}
    assert loaded - sys.stdlib_module_names <= {"minixception", "numba"}
    late = tuple(f"minixception.{name}" for name in ("bench", "apps.cli", "apps.commands"))  # for the command line
    assert not [name for name in imported["modules"] if name.startswith(late)]


def test_every_public_name_exists():
    modules = [mx, mx.nn, mx.models, mx.ops, training, viz]
    for module in modules:
        assert [name for name in module.__all__ if not hasattr(module, name)] == []
        assert len(set(module.__all__)) == len(module.__all__)


# Files and errors -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted(FILES), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_file_has_more_than_400_lines(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400


def test_only_the_vocabulary_of_kernels_emits_ir():
    emitting = {path for path in FILES if re.search(r"from llvmlite|import llvmlite\.", path.read_text("utf-8"))}
    assert {path.parent.relative_to(PACKAGE).as_posix() for path in emitting} == {"cpu/simd", "gpu"}


def test_no_function_has_more_parameters_than_an_eye_can_check():
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef):
                count = len(node.args.posonlyargs + node.args.args + node.args.kwonlyargs)
                assert count <= 11, f"{path.relative_to(PACKAGE)}: {node.name} takes {count} parameters"


def test_every_error_is_a_value_error_or_an_os_error():
    classes = [c for _, c in inspect.getmembers(errors, inspect.isclass) if c.__module__ == errors.__name__]
    assert len(classes) >= 11
    for c in classes:
        assert issubclass(c, ValueError) != issubclass(c, OSError), c
        assert c.__doc__


WRONG_CALLS = """
import json, sys
import numpy as np
from numba.core import event
import minixception as mx
from numba.core.dispatcher import Dispatcher

def image(*shape, dtype=np.float32):
    return mx.tensor(np.zeros(shape, dtype))

ops, nn, model = mx.ops, mx.nn, mx.models.mini_xception(10, (8,), 1, 4)
calls = {
    "conv2d 3 dimensions": lambda: ops.conv2d(image(8, 8, 3), image(3, 3, 3, 4)),
    "conv2d NCHW": lambda: nn.Conv2d(3, 4)(image(2, 3, 8, 8)),
    "conv2d mixed dtypes": lambda: ops.conv2d(image(1, 8, 8, 3, dtype=float), image(3, 3, 3, 4)),
    "conv2d integers": lambda: ops.conv2d(image(1, 8, 8, 3, dtype=int), image(3, 3, 3, 4, dtype=int)),
    "conv2d padding": lambda: ops.conv2d(image(1, 8, 8, 3), image(3, 3, 3, 4), padding="full"),
    "conv2d stride": lambda: ops.conv2d(image(1, 8, 8, 3), image(3, 3, 3, 4), stride=0),
    "conv2d groups": lambda: ops.conv2d(image(1, 8, 8, 4), image(3, 3, 4, 4), groups=3),
    "conv2d too small": lambda: ops.conv2d(image(1, 2, 8, 3), image(3, 3, 3, 4), padding="valid"),
    "depthwise channels": lambda: nn.DepthwiseConv2d(4)(image(1, 8, 8, 3)),
    "pointwise channels": lambda: nn.PointwiseConv2d(4, 5)(image(1, 8, 8, 3)),
    "separable channels": lambda: nn.SeparableConv2d(4, 5)(image(1, 8, 8, 3)),
    "batch of one": lambda: nn.BatchNorm2d(4)(image(1, 1, 1, 4)),
    "batchnorm channels": lambda: nn.BatchNorm2d(4)(image(2, 5, 5, 3)),
    "max pool size": lambda: ops.max_pool2d(image(1, 8, 8, 3), 0),
    "avg pool too small": lambda: ops.avg_pool2d(image(1, 2, 2, 3), 3),
    "linear features": lambda: nn.Linear(4, 5)(image(2, 3)),
    "linear image": lambda: nn.Linear(4, 5)(image(2, 3, 3, 4)),
    "add": lambda: image(2, 3) + image(2, 4),
    "concat": lambda: ops.concat([image(2, 3), image(3, 3)]),
    "reshape": lambda: image(2, 3).reshape(4, 2),
    "dropout rate": lambda: ops.dropout(image(2, 3), 1.0),
    "label too large": lambda: mx.cross_entropy(image(2, 3), [0, 3]),
    "label negative": lambda: mx.cross_entropy(image(2, 3), [0, -1]),
    "label fraction": lambda: mx.cross_entropy(image(2, 3), [0.5, 1.0]),
    "labels' number": lambda: mx.cross_entropy(image(2, 3), [0, 1, 2]),
    "smoothing": lambda: mx.cross_entropy(image(2, 3), [0, 1], label_smoothing=1.0),
    "targets' shape": lambda: mx.binary_cross_entropy_with_logits(image(2, 3), np.zeros((2, 2))),
    "network NCHW": lambda: model(image(2, 3, 32, 32)),
    "network float64": lambda: model(image(2, 32, 32, 3, dtype=float)),
    "xception too small": lambda: mx.models.Xception(input_shape=(70, 70, 3)),
    "tensor of text": lambda: mx.tensor(np.array(["a"])),
    "unknown backend": lambda: mx.use_backend("tpu").__enter__(),
    "backward without a path": lambda: image(1).backward(),
}
typed = {error.__name__ for error in vars(mx.errors).values() if isinstance(error, type)}
got = {}
with event.install_recorder("numba:compile") as recorder:
    for name, call in calls.items():
        try:
            call()
            got[name] = "nothing"
        except Exception as error:
            got[name] = type(error).__name__
modules = [module for name, module in list(sys.modules.items()) if name.startswith("minixception")]
kernels = {id(d): d for module in modules for d in vars(module).values() if isinstance(d, Dispatcher)}
print(json.dumps({
    "untyped": {name: error for name, error in got.items() if error not in typed},
    "calls": len(got),
    "kernels": len(kernels),
    "compiled": [str(d) for d in kernels.values() if d.signatures],
    "events": len(recorder.buffer),
}))
"""


def test_wrong_input_is_a_typed_error_before_anything_compiles():
    done = python("-c", WRONG_CALLS)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["untyped"] == {}
    assert report["calls"] == 33
    assert report["kernels"] > 40
    assert report["compiled"] == []
    assert report["events"] == 0


# The cache of kernels -------------------------------------------------------------------------------------------------

ONE_KERNEL = """
import importlib, json
import numpy as np
dropout = importlib.import_module("minixception.ops.dropout")
dropout.forward_loops(np.ones(2, np.float32), np.array([True, False]), rate=0.5)
stats = dropout._drop_loops.stats
print(json.dumps([sum(stats.cache_hits.values()), sum(stats.cache_misses.values())]))
"""


@pytest.mark.slow  # eight processes
def test_kernels_come_from_the_cache_until_a_file_they_depend_on_changes(tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(PACKAGE, copy / "minixception", ignore=shutil.ignore_patterns("__pycache__"))

    def hits_and_misses():
        done = python("-c", ONE_KERNEL, path=copy, NUMBA_CACHE_DIR=tmp_path / "cache")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def edit(file):
        with open(copy / "minixception" / file, "a", encoding="utf-8") as source:
            source.write("# edited\n")

    compiled = [0, 1]
    loaded = [1, 0]
    assert hits_and_misses() == compiled
    assert hits_and_misses() == loaded
    edit("cpu/simd/tiles.py")  # a helper in another file
    assert hits_and_misses() == compiled
    assert hits_and_misses() == loaded
    edit("ops/dropout.py")  # the kernel's own file
    assert hits_and_misses() == compiled
    assert hits_and_misses() == loaded
    edit("nn/module.py")  # a file that no kernel depends on
    assert hits_and_misses() == loaded


def test_no_two_kernels_share_a_name():
    """Code from the cache is linked by name: of two kernels with one name, the first loaded would run for both."""
    for module in ("bench.limits", "bench.tile"):  # kernels that importing the package does not bring
        importlib.import_module(f"minixception.{module}")
    from minixception.cpu.jit import NAMES

    assert len(NAMES) > 80
    assert sorted(NAMES) == sorted(set(NAMES))
