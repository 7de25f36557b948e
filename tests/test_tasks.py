"""as_completed: the very tasks, in the order in which they end; and what becomes of the others."""

import asyncio
import gc
import random
import time
from collections.abc import AsyncIterator, Coroutine, Iterator
from typing import Any

import pytest

from ceylon_nb import as_completed
from ceylon_nb.taskrun import TaskRun


class Gates:
    """Tasks that end when they are told to."""

    def __init__(self) -> None:
        self.gates: dict[Any, asyncio.Event] = {}
        self.cancels: list[Any] = []

    async def work(self, name: Any) -> Any:
        gate = self.gates.setdefault(name, asyncio.Event())
        try:
            await gate.wait()
        except asyncio.CancelledError:
            self.cancels.append(name)
            raise
        return name

    def task(self, name: Any) -> asyncio.Task[Any]:
        self.gates.setdefault(name, asyncio.Event())
        return asyncio.create_task(self.work(name), name=str(name))

    def open(self, *names: Any) -> None:
        for name in names:
            self.gates.setdefault(name, asyncio.Event()).set()


async def settle() -> None:
    """Let what is ready happen: callbacks, finalizers of generators, and what follows from them."""
    for _ in range(10):
        await asyncio.sleep(0)


@pytest.fixture
def complaints() -> Iterator[list[dict[str, Any]]]:
    """What the loop's exception handler was told; nothing, it is hoped."""
    told: list[dict[str, Any]] = []
    yield told
    gc.collect()
    assert told == []


def run(main: Coroutine[Any, Any, Any], complaints: list[dict[str, Any]]) -> Any:
    async def watched() -> Any:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: complaints.append(context))
        result = await main
        await settle()
        return result

    return asyncio.run(watched())


# ---- what it yields ----


def test_the_very_tasks_in_the_order_in_which_they_end(complaints):
    async def main() -> None:
        gates = Gates()
        tasks = {gates.task(name): name for name in "abcde"}
        order = list("dbeac")
        gates.open(order[0])
        seen = []
        async for task in as_completed(tasks):
            assert task in tasks
            assert task.done()
            seen.append(tasks[task])
            assert await task == tasks[task]
            gates.open(*order[len(seen) : len(seen) + 1])
        assert seen == order

    run(main(), complaints)


def test_tasks_that_end_together_come_in_the_order_of_their_ends(complaints):
    async def main() -> None:
        gates, dice = Gates(), random.Random(1)
        names = list(range(50))
        tasks = [gates.task(name) for name in names]
        dice.shuffle(names)
        reader = asyncio.create_task(read(as_completed(tasks)))
        await settle()
        gates.open(*names)
        assert [task.result() for task in await reader] == names

    run(main(), complaints)


async def read(completions: AsyncIterator[Any]) -> list[Any]:
    return [task async for task in completions]


def test_coroutines_are_wrapped_and_their_task_is_yielded(complaints):
    async def main() -> None:
        gates = Gates()
        gates.open("a", "b")
        tasks = await read(as_completed([gates.work("a"), gates.work("b")]))
        assert all(isinstance(task, asyncio.Task) for task in tasks)
        assert sorted(task.result() for task in tasks) == ["a", "b"]

    run(main(), complaints)


def test_anything_that_can_be_awaited(complaints):
    class Awaitable:
        def __await__(self) -> Any:
            yield from asyncio.sleep(0).__await__()
            return "awaitable"

    async def main() -> None:
        future = asyncio.get_running_loop().create_future()
        future.set_result("future")
        gathered = asyncio.gather(asyncio.sleep(0, 1), asyncio.sleep(0, 2))
        found = await read(as_completed([Awaitable(), future, gathered]))
        assert future in found
        assert gathered in found
        assert {str(await each) for each in found} == {"awaitable", "future", "[1, 2]"}

    run(main(), complaints)


@pytest.mark.parametrize("kind", [list, tuple, set, frozenset, dict.fromkeys, iter, lambda tasks: (t for t in tasks)])
def test_any_collection_will_do(kind, complaints):
    async def main() -> None:
        gates = Gates()
        gates.open("a", "b")
        tasks = [gates.task("a"), gates.task("b")]
        assert set(await read(as_completed(kind(tasks)))) == set(tasks)

    run(main(), complaints)


@pytest.mark.parametrize("none", [[], {}, iter(())], ids=["list", "dict", "iterator"])
def test_nothing_given_nothing_yielded(none, complaints):
    async def main() -> None:
        assert await read(as_completed(none)) == []

    run(main(), complaints)


def test_one_given_twice_is_yielded_once(complaints):
    async def main() -> None:
        gates = Gates()
        gates.open("a")
        task, coroutine = gates.task("a"), gates.work("a")
        found = await read(as_completed([task, coroutine, task, coroutine]))
        assert len(found) == 2
        assert task in found

    run(main(), complaints)


