"""batch() and Batch, with the course, the workers and the news behind them."""

import asyncio
import contextlib
import gc
import itertools
import logging
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections import Counter
from concurrent.futures import Future

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ceylon_nb
from ceylon_nb import batch, loop
from ceylon_nb.errors import CeylonError, ConfigurationError, InvalidItem, WrongLoop
from ceylon_nb.messages import Reply, Usage
from ceylon_nb.workers import BREATH

SECONDS = 10  # more than anything here takes; only a failing test waits for it


@pytest.fixture(scope="module", autouse=True)
def _fast_collections():
    """Each test collects garbage, to hear what is said about tasks that nobody looked at: only its own."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


class Spy:
    """An async function that counts its own calls, and may hold each until it is let go."""

    def __init__(self, answer=lambda item: item, *, held=False):
        self.answer = answer
        self.held = held
        self.calls = []
        self.active = self.peak = self.cancelled = 0
        self._waiting = []
        self._watches = []
        self._lock = threading.RLock()

    async def __call__(self, item):
        self._step(item)
        try:
            if self.held:
                await self._permission()
            return self.answer(item)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self._step()

    def let(self, n=1):
        """Let the oldest n held calls go on."""
        with self._lock:
            chosen = [call for call in self._waiting if not (call[1].done() or call[0].is_closed())][:n]
            self._waiting = [call for call in self._waiting if call not in chosen]
        for home, future in chosen:
            home.call_soon_threadsafe(lambda future=future: future.done() or future.set_result(None))

    def let_all(self):
        """Hold nobody from now on."""
        self.held = False
        self.let(len(self._waiting))

    async def until(self, predicate):
        async with asyncio.timeout(SECONDS):
            await asyncio.wrap_future(self._watch(predicate))

    def wait_for(self, predicate):
        self._watch(predicate).result(SECONDS)

    async def _permission(self):
        home = asyncio.get_running_loop()
        future = home.create_future()
        with self._lock:
            self._waiting.append((home, future))
        self._changed()
        await future

    def _step(self, *item):
        with self._lock:
            self.calls += item
            self.active += 1 if item else -1
            self.peak = max(self.peak, self.active)
        self._changed()

    def _watch(self, predicate):
        seen = Future()
        with self._lock:
            self._watches.append((predicate, seen))
        self._changed()
        return seen

    def _changed(self):
        with self._lock:
            for predicate, seen in self._watches:
                if not seen.done() and predicate():
                    seen.set_result(None)


def go(main, *, debug=False):
    """Like asyncio.run; no task may be left, and nothing said to the loop's exception handler."""
    noise = []

    async def guarded():
        asyncio.get_running_loop().set_exception_handler(lambda _, context: noise.append(context))
        async with asyncio.timeout(6 * SECONDS):
            result = await main
        gc.collect()
        await turns()
        assert asyncio.all_tasks() == {asyncio.current_task()}
        return result

    with asyncio.Runner(debug=debug or None) as runner:
        result = runner.run(guarded())
    gc.collect()
    assert noise == []
    return result


async def turns(n=20):
    """Let the loop go round: what could happen without anybody's doing has happened."""
    for _ in range(n):
        await asyncio.sleep(0)


def in_thread(function, *args):
    """Call it in another thread; returns what it returns, raises what it raises."""
    outcome = Future()

    def run():
        try:
            outcome.set_result(function(*args))
        except BaseException as error:  # noqa: BLE001 (raised again in the caller's thread)
            outcome.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return outcome


async def ended(run):
    """Wait until the batch has ended, without owning it."""
    async for _ in run.answers():
        pass


def boom(item):
    raise ValueError(f"no {item}")


def every_third(item):
    return boom(item) if item % 3 == 0 else item


def statuses(run):
    return list(run.frame["status"])


# -- it runs in the background, and is waited for ---------------------------------------------------------------------


def test_it_begins_at_once_and_returns_before_the_first_call():
    async def main():
        spy = Spy(held=True)
        run = batch(spy, list("abc"), max_at_once=2)
        assert (spy.calls, run.state, run.finished) == ([], "running", False)
        await spy.until(lambda: spy.active == 2)
        assert run.counts == {"ok": 0, "failed": 0, "cancelled": 0, "in flight": 2, "waiting": 1}
        spy.let_all()
        await run
        assert (run.state, run.finished) == ("done", True)

    go(main(), debug=True)


def test_the_frame_comes_in_input_order_whatever_the_order_of_completion():
    async def main():
        async def late_first(n):
            for _ in range(10 - n):
                await asyncio.sleep(0)
            completed.append(n)
            return n * n

        completed = []
        frame = await batch(late_first, range(10), max_at_once=10)
        assert completed == sorted(completed, reverse=True)
        assert list(frame["reply"]) == [n * n for n in range(10)]

    go(main())


@pytest.mark.parametrize("rows", [0, 1, 10_000])
def test_any_number_of_rows(rows):
    async def main():
        run = batch(Spy(), range(rows), max_at_once=100)
        frame = await run
        assert list(frame["reply"]) == list(range(rows))
        assert (run.state, run.total, run.counts["ok"]) == ("done", rows, rows)
        assert [answer.position async for answer in run] == list(range(rows))

    go(main())


def test_two_may_wait_for_it_and_again_later():
    async def main():
        spy = Spy(held=True)
        run = batch(spy, range(3))

        async def wait():
            return await run

        async with asyncio.TaskGroup() as group:
            first, second = group.create_task(wait()), group.create_task(wait())
            await spy.until(lambda: spy.active == 3)
            spy.let_all()
        assert (
            list(first.result()["reply"]) == list(second.result()["reply"]) == list((await run)["reply"]) == [0, 1, 2]
        )

    go(main(), debug=True)


def test_it_may_be_waited_for_and_iterated_on_another_loop():
    async def main():
        spy = Spy(held=True)
        run = batch(spy, range(20))

        async def elsewhere():
            return await run, [answer.reply async for answer in run.answers()]

        async def watch():
            return [answer.reply async for answer in run.answers()]

        watching, other = in_thread(asyncio.run, watch()), in_thread(asyncio.run, elsewhere())
        await spy.until(lambda: spy.active == 8)
        spy.let_all()
        frame, replies = await asyncio.wrap_future(other)
        assert list(frame["reply"]) == sorted(replies) == sorted(await asyncio.wrap_future(watching)) == list(range(20))

    go(main())


def test_frame_may_be_asked_at_any_moment_from_any_thread():
    """Each frame is whole: full length, and every row either answered with its reply or not at all."""
    run = batch(Spy(), (n for n in range(30_000)), max_at_once=50)
    frames = 0
    while not run.finished or frames < 3:
        frame = run.frame
        frames += 1
        done = (frame["status"] == "ok").to_numpy()
        assert list(frame["reply"][done]) == list(frame.index[done])
        assert frame["reply"][~done].isna().all()
        assert (frame["attempts"].to_numpy() == done).all()
    assert len(run.result(SECONDS)) == 30_000


# -- concurrency ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at_once", [1, 7, 100])
def test_peak_concurrency_is_max_at_once(at_once):
    async def main():
        spy = Spy(held=True)
        run = batch(spy, range(300), max_at_once=at_once)
        await spy.until(lambda: spy.active == at_once)
        await turns()
        spy.let_all()
        await run
        assert spy.peak == at_once

    go(main())


def test_eight_at_once_unless_told_otherwise():
    async def main():
        spy = Spy(held=True)
        run = batch(spy, range(30))
        await spy.until(lambda: spy.active == 8)
        await turns()
        assert (spy.active, run.max_at_once) == (8, 8)
        spy.let_all()
        await run
        assert spy.peak == 8

    go(main())


def test_workers_ramp_up():
    """A thousand calls that begin in one turn of the loop would freeze it."""

    async def main():
        spy, seen = Spy(held=True), []
        run = batch(spy, range(500), max_at_once=200)
        while spy.active < 200:
            await asyncio.sleep(0)
            seen.append(spy.active)
        steps = [b - a for a, b in itertools.pairwise([0, *seen])]
        assert max(steps) <= 32
        run.cancel()
        await run

    go(main())


def test_max_at_once_may_be_changed_while_it_runs():
    async def main():
        spy = Spy(held=True)
        run = batch(spy, range(100), max_at_once=4)
        await spy.until(lambda: spy.active == 4)
        run.max_at_once = 10
        await spy.until(lambda: spy.active == 10)
        await in_another_thread(setattr, run, "max_at_once", 20)
        await spy.until(lambda: spy.active == 20)
        run.max_at_once = 3
        assert run.max_at_once == 3
        spy.let(18)
        await spy.until(lambda: spy.active == 2)  # nobody takes the place of those that leave ...
        await spy.until(lambda: spy.active == 3)  # ... until there are fewer than three
        await turns()
        assert len(spy.calls) == 21
        spy.peak = 0
        for n in range(22, 50):
            spy.let()
            await spy.until(lambda n=n: len(spy.calls) == n)
        spy.let_all()
        await run
        assert spy.peak == 3
        assert sorted(spy.calls) == list(range(100))

    go(main())


