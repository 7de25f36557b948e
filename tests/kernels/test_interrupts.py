"""■ while our work is awaited: everything is closed at once, every answer kept, and the kernel stays in good health."""

from __future__ import annotations

import random
import re
import time
from textwrap import dedent

import pytest

from ceylon_nb.testing import ModelServer

from .conftest import SET_UP, Start
from .gate import Gate
from .kernel import Cell, Kernel

pytestmark = pytest.mark.slice

CLOSED = 0.5
"""Seconds from the signal until the server has no open request."""

ONE_LINE = ["Interrupted before ollama::mock had answered: the request is closed."]
"""All that is shown of an interrupt of a single request."""

AWAITED = {
    "await": "await run",
    "async for": "async for answer in run: pass",
    "the body of async for": "async for answer in run: await asyncio.sleep(60)",
    "the body, over an iterator that is kept": """
        answers = aiter(run)
        async for answer in answers: await asyncio.sleep(60)""",
    "the body, in a TaskGroup": """
        async def read():
            async for answer in run: await asyncio.sleep(60)
        async with asyncio.TaskGroup() as group: group.create_task(read())""",
    "a task": "await asyncio.ensure_future(run)",
    "asyncio.timeout": """
        async with asyncio.timeout(60):
            await run""",
    "wait_for": "await asyncio.wait_for(run, 60)",
    "gather": "await asyncio.gather(run, other())",
    "TaskGroup": """
        async def wait(batch): await batch
        async with asyncio.TaskGroup() as group:
            group.create_task(wait(run))
            group.create_task(wait(other()))""",
}
"""Ways to wait for a batch; those with `other` wait for two."""

SINGLE = {
    "await": "await agent.send_message('a')",
    "gather": "await asyncio.gather(*map(agent.send_message, prompts(5)))",
    "TaskGroup": """
        async with asyncio.TaskGroup() as group:
            for prompt in prompts(5):
                group.create_task(agent.send_message(prompt))""",
    "asyncio.timeout": """
        async with asyncio.timeout(60):
            await agent.send_message('a')""",
    "wait_for": "await asyncio.wait_for(agent.send_message('a'), 60)",
    "as_completed": "async for task in as_completed(map(agent.send_message, prompts(5))): pass",
    "the body over as_completed": """
        tasks = [asyncio.create_task(agent.send_message(prompt)) for prompt in prompts(5)]
        async for task in as_completed([asyncio.create_task(asyncio.sleep(0)), *tasks]): await asyncio.sleep(60)""",
    "stream": "async for text in agent.stream('a'): pass",
    "conversation": "await agent.conversation().send('a')",
}
"""Ways to wait for single requests."""

BEGIN = """
run = agent.map(prompts(1000), max_at_once=20)
def other(): return agent.map(prompts(1000), max_at_once=20)
"""


PRESS_AGAIN = """
import os, signal
payloads = get_ipython().payload_manager
read = payloads.read_payload
def press_again():
    payloads.read_payload = read
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0.01)
    return read()
payloads.read_payload = press_again
"""
"""A press of ■ at the worst moment: the cell has ended, and the kernel is about to reply."""


def press(kernel: Kernel, server: ModelServer, cell: Cell, times: int = 1) -> float:
    """Press ■ so many times; gives the seconds from the first until the server had no open request."""
    pressed = time.monotonic()
    for again in range(times):
        if again:
            kernel.listen(random.uniform(0, 0.05))
        kernel.interrupt()
    server.wait_for(lambda seen: seen.active == 0)
    took = time.monotonic() - pressed
    cell.wait()
    return took


def begin(kernel: Kernel, code: str) -> Cell:
    """Send a cell, and wait until it has begun: ■ at a kernel that has not is lost."""
    cell = kernel.begin(f"print('begun')\n{dedent(code)}")
    kernel.until(lambda: cell.text)
    return cell


def interrupt(kernel: Kernel, server: ModelServer, code: str, requests: int = 1) -> None:
    """Run a cell, and press ■ when so many requests are open: they are closed, and the cell says so in its one line."""
    cell = begin(kernel, code)
    server.wait_for(lambda seen: seen.active == requests)
    assert press(kernel, server, cell) < CLOSED
    assert cell.traceback == ONE_LINE


def hang_after(answers: int, server: ModelServer) -> None:
    """So many answers come at once; whoever asks then waits."""
    server.latency = lambda request: 0 if request.number <= answers else 60


@pytest.mark.parametrize("times", [1, 3])
@pytest.mark.parametrize("way", AWAITED)
def test_a_batch(kernel: Kernel, server: ModelServer, way: str, times: int) -> None:
    at_once = 40 if "other" in AWAITED[way] else 20
    hang_after(100, server)
    kernel.run(BEGIN)
    cell = begin(kernel, AWAITED[way])
    server.wait_for(lambda seen: seen.served == 100 and seen.active == at_once)

    assert press(kernel, server, cell, times) < CLOSED
    finished = kernel.value("int((run.frame['status'] == 'ok').sum())")
    assert (server.aborted, server.received) == (at_once, 100 + at_once)
    assert kernel.value("run.counts") == {
        "ok": finished, "failed": 0, "cancelled": 20, "in flight": 0, "waiting": 980 - finished,
    }  # fmt: skip
    assert finished == 100 or at_once == 40
    assert cell.error[0] == "CancelledError"
    assert re.fullmatch(r"Interrupted: \d+ of 1,000 answers are in run.frame; run.resume\(\) goes on.", cell.error[1])
    assert cell.traceback == [cell.error[1]]

    server.latency = 0
    assert kernel.run("run.resume(); frame = await run").status == "ok"
    assert kernel.value("run.counts")["ok"] == 1000
    assert len({request.prompt for request in server.requests if request.outcome == "served"}) == 1000


