"""Policy: options that make no sense are refused in a sentence; rate, timeout and attempts for any function."""

import asyncio
from collections.abc import Callable, Coroutine
from itertools import pairwise
from typing import Any

import pytest

from ceylon_nb import LlmAgent, Reply, errors
from ceylon_nb.limits import Endpoint
from ceylon_nb.meters import spacing
from ceylon_nb.policy import check_options, with_policy
from ceylon_nb.retry import attempts_made, time_left
from ceylon_nb.testing import ModelServer, faults

# ---- options ----

NAN = float("nan")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"max_at_once": 0}, "max_at_once is a whole number from 1, not 0."),
        ({"max_at_once": None}, "max_at_once is a whole number from 1, not None."),
        ({"max_at_once": 2.5}, "max_at_once is a whole number from 1, not 2.5."),
        ({"max_at_once": "8"}, "max_at_once is a whole number from 1, not '8'."),
        ({"max_at_once": True}, "max_at_once is a whole number from 1, not True."),
        ({"attempts": 0}, "attempts is a whole number from 1, not 0."),
        ({"attempts": None}, "attempts is a whole number from 1, not None."),
        ({"max_tokens": -1}, "max_tokens is a whole number from 1, not -1."),
        ({"max_tokens": 1.0}, "max_tokens is a whole number from 1, not 1.0."),
        ({"max_per_minute": 0}, "max_per_minute is a number above 0, not 0."),
        ({"max_per_minute": "60"}, "max_per_minute is a number above 0, not '60'."),
        ({"timeout": -1.0}, "timeout is a number above 0, not -1.0."),
        ({"timeout": NAN}, "timeout is a number above 0, not nan."),
        ({"timeout": False}, "timeout is a number above 0, not False."),
        ({"deadline": 0}, "deadline is a number above 0, not 0."),
        ({"temperature": -0.1}, "temperature is a number from 0, not -0.1."),
        ({"temperature": NAN}, "temperature is a number from 0, not nan."),
        ({"temperature": "hot"}, "temperature is a number from 0, not 'hot'."),
        (
            {"view": "line"},
            "view is one of auto, panel, static, terminal, None or a function of the batch, not 'line'.",
        ),
        ({"view": False}, "view is one of auto, panel, static, terminal, None or a function of the batch, not False."),
        ({"timeout": 1, "attempts": -3}, "attempts is a whole number from 1, not -3."),
    ],
)
def test_options_that_make_no_sense(options, said):
    with pytest.raises(errors.ConfigurationError) as raised:
        check_options(**options)
    assert str(raised.value) == said
    assert isinstance(raised.value, ValueError)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"max_at_once": 1, "attempts": 1, "max_tokens": 1},
        {"timeout": None, "deadline": None, "max_per_minute": None, "temperature": None, "max_tokens": None},
        {"timeout": 0.1, "deadline": 1, "max_per_minute": 0.5},
        {"temperature": 0},
        {"temperature": 0.0},
        {"view": None},
        {"view": "auto"},
        {"view": "panel"},
        {"view": "terminal"},
        {"view": print},
    ],
)
def test_options_that_do(options):
    check_options(**options)


# ---- any function ----


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


def virtually(main: Callable[[VirtualLoop], Coroutine[Any, Any, Any]]) -> Any:
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main(runner.get_loop()))


class Function:
    """A function that fails in the given ways, then returns its item."""

    def __init__(self, *failures: Exception) -> None:
        self.failures = list(failures)
        self.counted: list[int] = []

    async def __call__(self, item: Any) -> Any:
        self.counted.append(attempts_made.get())
        if self.failures:
            raise self.failures.pop(0)
        return item


def test_further_attempts():
    fn = Function(ValueError("1"), TimeoutError("2"))

    async def main(loop: VirtualLoop) -> float:
        assert await with_policy(fn, 3, None, None, Endpoint())("item") == "item"
        return loop.time()

    assert 0 < virtually(main) <= 0.5 + 1.0
    assert fn.counted == [1, 2, 3]


def test_attempts_run_out():
    fn = Function(*(ValueError(str(i)) for i in range(1, 9)))

    async def main(loop: VirtualLoop) -> None:
        with pytest.raises(ValueError, match="3"):
            await with_policy(fn, 3, None, None, Endpoint())("item")

    virtually(main)
    assert fn.counted == [1, 2, 3]