async def in_another_thread(function, *args):
    return await asyncio.wrap_future(in_thread(function, *args))


def test_a_lower_max_at_once_holds_for_workers_that_wait_for_a_slow_stream_too():
    async def main():
        spy, items = Spy(held=True), asyncio.Queue()
        run = batch(spy, from_queue(items), max_at_once=8)
        await turns()
        run.max_at_once = 2
        for n in range(10):
            items.put_nowait(n)
        items.put_nowait(None)
        await spy.until(lambda: spy.active == 2)
        await turns()
        assert len(spy.calls) == 2
        spy.let_all()
        assert list((await run)["reply"]) == list(range(10))

    go(main())


async def from_queue(items):
    while (item := await items.get()) is not None:
        yield item


def test_a_hundred_thousand_lazy_items_take_as_many_tasks_as_rows_in_flight():
    async def main():
        pulled, most = 0, 0

        def items():
            nonlocal pulled
            for n in range(1, 100_001):
                pulled = n
                yield n

        async def nothing(item):
            nonlocal most
            if item % 1_000 == 0:
                most = max(most, len(asyncio.all_tasks()))
                assert pulled - item < 64
                await asyncio.sleep(0)

        frame = await batch(nothing, items(), max_at_once=64)
        assert (len(frame), bool((frame["status"] == "ok").all())) == (100_000, True)
        assert most <= 64 + 1  # and this one

    go(main())


def test_calls_that_never_wait_leave_the_loop_its_turns():
    """As when every answer lies ready: clicks, views and other tasks must not wait for the end of the batch."""

    async def main():
        async def compute(item):
            time.sleep(0.0002)  # noqa: ASYNC251 (a call that keeps the loop is what this is about)

        run = batch(compute, range(3_000), max_at_once=50)
        gaps, before = [], time.monotonic()
        while not run.finished:
            await asyncio.sleep(0)
            gaps.append(time.monotonic() - before)
            before += gaps[-1]
        assert run.elapsed > 0.6
        assert max(gaps) < 0.3

    go(main())


def test_answers_that_come_together_do_not_wait_for_each_other():
    """Each worker begins its next call as soon as it has taken an answer, however long taking them all takes."""

    async def main():
        first, rest, seen = asyncio.Event(), asyncio.Event(), []

        async def fn(item):
            seen.append(f"begin {item}")
            await (first if item < 3 else rest).wait()
            time.sleep(2 * BREATH)  # noqa: ASYNC251 (a call that keeps the loop is what this is about)
            seen.append(f"end {item}")

        run = batch(fn, range(6), max_at_once=3)
        await turns()
        first.set()
        await turns()
        assert seen[3:] == ["end 0", "begin 3", "end 1", "begin 4", "end 2", "begin 5"]
        rest.set()
        await run

    go(main())