@pytest.mark.parametrize("times", [1, 3])
@pytest.mark.parametrize("way", SINGLE)
def test_single_requests(kernel: Kernel, server: ModelServer, way: str, times: int) -> None:
    hang_after(0, server)
    cell = begin(kernel, SINGLE[way])
    many = 5 if "prompts" in SINGLE[way] else 1
    server.wait_for(lambda seen: seen.active == many)

    assert press(kernel, server, cell, times) < CLOSED
    assert (server.aborted, server.received) == (many, many)
    assert cell.error[0] == "CancelledError"
    assert cell.error[1].startswith("Interrupted")
    assert cell.traceback == [cell.error[1]]


ASLEEP = """
pressed = asyncio.create_task(agent.send_message("pressed"))
asleep, cancels = [], []
async def sleep(messages):
    asleep.append(messages)
    if len(asleep) == 50: print("all asleep")
    try:
        await asyncio.sleep(60)
    finally:
        try:
            await asyncio.wait([pressed])
        finally:
            cancels.append(asyncio.current_task().cancelling())
agent = LlmAgent("sleeper", sleep)
"""
"""A model whose requests take until the last press to end, and count how often they were cancelled by then."""


@pytest.mark.parametrize(
    "code",
    [
        "run = agent.map(prompts(100), max_at_once=50); await run",
        "async for answer in agent.map(prompts(100), max_at_once=50): pass",
        "async for task in as_completed(map(agent.send_message, prompts(50))): pass",
    ],
)
def test_each_request_is_cancelled_once(kernel: Kernel, server: ModelServer, code: str) -> None:
    gate = Gate()
    server.next(gate.fault)
    kernel.run(ASLEEP)
    cell = kernel.begin(code)
    kernel.until(lambda: "all asleep" in cell.text)
    server.wait_for(lambda seen: seen.active == 1)
    for _ in range(3):
        kernel.interrupt()
        kernel.listen(0.1)
    assert not cell.ended
    gate.open()
    assert cell.wait().error[0] == "CancelledError"
    kernel.until(lambda: kernel.value("len(cancels)") == 50)
    assert kernel.value("[len(asleep), cancels]") == [50, [1] * 50]


@pytest.mark.parametrize("waiting", ["asyncio.timeout", "wait_for"])
@pytest.mark.parametrize("what", ["run", "agent.send_message('a')"])
def test_a_timeout_stays_a_timeout(kernel: Kernel, server: ModelServer, waiting: str, what: str) -> None:
    hang_after(0, server)
    kernel.run(BEGIN)
    block = {
        "asyncio.timeout": f"async with asyncio.timeout(0.3): await {what}",
        "wait_for": f"await asyncio.wait_for({what}, 0.3)",
    }
    assert kernel.run(block[waiting]).error[0] == "TimeoutError"
    kernel.run("run.cancel()")


@pytest.mark.parametrize(
    "code",
    [
        "async for text in agent.stream('a'): print(text, end='')",
        "async for text in agent.stream('a'): print(text); await asyncio.sleep(60)",
        "stream = agent.stream('a')\nasync for text in stream: print(text); await asyncio.sleep(60)",
    ],
    ids=["in the stream", "in the body", "in the body, the stream is kept"],
)
def test_in_the_middle_of_a_stream(kernel: Kernel, server: ModelServer, code: str) -> None:
    server.reply, server.token_interval = "word " * 1000, 0.01
    cell = kernel.begin(code)
    kernel.until(lambda: "word" in cell.text)
    assert press(kernel, server, cell) < CLOSED
    assert (server.aborted, server.received) == (1, 1)
    assert cell.traceback == ONE_LINE


UNRELATED = {
    "a time limit earlier in the cell": """
        try: await asyncio.wait_for(agent.send_message('a'), 0.1)
        except TimeoutError: pass""",
    "a time limit in the background": """
        async def poll():
            while True:
                try: await asyncio.wait_for(agent.send_message('a'), 0.1)
                except TimeoutError: pass
        polling = asyncio.create_task(poll())""",
}


@pytest.mark.parametrize("what", UNRELATED)
def test_what_was_cancelled_before_explains_no_interrupt(kernel: Kernel, server: ModelServer, what: str) -> None:
    hang_after(0, server)
    kernel.run(BEGIN)
    cell = begin(kernel, f"polling = None\n{dedent(UNRELATED[what])}\nprint('sleeps'); await asyncio.sleep(60)")
    kernel.until(lambda: "sleeps" in cell.text)
    server.wait_for(lambda seen: seen.aborted)
    kernel.interrupt()
    assert "await asyncio.sleep(60)" in "\n".join(cell.wait(CLOSED + 1).traceback)
    kernel.run("run.cancel(); polling and polling.cancel()")


