"""Fairness: whoever waits is served once, single calls first, and batches get the same, however many wait for each."""

import asyncio
import gc
import threading
import time
from collections import Counter
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ceylon_nb import LlmAgent, limits
from ceylon_nb.fairness import FairQueue
from ceylon_nb.limits import Endpoint
from ceylon_nb.meters import LAPSE, spacing
from ceylon_nb.testing import ModelServer
from ceylon_nb.waiting import Alarm, party

from .virtual import START, VirtualLoop, virtually

TINY = 1e-6
T = TypeVar("T")
ANY, RATE, TOKENS = 1, 2, 4


class Party:
    """Stands for a batch."""


@dataclass(eq=False)
class Waiter:
    party: object | None = None
    needs: int = ANY | RATE
    cost: float = 1.0
    name: str = field(default="", compare=False)


# -- the queue by itself ---------------------------------------------------------------------------------------------


def drain(queue: FairQueue[Waiter], most: int) -> list[Waiter]:
    """Serve one after the other, as a rate does."""
    served: list[Waiter] = []

    def offer(waiter: Waiter) -> int | None:
        if room[0]:
            room[0] -= 1
            served.append(waiter)
            return None
        return RATE

    for _ in range(most):
        room = [1]
        queue.serve(offer)
    return served


def test_batches_take_turns_however_many_wait_for_each():
    queue: FairQueue[Waiter] = FairQueue(ANY)
    a, b, c = Party(), Party(), Party()
    for who, many in ((a, 1000), (b, 30), (c, 2)):
        for _ in range(many):
            queue.put(Waiter(who))
    shares = Counter(waiter.party for waiter in drain(queue, 30))
    assert shares[c] == 2
    assert abs(shares[a] - shares[b]) <= 1


def test_who_comes_later_gets_no_more_and_who_paused_has_saved_nothing():
    queue: FairQueue[Waiter] = FairQueue(ANY)
    a, b = Party(), Party()
    for _ in range(100):
        queue.put(Waiter(a))
    drain(queue, 50)
    for _ in range(100):
        queue.put(Waiter(b))
    shares = Counter(waiter.party for waiter in drain(queue, 20))
    assert shares[a] == shares[b] == 10


def test_single_calls_go_first_in_their_order():
    queue: FairQueue[Waiter] = FairQueue(ANY)
    for _ in range(10):
        queue.put(Waiter(a := Party()))
        queue.put(Waiter(a))
    singles = [Waiter() for _ in range(3)]
    for single in singles:
        queue.put(single)
    assert drain(queue, 4)[:3] == singles


def test_large_requests_count_for_what_they_take():
    queue: FairQueue[Waiter] = FairQueue(ANY)
    large, small = Party(), Party()
    for _ in range(200):
        queue.put(Waiter(large, cost=10.0))
        queue.put(Waiter(small, cost=1.0))
    shares = Counter(waiter.party for waiter in drain(queue, 110))
    assert abs(shares[large] - 10) <= 1


def test_what_lacks_one_meter_stops_only_those_that_need_it():
    queue: FairQueue[Waiter] = FairQueue(ANY)
    blocked = [Waiter(Party(), ANY | TOKENS), Waiter(None, ANY | TOKENS | RATE)]
    free = [Waiter(Party(), ANY | RATE), Waiter(None, ANY | RATE), Waiter(Party(), ANY)]
    offered = []
    for waiter in blocked + free:
        queue.put(waiter)

    def offer(waiter: Waiter) -> int | None:
        offered.append(waiter)
        return TOKENS if waiter.needs & TOKENS else None

    queue.serve(offer)
    assert len(queue) == 2
    assert set(offered) == {blocked[1], *free}  # the other one waits behind it, unasked


def test_who_is_passed_over_stops_nobody():
    queue: FairQueue[Waiter] = FairQueue(ANY)
    deaf, others = Party(), [Waiter(Party()) for _ in range(3)]
    queue.put(Waiter(deaf))
    for waiter in others:
        queue.put(waiter)
    served = []
    queue.serve(lambda waiter: 0 if waiter.party is deaf else served.append(waiter))
    assert served == others
    assert len(queue) == 1


