"""A cell that keeps the loop busy: what comes in meanwhile is neither timed out nor asked for again."""

from __future__ import annotations

from itertools import pairwise

import pytest
from aiohttp import web

from ceylon_nb.meters import LAPSE, spacing
from ceylon_nb.testing import ModelServer, faults
from ceylon_nb.testing.exchange import Exchange
from ceylon_nb.testing.faults import Fault

from .conftest import Start
from .gate import Gate
from .kernel import Cell, Kernel

SECONDS = 2.0
"""How long a cell is busy; longer than any time limit here."""


def keep_busy(kernel: Kernel, seconds: float) -> Cell:
    """A cell that blocks the loop; returns once it does."""
    cell = kernel.begin(f"print('now')\ntime.sleep({seconds})")
    kernel.until(lambda: cell.text)
    return cell


def all_answered_once(kernel: Kernel, server: ModelServer, rows: int) -> None:
    assert kernel.run("frame = await run").status == "ok"
    assert kernel.value("[run.state, run.counts['ok'], int(frame['attempts'].max())]") == ["done", rows, 1]
    assert (server.received, server.served, server.aborted) == (rows, rows, 0)


@pytest.mark.parametrize(
    ("limit", "seconds"),
    [("timeout", SECONDS), ("deadline", SECONDS), pytest.param("timeout", 20.0, marks=pytest.mark.kernels)],
)
def test_answers_that_come_meanwhile(kernel: Kernel, server: ModelServer, limit: str, seconds: float) -> None:
    """And those that come soon after: the time that the cell took is not theirs."""
    meanwhile, after = Gate(), Gate()
    server.plan = lambda request: (meanwhile if request.number <= 50 else after).fault
    kernel.run(f"run = agent.map(prompts(150), max_at_once=100, {limit}={seconds / 2})")
    server.wait_for(lambda seen: seen.active == 100)
    cell = keep_busy(kernel, seconds)
    meanwhile.open()
    server.wait_for(lambda seen: seen.served == 50)
    assert not cell.ended
    cell.wait()
    after.open()
    all_answered_once(kernel, server, 150)


def test_a_block_that_ends_when_the_time_is_just_over(kernel: Kernel, server: ModelServer) -> None:
    gate = Gate()
    server.plan = lambda request: gate.fault
    kernel.run("began = time.monotonic(); run = agent.map(prompts(100), max_at_once=100, timeout=1)")
    server.wait_for(lambda seen: seen.active == 100)
    cell = kernel.begin("print('now'); time.sleep(began + 1.1 - time.monotonic())")
    kernel.until(lambda: cell.text)
    gate.open()
    cell.wait()
    all_answered_once(kernel, server, 100)


def test_further_attempts_after_the_block(kernel: Kernel, server: ModelServer) -> None:
    """The deadline that moved is the one that further attempts go by."""
    gate = Gate()

    async def refuse(exchange: Exchange) -> web.StreamResponse:
        await gate.passed()
        return await faults.status(503).play(exchange)

    server.plan = lambda request: Fault("gate, 503", refuse, at_once=False) if request.attempt == 1 else None
    kernel.run("run = agent.map(prompts(20), max_at_once=20, deadline=1)")
    server.wait_for(lambda seen: seen.active == 20)
    cell = keep_busy(kernel, 2.5)
    gate.open()
    server.wait_for(lambda seen: seen.faulted == 20)
    assert not cell.ended
    cell.wait()
    kernel.run("frame = await run")
    assert kernel.value("[run.state, run.counts['ok'], int(frame['attempts'].max())]") == ["done", 20, 2]


@pytest.mark.parametrize("steps", [1, 4, 9])
def test_while_connections_are_opened(kernel: Kernel, server: ModelServer, steps: int) -> None:
    """A block at whatever step of it, longer than connecting may take, and than an answer may."""
    by_name = server.url.replace("127.0.0.1", "localhost")  # so that it takes several steps
    kernel.run("import ceylon_nb.http; patience, ceylon_nb.http.CONNECT_TIMEOUT = ceylon_nb.http.CONNECT_TIMEOUT, 0.3")
    kernel.run("await ceylon_nb.http.close_idle()")
    kernel.run(f"""
        run = agent.map(prompts(100), max_at_once=100, timeout=0.3, base_url={by_name!r})
        for _ in range({steps}): await asyncio.sleep(0)
        time.sleep(0.8)""")
    all_answered_once(kernel, server, 100)
    kernel.run("ceylon_nb.http.CONNECT_TIMEOUT = patience")