def test_tasks_already_done(complaints):
    async def main() -> None:
        gates = Gates()
        gates.open("a", "b")
        tasks = [gates.task("a"), gates.task("b")]
        await asyncio.wait(tasks)
        assert await read(as_completed(tasks)) == tasks
        assert await read(as_completed(tasks)) == tasks

    run(main(), complaints)


def test_a_cancelled_task_is_done_like_any_other(complaints):
    async def main() -> None:
        gates = Gates()
        tasks = [gates.task("a"), gates.task("b")]
        tasks[0].cancel()
        gates.open("b")
        found = await read(as_completed(tasks))
        assert {task.cancelled() for task in found} == {True, False}

    run(main(), complaints)


def test_two_readers_of_the_same_tasks(complaints):
    async def main() -> None:
        gates = Gates()
        tasks = [gates.task("a"), gates.task("b")]
        readers = [asyncio.create_task(read(as_completed(tasks))) for _ in range(2)]
        await settle()
        gates.open("b", "a")
        assert await asyncio.gather(*readers) == [tasks[::-1]] * 2

    run(main(), complaints)


async def fail(text: str) -> None:
    raise ValueError(text)


async def fail_when_cancelled() -> None:
    try:
        await asyncio.Event().wait()
    finally:
        raise ValueError("while ending")


def test_failing_tasks_are_yielded_like_others(complaints):
    async def main() -> None:
        tasks = {asyncio.create_task(fail(text)): text for text in "abc"}
        async for task in as_completed(tasks):
            with pytest.raises(ValueError, match=tasks[task]):
                await task

    run(main(), complaints)


def test_failing_coroutines_make_no_noise(complaints):
    async def main() -> None:
        async for _ in as_completed([fail("a"), fail("b"), fail("c")]):
            pass
        async for _ in as_completed([fail("d"), fail("e"), fail_when_cancelled()]):
            break

    run(main(), complaints)


# ---- leaving ----


def test_a_break_cancels_only_what_was_started_here(complaints):
    async def main() -> None:
        gates = Gates()
        mine, its = gates.task("mine"), gates.work("its")
        gates.open("first")
        async for task in as_completed([mine, its, gates.task("first")]):
            assert task.result() == "first"
            break
        await settle()
        assert gates.cancels == ["its"]
        gates.open("mine")
        assert await mine == "mine"

    run(main(), complaints)


def test_an_error_in_the_loop_is_a_break(complaints):
    async def main() -> None:
        gates = Gates()
        mine = gates.task("mine")
        gates.open("first")
        with pytest.raises(ZeroDivisionError):
            async for _ in as_completed([mine, gates.work("its"), gates.task("first")]):
                _ = 1 / 0
        await settle()
        assert gates.cancels == ["its"]
        gates.open("mine")
        await mine

    run(main(), complaints)


def test_an_interrupt_cancels_everything_once(complaints):
    """A second cancel would cut off the clean-up of what somebody has cancelled already."""

    async def main() -> None:
        gates, cleaned = Gates(), []

        async def clean_up() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                await settle()
                cleaned.append(1)

        mine, already = gates.task("mine"), asyncio.create_task(clean_up())
        reader = asyncio.create_task(read(as_completed([mine, gates.work("its"), already])))
        await settle()
        already.cancel()
        await asyncio.sleep(0)
        reader.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reader
        assert sorted(gates.cancels) == ["its", "mine"]
        assert (mine.cancelling(), already.cancelling(), cleaned) == (1, 1, [1])

    run(main(), complaints)


def test_an_interrupt_in_the_loops_body_cancels_everything_once(complaints):
    async def main() -> None:
        gates = Gates()
        mine = gates.task("mine")
        gates.open("first")
        there = asyncio.Event()

        async def consume() -> None:
            async for _ in as_completed([mine, gates.work("its"), gates.task("first")]):
                there.set()
                await asyncio.Event().wait()

        consumer = asyncio.create_task(consume())
        await there.wait()
        consumer.cancel()
        with pytest.raises(asyncio.CancelledError):
            await consumer
        await asyncio.wait([mine], timeout=1)
        assert sorted(gates.cancels) == ["its", "mine"]
        assert mine.cancelling() == 1

    run(main(), complaints)


def test_an_old_cancel_does_not_make_a_break_an_interrupt(complaints):
    async def main() -> None:
        gates = Gates()
        mine = gates.task("mine")
        gates.open("first")
        began = asyncio.Event()

        async def consume() -> None:
            try:
                began.set()
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                async for _ in as_completed([mine, gates.task("first")]):
                    break

        consumer = asyncio.create_task(consume())
        await began.wait()
        consumer.cancel()
        await consumer
        await settle()
        assert gates.cancels == []
        gates.open("mine")
        await mine

    run(main(), complaints)


