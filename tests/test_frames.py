"""Items in, frames out, and tables on disk."""

import asyncio
import gc
import math
import pickle
from array import array
from collections import deque
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest

from ceylon_nb import batch, frames
from ceylon_nb.answers import FAILED, OK, Answers
from ceylon_nb.errors import ConfigurationError, ModelNotFound
from ceylon_nb.messages import Reply, Usage

COLUMNS = {
    "reply": "object",
    "status": "category",
    "error": "object",
    "attempts": "int64",
    "latency": "float64",
    "input_tokens": "Int64",
    "output_tokens": "Int64",
    "finish_reason": "object",
    "from_store": "bool",
}


def items_of(given):
    """All items, as a worker would pull them."""

    async def pull():
        source, position = frames.source(given), 0
        while await source.pull(position):
            position += 1
        assert source.total == position
        return [source.item(at) for at in range(position)], [source.label(at) for at in range(position)]

    return asyncio.run(pull())


async def echo(item):
    return item


def ask(items, fn=echo):
    async def main():
        run = batch(fn, items, max_at_once=3)
        return await run, run

    return asyncio.run(main())


class Polars:
    """What polars, pyarrow and datasets have in common."""

    def __init__(self, held):
        self.held = held

    def to_pandas(self):
        return self.held

    def __iter__(self):
        raise AssertionError("to_pandas comes first")


