"""Predictions: what the formula says, what overlap hides, and what the command prints."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minixception as mx
from minixception.bench.scaling import Measured, scaling
from minixception.cluster.plan import Link, Work, predict
from minixception.errors import ArgumentError

LINK = Link(bandwidth=1e9, latency=1e-5)
counts = st.integers(1, 64)


@st.composite
def works(draw):
    seconds = st.floats(1e-3, 1.0)
    buckets = draw(st.lists(st.integers(1, 10**8), min_size=1, max_size=8))
    return Work(draw(seconds), draw(seconds), draw(seconds), buckets, draw(st.integers(0, 10**6)))


@given(works(), counts)
def test_what_is_exposed_is_a_part_of_the_communication(work, processes):
    found = predict(work, 64, processes, LINK)
    last = LINK.mean_seconds(work.buckets[-1], processes) + LINK.mean_seconds(work.rest, processes)
    assert last * (1 - 1e-9) <= found.exposed + 1e-12
    assert found.exposed <= found.communication * (1 + 1e-9) + 1e-12
    assert found.step == found.compute + found.exposed


@given(works(), st.integers(1, 64))
def test_one_process_talks_to_nobody(work, shards):
    found = predict(work, shards, 1, LINK)
    assert found.communication == 0 and found.exposed == pytest.approx(0, abs=1e-12)
    assert found.compute == pytest.approx(shards * (work.forward + work.backward) + work.update)


def test_a_pass_that_takes_long_hides_all_but_the_last_bucket():
    work = Work(1.0, 2.0, 0.1, [10**6] * 10, 1000)
    found = predict(work, 4, 4, LINK)
    assert found.exposed == pytest.approx(LINK.mean_seconds(10**6, 4) + LINK.mean_seconds(1000, 4))


def test_a_slow_link_hides_only_what_is_sent_before_the_end():
    work = Work(1.0, 2.0, 0.1, [10**9] * 2)
    found = predict(work, 2, 2, LINK)  # a bucket takes 1 s and is there after 1 s
    assert found.exposed == pytest.approx(1.0, rel=1e-3)


def test_the_rank_with_the_most_shards_decides():
    work = Work(1.0, 2.0, 0.0, [1])
    assert predict(work, 8, 3, LINK).compute == predict(work, 9, 3, LINK).compute == 9.0
    with pytest.raises(ArgumentError, match="from 1 to 8 processes"):
        predict(work, 8, 9, LINK)


def test_a_measured_network_is_planned():
    mx.seed(0)
    measured = Measured(mx.models.mini_xception(10, (8, 16), 1, 8), images=2, repeats=1)
    model = mx.models.mini_xception(10, (8, 16), 1, 8)
    assert sum(measured.work.buckets) == sum(p.data.nbytes for p in model.parameters())
    assert measured.work.rest == sum(buffer.data.nbytes for _, buffer in model.named_buffers())
    rows = scaling(measured, (1, 2, 4), LINK, epoch=1000)
    assert [row.images for row in rows] == [2, 4, 8]
    assert rows[0].efficiency == 1.0
    assert all(0 < row.efficiency <= 1 for row in rows)
    assert rows[0].memory < rows[1].memory < rows[2].memory
    assert np.allclose([row.epochs_per_day for row in rows], [row.images_per_second * 86.4 for row in rows])
    fixed = scaling(measured, (1, 2, 4), LINK, shards=4)
    assert [row.images for row in fixed] == [8, 8, 8]


def test_the_command_prints_a_row_for_each_number(call):
    words = ["plan", "--model", "mini_xception", "--size", "16", "--images", "1", "--processes", "1..6"]
    status, out, _ = call(*words, "--json")
    assert status == 0
    assert [row["processes"] for row in json.loads(out)["rows"]] == [1, 2, 4, 6]
    status, out, _ = call(*words, "--shards", "4")
    assert [line.split()[0] for line in out.splitlines()[4:]] == ["1", "2", "4"]


def test_numbers_of_processes_that_are_none(call):
    status, _, err = call("plan", "--processes", "4..2")
    assert status == 2 and "N at most M" in err
