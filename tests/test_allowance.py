"""Allowance: what a server says is left keeps us from being refused, and never makes us slower than it says."""

import asyncio
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ceylon_nb import LlmAgent
from ceylon_nb.allowance import JITTER, LONGEST, Allowance, Left, read
from ceylon_nb.limits import Endpoint
from ceylon_nb.testing import ModelServer, faults
from ceylon_nb.testing.faults import Fault
from ceylon_nb.testing.witness import Request

from .virtual import START, VirtualLoop, virtually

# -- reading ---------------------------------------------------------------------------------------------------------


def openai(remaining: object, reset: object, limit: object = 60, kind: str = "requests") -> dict[str, str]:
    return {
        f"x-ratelimit-limit-{kind}": str(limit),
        f"x-ratelimit-remaining-{kind}": str(remaining),
        f"x-ratelimit-reset-{kind}": str(reset),
    }


@pytest.mark.parametrize(
    ("reset", "seconds"),
    [
        ("1s", 1),
        ("20ms", 0.02),
        ("6m0s", 360),
        ("7m12.5s", 432.5),
        ("2m59.56s", 179.56),
        ("1h2m3s", LONGEST),
        ("86ns", 86e-9),
        ("12", 12),
        ("0.5", 0.5),
        ("0s", 0),
        ("5d", LONGEST),
    ],
)
def test_resets(reset: str, seconds: float):
    requests, tokens = read(httpx.Headers(openai(3, reset)))
    assert requests == Left(3, pytest.approx(seconds), 60)
    assert tokens is None


NONSENSE = ["", "soon", "-1s", "1x", "s", "1s and more", "nan", "inf", "1e9", "٣", "--", "1.2.3s", "9" * 400]


@pytest.mark.parametrize("value", NONSENSE)
def test_nonsense_is_ignored(value: str):
    assert read(openai(3, value)) == (None, None)
    assert read(openai(value, "1s")) == (None, None)
    assert read(openai(3, "1s", limit=value)) == (Left(3, 1, None), None)


@given(st.dictionaries(st.sampled_from(sorted(openai(0, 0))), st.text(max_size=20)))
def test_whatever_comes_is_read_or_ignored(headers):
    requests, _ = read(headers)
    assert requests is None or (requests.remaining >= 0 and 0 <= requests.reset <= LONGEST)


def test_tokens_and_requests_are_told_apart():
    requests, tokens = read(httpx.Headers(openai(59, "1s") | openai(149_984, "6m0s", 150_000, "tokens")))
    assert requests == Left(59, 1, 60)
    assert tokens == Left(149_984, 360, 150_000)


def test_other_servers_ways():
    now = datetime.now(UTC).replace(microsecond=0)
    later = now + timedelta(seconds=30)
    date = {"Date": now.strftime("%a, %d %b %Y %H:%M:%S GMT")}
    anthropic = {
        "anthropic-ratelimit-requests-limit": "50",
        "anthropic-ratelimit-requests-remaining": "0",
        "anthropic-ratelimit-requests-reset": later.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "anthropic-ratelimit-tokens-remaining": "1000",
        "anthropic-ratelimit-tokens-reset": later.isoformat(),
    }
    assert read(anthropic | date) == (Left(0, 30, 50), Left(1000, 30))
    openrouter = {
        "X-RateLimit-Limit": "20",
        "X-RateLimit-Remaining": "0",
        "X-RateLimit-Reset": str(int(later.timestamp() * 1000)),
    }
    assert read(openrouter | date) == (Left(0, 30, 20), None)
    seconds = openrouter | {"X-RateLimit-Reset": str(int(later.timestamp()))}
    assert read(seconds | date) == (Left(0, 30, 20), None)
    past = openrouter | {"X-RateLimit-Reset": "1000000000"}
    assert read(past | date) == (Left(0, 0, 20), None)


def test_headers_that_speak_of_nothing_of_the_kind():
    assert read(httpx.Headers({"content-type": "application/json"})) == (None, None)
    assert read({"x-ratelimit-limit-requests": "60"}) == (None, None)


