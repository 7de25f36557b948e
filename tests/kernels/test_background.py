"""A batch works on in the background: whatever other cells do, whatever is done to them, and without a word in them."""

from __future__ import annotations

import random
from textwrap import dedent

import pytest

from ceylon_nb.testing import ModelServer, faults

from .conftest import SET_UP, Start
from .gate import Gate
from .kernel import Cell, Kernel

BEGIN = "run = agent.map(prompts(60), max_at_once=20)"


def finish(kernel: Kernel) -> None:
    """Wait until the batch has ended, without awaiting it."""
    kernel.until(lambda: kernel.value("run.finished"))


def all_at(gate: Gate, server: ModelServer, rows: int = 0) -> None:
    """The rows from this one on wait at a gate; other prompts are answered."""
    held = {f"row {at}" for at in range(rows, 1000)}
    server.plan = lambda request: gate.fault if request.prompt in held else None


def test_while_the_kernel_is_idle(kernel: Kernel, server: ModelServer) -> None:
    gate = Gate()
    all_at(gate, server)
    cell = kernel.run(BEGIN)
    assert (cell.status, cell.outputs) == ("ok", [])
    gate.open()
    server.wait_for(lambda seen: seen.served == 60)
    finish(kernel)
    assert kernel.value("run.counts") == {"ok": 60, "failed": 0, "cancelled": 0, "in flight": 0, "waiting": 0}


@pytest.mark.parametrize(
    "code",
    [
        "await agent.send_message('later')",
        "await agent.map(['later'] * 5)",
        "await asyncio.sleep(2)",
    ],
)
def test_while_another_cell_awaits(kernel: Kernel, server: ModelServer, code: str) -> None:
    gate, later = Gate(), Gate()
    server.plan = lambda request: later.fault if request.prompt == "later" else gate.fault
    kernel.run(BEGIN)
    cell = kernel.begin(f"print('now'); {code}")
    kernel.until(lambda: cell.text)
    gate.open()
    server.wait_for(lambda seen: seen.served == 60)
    assert not cell.ended
    later.open()
    cell.wait()
    assert cell.text == "now\n"
    finish(kernel)
    assert kernel.value("run.counts['ok']") == 60


ELSEWHERE = {
    "a cell that awaits": "print('now'); await asyncio.sleep(60)",
    "a cell that sleeps": "print('now'); time.sleep(60)",
    "a cell that computes": """
        print('now')
        while True: pass""",
    "a batch of its own": "print('now'); await agent.map(['other'] * 5)",
    "nothing": "",
}


@pytest.mark.slice
@pytest.mark.parametrize("times", [1, 3])
@pytest.mark.parametrize("where", ELSEWHERE)
def test_an_interrupt_elsewhere(kernel: Kernel, server: ModelServer, where: str, times: int) -> None:
    gate, never = Gate(), Gate()
    server.plan = lambda request: never.fault if request.prompt == "other" else gate.fault
    begun = kernel.run(BEGIN)
    server.wait_for(lambda seen: seen.active == 20)
    cell = kernel.begin(dedent(ELSEWHERE[where]))
    kernel.until(lambda: cell.text or cell.ended)
    others = 5 if "batch" in where else 0
    server.wait_for(lambda seen: seen.active == 20 + others)
    for _ in range(times):
        kernel.interrupt()
        kernel.listen(0.03)
    cell.wait()
    assert where == "nothing" or cell.error[0] in ("CancelledError", "KeyboardInterrupt")
    server.wait_for(lambda seen: seen.aborted == others)
    assert kernel.value("[run.state, run.counts['in flight']]") == ["running", 20]

    gate.open()
    server.wait_for(lambda seen: seen.served == 60)
    finish(kernel)
    assert kernel.value("[run.state, run.counts['ok'], int(run.frame['attempts'].max())]") == ["done", 60, 1]
    assert (server.received, server.aborted) == (60 + others, others)
    assert begun.outputs == []


