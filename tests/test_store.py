"""Answers on disk, end to end: a real model server, a real file, and what happens to both.

The server's log says what was asked; a second connection to the file says what was written.
"""

import asyncio
import contextlib
import ctypes
import functools
import gc
import itertools
import json
import logging
import os
import random
import resource
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ceylon_nb import LlmAgent, batch, store
from ceylon_nb.errors import (
    ConfigurationError,
    StoreCorrupt,
    StoreError,
    StoreLocked,
    StoreTooNew,
    StoreUnwritable,
)
from ceylon_nb.messages import Message, Reply
from ceylon_nb.storage import file, place
from ceylon_nb.testing import faults

pytestmark = pytest.mark.skipif(os.name == "nt", reason="disks and permissions as on POSIX")

PATIENCE = 30  # seconds; more than anything here takes


def unique():
    """What a server says: another text every time, so that an answer tells which request it came from."""
    number = itertools.count()
    return lambda messages: f"{messages[-1]['content']} #{next(number)}"


@pytest.fixture
def path(tmp_path):
    return tmp_path / "answers.sqlite"


def agent_of(server, **options):
    return LlmAgent("clerk", "ollama::llama3.2", base_url=server.url, **options)


def ask(server, items, path, template=None, *, agent=None, **options):
    """Run the cell: a batch, to its end."""

    async def main():
        return await (agent or agent_of(server)).map(items, template, store=path, view=None, **options)

    return asyncio.run(main())


async def until(condition):
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.005)


@contextlib.contextmanager
def looking(path):
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    try:
        yield connection
    finally:
        connection.close()


@contextlib.contextmanager
def locked(path, how="IMMEDIATE"):
    """Hold the file as another process would that writes to it."""
    with looking(path) as connection:
        connection.execute("PRAGMA busy_timeout = 10000")
        connection.execute(f"BEGIN {how}")
        yield


def on_disk(path):
    """What a second connection reads: batch and position of every answer."""
    with looking(path) as connection:
        return connection.execute("SELECT batch, position FROM answers WHERE status = 1 ORDER BY id").fetchall()


class Gate:
    """Items of which some come at once, and the others when `open` is called."""

    def __init__(self, first, then):
        self.first, self.then = first, then
        self._reached, self._opened = asyncio.Event(), asyncio.Event()

    async def __aiter__(self):
        for item in self.first:
            yield item
        self._reached.set()
        await self._opened.wait()
        for item in self.then:
            yield item

    async def first_answered(self, run):
        await self._reached.wait()
        await until(lambda: run.counts["ok"] == len(self.first))

    def open(self):
        self._opened.set()


def numbered(start, stop):
    return [f"q{n}" for n in range(start, stop)]


# -- commit, then show -----------------------------------------------------------------------------------------------


@pytest.mark.model_server(reply=unique())
def test_nothing_is_shown_before_it_is_on_disk(model_server, path):
    async def main():
        noted, shown = [], []
        gate = Gate(["q0"], numbered(1, 21))
        run = agent_of(model_server).map(gate, store=path, view=None)
        run.subscribe(lambda run: noted.append(run.counts["ok"]))

        async def watch():
            async for answer in run.answers():
                written = on_disk(path)  # at this very moment
                shown.append((answer.position, (1, answer.position) in written))

        watching, awaiting = asyncio.create_task(watch()), asyncio.ensure_future(result_of(run))
        await gate.first_answered(run)
        with locked(path):
            gate.open()
            await model_server.until(lambda server: server.served == 21)
            await until(lambda: run.counts["in flight"] == 0 and run.counts["waiting"] == 20)
            await asyncio.wait([watching, awaiting], timeout=0.3)  # time enough to be wrong
            assert (run.counts["ok"], run.state, run.finished) == (1, "running", False)
            assert run.frame["status"].tolist() == ["ok"] + ["waiting"] * 20
            assert len(shown) == 1
            assert set(noted) <= {0, 1}
            assert not awaiting.done()
        frame = await awaiting
        assert len(on_disk(path)) == 21  # the last ones, too
        await watching
        return frame, shown

    frame, shown = asyncio.run(main())
    assert sorted(shown) == [(position, True) for position in range(21)]
    assert store(path).frame(1)["reply"].tolist() == frame["reply"].tolist()


async def result_of(run):
    return await run


@pytest.mark.model_server(reply=unique())
def test_a_cancelled_batch_waits_for_the_disk(model_server, path):
    async def main():
        gate = Gate(["q0"], numbered(1, 5))
        run = agent_of(model_server).map(gate, store=path, view=None)
        await gate.first_answered(run)
        with locked(path):
            gate.open()
            await model_server.until(lambda server: server.served == 5)
            await until(lambda: run.counts["in flight"] == 0 and run.counts["waiting"] == 4)
            run.cancel()
            awaiting = asyncio.ensure_future(result_of(run))
            await asyncio.wait([awaiting], timeout=0.2)
            assert not awaiting.done()
        return await awaiting

    frame = asyncio.run(main())
    assert frame["status"].tolist() == ["ok"] * 5  # what was paid for is in the frame,
    assert len(on_disk(path)) == 5  # and on disk
    assert ask(model_server, numbered(0, 5), path)["reply"].tolist() == frame["reply"].tolist()
    assert model_server.received == 5


# -- the same again --------------------------------------------------------------------------------------------------


