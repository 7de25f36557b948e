"""Limits: no 60 seconds see more than the rate allows, no slot is wasted, and one 429 holds everybody off."""

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ceylon_nb import LlmAgent, limits
from ceylon_nb.allowance import JITTER
from ceylon_nb.limits import Endpoint
from ceylon_nb.meters import LAPSE, Slots, spacing
from ceylon_nb.testing import ModelServer, faults

from .virtual import START, VirtualLoop, virtually

TINY = 1e-6


class Clock:
    """A clock that is set by hand."""

    def __init__(self, now: float = START) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


# ---- no window over the limit ----


seconds = st.floats(0, 150, allow_nan=False)
rates = st.lists(st.integers(1, 12), min_size=1, max_size=3, unique=True)
callers = st.lists(st.tuples(seconds, st.integers(0, 2), st.none() | st.floats(0, 100)), min_size=10, max_size=60)
interruptions = st.lists(st.tuples(seconds, st.floats(0, 30)), max_size=4)


@given(rates=rates, callers=callers, stalls=interruptions, holds=interruptions)
def test_no_minute_sees_more_than_its_rate(rates, callers, stalls, holds):
    async def main(loop: VirtualLoop, clocks: Endpoint) -> tuple[list[tuple[float, int]], list[tuple[float, float]]]:
        used, held = [], []

        async def call(arrival: float, rate: int, patience: float | None) -> None:
            await asyncio.sleep(arrival)
            if patience is not None:
                loop.call_later(patience, asyncio.current_task().cancel)
            with suppress(asyncio.CancelledError):
                await clocks.turn(rate)
                used.append((loop.time(), rate))

        def hold_off(length: float) -> None:
            held.append((loop.time(), length))
            clocks.hold_off(length)

        for at, length in stalls:
            loop.call_later(at, loop.stall, length)
        for at, length in holds:
            loop.call_later(at, hold_off, length)
        await asyncio.gather(*(call(at, rates[which % len(rates)], patience) for at, which, patience in callers))
        return used, held

    used, held = virtually(main)
    assert len(used) >= sum(patience is None for _, _, patience in callers)
    for rate in rates:
        check(sorted(at for at, its in used if its == rate), rate)
    check(sorted(at for at, _ in used), max(rates))
    for start, length in held:
        assert not [at for at, _ in used if start < at < start + length]


def check(times: list[float], rate: int) -> None:
    for first, one_too_many in zip(times, times[rate:], strict=False):
        assert one_too_many - first >= 60 - TINY


def test_a_burst_is_spread_evenly():
    async def main(loop: VirtualLoop, clocks: Endpoint) -> list[float]:
        async def call() -> float:
            await clocks.turn(60)
            return loop.time() - START

        return await asyncio.gather(*(call() for _ in range(5)))

    assert virtually(main) == pytest.approx([spacing(60) * i for i in range(5)])


def test_idle_time_makes_no_burst():
    async def main(loop: VirtualLoop, clocks: Endpoint) -> list[float]:
        times = []
        await clocks.turn(1200)
        await asyncio.sleep(0.9 * LAPSE)
        for _ in range(4):
            await clocks.turn(1200)
            times.append(loop.time())
        return times

    assert all(later - sooner >= spacing(1200) - TINY for sooner, later in pairwise(virtually(main)))


def test_less_than_one_a_minute():
    async def main(loop: VirtualLoop, clocks: Endpoint) -> float:
        await clocks.turn(0.5)
        await clocks.turn(0.5)
        return loop.time() - START

    assert virtually(main) == pytest.approx((60 + LAPSE) * 2)


def test_who_is_late_takes_a_new_slot():
    """Three slots pass while a cell computes: their owners do not come all at once."""

    async def main(loop: VirtualLoop, clocks: Endpoint) -> list[float]:
        times = []

        async def call() -> None:
            await clocks.turn(60)
            times.append(loop.time() - START)

        loop.call_later(0.5, loop.stall, 10)
        await asyncio.gather(*(call() for _ in range(4)))
        return times

    times = virtually(main)
    assert times[:2] == [0.0, 10.5]
    assert all(later - sooner >= spacing(60) - TINY for sooner, later in pairwise(times))
    assert times[-1] == pytest.approx(10.5 + 2 * spacing(60))


def test_a_slot_is_good_for_a_moment():
    async def main(loop: VirtualLoop, clocks: Endpoint) -> float:
        await clocks.turn(60)
        loop.call_later(spacing(60) - 0.01, loop.stall, LAPSE)
        await clocks.turn(60)
        return loop.time() - START

    assert virtually(main) == pytest.approx(spacing(60) - 0.01 + LAPSE)


