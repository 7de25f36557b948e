"""The trace: each request of a batch is told once, by whom it was made, when, and how it ended."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from itertools import pairwise

import pytest

from ceylon_nb import LlmAgent, batch
from ceylon_nb.handle import Batch
from ceylon_nb.testing import ModelServer, faults
from ceylon_nb.testing.witness import Request
from ceylon_nb.trace import KINDS, MOST, Flight, Trace


def spans(run: Batch) -> list[tuple[int, int, float, float, str]]:
    """Position, lane, begin, end and kind of each request."""
    found = run.trace.spans()
    kinds = [KINDS[kind] for kind in found.kind]
    return list(zip(found.position, found.lane, found.began, found.ended, kinds, strict=True))


def test_one_span_for_each_request_and_no_two_of_a_lane_overlap() -> None:
    async def main() -> Batch:
        async def work(item: int) -> int:
            await asyncio.sleep(0.001 * (item % 5))
            return 1 // (item % 10)

        run = batch(work, range(300), max_at_once=7, view=None)
        await asyncio.sleep(0.02)
        run.max_at_once = 3
        await asyncio.sleep(0.02)
        run.max_at_once = 12
        await run
        return run

    run = asyncio.run(main())
    found = spans(run)
    assert sorted(position for position, *_ in found) == list(range(300))
    assert Counter(kind for *_, kind in found) == {"ok": 270, "failed": 30}
    lanes = defaultdict(list)
    for _, lane, began, ended, _ in found:
        assert 0 <= began <= ended <= run.elapsed + 0.1
        lanes[lane].append((began, ended))
    assert set(lanes) == set(range(12))
    for each in lanes.values():
        each.sort()
        assert all(a[1] <= b[0] + 1e-6 for a, b in pairwise(each))


def test_attempts_that_failed_are_told_apart(model_server: ModelServer) -> None:
    async def main() -> Batch:
        model_server.reply = "noted"
        model_server.next(faults.status(503), faults.rate_limited(retry_after=0.2), None, faults.status(400))
        agent = LlmAgent("clerk", "ollama::mock", base_url=model_server.url)
        run = agent.map(["a", "b", ""], max_at_once=1, store=None, view=None)
        await run
        return run

    run = asyncio.run(main())
    assert [(position, kind) for position, _, _, _, kind in spans(run)] == [
        (0, "retried"), (0, "limited"), (0, "ok"), (1, "failed"),
    ]  # fmt: skip
    assert [said for _, _, said in run.trace.attempts(0)] == ["ServerError 503", "RateLimited 429", "ok"]
    assert [said for _, _, said in run.trace.attempts(1)] == ["BadRequest 400"]
    assert run.trace.attempts(2) == []  # it was never sent
    [(began, until, why)] = run.holds
    limited_at = next(ended for *_, ended, kind in spans(run) if kind == "limited")
    assert began == pytest.approx(limited_at, abs=0.05)
    assert 0.2 <= until - began <= 0.35
    assert why == "the server said 429"
    answered_from = next(began for _, _, began, _, kind in spans(run) if kind == "ok")
    assert answered_from >= until - 0.01  # waiting is no part of a request


def test_the_summary_counts_each_further_request_also_after_a_cancel(model_server: ModelServer) -> None:
    def plan(request: Request) -> faults.Fault | None:
        if request.prompt == "b" and request.attempt < 3:
            return faults.status(503) if request.attempt == 1 else faults.hang()
        return faults.status(500) if request.prompt == "c" else None

    async def main() -> None:
        model_server.plan = plan
        agent = LlmAgent("clerk", "ollama::mock", base_url=model_server.url)
        run = agent.map(["a", "b", "c"], max_at_once=3, store=None, view=None)
        await model_server.until(lambda seen: seen.received == 6 and seen.active == 1)
        while run.counts["failed"] == 0:
            await asyncio.sleep(0.01)
        run.cancel()
        await run
        run.resume()
        await run
        assert model_server.received == 7
        assert "4 requests were second or later attempts" in run.summary()
        run.retry_failed()
        await run
        assert model_server.received == 10
        assert "7 requests were second or later attempts" in run.summary()

    asyncio.run(main())


def test_what_the_server_does_to_others_later_is_no_part_of_a_batch_that_has_ended(model_server: ModelServer) -> None:
    model_server.latency = lambda request: 0.02

    async def main() -> None:
        agent = LlmAgent("clerk", "ollama::mock", base_url=model_server.url)
        run = agent.map(["a", "b"], store=None, view=None)
        await run
        model_server.plan = lambda request: faults.rate_limited(0.1) if request.number % 10 == 0 else None
        later = agent.map([f"row {number}" for number in range(60)], store=None, view=None)
        await later
        assert len(later.holds) > 1
        assert later.found
        assert (run.holds, run.found) == ([], "")
        assert later.found in later.summary()

        later.retry_failed()  # nothing failed: it has ended as before
        run.retry_failed()
        assert (run.holds, run.found) == ([], "")

    asyncio.run(main())


def test_what_is_cancelled_is_told_and_what_comes_from_the_store_is_not(tmp_path) -> None:
    async def main() -> tuple[Batch, Batch]:
        store = tmp_path / "answers.sqlite"
        await LlmAgent("clerk", "demo::instant").map(["a", "b"], store=store, view=None)
        again = LlmAgent("clerk", "demo::instant").map(["a", "b", "c"], store=store, view=None)
        await again
        run = batch(lambda _: asyncio.sleep(60), range(5), max_at_once=2, view=None)
        await asyncio.sleep(0.05)
        run.cancel()
        await run
        return again, run

    again, run = asyncio.run(main())
    assert [position for position, *_ in spans(again)] == [2]
    assert {(position, kind) for position, *_, kind in spans(run)} == {(0, "cancelled"), (1, "cancelled")}


def test_tries_of_a_function_and_of_an_agent_within_it(model_server: ModelServer) -> None:
    async def main() -> tuple[Batch, Batch]:
        tries = Counter[int]()

        async def shaky(item: int) -> int:
            tries[item] += 1
            if tries[item] == 1:
                raise OSError("once")
            return item

        model_server.next(faults.status(500))
        agent = LlmAgent("clerk", "ollama::mock", base_url=model_server.url)
        first, second = batch(shaky, range(2), attempts=2, view=None), batch(agent.send_message, ["a"], view=None)
        await first
        await second
        return first, second

    first, second = asyncio.run(main())
    assert Counter(kind for *_, kind in spans(first)) == {"retried": 2, "ok": 2}
    assert [kind for *_, kind in spans(second)] == ["retried", "ok"]


def test_it_does_not_grow_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    assert MOST * 23 <= 5_000_000
    monkeypatch.setattr("ceylon_nb.trace.MOST", 100)

    async def main() -> Batch:
        async def work(item: int) -> int:
            return item

        run = batch(work, range(250), view=None)
        await run
        return run

    run = asyncio.run(main())
    assert (len(run.trace), run.trace.dropped) == (100, 150)
    assert run.trace.dropped_kinds == [150, 0, 0, 0, 0]


@pytest.mark.parametrize("length", [1, 3, 7, 100])
def test_the_end_of_what_was_said(length: int) -> None:
    flight = Flight(Trace(), 0)
    assert flight.tail(length) == ""
    said = ""
    for piece in ["", "one", " ", "two three", "", "ä"]:
        flight.heard(piece)
        said += piece
        assert flight.tail(length) == said[-length:]
