"""The loop: sync calls from anywhere, interrupts that are noticed, deadlines that know of a busy cell, quiet ends."""

import asyncio
import contextlib
import contextvars
import gc
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
import weakref
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from ceylon_nb import loop as loops
from ceylon_nb import timeouts
from ceylon_nb.errors import WrongLoop
from ceylon_nb.kernel import in_kernel
from ceylon_nb.loop import awake, background, call_in, hold_awake, run_sync, stop_background
from ceylon_nb.timeouts import STALL, PatientTimer, TimeLimit, _PatientTimeout, patient_timeout


class VirtualLoop(asyncio.SelectorEventLoop):
    """A loop whose clock jumps to the next timer instead of waiting for it, and which counts how often it wakes."""

    now = 0.0
    wakes = 0

    def time(self) -> float:
        return self.now

    def timers(self) -> list[float]:
        return [handle.when() for handle in self._scheduled if not handle.cancelled()]

    def _run_once(self) -> None:
        if self.timers() and not self._ready:
            self.now = max(self.now, min(self.timers()))
            self.wakes += 1
        super()._run_once()

    def stall(self, seconds: float) -> None:
        """What a cell does that computes for so long."""
        self.now += seconds


def virtually(main: Callable[[VirtualLoop], Coroutine[Any, Any, Any]]) -> Any:
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main(runner.get_loop()))


def python(script: str, *options: str, **env: str) -> subprocess.Popen[str]:
    """A script in a Python of its own, in development mode: nothing that goes wrong is quiet."""
    return subprocess.Popen(
        [sys.executable, "-X", "dev", *options, "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **env},
    )


def finish(process: subprocess.Popen[str]) -> tuple[str, str]:
    try:
        return process.communicate(timeout=30)
    finally:
        process.kill()
        process.communicate()


def output(process: subprocess.Popen[str]) -> list[str]:
    """All the lines that it prints; it must end well, soon, and without a word on stderr."""
    out, err = finish(process)
    assert err == ""
    assert process.returncode == 0
    return out.split()


# ---- sync calls ----


async def where() -> tuple[str, asyncio.AbstractEventLoop]:
    await asyncio.sleep(0)
    return threading.current_thread().name, asyncio.get_running_loop()


def test_a_sync_call_in_a_script():
    assert run_sync(where()) == ("ceylon-nb-loop", background())


def test_a_sync_call_where_a_loop_runs():
    async def cell() -> Any:
        return run_sync(where())

    assert asyncio.run(cell()) == ("ceylon-nb-loop", background())


def test_sync_calls_from_many_threads_share_one_loop():
    meeting = []

    async def meet() -> asyncio.AbstractEventLoop:
        meeting.append(1)
        while len(meeting) < 8:
            await asyncio.sleep(0)
        return asyncio.get_running_loop()

    stop_background()
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(lambda _: run_sync(meet()), range(8))) == {background()}


def test_what_a_call_raises_is_raised_with_its_traceback():
    async def fails() -> None:
        raise ValueError("of its own")

    with pytest.raises(ValueError, match="of its own") as raised:
        run_sync(fails())
    assert "in fails" in "".join(traceback.format_exception(raised.value))


def test_a_call_that_cancels_itself():
    async def cancels() -> None:
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        run_sync(cancels())


def test_context_variables_travel():
    variable = contextvars.ContextVar("variable", default="default")

    async def inner() -> str:
        found = variable.get()
        variable.set("set within")
        return found

    variable.set("set outside")
    assert run_sync(inner()) == "set outside"
    assert variable.get() == "set outside"


def test_a_sync_call_on_the_librarys_own_loop_is_refused():
    async def inner() -> None:
        raise AssertionError("never begun")

    async def outer() -> None:
        run_sync(inner())

    with pytest.raises(WrongLoop, match="await it"):
        run_sync(outer())
    gc.collect()


# ---- interrupts ----

INTERRUPTED = """
import asyncio
from ceylon_nb.loop import run_sync

async def work():
    try:
        print("began", flush=True)
        await asyncio.sleep(60)
    finally:
        {clean_up}

try:
    run_sync(work())
except KeyboardInterrupt:
    print("interrupted", flush=True)
async def others():
    return len(asyncio.all_tasks())
print(run_sync(others()), "left")
"""