# -- an item's failure is a row ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError("bad"), "ValueError: bad"),
        (KeyError("x"), "KeyError: 'x'"),
        (TimeoutError(), "TimeoutError"),
        (StopIteration(), "RuntimeError: coroutine raised StopIteration"),
        (StopAsyncIteration("over"), "StopAsyncIteration: over"),
        (ExceptionGroup("two", [ValueError(1), TypeError(2)]), "ValueError: 1"),
        (asyncio.CancelledError("by itself"), "CeylonError: The call was cancelled from within: by itself"),
        (asyncio.CancelledError(), "CeylonError: The call was cancelled from within"),
        (SystemExit(2), "CeylonError: The call wanted to end Python: SystemExit(2)"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_whatever_an_item_raises_is_its_row(error, text):
    async def main():
        async def fn(item):
            if item == 2:
                raise error
            return item

        run = batch(fn, range(5), max_at_once=2)
        frame = await run
        assert list(frame["status"]) == ["ok", "ok", "failed", "ok", "ok"]
        assert frame["error"][2] == text
        assert list(frame["reply"]) == [0, 1, None, 3, 4]
        assert list(run.failed["position"]) == [2]
        answers = [answer async for answer in run]
        assert type(next(a.error for a in answers if a.status == "failed")).__name__ in text

    go(main())


def test_an_item_whose_own_tasks_are_cancelled_is_a_row():
    async def main():
        async def fn(item):
            inner = asyncio.ensure_future(asyncio.Event().wait())
            await asyncio.sleep(0)
            inner.cancel()
            await inner

        run = batch(fn, range(3))
        assert list((await run)["status"]) == ["failed"] * 3

    go(main())


def test_a_function_that_is_not_async_says_so():
    async def main():
        run = batch(lambda item: item, range(8))
        with pytest.raises(TypeError, match="await"):
            await run

    go(main())


def test_attempts_and_latency_of_a_plain_function():
    async def main():
        spy = Spy(every_third)
        frame = await batch(spy, range(1, 6))
        assert list(frame["attempts"]) == [1] * 5
        assert frame["latency"].between(0, 1).all()
        frame = await batch(Spy(every_third), range(6), attempts=2)
        assert list(frame["attempts"]) == [2, 1, 1, 2, 1, 1]

    go(main())


def test_attempts_usage_and_latency_of_a_reply_count():
    async def main():
        async def fn(_):
            return Reply("x", usage=Usage(3, 4), latency=12.5, attempts=2, finish_reason="stop")

        run = batch(fn, ["a"])
        row = (await run).iloc[0]
        assert (row["attempts"], row["latency"], row["input_tokens"], row["output_tokens"]) == (2, 12.5, 3, 4)
        assert (row["finish_reason"], type(row["reply"])) == ("stop", Reply)
        [answer] = [answer async for answer in run]
        assert (answer.usage, answer.attempts, answer.latency) == (Usage(3, 4), 2, 12.5)

    go(main())


def test_nothing_was_sent_for_an_invalid_item():
    async def main():
        async def fn(_):
            raise InvalidItem("empty")

        frame = await batch(fn, range(20))
        assert set(frame["attempts"]) == {0}
        assert frame["latency"].isna().all()
        assert set(frame["status"]) == {"failed"}

    go(main())


# -- everything fails alike -------------------------------------------------------------------------------------------


def test_five_that_fail_alike_stop_the_batch_and_resume_asks_for_all_again():
    async def main():
        spy = Spy(boom)
        run = batch(spy, range(1_000), max_at_once=2)
        with pytest.raises(ValueError, match="no 0") as caught:
            await run
        assert len(spy.calls) <= 6
        assert run.state == "stopped"
        note = f"{len(spy.calls)} rows failed and none succeeded, so the batch stopped."
        assert caught.value.__notes__[0].startswith(note)
        assert "run.resume() then asks for all of them" in caught.value.__notes__[0]
        assert run.counts["waiting"] == 1_000 - len(spy.calls)
        with pytest.raises(ValueError, match="no 0"):
            await ended(run)
        with pytest.raises(ValueError, match="no 0"):
            await run
        assert len(caught.value.__notes__) == 1

        spy.answer, spy.calls = lambda item: item, []
        run.resume()
        assert list((await run)["reply"]) == list(range(1_000))
        assert sorted(spy.calls) == list(range(1_000))

    go(main())


def test_four_that_fail_alike_are_four_rows():
    async def main():
        run = batch(Spy(boom), range(4))
        assert list((await run)["status"]) == ["failed"] * 4

    go(main())


@pytest.mark.parametrize(
    "answer",
    [
        lambda n: n if n == 0 else boom(n),
        lambda n: {}[n] if n % 2 else boom(n),
        lambda n: (_ for _ in ()).throw(InvalidItem("empty")),
        lambda n: boom(n) if n < 4 else n,
    ],
    ids=["one succeeded", "of two kinds", "never sent", "four"],
)
def test_otherwise_every_row_is_asked_for(answer):
    async def main():
        spy = Spy(answer)
        frame = await batch(spy, range(50), max_at_once=3)
        assert sorted(spy.calls) == list(range(50))
        assert not (frame["status"] == "waiting").any()

    go(main())


def test_rows_that_were_never_sent_do_not_count_among_the_alike():
    async def main():
        def answer(n):
            raise InvalidItem("empty") if n < 10 else ValueError(n)

        spy = Spy(answer)
        run = batch(spy, range(100), max_at_once=1)
        with pytest.raises(ValueError, match="10"):
            await run
        assert len(spy.calls) == 15

    go(main())


def test_rows_in_flight_finish_before_it_stops_and_one_success_lets_it_go_on_at_full_strength():
    async def main():
        spy = Spy(lambda n: n if n >= 8 else boom(n), held=True)
        run = batch(spy, range(60), max_at_once=20)
        await spy.until(lambda: spy.active == 20)
        spy.let(5)
        await turns()
        begun = len(spy.calls)
        assert begun < 25  # four may have taken another row before the fifth failed
        spy.let(3)
        await turns()
        assert (len(spy.calls), spy.active, run.finished) == (begun, begun - 8, False)  # it holds its breath
        spy.let(1)
        await spy.until(lambda: spy.active == 20)
        spy.let_all()
        frame = await run
        assert list(frame["status"]) == ["failed"] * 8 + ["ok"] * 52

    go(main())


def test_rows_in_flight_that_fail_too_are_rows():
    async def main():
        spy = Spy(boom, held=True)
        run = batch(spy, range(60), max_at_once=20)
        await spy.until(lambda: spy.active == 20)
        spy.let(5)
        await turns()
        begun = len(spy.calls)
        spy.let_all()
        with pytest.raises(ValueError, match="no"):
            await run
        assert statuses(run) == ["failed"] * begun + ["waiting"] * (60 - begun)

    go(main())


def test_a_group_is_raised_as_the_first_in_it():
    """An ExceptionGroup that leaves an async cell can hang the kernel; the rows keep it whole."""

    async def main():
        async def fn(item):
            async with asyncio.TaskGroup() as group:
                group.create_task(Spy(boom)(item))

        run = batch(fn, range(10))
        with pytest.raises(ValueError, match="no"):
            await run
        assert run.frame["error"][0] == "ValueError: no 0"

    go(main())


def test_an_error_that_takes_no_note_is_raised_without():
    class Frozen(Exception):
        def __setattr__(self, name, value):
            raise AttributeError("frozen")

    async def main():
        async def fn(item):
            raise Frozen("solid")

        with pytest.raises(Frozen, match="solid"):
            await batch(fn, range(10))

    go(main())


# -- pause, cancel, resume, retry -------------------------------------------------------------------------------------


def test_pause_lets_rows_in_flight_finish_and_sends_nothing_new():
    async def main():
        spy = Spy(held=True)
        run = batch(spy, range(20), max_at_once=4)
        await spy.until(lambda: spy.active == 4)
        run.pause()
        run.pause()
        spy.let_all()
        await spy.until(lambda: spy.active == 0)
        await turns()
        assert (len(spy.calls), spy.cancelled, run.state, run.finished) == (4, 0, "paused", False)
        assert statuses(run) == ["ok"] * 4 + ["waiting"] * 16
        run.resume()
        run.resume()
        assert list((await run)["reply"]) == list(range(20))
        assert sorted(spy.calls) == list(range(20))

    go(main(), debug=True)


def test_a_paused_batch_whose_last_row_is_answered_is_done():
    async def main():
        spy = Spy(held=True)
        run = batch(spy, range(3))
        await spy.until(lambda: spy.active == 3)
        run.pause()
        spy.let_all()
        assert list((await run)["reply"]) == [0, 1, 2]
        assert run.state == "done"

    go(main())


def test_cancel_aborts_what_is_in_flight_once_and_await_gives_what_there_is():
    async def main():
        spy = Spy(held=True)
        run = batch(spy, range(20), max_at_once=4)
        await spy.until(lambda: spy.active == 4)
        spy.let(2)
        await spy.until(lambda: len(spy.calls) == 6)
        run.cancel()
        run.cancel()
        frame = await run
        assert (spy.cancelled, len(spy.calls), run.state) == (4, 6, "cancelled")
        assert list(frame["status"]) == ["ok"] * 2 + ["cancelled"] * 4 + ["waiting"] * 14
        assert run.counts == {"ok": 2, "failed": 0, "cancelled": 4, "in flight": 0, "waiting": 14}
        assert [answer.position async for answer in run] == [0, 1]

        spy.let_all()
        run.resume()
        assert run.state == "running"
        assert list((await run)["reply"]) == list(range(20))
        assert Counter(spy.calls) == Counter([*range(20), 2, 3, 4, 5])

    go(main(), debug=True)


def test_each_task_is_cancelled_exactly_once():
    """A second cancel() would interrupt the farewell of the first, and leak its connection."""

    async def main():
        cancels, farewell = Counter(), asyncio.Event()

        async def stubborn(item):
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancels[item] += 1
                while not farewell.is_set():
                    try:
                        await farewell.wait()
                    except asyncio.CancelledError:
                        cancels[item] += 1
                raise

        run = batch(stubborn, range(9), max_at_once=3)
        await turns()
        run.cancel()
        await turns()
        run.cancel()
        run.resume()
        run.cancel()
        await turns()
        assert cancels == {0: 1, 1: 1, 2: 1}
        farewell.set()
        await run
        assert statuses(run) == ["cancelled"] * 3 + ["waiting"] * 6

    go(main())


def test_resume_while_the_cancelled_rows_still_say_farewell():
    async def main():
        spy, farewell = Spy(held=True), asyncio.Event()

        async def slow_to_leave(item):
            try:
                return await spy(item)
            except asyncio.CancelledError:
                await farewell.wait()
                raise

        run = batch(slow_to_leave, range(6), max_at_once=2)
        await spy.until(lambda: spy.active == 2)
        run.cancel()
        await spy.until(lambda: spy.cancelled == 2)
        run.resume()
        spy.let_all()
        farewell.set()
        assert list((await run)["reply"]) == list(range(6))
        assert (spy.peak, Counter(spy.calls)) == (2, Counter([0, 1, *range(6)]))

    go(main())


def test_an_answer_that_is_given_in_spite_of_a_cancel_is_kept_and_its_worker_goes():
    """A worker that took a cancel once cannot be cancelled again: another takes its place."""

    async def main():
        begun, late = [], asyncio.Event()

        async def deaf(item):
            begun.append(item)
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                await late.wait()
                return "all the same"

        run = batch(deaf, range(4), max_at_once=2)
        await turns()
        run.cancel()
        await turns()
        run.resume()
        late.set()
        await turns()
        assert list(run.frame["reply"]) == ["all the same"] * 2 + [None] * 2
        assert begun == [0, 1, 2, 3]
        run.cancel()  # must reach the two that are in flight now
        async with asyncio.timeout(SECONDS):
            assert list((await run)["reply"]) == ["all the same"] * 4

    go(main())


def test_what_a_call_raises_on_being_cancelled_is_not_the_rows_failure():
    async def main():
        async def rude(item):
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                raise RuntimeError("session is closed") from None

        run = batch(rude, range(3))
        await turns()
        run.cancel()
        assert list((await run)["status"]) == ["cancelled"] * 3

    go(main())


def test_retry_failed_asks_again_for_what_failed_only():
    async def main():
        spy = Spy(every_third)
        run = batch(spy, range(12), max_at_once=4)
        await run
        assert list(run.failed["position"]) == [0, 3, 6, 9]
        spy.calls = []
        run.retry_failed()
        assert (run.state, run.finished) == ("running", False)
        await run
        assert spy.calls == [0, 3, 6, 9]
        spy.answer = lambda item: item
        run.retry_failed()
        assert list((await run)["reply"]) == list(range(12))
        spy.calls = []
        run.retry_failed()  # nothing failed: nothing to do
        assert run.finished
        assert (list((await run)["reply"]), spy.calls) == (list(range(12)), [])

    go(main(), debug=True)


def test_retry_failed_while_it_runs():
    async def main():
        spy = Spy(every_third, held=True)
        run = batch(spy, range(6), max_at_once=1)
        await spy.until(lambda: spy.active)
        spy.let()
        await spy.until(lambda: len(spy.calls) == 2)
        spy.answer = lambda item: item
        run.retry_failed()
        spy.let_all()
        assert list((await run)["reply"]) == list(range(6))
        assert spy.calls == [0, 1, 0, 2, 3, 4, 5]

    go(main())


def test_retry_failed_does_not_wait_for_a_slow_stream():
    async def main():
        spy, items = Spy(every_third), asyncio.Queue()
        run = batch(spy, from_queue(items), max_at_once=3)
        for n in range(4):
            items.put_nowait(n)
        await spy.until(lambda: len(spy.calls) == 4)
        await turns()
        spy.answer = lambda item: item
        run.retry_failed()
        await spy.until(lambda: len(spy.calls) == 6)
        await turns()
        assert statuses(run) == ["ok"] * 4
        items.put_nowait(4)
        items.put_nowait(None)
        assert list((await run)["reply"]) == list(range(5))

    go(main())


async def begun(spy, *, rows, at_once, let):
    """A batch of which so many calls were let go, and as many as may be are in flight."""
    spy.held = True
    run = batch(spy, range(rows), max_at_once=at_once)
    for n in range(let):
        await spy.until(lambda n=n: len(spy.calls) == n + at_once)
        spy.let()
    await spy.until(lambda: len(spy.calls) == let + at_once)
    return run


def test_retry_failed_of_a_cancelled_batch_asks_for_no_others():
    async def main():
        spy = Spy(every_third)
        run = await begun(spy, rows=12, at_once=2, let=4)
        run.cancel()
        await run
        assert statuses(run)[:6] == ["failed", "ok", "ok", "failed", "cancelled", "cancelled"]
        spy.calls, spy.answer = [], lambda item: item
        spy.let_all()
        run.retry_failed()
        frame = await run
        assert spy.calls == [0, 3]
        assert list(frame["status"]) == ["ok"] * 4 + ["cancelled"] * 2 + ["waiting"] * 6
        assert run.state == "cancelled"
        run.resume()
        assert list((await run)["reply"]) == list(range(12))
        assert run.state == "done"

    go(main())


def test_resume_while_only_the_failed_ones_are_asked_again_goes_on_with_all():
    async def main():
        spy = Spy(every_third)
        run = await begun(spy, rows=12, at_once=2, let=4)
        run.cancel()
        await run
        spy.answer = lambda item: item
        run.retry_failed()
        await spy.until(lambda: spy.active == 2)
        run.resume()
        spy.let_all()
        assert list((await run)["reply"]) == list(range(12))
        assert run.state == "done"

    go(main())


def test_retry_failed_of_a_paused_batch_waits_for_resume():
    async def main():
        spy = Spy(every_third)
        run = await begun(spy, rows=12, at_once=2, let=4)
        run.pause()
        spy.let_all()
        await spy.until(lambda: not spy.active)
        spy.answer = lambda item: item
        run.retry_failed()
        await turns()
        assert (len(spy.calls), run.state) == (6, "paused")
        assert statuses(run)[:6] == ["waiting", "ok", "ok", "waiting", "ok", "ok"]
        run.resume()
        assert list((await run)["reply"]) == list(range(12))

    go(main())


def test_retry_failed_of_a_stopped_batch_goes_on():
    async def main():
        spy = Spy(boom)
        run = batch(spy, range(100), max_at_once=5)
        with pytest.raises(ValueError, match="no"):
            await run
        spy.answer = lambda item: item
        run.retry_failed()
        assert list((await run)["reply"]) == list(range(100))

    go(main())


def test_controls_from_another_thread_return_at_once_and_hold_in_their_order():
    """Each is decided on the batch's loop: the thread that calls cannot know the state."""
    spy = Spy(held=True)
    run = batch(spy, range(30), max_at_once=3)
    spy.wait_for(lambda: spy.active == 3)
    for _ in range(50):
        run.pause()
        run.resume()
        run.cancel()
        run.cancel()
        run.resume()
        run.retry_failed()
    spy.let_all()
    assert list(run.result(SECONDS)["reply"]) == list(range(30))
    assert run.state == "done"


def test_controls_do_not_wait_for_a_busy_loop():
    spy, stuck, release = Spy(held=True), threading.Event(), threading.Event()

    async def main():
        run = batch(spy, range(10), max_at_once=2)
        await spy.until(lambda: spy.active == 2)

        def press():
            stuck.wait(SECONDS)
            run.pause()
            run.cancel()
            run.resume()
            run.max_at_once = 5
            run.retry_failed()
            run.cancel()
            release.set()

        pressed = in_thread(press)
        stuck.set()
        assert release.wait(SECONDS)  # this blocks the batch's loop all the while
        frame = await run
        await asyncio.wrap_future(pressed)
        assert (run.state, spy.cancelled) == ("cancelled", 2)
        assert list(frame["status"]) == ["cancelled"] * 2 + ["waiting"] * 8

    go(main())


def test_nothing_moves_a_batch_that_is_done():
    async def main():
        spy = Spy()
        run = batch(spy, range(3))
        await run
        for control in (run.pause, run.cancel, run.resume, run.retry_failed):
            control()
            assert (run.state, run.finished) == ("done", True)
        await in_another_thread(run.resume)
        assert list((await run)["reply"]) == [0, 1, 2]
        assert spy.calls == [0, 1, 2]

    go(main())


OPS = [
    "let",
    "let",
    "let",
    "turn",
    "item",
    "item",
    "pause",
    "resume",
    "cancel",
    "retry",
    "fewer",
    "more",
    "kill",
    "see",
]


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from(OPS), max_size=40), st.booleans())
def test_whatever_is_pressed_no_row_is_lost_and_none_is_doubled(ops, streamed):
    async def main():
        tasks, items, put = {}, asyncio.Queue(), 0
        spy = Spy(every_third, held=True)

        async def fn(item):
            tasks[asyncio.current_task()] = item
            try:
                return await spy(item)
            finally:
                del tasks[asyncio.current_task()]

        run = batch(fn, from_queue(items) if streamed else range(20), max_at_once=3)
        for op in ops:
            match op:
                case "let":
                    spy.let()
                case "item" if put < 20:
                    items.put_nowait(put)
                    put += 1
                case "pause" | "resume" | "cancel":
                    getattr(run, op)()
                case "retry":
                    run.retry_failed()
                case "fewer" | "more":
                    run.max_at_once = 1 if op == "fewer" else 5
                case "kill" if tasks and run.state == "running":
                    next(iter(tasks)).cancel()
                case "see":
                    seen, counts = Counter(statuses(run)), run.counts
                    assert [seen[name] for name in ("ok", "failed", "cancelled", "waiting")] == [
                        counts["ok"],
                        counts["failed"],
                        counts["cancelled"],
                        counts["waiting"] + counts["in flight"],
                    ]
            await turns(3)
            assert spy.active <= 5
        for n in [*range(put, 20), None]:
            items.put_nowait(n)
        spy.answer = lambda item: item
        spy.let_all()
        while statuses(run) != ["ok"] * 20:
            run.resume()
            run.retry_failed()
            with contextlib.suppress(ValueError):
                await run
        assert (run.state, list(run.frame["reply"])) == ("done", list(range(20)))
        assert sorted([answer.position async for answer in run]) == list(range(20))

    logging.disable()
    try:
        go(main())
    finally:
        logging.disable(logging.NOTSET)