def test_no_backoff_sleeps_past_the_deadline():
    fn = Function(ValueError("said at once"))

    async def main(loop: VirtualLoop) -> float:
        time_left.set(lambda: -1.0)
        with pytest.raises(ValueError, match="said at once"):
            await with_policy(fn, 3, None, None, Endpoint())("item")
        return loop.time()

    assert virtually(main) == 0
    assert fn.counted == [1]


def test_an_agents_failure_is_not_tried_again():
    error = errors.RateLimited("no", status=429)
    error.attempts = 3
    fn = Function(error)

    async def main(loop: VirtualLoop) -> None:
        with pytest.raises(errors.RateLimited) as raised:
            await with_policy(fn, 5, None, None, Endpoint())("item")
        assert raised.value.attempts == 3

    virtually(main)
    assert fn.counted == [1]


def test_an_agent_within_a_function_and_its_server(model_server: ModelServer):
    """Two attempts of the agent, none of the function's own."""
    model_server.plan = lambda request: faults.status(503, headers={"Retry-After": "0"})
    agent = LlmAgent("a", "ollama::mock", base_url=model_server.url, attempts=2)

    async def main() -> None:
        with pytest.raises(errors.ServerError) as raised:
            await with_policy(agent.send_message, 5, None, None, Endpoint())("Hi")
        assert raised.value.attempts == 2
        model_server.plan = None
        model_server.next(faults.status(503, headers={"Retry-After": "0"}))
        reply = await with_policy(agent.send_message, 5, None, None, Endpoint())("Hi")
        assert isinstance(reply, Reply)
        assert reply.attempts == 2

    asyncio.run(main())
    assert model_server.received == 4


def test_a_timeout_for_each_attempt():
    async def slow_once(item: float) -> str:
        await asyncio.sleep(item if attempts_made.get() == 1 else 0)
        return "in time"

    async def main(loop: VirtualLoop) -> float:
        assert await with_policy(slow_once, 2, None, 5.0, Endpoint())(60.0) == "in time"
        return loop.time()

    assert 5.0 <= virtually(main) <= 5.5


def test_a_timeout_says_what_it_was():
    async def main(loop: VirtualLoop) -> float:
        with pytest.raises(TimeoutError, match=r"Not done within 5 s\."):
            await with_policy(asyncio.sleep, 1, None, 5.0, Endpoint())(60.0)
        return loop.time()

    assert virtually(main) == 5.0


def test_waiting_for_the_rate_is_not_in_the_timeout():
    """On real time, as the rate's clock is: the third call waits for longer than its timeout."""
    rate, began = 600, []

    async def fn(item: int) -> int:
        began.append(asyncio.get_running_loop().time())
        return item

    async def main() -> list[int]:
        call = with_policy(fn, 1, rate, spacing(rate) * 0.9, Endpoint())
        return await asyncio.gather(*(call(item) for item in range(4)))

    assert asyncio.run(main()) == [0, 1, 2, 3]
    assert began[3] - began[0] >= 3 * spacing(rate) - 0.01


def test_each_attempt_takes_its_turn():
    fn = Function(ValueError(), ValueError())
    began = []

    async def timed(item: Any) -> Any:
        began.append(asyncio.get_running_loop().time())
        return await fn(item)

    async def main() -> None:
        time_left.set(lambda: float("inf"))
        await with_policy(timed, 3, 300, None, Endpoint())("item")

    asyncio.run(main())
    assert all(later - sooner >= spacing(300) - 0.01 for sooner, later in pairwise(began))
    assert len(began) == 3


def test_two_functions_have_two_rates():
    async def fn(item: int) -> int:
        return item

    async def main() -> None:
        async with asyncio.timeout(1):
            await asyncio.gather(with_policy(fn, 1, 1, None, Endpoint())(1), with_policy(fn, 1, 1, None, Endpoint())(2))

    asyncio.run(main())


def test_a_call_that_is_cancelled_stays_cancelled():
    async def main(loop: VirtualLoop) -> None:
        call = asyncio.create_task(with_policy(asyncio.sleep, 5, None, 50.0, Endpoint())(60.0))
        loop.call_later(1, call.cancel)
        with pytest.raises(asyncio.CancelledError):
            await call
        assert loop.time() == 1

    virtually(main)