@pytest.mark.soak  # on a machine with much else to do the kernel itself now and then does not survive it
def test_interrupts_elsewhere_at_random_moments(kernel: Kernel, server: ModelServer) -> None:
    """Also in cells that end by themselves, right before and after them, and while the batch's answers come in.

    Kernels lose the reply of a cell at whose very end they are interrupted; the batch must not care.
    """
    server.latency = lambda request: random.uniform(0, 0.02)
    begun = kernel.run("run = agent.map(prompts(2000), max_at_once=20)")
    cells: list[Cell] = []
    while server.served < 2000:
        cell = kernel.begin(random.choice(["1;", "await asyncio.sleep(0.01)", "time.sleep(0.01)"]))
        kernel.listen(random.uniform(0, 0.03))
        kernel.interrupt()
        kernel.until(lambda: cell.idle)  # noqa: B023 - waited for here
        cells.append(cell)
    finish(kernel)
    assert kernel.value("[run.state, run.counts['ok'], int(run.frame['attempts'].max())]") == ["done", 2000, 1]
    assert (server.received, server.aborted) == (2000, 0)
    assert {kind for cell in [begun, *cells] for kind, _ in cell.outputs} <= {"error"}


FAULTS = {
    "refused": ("AuthenticationFailed", BEGIN),
    "no such model": ("ModelNotFound", "run = LlmAgent('clerk', 'ollama::unknown').map(prompts(60), max_at_once=20)"),
    "a function": (
        "ZeroDivisionError",
        """
        async def divide(item): return item / 0
        run = batch(divide, range(60))""",
    ),
    "a function that ends Python": (
        "CeylonError",
        """
        import sys
        async def leave(item): sys.exit(item)
        run = batch(leave, range(60))""",
    ),
    "a function that raises groups": (
        "ZeroDivisionError",
        """
        async def group(item): raise ExceptionGroup("several", [ZeroDivisionError(), ValueError()])
        run = batch(group, range(60))""",
    ),
    "the items": (
        "ZeroDivisionError",
        """
        run = agent.map(str(10 / (3 - at)) for at in range(60))""",
    ),
}
"""What everything fails of: what `await run` raises, and a batch that does."""

UNRELATED = ["1 + 1;", "await asyncio.sleep(0.01)", "import gc; gc.collect();"]


@pytest.mark.parametrize("cause", FAULTS)
def test_errors_surface_in_the_handle(kernel: Kernel, server: ModelServer, cause: str) -> None:
    """In the cells that ask for them, and in no other; of a batch that nobody asks, not even when it is collected."""
    error, code = FAULTS[cause]
    if cause == "refused":
        server.plan = lambda request: faults.status(401)
    others = [kernel.run(dedent(code)), *map(kernel.run, UNRELATED)]
    finish(kernel)
    others += map(kernel.run, UNRELATED)
    askers = [kernel.run("await run"), kernel.run("async for answer in run: pass")]
    assert [cell.error[0] for cell in askers] == [error, error]
    assert [len(cell.outputs) for cell in askers] == [1, 1]

    others += [kernel.run(dedent(code))]  # another one, in its place
    finish(kernel)
    others += map(kernel.run, ["del run", *UNRELATED, *UNRELATED])
    assert [(cell.status, cell.outputs) for cell in others] == [("ok", [])] * len(others)


def test_rows_that_fail_are_never_printed(kernel: Kernel, server: ModelServer) -> None:
    server.plan = lambda request: faults.status(400) if request.number % 2 else None
    cells = [kernel.run(BEGIN), *map(kernel.run, UNRELATED)]
    finish(kernel)
    cells += [kernel.run("frame = await run"), kernel.run("del run, frame"), *map(kernel.run, UNRELATED)]
    assert [cell.outputs for cell in cells] == [[]] * len(cells)


CALLED = {
    "from a cell": "{}",
    "from a thread": "import threading; begun = threading.Thread(target=lambda: {}); begun.start(); begun.join()",
}


