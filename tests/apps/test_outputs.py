"""Where results go: asked before the work, printed on any terminal and into any pipe, and one line where it fails."""

from __future__ import annotations

import io
import os
import signal
import sys

import pytest

from minixception.apps import cli
from minixception.apps.commands import bench, common, doctor, predict, reproduce
from minixception.errors import ArgumentError
from minixception.files import check_writable


@pytest.fixture
def doctor_does(monkeypatch):
    """Has ``minixception doctor`` call a function instead."""

    def change(function):
        monkeypatch.setattr(doctor, "run", lambda options: function() or 0)

    return change


def test_sigterm_is_as_ctrl_c(doctor_does, call):
    before = signal.signal(signal.SIGTERM, lambda *_: pytest.fail("nobody handles SIGTERM"))
    ours = signal.getsignal(signal.SIGTERM)
    try:
        doctor_does(lambda: signal.raise_signal(signal.SIGTERM))
        assert call("doctor") == (130, "", "minixception: stopped\n")
        assert signal.getsignal(signal.SIGTERM) is ours
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (MemoryError(), "there is not enough memory: take smaller images or batches"),
        (MemoryError("Unable to allocate 8 EiB"), "there is not enough memory: Unable to allocate 8 EiB"),
    ],
)
def test_too_little_memory_is_one_line(error, line, doctor_does, call):
    def fails():
        raise error

    doctor_does(fails)
    assert call("doctor") == (2, "", f"minixception: error: {line}\n")


def test_a_terminal_that_cannot_show_a_name_shows_the_rest(doctor_does, monkeypatch):
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii"))
    doctor_does(lambda: print("crème brûlée 97 %"))
    assert cli.main(["doctor"]) == 0
    assert written.getvalue() == rb"cr\xe8me br\xfbl\xe9e 97 %" + os.linesep.encode()


@pytest.mark.parametrize("arguments", [["doctor"], ["--version"]])
def test_a_short_answer_into_a_closed_pipe_is_no_error(arguments, doctor_does, monkeypatch):
    """A short answer stays in the buffer until the program ends: Python's own message would come then."""
    reader, writer = os.pipe()
    os.close(reader)
    doctor_does(lambda: print("a line"))
    with open(writer, "w", encoding="utf-8") as pipe:
        monkeypatch.setattr(sys, "stdout", pipe)
        try:
            status = cli.main(arguments)
        except SystemExit as error:  # argparse's way out
            status = error.code
        assert status == 0
        pipe.flush()  # as Python does at its end


def test_what_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    for path, message in (
        (tmp_path, "expected a file to write to, .* is a folder"),
        (tmp_path / "no" / "f.png", "f.png cannot be written: there is no folder .*no"),
        (tmp_path / "file" / "f.png", "f.png cannot be written: there is no folder .*file"),
    ):
        with pytest.raises(ArgumentError, match=message):
            check_writable(path)
    check_writable(tmp_path / "file")
    check_writable("new")


def test_a_folder_that_is_read_only(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: (path, mode) != (tmp_path, os.W_OK))  # root may write anywhere
    with pytest.raises(ArgumentError, match="read-only"):
        check_writable(tmp_path / "f.png")


@pytest.mark.parametrize(
    ("command", "module", "work"),
    [
        (("predict", "photo.png", "--figure"), predict, "make_network"),
        (("bench", "--figure"), bench, "_on_cpu"),
        (("reproduce", "table3", "--out"), reproduce, "_table3"),
    ],
)
def test_outputs_are_checked_before_the_work(command, module, work, tmp_path, call, monkeypatch):
    monkeypatch.setattr(module, work, lambda *_: pytest.fail("the work has begun"))
    (tmp_path / "file").write_text("")
    status, out, err = call(*command, tmp_path / "file" / "f.png")
    assert (status, out) == (2, "")
    assert str(tmp_path / "file") in err
    assert len(err.splitlines()) == 1


def test_lines_instead_of_a_bar_where_there_is_no_terminal(capsys):
    with common.progress(205, desc="work", unit=" images") as bar:
        for _ in range(205):
            bar.update()
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(" images")[0] for line in lines] == [f"work: {n}/205" for n in (*range(0, 201, 20), 205)]