# -- the deadline -----------------------------------------------------------------------------------------------------


def test_at_the_deadline_it_ends_with_what_it_has_and_resume_begins_it_anew():
    async def main():
        spy = Spy(held=True)
        run = batch(spy, range(10), max_at_once=2, deadline=0.2)
        await spy.until(lambda: spy.active == 2)
        spy.let(1)
        began = time.monotonic()
        frame = await run
        assert 0.1 < time.monotonic() - began < 2
        assert (run.state, spy.cancelled) == ("cancelled", 2)
        assert list(frame["status"]) == ["ok"] + ["cancelled"] * 2 + ["waiting"] * 7
        run.resume()
        await spy.until(lambda: spy.active == 2)
        spy.let_all()
        assert list((await run)["reply"]) == list(range(10))

    go(main())


def test_the_deadline_and_elapsed_stand_still_while_it_is_paused():
    async def main():
        spy = Spy(held=True)
        run = batch(spy, range(10), max_at_once=2, deadline=0.6)
        await asyncio.sleep(0.4)  # the passing of time is what this is about
        run.pause()
        elapsed = run.elapsed
        await asyncio.sleep(0.7)
        assert (run.state, run.elapsed) == ("paused", elapsed)
        run.resume()
        await turns()
        assert run.state == "running"
        await run
        assert 0.6 <= run.elapsed < 0.95
        assert run.state == "cancelled"

    go(main())


def test_a_pause_and_a_cancel_give_the_next_resume_the_whole_deadline():
    async def main():
        spy = Spy(held=True)
        run = batch(spy, range(4), max_at_once=2, deadline=0.4)
        await spy.until(lambda: spy.active == 2)
        await asyncio.sleep(0.3)
        run.pause()
        run.cancel()
        await run
        run.resume()
        began = time.monotonic()
        await run
        assert time.monotonic() - began > 0.35

    go(main())


def test_no_backoff_sleeps_past_the_deadline():
    async def main():
        async def fn(_):
            raise ConnectionError("down")

        run = batch(fn, range(3), attempts=50, deadline=0.3)
        frame = await run
        assert run.elapsed < 2
        assert set(frame["status"]) <= {"failed", "cancelled"}

    go(main())


# -- streams ----------------------------------------------------------------------------------------------------------


def test_a_stream_is_pulled_from_only_as_workers_come_free():
    async def main():
        pulled = []

        def items():
            for n in range(50):
                pulled.append(n)
                yield n

        spy = Spy(held=True)
        run = batch(spy, items(), max_at_once=3)
        assert run.total is None
        await spy.until(lambda: spy.active == 3)
        await turns()
        assert pulled == [0, 1, 2]
        spy.let(1)
        await spy.until(lambda: len(spy.calls) == 4)
        await turns()
        assert pulled == [0, 1, 2, 3]
        run.pause()
        spy.let_all()
        await spy.until(lambda: not spy.active)
        await turns()
        assert (pulled, len(run.frame)) == ([0, 1, 2, 3], 4)
        run.resume()
        assert list((await run)["reply"]) == list(range(50))
        assert run.total == 50

    go(main())