@pytest.mark.model_server(reply=unique())
def test_the_same_batch_again_asks_for_what_is_missing(model_server, path):
    items = pd.Series(["a", "b", "a", None, float("nan"), "a"], index=[9, 9, -1, 4, 5, 0])
    first = ask(model_server, items, path, "{}")
    assert first["status"].tolist() == ["ok"] * 3 + ["failed"] * 2 + ["ok"]
    assert len(set(first["reply"].dropna())) == 4  # three equal rows are three answers
    second = ask(model_server, items, path, "{}")
    assert model_server.received == 4
    assert second.index.tolist() == items.index.tolist()
    pd.testing.assert_frame_equal(second.drop(columns="from_store"), first.drop(columns="from_store"))
    assert second["from_store"].tolist() == [True, True, True, False, False, True]
    assert type(second["reply"].iloc[0]) is Reply

    async def main():
        run = agent_of(model_server).map([*items, "a", "c"], "{}", store=path, view=None)
        return await run, run

    third, run = asyncio.run(main())
    assert third["reply"].tolist()[:6] == first["reply"].tolist()
    assert Counter(request.prompt for request in model_server.requests) == {"a": 4, "b": 1, "c": 1}
    assert run.from_store == 4
    assert "4 from the store; fresh=True asks anew" in run.summary()
    assert ask(model_server, [], path).empty
    assert model_server.received == 6


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    items=st.lists(st.sampled_from("abc"), min_size=1, max_size=25),
    at_once=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    rounds=st.lists(st.integers(0, 4), min_size=1, max_size=7),
    seen=st.integers(0, 25),
)
def test_a_row_keeps_its_answer_whatever_happened_to_the_batch(tmp_path_factory, items, at_once, rounds, seen):
    path = tmp_path_factory.mktemp("store") / "answers.sqlite"
    number, pace = itertools.count(), itertools.cycle(rounds)

    async def answer(item):
        mine = next(number)
        for _ in range(next(pace)):
            await asyncio.sleep(0)
        return f"{item} #{mine}"

    async def first():
        run = batch(answer, items, key=str, store=path, view=None, max_at_once=at_once[0])
        shown = {}
        async for each in run.answers():
            shown[each.position] = each.reply
            if len(shown) == seen:
                run.cancel()
        return shown, await run

    async def second():
        return await batch(answer, items, key=str, store=path, view=None, max_at_once=at_once[1])

    shown, cut = asyncio.run(first())
    kept, asked = len(on_disk(path)), next(number)
    frame = asyncio.run(second())
    assert (frame["status"] == "ok").all()
    assert [reply[0] for reply in frame["reply"]] == items
    assert len(set(frame["reply"])) == len(items)  # each its own
    assert {position: frame["reply"][position] for position in shown} == shown
    was = cut["status"] == "ok"
    assert frame["reply"][was].tolist() == cut["reply"][was].tolist()
    assert kept == was.sum()
    assert next(number) - asked - 1 == len(items) - kept  # what is on disk is not asked for


@pytest.mark.model_server(reply=unique())
def test_fresh_asks_anew_and_keeps_the_old(model_server, path):
    old = ask(model_server, ["a", "b"], path, name="old")
    new = ask(model_server, ["a", "b"], path, name="new", fresh=True)
    assert model_server.received == 4
    assert not set(old["reply"]) & set(new["reply"])
    assert store(path).frame("old")["reply"].tolist() == old["reply"].tolist()
    assert ask(model_server, ["a", "b"], path)["reply"].tolist() == new["reply"].tolist()  # the newest
    assert model_server.received == 4


def test_dedupe_asks_equal_prompts_once(path):
    calls, failing = Counter(), {"b"}
    hold = {}

    async def answer(item):
        calls[item] += 1
        if item in hold:
            hold[item].set()
            await asyncio.Event().wait()
        await asyncio.sleep(0.05)  # time for all equal ones to come
        if item in failing:
            raise OSError("no")
        return f"{item} #{calls[item]}"

    def begin(items, **options):
        return batch(answer, items, key=str, store=path, view=None, **{"dedupe": True, "max_at_once": 3, **options})

    async def main():
        run = begin(list("abcabcabc"), name="first", max_at_once=9)
        frame = await run
        assert frame["reply"].tolist() == ["a #1", None, "c #1"] * 3
        assert calls == {"a": 1, "b": 1, "c": 1}  # the one that fails fails for all
        assert frame["error"].tolist() == [None, "OSError: no", None] * 3
        failing.clear()
        run.retry_failed()
        assert (await run)["reply"].tolist() == ["a #1", "b #2", "c #1"] * 3
        assert calls == {"a": 1, "b": 2, "c": 1}

        hold["d"] = asyncio.Event()  # the one that asks is cancelled
        run = begin(list("dada"), name="second")
        await hold["d"].wait()
        await until(lambda: run.counts["in flight"] == 1)
        run.cancel()
        assert (await run)["status"].tolist() == ["cancelled", "ok", "cancelled", "ok"]
        hold.clear()
        run.resume()
        assert (await run)["reply"].tolist() == ["d #2", "a #1"] * 2
        assert (await run)["from_store"].tolist() == [False, True] * 2
        assert calls == {"a": 1, "b": 2, "c": 1, "d": 2}

        apart = await begin(list("aa"), dedupe=False)  # two answers, of which one is there
        assert apart["from_store"].tolist() == [True, False]

    asyncio.run(main())
    assert store(path).frame("first")["reply"].tolist() == ["a #1", "b #2", "c #1"] * 3
    assert store(path).frame("second")["reply"].tolist() == ["d #2", "a #1"] * 2
    assert store(path).batches()["done"].tolist() == [2, 4, 9]
    with pytest.raises(ConfigurationError, match="key="):
        asyncio.run(call(lambda: batch(answer, ["a"], dedupe=True)))


async def call(function):
    return function()


