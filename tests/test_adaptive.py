"""How many at once a server is found to work on: whole batches on a clock that jumps, against servers of every kind."""

import asyncio
import gc
import math
import random
import statistics
import threading
import weakref
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

import pytest

from ceylon_nb import LlmAgent, batch, errors
from ceylon_nb.adaptive import MOST, START, Estimate
from ceylon_nb.knee import Levels
from ceylon_nb.shares import Share
from ceylon_nb.testing import ModelServer, faults
from ceylon_nb.throttle import Throttle

from .simulation import Batching, Bucket, Parallel, Server, about, memoryless, work
from .test_policy import VirtualLoop

T = TypeVar("T")

SECONDS = 60


def slower(server: Server) -> None:
    server.seconds = about(0.9, 0.3)


def fewer(server: Parallel) -> None:
    server.parallel = 4


@dataclass(frozen=True)
class Scene:
    """A server, the numbers at once among which the best fixed one is, and what is done to the server when."""

    make: Callable[[], Server]
    fixed: tuple[int, ...]
    change: tuple[float, Callable[[Any], None]] | None = None


FEW = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
SCENES = {
    "one at a time": Scene(lambda: Parallel(1, about(0.2)), (1, 2, 4)),
    "four at a time": Scene(lambda: Parallel(4, about(0.5)), (3, 4, 5, 8)),
    "sixty-four at a time": Scene(lambda: Parallel(64, about(0.5, 0.3)), (64, 72)),
    "one, more are refused": Scene(lambda: Parallel(1, about(0.2, 0.2), refuses=True), (1, 2)),
    "four, more are refused": Scene(lambda: Parallel(4, about(0.5, 0.2), refuses=True), (3, 4, 5)),
    "sixty-four, more are refused": Scene(lambda: Parallel(64, about(0.5, 0.2), refuses=True), (64,)),
    "a token bucket": Scene(lambda: Bucket(10, 10, about(0.3, 0.2)), FEW),
    "a large token bucket": Scene(lambda: Bucket(50, 10, about(0.3, 0.2)), FEW),
    "a bucket slower than one at a time": Scene(lambda: Bucket(5, 1, about(0.05, 0.2)), FEW),
    "a bucket that does not say when": Scene(lambda: Bucket(20, 20, about(0.3, 0.2), says_when=False), FEW),
    "slows down in mid-run": Scene(lambda: Parallel(16, about(0.3, 0.3)), (16, 18), (20, slower)),
    "works on fewer in mid-run": Scene(lambda: Parallel(16, about(0.3, 0.3)), (4, 16, 18), (20, fewer)),
    "noisy": Scene(lambda: Parallel(16, memoryless(0.4)), (16, 18)),
    "noisy, few": Scene(lambda: Parallel(4, memoryless(0.4)), (4, 5)),
    "noisy, many": Scene(lambda: Parallel(64, about(0.5, 0.8)), (64, 72)),
}


@pytest.mark.parametrize("scene", SCENES)
def test_nearly_what_the_best_number_gets(scene: str):
    """At least nine tenths of it, without having been told; and who refuses is hardly ever given reason to."""
    make, change = SCENES[scene].make, SCENES[scene].change
    best = max(len(work(make, SECONDS, at_once, change=change)[0].answered) for at_once in SCENES[scene].fixed)
    shares = []
    for seed in range(3):
        (seen,) = work(make, SECONDS, change=change, seed=seed)
        shares.append(len(seen.answered) / best)
        assert seen.refused_share() <= 0.02
    assert statistics.median(shares) >= 0.9
    assert min(shares) >= 0.85


@pytest.mark.parametrize(("parallel", "near"), [(1, 2), (4, 6), (64, 84)])
def test_stays_near_what_the_server_works_on(parallel: int, near: int):
    (seen,) = work(lambda: Parallel(parallel, about(0.3, 0.1)), SECONDS)
    settled = seen.settled(since=20)
    assert statistics.median(settled) <= near
    assert max(settled) <= 1.5 * near
    about_ = "about " if parallel > 8 else ""
    assert seen.words.startswith(f"the server works on {about_}")
    said = int(seen.words.removeprefix(f"the server works on {about_}").removesuffix(" at a time"))
    assert parallel * 0.8 <= said <= parallel * 1.2


