"""Retry: what is worth another try, how long is waited, and how many attempts were made."""

import asyncio
import random
import socket
import ssl
from collections.abc import Callable
from typing import Any

import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st

from ceylon_nb import LlmAgent, Reply, errors
from ceylon_nb.retry import CAP, RETRY_STATUS, any_fault, attempts_made, backoff, retrying, worth_another_try
from ceylon_nb.testing import Fault, ModelServer, faults

# ---- what is worth another try ----


def test_statuses():
    worth = {status for status in range(300, 600) if worth_another_try(errors.StatusError("no", status=status))}
    assert worth == {408, 429, 500, 502, 503, 504, 529}
    assert not worth_another_try(errors.ServerError("reported inside an answer"))


def test_faults_of_the_connection_are_worth_it_and_no_others():
    def kinds(root: type[BaseException]) -> set[type[BaseException]]:
        return {root}.union(*(kinds(kind) for kind in root.__subclasses__()))

    worth = {kind for kind in kinds(errors.CeylonError) if worth_another_try(kind("no"))}
    assert worth == {errors.ConnectionFailed, errors.ConnectionTimeout, errors.ConnectionLost}
    others = (ValueError("x"), TimeoutError(), ConnectionError(), asyncio.CancelledError(), KeyboardInterrupt())
    assert not any(worth_another_try(error) for error in others)


def test_of_a_function_any_fault_is_worth_it_but_not_what_an_agent_has_tried_already():
    assert any_fault(ValueError("x"))
    assert any_fault(TimeoutError())
    assert any_fault(ConnectionError())
    assert not any_fault(errors.ConnectionFailed("x"))
    assert not any_fault(errors.RateLimited("x", status=429))
    assert not any_fault(errors.InvalidItem("x"))


# ---- how long ----


@given(st.integers(1, 10**6))
def test_backoff_stays_within_its_bounds(attempt):
    assert 0 <= backoff(attempt) <= min(CAP, 0.5 * 2 ** min(attempt - 1, 100))


@pytest.mark.parametrize(("attempt", "bound"), [(1, 0.5), (2, 1.0), (3, 2.0), (7, 30.0), (50, 30.0)])
def test_backoff_doubles_with_full_jitter(attempt, bound):
    state = random.getstate()
    random.seed(attempt)
    waits = sorted(backoff(attempt) for _ in range(2000))
    random.setstate(state)
    for share in (0.01, 0.25, 0.5, 0.75, 0.99):
        assert waits[int(share * 2000)] == pytest.approx(share * bound, abs=0.05 * bound)


# ---- the loop of attempts ----


class Calls:
    """A call that fails in the given ways, then succeeds; and what was seen of it."""

    def __init__(self, *outcomes: Any) -> None:
        self.outcomes = list(outcomes)
        self.counted: list[int] = []
        self.delayed: list[int] = []

    async def __call__(self) -> Any:
        self.counted.append(attempts_made.get())
        outcome = self.outcomes.pop(0)
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    def delay(self, error: Exception, made: int) -> float | None:
        self.delayed.append(made)
        return 0.0

    def run(
        self,
        attempts: int = 3,
        delay: Callable[[Exception, int], float | None] | None = None,
        worth: Any = any_fault,
    ) -> Any:
        return asyncio.run(retrying(self, attempts=attempts, worth=worth, delay=delay or self.delay))


def test_it_calls_until_it_succeeds():
    calls = Calls(ValueError(1), ValueError(2), "yes", "never asked")
    assert calls.run(attempts=5) == "yes"
    assert calls.counted == [1, 2, 3]
    assert calls.delayed == [1, 2]


def test_the_last_error_is_raised_when_the_attempts_are_used_up():
    calls = Calls(ValueError("first"), ValueError("second"), "never asked")
    with pytest.raises(ValueError, match="second") as raised:
        calls.run(attempts=2)
    assert calls.delayed == [1]
    assert raised.value.__context__ is None


def test_what_is_not_worth_it_is_raised_at_once():
    calls = Calls(errors.NotFound("no", status=404), "never asked")
    with pytest.raises(errors.NotFound) as raised:
        calls.run(worth=worth_another_try)
    assert (calls.counted, calls.delayed, raised.value.attempts) == ([1], [], 1)


def test_a_delay_that_would_outlast_the_deadline_ends_it():
    def delay(error: Exception, made: int) -> float | None:
        return 0.0 if made < 2 else None

    calls = Calls(ValueError("first"), ValueError("second"), "never asked")
    with pytest.raises(ValueError, match="second"):
        calls.run(delay=delay)
    assert calls.counted == [1, 2]


def test_errors_and_replies_know_the_attempts():
    reply = Calls(ValueError(), ValueError(), Reply("yes")).run()
    assert reply.attempts == 3
    with pytest.raises(errors.RequestError) as raised:
        Calls(ValueError(), errors.RequestError("no")).run()
    assert raised.value.attempts == 2


def test_the_attempts_of_an_agent_within_are_not_forgotten():
    error, reply = errors.RequestError("no"), Reply("yes", attempts=3)
    error.attempts = 3
    with pytest.raises(errors.RequestError) as raised:
        Calls(error).run()
    assert raised.value.attempts == 3
    assert Calls(reply).run().attempts == 3