@pytest.mark.model_server(reply=unique())
def test_failures_are_remembered_and_not_reused(model_server, path):
    model_server.next(*[faults.status(500)] * 2, *[faults.status(400)])
    agent = agent_of(model_server, attempts=2)
    frame = ask(model_server, ["a", "b", "c"], path, agent=agent, max_at_once=1, name="first")
    assert frame["status"].tolist() == ["failed", "failed", "ok"]
    stored = store(path).frame("first")
    assert stored["attempts"].tolist() == frame["attempts"].tolist() == [2, 1, 1]
    assert stored["error"].tolist() == frame["error"].tolist()
    assert stored["prompt"].tolist() == ["a", "b", "c"]
    again = ask(model_server, ["a", "b", "c"], path, agent=agent, max_at_once=1)
    assert (again["status"] == "ok").all()
    assert again["from_store"].tolist() == [False, False, True]
    assert store(path).batches()["failed"].tolist() == [0, 2]

    async def main():
        model_server.next(faults.status(400))
        run = agent.map(["d", "e"], store=path, view=None, max_at_once=1, name="retried")
        await run
        run.retry_failed()
        return await run

    frame = asyncio.run(main())
    assert store(path).frame("retried")["reply"].tolist() == frame["reply"].tolist()
    assert store(path).batches().iloc[0][["done", "failed", "left"]].tolist() == [2, 0, 0]


@pytest.mark.model_server(reply=unique(), models=["llama3.2", "other"])
def test_what_makes_a_question_another_one(model_server, path):
    base = {"api_key": "one", "system_prompt": "S", "temperature": 0.5, "max_tokens": 50}

    def asked(items=("a",), url=model_server.openai_url, model="openai::llama3.2", options=base, **more):
        before = model_server.received
        agent = LlmAgent("clerk", model, base_url=url, **options)
        ask(model_server, list(items), path, agent=agent, **more)
        return model_server.received - before

    assert asked() == 1
    assert asked() == 0
    for same in (
        {"options": {**base, "api_key": "two"}},
        {"options": {**base, "timeout": 9, "attempts": 1}},
        {"name": "another", "max_at_once": 1},
        {"items": [[Message("user", "a")]]},
        {"items": [[{"role": "system", "content": "S"}, {"role": "user", "content": "a"}]]},
    ):
        assert asked(**same) == 0, same
    for other in (
        {"model": "openai::other"},
        {"model": "ollama::llama3.2", "url": model_server.url},
        {"url": f"{model_server.url}/proxy/v1"},
        {"options": {**base, "system_prompt": "T"}},
        {"options": {**base, "system_prompt": None}},
        {"options": {**base, "temperature": 0}},
        {"options": {**base, "temperature": None}},
        {"options": {**base, "max_tokens": 51}},
        {"items": ["b"]},
        {"items": [[Message("user", "x"), Message("assistant", "y"), Message("user", "a")]]},
    ):
        assert asked(**other) == 1, other
        assert asked(**other) == 0, other


def test_functions_are_stored_when_told_by_what(path, caplog):
    calls = []

    async def answer(item):
        calls.append(item)
        return f"<{item}>"

    async def speak(messages):
        calls.append(messages[-1]["content"] if isinstance(messages[-1], dict) else messages[-1].content)
        return "said"

    async def run_it(items, **options):
        return await batch(answer, items, view=None, **options)

    rows = [{"id": 1, "text": "a"}, {"id": 2, "text": "b"}]
    for _ in range(2):
        frame = asyncio.run(run_it(rows, key=lambda row: str(row["id"]), store=path))
    assert (len(calls), frame["from_store"].all()) == (2, True)
    with pytest.raises(ConfigurationError, match="key="):
        asyncio.run(run_it(rows, store=path))
    assert len(calls) == 2
    calls.clear()
    agent = LlmAgent("own", speak)
    for _ in range(2):
        ask(None, ["a"], path, agent=agent)
    assert calls == ["a"]
    ask(None, ["a"], "auto", agent=agent)  # not unless a file is named: what a function does may change
    assert calls == ["a", "a"]
    assert not caplog.records


def test_replies_that_json_cannot_say_stay_in_the_frame(path, caplog):
    odd = {1, 2}

    async def answer(item):
        return odd if item == "odd" else [item]

    async def run_it(**options):
        run = batch(answer, ["a", "odd", "odd"], key=str, store=path, view=None, **options)
        return await run, run

    with caplog.at_level(logging.WARNING):
        frame, _ = asyncio.run(run_it(name="kept"))
    assert frame["reply"].tolist() == [["a"], odd, odd]
    assert [record.getMessage() for record in caplog.records if "A set is not stored" in record.getMessage()]
    assert len(caplog.records) == 1
    assert len(on_disk(path)) == 1
    _, run = asyncio.run(run_it(keep=False))
    assert (run.counts["ok"], run.counts["failed"]) == (1, 2)
    assert "2 ConfigurationError" in run.summary() or run.counts["failed"] == 2


TEXTS = ["nul \0 within", "\0", "\ud800 half", "🐟🐟", "\r\n", "x" * 1_000_000, '\\u0000 "quoted"', "\x7f\x1b[31m"]


def test_texts_of_every_kind_come_back(path):
    async def answer(item):
        return item

    def again():
        async def main():
            return await batch(answer, TEXTS, key=str, store=path, view=None, name="t \ud800")

        return asyncio.run(main())

    again()
    frame = again()
    assert frame["from_store"].all()
    expected = [text.replace("\ud800", "�") for text in TEXTS]
    assert frame["reply"].tolist() == expected
    assert store(path).frame(2)["prompt"].tolist() == expected
    assert store(path).frame("t �")["reply"].tolist() == expected


def test_errors_of_every_kind_are_written(path):
    async def answer(item):
        raise FileNotFoundError(2, "no", "a name \udcff of bytes\0")

    async def main():
        return await batch(answer, ["a", "b"], key=str, store=path, view=None, name="failing")

    frame = asyncio.run(asyncio.wait_for(main(), PATIENCE))
    assert frame["status"].tolist() == ["failed"] * 2
    assert store(path).frame("failing")["status"].tolist() == ["failed"] * 2


