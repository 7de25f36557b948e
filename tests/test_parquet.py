"""Parquet files as items and as answers."""

import asyncio
import datetime
import os
import resource
import signal
import subprocess
import sys
import textwrap
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ceylon_nb import LlmAgent, batch, parquet
from ceylon_nb.answers import OK
from ceylon_nb.errors import ConfigurationError, StoreUnwritable, TemplateError
from ceylon_nb.messages import Reply, Usage
from ceylon_nb.parquet import reading, writing


def table(folder, rows=3000, **options):
    """A file of so many rows, named in.parquet."""
    path = folder / "in.parquet"
    texts = [f"review {number}" for number in range(rows)]
    pq.write_table(pa.table({"id": pa.array(range(rows), pa.int64()), "text": texts}), path, **options)
    return path


async def echo(messages):
    await asyncio.sleep(0)
    return f"answer to {messages[-1].content}"


def agent(function=echo):
    return LlmAgent("clerk", function)


def answers_in(path):
    return pd.read_parquet(path)


# -- items in ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"row_group_size": 700}, {"use_dictionary": False, "data_page_size": 512}])
@pytest.mark.parametrize("as_text", [True, False])
def test_each_row_is_asked_about(tmp_path, options, as_text):
    path = table(tmp_path, **options)

    async def main():
        run = agent().map(str(path) if as_text else path, "{text}!", store=None, view=None, max_at_once=50)
        assert run.total == 3000
        return await run

    frame = asyncio.run(main())
    assert frame["reply"].tolist() == [f"answer to review {number}!" for number in range(3000)]
    assert frame.index.equals(pd.RangeIndex(3000))


def test_rows_are_read_in_any_order(tmp_path):
    rows = parquet.source(table(tmp_path, rows=9000, row_group_size=4000))
    order = [0, 8999, 3999, 4000, 17, 8000, *range(5000, 5010), 3, 7999]
    assert [rows.item(position)["id"] for position in order] == order
    assert rows.item(2) == {"id": 2, "text": "review 2"}
    assert rows.item(2).text == "review 2"
    assert [rows.label(0), rows.label(8999)] == [0, 8999]
    for position in (-1, 9000):
        with pytest.raises(IndexError):
            rows.item(position)


def test_wide_rows_come_in_small_chunks(tmp_path):
    path = tmp_path / "wide.parquet"
    pq.write_table(pa.table({"text": [str(number) * 100_000 for number in range(60)]}), path, use_dictionary=False)
    rows = parquet.source(path)
    assert [rows.item(position).text[0] for position in range(60)] == [str(number)[0] for number in range(60)]
    assert max(chunk.end - chunk.first for chunk in rows._chunks) < 60


def test_cells_are_what_they_are(tmp_path):
    path = tmp_path / "odd.parquet"
    when = datetime.datetime(2024, 1, 31, 12)
    cells = {
        "words": pa.array(["a", None, "a"]).dictionary_encode(),
        "when": pa.array([when, None, when], pa.timestamp("us")),
        "tags": pa.array([["x", "y"], None, []]),
        "meta": pa.array([{"k": 1}, None, {"k": 3}]),
        "n": pa.array([1, None, 3]),
        "x": pa.array([float("nan"), None, 1.5]),
    }
    pq.write_table(pa.table(cells), path)

    async def main():
        fields = "|".join(f"{{{name}}}" for name in cells)
        run = agent().map(path, f"{fields}|end", store=None, view=None)
        return (await run)["reply"].tolist()

    assert asyncio.run(main()) == [
        "answer to a|2024-01-31 12:00:00|['x', 'y']|{'k': 1}|1||end",
        "answer to ||||||end",
        "answer to a|2024-01-31 12:00:00|[]|{'k': 3}|3|1.5|end",
    ]


def test_only_the_columns_that_a_template_names_are_read_where_nobody_sees_the_others(tmp_path):
    path = table(tmp_path, rows=5)

    async def main():
        seen = []
        kept = agent().map(path, "{text}", store=None, view=None)
        async for answer in kept:
            seen.append(answer.item["id"])
        out = agent().map(path, "{text}", store=None, view=None, out=tmp_path / "out.parquet")
        await out
        return seen, dict(kept._source.item(0)), dict(out._source.item(0))

    seen, whole, narrow = asyncio.run(main())
    assert sorted(seen) == list(range(5))
    assert whole == {"id": 0, "text": "review 0"}
    assert narrow == {"text": "review 0"}


