"""Tokens a minute: no 60 seconds see more than the limit, and what was expected is put right by what it was."""

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ceylon_nb import LlmAgent, Reply, Usage, errors, limits
from ceylon_nb.agents.caller import Caller
from ceylon_nb.limits import Endpoint, Turn
from ceylon_nb.meters import FIRST_GUESS, Guess, spacing
from ceylon_nb.testing import ModelServer
from ceylon_nb.waiting import party

from .virtual import START, VirtualLoop, virtually

TINY = 1e-6


# -- no minute over the limit ----------------------------------------------------------------------------------------


class Party:
    """Stands for a batch."""


LIMIT = 1000
calls = st.lists(
    st.tuples(
        st.floats(0, 100),
        st.integers(1, 400),
        st.none() | st.floats(0, 100),
        st.sampled_from([None, 5, 30]),
        st.integers(-1, 1),
    ),
    min_size=5,
    max_size=40,
)


@given(calls=calls, stalls=st.lists(st.tuples(st.floats(0, 100), st.floats(0, 20)), max_size=3))
def test_no_minute_sees_more_tokens_than_its_limit(calls, stalls):
    async def main(loop: VirtualLoop, clocks: Endpoint) -> list[tuple[float, int]]:
        used = []
        parties = [Party(), Party()]

        async def call(arrival: float, tokens: int, patience: float | None, rate: float | None, whose: int) -> None:
            await asyncio.sleep(arrival)
            party.set(None if whose < 0 else parties[whose])
            if patience is not None:
                loop.call_later(patience, asyncio.current_task().cancel)
            with suppress(asyncio.CancelledError):
                await clocks.turn(rate, max_tokens_per_minute=LIMIT, tokens=tokens)
                used.append((loop.time(), tokens))

        for at, length in stalls:
            loop.call_later(at, lambda length=length: setattr(loop, "now", loop.now + length))
        await asyncio.gather(*(call(*each) for each in calls))
        return used

    used = sorted(virtually(main))
    assert len(used) >= sum(patience is None for _, _, patience, _, _ in calls)
    for i, (since, _) in enumerate(used):
        assert sum(tokens for at, tokens in used[i:] if at < since + 60 - TINY) <= LIMIT


def test_they_are_spread_evenly_and_all_of_the_limit_is_used():
    async def main(loop: VirtualLoop, clocks: Endpoint) -> list[float]:
        times = []

        async def call() -> None:
            await clocks.turn(max_tokens_per_minute=6000, tokens=100)
            times.append(loop.time() - START)

        await asyncio.gather(*(call() for _ in range(300)))
        return times

    times = virtually(main)
    assert times[1] == pytest.approx(100 * spacing(6000))
    assert times[-1] <= 299 * 1.03  # at a request a second: 5 minutes
    assert max(later - sooner for sooner, later in pairwise(times)) < 2.5


def test_one_larger_than_the_limit_is_sent_and_paid_for():
    async def main(loop: VirtualLoop, clocks: Endpoint) -> list[float]:
        times = []
        for tokens in (100, 3000, 100):
            await clocks.turn(max_tokens_per_minute=1000, tokens=tokens)
            times.append(loop.time() - START)
        return times

    first, large, after = virtually(main)
    assert first == 0
    assert 60 <= large <= 61  # when the minute before it has seen nothing
    assert 180 <= after - large <= 181


def test_batches_share_tokens_not_requests():
    async def main(loop: VirtualLoop, clocks: Endpoint) -> dict[str, int]:
        had = {"large": 0, "small": 0}

        async def call(name: str, who: Party, tokens: int) -> None:
            party.set(who)
            await clocks.turn(max_tokens_per_minute=6000, tokens=tokens)
            had[name] += tokens

        parties = Party(), Party()
        tasks = [asyncio.create_task(call("large", parties[0], 500)) for _ in range(100)]
        await asyncio.sleep(1)
        tasks += [asyncio.create_task(call("small", parties[1], 20)) for _ in range(1000)]
        await asyncio.sleep(120)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        return had

    had = virtually(main)
    assert abs(had["large"] - had["small"]) <= 1500