def test_ctrl_c_ends_the_call_after_its_clean_up():
    process = python(INTERRUPTED.format(clean_up='await asyncio.sleep(0.2); print("cleaned")'))
    assert process.stdout.readline() == "began\n"
    process.send_signal(signal.SIGINT)
    assert output(process) == ["cleaned", "interrupted", "1", "left"]


IN_A_LOOP = """
import asyncio, signal
from ceylon_nb.loop import run_sync

async def work():
    try:
        print("began", flush=True)
        await asyncio.sleep(60)
    finally:
        await asyncio.sleep(0.1)
        print("cleaned")

async def main():
    assert run_sync(asyncio.sleep(0, "yes")) == "yes"
    before = signal.getsignal(signal.SIGINT)
    try:
        run_sync(work())
    finally:
        print(signal.getsignal(signal.SIGINT) == before)

try:
    asyncio.run(main(), debug=False)  # or it complains of the blocking
except KeyboardInterrupt:
    print("interrupted")
"""


def test_ctrl_c_ends_a_sync_call_that_blocks_a_running_loop():
    process = python(IN_A_LOOP)
    assert process.stdout.readline() == "began\n"
    process.send_signal(signal.SIGINT)
    assert output(process) == ["cleaned", "True", "interrupted"]


def test_after_ctrl_c_a_failing_clean_up_is_no_news():
    process = python(INTERRUPTED.format(clean_up='raise ValueError("while ending")'))
    assert process.stdout.readline() == "began\n"
    process.send_signal(signal.SIGINT)
    assert output(process) == ["interrupted", "1", "left"]


@pytest.mark.parametrize(("signals", "longest"), [(1, 4.0), (2, 1.0)])
def test_ctrl_c_does_not_wait_for_ever(signals, longest):
    """Two seconds for a clean-up that hangs, and a second one does not wait at all."""
    process = python(INTERRUPTED.format(clean_up='print("cleaning", flush=True); await asyncio.sleep(10)'))
    assert process.stdout.readline() == "began\n"
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "cleaning\n"
    began = time.monotonic()
    if signals == 2:
        process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "interrupted\n"
    assert time.monotonic() - began < longest
    out, _ = finish(process)
    assert out.split() == ["2", "left"]


ANY_MOMENT = """
import asyncio, inspect, random, signal, threading
from ceylon_nb.loop import background, run_sync

background()  # asyncio itself cannot be interrupted at any moment while it makes a loop
armed, ended, counts, dice = False, threading.Event(), {"begun": 0, "ended": 0, "interrupted": 0}, random.Random(1)

def handler(*_):
    global armed
    if armed:
        armed = False
        raise KeyboardInterrupt

async def work():
    counts["begun"] += 1
    try:
        await asyncio.sleep(dice.random() * 0.0005)
    finally:
        counts["ended"] += 1

async def others():
    return len(asyncio.all_tasks())

def shoot():
    while not ended.wait(dice.random() * 0.001):
        signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)

signal.signal(signal.SIGUSR1, handler)
threading.Thread(target=shoot).start()
for _ in range(1500):
    coroutine = work()
    armed = True
    try:
        run_sync(coroutine)
        armed = False
    except KeyboardInterrupt:
        counts["interrupted"] += 1
        if inspect.getcoroutinestate(coroutine) == "CORO_CREATED":
            coroutine.close()  # interrupted before it was handed over
ended.set()
print(run_sync(others()), counts["begun"] - counts["ended"], counts["interrupted"] > 100)
"""


def test_ctrl_c_at_any_moment_leaves_nothing_behind():
    assert output(python(ANY_MOMENT)) == ["1", "0", "True"]


# ---- from other threads ----


def test_call_in_calls_at_once_on_the_loops_own_thread():
    async def main() -> list[int]:
        called: list[int] = []
        call_in(asyncio.get_running_loop(), called.append, 1)
        return list(called)

    assert asyncio.run(main()) == [1]


def test_call_in_from_another_thread_wakes_the_loop():
    async def main() -> str:
        loop = asyncio.get_running_loop()
        called = loop.create_future()
        threading.Thread(
            target=call_in,
            args=(loop, lambda: called.set_result(threading.current_thread().name)),
        ).start()
        async with asyncio.timeout(5):
            return await called

    assert asyncio.run(main(), debug=True) == "MainThread"


def test_call_in_leaves_a_closed_loop_alone():
    loop = asyncio.new_event_loop()
    loop.close()
    call_in(loop, pytest.fail, "called")