# -- troubles before the first request -------------------------------------------------------------------------------


@contextlib.contextmanager
def anybody():
    """Not root, for whom no folder is read-only."""
    if os.getuid():
        yield
        return
    os.setegid(65534)
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)


@pytest.fixture
def public(tmp_path):
    """A folder that everybody can get to."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def refused(server, path, error, match):
    async def main():
        before = asyncio.all_tasks()
        with pytest.raises(error, match=match) as caught:
            agent_of(server).map(["a", "b"], store=path, view=None)
        assert asyncio.all_tasks() == before
        assert "store=" in str(caught.value)  # what to do

    asyncio.run(main())
    assert server.received == 0


def test_a_folder_that_may_not_be_written_to(model_server, public):
    ask(model_server, ["a"], public / "there.sqlite")
    (public / "there.sqlite").chmod(0o444)
    (public / "closed").mkdir(mode=0o000)
    public.chmod(0o555)
    model_server.reset()
    try:
        with anybody():
            refused(model_server, public / "new.sqlite", StoreUnwritable, "cannot be made: Permission denied")
            refused(model_server, public / "there.sqlite", StoreUnwritable, "cannot be written")
            refused(model_server, public / "closed" / "a.sqlite", StoreUnwritable, "Permission denied")
    finally:
        public.chmod(0o755)


def text_file(path):
    path.write_text("Bread, milk.\n" * 500)


def garbled(path):
    file.connect(path).close()
    path.write_bytes(path.read_bytes()[:4096] + os.urandom(path.stat().st_size - 4096))


def truncated(path):
    file.connect(path).close()
    path.write_bytes(path.read_bytes()[:5000])


def somebody_elses(path):
    with looking(path) as connection:
        connection.execute("CREATE TABLE theirs (a)")


def newer(path):
    file.connect(path).close()
    with looking(path) as connection:
        connection.execute(f"PRAGMA user_version = {len(file.STEPS) + 1}")


@pytest.mark.parametrize(
    ("spoil", "error", "match"),
    [
        (text_file, StoreCorrupt, "damaged, or is no store"),
        (garbled, StoreCorrupt, "Move it away"),
        (truncated, StoreCorrupt, "Move it away"),
        (somebody_elses, StoreCorrupt, "something else"),
        (newer, StoreTooNew, "Upgrade"),
        (lambda path: path.parent.rmdir(), StoreUnwritable, "cannot be made: No such file"),
    ],
    ids=["text", "garbled", "truncated", "theirs", "newer", "no folder"],
)
def test_a_file_that_cannot_be_used_is_an_error_before_anything_is_sent(model_server, tmp_path, spoil, error, match):
    (tmp_path / "folder").mkdir()
    path = tmp_path / "folder" / "answers.sqlite"
    spoil(path)
    before = path.read_bytes() if path.exists() else None
    refused(model_server, path, error, match)
    assert before is None or path.read_bytes() == before


def test_a_folder_in_place_of_the_file(model_server, tmp_path, monkeypatch):
    monkeypatch.setattr(place, "_home", tmp_path)
    monkeypatch.delenv("CEYLON_NB_STORE")
    (tmp_path / ".ceylon_nb" / "answers.sqlite").mkdir(parents=True)
    refused(model_server, "auto", StoreUnwritable, "cannot be written")
    shutil.rmtree(tmp_path / ".ceylon_nb")
    (tmp_path / ".ceylon_nb").write_text("a file in place of the folder")
    refused(model_server, "auto", StoreUnwritable, "cannot be made")


@pytest.mark.model_server(reply=unique())
def test_a_file_that_another_process_holds_is_waited_for(model_server, path):
    holder = f"""
        import sqlite3, sys
        connection = sqlite3.connect({str(path)!r}, isolation_level=None)
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        connection.execute("BEGIN EXCLUSIVE")
        print("held", flush=True)
        sys.stdin.read()
    """
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(holder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout.readline() == b"held\n"

        async def main():
            run = agent_of(model_server).map(["a", "b"], store=path, view=None)
            assert run.state == "running"
            await asyncio.sleep(0.3)  # time enough to be wrong
            assert (run.counts["waiting"], model_server.received) == (2, 0)
            process.stdin.close()
            return await run

        assert (asyncio.run(main())["status"] == "ok").all()


# -- troubles in mid-run ---------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def heartbeat():
    """The longest time between two rounds of the loop, in seconds."""
    gaps, stop = [0.0], False

    async def beat():
        before = time.monotonic()
        while not stop:
            await asyncio.sleep(0.005)
            gaps.append(time.monotonic() - before)
            before = time.monotonic()

    beating = asyncio.create_task(beat())
    yield gaps
    stop = True
    await beating


async def paused_by(run, error, *, on_disk_before, server):
    """The batch stands still, its answers in memory; what is raised says what to do."""
    with pytest.raises(error) as caught:
        await asyncio.wait_for(result_of(run), PATIENCE)
    assert run.state == "paused"
    assert "run.resume()" in caught.value.__notes__[0]
    assert len(caught.value.__notes__) == 1
    asked = server.received
    await until(lambda: run.counts["in flight"] == 0)
    assert run.frame["reply"].nunique() == asked > on_disk_before  # all that came is in the frame
    await asyncio.sleep(0.1)
    assert server.received == asked  # nothing more is sent
    return asked


@contextlib.contextmanager
def tiny_disk(folder):
    """A file system of a megabyte, of which more can be had."""
    libc = ctypes.CDLL(None, use_errno=True)

    def mount(flags, size):
        return libc.mount(b"tmpfs", str(folder).encode(), b"tmpfs", flags, f"size={size}k".encode())

    if libc.mount is None or mount(0, 1024):
        pytest.skip("no file system may be mounted here")
    try:
        yield lambda: mount(32, 65536)  # MS_REMOUNT
    finally:
        assert libc.umount2(str(folder).encode(), 2) == 0  # MNT_DETACH


@contextlib.contextmanager
def small_files(folder):
    """No file may grow beyond a megabyte, until it may."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, before[1]))
    try:
        yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, before)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