def test_a_server_that_batches():
    """Sixteen as quickly as one: nothing queues, all become slower together."""
    (seen,) = work(lambda: Batching(16, about(0.5, 0.3)), SECONDS)
    assert len(seen.answered) >= 0.9 * SECONDS * 16 / 0.5
    assert statistics.median(seen.settled(since=20)) <= 64


def test_grows_while_it_pays():
    """No knee up to a thousand: as many as there may be, within some ten rounds."""
    (seen,) = work(lambda: Parallel(5_000, about(1.0, 0.3)), 14)
    assert max(seen.settled(since=10)) == MOST
    assert seen.words == ""


def test_begins_with_a_few():
    (seen,) = work(lambda: Parallel(64, about(5.0)), 4)
    assert {limit for _, limit in seen.limits} == {START}


def test_a_rate_that_was_found_is_said():
    (seen,) = work(lambda: Bucket(10, 10, about(0.3, 0.2)), SECONDS)
    said = seen.words.rpartition("lets about ")[2]
    assert 450 <= int(said.removesuffix(" requests a minute through")) <= 700


def test_two_batches_share_what_there_is():
    """Each has half of it, and both together no more than one alone would have."""
    one, other = work(lambda: Parallel(16, about(0.3, 0.2)), SECONDS, batches=2)
    assert len(one.answered) == pytest.approx(len(other.answered), rel=0.1)
    assert len(one.answered) + len(other.answered) >= 0.9 * SECONDS * 16 / 0.3
    both = [mine + others for mine, others in zip(one.settled(20), other.settled(20), strict=True)]
    assert statistics.median(both) <= 24


# -- one estimate ----------------------------------------------------------------------------------------------------


class Clock:
    """Stands still unless told."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


def asked(estimate: Estimate, clock: Clock, latency: float, at_once: int, rounds: int = 1) -> None:
    """So many at the same time, answered after so long, again and again."""
    for _ in range(rounds):
        sent = [estimate.begin() for _ in range(at_once)]
        clock.now += latency
        for each in sent:
            estimate.answered(each)


def test_the_first_requests_pay_for_connections_and_are_left_out():
    clock = Clock()
    estimate = Estimate(now=clock)
    asked(estimate, clock, 30.0, 8)  # a model is loaded
    for _ in range(6):
        asked(estimate, clock, 0.5, estimate.limit)
    assert estimate.limit > 100  # nothing says that eight were too many


def test_a_timeout_takes_a_third_once_and_for_now():
    clock = Clock()
    estimate = Estimate(now=clock)
    asked(estimate, clock, 0.5, 8, rounds=2)
    assert estimate.limit == 16
    sent = [estimate.begin() for _ in range(16)]
    clock.now += 60
    for each in sent[::-1]:
        estimate.failed(each, errors.RequestTimeout("late"))
    assert (estimate.limit, estimate.in_flight) == (11, 0)
    asked(estimate, clock, 0.5, 11, rounds=4)
    assert estimate.limit > 16


def test_one_late_request_among_few_is_not_about_their_number():
    clock = Clock()
    estimate = Estimate(now=clock)
    asked(estimate, clock, 0.5, 8, rounds=2)
    estimate.failed(estimate.begin(), errors.ConnectionLost("cut"))
    assert estimate.limit == 16


def test_quick_answers_one_after_the_other_are_not_too_many():
    """A server that works on one at a time, each for a millisecond: eight wait for nothing that one would notice."""
    clock = Clock()
    estimate = Estimate(now=clock)
    for _ in range(30):
        sent = [estimate.begin() for _ in range(estimate.limit)]
        for each in sent:
            clock.now += 0.001
            estimate.answered(each)
        clock.now += 0.05
    assert estimate.works_on == 1
    assert estimate.limit == START


def test_few_items_at_a_time_are_no_reason_for_fewer():
    """A source that has one row now and then: when it has more, as many are asked as before."""
    clock = Clock()
    estimate = Estimate(now=clock)
    asked(estimate, clock, 0.5, 8, rounds=2)
    assert estimate.limit == 16
    asked(estimate, clock, 0.5, 1, rounds=100)
    assert estimate.limit >= 16


def test_the_next_batch_begins_with_no_fewer_than_others():
    """What was found was of other questions; it is found again in a moment, if it still holds."""

    async def main(loop: VirtualLoop) -> tuple[int, int, int]:
        estimate = Estimate(now=loop.time)
        share = Share(estimate, lambda: None)
        share.open()
        for _ in range(30):
            sent = [estimate.begin() for _ in range(estimate.limit)]
            for each in sent:
                await asyncio.sleep(0.5)
                estimate.answered(each)
        found = share.part
        share.close()
        after = Share(estimate, lambda: None)
        after.open()
        begins = after.part
        another = Share(estimate, lambda: None)
        another.open()
        return found, begins, another.part

    found, begins, shared = virtually(main)
    assert found <= 2
    assert (begins, shared) == (START, START // 2)


@pytest.mark.parametrize(
    "error", [asyncio.CancelledError(), errors.BadReply("?"), errors.BadRequest("no", status=400), ValueError()]
)
def test_errors_that_say_nothing_of_how_many(error: BaseException):
    clock = Clock()
    estimate = Estimate(now=clock)
    asked(estimate, clock, 0.5, 8, rounds=2)
    before = estimate.limit
    sent = [estimate.begin() for _ in range(before)]
    for each in sent:
        estimate.failed(each, error)
    assert (estimate.limit, estimate.in_flight) == (before, 0)


class Foreign(Exception):
    """What a user's own function may raise: the status under another name."""

    def __init__(self, **known: Any) -> None:
        self.__dict__ |= known