@given(st.data())
def test_nobody_is_lost_or_served_twice(data):
    queue: FairQueue[Waiter] = FairQueue(ANY)
    parties = [None, Party(), Party(), Party()]
    waiting: set[Waiter] = set()
    served: list[Waiter] = []
    for _ in range(data.draw(st.integers(1, 80))):
        match data.draw(st.sampled_from(["put", "put", "put", "discard", "serve", "again"])):
            case "put":
                cost = data.draw(st.sampled_from([0.5, 1.0, 7.0]))
                waiter = Waiter(data.draw(st.sampled_from(parties)), data.draw(st.sampled_from([3, 5, 7])), cost)
                queue.put(waiter)
                waiting.add(waiter)
            case "discard" if waiting:
                gone = data.draw(st.sampled_from(sorted(waiting, key=id)))
                queue.discard(gone)
                queue.discard(gone)
                waiting.discard(gone)
            case "again" if served:
                waiter = served.pop()
                queue.put(waiter, again=True)
                waiting.add(waiter)
            case "serve":
                room = data.draw(st.integers(0, 5))
                now: list[Waiter] = []

                def offer(waiter: Waiter, room: int = room, now: list[Waiter] = now) -> int | None:
                    return now.append(waiter) if len(now) < room else waiter.needs & ~ANY

                queue.serve(offer)
                assert len(set(now)) == len(now) == min(room, len(waiting))
                assert set(now) <= waiting
                waiting -= set(now)
                served += now
        assert len(queue) == len(waiting)
    rest: list[Waiter] = []
    queue.serve(rest.append)
    assert len(queue) == 0
    assert set(rest) == waiting
    assert len(rest) == len(waiting)


@given(st.lists(st.integers(40, 120), min_size=2, max_size=5), st.integers(10, 40))
def test_each_of_so_many_batches_gets_its_share(counts, served):
    queue: FairQueue[Waiter] = FairQueue(ANY)
    parties = [Party() for _ in counts]
    for who, many in zip(parties, counts, strict=True):
        for _ in range(many):
            queue.put(Waiter(who))
    shares = Counter(waiter.party for waiter in drain(queue, served))
    for who in parties:
        assert abs(shares[who] - served / len(parties)) <= 1


def test_a_batch_that_has_ended_is_not_kept():
    queue: FairQueue[Waiter] = FairQueue(ANY)
    queue.put(Waiter(who := Party()))
    drain(queue, 1)
    assert len(queue._flows) == 1
    del who
    assert len(queue._flows) == 0


# -- at an endpoint --------------------------------------------------------------------------------------------------


async def of(who: object | None, turn: Coroutine[Any, Any, T]) -> T:
    """Have a task's turn belong to a batch."""
    party.set(who)
    return await turn


def test_a_second_batch_does_not_wait_behind_the_first_ones_thousand():
    async def main(loop: VirtualLoop, clocks: Endpoint) -> list[str]:
        order: list[str] = []

        async def call(name: str, who: object | None) -> None:
            await of(who, clocks.turn(60))
            order.append(name)

        a, b = Party(), Party()
        many = [asyncio.create_task(call("a", a)) for _ in range(1000)]
        await asyncio.sleep(10.5)
        begun = len(order)
        few = [asyncio.create_task(call("b", b)) for _ in range(5)]
        await asyncio.sleep(0)
        person = asyncio.create_task(call("single", None))
        await asyncio.gather(person, *few)
        for task in many:
            task.cancel()
        await asyncio.wait(many)
        assert not loop.timers()
        assert not clocks._alarms
        return order[begun:]

    after = virtually(main)
    assert after[0] == "single"
    assert after.count("b") == 5
    assert after.count("a") <= 6


calls = st.lists(st.tuples(st.floats(0, 90), st.integers(-1, 2), st.none() | st.floats(0, 60)), min_size=5, max_size=50)