# ---- the ticker ----


def test_a_held_loop_wakes_ten_times_a_second():
    async def main(loop: VirtualLoop) -> tuple[int, list[float]]:
        before = loop.wakes
        with awake():
            await asyncio.sleep(2.0)
        return loop.wakes - before, loop.timers()

    wakes, left = virtually(main)
    assert 19 <= wakes <= 22
    assert left == []


def test_the_ticker_stops_with_the_last_who_holds_it():
    async def main(loop: VirtualLoop) -> None:
        assert loop.timers() == []
        first = hold_awake(loop)
        with awake():
            with awake():
                assert len(loop.timers()) == 1
            assert len(loop.timers()) == 1
        first()
        assert loop.timers() == []
        second = hold_awake(loop)
        await asyncio.sleep(0.35)
        assert len(loop.timers()) == 1
        second()
        assert loop.timers() == []

    virtually(main)


def test_the_ticker_stops_with_an_error():
    async def main(loop: VirtualLoop) -> None:
        with pytest.raises(ZeroDivisionError), awake():
            _ = 1 / 0
        assert loop.timers() == []

    virtually(main)


def test_each_loop_has_a_ticker_of_its_own():
    """Many threads, each with loop after loop, all at the same time; asyncio's debug mode sees a wrong thread."""

    async def hold() -> None:
        for _ in range(20):
            with awake(), awake():
                await asyncio.sleep(0)

    def work(_: int) -> None:
        for _ in range(20):
            asyncio.run(hold(), debug=True)

    others = set(loops._tickers)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    gc.collect()
    assert not [loop for loop in loops._tickers if loop.is_closed() and loop not in others]


def test_a_loop_that_is_closed_while_it_is_held_is_forgotten():
    async def hold() -> Callable[[], object]:
        loop = asyncio.get_running_loop()
        hold_awake(loop)
        return weakref.ref(loop)

    loop = asyncio.run(hold())
    gc.collect()
    assert loop() is None


# ---- patient timeouts ----


def test_a_timeout_comes_on_time():
    async def main(loop: VirtualLoop) -> float:
        with pytest.raises(TimeoutError, match=r"Not done within 5 s\."):
            async with patient_timeout(5):
                await asyncio.Event().wait()
        return loop.time()

    assert virtually(main) == 5


def test_in_time_there_is_no_timeout():
    async def main(loop: VirtualLoop) -> None:
        async with patient_timeout(5):
            await asyncio.sleep(4.9)
        assert loop.timers() == []
        await asyncio.sleep(10)
        async with patient_timeout(None):
            await asyncio.sleep(10_000)
        async with patient_timeout(float("inf")):
            await asyncio.sleep(10_000)

    virtually(main)


@pytest.mark.parametrize("seconds", [0, -0.001, -60])
def test_no_time_left(seconds):
    async def main(loop: VirtualLoop) -> float:
        with pytest.raises(TimeoutError):
            async with patient_timeout(seconds):
                await asyncio.sleep(1)
        return loop.time()

    assert virtually(main) == 0


def test_an_answer_that_lies_ready_after_a_stall_is_taken():
    """A server answers while a cell computes past the deadline: the answer is in the socket when the loop goes on."""

    async def main(loop: VirtualLoop) -> bytes:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)

        def cell() -> None:
            loop.stall(30)
            theirs.send(b"the answer")

        loop.call_at(4, cell)
        with ours, theirs:
            async with patient_timeout(5):
                answer = await loop.sock_recv(ours, 100)
                for _ in range(5):  # a client takes some rounds of the loop to read what is there
                    await asyncio.sleep(0)
                return answer

    assert virtually(main) == b"the answer"


def test_an_answer_that_never_comes_is_not_waited_for_because_of_a_stall():
    async def main(loop: VirtualLoop) -> float:
        loop.call_at(4, loop.stall, 30)
        with pytest.raises(TimeoutError):
            async with patient_timeout(5):
                await asyncio.Event().wait()
        return loop.time()

    assert virtually(main) == 34 + 29


def test_a_stall_within_the_time_granted_grants_a_moment_more():
    async def main(loop: VirtualLoop) -> float:
        loop.call_at(4, loop.stall, 10)
        loop.call_at(20, loop.stall, 10)
        with pytest.raises(TimeoutError):
            async with patient_timeout(5):
                await asyncio.Event().wait()
        return loop.time()

    assert virtually(main) == 30 + STALL


