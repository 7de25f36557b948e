"""A mesh in a notebook: asked by cells that await and cells that do not, interrupted, at work between cells."""

from __future__ import annotations

import random
import time
from textwrap import dedent

import pytest

from ceylon_nb.testing import ModelServer

from .conftest import SET_UP, Start
from .gate import Gate
from .kernel import Cell, Kernel

CLOSED = 0.5
"""Seconds from the signal until nobody works any more."""

MESH = """
from ceylon_nb import Agent, LocalMesh

class Clerk(Agent):
    async def on_message(self, message, context=None):
        await asyncio.sleep(0)
        return f"{message}, to {context.sender or 'you'}"

class Desk(Agent):
    "Passes everything on to the model."
    def __init__(self, name="desk"):
        super().__init__(name)
        self.left = 0
    async def on_message(self, message, context=None):
        try:
            return await context.query("model", message)
        finally:
            self.left += 1

class Failing(Agent):
    def on_message(self, message, context=None):
        raise ValueError("no")

mesh, desk = LocalMesh("office"), Desk()
mesh.add_agent(desk, max_at_once=4)
mesh.add_agent(Clerk("clerk"))
mesh.add_agent(Failing("failing"))
mesh.add_llm_agent("model", "ollama::mock", max_at_once=4);
"""
"""An ``office``: a clerk who answers, one who fails, and a desk that asks a model, four at a time."""

AT_REST = "[mesh.stats().waiting, mesh.stats().at_work]"

TASKS = "sorted(task.get_name() for task in asyncio.all_tasks() if 'handles' in task.get_name())"
"""The handlers that run in the kernel."""


@pytest.fixture
def office(kernel: Kernel) -> Kernel:
    """A kernel with that mesh."""
    cell = kernel.run(MESH)
    assert (cell.status, cell.outputs) == ("ok", [])
    return kernel


def streams(cell: Cell) -> dict[str, str]:
    """What it wrote to its two streams."""
    written: dict[str, str] = {}
    for kind, content in cell.outputs:
        if kind == "stream":
            written[content["name"]] = written.get(content["name"], "") + content["text"]
    return written


def usable(kernel: Kernel) -> None:
    """The mesh is at rest, and works."""
    assert kernel.value(AT_REST) == [0, 0]
    assert kernel.run("await mesh.query('clerk', 'Still there')").result == "'Still there, to you'"


# -- asked -----------------------------------------------------------------------------------------------------------

ASKED = {
    "await": "print(await mesh.query('clerk', 'Hi'))",
    "a task": "print(await asyncio.create_task(mesh.query('clerk', 'Hi')))",
    "gather": "print(*set(await asyncio.gather(*(mesh.query('clerk', 'Hi') for _ in range(20)))))",
    "async with": """
        async with mesh:
            print(await mesh.query('clerk', 'Hi'))
        mesh.start()""",
    "submitted": "print(await mesh.wait_for(await mesh.submit('clerk', 'Hi')))",
    "a sync cell": "print(mesh.query_sync('clerk', 'Hi'))",
    "a sync call in an async cell": "await asyncio.sleep(0); print(mesh.query_sync('clerk', 'Hi'))",
    "a sync call after an awaited one": "print((await mesh.query('clerk', 'Hi'), mesh.query_sync('clerk', 'Hi'))[1])",
    "submitted, in a sync cell": "print(mesh.wait_for_sync(mesh.submit_sync('clerk', 'Hi')))",
    "a thread": """
        import threading
        thread = threading.Thread(target=lambda: print(mesh.query_sync('clerk', 'Hi')))
        thread.start(); thread.join()""",
    "a thread that the cell awaits": "print(await asyncio.to_thread(mesh.query_sync, 'clerk', 'Hi'))",
}


@pytest.mark.parametrize("way", ASKED)
def test_an_async_handler_answers(office: Kernel, way: str) -> None:
    cell = office.run(dedent(ASKED[way]))
    assert (cell.status, streams(cell)) == ("ok", {"stdout": "Hi, to you\n"})
    usable(office)


def test_agents_ask_one_another_and_a_model(office: Kernel, server: ModelServer) -> None:
    server.reply = lambda messages: f"noted {messages[-1]['content']}"
    cell = office.run("print(*(await asyncio.gather(*(mesh.query('desk', f'item {n}') for n in range(10)))), sep='|')")
    assert streams(cell) == {"stdout": "|".join(f"noted item {n}" for n in range(10)) + "\n"}
    assert server.peak <= 4
    usable(office)