# -- reckoning -------------------------------------------------------------------------------------------------------


def test_what_was_sent_since_is_counted():
    allowance = Allowance("requests")
    assert allowance.opens(1, 100, START) == 0
    allowance.told(Left(5, 10, 60), 95, START)
    assert allowance.opens(1, 99, START) == 0
    assert START + 10 <= allowance.opens(1, 100, START) <= START + 10 + JITTER
    allowance.told(Left(9, 10, 60), 94, START)  # older news
    assert allowance.opens(1, 100, START) > 0
    allowance.told(Left(1, 10, 60), 100, START)
    assert allowance.opens(1, 100, START) == 0
    assert allowance.opens(1, 101, START) > 0


def test_of_answers_to_requests_that_were_not_counted_the_lowest_holds_until_the_reset():
    allowance = Allowance("requests")
    for left in (5, 0, 7):
        allowance.told(Left(left, 10, 60), 0, START)
    assert START + 10 <= allowance.opens(1, 0, START + 1) <= START + 10 + JITTER
    allowance.told(Left(7, 10, 60), 0, START + 11)
    assert allowance.opens(1, 6, START + 12) == 0
    assert allowance.opens(1, 7, START + 12) > START + 12
    allowance.forget()  # what the server said itself counts
    allowance.told(Left(9, 10, 60), 0, START + 12)
    assert allowance.opens(1, 8, START + 12) == 0


def test_after_the_reset_all_is_there_again_and_no_more():
    allowance = Allowance("requests")
    allowance.told(Left(0, 10, 3), 100, START)
    later = START + 11
    assert allowance.opens(1, 100, later) == 0
    assert allowance.opens(1, 102, later) == 0
    assert allowance.opens(1, 103, later) > later  # and a bound, should no answer come
    assert allowance.opens(1, 103, later + 11) == 0


def test_without_a_limit_nothing_is_known_after_the_reset():
    allowance = Allowance("requests")
    allowance.told(Left(0, 10), 100, START)
    assert allowance.opens(1, 100, START) > START
    assert allowance.opens(1, 500, START + 11) == 0


def test_one_that_is_larger_than_all_is_sent_when_all_is_there():
    allowance = Allowance("tokens")
    allowance.told(Left(1000, 10, 1000), 0, START)
    assert allowance.opens(5000, 0, START) == 0
    assert allowance.opens(5000, 1, START) > START


# -- at an endpoint --------------------------------------------------------------------------------------------------


def test_all_wait_and_go_when_there_is_news():
    """Newer news lifts the wait; it is shown, with its reason, for as long as it lasted."""

    async def main(loop: VirtualLoop, clocks: Endpoint) -> tuple[float, list[tuple[float, float, str]], float]:
        (await clocks.turn()).hears(openai(9, "30s"), False)
        sooner, later = await clocks.turn(), await clocks.turn()
        sooner.hears(openai(0, "30s"), False)
        held = clocks.held()
        waits = [asyncio.create_task(clocks.turn()) for _ in range(3)]
        await asyncio.sleep(5)
        assert not any(task.done() for task in waits)
        later.hears(openai(3, "30s"), False)
        await asyncio.gather(*waits)
        return loop.time() - START, clocks.holds(), held

    ended, holds, held = virtually(main)
    assert ended == 5
    assert holds == [(START, START + 5, "no requests are left, the server said")]
    assert 30 <= held <= 30 + JITTER


def test_tokens_that_are_left_have_to_be_enough():
    async def main(loop: VirtualLoop, clocks: Endpoint) -> list[float]:
        turn = await clocks.turn()
        turn.hears(openai(100, "20s", 1000, "tokens"), False)
        times = []
        for tokens in (60, 60, 10):
            await clocks.turn(tokens=tokens)
            times.append(loop.time() - START)
        assert [why for _, _, why in clocks.holds()] == ["no tokens are left, the server said"]
        return times

    first, second, third = virtually(main)
    assert first == 0
    assert 20 <= second == third <= 20 + JITTER