def test_a_cell_that_goes_on_can_be_interrupted_again(kernel: Kernel, server: ModelServer) -> None:
    hang_after(0, server)
    cell = begin(
        kernel,
        """
        for prompt in prompts(2):
            try: await agent.send_message(prompt)
            except asyncio.CancelledError: print('goes on')
        await agent.send_message('last')""",
    )
    for asked in (1, 2, 3):
        server.wait_for(lambda seen: seen.received == asked)  # noqa: B023 - waited for here
        kernel.interrupt()
        server.wait_for(lambda seen: seen.active == 0 or seen.received > asked)  # noqa: B023
        kernel.listen(1.1)  # a person looks, and presses again
    assert cell.wait().traceback == ONE_LINE
    assert cell.text.count("goes on") == 2


def test_a_script_pasted_whole_into_the_first_cell(start: Start, server: ModelServer) -> None:
    """The cell that first uses the library has begun without it; here ■ is pressed again while the kernel replies."""
    hang_after(0, server)
    kernel = start(OLLAMA_HOST=server.url)
    script = f"""{SET_UP}{PRESS_AGAIN}
async with asyncio.TaskGroup() as group:
    group.create_task(agent.send_message('a'))"""
    interrupt(kernel, server, script)
    assert kernel.run("1").result == "1"


def test_with_a_handler_of_the_users_own(start: Start, server: ModelServer) -> None:
    hang_after(0, server)
    kernel = start(OLLAMA_HOST=server.url)
    kernel.run(SET_UP)
    kernel.run("get_ipython().set_custom_exc((KeyError,), lambda shell, *what, tb_offset=None: print('mine'))")
    assert kernel.run("raise KeyError").text == "mine\n"
    interrupt(kernel, server, SINGLE["TaskGroup"], requests=5)
    assert kernel.run("raise KeyError").text == "mine\n"


def test_watching_is_interrupted_and_the_batch_goes_on(kernel: Kernel, server: ModelServer) -> None:
    hang_after(100, server)
    kernel.run(BEGIN)
    cell = begin(kernel, "async for answer in run.answers(): pass")
    server.wait_for(lambda seen: seen.served == 100 and seen.active == 20)
    kernel.interrupt()
    assert cell.wait(CLOSED + 1).traceback == [
        "Interrupted: the batch itself goes on; 100 of 1,000 answers are in run.frame."
    ]
    assert (server.active, server.aborted) == (20, 0)
    kernel.run("run.cancel()")


def test_what_is_not_ours_is_shown_as_ever(kernel: Kernel, server: ModelServer) -> None:
    hang_after(0, server)
    kernel.run(BEGIN)
    cell = begin(kernel, "await asyncio.sleep(60)")
    server.wait_for(lambda seen: seen.active == 20)
    kernel.interrupt()
    assert "await asyncio.sleep(60)" in "\n".join(cell.wait(CLOSED + 1).traceback)
    assert (server.active, server.aborted) == (20, 0)
    kernel.run("run.cancel()")


@pytest.mark.parametrize("code", ["await agent.send_message('a')", "agent.send_message_sync('a')"])
def test_pressed_again_while_the_kernel_replies(kernel: Kernel, server: ModelServer, code: str) -> None:
    hang_after(0, server)
    interrupt(kernel, server, f"{PRESS_AGAIN}\n{code}")


@pytest.mark.parametrize("rounds", [15, pytest.param(200, marks=[pytest.mark.soak, pytest.mark.timeout(600)])])
def test_at_random_moments(kernel: Kernel, server: ModelServer, rounds: int) -> None:
    """One batch, stopped and resumed again and again, ■ pressed once to three times: in the end every row is there."""
    server.latency = lambda request: random.uniform(0, 0.01)
    kernel.run(f"run = agent.map(prompts({150 * rounds}), max_at_once=20); run.pause()")
    interrupted = 0
    for code in random.choices(
        ["await run", "async for answer in run: pass", "await asyncio.wait_for(run, 60)"], k=rounds
    ):
        cell = begin(kernel, f"run.resume()\n{code}")
        kernel.listen(random.uniform(0, 0.1))
        assert press(kernel, server, cell, random.randint(1, 3)) < CLOSED
        if cell.status == "error":
            interrupted += 1
            assert cell.traceback == [cell.error[1]]
            assert "run.resume() goes on" in cell.error[1]
        kernel.listen(0.1)  # ■ at an idle kernel
        assert kernel.run("1").status == "ok"
    assert interrupted
    assert kernel.run("run.resume(); frame = await run").status == "ok"
    assert kernel.value("[run.counts['ok'], int(frame['reply'].isna().sum())]") == [150 * rounds, 0]
    assert server.received == server.served + server.aborted
    assert len({request.prompt for request in server.requests if request.outcome == "served"}) == 150 * rounds