@pytest.mark.parametrize("where", CALLED)
def test_controls(kernel: Kernel, server: ModelServer, where: str) -> None:
    def say(code: str) -> None:
        cell = kernel.run(CALLED[where].format(code))
        assert (cell.status, cell.outputs) == ("ok", [])

    first, second = Gate(), Gate()
    server.plan = lambda request: (first if request.number <= 20 else second).fault
    kernel.run("run = agent.map(prompts(100), max_at_once=20)")
    server.wait_for(lambda seen: seen.active == 20)
    say("run.pause()")
    first.open()
    server.wait_for(lambda seen: seen.served == 20)
    kernel.until(lambda: kernel.value("run.counts['ok']") == 20)
    assert (kernel.value("run.state"), server.received) == ("paused", 20)

    say("run.resume()")
    server.wait_for(lambda seen: seen.active == 20)
    say("setattr(run, 'max_at_once', 30)")
    server.wait_for(lambda seen: seen.active == 30)
    say("run.cancel()")
    server.wait_for(lambda seen: seen.aborted == 30 and seen.active == 0)
    assert kernel.value("[run.state, run.counts]") == [
        "cancelled", {"ok": 20, "failed": 0, "cancelled": 30, "in flight": 0, "waiting": 50},
    ]  # fmt: skip

    say("run.resume()")
    server.wait_for(lambda seen: seen.active == 30)
    second.open()
    server.wait_for(lambda seen: seen.served == 100)
    finish(kernel)
    assert kernel.value("[run.state, run.counts['ok']]") == ["done", 100]


def test_a_thread_cancels_what_a_cell_awaits(kernel: Kernel, server: ModelServer) -> None:
    gate, go = Gate(), Gate()
    server.plan = lambda request: go.fault if request.prompt == "go" else gate.fault
    kernel.run("""
        import threading
        def cancel():
            agent.send_message_sync("go")
            run.cancel()
        threading.Thread(target=cancel).start()""")
    cell = kernel.begin(f"{BEGIN}\nframe = await run\nprint(len(frame), (frame['status'] == 'cancelled').sum())")
    server.wait_for(lambda seen: seen.active == 21)
    go.open()
    assert cell.wait().text == "60 20\n"
    assert server.aborted == 20


@pytest.mark.slice
def test_output_stays_with_its_own_cell(start: Start, server: ModelServer) -> None:
    watched = start(OLLAMA_HOST=server.url, JPY_SESSION_NAME="x.ipynb")
    watched.run(SET_UP)
    gates = [Gate(), Gate(), Gate()]
    server.plan = lambda request: gates[request.number // 20].fault if request.prompt != "go" else gates[2].fault
    first = watched.run("run = agent.map([f'row {at}' for at in range(39)], max_at_once=39, name='Ask')")
    [(kind, shown)] = [output for output in first.outputs if output[0] != "update_display_data"]
    assert kind == "display_data"
    others = [watched.begin("await agent.send_message('go')")]

    def summaries() -> list[str]:
        """What took its panel's place since; under an ipykernel 6 that is told of the cell that runs."""
        updates = [content for cell in [first, *others] for kind, content in cell.outputs if "update" in kind]
        assert {update["transient"]["display_id"] for update in updates} <= {shown["transient"]["display_id"]}
        return [update["data"]["text/plain"] for update in updates]

    server.wait_for(lambda seen: seen.active == 40)
    gates[0].open()  # while a cell awaits
    server.wait_for(lambda seen: seen.served == 19)
    assert summaries() == []
    gates[2].open()
    others[0].wait()
    gates[1].open()  # while the kernel is idle
    watched.until(lambda: summaries() == ["Batch(39 ok of 39)"])
    others += [watched.run("print('mine')"), watched.run("await run;")]
    of_theirs = [[kind for kind, _ in cell.outputs if kind != "update_display_data"] for cell in others]
    assert of_theirs == [["execute_result"], ["stream"], []]
    assert others[1].text == "mine\n"