LONG = unique()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux's mounts and limits")
@pytest.mark.parametrize("short_of", [tiny_disk, small_files])
@pytest.mark.parametrize("goes_on", ["same", "elsewhere", "nowhere"])
@pytest.mark.model_server(reply=lambda messages: LONG(messages) + "x" * 50_000)
def test_a_disk_that_is_full(model_server, tmp_path, short_of, goes_on):
    folder = tmp_path / "disk"
    folder.mkdir()
    path, other = folder / "answers.sqlite", tmp_path / "other.sqlite"
    items = numbered(0, 60)

    async def main(more_room):
        run = agent_of(model_server).map(items, store=path, view=None, name="mine")
        asked = await paused_by(run, StoreUnwritable, on_disk_before=0, server=model_server)
        before = run.frame["reply"].tolist()
        if goes_on == "same" or short_of is small_files:
            more_room()
        if goes_on == "same":
            run.resume()
        else:
            run.resume(store=other if goes_on == "elsewhere" else None)
        frame = await run
        assert frame["reply"].tolist()[:asked] == before[:asked]
        return frame

    with short_of(folder) as more_room:
        frame = asyncio.run(main(more_room))
        assert (frame["status"] == "ok").all()
        assert model_server.received == 60  # nothing twice
        if goes_on == "same":
            assert store(path).frame("mine")["reply"].tolist() == frame["reply"].tolist()
            assert ask(model_server, items, path)["reply"].tolist() == frame["reply"].tolist()
        if goes_on != "nowhere":  # what is on neither is lost: nothing is
            more_room()
            there = {tuple(row) for each in (path, other) if each.exists() for row in prompts_in(each)}
            assert {prompt for prompt, _ in there} == set(items)
        assert model_server.received == 60


def prompts_in(path):
    with looking(path) as connection:
        return connection.execute("SELECT prompt, reply FROM answers WHERE status = 1").fetchall()


def remove_folder(path):
    shutil.rmtree(path.parent)
    return lambda: path.parent.mkdir()


def replace_file(path):
    with looking(path) as connection:
        connection.execute("VACUUM INTO ?", (f"{path}-backup",))  # one that has been in use is not another batch's
    with looking(f"{path}-backup") as connection:
        connection.execute("DELETE FROM batches")
    Path(f"{path}-backup").replace(path)
    return lambda: None


def garble(path):
    with looking(path) as connection:  # so that what is read next is read from the file
        connection.execute("UPDATE batches SET updated = updated + 1")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with path.open("r+b") as target:
        target.write(os.urandom(path.stat().st_size))

    def move_away():
        for end in ("", "-wal", "-shm"):
            Path(f"{path}{end}").unlink(missing_ok=True)

    return move_away


@pytest.mark.parametrize(
    ("spoil", "error"),
    [(remove_folder, StoreUnwritable), (replace_file, StoreUnwritable), (garble, StoreCorrupt)],
)
@pytest.mark.parametrize("dedupe", [False, True])
@pytest.mark.model_server(reply=unique())
def test_a_file_that_is_spoiled_while_it_is_used(model_server, tmp_path, spoil, error, dedupe):
    path = tmp_path / "folder" / "answers.sqlite"
    path.parent.mkdir()
    first, then = numbered(0, 5), [*numbered(5, 15), *numbered(0, 15)]
    asked_for = 15 if dedupe else 30

    async def main():
        gate = Gate(first, then)
        run = agent_of(model_server).map(gate, store=path, view=None, name="mine", dedupe=dedupe, max_at_once=3)
        await gate.first_answered(run)
        mend = spoil(path)
        gate.open()
        await paused_by(run, error, on_disk_before=5, server=model_server)
        mend()
        run.resume()
        return await asyncio.wait_for(result_of(run), PATIENCE)

    frame = asyncio.run(main())
    assert (frame["status"] == "ok").all()
    assert model_server.received == asked_for
    there = store(path).frame("mine")
    assert there["reply"][5:].tolist() == frame["reply"][5:].tolist()  # what was on its way is there
    assert frame["reply"].nunique() == asked_for


@pytest.mark.model_server(reply=unique())
def test_a_lock_that_is_held_for_too_long(model_server, path, monkeypatch, caplog):
    monkeypatch.setattr(file, "PATIENCE", 0.2)

    async def main():
        gates = Gate(["q0"], numbered(1, 10)), Gate(["r0"], numbered(100, 110))
        agent = agent_of(model_server)
        one, two = (agent.map(gate, store=path, view=None, name=gate.first[0]) for gate in gates)
        for run, gate in zip((one, two), gates, strict=True):
            await gate.first_answered(run)
        with locked(path):
            async with heartbeat() as gaps:
                for gate in gates:
                    gate.open()
                for run in (one, two):
                    with pytest.raises(StoreLocked, match="wait for it, or end it") as caught:
                        await run
                    assert len(caught.value.__notes__) == 1  # each batch has its own
            await until(lambda: one.counts["in flight"] == two.counts["in flight"] == 0)
            asked = model_server.received
            assert one.counts["ok"] + two.counts["ok"] == asked
        assert max(gaps) < 0.15
        assert len(on_disk(path)) == 2
        one.resume()  # which writes what the other has, too
        assert (await one)["status"].eq("ok").all()
        assert two.state == "paused"
        two.resume()
        assert (await two)["status"].eq("ok").all()
        third = await agent.map(["s0"], store=path, view=None)  # and nothing sticks
        assert third["status"].tolist() == ["ok"]
        return await one, await two

    one, two = asyncio.run(main())
    assert model_server.received == 22
    assert store(path).frame("q0")["reply"].tolist() == one["reply"].tolist()
    assert store(path).frame("r0")["reply"].tolist() == two["reply"].tolist()
    assert [record.levelname for record in caplog.records] == ["WARNING"] * 2