def test_an_async_stream_is_pulled_from_by_one_at_a_time():
    async def main():
        inside = most = 0
        items = asyncio.Queue()

        class Source:
            def __aiter__(self):
                return self

            async def __anext__(self):
                nonlocal inside, most
                inside += 1
                most = max(most, inside)
                item = await items.get()
                inside -= 1
                if item is None:
                    raise StopAsyncIteration
                return item

        spy = Spy()
        run = batch(spy, Source(), max_at_once=5)
        for n in range(20):
            items.put_nowait(n)
            await spy.until(lambda n=n: len(spy.calls) > n)
        items.put_nowait(None)
        assert list((await run)["reply"]) == list(range(20))
        assert most == 1

    go(main(), debug=True)


@pytest.mark.parametrize("stop", ["cancel", "pause"])
def test_no_item_of_an_async_stream_is_lost_however_often_it_is_stopped(stop):
    async def main():
        spy, items = Spy(), asyncio.Queue()
        run = batch(spy, from_queue(items), max_at_once=3)
        for n in range(0, 30, 2):
            await turns()  # some worker waits for the source
            getattr(run, stop)()
            items.put_nowait(n)  # it arrives while nobody may take it
            items.put_nowait(n + 1)
            await turns()
            run.resume()
        items.put_nowait(None)
        assert list((await run)["reply"]) == list(range(30))
        assert sorted(spy.calls) == list(range(30))

    go(main(), debug=True)


@pytest.mark.parametrize("less", ["pause", "fewer"])
def test_an_item_that_comes_when_it_may_not_be_sent_waits(less):
    async def main():
        spy, items = Spy(held=True), asyncio.Queue()
        run = batch(spy, from_queue(items), max_at_once=2)
        items.put_nowait(0)
        await spy.until(lambda: spy.active == 1)
        await turns()  # the other worker waits for the source
        if less == "pause":
            run.pause()
        else:
            run.max_at_once = 1
        items.put_nowait(1)
        await turns()
        assert (spy.calls, statuses(run)) == ([0], ["waiting", "waiting"])
        run.resume()
        items.put_nowait(None)
        spy.let_all()
        assert list((await run)["reply"]) == [0, 1]

    go(main())


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_source_that_raises_stops_the_batch_after_the_rows_it_gave(kind):
    async def main():
        def sync_items():
            yield from range(5)
            raise OSError("the file is gone")

        async def async_items():
            for n in range(5):
                await asyncio.sleep(0)
                yield n
            raise OSError("the file is gone")

        spy = Spy(held=True)
        run = batch(spy, sync_items() if kind == "sync" else async_items(), max_at_once=8)
        await spy.until(lambda: spy.active == 5)
        await turns()
        assert not run.finished
        spy.let_all()
        with pytest.raises(OSError, match="the file is gone") as caught:
            await run
        assert caught.value.__notes__ == ["The items stopped coming: 5 answers are in run.frame."]
        assert (run.state, statuses(run)) == ("stopped", ["ok"] * 5)
        with pytest.raises(OSError, match="the file is gone"):
            await ended(run)

    go(main(), debug=True)


def test_a_source_that_comes_to_itself_is_pulled_from_again():
    async def main():
        class Shaky:
            def __init__(self):
                self.n, self.broken = 0, True

            def __iter__(self):
                return self

            def __next__(self):
                if self.n == 3 and self.broken:
                    raise OSError("not now")
                if self.n == 6:
                    raise StopIteration
                self.n += 1
                return self.n

        items = Shaky()
        run = batch(Spy(), items)
        with pytest.raises(OSError, match="not now"):
            await run
        items.broken = False
        run.resume()
        assert list((await run)["reply"]) == [1, 2, 3, 4, 5, 6]

    go(main())


def test_an_async_stream_that_fails_while_nobody_waits_says_so_at_resume():
    async def main():
        gate = asyncio.Event()

        async def items():
            yield 1
            await gate.wait()
            raise OSError("gone")

        spy = Spy()
        run = batch(spy, items())
        await spy.until(lambda: spy.calls)
        await turns()
        run.cancel()
        await run
        gate.set()
        await turns()
        run.resume()
        with pytest.raises(OSError, match="gone"):
            await run

    go(main(), debug=True)


def test_a_stream_that_nobody_wants_any_more_is_let_go_of():
    async def main():
        closed = asyncio.Event()

        async def items():
            try:
                await asyncio.Event().wait()
                yield
            finally:
                closed.set()

        run = batch(Spy(), items())
        await turns()
        run.cancel()
        await run
        assert len(asyncio.all_tasks()) == 2  # the item that it waits for may still be wanted
        del run
        gc.collect()
        async with asyncio.timeout(SECONDS):
            await closed.wait()

    go(main(), debug=True)


def test_a_batch_is_an_async_stream_too():
    async def main():
        first = batch(Spy(), range(10))
        second = batch(Spy(lambda answer: answer.reply * 2), first)
        assert sorted((await second)["reply"]) == list(range(0, 20, 2))

    go(main())


# -- interrupts -------------------------------------------------------------------------------------------------------


class Tapped:
    """Awaits something, and keeps what was thrown into it."""

    def __init__(self, awaitable):
        self.awaitable = awaitable
        self.thrown = None

    def __await__(self):
        inner = self.awaitable.__await__()
        step = inner.__next__
        while True:
            try:
                waiting = step()
            except StopIteration as end:
                return end.value
            try:
                yield waiting
                step = inner.__next__
            except BaseException as error:  # noqa: BLE001 (thrown on, whatever it is)
                self.thrown = self.thrown or error
                step = lambda error=error: inner.throw(error)  # noqa: E731


def test_an_interrupt_is_raised_again_as_the_very_one_dressed_with_what_there_is():
    async def main():
        def answer(item):
            spy.held = item >= 1_233
            return item

        spy = Spy(answer)
        run = batch(spy, range(3_000), max_at_once=100)
        await spy.until(lambda: spy.active == 100)
        tapped = Tapped(run)

        async def cell():
            with pytest.raises(asyncio.CancelledError) as caught:
                await tapped
            return caught.value

        task = asyncio.create_task(cell())
        await turns(3)
        task.cancel()
        error = await task
        assert error is tapped.thrown
        text = "1,234 of 3,000 answers are in run.frame; run.resume() goes on."
        assert error.args == (f"Interrupted: {text}",)
        assert error._render_traceback_() == [f"Interrupted: {text}"]
        assert (run.state, run.finished, spy.active, spy.cancelled) == ("cancelled", True, 0, 100)
        assert statuses(run) == ["ok"] * 1_234 + ["cancelled"] * 100 + ["waiting"] * 1_666

        spy.answer = lambda item: item
        spy.let_all()
        run.resume()
        assert list((await run)["reply"]) == list(range(3_000))

    go(main())


def test_an_interrupt_while_iterating_is_the_same():
    async def main():
        spy = Spy(held=True)
        run = batch(spy, (n for n in range(10)), max_at_once=2)

        async def cell():
            with pytest.raises(asyncio.CancelledError) as caught:
                async for _ in run:
                    pass
            return caught.value

        task = asyncio.create_task(cell())
        await spy.until(lambda: spy.active == 2)
        spy.let(1)
        await spy.until(lambda: len(spy.calls) == 3)
        await turns()
        task.cancel()
        error = await task
        assert error.args == ("Interrupted: 1 answers are in run.frame; run.resume() goes on.",)
        assert (run.state, spy.active) == ("cancelled", 0)

    go(main(), debug=True)


def test_an_interrupt_waits_a_bounded_time_and_a_second_one_ends_the_waiting(monkeypatch):
    async def main():
        farewell = asyncio.Event()

        async def slow_to_leave(_):
            try:
                await asyncio.Event().wait()
            finally:
                await farewell.wait()

        async def interrupted(run):
            await run

        run = batch(slow_to_leave, range(3))
        await turns()
        task = asyncio.create_task(interrupted(run))
        await turns()
        task.cancel()
        await turns()
        assert not task.done()  # it waits for the sockets
        task.cancel()
        with pytest.raises(asyncio.CancelledError, match=r"0 of 3 answers are in run\.frame"):
            await task
        assert not run.finished
        farewell.set()
        await run

        farewell.clear()
        monkeypatch.setattr(ceylon_nb.handle, "FAREWELL", 0.05)
        run.resume()
        await turns()
        task = asyncio.create_task(interrupted(run))
        await turns()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not run.finished
        farewell.set()
        await run

    go(main())


def test_an_interrupt_of_a_batch_that_never_ends_leaves_no_noise_on_a_loop_that_is_closed(caplog):
    """The waiting ended with its loop; the batch goes on elsewhere, and must not call back."""
    spy, farewell = Spy(held=True), threading.Event()

    async def stubborn(item):
        try:
            await spy(item)
        finally:
            while not farewell.is_set():
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.sleep(0.01)

    run = batch(stubborn, range(2))

    async def main():
        task = asyncio.create_task(run._wait())
        await spy.until(lambda: spy.active == 2)
        task.cancel()
        await turns()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    farewell.set()
    assert list(run.result(SECONDS)["status"]) == ["cancelled"] * 2
    assert caplog.records == []