def test_a_function_gets_rows(tmp_path):
    async def length(row):
        return len(row.text) + row["id"]

    async def main():
        return await batch(length, table(tmp_path, rows=3), view=None)

    assert asyncio.run(main())["reply"].tolist() == [8, 9, 10]


@pytest.mark.parametrize("rows", [0, 1])
def test_few_rows_in_and_out(tmp_path, rows):
    path, out = table(tmp_path, rows=rows), tmp_path / "out.parquet"

    async def main():
        assert len(await agent().map(path, "{text}", store=None, view=None)) == rows
        assert await agent().map(path, "{text}", store=None, view=None, out=out) == out

    asyncio.run(main())
    frame = answers_in(out)
    assert len(frame) == rows
    assert frame["status"].dtype == "category"
    assert frame["input_tokens"].dtype == "Int64"


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("gone.parquet", None, "cannot be read: No such file or directory."),
        ("folder.parquet", "", "cannot be read: it is a folder; name one file."),
        ("not.parquet", b"text\n", "cannot be read: Parquet "),
        ("empty.parquet", b"", "cannot be read: Parquet "),
        ("in.csv", b"text\n", "is no .parquet file: read it first"),
    ],
)
def test_files_that_cannot_be_read(tmp_path, name, content, sentence):
    path = tmp_path / name
    if content == "":
        path.mkdir()
    elif content is not None:
        path.write_bytes(content)

    async def main():
        agent().map(path, "{text}", view=None)

    with pytest.raises(ConfigurationError) as caught:
        asyncio.run(main())
    assert sentence in str(caught.value)
    assert name in str(caught.value)


def test_a_column_that_is_not_there(tmp_path):
    path = table(tmp_path)

    async def main(template):
        agent().map(path, template, view=None)

    with pytest.raises(TemplateError, match=r"There is no column 'txt'. There are id, text."):
        asyncio.run(main("{txt}"))
    with pytest.raises(TemplateError, match=r"A table needs a template"):
        asyncio.run(main(None))


def test_a_text_that_names_no_file_is_still_one_text():
    async def main():
        agent().map("What is Parquet?", view=None)

    with pytest.raises(ConfigurationError, match="one single text"):
        asyncio.run(main())