@pytest.mark.model_server(reply=unique())
def test_a_slow_disk_freezes_nothing(model_server, path):
    async def main():
        gate = Gate(["q0"], numbered(1, 200))
        run = agent_of(model_server).map(gate, store=path, view=None)
        await gate.first_answered(run)
        async with heartbeat() as gaps:
            with locked(path):
                gate.open()
                await asyncio.sleep(1)
            await asyncio.sleep(0.03)
            with locked(path):
                await asyncio.sleep(1)
            await run
        return gaps

    assert max(asyncio.run(main())) < 0.25  # and not 1
    assert len(on_disk(path)) == 200


@pytest.mark.parametrize("dedupe", [False, True])
@pytest.mark.model_server(reply=unique())
def test_a_look_up_that_fails(model_server, path, monkeypatch, dedupe):
    monkeypatch.setattr(place, "filesystem", lambda path: "nfs4")  # there, whoever writes shuts readers out
    monkeypatch.setattr(file, "PATIENCE", 0.2)
    items = [*numbered(0, 8), *numbered(0, 8)] if dedupe else numbered(0, 16)
    before = ask(model_server, items, path, dedupe=dedupe)
    asked = model_server.received

    async def main():
        gate = Gate([], items)
        run = agent_of(model_server).map(gate, store=path, view=None, dedupe=dedupe, max_at_once=16)
        await gate.first_answered(run)
        with locked(path, "EXCLUSIVE"):
            gate.open()
            with pytest.raises(StoreLocked):
                await run
            assert run.state == "paused"
        run.resume()
        return await asyncio.wait_for(result_of(run), PATIENCE)

    frame = asyncio.run(main())
    assert frame["reply"].tolist() == before["reply"].tolist()
    assert frame["from_store"].all()
    assert model_server.received == asked


@pytest.mark.model_server(reply=unique())
def test_links_to_answers_do_not_lead_into_another_file(model_server, path, tmp_path, monkeypatch):
    """What was found in one file is written to the other as what it is."""
    monkeypatch.setattr(file, "PATIENCE", 0.2)
    other = tmp_path / "other.sqlite"
    ask(model_server, ["x", "y"], other)  # numbers that mean something else there
    before = ask(model_server, ["a", "b", "a"], path, dedupe=True)
    asked = model_server.received

    async def main():
        gate, later = Gate(["a"], ["b", "a", "b"]), Gate([], ["c", "a", "c", "b"])

        async def items():
            for each in (gate, later):
                async for item in each:
                    yield item

        run = agent_of(model_server).map(items(), store=path, view=None, dedupe=True, name="moved")
        await gate.first_answered(run)
        with locked(path):
            gate.open()
            await until(lambda: run.state == "paused" and run.counts["ok"] == 4)
            run.resume(store=other)
            later.open()
            return await asyncio.wait_for(result_of(run), PATIENCE)

    frame = asyncio.run(main())
    assert frame["reply"].tolist()[:4] == [before["reply"][0], before["reply"][1]] * 2
    assert frame["reply"].tolist()[4:] == [frame["reply"][4], before["reply"][0], frame["reply"][4], before["reply"][1]]
    assert model_server.received == asked + 1
    there = store(other).frame("moved")["reply"].tolist()
    assert there[1:] == frame["reply"].tolist()[1:]
    assert there[0] is None  # this one is in the file where it was


def test_a_batch_whose_store_fails_does_not_wait_for_a_stream_to_say_so(model_server, path, monkeypatch):
    monkeypatch.setattr(file, "PATIENCE", 0.2)

    async def main():
        gate, later = Gate(["a"], ["b"]), Gate([], ["c"])

        async def items():
            for each in (gate, later):
                async for item in each:
                    yield item

        run = agent_of(model_server).map(items(), store=path, view=None)
        await gate.first_answered(run)
        with locked(path):
            gate.open()
            with pytest.raises(StoreLocked, match=r"1 answers are in run\.frame and not on disk"):
                await asyncio.wait_for(result_of(run), PATIENCE)
        run.resume()
        later.open()
        return await asyncio.wait_for(result_of(run), PATIENCE)

    assert list(asyncio.run(main())["status"]) == ["ok"] * 3


async def echo(item):
    await asyncio.sleep(random.random() * 0.005)
    return f"reply to {item}"


@pytest.mark.parametrize("seed", range(6))
def test_whatever_is_pressed_and_wherever_a_batch_moves_no_row_is_lost(tmp_path, seed):
    """Three batches that ask the same, on two files: cancelled, paused, moved, resumed at random moments."""
    chance = random.Random(seed)
    paths = [tmp_path / "a.sqlite", tmp_path / "b.sqlite"]

    async def main():
        runs = []
        for dedupe in (False, True, chance.random() < 0.5):
            items = [f"q{chance.randrange(40)}" for _ in range(100)]
            run = batch(echo, items, key=str, store=paths[0], dedupe=dedupe, view=None, max_at_once=8)
            runs.append((items, run))
        for _ in range(25):
            await asyncio.sleep(chance.random() * 0.01)
            run = chance.choice(runs)[1]
            move = functools.partial(run.resume, store=chance.choice([*paths, None]))
            chance.choice([run.cancel, run.pause, run.resume, move])()
        for items, run in runs:
            run.resume()
            frame = await asyncio.wait_for(result_of(run), PATIENCE)
            assert (run.state, frame["reply"].tolist()) == ("done", [f"reply to {item}" for item in items])

    asyncio.run(main())
    for path in paths:
        if path.exists():
            with looking(path) as connection:
                twice = "SELECT 1 FROM answers WHERE status = 1 GROUP BY batch, position HAVING count(*) > 1"
                assert not connection.execute(twice).fetchall()
                assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_a_batch_whose_file_is_gone_is_in_nobodys_way(path):
    async def main():
        lost = batch(echo, numbered(0, 50), key=str, store=path, view=None, max_at_once=1)
        await until(lambda: lost.counts["ok"])
        for each in path.parent.glob(f"{path.name}*"):
            each.unlink()
        with pytest.raises(StoreUnwritable, match="removed or replaced"):
            await lost
        for _ in range(3):
            await asyncio.wait_for(result_of(batch(echo, ["a"], key=str, store=path, view=None)), PATIENCE)
        lost.resume()
        assert (await lost)["status"].eq("ok").all()

    asyncio.run(main())


