"""`enable_nesting()`: scripts that call `asyncio.run`, pasted into a cell."""

from __future__ import annotations

import time
from textwrap import dedent

import pytest

from ceylon_nb.testing import ModelServer

from .conftest import Start
from .kernel import Kernel
from .test_interrupts import CLOSED, begin, hang_after, press

ASK_THREE = """
async def main():
    replies = await asyncio.gather(*map(agent.send_message, prompts(3)))
    print(len(replies))
"""


@pytest.fixture(scope="module")
def module_kernel(module_kernel: Kernel) -> Kernel:
    """Nesting patches all of a kernel: this one, which is the module's own."""
    assert module_kernel.run("asyncio.run(asyncio.sleep(0))").error[0] == "RuntimeError"
    assert module_kernel.run("ceylon_nb.enable_nesting(); ceylon_nb.enable_nesting()").status == "ok"
    return module_kernel


def test_a_script_in_a_cell(kernel: Kernel, server: ModelServer) -> None:
    server.latency = 0.1
    assert kernel.run(f"{ASK_THREE}\nasyncio.run(main())").text == "3\n"
    assert (server.served, server.peak) == (3, 3)
    assert kernel.run("asyncio.get_event_loop().run_until_complete(main())").text == "3\n"
    assert kernel.run("await asyncio.sleep(0); asyncio.run(main())").text == "3\n"
    assert kernel.run("await main()").text == "3\n"


def test_run_all_goes_on(kernel: Kernel, server: ModelServer) -> None:
    server.latency = 0.3
    kernel.run(ASK_THREE)
    cells = [
        kernel.begin(code) for code in ["asyncio.run(main())", "1 + 1", "asyncio.run(main())", "await main()", "2"]
    ]
    for cell in cells:
        assert cell.wait().status == "ok"
    assert [cell.text for cell in cells] == ["3\n", "", "3\n", "3\n", ""]
    assert (cells[1].result, cells[4].result) == ("2", "2")


def test_a_batch_in_the_background_goes_on(kernel: Kernel, server: ModelServer) -> None:
    server.latency = 0.05
    kernel.run(f"{ASK_THREE}\nrun = agent.map(prompts(400), max_at_once=20)")
    during = kernel.run("before = run.counts['ok']\nasyncio.run(main())\nprint(run.counts['ok'] > before)")
    assert during.text == "3\nTrue\n"
    assert kernel.run("frame = await run").status == "ok"
    assert kernel.value("run.counts")["ok"] == 400
    assert (server.aborted, server.received) == (0, 403)


def test_a_batch_begun_in_a_nested_run_outlives_it(kernel: Kernel, server: ModelServer) -> None:
    server.latency = 0.02
    kernel.run("async def main():\n    return agent.map(prompts(100), max_at_once=5)\nrun = asyncio.run(main())")
    assert kernel.run("async def rest():\n    return await run\nlen(asyncio.run(rest()))").result == "100"
    assert server.served == 100


NESTED = {
    "a sync cell": ("asyncio.run(wait(run))", "KeyboardInterrupt"),
    "an async cell": ("await asyncio.sleep(0)\nasyncio.run(wait(run))", "CancelledError"),
    "run_until_complete": ("asyncio.get_event_loop().run_until_complete(wait(run))", "KeyboardInterrupt"),
    "within a nested run": ("asyncio.run(again(run))", "KeyboardInterrupt"),
    "the body of async for": ("asyncio.run(read(run))", "KeyboardInterrupt"),
    "a TaskGroup": ("asyncio.run(group(run))", "KeyboardInterrupt"),
    "wait_for": ("asyncio.run(asyncio.wait_for(agent.send_message('a'), 60))", "KeyboardInterrupt"),
    "a single request": ("asyncio.run(agent.send_message('a'))", "KeyboardInterrupt"),
    "a sync call": ("asyncio.run(sync())", "KeyboardInterrupt"),
}