@pytest.mark.parametrize("how", ["timeout", "wait_for"])
def test_a_timeout_around_it_stays_a_timeout(how):
    async def main():
        spy = Spy(held=True)
        run = batch(spy, range(5), max_at_once=2)
        await spy.until(lambda: spy.active == 2)

        async def timeout(awaitable, seconds):
            async with asyncio.timeout(seconds):
                return await awaitable

        with pytest.raises(TimeoutError):
            await (timeout if how == "timeout" else asyncio.wait_for)(run, 0.05)
        assert (run.state, spy.active, spy.cancelled) == ("cancelled", 0, 2)
        assert asyncio.current_task().cancelling() == 0
        spy.let_all()
        run.resume()
        assert list((await run)["reply"]) == list(range(5))

    go(main(), debug=True)


def test_gather_of_two_batches():
    async def main():
        a, b = Spy(), Spy()
        frames = await asyncio.gather(batch(a, range(5)), batch(b, range(5, 9)))
        assert [list(frame["reply"]) for frame in frames] == [[0, 1, 2, 3, 4], [5, 6, 7, 8]]

        a.held = b.held = True
        runs = batch(a, range(5)), batch(b, range(5, 9))
        both = asyncio.gather(*runs)
        await a.until(lambda: a.active == 5)
        both.cancel()
        with pytest.raises(asyncio.CancelledError):
            await both
        assert [run.state for run in runs] == ["cancelled", "cancelled"]
        assert (a.cancelled, b.cancelled) == (5, 4)

    go(main(), debug=True)


def test_a_task_group_around_a_batch():
    async def main():
        spy = Spy(held=True)
        run = batch(spy, range(5))

        async def wait():
            return await run

        async def fail():
            await spy.until(lambda: spy.active == 5)
            raise ValueError("the other one")

        async def both():
            async with asyncio.TaskGroup() as group:
                group.create_task(wait())
                group.create_task(fail())

        with pytest.raises(ExceptionGroup) as caught:
            await both()
        [error] = caught.value.exceptions
        assert str(error) == "the other one"
        assert (run.state, spy.cancelled) == ("cancelled", 5)

    go(main(), debug=True)


# -- iterating --------------------------------------------------------------------------------------------------------


def test_answers_come_as_they_complete_and_each_knows_its_row():
    async def main():
        gates = {text: asyncio.Event() for text in "abc"}

        async def fn(text):
            await gates[text].wait()
            if text == "a":
                raise ValueError("no")
            return text.upper()

        seen = []
        gates["c"].set()
        async for answer in batch(fn, pd.Series(["a", "b", "c"], index=["x", "x", "z"])):
            seen.append((answer.position, answer.index, answer.item, answer.reply, answer.status, answer.attempts))
            gates["ba"[min(len(seen) - 1, 1)]].set()
            assert answer.latency >= 0
            assert (answer.error is None) == (answer.status == "ok")
            assert answer.usage == Usage()
        assert seen == [(2, "z", "c", "C", "ok", 1), (1, "x", "b", "B", "ok", 1), (0, "x", "a", None, "failed", 1)]

    go(main(), debug=True)


def test_leaving_early_cancels_and_resume_goes_on():
    async def main():
        spy = Spy(held=True)
        run = batch(spy, range(20), max_at_once=4)
        await spy.until(lambda: spy.active == 4)
        spy.let(1)
        async for answer in run:
            assert answer.position == 0
            break
        await spy.until(lambda: spy.active == 0)
        assert list((await run)["status"])[:5] == ["ok"] + ["cancelled"] * 4
        spy.let_all()
        run.resume()
        assert sorted([answer.position async for answer in run]) == list(range(20))

    go(main(), debug=True)


def test_leaving_with_an_exception_cancels_too():
    async def main():
        spy = Spy(held=True)
        run = batch(spy, range(20), max_at_once=4)

        async def consume():
            async for _ in run:
                raise KeyError("mine")

        task = asyncio.create_task(consume())
        await spy.until(lambda: spy.active == 4)
        spy.let(1)
        with pytest.raises(KeyError, match="mine"):
            await task
        await spy.until(lambda: spy.active == 0)
        await run
        assert run.state == "cancelled"

    go(main())


def test_an_iterator_kept_in_a_variable_cancels_when_it_is_closed():
    async def main():
        spy = Spy(held=True)
        run = batch(spy, range(20), max_at_once=4)
        answers = aiter(run)
        await spy.until(lambda: spy.active == 4)
        spy.let(1)
        assert (await anext(answers)).position == 0
        await turns()
        assert run.state == "running"
        await answers.aclose()
        assert run.state == "cancelled"
        await run

    go(main())


def test_answers_only_watches():
    async def main():
        spy = Spy(held=True)
        run = batch(spy, range(20), max_at_once=4)
        await spy.until(lambda: spy.active == 4)
        spy.let(1)
        async for _ in run.answers():
            break

        async def watch():
            async for _ in run.answers():
                pass

        watching = asyncio.create_task(watch())
        await turns()
        watching.cancel()
        with pytest.raises(asyncio.CancelledError) as caught:
            await watching
        assert str(caught.value).startswith("Interrupted: the batch itself goes on; 1 of 20 answers")
        await turns()
        assert (run.state, spy.cancelled) == ("running", 0)
        spy.let_all()
        assert list((await run)["reply"]) == list(range(20))

    go(main(), debug=True)


def test_a_row_that_is_asked_again_comes_once_to_who_iterates_later_and_twice_to_who_saw_it():
    async def main():
        spy = Spy(every_third)
        run = batch(spy, range(6), max_at_once=2)
        watched, again = [], asyncio.Event()

        async def watch():
            async for answer in run.answers():
                watched.append((answer.position, answer.status))
                if len(watched) == 6:
                    again.set()

        watching = asyncio.create_task(watch())
        spy.held = False
        await again.wait()
        await watching
        spy.answer, spy.held = (lambda item: item), True
        run.retry_failed()
        await spy.until(lambda: spy.active == 2)
        late = [answer.position for answer in await first(run.answers(), 4)]
        assert sorted(late) == [1, 2, 4, 5]  # those that wait have not been answered
        spy.let_all()
        answers = [answer async for answer in run]
        assert sorted(answer.position for answer in answers) == list(range(6))
        assert {answer.status for answer in answers} == {"ok"}

    go(main())


async def first(answers, n):
    async with contextlib.aclosing(answers):
        return [await anext(answers) for _ in range(n)]


def test_iterating_ends_with_the_batch_however_it_ends():
    async def main():
        spy = Spy(held=True)
        run = batch(spy, range(10), max_at_once=2)

        async def collect():
            return [answer.position async for answer in run]

        collecting = asyncio.create_task(collect())
        await spy.until(lambda: spy.active == 2)
        spy.let(1)
        await spy.until(lambda: len(spy.calls) == 3)
        run.cancel()
        assert await collecting == [0]

    go(main())


# -- workers that are ended from outside ------------------------------------------------------------------------------


def test_a_worker_that_somebody_else_cancels_loses_no_row(caplog):
    async def main():
        tasks, spy = {}, Spy(held=True)

        async def fn(item):
            tasks[item] = asyncio.current_task()
            return await spy(item)

        run = batch(fn, range(10), max_at_once=3)
        await spy.until(lambda: spy.active == 3)
        tasks[1].cancel()
        await spy.until(lambda: spy.active == 2)
        await turns()
        assert (run.state, run.finished, statuses(run)[1]) == ("paused", False, "waiting")
        spy.let_all()
        await spy.until(lambda: spy.active == 0)
        run.resume()
        assert list((await run)["reply"]) == list(range(10))
        assert Counter(spy.calls) == Counter([*range(10), 1])

    go(main())
    [record] = caplog.records
    assert (record.levelno, record.name) == (logging.WARNING, "ceylon_nb")
    assert "was ended from outside at row 1 (CancelledError()): it is paused; resume() goes on" in record.message


def test_a_keyboard_interrupt_inside_a_worker_goes_through_and_loses_no_row(caplog):
    """As after nesting, where ■ hits whichever task runs."""
    interrupts = iter([KeyboardInterrupt()])

    def answer(item):
        if item == 1:
            for interrupt in interrupts:
                raise interrupt
        return item

    spy, runs = Spy(answer), []
    with asyncio.Runner() as runner:

        async def begin():
            runs.append(batch(spy, range(10), max_at_once=3))
            await runs[0]

        loop_of_notebook = runner.get_loop()
        task = loop_of_notebook.create_task(begin())
        with pytest.raises(KeyboardInterrupt):
            loop_of_notebook.run_forever()
        [run] = runs

        async def go_on():
            await turns()
            assert (run.state, task.done()) == ("paused", False)
            run.resume()
            await task
            assert list(run.frame["reply"]) == list(range(10))

        runner.run(go_on())
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "at row 1 (KeyboardInterrupt())" in caplog.text