class Response:
    status_code = 429


@pytest.mark.parametrize("error", [Foreign(status_code=429), Foreign(response=Response()), Foreign(status=503)])
def test_refusals_of_other_libraries_are_understood(error: Exception):
    clock = Clock()
    estimate = Estimate(now=clock)
    sent = [estimate.begin() for _ in range(8)]
    for each in sent[4:]:
        estimate.failed(each, error)
    for each in sent[:4]:
        clock.now += 0.1
        estimate.answered(each)
    assert estimate.limit == 4


def test_nothing_is_lost_between_threads():
    estimate = Estimate()

    def ask() -> None:
        for _ in range(2_000):
            sent = estimate.begin()
            if random.random() < 0.1:
                estimate.failed(sent, errors.RateLimited("no", status=429))
            else:
                estimate.answered(sent)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert estimate.in_flight == 0


def virtually(main: Callable[[VirtualLoop], Coroutine[Any, Any, T]]) -> T:
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        loop = runner.get_loop()
        assert isinstance(loop, VirtualLoop)
        return runner.run(main(loop))


# -- shares ----------------------------------------------------------------------------------------------------------


def test_no_more_than_its_share_is_let_in():
    """Further attempts of eight rows, when only one at a time is taken: they line up."""

    async def main(loop: VirtualLoop) -> int:
        estimate = Estimate(now=loop.time)
        share = Share(estimate, lambda: None)
        share.open()
        share.part = 2
        inside = most = 0

        async def attempt() -> None:
            nonlocal inside, most
            async with share.place():
                inside += 1
                most = max(most, inside)
                await asyncio.sleep(1)
                inside -= 1

        await asyncio.gather(*(attempt() for _ in range(8)))
        return most

    assert virtually(main) == 2


def test_who_is_cancelled_while_waiting_takes_nobodys_place():
    async def main(loop: VirtualLoop) -> None:
        estimate = Estimate(now=loop.time)
        share = Share(estimate, lambda: None)
        share.open()
        share.part = 1
        place = await share.admit()
        waiting = [asyncio.create_task(share.admit()) for _ in range(3)]
        await asyncio.sleep(0)
        share.leave(place)  # the first one's
        waiting[0].cancel()  # which it has been told, and has not taken yet
        waiting[1].cancel()
        async with asyncio.timeout(5):
            await waiting[2]
        assert [task.cancelled() for task in waiting] == [True, True, False]

    virtually(main)


def test_a_share_that_is_closed_lets_everybody_in():
    async def main(loop: VirtualLoop) -> None:
        estimate = Estimate(now=loop.time)
        share = Share(estimate, lambda: None)
        share.open()
        share.part = 1
        waiting = [asyncio.create_task(share.admit()) for _ in range(5)]
        await asyncio.sleep(0)
        share.close()
        async with asyncio.timeout(5):
            await asyncio.gather(*waiting)

    virtually(main)