@pytest.mark.parametrize("times", [1, 3])
@pytest.mark.parametrize("way", NESTED)
def test_an_interrupt_ends_what_is_run_and_nothing_else(
    kernel: Kernel, server: ModelServer, way: str, times: int
) -> None:
    hang_after(0, server)
    kernel.run(
        dedent("""
        async def wait(run):
            print("waiting")
            return await run
        async def again(run): return asyncio.run(wait(run))
        async def read(run):
            print("waiting")
            async for answer in run: await asyncio.sleep(60)
        async def group(run):
            async with asyncio.TaskGroup() as group: group.create_task(wait(run))
        async def sync(): return agent.send_message_sync("a")
        background = agent.map(prompts(30), max_at_once=10)
        """)
    )
    code, error = NESTED[way]
    if "(run)" in code:
        kernel.run("run = agent.map(prompts(100), max_at_once=10)")
    cell = begin(kernel, code)
    asked = 10 if "(run)" in code else 1
    server.wait_for(lambda seen: seen.active == 10 + asked)
    kernel.until(lambda: asked == 1 or "waiting" in cell.text)

    pressed = time.monotonic()
    for _ in range(times):
        kernel.interrupt()
    server.wait_for(lambda seen: seen.active == 10)
    assert time.monotonic() - pressed < CLOSED
    assert cell.wait().error[0] == error
    assert cell.traceback == [cell.error[1]]
    assert cell.error[1].startswith("Interrupted")
    assert (server.aborted, kernel.value("[background.state, background.counts['in flight']]")) == (
        asked, ["running", 10],
    )  # fmt: skip

    server.latency = 0
    if "(run)" in code:
        assert kernel.run("run.resume(); frame = await run").status == "ok"
        assert kernel.value("run.counts")["ok"] == 100
    kernel.run("background.cancel(); background.resume(); await background")
    assert kernel.value("background.counts")["ok"] == 30


def test_what_will_not_end_is_ended_by_a_second_interrupt(kernel: Kernel, server: ModelServer) -> None:
    cell = kernel.begin("async def busy():\n    print('begun')\n    while True: pass\nasyncio.run(busy())")
    kernel.until(lambda: cell.text)
    kernel.interrupt()
    kernel.listen(1.1)
    assert not cell.ended
    kernel.interrupt()
    assert cell.wait(CLOSED + 1).error[0] == "KeyboardInterrupt"


def test_an_interrupt_with_queued_cells(kernel: Kernel, server: ModelServer) -> None:
    """The cells that wait are run, or given up by the kernel if the front end asks for that; none is left at [*]."""
    hang_after(0, server)
    cell = begin(kernel, "asyncio.run(agent.send_message('a'))")
    queued = [kernel.begin(code) for code in ["1 + 1", "await asyncio.sleep(0)", "asyncio.run(asyncio.sleep(0, 3))"]]
    server.wait_for(lambda seen: seen.active == 1)
    assert press(kernel, server, cell) < CLOSED
    assert [each.wait().status for each in queued] == ["ok", "ok", "ok"]
    assert queued[2].result == "3"


def test_debug_mode_ends_with_the_run(kernel: Kernel) -> None:
    code = "async def debug(): return asyncio.get_running_loop().get_debug()\n"
    code += "print(asyncio.run(debug(), debug=True), asyncio.run(debug()), await debug())"
    assert kernel.run(code).text == "True False False\n"


def test_without_a_loop_it_is_pythons_own(kernel: Kernel) -> None:
    code = """
        import threading, warnings
        loops = []
        async def where(): loops.append(asyncio.get_running_loop())
        threads = [threading.Thread(target=lambda: asyncio.run(where())) for _ in range(3)]
        [thread.start() for thread in threads]; [thread.join() for thread in threads]
        print(len(set(loops)), all(loop.is_closed() for loop in loops))"""
    assert kernel.run(dedent(code)).text == "3 True\n"


def test_nest_asyncio_is_refused_where_it_drops_messages(start: Start) -> None:
    kernel = start()
    kernel.run("import nest_asyncio; nest_asyncio.apply(); import asyncio, ceylon_nb")
    cell = kernel.run("ceylon_nb.enable_nesting(); print(asyncio.run(asyncio.sleep(0, 5)))")
    if kernel.value("__import__('ipykernel').version_info[0]") < 7:
        assert cell.text == "5\n"
    else:
        assert cell.error[0] == "ConfigurationError"
        assert "drops queued cells and clicks" in cell.error[1]
        assert "Restart the kernel" in cell.error[1]