def test_a_file_that_is_damaged_stops_the_batch_and_keeps_what_came_before(tmp_path):
    path = table(tmp_path, rows=6000, row_group_size=2000)
    size = path.stat().st_size
    with path.open("rb+") as file:
        file.seek(size // 2)
        file.write(b"\xff" * (size // 3))

    async def main():
        run = agent().map(path, "{text}", store=None, view=None)
        with pytest.raises(ConfigurationError, match=r"in\.parquet cannot be read: "):
            await run
        assert run.state == "stopped"
        return run.counts["ok"]

    assert 2000 <= asyncio.run(main()) < 6000


# -- answers out ------------------------------------------------------------------------------------------------------


def test_answers_are_in_the_order_of_the_input_whatever_the_order_in_which_they_come(tmp_path, monkeypatch):
    monkeypatch.setattr(writing, "TOGETHER", 64)
    monkeypatch.setattr(writing, "GROUP", 100)
    out = tmp_path / "answers.parquet"

    async def fn(number):
        await asyncio.sleep(0.001 * (number * 7919 % 13))
        if number % 10 == 3:
            raise ValueError(f"no {number}")
        return f"answer {number}"

    async def main():
        run = batch(fn, iter(range(1000)), view=None, max_at_once=100, out=out)
        assert await run == run.out == out
        for refused in (lambda: run.frame, lambda: run.failed):
            with pytest.raises(ConfigurationError, match=r"pandas\.read_parquet\('.*answers\.parquet'\)"):
                refused()
        assert "failures: 100 ValueError" in run.summary()

    asyncio.run(main())
    frame = answers_in(out)
    assert frame["position"].tolist() == list(range(1000))
    failed = frame["status"] == "failed"
    assert frame[failed]["position"].tolist() == list(range(3, 1000, 10))
    assert frame[failed]["error"].tolist() == [f"ValueError: no {number}" for number in range(3, 1000, 10)]
    assert frame[~failed]["reply"].tolist() == [f"answer {number}" for number in range(1000) if number % 10 != 3]
    assert [entry.name for entry in tmp_path.iterdir()] == ["answers.parquet"]


def test_a_files_columns_are_those_of_the_frame(tmp_path):
    items = pd.Series(["a", "b", "c"], index=pd.to_datetime(["2024-01-01", "2024-01-01", "2023-01-01"]))

    async def main():
        frame = await agent().map(items, view=None, store=None)
        out = await agent().map(items, view=None, store=None, out=tmp_path / "answers.parquet")
        return frame, answers_in(out)

    frame, read = asyncio.run(main())
    assert list(read) == ["position", "index", *frame]
    assert read["index"].tolist() == list(items.index)
    assert read["reply"].tolist() == frame["reply"].tolist()
    for name in ("status", "attempts", "latency", "input_tokens", "output_tokens", "from_store"):
        assert read[name].dtype == frame[name].dtype


@pytest.mark.parametrize(
    ("index", "labels"),
    [
        (["x", "x", "a"], ["x", "x", "a"]),
        ([3, 1, 2], [3, 1, 2]),
        ([1.5, float("nan"), 2.0], [1.5, None, 2.0]),
        (["x", 1, None], ["x", "1", "None"]),
        (pd.CategoricalIndex(["x", "y", "x"]), ["x", "y", "x"]),
        (pd.MultiIndex.from_tuples([("a", 1), ("a", 2), ("b", 1)]), ["('a', 1)", "('a', 2)", "('b', 1)"]),
        (pd.period_range("2024-01", periods=3, freq="M"), ["2024-01", "2024-02", "2024-03"]),
        (pd.interval_range(0, 3), ["(0, 1]", "(1, 2]", "(2, 3]"]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_labels_of_every_kind(tmp_path, index, labels):
    async def main():
        return await agent().map(pd.Series(list("abc"), index=index), view=None, store=None, out=tmp_path / "o.parquet")

    assert pq.read_table(asyncio.run(main()))["index"].to_pylist() == labels


def test_replies_of_every_kind(tmp_path):
    replies = ["text", {"a": [1, None]}, [1, 2], 3, 1.5, True, None, "half \ud83d", "x" * 3_000_000]

    async def fn(number):
        return replies[number]

    async def main():
        run = batch(fn, range(len(replies)), view=None, out=tmp_path / "o.parquet")
        return pq.read_table(await run)

    found = asyncio.run(main())
    said = ["text", '{"a":[1,null]}', "[1,2]", "3", "1.5", "true", None, "half \ufffd", "x" * 3_000_000]
    assert found["reply"].to_pylist() == said
    assert set(found["status"].to_pylist()) == {"ok"}


def test_a_reply_that_no_file_can_hold_is_a_failure(tmp_path):
    async def fn(_):
        return object()

    async def main():
        run = batch(fn, range(2), view=None, out=tmp_path / "o.parquet")
        return pq.read_table(await run)

    assert "a object is not stored" in asyncio.run(main())["error"][0].as_py()


def test_tokens_that_no_file_can_hold_are_unknown(tmp_path):
    said = [2**63, 2**63 - 1, -1, 0, 1.5, np.int64(7), None]

    async def model(messages):
        await asyncio.sleep(0)
        return Reply("ok", usage=Usage(said[int(messages[-1].content)], 1))

    async def main():
        items = [str(number) for number in range(len(said))]
        run = agent(model).map(items, view=None, store=None, out=tmp_path / "o.parquet")
        async with asyncio.timeout(10):
            return pq.read_table(await run)

    found = asyncio.run(main())
    assert found["input_tokens"].to_pylist() == [None, 2**63 - 1, None, 0, None, 7, None]
    assert found["output_tokens"].to_pylist() == [1] * len(said)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("answers.csv", r"answers\.csv is no \.parquet file\."),
        ("no/answers.parquet", "There is no folder "),
        ("folder.parquet", "cannot be written to"),
        ("", "out is the path of a .parquet file"),
    ],
)
def test_files_that_cannot_be_written(tmp_path, monkeypatch, name, sentence):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.parquet").mkdir()
    asked = []

    async def main():
        batch(asked.append, ["a"], view=None, out=name)

    with pytest.raises(ConfigurationError, match=sentence):
        asyncio.run(main())
    assert not asked


# -- what goes wrong on the way ---------------------------------------------------------------------------------------


def test_a_batch_that_is_cancelled_leaves_what_it_has_and_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(writing, "TOGETHER", 8)
    out, partial = tmp_path / "answers.parquet", tmp_path / "answers.partial.parquet"
    pq.write_table(pa.table({"before": [1]}), out)
    asked = []

    async def fn(number):
        asked.append(number)
        if number >= 50 and len(asked) < 60:
            await asyncio.Event().wait()
        return number

    async def main():
        run = batch(fn, range(100), view=None, max_at_once=5, out=out)
        while run.counts["ok"] < 50:
            await asyncio.sleep(0.001)
        assert run.out == out
        run.cancel()
        assert await run == run.out == partial
        assert answers_in(partial)["position"].tolist() == list(range(50))
        assert answers_in(out)["before"].tolist() == [1]
        asked.extend([None] * 60)
        run.resume()
        assert await run == run.out == out

    asyncio.run(main())
    assert answers_in(out)["reply"].tolist() == [str(number) for number in range(100)]
    assert [entry.name for entry in tmp_path.iterdir()] == ["answers.parquet"]


def test_a_cancel_while_the_file_is_written_and_a_resume_right_after_it(tmp_path, monkeypatch):
    monkeypatch.setattr(writing, "GROUP", 1)  # writing takes a while
    out = tmp_path / "answers.parquet"

    async def fn(number):
        await asyncio.sleep(0)
        return number

    async def main():
        run = batch(fn, range(1500), view=None, out=out)
        for stop in (100, 300, 500):
            while run.counts["ok"] < stop:
                await asyncio.sleep(0)
            run.cancel()
            await asyncio.sleep(0.01)
            run.resume()
        while run.state == "running":
            await asyncio.sleep(0)
        run.cancel()  # all is answered: there is nothing to cancel
        assert await run == out

    asyncio.run(main())
    assert answers_in(out)["reply"].tolist() == [str(number) for number in range(1500)]
    assert [entry.name for entry in tmp_path.iterdir()] == ["answers.parquet"]


def test_a_row_that_is_tried_again_has_its_new_answer(tmp_path):
    out, broken = tmp_path / "answers.parquet", True

    async def fn(number):
        if number % 3 == 0 and broken:
            raise ValueError("broken")
        return f"answer {number}"

    async def main():
        nonlocal broken
        run = batch(fn, range(10), view=None, out=out)
        await run
        assert answers_in(out)["status"].tolist().count("failed") == 4
        run.retry_failed()
        await run
        assert answers_in(out)["status"].tolist().count("failed") == 4
        broken = False
        run.retry_failed()
        assert await run == out
        assert not run.counts["failed"]

    asyncio.run(main())
    frame = answers_in(out)
    assert frame["reply"].tolist() == [f"answer {number}" for number in range(10)]
    assert frame["error"].isna().all()


def test_failed_rows_of_a_parquet_file_are_read_again(tmp_path):
    path, out, broken = table(tmp_path, rows=20_000), tmp_path / "answers.parquet", True

    async def answer(messages):
        if broken and messages[-1].content.endswith("7"):
            raise ValueError("broken")
        return messages[-1].content

    async def main():
        nonlocal broken
        run = agent(answer).map(path, "{text}", view=None, store=None, out=out, max_at_once=50)
        await run
        assert run.counts["failed"] == 2000
        broken = False
        run.retry_failed()
        await run

    asyncio.run(main())
    assert answers_in(out)["reply"].tolist() == [f"review {number}" for number in range(20_000)]


def test_a_batch_that_stops_leaves_what_it_has(tmp_path):
    def items():
        yield from range(5)
        raise OSError("the disk is gone")

    async def fn(number):
        return number

    async def main():
        run = batch(fn, items(), view=None, out=tmp_path / "answers.parquet")
        with pytest.raises(OSError, match="the disk is gone"):
            await run
        return run.out

    out = asyncio.run(main())
    assert out.name == "answers.partial.parquet"
    assert answers_in(out)["position"].tolist() == list(range(5))


def test_two_batches_may_name_the_same_file(tmp_path):
    out = tmp_path / "answers.parquet"

    async def main():
        def run(name):
            async def fn(number):
                await asyncio.sleep(0)
                return f"{name} {number}"

            return batch(fn, range(3000), view=None, out=out)

        await asyncio.gather(run("a"), run("b"))

    asyncio.run(main())
    replies = answers_in(out)["reply"].tolist()
    assert replies in [[f"{name} {number}" for number in range(3000)] for name in "ab"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["answers.parquet"]


@contextmanager
def no_room(size):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, before)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("together", [100, 100_000], ids=["while it runs", "at the end"])
def test_a_disk_that_is_full_loses_nothing(tmp_path, monkeypatch, together):
    monkeypatch.setattr(writing, "TOGETHER", together)
    out = tmp_path / "answers.parquet"
    pq.write_table(pa.table({"before": [1]}), out)
    asked = []

    async def fn(number):
        asked.append(number)
        await asyncio.sleep(0)
        return os.urandom(100).hex()

    async def main():
        with no_room(30_000) as make_room:
            run = batch(fn, range(2000), view=None, out=out)
            with pytest.raises(StoreUnwritable, match=r"answers\.parquet cannot be written: File too large"):
                await run
            assert run.state == "paused"
            assert answers_in(out)["before"].tolist() == [1]
            make_room()
        run.resume()
        assert await run == out
        assert run.state == "done"

    asyncio.run(main())
    assert sorted(asked) == list(range(2000))
    assert answers_in(out)["position"].tolist() == list(range(2000))
    assert answers_in(out)["reply"].str.len().eq(200).all()
    assert [entry.name for entry in tmp_path.iterdir()] == ["answers.parquet"]


def test_a_file_that_is_whole_stays_so_when_the_batch_is_resumed_for_its_store(tmp_path):
    out = tmp_path / "answers.parquet"
    answers = parquet.Delivered(out)
    answers.extend_to(3)
    for position in range(3):
        answers.set(position, OK, f"answer {position}", attempts=1, latency=0.1)

    def deliver():
        deadline = time.monotonic() + 5
        while not answers.deliver(whole=True):
            assert answers.trouble is None
            assert time.monotonic() < deadline
            time.sleep(0.01)

    deliver()
    answers.reopen()  # as the store had no room, say
    deliver()
    assert answers.out == out
    assert answers_in(out)["reply"].tolist() == [f"answer {position}" for position in range(3)]


KILLED = """
    import asyncio, os, signal, sys
    from ceylon_nb import batch

    async def fn(number):
        await asyncio.sleep(0)
        if number == 700 and sys.argv[1] == "kill":
            await asyncio.sleep(0.3)  # commits take turns of 0.02 s
            os.kill(os.getpid(), signal.SIGKILL)
        return f"answer {number}"

    async def main():
        run = batch(fn, range(1000), key=str, store="answers.sqlite", view=None, out="answers.parquet", name="x")
        await run
        print(run.from_store)

    asyncio.run(main())
"""


def test_after_a_kill_the_same_cell_again_goes_on_with_the_store(tmp_path):
    def python(said):
        command = [sys.executable, "-c", textwrap.dedent(KILLED), said]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)

    assert python("kill").returncode == -signal.SIGKILL
    assert not list(tmp_path.glob("*.parquet")) + list(tmp_path.glob(".*.tmp"))
    again = python("go on")
    assert int(again.stdout) > 0, again.stderr
    assert answers_in(tmp_path / "answers.parquet")["reply"].tolist() == [f"answer {number}" for number in range(1000)]


def test_answers_from_the_store_are_in_the_file_as_well(tmp_path):
    async def fn(number):
        return f"answer {number}"

    async def main():
        for name in ("first", "second"):
            run = batch(
                fn, range(50), key=str, store=tmp_path / "s.sqlite", view=None, out=tmp_path / f"{name}.parquet"
            )
            await run
        assert run.from_store == 50

    asyncio.run(main())
    first, second = (answers_in(tmp_path / f"{name}.parquet") for name in ("first", "second"))
    assert second["reply"].tolist() == first["reply"].tolist()
    assert second["from_store"].all()


def test_what_a_killed_python_left_is_cleared_away(tmp_path):
    stale, fresh = (tmp_path / f".answers.parquet.{name}.tmp" for name in ("old", "new"))
    for path in (stale, fresh):
        path.write_bytes(b"PAR1")
    os.utime(stale, (0, 0))

    async def main():
        await batch(asyncio.sleep, [0], view=None, out=tmp_path / "answers.parquet")

    asyncio.run(main())
    assert fresh.exists()
    assert not stale.exists()


def test_memory_does_not_grow_with_the_file(tmp_path):
    """The chunks at hand and the answers that wait are bounded, whatever the number of rows."""
    path = table(tmp_path, rows=50_000)

    async def main():
        run = agent().map(path, "{text}", view=None, store=None, out=tmp_path / "o.parquet", max_at_once=50)
        most = 0
        while not run.finished:
            await asyncio.sleep(0.01)
            most = max(most, len(run.rows._waiting))
        await run
        assert most < writing.MOST + 100
        assert len(run._source._chunks) <= reading.CHUNKS
        assert not run.rows._replies

    asyncio.run(main())
    assert np.array_equal(answers_in(tmp_path / "o.parquet")["position"], np.arange(50_000))


def test_a_relative_path_stays_where_it_was_when_the_batch_began(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    async def main():
        run = batch(asyncio.sleep, [0], view=None, out="answers.parquet")
        monkeypatch.chdir("/")
        return await run

    assert asyncio.run(main()) == tmp_path / "answers.parquet"
    assert Path(tmp_path / "answers.parquet").exists()
