"""Functions that block: a thread each, never the loop; who waits may go, and can know when the thread has ended."""

import asyncio
import contextlib
import contextvars
import functools
import gc
import sys
import threading
import weakref

import pytest

from ceylon_nb import errors
from ceylon_nb.agents import threads
from ceylon_nb.agents.threads import call, in_thread
from ceylon_nb.loop import run_sync

WORD = contextvars.ContextVar("WORD", default="none")


def test_it_runs_beside_the_loop_in_a_daemon_and_returns():
    def work(a, b):
        thread = threading.current_thread()
        return a + b, thread.daemon, thread.name, thread is threading.main_thread()

    async def main():
        return await in_thread(work, 1, 2)

    assert asyncio.run(main()) == (3, True, "ceylon-nb work", False)


def test_the_loop_goes_on_meanwhile():
    free = threading.Event()

    async def main():
        waiting = asyncio.ensure_future(in_thread(free.wait, 30))
        await asyncio.sleep(0)
        free.set()  # by this loop, while the thread waits
        return await waiting

    assert asyncio.run(main()) is True


def test_context_variables_go_along_and_do_not_come_back():
    def work():
        seen = WORD.get()
        WORD.set("inside")
        return seen

    async def main():
        WORD.set("outside")
        return await in_thread(work), WORD.get()

    assert asyncio.run(main()) == ("outside", "outside")


def test_what_it_raises_is_the_very_exception():
    mistake = KeyError("x")

    def work():
        raise mistake

    async def main():
        with pytest.raises(KeyError) as raised:
            await in_thread(work)
        return raised.value

    assert asyncio.run(main()) is mistake


def test_stop_iteration_does_not_hang():
    async def main():
        await asyncio.wait_for(in_thread(next, iter(())), 30)

    with pytest.raises(RuntimeError, match="StopIteration"):
        asyncio.run(main())


@pytest.mark.parametrize("end", [sys.exit, functools.partial(sys.exit, 3)])
def test_sys_exit_does_not_end_python(end):
    async def main():
        with pytest.raises(errors.CeylonError, match="wanted to end Python: SystemExit"):
            await in_thread(end)
        with pytest.raises(errors.CeylonError, match="wanted to end Python"):
            await call(end)
        return "alive"

    assert asyncio.run(main()) == "alive"


def test_a_keyboard_interrupt_of_its_own_making_does_not_reach_the_loop():
    def work():
        raise KeyboardInterrupt

    async def main():
        with pytest.raises(errors.CeylonError, match="KeyboardInterrupt"):
            await in_thread(work)
        return "alive"

    assert asyncio.run(main()) == "alive"


def test_a_cancelled_wait_ends_at_once_and_the_end_of_the_thread_is_known():
    began, free = threading.Event(), threading.Event()
    after = []

    def work():
        began.set()
        free.wait(30)
        after.append("done")
        raise ValueError("nobody is there to hear it")

    async def main():
        ends = []
        threads.running.set(ends)
        task = asyncio.ensure_future(in_thread(work))
        await asyncio.to_thread(began.wait, 30)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        [end] = ends
        assert not after
        assert not end.done()
        free.set()
        await end
        assert after == ["done"]

    asyncio.run(main())


def test_nothing_is_said_of_a_coroutine_that_comes_too_late(recwarn):
    began, free = threading.Event(), threading.Event()

    async def nobody_awaits_it(): ...

    def work():
        began.set()
        free.wait(30)
        return nobody_awaits_it()

    async def main():
        ends = []
        threads.running.set(ends)
        task = asyncio.ensure_future(call(work))
        await asyncio.to_thread(began.wait, 30)
        task.cancel()
        await asyncio.wait([task])
        free.set()
        await ends[0]

    asyncio.run(main())
    gc.collect()
    assert not recwarn.list