@given(calls=calls, stalls=st.lists(st.tuples(st.floats(0, 100), st.floats(0, 20)), max_size=3))
def test_no_slot_is_lost_or_given_twice(calls, stalls):
    """Whatever is cancelled and blocked: the rate is kept, and while somebody waits each slot that is due is used."""
    rate = 20

    async def main(loop: VirtualLoop, clocks: Endpoint) -> tuple[list[float], list[tuple[float, float]]]:
        used: list[float] = []
        waits: list[tuple[float, float]] = []
        parties = [Party(), Party(), Party()]

        async def call(arrival: float, whose: int, patience: float | None) -> None:
            await asyncio.sleep(arrival)
            began = loop.time()
            timer = None
            if patience is not None:
                timer = loop.call_later(patience, asyncio.current_task().cancel)
            with suppress(asyncio.CancelledError):
                await of(None if whose < 0 else parties[whose], clocks.turn(rate))
                used.append(loop.time())
            if timer is not None:
                timer.cancel()
            waits.append((began, loop.time()))

        stalling = [
            loop.call_later(at, lambda length=length: setattr(loop, "now", loop.now + length)) for at, length in stalls
        ]
        await asyncio.gather(*(call(*each) for each in calls))
        for timer in stalling:
            timer.cancel()
        assert not loop.timers()
        assert not clocks._alarms
        assert not len(clocks._queue)
        return sorted(used), waits

    used, waits = virtually(main)
    assert len(used) >= sum(patience is None for _, _, patience in calls)
    for first, one_too_many in zip(used, used[rate:], strict=False):
        assert one_too_many - first >= 60 - TINY
    longest = spacing(rate) + LAPSE + TINY + sum(length for _, length in stalls)
    for before, after in pairwise(used):
        waited = any(began <= before and ended >= after for began, ended in waits)
        assert not waited or after - before <= longest


def test_a_slot_that_lapses_before_its_owner_comes_is_not_used():
    """It is handed out, and then a cell keeps the loop, before the one it is for can go on."""

    async def main(loop: VirtualLoop, clocks: Endpoint) -> list[float]:
        times: list[float] = []

        async def call() -> None:
            await clocks.turn(60)
            times.append(loop.time() - START)

        def late() -> None:
            loop.now += 0.02
            clocks.look()
            loop.now += 1.0

        loop.call_later(spacing(60) - 0.01, late)
        await asyncio.gather(*(call() for _ in range(4)))
        return times

    times = virtually(main)
    assert times[:2] == [0, pytest.approx(spacing(60) + 1.01)]
    assert all(after - before >= spacing(60) - TINY for before, after in pairwise(times))


def test_a_slot_whose_owner_is_cancelled_before_it_comes_is_the_next_ones():
    async def main(loop: VirtualLoop, clocks: Endpoint) -> float:
        await clocks.turn(60, max_tokens_per_minute=600, tokens=10)
        turns = [clocks.turn(60, max_tokens_per_minute=600, tokens=10) for _ in range(2)]
        first, second = [asyncio.create_task(turn) for turn in turns]

        def grant_and_cancel() -> None:
            loop.now += 0.02
            clocks.look()
            first.cancel()

        loop.call_later(spacing(60) - 0.01, grant_and_cancel)
        await second
        assert first.cancelled()
        return loop.time() - START

    assert virtually(main) == pytest.approx(spacing(60) + 0.01)