# -- what was expected, and what it was ------------------------------------------------------------------------------


def test_what_is_left_over_is_given_back_and_what_was_missing_charged():
    async def main(loop: VirtualLoop, clocks: Endpoint) -> list[float]:
        times = []
        for expected, taken in ((500, 10), (10, 500), (10, 10)):
            turn = await clocks.turn(max_tokens_per_minute=6000, tokens=expected)
            times.append(loop.time() - START)
            turn.took(taken)
        return times

    assert virtually(main) == pytest.approx([0, 10 * spacing(6000), 510 * spacing(6000)])


def test_what_is_given_back_lets_those_go_who_wait():
    async def main(loop: VirtualLoop, clocks: Endpoint) -> float:
        turn = await clocks.turn(max_tokens_per_minute=600, tokens=600)
        waits = asyncio.create_task(clocks.turn(max_tokens_per_minute=600, tokens=10))
        await asyncio.sleep(5)
        assert not waits.done()
        turn.took(20)
        await waits
        return loop.time() - START

    assert virtually(main) == pytest.approx(5)


def test_what_is_given_back_on_one_loop_is_noticed_on_another():
    """The other one sleeps until its slot is due, which is sooner now, though not yet."""
    clocks, waiting = Endpoint(), threading.Event()

    def there() -> float:
        async def main() -> float:
            turn = asyncio.create_task(clocks.turn(max_tokens_per_minute=600, tokens=10))
            await asyncio.sleep(0)
            waiting.set()
            async with asyncio.timeout(10):
                await turn
            return time.monotonic()

        return asyncio.run(main())

    async def first() -> Turn:
        return await clocks.turn(max_tokens_per_minute=600, tokens=300)

    began = time.monotonic()
    turn = asyncio.run(first())
    with ThreadPoolExecutor(1) as pool:
        went = pool.submit(there)
        waiting.wait()
        time.sleep(0.05)  # it is in its selector by then
        turn.took(6)
        assert 6 * spacing(600) - 0.05 <= went.result() - began <= 3


def test_what_is_said_after_its_minute_is_charged_to_what_follows():
    async def main(loop: VirtualLoop, clocks: Endpoint) -> float:
        turn = await clocks.turn(max_tokens_per_minute=600, tokens=10)
        await asyncio.sleep(200)
        await clocks.turn(max_tokens_per_minute=600, tokens=1)
        turn.took(110)
        began = loop.time()
        await clocks.turn(max_tokens_per_minute=600, tokens=1)
        return loop.time() - began

    assert virtually(main) == pytest.approx(101 * spacing(600))


def test_a_guess_learns():
    guess = Guess()
    assert (guess.input(400), guess.output(), guess.output(50)) == (100, FIRST_GUESS, 50)
    for _ in range(60):
        guess.learn(400, 200, 20)
    assert guess.input(400) == pytest.approx(200, abs=2)
    assert guess.output() == 20
    assert guess.output(5) == 5
    guess.learn(400, None, None)
    guess.learn(4000, 1, 20)  # from a cache
    assert guess.input(400) >= 100


# -- an agent's ------------------------------------------------------------------------------------------------------


def caller_of(fn: Callable[..., Any], clocks: Endpoint, **options: Any) -> Caller:
    agent = LlmAgent("a", fn, **options)
    caller = agent._caller(agent._settings)
    caller.endpoint = clocks
    return caller


def next_at(clocks: Endpoint, limit: float) -> Coroutine[Any, Any, Any]:
    return clocks.turn(max_tokens_per_minute=limit, tokens=1)


@pytest.mark.parametrize(
    ("fails", "tokens"),
    [
        (None, 130),
        (errors.RateLimited("no", status=429), 0),
        (errors.BadRequest("no", status=400), 0),
        (errors.ServerError("no", status=500), 100),
        (errors.ConnectionLost("no"), 100),
    ],
)
def test_what_an_attempt_pays(fails: Exception | None, tokens: int):
    """A refused one nothing, a failed one its prompt, an answered one what the server says."""

    async def model(messages: list[Any]) -> Reply:
        if fails is not None:
            raise fails
        return Reply("Yes", usage=Usage(100, 30))

    async def main(loop: VirtualLoop, clocks: Endpoint) -> float:
        caller = caller_of(model, clocks, max_tokens_per_minute=6000, attempts=1)
        with suppress(errors.RequestError):
            await caller.ask(caller.request("x" * 400))
        clocks._held_until = 0.0
        await next_at(clocks, 6000)
        return loop.time() - START

    assert virtually(main) == pytest.approx(tokens * spacing(6000), abs=0.01)