def test_a_worker_that_is_cancelled_while_it_waits_for_an_item_pauses_too(caplog):
    async def main():
        items = asyncio.Queue()
        before = asyncio.all_tasks()
        run = batch(Spy(), from_queue(items), max_at_once=1)
        await turns()
        [worker] = [task for task in asyncio.all_tasks() - before if "_work" in repr(task)]
        worker.cancel()
        await turns()
        assert run.state == "paused"
        run.resume()
        for item in (1, 2, None):
            items.put_nowait(item)
        assert list((await run)["reply"]) == [1, 2]

    go(main())
    assert "while it waited for an item" in caplog.text


def test_a_stray_cancel_that_a_call_swallows_does_no_harm():
    """As of libraries that cancel the current task for a timeout of theirs and never take it back."""

    async def main():
        async def fn(item):
            asyncio.current_task().cancel()
            try:
                await asyncio.sleep(1)
            except asyncio.CancelledError:
                if item % 2:
                    raise TimeoutError("theirs") from None
            return item

        run = batch(fn, range(6), max_at_once=2)
        frame = await run
        assert list(frame["status"]) == ["ok", "failed"] * 3

    go(main())


# -- loops ------------------------------------------------------------------------------------------------------------


def test_a_batch_outlives_its_loop(caplog):
    """asyncio.run ended with the batch unfinished: it is paused, and goes on wherever it is resumed."""
    spy, runs = Spy(held=True), []

    async def begin():
        runs.append(batch(spy, range(10), max_at_once=3, deadline=60))
        runs[0].subscribe(told.append)
        await spy.until(lambda: spy.active == 3)
        spy.let(1)
        await spy.until(lambda: len(spy.calls) == 4)

    told = []
    asyncio.run(begin())
    [run] = runs
    assert (run.state, statuses(run)) == ("paused", ["ok"] + ["waiting"] * 9)
    assert len(caplog.records) == 1
    with pytest.raises(WrongLoop, match=r"is closed; run\.resume\(\) goes on"):
        run.result()

    async def wait():
        with pytest.raises(WrongLoop, match="is closed"):
            await run
        with pytest.raises(WrongLoop, match="is closed"):
            async for _ in run:
                pass
        run.pause()
        run.max_at_once = 4
        with pytest.raises(WrongLoop, match="is closed"):
            await run
        run.resume()
        told.clear()
        await spy.until(lambda: spy.active == 4)
        spy.let_all()
        assert list((await run)["reply"]) == list(range(10))
        assert told

    go(wait())
    assert sorted(Counter(spy.calls).values()) == [1] * 7 + [2] * 3


def test_a_batch_outlives_its_loop_and_may_go_on_in_the_background():
    spy, runs = Spy(held=True), []

    async def begin():
        runs.append(batch(spy, range(10), max_at_once=40))
        await spy.until(lambda: spy.active == 10)

    asyncio.run(begin())
    spy.let_all()
    runs[0].resume()
    assert list(runs[0].result(SECONDS)["reply"]) == list(range(10))


def test_a_loop_that_is_closed_under_a_running_batch(caplog):
    """Without a farewell: nothing that was to happen there ever does."""
    spy, told, home = Spy(held=True), threading.Event(), asyncio.new_event_loop()

    async def begin():
        run = batch(spy, range(10), max_at_once=40, deadline=60)
        run.subscribe(lambda _: told.set())  # it would be told on this loop, in a moment
        await spy.until(lambda: spy.active == 10)
        return run

    run = home.run_until_complete(begin())
    home.close()
    assert not told.is_set()
    elapsed = run.elapsed
    run.resume()
    spy.wait_for(lambda: len(spy.calls) == 20)
    assert told.wait(SECONDS)
    assert not run.finished
    spy.let_all()
    assert list(run.result(SECONDS)["reply"]) == list(range(10))
    assert elapsed < run.elapsed < 60
    gc.collect()
    assert {record.name for record in caplog.records} <= {"asyncio"}  # on tasks that were destroyed with the loop


def test_a_batch_on_a_closed_loop_may_be_cancelled():
    spy, runs = Spy(held=True), []

    async def begin():
        runs.append(batch(spy, range(10)))
        await spy.until(lambda: spy.active == 8)

    asyncio.run(begin())
    runs[0].cancel()
    assert list(runs[0].result(SECONDS)["status"]) == ["waiting"] * 10
    assert runs[0].state == "cancelled"


def test_an_async_stream_that_ended_with_its_loop_is_not_taken_for_a_finished_one():
    spy, runs = Spy(), []

    async def begin():
        async def items():
            yield 1
            await asyncio.Event().wait()
            yield 2

        runs.append(batch(spy, items()))
        await spy.until(lambda: spy.calls)
        await turns()

    asyncio.run(begin())
    [run] = runs
    run.resume()
    with pytest.raises(CeylonError, match="was cancelled, as when its loop ends"):
        run.result(SECONDS)
    assert (run.state, list(run.frame["reply"])) == ("stopped", [1])


def test_result_of_a_batch_whose_loop_stands_still():
    spy = Spy()
    with asyncio.Runner() as runner:

        async def begin():
            return batch(spy, range(3))

        run = runner.run(begin())
        with pytest.raises(WrongLoop, match="stands still: write `await run`"):
            run.result()

        async def wait():
            return await run

        assert list(runner.run(wait())["reply"]) == [0, 1, 2]
        assert len(run.result()) == 3


def test_result_where_a_loop_runs_names_await():
    async def main():
        run = batch(Spy(), range(3))
        with pytest.raises(WrongLoop, match="`await run`"):
            run.result()
        await run
        with pytest.raises(WrongLoop, match="`await run`"):
            run.result()
        assert len(await in_another_thread(run.result)) == 3

    go(main())


def test_where_no_loop_runs_it_runs_in_the_background_and_result_waits():
    threads, spy = set(), Spy(held=True)

    async def fn(item):
        threads.add(threading.current_thread().name)
        return await spy(item)

    run = batch(fn, range(3))
    spy.wait_for(lambda: spy.active == 3)
    with pytest.raises(TimeoutError):
        run.result(timeout=0.01)
    assert (run.state, spy.cancelled) == ("running", 0)
    spy.let_all()
    assert list(run.result(SECONDS)["reply"]) == [0, 1, 2]
    assert threads == {"ceylon-nb-loop"}


def test_result_raises_what_stopped_it():
    run = batch(Spy(boom), range(10))
    with pytest.raises(ValueError, match="no"):
        run.result(SECONDS)


SCRIPT = """
    import asyncio, threading, ceylon_nb

    waiting = threading.Event()

    async def fn(item):
        if item < 3:
            return item
        await asyncio.to_thread(waiting.wait)
        print("in flight", flush=True)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            print("aborted", flush=True)
            raise

    run = ceylon_nb.batch(fn, range(10), max_at_once=1)
    try:
        waiting.set()
        run.result()
    except KeyboardInterrupt:
        print(run, list(run.frame["reply"].dropna()), flush=True)
    raise SystemExit(3)
"""


def test_ctrl_c_in_a_script_stops_the_work_and_keeps_the_answers():
    child = python(SCRIPT)
    assert child.stdout.readline() == "in flight\n"
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=30)
    assert out == "aborted\nBatch(3 ok, 1 cancelled of 10, cancelled) [0, 1, 2]\n"
    assert (child.returncode, err) == (3, "")


@pytest.mark.parametrize("wait", ["ceylon_nb.batch(fn, [1]).result()", "agent.send_message_sync('Who?')"])
def test_ctrl_c_that_wakes_another_thread_is_noticed(wait):
    """As one that comes in the moment before the main thread begins to wait: nothing ends that wait."""
    child = python(f"""
        import asyncio, signal, threading, time, ceylon_nb

        async def fn(_):
            def interrupt():
                time.sleep(0.3)
                signal.pthread_kill(threading.get_ident(), signal.SIGINT)
            await asyncio.to_thread(interrupt)
            await asyncio.Event().wait()

        agent = ceylon_nb.LlmAgent("clerk", fn)
        try:
            {wait}
        except KeyboardInterrupt:
            print("interrupted", flush=True)
    """)
    out, err = child.communicate(timeout=30)
    assert (out, err) == ("interrupted\n", "")


def test_ctrl_c_under_asyncio_run_does_too():
    child = python("""
        import asyncio, ceylon_nb

        async def fn(item):
            if item == 3:
                print("in flight", flush=True)
                await asyncio.Event().wait()
            return item

        runs = []
        async def main():
            runs.append(ceylon_nb.batch(fn, range(10), max_at_once=1))
            try:
                await runs[0]
            except asyncio.CancelledError as error:
                print(error.args[0], flush=True)
                raise

        try:
            asyncio.run(main())
        except KeyboardInterrupt:
            print(runs[0], flush=True)
    """)
    assert child.stdout.readline() == "in flight\n"
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=30)
    assert out == (
        "Interrupted: 3 of 10 answers are in run.frame; run.resume() goes on.\n"
        "Batch(3 ok, 1 cancelled of 10, cancelled)\n"
    )
    assert (child.returncode, err) == (0, "")