def test_a_batch_whose_loop_was_closed_takes_no_share():
    estimate = Estimate()
    left = Share(estimate, lambda: None)

    async def begin(share: Share) -> int:
        share.open()
        return share.part

    assert asyncio.run(begin(left)) == START
    assert asyncio.run(begin(Share(estimate, lambda: None))) == START


def test_an_estimate_keeps_no_batch():
    async def main() -> weakref.ref[Any]:
        run = batch(asyncio.sleep, [0] * 3, view=None)
        await run
        return weakref.ref(run)

    found = asyncio.run(main())
    gc.collect()
    assert found() is None


def test_a_row_that_asks_an_agent_needs_no_second_place():
    """All places are taken by rows that ask somebody else on the way: they wait for nobody."""

    async def answer(_: Any) -> str:
        await asyncio.sleep(0.001)
        return "yes"

    agent = LlmAgent("inner", answer)

    async def main() -> None:
        async def ask(item: int) -> str:
            await asyncio.sleep(0.001)
            return await agent.send_message(f"Is it {item}?")

        async def over(messages: Any) -> str:
            await asyncio.sleep(0.001)
            return await agent.send_message(messages[-1].content)

        async with asyncio.timeout(10):
            assert (await batch(ask, range(100), view=None))["reply"].eq("yes").all()
            run = LlmAgent("outer", over).map([f"row {n}" for n in range(100)], store=None, view=None)
            assert (await run)["reply"].eq("yes").all()

    asyncio.run(main())


def test_a_row_that_asks_its_own_server_again_needs_no_second_place():
    """On the way to its answer it asks the same agent: with a place of its own for that, all would wait for all."""

    async def over(messages: Any) -> str:
        await asyncio.sleep(0.001)
        asked = messages[-1].content
        return "yes" if asked == "inner" else await agent.send_message("inner")

    agent = LlmAgent("twice", over)

    async def main() -> None:
        async with asyncio.timeout(10):
            run = agent.map([f"row {n}" for n in range(100)], store=None, view=None)
            assert (await run)["reply"].eq("yes").all()

    asyncio.run(main())


def test_streams_leave_nothing_in_flight(model_server: ModelServer):
    agent = LlmAgent("a", "ollama::mock", base_url=model_server.url)

    async def main() -> int:
        for _ in range(5):
            async for _ in agent.stream("Tell me."):
                pass
        async for _ in agent.stream("Tell me."):
            break
        return agent._caller(agent._settings).endpoint.estimate.in_flight

    assert asyncio.run(main()) == 0


def test_a_server_that_refuses_whoever_comes_is_not_one_for_one():
    """It loads its model: 503 for all of eight, the first included. Then it takes as many as there are."""
    clock = Clock()
    estimate = Estimate(now=clock)
    sent = [estimate.begin() for _ in range(8)]
    for each in sent:
        estimate.failed(each, errors.ServerError("loading", status=503))
    assert estimate.limit == START
    assert estimate.words() == ""
    asked(estimate, clock, 0.5, 8, rounds=2)
    assert estimate.limit == 16


def test_one_refusal_alone_later_is_no_reason_for_one():
    clock = Clock()
    estimate = Estimate(now=clock)
    asked(estimate, clock, 0.5, 1, rounds=200)
    estimate.failed(estimate.begin(), errors.RateLimited("quota", status=429))
    assert estimate.limit >= START


def test_errors_that_cannot_be_looked_at_are_the_rows_own():
    class Sly(Exception):
        @property
        def status(self) -> int:
            raise RuntimeError("no")

    estimate = Estimate()
    for error in (Sly(), Foreign(status=[429]), Foreign(status="429")):
        estimate.failed(estimate.begin(), error)
    assert (estimate.in_flight, estimate.limit) == (0, START)


def test_the_collector_may_come_by_at_any_moment():
    """A coroutine that is closed under the lock says that it has failed, in the thread that holds it."""
    estimate = Estimate()

    def inside() -> None:
        sent = estimate.begin()
        with estimate._lock:
            estimate.failed(sent, GeneratorExit())

    thread = threading.Thread(target=inside, daemon=True)
    thread.start()
    thread.join(5)
    assert not thread.is_alive()
    assert estimate.in_flight == 0


