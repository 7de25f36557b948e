"""Sync calls where a loop runs already: in cells, in threads, beside a batch that has every slot of its own in use."""

from __future__ import annotations

import time
from textwrap import dedent

import pytest

from ceylon_nb.testing import ModelServer, faults

from .gate import Gate
from .kernel import Cell, Kernel

CLOSED = 0.5
"""Seconds from the signal until the server has no open request of the call, and the cell has ended."""

ASKED = {
    "a sync cell": "print(agent.send_message_sync('ask'))",
    "an async cell": "await asyncio.sleep(0); print(agent.send_message_sync('ask'))",
    "a loop": "for _ in range(5): print(agent.send_message_sync('ask'))",
    "a conversation": """
        chat = agent.conversation()
        print(chat.send_sync('ask'))
        assert len(chat.messages) == 2""",
    "a thread": """
        import threading
        thread = threading.Thread(target=lambda: print(agent.send_message_sync('ask')))
        thread.start(); thread.join()""",
    "a thread that the cell awaits": "print(await asyncio.to_thread(agent.send_message_sync, 'ask'))",
    "an async function that a batch calls": """
        async def ask(item): return agent.send_message_sync('ask')
        print(*(await batch(ask, range(5)))['reply'].unique())""",
}
"""Sync calls that end by themselves, and print the reply."""

WAITING = {
    "a sync cell": "print('now'); agent.send_message_sync('ask')",
    "an async cell": "print('now'); await asyncio.sleep(0); agent.send_message_sync('ask')",
    "a conversation": "print('now'); agent.conversation().send_sync('ask')",
}
"""Sync calls to be interrupted."""


def begin_batch(kernel: Kernel, server: ModelServer, others: faults.Fault | None = None) -> Gate:
    """A batch of which 10 rows wait at a gate, as many as it may have in flight; `others` is what others are told."""
    gate = Gate()
    server.plan = lambda request: gate.fault if request.prompt.startswith("row") else others
    kernel.run("run = agent.map(prompts(30), max_at_once=10)")
    server.wait_for(lambda seen: seen.active == 10)
    return gate


def finish_batch(kernel: Kernel, gate: Gate) -> None:
    """Let the batch end; nothing had been done to it."""
    assert kernel.value("[run.state, run.counts['in flight']]") == ["running", 10]
    gate.open()
    assert kernel.run("frame = await run").status == "ok"
    assert kernel.value("[run.counts['ok'], int(frame['attempts'].max())]") == [30, 1]


def press(kernel: Kernel, cell: Cell, times: int = 1) -> float:
    """Press ■ so many times; gives the seconds from the first until the cell had ended."""
    pressed = time.monotonic()
    for again in range(times):
        if again:
            kernel.listen(0.02)
        kernel.interrupt()
    cell.wait()
    return time.monotonic() - pressed


@pytest.mark.slice
@pytest.mark.parametrize("where", ASKED)
def test_beside_a_batch_whose_slots_are_all_in_use(kernel: Kernel, server: ModelServer, where: str) -> None:
    gate = begin_batch(kernel, server)
    cell = kernel.run(dedent(ASKED[where]))
    assert (cell.status, set(cell.text.splitlines())) == ("ok", {ask(kernel)})
    finish_batch(kernel, gate)
    assert server.aborted == 0


def ask(kernel: Kernel) -> str:
    """The reply to the same question, awaited."""
    reply: str = kernel.value("str(await agent.send_message('ask'))")
    return reply


COOL_DOWN = 1.0
"""Seconds; to them comes a jitter of 0.1 s at most."""


def cool_down(kernel: Kernel, server: ModelServer, gate: Gate) -> float:
    """Have the row of a batch that has no second attempt told to come back later; gives the moment in which it was."""
    server.next(faults.rate_limited(COOL_DOWN))
    server.plan = lambda request: gate.fault if request.prompt.startswith("row") else None
    kernel.run("run = agent.map(prompts(3), max_at_once=3, attempts=1)")
    server.wait_for(lambda seen: seen.faulted == 1 and seen.active == 2)
    [told] = [request.ended for request in server.requests if request.outcome == "faulted"]
    assert told is not None
    kernel.until(lambda: kernel.value("run.counts['failed']"))
    return told