def test_stalls_that_keep_coming_move_nothing_for_ever():
    async def main(loop: VirtualLoop) -> float:
        def keep_coming(times: int) -> None:
            loop.stall(2 + times % 3)
            if times:
                loop.call_soon(keep_coming, times - 1)

        loop.call_soon(keep_coming, 100)
        with pytest.raises(TimeoutError):
            async with patient_timeout(5.5):
                await asyncio.Event().wait()
        return loop.time()

    assert virtually(main) < 60


def test_a_stall_before_the_deadline_moves_nothing():
    async def main(loop: VirtualLoop) -> float:
        loop.call_at(1, loop.stall, 3)
        with pytest.raises(TimeoutError):
            async with patient_timeout(5):
                await asyncio.Event().wait()
        return loop.time()

    assert virtually(main) == 5


def test_an_interrupt_is_no_timeout():
    async def main(loop: VirtualLoop) -> None:
        async def work() -> None:
            async with patient_timeout(5):
                await asyncio.Event().wait()

        task = asyncio.create_task(work())
        loop.call_at(5, task.cancel)  # at the very moment
        with pytest.raises(asyncio.CancelledError):
            await task
        assert task.cancelled()

    virtually(main)


def test_timeouts_within_timeouts():
    async def main(loop: VirtualLoop) -> None:
        with pytest.raises(TimeoutError) as raised:
            async with asyncio.timeout(3), patient_timeout(5):
                await asyncio.Event().wait()
        assert (loop.time(), raised.value.args) == (3, ())
        with pytest.raises(TimeoutError, match="Not done within 2 s"):
            async with patient_timeout(5), patient_timeout(2):
                await asyncio.Event().wait()
        assert loop.time() == 5
        with pytest.raises(TimeoutError, match="of its own"):
            async with patient_timeout(5):
                raise TimeoutError("of its own")

    virtually(main)


# ---- long ones, which stand in line ----


def test_those_in_line_end_on_time_each():
    async def main(loop: VirtualLoop) -> list[tuple[float, float]]:
        async def work(began: float, seconds: float, lasts: float) -> tuple[float, float]:
            await asyncio.sleep(began)
            with contextlib.suppress(TimeoutError):
                async with patient_timeout(seconds):
                    await asyncio.sleep(lasts)
            return began, loop.time()

        works = [(began, 60.0, 1000.0 if began % 2 else 30.0) for began in range(100)]
        return await asyncio.gather(*(work(*each) for each in works), work(10, 90, 1000), work(200, 60, 1000))

    ended = virtually(main)
    assert ended[-2:] == [(10, 100), (200, 260)]
    assert [round(end - began) for began, end in ended[:-2]] == [30, 60] * 50


def test_a_line_has_one_timer_and_goes_when_it_is_empty():
    async def main(loop: VirtualLoop) -> None:
        async def work() -> None:
            async with patient_timeout(600):
                await asyncio.Event().wait()

        tasks = [asyncio.create_task(work()) for _ in range(1000)]
        await asyncio.sleep(1)
        assert len(loop.timers()) == 1
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        await asyncio.sleep(700)
        assert loop.timers() == []
        assert not timeouts._lines[loop]

    virtually(main)


@pytest.mark.parametrize(("begins", "lasts", "ends"), [(57, 30, 87 + 27), (59.5, 30, 89.5 + 29.5), (1, 58.9, 60)])
def test_a_stall_moves_the_end_of_one_in_line(begins, lasts, ends):
    async def main(loop: VirtualLoop) -> float:
        loop.call_at(begins, loop.stall, lasts)
        with pytest.raises(TimeoutError, match=r"Not done within 60 s\."):
            async with patient_timeout(60):
                await asyncio.Event().wait()
        return loop.time()

    assert virtually(main) == pytest.approx(ends)


@pytest.mark.parametrize("seconds", [0.5, 5, 60], ids=["too late", "in time", "in line"])
def test_a_timeout_leaves_nothing_to_the_garbage_collector(seconds):
    """Each request has one, and a thousand at once keep the collector busy as it is."""

    async def main(loop: VirtualLoop) -> list[object]:
        with contextlib.suppress(TimeoutError):
            async with patient_timeout(seconds):
                await asyncio.sleep(1)
        await asyncio.sleep(0)
        return [each for each in gc.get_objects() if type(each) in (PatientTimer, _PatientTimeout)]

    gc.collect()
    gc.disable()
    try:
        assert virtually(main) == []
    finally:
        gc.enable()