def test_batches_that_are_forgotten_may_be_collected_at_any_moment(path, tmp_path):
    """What has to be done then wants locks, which whoever is interrupted by the collector may hold."""

    async def main():
        for n in range(60):
            batch(echo, ["a", "b"], key=str, store=tmp_path / f"{n % 7}.sqlite", view=None).pause()
            await batch(echo, ["c"], key=str, store=tmp_path / f"{n % 5}.sqlite", view=None)

    threshold = gc.get_threshold()
    gc.set_threshold(20, 2, 2)
    try:
        asyncio.run(asyncio.wait_for(main(), PATIENCE))
    finally:
        gc.set_threshold(*threshold)


# -- nobody else reads it --------------------------------------------------------------------------------------------

KEY = "sk-secret-0123456789abcdef"


@pytest.mark.parametrize(("provider", "key"), [("openai", KEY), ("ollama", KEY), ("ollama", None)])
@pytest.mark.parametrize("said_in", ["errors", "replies"])
def test_no_secret_is_written_anywhere(model_server, tmp_path, monkeypatch, provider, key, said_in):
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setenv("MY_API_KEY", KEY)
    monkeypatch.setattr(tempfile, "tempdir", None)
    if said_in == "errors":
        headers = {"x-echo": KEY, "content-type": "text/plain"}
        model_server.next(faults.status(401, f"no such key: Bearer {KEY}", headers), faults.status(500, KEY, headers))
    else:
        model_server.reply = f"Your header was Bearer {KEY}."
    url = model_server.openai_url if provider == "openai" else model_server.url
    url = url if key else url.replace("//", f"//user:{KEY}@")
    path = tmp_path / "answers.sqlite"
    agent = LlmAgent("a", f"{provider}::llama3.2", base_url=url, api_key=key, attempts=1)

    async def main():
        run = agent.map(numbered(0, 4), store=path, view=None, max_at_once=1)
        while_it_runs = asyncio.create_task(any_found(run))
        frame = await run
        assert not await while_it_runs  # in the log of what is to come, too
        return frame

    async def any_found(run):
        found = []
        async for _ in run.answers():
            found += found_in(tmp_path)
        return found

    assert set(asyncio.run(main())["status"]) == ({"failed", "ok"} if said_in == "errors" else {"ok"})
    store(path).export(tmp_path / "out.csv")
    assert not found_in(tmp_path)
    store(path).prune(0)
    assert not found_in(tmp_path)


def found_in(folder):
    """The files that the key is in; SQLite's own come and go while one looks."""
    found = []
    for each in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError, IsADirectoryError):
            if KEY.encode() in each.read_bytes():
                found.append(each)
    return found


# -- several at once -------------------------------------------------------------------------------------------------

CHILD = """
    import asyncio, json, sys
    from ceylon_nb import LlmAgent
    url, path, name = sys.argv[1:]
    agent = LlmAgent("clerk", "ollama::llama3.2", base_url=url)
    async def main():
        import pandas
        print("ready", flush=True)
        sys.stdin.readline()
        run = agent.map([f"q{n % 150}" for n in range(200)], store=path, view=None, name=name, max_at_once=20)
        return await run
    frame = asyncio.run(main())
    print(json.dumps([frame["reply"].tolist(), frame["status"].tolist()]), flush=True)
"""


@pytest.mark.model_server(reply=unique())
def test_several_processes_on_one_new_file(model_server, path):
    children = [
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(CHILD), model_server.url, str(path), f"child {n}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for n in range(4)
    ]
    for child in children:
        assert child.stdout.readline() == "ready\n"
    for child in children:
        child.stdin.write("go\n")
        child.stdin.flush()
    for n, child in enumerate(children):
        out, _ = child.communicate(timeout=60)
        assert child.returncode == 0
        replies, statuses = json.loads(out)
        assert statuses == ["ok"] * 200
        assert [reply.partition(" ")[0] for reply in replies] == [f"q{n % 150}" for n in range(200)]
        assert store(path).frame(f"child {n}")["reply"].tolist() == replies
    with looking(path) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        rows = connection.execute(
            "SELECT batch, position FROM answers UNION ALL SELECT batch, position FROM reused"
        ).fetchall()
    assert sorted(rows) == [(number, position) for number in range(1, 5) for position in range(200)]
    assert model_server.received == 200  # nobody asked what another was asking


@pytest.mark.model_server(reply=unique())
def test_several_loops_and_threads_on_one_file(model_server, path):
    failed, frames = [], {}
    barrier = threading.Barrier(4)

    def work(n):
        try:
            barrier.wait()
            for name in (f"{n} a", f"{n} b"):  # the second time all of it is there
                frames[name] = ask(model_server, [f"{n} q{m % 20}" for m in range(30)], path, name=name)
        except Exception as error:  # noqa: BLE001 - shown below
            failed.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert model_server.received == 4 * 30
    for name, frame in frames.items():
        assert frame["from_store"].eq(name.endswith("b")).all()
        assert store(path).frame(name)["reply"].tolist() == frame["reply"].tolist()