def test_being_a_little_late_breaks_no_limit():
    """The first comes late by less than a LAPSE and keeps its slot; all others come in time, as close as may be."""

    async def main(loop: VirtualLoop, clocks: Endpoint) -> list[float]:
        times = []

        async def call() -> None:
            await clocks.turn(30)
            times.append(loop.time())

        await clocks.turn(30)
        loop.call_later(spacing(30) - 0.01, loop.stall, LAPSE)
        await asyncio.gather(*(call() for _ in range(40)))
        return times

    times = virtually(main)
    assert times[0] - START == pytest.approx(spacing(30) - 0.01 + LAPSE)
    check(times, 30)


def test_without_rate_and_cool_down_nobody_waits():
    async def main(loop: VirtualLoop, clocks: Endpoint) -> bool:
        turn = clocks.turn()
        with pytest.raises(StopIteration):
            turn.send(None)
        return True

    assert virtually(main)


# ---- no slot is wasted ----


class Reserved:
    """Slots taken ahead, one after the other, as no endpoint does: what is free is the same."""

    def __init__(self) -> None:
        self.now = START
        self.slots = Slots()

    def reserve(self, interval: float) -> float:
        slot = self.slots.first(self.now, self.now, interval)
        self.slots.take(slot, interval)
        return slot

    def give_back(self, slot: float, interval: float) -> None:
        self.slots.give_back(slot, interval)


def test_a_returned_slot_is_the_next_one_taken():
    clocks = Reserved()
    slots = [clocks.reserve(1.0) for _ in range(6)]
    clocks.give_back(slots[4], 1.0)
    clocks.give_back(slots[2], 1.0)
    assert [clocks.reserve(1.0) for _ in range(3)] == [slots[2], slots[4], START + 6.0]


def test_a_slot_returned_too_late_is_gone():
    clocks = Reserved()
    slots = [clocks.reserve(1.0) for _ in range(3)]
    clocks.now += 1.5
    clocks.give_back(slots[1], 1.0)
    assert clocks.reserve(1.0) == START + 3.0


@given(st.lists(st.sampled_from([0.1, 1.0, 7.3, 60.25]), min_size=1, max_size=30), st.randoms(use_true_random=False))
def test_all_returned_is_as_if_nobody_had_asked(intervals, order):
    clocks = Reserved()
    slots = [(clocks.reserve(interval), interval) for interval in intervals]
    order.shuffle(slots)
    for slot, interval in slots:
        clocks.give_back(slot, interval)
    assert [clocks.reserve(60.25), clocks.reserve(0.1)] == [START, START + 60.25]


@given(st.data())
def test_slots_never_overlap(data):
    clocks = Reserved()
    taken: list[tuple[float, float]] = []
    for _ in range(data.draw(st.integers(1, 60))):
        if taken and data.draw(st.booleans()):
            clocks.give_back(*taken.pop(data.draw(st.integers(0, len(taken) - 1))))
        else:
            interval = data.draw(st.sampled_from([0.3, 1.0, 10.0]))
            slot = clocks.reserve(interval)
            assert slot >= clocks.now
            taken.append((slot, interval))
        clocks.now += data.draw(st.sampled_from([0.0, 0.0, 0.7, 5.0]))
        assert_disjoint(taken)


def assert_disjoint(taken: list[tuple[float, float]]) -> None:
    for (slot, interval), (following, _) in pairwise(sorted(taken)):
        assert slot + interval <= following


def test_a_returned_long_slot_serves_several_short_ones():
    clocks = Reserved()
    long = clocks.reserve(60.0)
    clocks.reserve(60.0)
    clocks.give_back(long, 60.0)
    assert [clocks.reserve(20.0) for _ in range(4)] == [START, START + 20.0, START + 40.0, START + 120.0]


def test_cancelled_waiters_give_their_time_to_who_comes_next():
    async def main(loop: VirtualLoop, clocks: Endpoint) -> float:
        await clocks.turn(6)
        waiting = [asyncio.create_task(clocks.turn(rate)) for rate in (6, 1, 600, 6, 1)]
        await asyncio.sleep(1)
        for task in waiting:
            task.cancel()
        await asyncio.wait(waiting)
        await clocks.turn(6)
        return loop.time() - START

    assert virtually(main) == pytest.approx(spacing(6))


# ---- cool-downs ----


def test_all_go_on_the_moment_a_cool_down_ends():
    async def main(loop: VirtualLoop, clocks: Endpoint) -> list[float]:
        clocks.hold_off(30)

        async def call(arrival: float) -> float:
            await asyncio.sleep(arrival)
            await clocks.turn()
            return loop.time() - START

        return await asyncio.gather(*(call(arrival) for arrival in (0, 1, 29.9, 40)))

    *first, last = virtually(main)
    assert len(set(first)) == 1
    assert 30 <= first[0] <= 30 + JITTER
    assert last == 40


def test_a_cool_down_grows_and_never_shrinks():
    async def main(loop: VirtualLoop, clocks: Endpoint) -> float:
        clocks.hold_off(10)
        loop.call_later(5, clocks.hold_off, 20)
        loop.call_later(6, clocks.hold_off, 1)
        await clocks.turn()
        assert clocks.held() == 0
        return loop.time() - START

    assert 25 <= virtually(main) <= 25 + JITTER


