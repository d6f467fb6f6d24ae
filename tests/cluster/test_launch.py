"""How processes are started and named, and what is said where that cannot be."""

from __future__ import annotations

import json
import os
import sys

import numba
import pytest

from minixception.cluster import launch, session
from minixception.cluster.ranks import ALONE
from minixception.errors import ArgumentError, ClusterError
from tests.helpers import mpi
from tests.helpers.processes import python
from tests.training.test_training import outcome


def test_without_mpiexec_there_is_one_rank_that_stops_nobody():
    with session.together() as ranks:
        assert ranks is ALONE
    assert (ranks.rank, ranks.size, ranks.everybodys(3, ""), ranks.from_first(3, "")) == (0, 1, [3], 3)
    ranks.agree(anything=1)
    ranks.wait([], "")
    with pytest.raises(SystemExit):
        ranks.stop(3)


def test_mpi_that_is_missing_is_named_with_its_cure():
    code = "import sys; sys.modules['mpi4py'] = None\nfrom minixception.apps.cli import main\nsys.exit(main(['train']))"
    done = python("-c", code, PMI_RANK="0")
    assert done.returncode == 2
    assert "mpi4py" in done.stderr and "pip install 'minixception[cluster]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_processes_need_mpiexec(monkeypatch, tmp_path):
    monkeypatch.setattr(launch.sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ClusterError, match=r"there is none. Install one: .*minixception\[cluster\]"):
        launch.start(2, ["train"])


def test_an_mpiexec_that_names_nobody_does_not_start_itself_for_ever(monkeypatch):
    monkeypatch.setenv("MINIXCEPTION_PROCESSES", "pipe")
    with pytest.raises(ClusterError, match="does not tell its processes who they are"):
        launch.starts_others(2)
    assert not launch.starts_others(None)


def test_two_numbers_of_processes_are_an_error():
    launch.check_count(1, ALONE)
    with pytest.raises(ArgumentError, match="mpiexec has started 1 processes, and --processes asks for 2"):
        launch.check_count(2, ALONE)


def is_on_a_terminal(ranks):
    return ranks.everybodys(sys.stderr.isatty(), "")


@pytest.mark.parametrize("where", ["terminal", "pipe"])
def test_rank_0_draws_bars_where_our_launcher_has_a_terminal(where):
    assert mpi.result(2, is_on_a_terminal, MINIXCEPTION_PROCESSES=where) == [where == "terminal", False]


def threads(ranks):
    return ranks.everybodys(numba.get_num_threads(), "")


def test_more_threads_than_cores_are_said():
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    done = mpi.ranks(2, threads, NUMBA_NUM_THREADS=cores)
    assert json.loads(done.stdout.splitlines()[-1]) == [cores, cores]
    words = f"({2 * cores} threads share {cores} cores: start fewer processes)"
    assert words in done.stdout


def test_ranks_share_the_cores_of_a_machine():
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    assert mpi.result(2, threads, NUMBA_NUM_THREADS=None) == [max(1, cores // 2)] * 2


def test_train_starts_processes_and_their_number_does_not_matter(tmp_path):
    mpi.program()
    common = ["-m", "minixception", "train", "--recipe", "demo", "--epochs", "1", "--image-size", "16"]
    environment = {"NUMBA_NUM_THREADS": 1}
    one = mpi.mpiexec(1, *common, "--out", tmp_path / "one")
    two = python(*common, "--processes", "2", "--out", tmp_path / "two", **environment)
    assert (one.returncode, two.returncode) == (0, 0), one.stderr + two.stderr
    assert two.stdout.count("test top-1") == 1  # one rank prints
    assert "rank 1 is process" in two.stdout
    assert outcome(tmp_path / "one") == outcome(tmp_path / "two")