def test_an_async_action_on_the_loop_that_runs(office: Kernel) -> None:
    office.run("""
        class Teller(Agent):
            @Agent.action
            async def count(self, upto: int) -> list[int]:
                "Count."
                await asyncio.sleep(0)
                return [*range(upto)]
            @Agent.action
            def blocking(self, upto: int) -> int:
                return upto + 1
            async def on_message(self, message, context=None):
                return await self.act("count", {"upto": message})
        mesh.add_agent(Teller())
        teller = mesh.agents["teller"]
    """)
    assert office.run("await teller.act('count', {'upto': '3'})").result == "[0, 1, 2]"
    assert office.run("await teller.act('blocking', {'upto': 3})").result == "4"
    assert office.run("await mesh.query('teller', 2)").result == "[0, 1]"
    assert office.run("teller.act_sync('count', {'upto': 1})").result == "[0]"
    usable(office)


# -- interrupted -----------------------------------------------------------------------------------------------------

WAITING = {
    "await": "await mesh.query('desk', 'ask')",
    "no time limit": "await mesh.query('desk', 'ask', timeout=None)",
    "gather": "await asyncio.gather(*(mesh.query('desk', 'ask') for _ in range(3)))",
    "TaskGroup": """
        async with asyncio.TaskGroup() as group:
            for _ in range(3): group.create_task(mesh.query('desk', 'ask'))""",
    "asyncio.timeout": """
        async with asyncio.timeout(60):
            await mesh.query('desk', 'ask')""",
    "wait_for": "await asyncio.wait_for(mesh.query('desk', 'ask'), 60)",
    "a sync cell": "mesh.query_sync('desk', 'ask')",
    "a sync call in an async cell": "await asyncio.sleep(0); mesh.query_sync('desk', 'ask')",
}


@pytest.mark.slice
@pytest.mark.parametrize("times", [1, 3])
@pytest.mark.parametrize("way", WAITING)
def test_an_interrupted_query_ends_all_that_it_had_begun(
    office: Kernel, server: ModelServer, way: str, times: int
) -> None:
    many = 3 if "range(3)" in WAITING[way] else 1
    server.latency = 60
    cell = office.begin(f"print('begun')\n{dedent(WAITING[way])}")
    server.wait_for(lambda seen: seen.active == many)

    pressed = time.monotonic()
    for again in range(times):
        if again:
            office.listen(random.uniform(0, 0.05))
        office.interrupt()
    server.wait_for(lambda seen: seen.active == 0)
    assert time.monotonic() - pressed < CLOSED
    cell.wait()
    assert server.aborted == many
    assert cell.error[0] == ("KeyboardInterrupt" if way == "a sync cell" else "CancelledError")
    by_sync = "Interrupted in query_sync, before it had ended."
    assert cell.traceback == [by_sync if "sync c" in way else "Interrupted before desk had answered."]
    server.latency = 0
    assert office.value(f"[desk.left, {AT_REST}, {TASKS}]") == [many, [0, 0], []]
    assert office.run("await mesh.query('desk', 'again')").result == "noted"
    usable(office)


def test_what_was_submitted_goes_on_when_the_wait_is_interrupted(office: Kernel, server: ModelServer) -> None:
    gate = Gate()
    server.plan = lambda request: gate.fault
    office.run("request = await mesh.submit('desk', 'ask')")
    cell = office.begin("print('begun'); await mesh.wait_for(request)")
    office.until(lambda: cell.text)
    server.wait_for(lambda seen: seen.active == 1)
    office.interrupt()
    assert cell.wait().traceback == ["Interrupted before desk-0 had ended: it goes on."]
    assert (server.active, server.aborted) == (1, 0)
    gate.open()
    assert office.run("await mesh.wait_for(request)").result == "noted"
    usable(office)


# -- between cells ---------------------------------------------------------------------------------------------------


@pytest.mark.slice
def test_it_works_on_while_other_cells_run(office: Kernel, server: ModelServer) -> None:
    gate = Gate()
    server.plan = lambda request: gate.fault if "slow" in request.prompt else None
    begun = office.run("requests = [await mesh.submit('desk', f'slow {n}') for n in range(6)]")
    server.wait_for(lambda seen: seen.active == 4)
    others = [
        office.run("1 + 1"),
        office.run("time.sleep(0.05)"),
        office.run("await mesh.query('clerk', 'beside')"),
        office.run("len(mesh.pending())"),
        office.run("await asyncio.sleep(0.01)"),
    ]
    assert [cell.status for cell in others] == ["ok"] * len(others)
    assert [others[at].result for at in (0, 2, 3)] == ["2", "'beside, to you'", "6"]
    refused = office.run("mesh.query_sync('clerk', 'beside')")  # the cell would stop the loop on which it works
    assert refused.error[0] == "WrongLoop"
    gate.open()
    server.wait_for(lambda seen: seen.served == 6)
    office.until(lambda: office.value("len(mesh.pending())") == 0)
    assert office.run("await mesh.wait_for(requests[5])").result == "noted"
    assert office.run("len(await mesh.collect_results())").result == "5"
    assert office.run("mesh.query_sync('clerk', 'now')").result == "'now, to you'"
    assert begun.outputs == []
    usable(office)