def test_a_batch_on_another_loop_keeps_its_part():
    estimate = Estimate()
    told: list[int] = []
    share = Share(estimate, lambda: told.append(share.part))

    async def begin() -> None:
        share.open()

    asyncio.run(begin())
    estimate.leave(Share(estimate, lambda: None))  # somebody looks, and its loop is closed

    async def go_on() -> None:
        share.open()
        asked(estimate, Clock(), 0.0, 1)
        estimate._target = 3.0
        with estimate._lock:
            estimate._set()
        estimate._tell()

    asyncio.run(go_on())
    assert told[-1] == 3


def test_a_paused_batch_leaves_the_server_to_others(model_server: ModelServer):
    """Also while it waits for the next row of a stream that is silent."""
    model_server.latency = 0.05
    agent = LlmAgent("clerk", "ollama::mock", base_url=model_server.url)

    async def silent():
        yield "one"
        await asyncio.Event().wait()

    async def main() -> None:
        quiet = agent.map(silent(), store=None, view=None)
        busy = agent.map((f"row {n}" for n in range(100_000)), store=None, view=None)
        while busy.counts["ok"] < 20:
            await asyncio.sleep(0.01)
        quiet.pause()
        estimate = agent._caller(agent._settings).endpoint.estimate
        while busy.max_at_once != estimate.limit:
            await asyncio.sleep(0.01)
        for run in (busy, quiet):
            run.cancel()
            await run

    async def bounded() -> None:
        async with asyncio.timeout(20):
            await main()

    asyncio.run(bounded())


def test_what_one_batch_does_not_use_is_the_others():
    """One has a row now and then, the other as many as may be: that one has nearly all there is."""

    async def main(loop: VirtualLoop) -> list[float]:
        estimate, parts = Estimate(now=loop.time), []
        idle, full = (Share(estimate, lambda: None) for _ in range(2))
        idle.open()
        full.open()

        async def ask(share: Share, times: int, pause: float) -> None:
            for _ in range(times):
                async with share.place():
                    sent = estimate.begin()
                    await asyncio.sleep(0.5)
                    estimate.answered(sent)
                if 16 < estimate.limit < 256:
                    parts.append(full.part / estimate.limit)
                await asyncio.sleep(pause)

        await asyncio.gather(ask(idle, 10, 2.0), *(ask(full, 5, 0.0) for _ in range(400)))
        return parts

    assert statistics.median(virtually(main)) > 0.9


def test_latency_is_the_calls_own():
    async def slow(_: int) -> str:
        await asyncio.sleep(0.05)
        return "done"

    async def main() -> float:
        run = batch(slow, range(60), max_per_minute=3_000, attempts=2, view=None)
        return float((await run)["latency"].max())

    assert asyncio.run(main()) < 0.15


# -- over HTTP -------------------------------------------------------------------------------------------------------


def test_a_real_server_that_works_on_four(model_server: ModelServer):
    model_server.parallel, model_server.latency = 4, 0.05
    model_server.stop()
    model_server.start()
    agent = LlmAgent("clerk", "ollama::mock", base_url=model_server.url)

    async def main() -> tuple[str, str, int]:
        run = agent.map([f"row {number}" for number in range(400)], store=None, view=None)
        assert run.adaptive
        await run
        return run.summary(), run.found, run.max_at_once

    summary, found, limit = asyncio.run(main())
    assert "for Ollama, OLLAMA_NUM_PARALLEL raises that" in summary
    assert found in summary
    works_on = int(found.removeprefix("the server works on ").split()[0])
    assert 3 <= works_on <= 8  # of 400 short rows the knee is not known better
    assert limit <= 12


def test_a_real_server_that_refuses_more_than_two(model_server: ModelServer):
    """No row fails, though three attempts are few where eight are sent at the same moment and six are refused."""
    most = 0

    def plan(request: Any) -> faults.Fault | None:
        nonlocal most
        most = max(most, model_server.active)
        return faults.rate_limited(None) if model_server.active > 2 else None

    model_server.plan, model_server.latency = plan, 0.02
    agent = LlmAgent("clerk", "openai::mock", base_url=model_server.openai_url)

    async def main() -> tuple[Any, int]:
        run = agent.map([f"row {number}" for number in range(60)], store=None, view=None)
        return (await run)["status"].value_counts().to_dict(), run.max_at_once

    statuses, limit = asyncio.run(main())
    assert statuses["ok"] == 60
    assert limit <= 3
    assert most > 2