def test_a_cool_down_is_waited_for_and_no_longer(kernel: Kernel, server: ModelServer) -> None:
    gate = Gate()
    told = cool_down(kernel, server, gate)
    assert kernel.run("reply = agent.send_message_sync('ask')").status == "ok"
    [asked] = [request.at for request in server.requests if request.prompt == "ask"]
    assert COOL_DOWN <= asked - told < COOL_DOWN + 0.5
    gate.open()
    assert kernel.run("await run;").status == "ok"


@pytest.mark.slice
@pytest.mark.parametrize("where", WAITING)
def test_an_interrupt_during_a_cool_down(kernel: Kernel, server: ModelServer, where: str) -> None:
    gate = Gate()
    cool_down(kernel, server, gate)
    cell = kernel.begin(WAITING[where])
    kernel.until(lambda: cell.text)
    assert press(kernel, cell) < CLOSED
    assert cell.traceback == [cell.error[1]]
    gate.open()
    assert kernel.run("frame = await run").status == "ok"
    assert {request.prompt for request in server.requests} == {"row 0", "row 1", "row 2"}
    assert (server.received, server.aborted) == (3, 0)


@pytest.mark.slice
@pytest.mark.parametrize("times", [1, 3])
@pytest.mark.parametrize("where", WAITING)
def test_an_interrupt(kernel: Kernel, server: ModelServer, where: str, times: int) -> None:
    gate = begin_batch(kernel, server, others=faults.hang())
    cell = kernel.begin(WAITING[where])
    server.wait_for(lambda seen: seen.active == 11)
    assert press(kernel, cell, times) < CLOSED
    server.wait_for(lambda seen: seen.aborted == 1, timeout=0.1)
    assert (server.active, server.received) == (10, 11)
    assert cell.error[0] == ("CancelledError" if "async" in where else "KeyboardInterrupt")
    assert cell.error[1].startswith("Interrupted")
    assert cell.traceback == [cell.error[1]]

    server.plan = lambda request: gate.fault if request.prompt.startswith("row") else None
    assert kernel.run("reply = agent.send_message_sync('ask')").status == "ok"
    finish_batch(kernel, gate)
    assert server.aborted == 1


def test_result_in_a_cell_says_what_to_write(kernel: Kernel, server: ModelServer) -> None:
    gate = begin_batch(kernel, server)
    for code in ("run.result()", "await asyncio.sleep(0); run.result()", "run.result(timeout=5)"):
        cell = kernel.run(code)
        assert cell.error[0] == "WrongLoop"
        assert "await run" in cell.error[1]
    assert kernel.value("issubclass(ceylon_nb.errors.WrongLoop, RuntimeError)") is True
    finish_batch(kernel, gate)
    assert (server.received, server.aborted) == (30, 0)


def test_result_in_a_thread(kernel: Kernel, server: ModelServer) -> None:
    gate = begin_batch(kernel, server)
    cell = kernel.begin("print('now'); frame = await asyncio.to_thread(run.result); print(len(frame))")
    kernel.until(lambda: cell.text)
    gate.open()
    assert cell.wait().text == "now\n30\n"


MANY = {
    "gather": "await asyncio.gather(*(ask(item) for item in range(8)))",
    "a batch": "run = batch(ask, range(8)); await run",
}


@pytest.mark.parametrize("way", MANY)
def test_an_interrupt_while_many_tasks_make_sync_calls(kernel: Kernel, server: ModelServer, way: str) -> None:
    """One is enough: tasks that wait for their turn do not begin to block the loop again."""
    server.plan = lambda request: faults.hang() if request.number > 3 else None
    kernel.run("async def ask(item): return agent.send_message_sync('ask')")
    cell = kernel.begin(f"print('now'); {MANY[way]}")
    server.wait_for(lambda seen: seen.served == 3 and seen.active == 1)
    assert press(kernel, cell) < CLOSED
    assert (server.received, server.active) == (4, 0)
    assert cell.error[1].startswith("Interrupted")
    assert cell.traceback == [cell.error[1]]
    if way == "a batch":
        assert kernel.value("run.counts") == {"ok": 3, "failed": 0, "cancelled": 0, "in flight": 0, "waiting": 5}
        server.plan = None
        assert kernel.run("run.resume(); frame = await run").status == "ok"
        assert kernel.value("run.counts['ok']") == 8