def test_a_loop_that_is_busy_is_passed_over():
    """A cell blocks one loop, on which many wait: those on another get every slot, and nobody gets a second one."""
    clocks, rate = Endpoint(), 1200
    free: list[float] = []
    hold = threading.Event()

    def there() -> None:
        async def main() -> None:
            who = Party()
            waiting = [asyncio.create_task(of(who, clocks.turn(rate))) for _ in range(30)]
            await asyncio.sleep(0.12)
            hold.set()
            time.sleep(1.2)  # noqa: ASYNC251 - what a cell does that computes
            await asyncio.gather(*waiting)

        asyncio.run(main())

    def here() -> None:
        async def main() -> None:
            hold.wait()
            who = Party()
            began = time.monotonic()
            for _ in range(14):
                await of(who, clocks.turn(rate))
                free.append(time.monotonic() - began)

        asyncio.run(main())

    threads = [threading.Thread(target=each) for each in (there, here)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    # every other slot is lost for LAPSE; from then on all are the free loop's
    assert free[-1] < (14 + LAPSE / spacing(rate) + 3) * spacing(rate)
    assert not clocks._alarms


def test_slots_are_shared_by_loops_and_threads():
    clocks, rate, used = Endpoint(), 2400, []

    def work(seed: int) -> None:
        async def call(patience: float | None) -> None:
            with suppress(TimeoutError):
                async with asyncio.timeout(patience):
                    await of(parties[seed % 2], clocks.turn(rate))
                    used.append(time.monotonic())

        async def main() -> None:
            await asyncio.gather(*(call(0.05 * (i % 5) if i % 2 else None) for i in range(20)))

        asyncio.run(main())

    parties = [Party(), Party()]
    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(used) >= 40
    assert time.monotonic() - began < 80 * spacing(rate) + 5
    used.sort()
    for i in range(len(used)):
        for j in range(i + 1, len(used)):
            assert used[j] - used[i] >= (j - i - 1) * spacing(rate) - LAPSE
    assert not clocks._alarms
    assert not len(clocks._queue)


def test_a_loop_closed_under_those_who_wait_is_forgotten():
    clocks = Endpoint()
    loop = asyncio.new_event_loop()
    tasks = [loop.create_task(clocks.turn(600)) for _ in range(3)]
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()

    async def main() -> None:
        async with asyncio.timeout(5):
            await asyncio.gather(*(clocks.turn(600) for _ in range(3)))

    asyncio.run(main())
    assert not clocks._alarms
    assert not len(clocks._queue)
    for task in tasks:
        task._log_destroy_pending = False


def test_an_alarm_for_later_that_was_on_its_way_does_not_put_off_a_sooner_one():
    async def main(loop: VirtualLoop, _: Endpoint) -> list[float]:
        rang: list[float] = []
        alarm = Alarm(loop, lambda: rang.append(loop.time() - START), loop.time)
        alarm.count = 1
        other = threading.Thread(target=alarm.set, args=(START + 1.0,))
        other.start()
        other.join()
        alarm.set(START + 0.1)
        await asyncio.sleep(2)
        return rang

    assert virtually(main) == pytest.approx([0.1])


def test_what_a_closed_loop_left_may_be_collected_by_whoever_holds_the_lock():
    collected: list[int] = []

    def now() -> float:
        if any(lock.locked() for lock in locks):
            collected.append(gc.collect())
        return time.monotonic()

    locks: list[threading.Lock] = []
    clocks = Endpoint(now=now)
    locks.append(clocks._lock)

    def leave() -> None:
        loop = asyncio.new_event_loop()
        for task in [loop.create_task(clocks.turn(600)) for _ in range(4)]:
            task._log_destroy_pending = False
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()

    def others() -> None:
        leave()
        asyncio.run(main())

    async def main() -> None:
        await asyncio.gather(*(clocks.turn(600) for _ in range(3)))

    thread = threading.Thread(target=others, daemon=True)
    gc.collect()
    gc.freeze()  # what there is already is not looked through each time
    gc.disable()
    try:
        thread.start()
        thread.join(10)
    finally:
        gc.enable()
        gc.unfreeze()
    assert not thread.is_alive()
    assert any(collected)
    assert not clocks._left
    assert not clocks._alarms
    assert not len(clocks._queue)


# -- a pace ----------------------------------------------------------------------------------------------------------


def test_a_pace_is_kept_by_those_who_ask_for_it_and_shared_fairly():
    async def main(loop: VirtualLoop, clocks: Endpoint) -> tuple[list[tuple[str, float]], float]:
        went: list[tuple[str, float]] = []

        async def call(name: str, who: Party | None) -> None:
            await of(who, clocks.turn(pace=lambda: 2.0))
            went.append((name, loop.time() - START))

        a, b = Party(), Party()
        paced = [call("a", a) for _ in range(6)] + [call("b", b) for _ in range(3)] + [call("single", None)]
        tasks = [asyncio.create_task(each) for each in paced]
        await asyncio.sleep(0)
        await clocks.turn()
        free = loop.time() - START
        await asyncio.gather(*tasks)
        return went, free

    went, free = virtually(main)
    assert free == 0
    assert [at for _, at in went] == pytest.approx([2.0 * i for i in range(10)])
    order = [name for name, _ in went]
    assert order[1] == "single"  # the first had gone before it came
    assert order[:8].count("b") == 3


def test_a_pace_may_change_while_others_wait():
    async def main(loop: VirtualLoop, clocks: Endpoint) -> list[float]:
        went: list[float] = []
        pace = [10.0]

        async def call() -> None:
            await clocks.turn(pace=lambda: pace[0])
            went.append(loop.time() - START)

        tasks = [asyncio.create_task(call()) for _ in range(6)]
        await asyncio.sleep(12)
        pace[0] = 1.0
        clocks.look()
        await asyncio.sleep(2.5)
        pace[0] = 0.0
        clocks.look()
        await asyncio.gather(*tasks)
        return went

    assert virtually(main) == pytest.approx([0, 10, 12, 13, 14, 14.5])


def test_who_finds_no_pace_any_more_does_not_overtake_those_who_wait_for_it():
    async def main(loop: VirtualLoop, clocks: Endpoint) -> list[tuple[int, str, float]]:
        pace = [10.0]

        async def call(name: str) -> tuple[int, str, float]:
            turn = await clocks.turn(pace=lambda: pace[0])
            return turn._mark[0], name, loop.time() - START

        tasks = [asyncio.create_task(call(name)) for name in "abc"]
        await asyncio.sleep(1)
        pace[0] = 0.0  # and nobody looks
        later = await call("later")
        return sorted([*await asyncio.gather(*tasks), later])

    assert virtually(main) == [(1, "a", 0), (2, "b", 1), (3, "c", 1), (4, "later", 1)]


def test_a_pace_and_a_rate_are_both_kept():
    async def main(loop: VirtualLoop, clocks: Endpoint) -> list[float]:
        for _ in range(5):
            await clocks.turn(60, pace=lambda: 0.1)
        paced = loop.time() - START
        for _ in range(5):
            await clocks.turn(600, pace=lambda: 1.0)
        return [paced, loop.time() - START - paced]

    assert virtually(main) == pytest.approx([4 * spacing(60), 5.0], abs=0.1)


@pytest.mark.parametrize("single", ["send", "stream"])
def test_two_batches_and_a_person_at_one_server(model_server: ModelServer, single: str):
    """The server's record is the witness."""
    rate = 1200

    def agent() -> LlmAgent:
        return LlmAgent("a", "ollama::mock", base_url=model_server.url, max_per_minute=rate).build()

    async def main() -> None:
        first = agent().map([f"first {i}" for i in range(200)], max_at_once=200, view=None, store=None)
        await asyncio.to_thread(model_server.wait_for, lambda seen: seen.served >= 4)
        second = agent().map([f"second {i}" for i in range(10)], max_at_once=2, view=None, store=None)
        await asyncio.to_thread(
            model_server.wait_for, lambda seen: any(each.prompt.startswith("second") for each in seen.requests)
        )
        if single == "send":
            await agent().send_message("person")
        else:
            await agent().stream("person")
        await second
        first.cancel()
        await first

    asyncio.run(main())
    order = [each.prompt.split()[0] for each in sorted(model_server.requests, key=lambda each: each.at)]
    begun = order.index("second")
    until = len(order) - order[::-1].index("second")
    assert order[begun:until].count("first") <= 12
    assert order.index("person") - begun <= 3
    assert limits.endpoint(model_server.url)._alarms == {}
