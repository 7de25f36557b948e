"""Answers: columns that grow, the order of arrival, and what they amount to."""

import dataclasses
import math
import threading

import pytest

from ceylon_nb.answers import CANCELLED, FAILED, OK, STATUSES, WAITING, Answer, Answers
from ceylon_nb.messages import Reply, Usage


def label(position):
    return f"row {position}"


def item(position):
    return position * 10


def filled():
    answers = Answers()
    answers.extend_to(4)
    answers.set(2, OK, Reply("c", usage=Usage(1, 2)), attempts=1, latency=0.5)
    answers.set(0, FAILED, error=ValueError("a"), attempts=3, latency=1.5)
    answers.set(3, CANCELLED)
    return answers


def test_they_grow_and_never_shrink():
    answers = Answers()
    answers.extend_to(3)
    answers.extend_to(1)
    assert (len(answers), answers.counts[WAITING]) == (3, 3)
    rows = answers.columns()
    assert rows.status == bytes(3)
    assert (rows.replies, rows.errors, list(rows.attempts)) == ([None] * 3, [None] * 3, [0] * 3)
    assert all(math.isnan(latency) for latency in rows.latency)


def test_counts_are_by_status():
    answers = filled()
    assert dict(zip(STATUSES, answers.counts, strict=True)) == {"waiting": 1, "ok": 1, "failed": 1, "cancelled": 1}
    answers.set(0, OK, "again")
    assert dict(zip(STATUSES, answers.counts, strict=True)) == {"waiting": 1, "ok": 2, "failed": 0, "cancelled": 1}


def test_the_log_is_in_order_of_arrival_and_knows_the_rows():
    answers = filled()
    assert answers.log == [2, 0]
    first, second = (answers.logged(place, label, item) for place in range(2))
    assert first == Answer(2, "row 2", 20, Reply("c"), None, "ok", 1, 0.5, Usage(1, 2))
    assert (second.position, second.status, second.attempts, second.usage) == (0, "failed", 3, Usage())
    assert str(second.error) == "a"


def test_a_row_that_is_asked_again_stands_in_the_log_only_where_it_was_answered_last():
    answers = filled()
    answers.set(0, WAITING)
    assert answers.logged(1, label, item) is None
    answers.set(0, OK, "A", attempts=1)
    assert answers.log == [2, 0, 0]
    assert answers.logged(1, label, item) is None
    assert answers.logged(2, label, item).reply == "A"
    assert answers.logged(2, label, item).latency is None


def test_columns_are_a_copy():
    answers = filled()
    rows = answers.columns()
    answers.extend_to(9)
    answers.set(1, OK, "later")
    assert (len(rows.status), rows.replies[1], rows.status[1]) == (4, None, WAITING)
    assert rows.usages == [Usage(), Usage(), Usage(1, 2), Usage()]


def test_columns_are_whole_whenever_they_are_asked_for():
    """One thread fills, another reads: no row is half there."""
    answers, done = Answers(), threading.Event()

    def fill():
        for position in range(50_000):
            answers.extend_to(position + 1)
            answers.set(position, OK, position, attempts=1, latency=0.0)
        done.set()

    thread = threading.Thread(target=fill)
    thread.start()
    while not done.is_set():
        rows = answers.columns()
        length = len(rows.status)
        assert {len(rows.replies), len(rows.errors), len(rows.attempts), len(rows.latency)} == {length}
        assert [reply is not None for reply in rows.replies] == [status == OK for status in rows.status]
        assert list(rows.attempts) == list(rows.status)
    thread.join()


def test_an_answer_is_a_value():
    answer = filled().logged(0, label, item)
    with pytest.raises(dataclasses.FrozenInstanceError):
        answer.reply = "other"
    assert not hasattr(answer, "__dict__")


@pytest.mark.parametrize("reply", [None, "text", {"usage": Usage(1, 1)}, type("Other", (), {"usage": Usage(5, 5)})()])
def test_tokens_are_known_of_replies_only(reply):
    answers = Answers()
    answers.extend_to(1)
    answers.set(0, OK, reply)
    assert answers.columns().usages == [Usage()]


def test_summary_says_what_there_is_to_say():
    assert Answers().summary() == []
    assert filled().summary() == [
        "tokens: 1 in, 2 out",
        "2 requests were second or later attempts",
        "failures: 1 ValueError",
    ]
    answers = Answers()
    answers.extend_to(101)
    for position in range(101):
        answers.set(position, OK, "x", attempts=1, latency=position / 10)
    assert answers.summary() == ["latency: median 5.00 s, 95 % within 9.50 s, longest 10.00 s"]
    for position in range(3):
        answers.set(position, FAILED, error=KeyError(position), attempts=1, latency=0.1)
    answers.set(3, FAILED, error=OSError(), attempts=1, latency=0.1)
    assert answers.summary()[-1] == "failures: 3 KeyError, 1 OSError"


def test_failures_are_counted_as_they_come_and_go():
    answers = Answers()
    answers.extend_to(4)
    answers.set(0, FAILED, error=KeyError("x"))
    answers.set(1, FAILED, error=KeyError("y"))
    answers.set(2, FAILED, error=OSError("z"))
    answers.set(0, WAITING)
    answers.set(0, OK, "now")
    answers.set(2, FAILED, error=ValueError("again"))
    assert answers.failures() == {"KeyError": 1, "ValueError": 1}


def test_there_is_an_end_to_the_kinds_of_errors_that_are_told_apart():
    answers = Answers()
    answers.extend_to(300)
    for position in range(300):
        answers.set(position, FAILED, error=type(f"Error{position}", (Exception,), {})())
    kinds = answers.failures()
    assert (len(kinds), kinds["Error254"], kinds["others"]) == (256, 1, 45)
    for position in range(300):
        answers.set(position, WAITING)
    assert not answers.failures()


def test_tokens_that_are_no_number_count_nothing():
    """Of a function of the user's: its reply is the row's all the same."""
    answers = Answers()
    answers.extend_to(1)
    answers.set(0, OK, Reply("yes", usage=Usage("many", 2)))
    assert answers.counts[OK] == 1
    assert answers.tokens() == (0, 2)