# ---- the end of the background loop ----


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "ceylon-nb-loop"]


def test_stopped_it_leaves_no_thread_and_can_begin_again():
    first = background()
    assert threads() == ["ceylon-nb-loop"]
    stop_background()
    assert threads() == []
    assert first.is_closed()
    stop_background()
    assert run_sync(where())[1] is not first


def test_stopped_it_ends_what_runs_there():
    ended, parked = [], []

    async def park() -> AsyncIterator[None]:
        try:
            yield
        finally:
            ended.append("generator")

    async def work() -> None:
        generator = park()
        parked.append(generator)
        await anext(generator)
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.1)
            ended.append("task")

    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(run_sync, work())
        while not parked:
            time.sleep(0)
        stop_background()
        assert ended == ["task", "generator"]
        with pytest.raises(asyncio.CancelledError):
            call.result(5)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_what_ends_its_thread_does_not_end_the_next_call():
    async def leave() -> None:
        raise SystemExit

    run_sync(where())
    thread = loops._thread
    assert thread is not None
    with pytest.raises(SystemExit):
        run_sync(leave())
    assert run_sync(where())[0] == "ceylon-nb-loop"
    thread.join()
    assert not thread.is_alive()


def test_stopped_under_calls_none_of_them_hangs():
    """Each call either gets its answer or is cancelled, whenever the loop is stopped."""
    over = threading.Event()

    def call() -> tuple[int, int]:
        answered = cancelled = 0
        while not over.is_set():
            try:
                run_sync(where())
                answered += 1
            except asyncio.CancelledError:
                cancelled += 1
        return answered, cancelled

    switch = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    with ThreadPoolExecutor(4) as pool:
        calls = [pool.submit(call) for _ in range(4)]
        for _ in range(500):
            background()
            stop_background()
        over.set()
        sys.setswitchinterval(switch)
        answered, cancelled = zip(*(each.result(10) for each in calls), strict=True)
    assert sum(answered) > 0
    assert sum(cancelled) > 0


EXIT = """
import asyncio, threading
from ceylon_nb.loop import background, run_sync

async def park():
    try:
        yield
    finally:
        await asyncio.sleep(0)

async def work(fails=False):
    async for _ in park():
        began.release()
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0)
            if fails:
                raise ValueError("while ending")

def call(fails):
    try:
        run_sync(work(fails))
    except BaseException:
        pass

began = threading.Semaphore(0)
for fails in (False, True):
    threading.Thread(target=call, args=(fails,), daemon=True).start()
    background().call_soon_threadsafe(lambda fails=fails: asyncio.ensure_future(work(fails)))
for _ in range(4):
    began.acquire()
print("ends")
"""


def test_a_process_ends_at_once_and_in_silence():
    process = python(EXIT)
    assert process.stdout.readline() == "ends\n"
    began = time.monotonic()
    assert output(process) == []
    assert time.monotonic() - began < 3


STUBBORN = """
import asyncio, threading
from ceylon_nb.loop import background

async def work():
    while True:
        began.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            pass

began = threading.Event()
asyncio.run_coroutine_threadsafe(work(), background())
began.wait()
print("ends", flush=True)
"""


def test_a_process_ends_although_a_task_will_not():
    process = python(STUBBORN)
    assert process.stdout.readline() == "ends\n"
    began = time.monotonic()
    finish(process)
    assert process.returncode == 0
    assert time.monotonic() - began < 4