def test_a_cool_down_does_not_make_a_burst():
    """Slots that passed during it are not caught up on."""

    async def main(loop: VirtualLoop, clocks: Endpoint) -> list[float]:
        clocks.hold_off(10)

        async def call() -> float:
            await clocks.turn(60)
            return loop.time() - START

        return sorted(await asyncio.gather(*(call() for _ in range(15))))

    times = virtually(main)
    assert 10 <= times[0] <= 10 + JITTER
    assert all(later - sooner >= spacing(60) - LAPSE - TINY for sooner, later in pairwise(times))
    assert times[-1] <= 10 + JITTER + 15 * spacing(60)


# ---- whose clocks ----


def test_one_pair_of_clocks_for_each_url_and_key():
    url = "http://127.0.0.1:9/one"
    with ThreadPoolExecutor(8) as pool:
        same = set(pool.map(lambda _: limits.endpoint(url, "key"), range(64)))
    assert len(same) == 1
    others = [limits.endpoint(url), limits.endpoint(url, "other"), limits.endpoint(url + "/v1", "key")]
    assert len({*same, *others}) == 4
    assert limits.endpoint(url) is others[0]


def test_the_key_is_not_kept():
    limits.endpoint("http://127.0.0.1:9/secret", "sk-very-secret")
    assert "sk-very-secret" not in repr(limits._endpoints)


# ---- as a server sees it ----


@pytest.mark.parametrize("attempts", [1, 3])
def test_one_429_holds_off_every_call_on_every_loop(model_server: ModelServer, attempts: int):
    """The server's record of arrivals is the witness. One agent here, one in a thread's loop, one in the background."""
    pause = 0.6
    model_server.next(faults.rate_limited(retry_after=pause))
    clocks = limits.endpoint(model_server.url)

    def agent() -> LlmAgent:
        return LlmAgent("a", "ollama::mock", base_url=model_server.url, attempts=attempts).build()

    async def refused() -> None:
        with suppress(Exception):
            await agent().send_message("refused")

    async def here() -> None:
        first = asyncio.create_task(refused())
        async with asyncio.timeout(5):
            while not clocks.held():
                await asyncio.sleep(0)
        elsewhere = [asyncio.to_thread(there), asyncio.to_thread(in_background), asyncio.to_thread(one_sync)]
        batch = agent().map(["e", "f", "g"], view=None)
        await asyncio.gather(first, *elsewhere, batch, agent().send_message("h"))

    def there() -> None:
        async def main() -> None:
            await asyncio.gather(*(agent().send_message(prompt) for prompt in "abc"))

        asyncio.run(main())

    def in_background() -> None:
        agent().map(["i", "j"], view=None).result(10)

    def one_sync() -> None:
        agent().send_message_sync("d")

    asyncio.run(here())
    refusal, *others = model_server.requests
    ended = refusal.ended
    assert ended is not None
    assert {each.prompt for each in others} >= set("abcdefghij")
    late = sorted(each.at - ended - pause for each in others)
    assert late[0] >= 0
    assert late[-1] <= JITTER + 1.0


def test_the_rate_holds_over_two_agents_and_two_loops(model_server: ModelServer):
    rate = 600

    def agent() -> LlmAgent:
        return LlmAgent("a", "ollama::mock", base_url=model_server.url, max_per_minute=rate).build()

    def there() -> None:
        agent().map(list("abcdef"), view=None).result(10)

    async def here() -> None:
        await asyncio.gather(asyncio.to_thread(there), agent().map(list("uvwxyz"), view=None))

    began = time.monotonic()
    asyncio.run(here())
    times = sorted(each.at for each in model_server.requests)
    assert len(times) == 12
    assert times[-1] - began >= 11 * spacing(rate)
    assert all(later - sooner < 1 for sooner, later in pairwise(times))
    assert threading.active_count() < 20


# -- what is remembered ----------------------------------------------------------------------------------------------


def test_cool_downs_are_remembered_each_once_and_not_for_ever():
    clock = Clock(0.0)
    clocks = Endpoint(now=clock)
    assert clocks.holds() == []
    clocks.hold_off(10, "the server said 429")
    clock.now = 5
    clocks.hold_off(2, "too short to count")
    clocks.hold_off(10, "the server said 503")
    [(began, until, why)] = clocks.holds()
    assert (began, why) == (0, "the server said 503")
    assert 15 <= until <= 15 + JITTER
    clock.now = 100
    clocks.hold_off(1, "another")
    assert [began for began, _, _ in clocks.holds()] == [0, 100]
    for at in range(2 * limits.REMEMBERED):
        clock.now = 200 + 10 * at
        clocks.hold_off(1)
    assert len(clocks.holds()) == limits.REMEMBERED
    assert clocks.holds()[-1][0] == clock.now