def test_a_number_leaves_auto_and_auto_comes_back(model_server: ModelServer):
    model_server.latency = 0.05
    agent = LlmAgent("clerk", "ollama::mock", base_url=model_server.url)

    async def main() -> None:
        run = agent.map((f"row {number}" for number in range(10_000)), store=None, view=None)
        await asyncio.sleep(0.2)
        run.max_at_once = 3
        assert (run.adaptive, run.max_at_once, run.found) == (False, 3, "")
        while model_server.active != 3:
            await asyncio.sleep(0.01)
        run.max_at_once = "auto"
        assert run.adaptive
        while run.max_at_once <= START:
            await asyncio.sleep(0.01)
        with pytest.raises(errors.ConfigurationError, match=r'whole number from 1, or "auto", not \'many\''):
            run.max_at_once = "many"
        run.cancel()
        await run

    async def bounded() -> None:
        async with asyncio.timeout(20):
            await main()

    asyncio.run(bounded())


# -- the knee, and the rate ------------------------------------------------------------------------------------------


def seen_at(numbers: range, knee: float, latency: float = 0.5, each: int = 5) -> Levels:
    levels = Levels()
    for number in numbers:
        for _ in range(each):
            levels.add(number, latency * max(1.0, number / knee))
    return levels


@pytest.mark.parametrize("knee", [1, 2, 3, 5, 8, 13, 40])
def test_the_knee_is_found(knee: int):
    found = seen_at(range(1, 3 * knee + 8), knee).knee()
    assert found is not None
    assert found.seen
    assert found.best == pytest.approx(knee, rel=0.1)
    assert 0.9 * found.low <= knee <= 1.1 * found.high


def test_no_knee_where_latency_does_not_rise():
    found = seen_at(range(1, 20), math.inf).knee()
    assert found is not None
    assert not found.seen


def test_only_more_than_the_knee_was_seen():
    """All that is below fits alike: somewhat fewer next time."""
    found = seen_at(range(20, 30), 1).knee()
    assert found is not None
    assert found.seen
    assert found.low == 1
    assert 10 <= found.best <= 20


def test_what_is_old_fades():
    levels = seen_at(range(1, 30), 4)
    for _ in range(40):
        levels.fade(0.8)
    assert levels.knee() is None


def test_a_pace_is_cut_comes_back_and_tries_more():
    throttle, now = Throttle(), 0.0
    for _ in range(40):
        now += 0.1
        throttle.answered(now)
    throttle.refused(now, tried=20.0)
    assert throttle.rate == pytest.approx(16.0)
    rates = []
    for _ in range(400):
        now += 0.1
        throttle.answered(now)
        rates.append(throttle.rate)
    assert rates[:300] == sorted(rates[:300])
    assert rates[149] == pytest.approx(20.0, rel=0.01)
    assert 20.0 < rates[299] <= 27.0


def test_a_pace_never_falls_below_what_comes_through():
    throttle, now = Throttle(), 0.0
    for _ in range(20):
        for _ in range(10):
            now += 0.1
            throttle.answered(now)
        throttle.refused(now, tried=12.0)
    assert throttle.rate is not None
    assert throttle.rate >= 8.9


def test_a_bad_minute_is_no_bad_hour():
    """Fifty refusals, each with one answer before it: a server that is ill. The pace is found again soon."""
    throttle, now = Throttle(), 0.0
    for _ in range(50):
        now += 0.3
        throttle.answered(now)
        throttle.refused(now, tried=80.0)
    assert throttle.rate is not None
    assert throttle.rate >= 80 / 64
    for _ in range(10):
        throttle.refused(now, tried=80.0)  # and nothing comes through: that is not the pace
    assert throttle.rate >= 80 / 64
    now += 240
    throttle.answered(now)
    assert throttle.rate is None or throttle.rate > 10


def test_a_server_without_a_rate_any_more():
    throttle, now = Throttle(), 0.0
    throttle.refused(now, tried=10.0)
    for _ in range(2_000):
        now += 0.01
        throttle.answered(now)
    assert throttle.rate is None
    assert throttle.interval == 0.0