STREAM = """
import ceylon_nb.http
patience, ceylon_nb.http.SILENCE = ceylon_nb.http.SILENCE, {silence}
teller = LlmAgent("teller", "openai::mock", base_url={url!r}, api_key="k", timeout={timeout})
heard = []
async def listen():
    async for text in teller.stream("a story"):
        heard.append(text)
told = asyncio.ensure_future(listen())
"""


@pytest.mark.parametrize(("silence", "timeout"), [(1, 600), (120, 1)])
def test_a_stream_that_is_being_read(kernel: Kernel, server: ModelServer, silence: float, timeout: float) -> None:
    """Its next piece comes during the block; its last one after it, within what is then left of the time."""
    gates = [Gate(), Gate()]

    async def tell(exchange: Exchange) -> web.StreamResponse:
        answer = exchange.compose()
        first, second, third = (exchange.wire.chunk(answer, text) for text in ("once ", "upon ", "a time"))
        response = await exchange.open_stream()
        await exchange.write(response, [first])
        for gate, piece in zip(gates, (second, third), strict=True):
            await gate.passed()
            await exchange.write(response, [piece])
        return await exchange.finish(response, exchange.wire.ending(answer))

    server.plan = lambda request: Fault("gates", tell, at_once=False, harmless=True)
    kernel.run(STREAM.format(url=server.openai_url, silence=silence, timeout=timeout))
    kernel.until(lambda: kernel.value("heard") == ["once "])
    cell = keep_busy(kernel, SECONDS)
    gates[0].open()
    cell.wait()
    kernel.until(lambda: kernel.value("len(heard) == 2 or told.done()"))
    gates[1].open()
    told = kernel.run("ceylon_nb.http.SILENCE = patience\nawait told")
    assert told.outputs == []
    assert kernel.value("heard") == ["once ", "upon ", "a time"]
    assert (server.received, server.aborted) == (1, 0)


def test_no_burst_beyond_the_rate(kernel: Kernel, server: ModelServer) -> None:
    rate = 1200
    kernel.run(f"run = agent.map(prompts(40), max_at_once=40, max_per_minute={rate})")
    server.wait_for(lambda seen: seen.served == 3)
    keep_busy(kernel, 1).wait()
    all_answered_once(kernel, server, 40)
    at = [request.at for request in server.requests]
    slack = LAPSE + 0.1  # a slot is good for so long; and what a slow machine takes from there to the server
    for i in range(40):
        for j in range(i + 1, 40):
            assert (j - i - 1) * spacing(rate) <= at[j] - at[i] + slack, (
                f"{j - i + 1} requests in {at[j] - at[i]:.3f} s"
            )
    assert max(later - sooner for sooner, later in pairwise(at)) > 0.9, "nothing was blocked"


def test_the_view_catches_up(start: Start, server: ModelServer) -> None:
    gate = Gate()
    server.plan = lambda request: gate.fault
    kernel = start(OLLAMA_HOST=server.url, JPY_SESSION_NAME="x.ipynb")
    kernel.run("import time; from ceylon_nb import LlmAgent")
    first = kernel.run("run = LlmAgent('clerk', 'ollama::mock').map(['a'] * 100, max_at_once=100, name='Ask')")
    server.wait_for(lambda seen: seen.active == 100)
    cell = keep_busy(kernel, 1)
    gate.open()
    cell.wait()

    def catches_up() -> bool:
        shown = [content["data"]["text/plain"] for _, content in first.outputs + cell.outputs if "data" in content]
        return "Batch(100 ok of 100)" in shown

    kernel.until(catches_up, timeout=2)  # while the kernel is idle