FORK = """
import os, sys, warnings
from ceylon_nb.loop import run_sync

warnings.simplefilter("ignore", DeprecationWarning)  # forking beside threads: the very point

async def hello(name):
    return f"hello from the {name}"

run_sync(hello("parent"))
child = os.fork()
print(run_sync(hello("child" if not child else "parent")), flush=True)
if child:
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is nothing to fork with")
def test_a_fork_has_a_loop_of_its_own():
    assert sorted(output(python(FORK))) == sorted("hello from the parent hello from the child".split())


# ---- the notebook ----


def test_outside_a_kernel():
    assert not in_kernel()


KERNEL = """
import sys
import ceylon_nb
from ceylon_nb.kernel import in_kernel
assert not in_kernel()
assert "IPython" not in sys.modules
import ipykernel
assert not in_kernel()
"""


def test_ipykernel_alone_makes_no_kernel():
    assert output(python(KERNEL, "-W", "ignore")) == []


# ---- a limit for many waits ----


def test_many_waits_have_one_timer_for_their_silence():
    async def main(loop: VirtualLoop) -> None:
        limit = TimeLimit(None)
        limit.start()
        limit.silence = 100.0
        for _ in range(1000):
            with limit:
                await asyncio.sleep(1)
        assert len([at for at in loop.timers() if at > loop.now]) == 1
        limit.stop()
        assert not [at for at in loop.timers() if at > loop.now]
        assert not limit.silent
        assert not limit.over

    virtually(main)


@pytest.mark.parametrize("before", [0, 1, 60, 99.9, 100])
def test_a_silence_counts_from_where_its_own_wait_began(before: float):
    async def main(loop: VirtualLoop) -> None:
        limit = TimeLimit(None)
        limit.start()
        limit.silence = 100.0
        with limit:
            await asyncio.sleep(before and 0.1)
        await asyncio.sleep(before)
        began = loop.now
        with pytest.raises(TimeoutError), limit:
            await asyncio.sleep(1000)
        assert loop.now == pytest.approx(began + 100)
        assert limit.silent
        assert not limit.over
        limit.stop()

    virtually(main)


def test_what_comes_in_the_round_in_which_its_time_has_passed_is_taken():
    async def main(loop: VirtualLoop) -> None:
        limit = TimeLimit(10)
        limit.start()
        came = loop.create_future()
        loop.call_later(10 - 5e-10, came.set_result, "a token")  # within the clock's resolution
        with limit:
            assert await came == "a token"
        assert limit.over
        with limit:
            pass  # what lies ready is taken still
        with pytest.raises(TimeoutError), limit:
            await asyncio.sleep(1)
        assert loop.now == pytest.approx(10)
        limit.stop()

    virtually(main)


def test_a_wait_in_which_the_loop_was_kept_busy_is_given_more_time():
    async def main(loop: VirtualLoop) -> None:
        limit = TimeLimit(None)
        limit.start()
        limit.silence = 5.0
        with limit:
            loop.call_later(1, loop.stall, 30)
            await asyncio.sleep(50)  # in its own round, and twice as late as the silence was
        limit.stop()

    virtually(main)


def test_a_wait_that_somebody_else_cancels_as_well_is_cancelled():
    async def main(loop: VirtualLoop) -> None:
        limit = TimeLimit(1)
        limit.start()
        task = asyncio.current_task()
        assert task is not None
        loop.call_later(1, task.cancel)
        with pytest.raises(asyncio.CancelledError), limit:
            await asyncio.sleep(10)
        assert task.uncancel() == 0
        limit.stop()

    virtually(main)


# ---- asyncio's debug mode ----

DEBUG = """
import asyncio, logging, sys, threading
import pandas
from ceylon_nb import LlmAgent, as_completed
from ceylon_nb.testing import ModelServer, faults

def script(agent):
    assert agent.send_message_sync("Hi") == "Yes."
    assert list(agent.map(["a", "b"], view=None).result(10)["reply"]) == ["Yes."] * 2

async def cell(agent):
    asyncio.get_running_loop().slow_callback_duration = 0.3
    script_of_another = asyncio.to_thread(script, agent)
    run = agent.map(range(50), "{}", view=None)
    assert agent.send_message_sync("Hi") == "Yes."
    async for task in as_completed([agent.send_message("Hi"), script_of_another]):
        await task
    frame = await run
    assert list(frame["reply"]) == ["Yes."] * 50
    run = agent.map(range(50), "{}", max_per_minute=60, view=None)
    await asyncio.sleep(0)
    run.cancel()
    await run

with ModelServer(reply="Yes.") as server:
    server.next(None, faults.status(503, headers={"Retry-After": "0"}))
    agent = LlmAgent("a", "ollama::mock", base_url=server.url).build()
    asyncio.run(cell(agent))
    script(agent)
print("done")
"""


def test_nothing_to_complain_of_in_debug_mode():
    """No callback is slow, none is called from a wrong thread, nothing is left open."""
    assert output(python(DEBUG, "-W", "error", PYTHONASYNCIODEBUG="1")) == ["done"]