def test_an_interrupt_waits_for_the_clean_up(complaints):
    async def main() -> None:
        cleaned = []

        async def work() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                await settle()
                cleaned.append(1)

        reader = asyncio.create_task(read(as_completed([work(), asyncio.create_task(work())])))
        await settle()
        reader.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reader
        assert cleaned == [1, 1]

    run(main(), complaints)


class VirtualLoop(asyncio.SelectorEventLoop):
    """A loop whose clock jumps to the next timer instead of waiting for it."""

    now = 0.0

    def time(self) -> float:
        return self.now

    def _run_once(self) -> None:
        timers = [handle.when() for handle in self._scheduled if not handle.cancelled()]
        if timers and not self._ready:
            self.now = max(self.now, min(timers))
        super()._run_once()


def test_an_interrupt_does_not_wait_for_ever():
    async def main() -> None:
        loop, release, cancels = asyncio.get_running_loop(), asyncio.Event(), []

        async def stubborn(name: str) -> None:
            while not release.is_set():
                try:
                    await release.wait()
                except asyncio.CancelledError:
                    cancels.append(name)

        task = asyncio.create_task(stubborn("mine"))
        reader = asyncio.create_task(read(as_completed([task, stubborn("its")])))
        await settle()
        began = loop.time()
        reader.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reader
        assert 1 <= loop.time() - began <= 3
        await settle()
        assert sorted(cancels) == ["its", "mine"]
        release.set()
        await settle()

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(main())


def test_after_an_interrupt_failures_make_no_noise(complaints):
    async def main() -> None:
        tasks = [asyncio.create_task(fail_when_cancelled()), asyncio.create_task(fail("before"))]
        reader = asyncio.create_task(read(as_completed(tasks)))
        await settle()
        reader.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reader

    run(main(), complaints)


def test_a_timeout_stays_a_timeout(complaints):
    async def main() -> None:
        gates = Gates()
        mine = gates.task("mine")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                async for _ in as_completed([mine, gates.work("its")]):
                    pass
        assert sorted(gates.cancels) == ["its", "mine"]
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(read(as_completed([gates.task("other")])), 0.01)
        assert gates.cancels[2:] == ["other"]

    run(main(), complaints)


def test_in_a_task_group_a_failing_sibling_ends_it(complaints):
    async def main() -> None:
        gates = Gates()
        with pytest.raises(ExceptionGroup) as raised:
            async with asyncio.TaskGroup() as group:
                group.create_task(read(as_completed([gates.work("its")])))
                group.create_task(fail("sibling"))
        assert [str(error) for error in raised.value.exceptions] == ["sibling"]
        assert gates.cancels in (["its"], [])

    run(main(), complaints)


# ---- misuse ----


def test_a_plain_for_prints_the_right_line():
    with pytest.raises(TypeError, match=r"async for task in as_completed\(tasks\): result = await task"):
        for _ in as_completed([]):
            pass