def test_a_message_that_fails_is_counted_and_printed_nowhere(office: Kernel) -> None:
    cells = [
        office.run("await mesh.send_to('failing', 'x')"),
        office.run("mesh.start(); await mesh.broadcast('x', exclude=['desk', 'model', 'clerk'])"),
        office.run("await mesh.drain()"),
        office.run("mesh.send_to_sync('failing', 'x'); mesh.drain_sync()"),
        office.run("import gc; gc.collect();"),
        office.run("await asyncio.sleep(0.01)"),
    ]
    assert [cell.status for cell in cells] == ["ok"] * len(cells)
    assert [streams(cell) for cell in cells] == [{}] * len(cells)
    assert office.value("mesh.stats().failed") == 3
    assert office.run("await mesh.query('failing', 'x')").error == ("ValueError", "no")


def test_a_cell_that_cancels_whatever_it_finds(office: Kernel, server: ModelServer) -> None:
    server.latency = 60
    office.run("request = await mesh.submit('desk', 'slow')")
    server.wait_for(lambda seen: seen.active == 1)
    office.run("for task in asyncio.all_tasks():\n    if 'desk handles' in task.get_name(): task.cancel()")
    server.wait_for(lambda seen: seen.aborted == 1)
    assert office.run("await mesh.wait_for(request)").error[0] == "MeshError"
    server.latency = 0
    assert office.run("await mesh.query('desk', 'again')").result == "noted"
    usable(office)


ENDING = {
    "awaited": "await mesh.stop()",
    "not awaited": "mesh.stop();",
    "a thread": "await asyncio.to_thread(mesh.stop_sync)",
    "forgotten": "del mesh, desk",
}


@pytest.mark.parametrize("way", ENDING)
def test_stop_leaves_no_task_behind(office: Kernel, server: ModelServer, way: str) -> None:
    server.latency = 60 if way != "forgotten" else 0.05
    before = office.value("len(asyncio.all_tasks())")
    cells = [office.run("for n in range(6): await mesh.submit('desk', f'slow {n}')")]
    server.wait_for(lambda seen: seen.received >= 4)
    assert way == "forgotten" or len(office.value(TASKS)) == 8  # four of the desk's, and four of the model's
    cells += [office.run(ENDING[way])]
    server.wait_for(lambda seen: seen.active == 0 and (seen.received == 6 or way != "forgotten"))
    office.until(lambda: office.value(TASKS) == [])
    assert office.value("len(asyncio.all_tasks())") <= before
    cells += [office.run("import gc; gc.collect();"), office.run("await asyncio.sleep(0.01)")]
    assert [(cell.status, streams(cell)) for cell in cells] == [("ok", {})] * len(cells)
    if way == "forgotten":
        assert server.aborted == 0
        return
    assert server.aborted == 4
    assert office.run("await mesh.query('clerk', 'x')").error[0] == "MeshStopped"
    server.latency = 0
    assert office.run("mesh.start(); len([result.error for result in await mesh.collect_results()])").result == "6"
    usable(office)


# -- looked at -------------------------------------------------------------------------------------------------------


def bundle(cell: Cell) -> dict[str, str]:
    """What its last line shows, by MIME type."""
    [found] = [content["data"] for kind, content in cell.outputs if kind == "execute_result"]
    return dict(found)


def test_the_mesh_and_its_diagram_as_last_lines(office: Kernel) -> None:
    office.run("await mesh.query('clerk', 'Hi <b>there</b>'); await mesh.query('desk', 'ask')")
    shown = bundle(office.run("mesh"))
    assert set(shown) == {"text/html", "text/plain"}
    assert "'office', 4 agents" in shown["text/plain"]
    assert all(name in shown["text/html"] for name in ("office", "clerk", "desk", "model", "ollama::mock"))
    assert "<b>there</b>" not in shown["text/html"]

    drawn = bundle(office.run("mesh.diagram()"))
    assert set(drawn) == {"text/vnd.mermaid", "text/plain"}
    assert drawn["text/vnd.mermaid"].startswith("sequenceDiagram")
    assert "clerk" in drawn["text/plain"]
    assert not drawn["text/plain"].startswith("sequenceDiagram")
    assert office.run("repr(mesh.trace()['to'].tolist())").result == "\"['clerk', 'desk', 'model']\""


def test_a_kernel_where_nobody_watches(start: Start, server: ModelServer) -> None:
    """As nbclient runs a notebook: cell after cell, at once."""
    kernel = start(OLLAMA_HOST=server.url)
    cells = [kernel.begin(code) for code in (SET_UP, MESH, "await mesh.query('desk', 'ask')", "mesh.diagram()")]
    assert [cell.wait().status for cell in cells] == ["ok"] * 4
    assert cells[2].result == "noted"
    assert [streams(cell) for cell in cells] == [{}] * 4