def test_the_end_is_known_of_a_thread_that_was_waited_for():
    async def main():
        ends = []
        threads.running.set(ends)
        assert await in_thread(len, "abc") == 3
        assert await in_thread(len, "abcd") == 4
        return [end.done() for end in ends]

    assert asyncio.run(main()) == [True, True]


def test_what_a_thread_begins_elsewhere_is_not_counted_here():
    def work():
        return run_sync(in_thread(threads.running.get)), threads.running.get()

    async def main():
        ends = []
        threads.running.set(ends)
        return await in_thread(work), len(ends)

    assert asyncio.run(main()) == ((None, None), 1)


def test_a_hundred_at_once_that_wait_for_one_another():
    """A pool would be full of those that wait, and never come to the one that they wait for."""
    together = threading.Barrier(100)

    async def main():
        return await asyncio.gather(*(in_thread(together.wait, 60) for _ in range(100)))

    assert sorted(asyncio.run(main())) == list(range(100))


def test_sync_calls_within_sync_calls():
    def down(depth):
        return depth and run_sync(in_thread(down, depth - 1)) + 1

    async def main():
        return await in_thread(down, 40)

    assert asyncio.run(main()) == 40


def test_a_loop_that_is_closed_before_the_thread_ends_is_left_alone(recwarn):
    began, free = threading.Event(), threading.Event()
    mine = []

    def work():
        mine.append(threading.current_thread())
        began.set()
        free.wait(30)

    async def main():
        task = asyncio.ensure_future(in_thread(work))
        await asyncio.to_thread(began.wait, 30)
        task.cancel()

    asyncio.run(main())
    free.set()
    mine[0].join(30)
    assert not mine[0].is_alive()
    assert not recwarn.list


def test_nothing_is_left_of_a_failure():
    class Thing:
        pass

    refs = []

    def work(thing):
        raise ValueError(type(thing).__name__)

    async def main():
        thing = Thing()
        refs.append(weakref.ref(thing))
        with contextlib.suppress(ValueError):
            await call(work, thing)
        del thing

    gc.disable()
    try:
        asyncio.run(main())
        for thread in threading.enumerate():
            if thread.name == "ceylon-nb work":  # it has answered, and is about to end
                thread.join(30)
        assert refs[0]() is None
    finally:
        gc.enable()


# ---- call ----


def test_call_runs_an_async_function_on_the_loop_and_others_beside_it():
    def sync():
        return threading.current_thread()

    async def asynchronous():
        return threading.current_thread()

    class Both:
        async def __call__(self):
            return threading.current_thread()

    async def main():
        here = threading.current_thread()
        return [await call(each) is here for each in (sync, asynchronous, functools.partial(asynchronous), Both())]

    assert asyncio.run(main()) == [False, True, True, True]


def test_an_awaitable_that_a_function_returns_is_awaited_on_the_loop():
    async def inner(word):
        return word, asyncio.get_running_loop()

    async def main():
        word, loop = await call(lambda: inner("x"))
        return word, loop is asyncio.get_running_loop()

    assert asyncio.run(main()) == ("x", True)


@pytest.mark.parametrize("asynchronous", [True, False])
def test_of_a_group_the_first_is_raised(asynchronous):
    first = ValueError("first")

    def sync():
        raise ExceptionGroup("many", [first, ExceptionGroup("inner", [KeyError("second")])])

    async def main():
        async def same():
            sync()

        with pytest.raises(ValueError, match="first") as raised:
            await call(same if asynchronous else sync)
        return raised.value

    error = asyncio.run(main())
    assert error is first
    assert "Raised together with" in error.__notes__[0]
    assert not isinstance(error.__context__, BaseExceptionGroup)


def test_named_arguments_may_have_any_name():
    def take(**named):
        return named

    names = dict.fromkeys(("function", "self", "func", "args", "named", "loop", "context", "target", "cls"), 1)

    async def take_async(**named):
        return named

    async def main():
        return await call(take, named=names), await call(take_async, named=names)

    assert asyncio.run(main()) == (names, names)
