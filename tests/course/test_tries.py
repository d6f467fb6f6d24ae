"""Guessing: after two wrong numbers or letters one has to wait, and is told less."""

import json

import pytest

import minixception as mx
from minixception.course import exercises
from minixception.course.checks import Choice, Number, WrongNumber, progress, tries
from minixception.course.checks.tries import Tries

NUMBER = Number(
    name="n", notebook=2, title="t", expected=lambda: 100, why="w", mistakes=(WrongNumber(50, "Double it."),)
)
CHOICE = Choice(
    name="c",
    notebook=2,
    title="t",
    options=dict.fromkeys("ABCD", ""),
    right="C",
    why="w",
    hints=dict.fromkeys("ABD", "h"),
)


@pytest.fixture
def clock(monkeypatch):
    class Clock:
        seconds = 1e4

    monkeypatch.setattr(tries, "monotonic", lambda: Clock.seconds)
    return Clock


def test_two_wrong_answers_are_free_and_each_further_one_waits_longer(clock):
    tried = Tries()
    assert "too small" in tried.judge(NUMBER, 1).message
    assert "too large" in tried.judge(NUMBER, 200).message
    for wait, answer in ((30, 150), (60, 125), (120, 110), (240, 105), (240, 103)):
        clock.seconds += wait - 1
        waits = tried.judge(NUMBER, answer)
        assert waits.passed is None and "is judged in 1 s" in waits.message and not waits.hint
        clock.seconds += 1
        judged = tried.judge(NUMBER, answer)
        assert judged.passed is False and judged.message == "That is not it."
    assert tried.judge(NUMBER, 100).passed is None
    clock.seconds += 240
    assert tried.judge(NUMBER, 100)


def test_a_letter_cannot_be_found_in_four_tries(clock):
    tried = Tries()
    assert [tried.judge(CHOICE, letter).passed for letter in "ABCD"] == [False, False, None, None]


def test_a_hint_is_given_as_before(clock):
    tried = Tries()
    for answer in (1, 2):
        tried.judge(NUMBER, answer)
    clock.seconds += 30
    assert tried.judge(NUMBER, 50).hint == "Double it."


def test_the_same_wrong_answer_and_an_empty_one_are_no_tries(clock):
    tried = Tries()
    for _ in range(5):
        assert tried.judge(NUMBER, 1).passed is False
        assert tried.judge(NUMBER, None).passed is None
        assert tried.judge(CHOICE, "").passed is None
    assert tried.wrong == [1]


def test_wrong_answers_are_counted_in_a_course_folder(tmp_path, monkeypatch, clock):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(exercises, "_tries", {"balance": Tries(), "one-kernel": Tries()})
    progress.begin(tmp_path)
    for answer in (1, 2, 2, 9):
        mx.lab.check("balance", answer)
    clock.seconds += 30
    mx.lab.check("balance", 9)
    assert json.loads((tmp_path / progress.FILE).read_text("utf-8")) == {"solved": ["balance"], "wrong": {"balance": 2}}
    mx.lab.check("balance", 5)  # for the sake of the hint
    assert progress.tries(tmp_path) == {"balance": 2}


@pytest.mark.parametrize(
    "text",
    ["[", "[]", "{}", '{"solved": 3, "wrong": 4}', '{"wrong": {"a": "b", "c": -1, "d": true}}', "[" * 10**5, "\udc80"],
)
def test_a_damaged_progress_file_counts_as_empty(tmp_path, text):
    (tmp_path / progress.FILE).write_text(text, "utf-8", errors="surrogateescape")
    assert progress.solved(tmp_path) == set() and progress.tries(tmp_path) == {}
    progress.note("balance", folder=tmp_path)
    assert progress.solved(tmp_path) == {"balance"}