def test_one_that_is_cancelled_in_flight_pays_its_prompt():
    async def model(messages: list[Any]) -> Reply:
        await asyncio.Event().wait()
        raise AssertionError

    async def main(loop: VirtualLoop, clocks: Endpoint) -> float:
        caller = caller_of(model, clocks, max_tokens_per_minute=6000)
        task = asyncio.create_task(caller.ask(caller.request("x" * 400)))
        await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.wait([task])
        await next_at(clocks, 6000)
        return loop.time() - START

    assert virtually(main) == pytest.approx(100 * spacing(6000), abs=0.01)


def test_further_attempts_pay_again():
    failures = [errors.ConnectionLost("no"), errors.ConnectionLost("no")]

    async def model(messages: list[Any]) -> Reply:
        if failures:
            raise failures.pop()
        return Reply("Yes", usage=Usage(100, 0))

    async def main(loop: VirtualLoop, clocks: Endpoint) -> int:
        caller = caller_of(model, clocks, max_tokens_per_minute=60_000)
        await caller.ask(caller.request("x" * 400))
        return clocks._tokens._sum

    assert virtually(main) == 300


def test_of_a_server_that_does_not_count_the_text_is_measured():
    async def model(messages: list[Any]) -> str:
        return "y" * 80

    async def main(loop: VirtualLoop, clocks: Endpoint) -> int:
        caller = caller_of(model, clocks, max_tokens_per_minute=6000)
        await caller.ask(caller.request("x" * 400))
        return clocks._tokens._sum

    assert virtually(main) == 120


PROMPT = "one two three four five six seven eight nine ten"


@pytest.mark.parametrize("way", ["map", "map in pieces", "stream"])
def test_as_a_server_sees_it(model_server: ModelServer, way: str):
    """20 tokens each by its count, at 100 a second."""
    model_server.reply = PROMPT
    agent = LlmAgent("a", "ollama::mock", base_url=model_server.url, max_tokens=400)
    agent.with_max_tokens_per_minute(6000)

    async def main() -> None:
        if way == "stream":
            for _ in range(8):
                await agent.stream(PROMPT)
        else:
            await agent.map([PROMPT] * 8, max_at_once=2, view=None, store=None, stream="pieces" in way)

    began = time.monotonic()
    asyncio.run(main())
    took = time.monotonic() - began
    assert model_server.served == 8
    assert 7 * 20 * spacing(6000) - 0.3 <= took <= 7 * 20 * spacing(6000) + 6


def test_what_is_in_the_store_or_recorded_pays_nothing(model_server: ModelServer, tmp_path: Path):
    agent = LlmAgent("a", "ollama::mock", base_url=model_server.url, max_tokens_per_minute=6000, max_tokens=5)
    clocks = limits.endpoint(model_server.url)

    async def main() -> None:
        for _ in range(2):
            await agent.map(["a", "b"], view=None, store=tmp_path / "answers.sqlite")

    asyncio.run(main())
    paid = clocks._tokens._sum
    assert 0 < paid < 40
    asyncio.run(main())
    assert model_server.received == 2
    assert clocks._tokens._sum == paid


def test_the_limit_of_a_batch_is_refused_if_it_makes_no_sense():
    with pytest.raises(errors.ConfigurationError, match="max_tokens_per_minute is a number above 0, not 0"):
        LlmAgent("a", "demo::tutor", max_tokens_per_minute=0)
    agent = LlmAgent("a", "demo::tutor").with_max_tokens_per_minute(1e6)
    with pytest.raises(errors.ConfigurationError, match="max_tokens_per_minute"):
        agent.map(["a"], max_tokens_per_minute="many")