# -- items in ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "items", "labels"),
    [
        (["a", "b"], ["a", "b"], [0, 1]),
        (("a", "b"), ["a", "b"], [0, 1]),
        (range(3), [0, 1, 2], [0, 1, 2]),
        (deque("ab"), ["a", "b"], [0, 1]),
        (array("i", [7, 8]), [7, 8], [0, 1]),
        ({"a"}, ["a"], [0]),
        ({"x": 1, "y": 2}, [1, 2], ["x", "y"]),
        ({"x": 1, "y": 2}.values(), [1, 2], [0, 1]),
        ({"x": 1, "y": 2}.items(), [("x", 1), ("y", 2)], [0, 1]),
        ((n for n in range(3)), [0, 1, 2], [0, 1, 2]),
        (iter([1, 2]), [1, 2], [0, 1]),
        (map(str, [1, 2]), ["1", "2"], [0, 1]),
        (np.array(["a", "b"]), ["a", "b"], [0, 1]),
        (np.array([1.5, 2.5]), [1.5, 2.5], [0, 1]),
        (pd.Index(["a", "b"]), ["a", "b"], [0, 1]),
        (pd.Categorical(["a", "b"]), ["a", "b"], [0, 1]),
        (pd.Series(["a", "b"], index=[7, 7]), ["a", "b"], [7, 7]),
        (Polars(pd.Series(["a"], index=["x"])), ["a"], ["x"]),
        ([], [], []),
        ({}, [], []),
        (iter(()), [], []),
        (pd.Series([], dtype=object), [], []),
        ([None, [1], {"a": 1}], [None, [1], {"a": 1}], [0, 1, 2]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_items_of_every_kind(given, items, labels):
    assert items_of(given) == (items, labels)


def test_an_async_generator():
    async def stream():
        for n in range(3):
            await asyncio.sleep(0)
            yield n

    assert items_of(stream()) == ([0, 1, 2], [0, 1, 2])


def test_a_data_frame_gives_rows():
    table = pd.DataFrame({"text": ["a", "b"], 0: [1, 2], ("x", 1): [3, 4], "a b": [5, 6]}, index=["k", "l"])
    [first, second], labels = items_of(table)
    assert labels == ["k", "l"]
    assert dict(second) == {"text": "b", "0": 2, "('x', 1)": 4, "a b": 6}
    assert (first["text"], first.text, first[0], first[("x", 1)], first["a b"]) == ("a", "a", 1, 3, 5)
    assert (len(first), list(first), "text" in first, "none" in first) == (
        4,
        ["text", "0", "('x', 1)", "a b"],
        True,
        False,
    )
    assert first.get("none", 7) == 7
    assert repr(second) == "Row({'text': 'b', '0': 2, \"('x', 1)\": 4, 'a b': 6})"
    assert first == dict(first)
    assert pickle.loads(pickle.dumps(first)) == dict(first)
    with pytest.raises(AttributeError, match=r"The row has no column 'txt'; it has text, 0, \('x', 1\), a b\."):
        _ = first.txt
    with pytest.raises(KeyError, match="txt"):
        first["txt"]


def test_cells_are_python_values():
    table = pd.DataFrame(
        {
            "n": [1],
            "f": [1.5],
            "t": pd.to_datetime(["2024-01-31"]),
            "c": pd.Categorical(["x"]),
            "na": pd.array([None], dtype="Int64"),
            "o": [[1, 2]],
        }
    )
    [row], _ = items_of(table)
    assert [type(row[name]).__name__ for name in ("n", "f", "t", "c")] == ["int", "float", "Timestamp", "str"]
    assert row["na"] is pd.NA
    assert row["o"] == [1, 2]
    assert items_of(Polars(table))[0] == [row]


def test_what_changes_while_the_batch_runs_changes_nothing_in_it():
    async def main():
        given = ["a", "b", "c"]
        table = pd.DataFrame({"text": ["a", "b", "c"]}, index=pd.Index(["x", "y", "z"], name="key"))
        keyed = dict.fromkeys("abc", 1)
        runs = [batch(echo, given), batch(echo, table), batch(echo, keyed.values())]
        given.clear()
        keyed["d"] = 2
        table["text"] = "changed"
        table.index.name = "changed"
        table.loc["w"] = "more"
        first, second, third = await asyncio.gather(*runs)
        assert list(first["reply"]) == ["a", "b", "c"]
        assert [row["text"] for row in second["reply"]] == ["a", "b", "c"]
        assert (list(second.index), second.index.name) == (["x", "y", "z"], "key")
        assert list(third["reply"]) == [1, 1, 1]

    asyncio.run(main())


def test_a_range_of_a_billion_is_not_unfolded():
    source = frames.source(range(10**9))
    assert (source.total, source.item(10**9 - 1)) == (10**9, 10**9 - 1)


@pytest.mark.parametrize("text", ["one text", b"bytes", bytearray(b"bytes"), Reply("answer")])
def test_a_single_text_is_refused(text):
    with pytest.raises(ConfigurationError, match=r"one single text\. Put it in a list, or ask with send_message"):
        frames.source(text)


@pytest.mark.parametrize("thing", [7, None, object(), len])
def test_what_cannot_be_iterated_over_is_refused(thing):
    with pytest.raises(ConfigurationError, match=f"something else to iterate over, not {type(thing).__name__}"):
        frames.source(thing)


@pytest.mark.parametrize("when", ["on its loop", "after its loop"])
def test_an_error_of_a_stream_that_nobody_waits_for_any_more_is_not_noise(when, caplog):
    """Its next item is awaited in a task of its own."""

    async def stream():
        await asyncio.sleep(0.01)
        raise OSError("gone")
        yield

    async def main():
        source = frames.source(stream())
        pulling = asyncio.ensure_future(source.pull(0))
        await asyncio.sleep(0)
        pulling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await pulling
        await asyncio.wait(asyncio.all_tasks() - {asyncio.current_task()})
        if when == "on its loop":
            del source
            gc.collect()
        else:
            kept.append(source)

    kept = []
    asyncio.run(main())
    kept.clear()
    gc.collect()
    assert "never retrieved" not in caplog.text


# -- frames out -------------------------------------------------------------------------------------------------------


def assert_shape(frame):
    assert frame.dtypes.astype(str).to_dict() == COLUMNS
    assert list(frame) == list(COLUMNS)
    assert frame["status"].dtype == pd.CategoricalDtype(["ok", "failed", "cancelled", "waiting"])
    assert all(value is None or not isinstance(value, float) for value in frame["reply"])


INDEXES = {
    "none": None,
    "unsorted": [3, 1, 2],
    "duplicates": [1, 1, 2],
    "all the same": ["x", "x", "x"],
    "strings": ["b", "a", "c"],
    "dates": pd.date_range("2024-01-01", periods=3, tz="Europe/Oslo"),
    "named": pd.Index([10, 20, 30], name="id"),
    "levels": pd.MultiIndex.from_tuples([("a", 1), ("a", 2), ("b", 1)], names=["letter", None]),
    "doubled levels": pd.MultiIndex.from_tuples([("a", 1), ("a", 1), ("b", 1)]),
    "missing": [1.0, float("nan"), None],
    "categories": pd.CategoricalIndex(["u", "v", "u"]),
    "intervals": pd.interval_range(0, 3),
    "objects": pd.Index([(1, 2), "x", None], dtype=object, tupleize_cols=False),
}


@pytest.mark.parametrize("kind", ["DataFrame", "Series"])
@pytest.mark.parametrize("index", INDEXES.values(), ids=INDEXES)
def test_the_frame_stands_on_the_inputs_own_index(index, kind):
    async def main():
        table = pd.DataFrame({"text": ["a", "b", "c"]}, index=index)
        middle = asyncio.Event()

        async def fn(item):
            text = item if kind == "Series" else item["text"]
            if text == "b":
                await middle.wait()
                raise ValueError(text)
            return text

        run = batch(fn, table if kind == "DataFrame" else table["text"])
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        half = run.frame
        middle.set()
        frame = await run
        for each in (half, frame):
            assert_shape(each)
            pd.testing.assert_index_equal(each.index, table.index, exact=True)
        assert list(half["status"]) == ["ok", "waiting", "ok"]
        assert list(frame["reply"]) == ["a", None, "c"]
        assert list(run.failed["position"]) == [1]
        assert run.failed.index.equals(table.index[[1]])
        table["label"] = frame["reply"]  # what it is for
        assert list(table["label"].fillna("-")) == ["a", "-", "c"]
        labels = {answer.position: answer.index async for answer in run}
        assert all(
            labels[at] is table.index[at] or labels[at] == table.index[at] or labels[at] != labels[at] for at in labels
        )

    asyncio.run(main())


def test_a_list_has_a_range_index_and_a_mapping_its_keys():
    frame, _ = ask(["a", "b"])
    pd.testing.assert_index_equal(frame.index, pd.RangeIndex(2), exact=True)
    frame, _ = ask(n for n in range(2))
    pd.testing.assert_index_equal(frame.index, pd.RangeIndex(2), exact=True)
    frame, _ = ask({"x": 1, 2: 2, ("a", "b"): 3})
    assert list(frame.index) == ["x", 2, ("a", "b")]
    assert_shape(frame)


@pytest.mark.parametrize(
    "items",
    [
        [],
        {},
        iter(()),
        pd.DataFrame({"text": []}),
        pd.DataFrame(),
        pd.Series([], dtype=object, index=pd.Index([], name="k")),
    ],
    ids=lambda value: type(value).__name__,
)
def test_the_frame_of_no_items(items):
    frame, run = ask(items)
    assert len(frame) == 0
    assert_shape(frame)
    assert list(run.failed) == ["position", *COLUMNS]
    assert len(run.failed) == 0
    if isinstance(items, pd.Series):
        assert frame.index.name == "k"


def test_the_frame_has_its_full_length_from_the_beginning():
    async def main():
        run = batch(echo, range(1_000))
        frame = run.frame
        assert_shape(frame)
        assert set(frame["status"]) == {"waiting"}
        assert len(frame) == 1_000
        assert frame["reply"].tolist() == [None] * 1_000
        assert frame["latency"].isna().all()
        assert frame["input_tokens"].isna().all()
        assert set(frame["attempts"]) == {0}
        await run

    asyncio.run(main())


class Unhashable:
    __hash__ = None

    def __eq__(self, other):
        raise TypeError("not to be compared")


@pytest.mark.parametrize(
    "reply",
    [
        [1, 2, 3],
        [],
        (1, 2),
        {"usage": 1, "finish_reason": "x"},
        {1, 2},
        np.array([1, 2, 3]),
        np.zeros((2, 2)),
        pd.DataFrame({"usage": [1], "finish_reason": ["stop"]}),
        pd.Series([1, 2], index=["usage", "finish_reason"]),
        Unhashable(),
        None,
        math.nan,
        Decimal("1.10"),
        10**30,
        True,
        b"bytes",
        "half \ud83d",
        pd.NA,
        pd.Timestamp("2024-01-31"),
        ValueError,
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_reply_may_be_anything_and_stays_the_very_object(reply):
    async def fn(item):
        return reply if item else "text"

    frame, run = ask([0, 1, 1], fn)
    assert frame.dtypes.astype(str).to_dict() == COLUMNS
    assert list(frame["status"]) == ["ok"] * 3
    assert frame["reply"].iloc[1] is reply
    assert frame["reply"].iloc[2] is reply
    assert frame["reply"].iloc[0] == "text"
    assert frame["finish_reason"].tolist() == [None] * 3
    assert frame["input_tokens"].isna().all()
    assert run.summary().startswith("Batch(3 ok of 3)")


def test_a_reply_stays_a_reply_and_its_facts_are_columns():
    async def fn(item):
        return Reply(item, usage=Usage(11, None), finish_reason="length", latency=0.25, attempts=2, model="m")

    frame, _ = ask(["a"], fn)
    assert_shape(frame)
    row = frame.iloc[0]
    assert type(row["reply"]) is Reply
    assert row["reply"].model == "m"
    assert row[["attempts", "latency", "input_tokens", "finish_reason"]].tolist() == [2, 0.25, 11, "length"]
    assert row["output_tokens"] is pd.NA
    assert not row["from_store"]


def test_failed_rows_have_their_position():
    async def fn(item):
        if item % 2:
            raise ModelNotFound(f"no model\n  for {item}", status=404)
        return item

    frame, run = ask(pd.Series(range(5), index=list("aabbc")), fn)
    failed = run.failed
    assert list(failed["position"]) == [1, 3]
    assert list(failed.index) == ["a", "b"]
    assert list(failed["error"]) == ["ModelNotFound: no model for 1", "ModelNotFound: no model for 3"]
    assert frame["error"].tolist()[0] is None
    failed["reply"] = "mine"  # a copy, to do with as one likes
    assert list(run.frame["reply"]) == [0, None, 2, None, 4]


class Mute(Exception):
    def __str__(self):
        raise RuntimeError("cannot say")


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("a\n\n b\tc"), "ValueError: a b c"),
        (ValueError(), "ValueError"),
        (Mute(), "Mute"),
        (None, None),
        (ExceptionGroup("two", [ValueError(1)]), "ExceptionGroup: two (1 sub-exception)"),
    ],
)
def test_an_error_is_one_line(error, line):
    assert frames.describe(error) == line


def test_a_hundred_thousand_rows_make_a_frame():
    answers = Answers()
    answers.extend_to(100_000)
    for at in range(0, 100_000, 2):
        answers.set(at, OK, Reply("x", usage=Usage(1, 2)), attempts=1, latency=0.5)
    answers.set(1, FAILED, error=ValueError("x"), attempts=3, latency=1.0)
    frame = frames.to_frame(answers, frames.source(range(100_000)))
    assert_shape(frame)
    assert frame["status"].value_counts().to_dict() == {"ok": 50_000, "waiting": 49_999, "failed": 1, "cancelled": 0}
    assert frame["output_tokens"].sum() == 100_000


def test_replies_that_are_lists_of_one_length_stay_cells():
    replies = [[1, 2], [3, 4]]
    assert ask(replies)[0]["reply"].tolist() == replies


@pytest.mark.parametrize("tokens", [None, 0, 7, 2**53 - 1, 2**53 + 1, 2**62 + 1])
def test_token_counts_are_exact(tokens):
    answers = Answers()
    answers.extend_to(3)
    answers.set(0, OK, Reply("a", usage=Usage(tokens, tokens)))
    answers.set(1, FAILED, error=ValueError("x"))
    frame = frames.to_frame(answers, frames.source(range(4)))
    assert frame["input_tokens"].dtype == frame["output_tokens"].dtype == "Int64"
    assert [None if cell is pd.NA else cell for cell in frame["input_tokens"]] == [tokens, None, None, None]


def test_a_frame_may_be_changed_and_the_next_one_is_as_it_was():
    answers = Answers()
    answers.extend_to(1)
    answers.set(0, OK, "a", attempts=1)
    for _ in range(2):
        frame = frames.to_frame(answers, frames.source(["x"]))
        assert frame.iloc[0]["attempts"] == 1
        frame.loc[0, ["attempts", "from_store", "status", "latency"]] = [5, True, "failed", 1.0]