@pytest.mark.parametrize("end", [asyncio.CancelledError(), KeyboardInterrupt(), SystemExit()])
def test_an_interrupt_is_no_failure(end):
    calls = Calls(end, "never asked")

    async def main() -> None:
        with pytest.raises(type(end)):
            await retrying(calls, attempts=3, worth=lambda _: True, delay=calls.delay)

    asyncio.run(main())
    assert (calls.counted, calls.delayed) == ([1], [])


# ---- an agent and a server ----


def ask(server: ModelServer, **options: Any) -> Reply:
    agent = LlmAgent("a", "ollama::mock", base_url=server.url, **options)
    return asyncio.run(agent.send_message("Name one city"))


@pytest.mark.parametrize("status", sorted(RETRY_STATUS))
def test_a_passing_status_is_asked_again(model_server: ModelServer, status: int):
    model_server.next(faults.status(status))
    assert ask(model_server).attempts == 2
    assert [each.attempt for each in model_server.requests] == [1, 2]


@pytest.mark.parametrize("fault", [faults.reset(), faults.cut()], ids=str)
def test_a_fault_of_the_connection_is_asked_again(model_server: ModelServer, fault: Fault):
    model_server.next(fault)
    assert ask(model_server).attempts == 2
    assert model_server.received == 2


def test_retry_after_is_waited_for(model_server: ModelServer):
    model_server.next(faults.status(503, headers={"Retry-After": "0.7"}))
    assert ask(model_server).attempts == 2
    first, second = model_server.requests
    assert first.ended is not None
    assert second.at - first.ended >= 0.7


@pytest.mark.parametrize("status", [400, 403, 413, 422, 501, 505])
def test_any_other_status_is_final(model_server: ModelServer, status: int):
    model_server.next(faults.status(status))
    with pytest.raises(errors.StatusError) as raised:
        ask(model_server)
    assert (raised.value.status, raised.value.attempts, model_server.received) == (status, 1, 1)


def test_a_missing_model_is_final(model_server: ModelServer):
    agent = LlmAgent("a", "ollama::not-here", base_url=model_server.url)
    with pytest.raises(errors.ModelNotFound) as raised:
        asyncio.run(agent.send_message("Hi"))
    assert (raised.value.attempts, model_server.received) == (1, 1)


@pytest.mark.model_server(api_key="right")
def test_a_wrong_key_is_final(model_server: ModelServer):
    with pytest.raises(errors.AuthenticationFailed) as raised:
        ask(model_server, api_key="wrong")
    assert (raised.value.attempts, model_server.received) == (1, 1)


def test_a_server_too_slow_is_not_asked_again(model_server: ModelServer):
    model_server.next(faults.hang())
    with pytest.raises(errors.RequestTimeout) as raised:
        ask(model_server, timeout=0.1)
    assert (raised.value.attempts, model_server.received) == (1, 1)


def test_failed_tls_is_final():
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    with ModelServer(ssl_context=context) as server, pytest.raises(errors.TLSFailed) as raised:
        ask(server)
    assert raised.value.attempts == 1
    assert server.received == 0


def test_all_attempts_fail(model_server: ModelServer):
    model_server.plan = lambda request: faults.status(500)
    with pytest.raises(errors.ServerError) as raised:
        ask(model_server, attempts=2)
    assert (raised.value.attempts, model_server.received) == (2, 2)


def test_nobody_there():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    agent = LlmAgent("a", "ollama::mock", base_url=f"http://127.0.0.1:{port}", attempts=2)
    with pytest.raises(errors.ConnectionFailed) as raised:
        asyncio.run(agent.send_message("Hi"))
    assert raised.value.attempts == 2


def test_a_server_that_comes_back(model_server: ModelServer):
    model_server.stop()

    async def main() -> Reply:
        agent = LlmAgent("a", "ollama::mock", base_url=model_server.url, attempts=9)
        asking = asyncio.create_task(agent.send_message("Name one city"))
        done, _ = await asyncio.wait([asking], timeout=0.1)
        assert not done
        model_server.start()
        return await asking

    assert asyncio.run(main()).attempts >= 2
    assert model_server.received == 1


# ---- a batch and its deadline ----


def test_no_backoff_sleeps_past_the_deadline(model_server: ModelServer):
    """With a minute to wait and ten seconds left, the row fails at once and says why."""
    model_server.plan = lambda request: faults.rate_limited(retry_after=60)
    agent = LlmAgent("a", "ollama::mock", base_url=model_server.url)

    async def main() -> Any:
        run = agent.map(["Hi"], deadline=10, view=None)
        return run, await run

    run, frame = asyncio.run(main())
    assert frame["error"][0].startswith("RateLimited")
    assert frame["attempts"][0] == 1
    assert run.elapsed < 5


def test_rows_know_their_attempts(model_server: ModelServer):
    answers = {"bad": [503, 503, 503], "again": [503], "good": []}
    model_server.plan = lambda request: (
        faults.status(answers[request.prompt][request.attempt - 1])
        if len(answers[request.prompt]) >= request.attempt
        else None
    )
    agent = LlmAgent("a", "ollama::mock", base_url=model_server.url)

    async def main() -> Any:
        return await agent.map(list(answers), view=None)

    frame = asyncio.run(main())
    assert list(frame["attempts"]) == [3, 2, 1]
    assert list(frame["status"]) == ["failed", "ok", "ok"]