def test_a_script_that_ends_with_a_batch_unfinished_ends_at_once_and_quietly():
    child = python("""
        import asyncio, ceylon_nb, threading
        begun = threading.Event()
        async def fn(item):
            begun.set()
            await asyncio.Event().wait()
        run = ceylon_nb.batch(fn, range(10))
        begun.wait()
    """)
    began = time.monotonic()
    _, err = child.communicate(timeout=30)
    assert time.monotonic() - began < 15
    assert child.returncode == 0
    assert "never retrieved" not in err
    assert "pending" not in err


def python(script):
    """A child that runs the script, with every warning an error and asyncio in debug mode."""
    environment = {**os.environ, "PYTHONASYNCIODEBUG": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(
        [sys.executable, "-X", "dev", "-W", "error", "-c", textwrap.dedent(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )


def test_the_loop_is_kept_awake_only_while_it_works():
    async def main():
        here = asyncio.get_running_loop()
        spy = Spy(held=True)
        run = batch(spy, range(3))
        assert loop._tickers[here].count == 1
        await spy.until(lambda: spy.active == 3)
        run.pause()
        run.resume()
        assert loop._tickers[here].count == 1
        run.cancel()
        await run
        assert loop._tickers[here].count == 0
        run.resume()
        spy.let_all()
        await run
        assert loop._tickers[here].count == 0

    go(main())


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with Python 3.12")
def test_on_a_loop_with_eager_tasks():
    async def main():
        asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
        spy = Spy()
        assert list((await batch(spy, range(500), max_at_once=50))["reply"]) == list(range(500))

    go(main())


# -- who listens ------------------------------------------------------------------------------------------------------


def test_listeners_are_told_ten_times_a_second_at_most_and_at_the_end():
    async def main():
        times, ends = [], []

        async def fn(item):
            await asyncio.sleep(0.005)

        def listen(run):
            times.append(time.monotonic())
            ends.append(run.finished)

        run = batch(fn, range(100), max_at_once=1)
        run.subscribe(listen)
        await run
        await asyncio.sleep(0.25)
        assert ends == [False] * (len(ends) - 1) + [True]
        assert len(ends) > 3
        gaps = [b - a for a, b in itertools.pairwise(times[:-1])]
        assert min(gaps) > 0.095

    go(main())


def test_a_listener_that_fails_is_logged_once_and_dropped(caplog):
    async def main():
        told = Counter()

        def bad(run):
            told["bad"] += 1
            raise ZeroDivisionError("in a view")

        def good(run):
            told["good"] += 1

        async def fn(item):
            await asyncio.sleep(0.15)

        run = batch(fn, range(3), max_at_once=1)
        run.subscribe(bad)
        run.subscribe(good)
        assert len(await run) == 3
        assert told["bad"] == 1
        assert told["good"] > 2

    go(main())
    [record] = [record for record in caplog.records if record.name == "ceylon_nb"]
    assert "failed and is not called again; the batch goes on" in record.message
    assert "ZeroDivisionError: in a view" in caplog.text


def test_a_listener_may_leave():
    async def main():
        told = []
        run = batch(Spy(), range(3))
        leave = run.subscribe(told.append)
        run.subscribe(lambda run: None)
        leave()
        leave()
        await run
        assert told == []

    go(main())


def test_one_who_subscribes_after_the_end_is_told():
    run = batch(Spy(), range(3))
    run.result(SECONDS)
    told = threading.Event()
    run.subscribe(lambda run: told.set())
    assert told.wait(SECONDS)


def test_a_view_is_given_the_batch_and_may_fail(caplog):
    async def main():
        shown = []
        run = batch(Spy(), range(3), view=shown.append)
        assert shown == [run]
        await run

        def broken(run):
            raise ZeroDivisionError("no screen")

        assert len(await batch(Spy(), range(3), view=broken)) == 3
        assert len(await batch(Spy(), range(3), view=None)) == 3
        assert len(await batch(Spy(), range(3), view="terminal")) == 3

    go(main())
    assert "no screen" in caplog.text


# -- what it says -----------------------------------------------------------------------------------------------------


def test_repr_is_stable_once_done():
    async def main():
        spy = Spy(lambda item: boom(item) if item % 250 == 0 else item)
        run = batch(spy, range(3_000), max_at_once=100)
        assert repr(run) == "Batch(0 ok of 3,000)"
        await run
        assert repr(run) == "Batch(2,988 ok, 12 failed of 3,000)"
        await asyncio.sleep(0.01)
        assert repr(run) == "Batch(2,988 ok, 12 failed of 3,000)"

    go(main())


def test_repr_on_the_way():
    async def main():
        spy = Spy(held=True)
        run = batch(spy, (n for n in range(5)), max_at_once=2)
        await spy.until(lambda: spy.active == 2)
        assert repr(run) == "Batch(0 ok, 2 in flight of 2 so far)"
        run.pause()
        assert repr(run) == "Batch(0 ok, 2 in flight of 2 so far, paused)"
        run.cancel()
        await run
        assert repr(run) == "Batch(0 ok, 2 cancelled of 2 so far, cancelled)"
        spy.let_all()
        run.resume()
        await run
        assert repr(run) == "Batch(5 ok of 5)"
        stopped = batch(Spy(boom), range(50), max_at_once=5)
        with pytest.raises(ValueError, match="no"):
            await stopped
        assert repr(stopped) == "Batch(0 ok, 5 failed of 50, stopped)"

    go(main())


def test_summary_and_names():
    async def main():
        async def ask(item):
            if item == 3:
                raise KeyError("x")
            return Reply("y", usage=Usage(1_000, 2), attempts=1 + (item == 1), latency=0.5)

        run = batch(ask, range(4))
        assert (run.title, run.subtitle) == ("ask", "")
        await run
        lines = run.summary().split("\n")
        assert lines[0].startswith("Batch(3 ok, 1 failed of 4) in ")
        assert "answers a second, 8 at once in the end" in lines[1]
        assert lines[2:] == [
            "latency: median 0.50 s, 95 % within 0.50 s, longest 0.50 s",
            "tokens: 3,000 in, 6 out",
            "1 request was a second or later attempt",
            "failures: 1 KeyError",
        ]
        assert batch(ask, [], name="mine").title == "mine"
        assert batch(Spy(), []).title == "Spy"
        assert batch(ask, []).summary() == "Batch(0 ok of 0) in 0.0 s"

    go(main())


# -- options ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"max_at_once": 0}, 'max_at_once is a whole number from 1, or "auto", not 0.'),
        ({"max_at_once": 2.5}, 'max_at_once is a whole number from 1, or "auto", not 2.5.'),
        ({"max_at_once": None}, 'max_at_once is a whole number from 1, or "auto", not None.'),
        ({"attempts": 0}, "attempts is a whole number from 1, not 0."),
        ({"deadline": 0}, "deadline is a number above 0, not 0."),
        ({"timeout": -1}, "timeout is a number above 0, not -1."),
        ({"max_per_minute": "60"}, "max_per_minute is a number above 0, not '60'."),
        ({"view": 1}, "view is one of auto, panel, static, terminal, None or a function of the batch, not 1."),
    ],
)
def test_an_option_that_makes_no_sense_is_refused_before_anything_is_called(options, sentence):
    async def main():
        spy = Spy()
        with pytest.raises(ConfigurationError) as caught:
            batch(spy, range(3), **options)
        assert str(caught.value) == sentence
        await turns()
        assert spy.calls == []

    go(main())


def test_max_at_once_is_checked_when_it_is_changed():
    async def main():
        run = batch(Spy(), range(3))
        with pytest.raises(ConfigurationError, match="max_at_once is a whole number from 1"):
            run.max_at_once = 0
        assert run.max_at_once == 8
        await run

    go(main())


def test_what_is_no_function_is_refused():
    with pytest.raises(ConfigurationError, match="takes an async function of one item, not list"):
        batch([1, 2], range(3))


def test_timeout_and_rate_of_a_plain_function():
    async def main():
        async def fn(item):
            if item == 1:
                await asyncio.Event().wait()
            calls.append(time.monotonic())

        calls = []
        frame = await batch(fn, range(3), timeout=0.1)
        assert list(frame["status"]) == ["ok", "failed", "ok"]
        assert frame["error"][1].startswith("TimeoutError")
        calls.clear()
        await batch(fn, [0, 2, 4], max_per_minute=600)
        assert min(b - a for a, b in itertools.pairwise(calls)) > 0.09

    go(main())