async def stream() -> AsyncIterator[int]:
    yield 1


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("abc", "the tasks in a list, a dict or the like, not str"),
        (b"abc", "the tasks in a list, a dict or the like, not bytes"),
        (5, "the tasks in a list, a dict or the like, not int"),
        (None, "the tasks in a list, a dict or the like, not NoneType"),
        (stream(), "the tasks in a list, a dict or the like, not async_generator"),
        (["a"], "as_completed takes tasks or coroutines, not str: 'a'"),
        ([1, 2], "as_completed takes tasks or coroutines, not int: 1"),
        ({"name": "task"}, "tasks or coroutines (a mapping's keys), not str: 'name'"),
        ([print], "as_completed takes tasks or coroutines, not builtin_function_or_method"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_not_a_collection_of_tasks(given, said):
    with pytest.raises(TypeError) as raised:
        as_completed(given)
    assert said in str(raised.value)


def test_a_task_alone_is_not_a_collection(complaints):
    async def main() -> None:
        task = asyncio.create_task(asyncio.sleep(0))
        with pytest.raises(TypeError, match="in a list, a dict or the like, not Task"):
            as_completed(task)
        coroutine = asyncio.sleep(0)
        with pytest.raises(TypeError, match="in a list, a dict or the like, not coroutine"):
            as_completed(coroutine)
        await coroutine
        await task

    run(main(), complaints)


def test_a_task_of_another_loop_is_refused(complaints):
    async def main() -> None:
        other = asyncio.new_event_loop()
        gates = Gates()
        try:
            with pytest.raises(ValueError, match="loop"):
                await read(as_completed([gates.work("its"), other.create_future()]))
        finally:
            other.close()
        await settle()
        assert gates.cancels in ([], ["its"])
        assert len(asyncio.all_tasks()) == 1

    run(main(), complaints)


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")
def test_coroutines_never_read_do_not_hang(complaints):
    async def main() -> None:
        as_completed([asyncio.sleep(60), fail("x")])
        completions = as_completed([asyncio.sleep(60)]).__aiter__()
        del completions
        await settle()
        assert len(asyncio.all_tasks()) == 1

    run(main(), complaints)


# ---- many ----


@pytest.mark.parametrize("interrupted", [False, True], ids=["read", "interrupted"])
def test_four_thousand_tasks_cost_next_to_nothing(interrupted, complaints):
    """CPU seconds; quadratic, it would be seven."""

    async def main() -> None:
        gates = Gates()
        tasks = [gates.task(i) for i in range(4000)]
        reader = asyncio.create_task(read(as_completed(tasks)))
        await settle()
        began = time.process_time()
        if interrupted:
            reader.cancel()
            await asyncio.wait([reader])
        else:
            gates.open(*range(4000))
            assert await reader == tasks
        assert time.process_time() - began < 1.5

    run(main(), complaints)


def test_one_by_one_is_linear_too(complaints):
    """Each task ends only when the one before has been read: 4,000 wake-ups."""

    async def main() -> None:
        gates = Gates()
        tasks = {gates.task(i): i for i in range(4000)}
        await settle()
        began = time.process_time()
        gates.open(0)
        async for task in as_completed(tasks):
            gates.open(tasks[task] + 1)
        assert time.process_time() - began < 1.5

    run(main(), complaints)


# -- seen as a batch is ----------------------------------------------------------------------------------------------


def test_tasks_as_views_see_them():
    async def main():
        go_on = asyncio.Event()

        async def work(item):
            await go_on.wait()
            return 12 / item

        class Abort(BaseException):
            pass

        async def abort():
            raise Abort

        tasks = {asyncio.create_task(work(item)): f"12 / {item}" for item in (3, 0, 4)}
        futures = [*tasks, asyncio.create_task(abort(), name="an abort")]
        run = TaskRun(futures, tasks)
        heard = []
        run.subscribe(lambda run: heard.append(run.counts))
        ended = []
        run.at_end(ended.append)
        assert (run.title, run.subtitle, run.state, repr(run)) == (
            "4 tasks", "abort, work", "running", "Tasks(0 ok, 4 in flight of 4)",
        )  # fmt: skip
        assert [run.question(at) for at in range(4)] == ["12 / 3", "12 / 0", "12 / 4", "an abort"]
        assert len(run.flights) == 4
        assert run.controls == {"cancel"}
        futures[2].cancel()
        go_on.set()
        await asyncio.wait(futures)
        assert run.row(0).reply == 4.0
        assert isinstance(run.row(1).error, ZeroDivisionError)
        assert run.row(2).status == "cancelled"
        assert "Abort" in str(run.row(3).error)
        run.leave()
        assert (repr(run), run.state) == ("Tasks(1 ok, 2 failed, 1 cancelled of 4)", "cancelled")
        assert (run.finished, run.controls, ended) == (True, frozenset(), [run])
        assert heard[-1]["ok"] == 1
        elapsed = run.elapsed
        await asyncio.sleep(0.01)
        assert run.elapsed == elapsed
        assert list(run.trace.spans().kind).count(1) == 2

    asyncio.run(main())


def test_cancel_of_all_of_them_cancels_each_once():
    async def main():
        async def wait():
            await asyncio.Event().wait()

        tasks = [asyncio.create_task(wait()) for _ in range(3)]
        await asyncio.sleep(0)
        run = TaskRun(tasks, None)
        run.cancel()
        run.cancel()
        assert [task.cancelling() for task in tasks] == [1, 1, 1]
        await asyncio.wait(tasks)
        run.leave()
        assert run.state == "cancelled"
        assert run.question(0) == tasks[0].get_name()

    asyncio.run(main())


def test_tasks_that_go_on_after_the_loop_was_left_are_not_called_cancelled():
    async def main():
        go_on = asyncio.Event()
        tasks = [asyncio.create_task(go_on.wait()), asyncio.create_task(asyncio.sleep(0))]
        run = TaskRun(tasks, None)
        await tasks[1]
        await asyncio.sleep(0)
        run.leave()
        assert (run.state, run.counts["in flight"]) == ("left", 1)
        go_on.set()
        await tasks[0]

    asyncio.run(main())


def test_a_panel_of_tasks_where_there_is_no_notebook():
    async def main():
        async def work(item):
            return item

        seen = [task.result() async for task in as_completed([work(1), work(2)], panel=True)]
        assert sorted(seen) == [1, 2]

    asyncio.run(main())