def test_retry_after_says_it_better():
    async def main(loop: VirtualLoop, clocks: Endpoint) -> float:
        turn = await clocks.turn()
        turn.hears({"retry-after": "2", **openai(0, "30s")}, True)
        clocks.hold_off(2, "the server said 429")
        await clocks.turn()
        return loop.time() - START

    assert 2 <= virtually(main) <= 2 + JITTER


# -- as a server sees it ---------------------------------------------------------------------------------------------


class Quota:
    """What a server allows in each window, and what it says of it."""

    def __init__(self, requests: int, seconds: float, names: str = "x-ratelimit-{}-requests") -> None:
        self.limit, self.seconds, self.names = requests, seconds, names
        self.left, self.ends = requests, 0.0

    def plan(self, request: Request) -> Fault | None:
        now = time.monotonic()
        if now >= self.ends:
            self.left, self.ends = self.limit, now + self.seconds
        self.left -= 1
        return faults.rate_limited(None) if self.left < 0 else None

    def headers(self, request: Request) -> Mapping[str, str]:
        reset = f"{max(0.0, self.ends - time.monotonic()) * 1000:.0f}ms"
        said = {"limit": self.limit, "remaining": max(self.left, 0), "reset": reset}
        return {self.names.format(name): str(value) for name, value in said.items()}


@pytest.mark.parametrize("provider", ["openai", "ollama"])
@pytest.mark.parametrize("stream", [False, True])
def test_nobody_is_refused_who_can_read(model_server: ModelServer, provider: str, stream: bool):
    """Ten a window, 35 prompts: four windows, and no refusal."""
    quota = Quota(10, 0.8)
    model_server.plan, model_server.headers, model_server.latency = quota.plan, quota.headers, 0.02
    url = model_server.openai_url if provider == "openai" else model_server.url
    agent = LlmAgent("a", f"{provider}::mock", base_url=url)

    async def main() -> Any:
        run = agent.map(range(35), "{}", max_at_once=4, view=None, store=None, stream=stream)
        await run
        return run

    began = time.monotonic()
    run = asyncio.run(main())
    took = time.monotonic() - began
    assert model_server.served == 35
    assert model_server.received == 35, "somebody was refused"
    assert 3 * quota.seconds <= took <= 3 * (quota.seconds + JITTER) + 3
    assert len(run.holds) == 3
    assert {why for _, _, why in run.holds} == {"no requests are left, the server said"}


def test_a_refusal_that_says_when_to_come_back_in_these_headers_only(model_server: ModelServer):
    """No Retry-After: the reset is waited for, not a back-off."""
    model_server.headers = openai(0, "700ms")
    model_server.next(faults.rate_limited(None))

    async def main() -> float:
        agent = LlmAgent("a", "openai::mock", base_url=model_server.openai_url)
        reply = await agent.send_message("Hi")
        assert reply.attempts == 2
        first, second = model_server.requests
        return second.at - first.at

    assert 0.7 <= asyncio.run(main()) <= 0.7 + JITTER + 1


def test_no_attempt_is_made_that_would_outlast_the_deadline(model_server: ModelServer):
    model_server.headers = openai(0, "60s")
    model_server.next(faults.rate_limited(None))

    async def main() -> Any:
        agent = LlmAgent("a", "openai::mock", base_url=model_server.openai_url)
        return await agent.map(["Hi"], deadline=2, view=None, store=None)

    frame = asyncio.run(main())
    assert frame["error"][0].startswith("RateLimited")
    assert model_server.received == 1


def test_headers_that_make_no_sense_hold_nobody_off(model_server: ModelServer):
    model_server.headers = openai("none", "soon") | openai(0, "nan", kind="tokens")
    agent = LlmAgent("a", "openai::mock", base_url=model_server.openai_url)

    async def main() -> list[Any]:
        run = agent.map(range(20), "{}", view=None, store=None)
        await run
        return run.holds

    assert asyncio.run(main()) == []
    assert model_server.served == 20