SCRIPT = """
    import asyncio, os, sys
    from ceylon_nb import LlmAgent, store
    url, path = sys.argv[1:]
    agent = LlmAgent("clerk", "ollama::llama3.2", base_url=url)
    async def main(items):
        return await agent.map(items, store=path, view=None)
"""

FORKED = """
    asyncio.run(main(["a", "b"]))
    kept = agent.map(["c"], store=path, view=None)
    kept.result()
    child = os.fork()
    frame = asyncio.run(main(["a", "b", "c", f"own {bool(child)}"]))
    assert frame["from_store"].tolist() == [True, True, True, False], frame
    assert agent.map(["a"], store=path, view=None).result()["from_store"].all()
    if child:
        assert os.waitpid(child, 0)[1] == 0
    else:
        sys.stdout.flush()
        os._exit(0)
"""

ENDS = """
    run = agent.map([f"q{n}" for n in range(50)], store=path, view=None, name="last", max_at_once=50)
    print(run.result()["reply"].tolist())
"""


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(("then", "rows"), [(FORKED, 5), (ENDS, 50)], ids=["fork", "exit"])
@pytest.mark.model_server(reply=unique())
def test_a_process_that_forks_or_ends(model_server, path, then, rows):
    ended = subprocess.run(
        [
            sys.executable,
            "-W",
            "ignore",
            "-c",
            textwrap.dedent(SCRIPT) + textwrap.dedent(then),
            model_server.url,
            str(path),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert model_server.received == rows == len(on_disk(path))
    with looking(path) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    if then is ENDS:
        assert str(store(path).frame("last")["reply"].tolist()) == ended.stdout.strip()
        assert not path.with_name("answers.sqlite-wal").exists()  # closed as it should be


def ours():
    return {each for each in threading.enumerate() if each.name in ("ceylon-nb-store", "ceylon-nb-lookup")}


@pytest.mark.model_server(reply=unique())
def test_a_batch_that_is_forgotten_leaves_nothing_open(model_server, path):
    ask(model_server, ["a"], path)
    gc.collect()
    before = ours()

    async def main():
        gate = Gate(["a"], ["b"])
        run = agent_of(model_server).map(gate, store=path, view=None)
        await gate.first_answered(run)
        run.pause()
        assert {each.name for each in ours() - before} == {"ceylon-nb-lookup", "ceylon-nb-store"}

    asyncio.run(main())
    deadline = time.monotonic() + PATIENCE
    while ours() - before and time.monotonic() < deadline:
        gc.collect()
        time.sleep(0.01)
    assert not ours() - before
    assert not path.with_name("answers.sqlite-wal").exists()


# -- answers in the store alone --------------------------------------------------------------------------------------


@pytest.mark.model_server(reply=unique())
def test_answers_that_are_not_kept_in_memory(model_server, path):
    model_server.next(faults.status(400))

    async def main():
        run = agent_of(model_server).map(numbered(0, 6), store=path, view=None, keep=False, name="big", max_at_once=1)
        assert await run is None
        assert (run.counts["ok"], run.counts["failed"], run.total) == (5, 1, 6)
        for refuse in (lambda: run.frame, lambda: run.failed):
            with pytest.raises(ConfigurationError, match=r"store\(.*\)\.frame\('big'\) reads them"):
                refuse()
        with pytest.raises(ConfigurationError, match="keep=False"):
            async for _ in run:
                pass
        assert "tokens: " in run.summary()
        run.retry_failed()
        assert await run is None
        assert run.counts["ok"] == 6
        with pytest.raises(ConfigurationError, match="keep=False"):
            run.resume(store=None)
        again = agent_of(model_server).map(numbered(0, 6), store=path, view=None, keep=False, name="again")
        await again
        assert again.from_store == 6

    asyncio.run(main())
    assert model_server.received == 7
    frame = store(path).frame("big")
    assert (frame["status"] == "ok").all()
    assert frame["prompt"].tolist() == numbered(0, 6)
    assert store(path).frame("again")["reply"].tolist() == frame["reply"].tolist()
    for options in ({"store": None}, {"store": "auto"}):
        with pytest.raises(ConfigurationError, match="name a file in store="):
            asyncio.run(call(lambda options=options: agent_of(model_server).map(["a"], keep=False, **options)))


@pytest.mark.model_server(reply=unique())
def test_the_store_beside_the_notebook(model_server, tmp_path, monkeypatch):
    monkeypatch.setattr(place, "_home", tmp_path)
    ask(model_server, ["a"], "auto")  # CEYLON_NB_STORE=off here
    assert not list(tmp_path.iterdir())
    monkeypatch.delenv("CEYLON_NB_STORE")
    ask(model_server, ["a"], "auto")
    monkeypatch.chdir("/")
    assert ask(model_server, ["a"], "auto")["from_store"].all()
    assert {each.name for each in tmp_path.rglob("*")} >= {".ceylon_nb", ".gitignore", "answers.sqlite"}
    assert (tmp_path / ".ceylon_nb").stat().st_mode & 0o777 == 0o700
    for name in ("answers.sqlite", "answers.sqlite-claims"):  # SQLite's own come and go, with the mode of the first
        assert (tmp_path / ".ceylon_nb" / name).stat().st_mode & 0o777 == 0o600
    assert ask(model_server, ["a"], None)["from_store"].eq(False).all()
    with pytest.raises(StoreError):
        ask(model_server, ["a"], tmp_path / "no" / "folder.sqlite")
