"""What a batch leaves in a notebook's cells: the panel and then a summary where somebody watches; else the summary."""

from __future__ import annotations

import re

import pytest

from .conftest import Start
from .kernel import Cell, Kernel

WIDGET = "application/vnd.jupyter.widget-view+json"

MAP = """
from ceylon_nb import LlmAgent
run = LlmAgent("clerk", "demo::instant").map(["What is AI?"] * 30 + [""], "{}", name="Ask", view=VIEW, store=None)
"""
HOLD = """
import asyncio
from ceylon_nb import batch
go_on = asyncio.Event()
async def hold(item):
    await go_on.wait()
    return 1 // item
run = batch(hold, range(5))
"""
WATCHED = {"JPY_SESSION_NAME": "test.ipynb"}
ALONE = {"CEYLON_NB_VIEW": "auto"}


def shown(cell: Cell) -> list[tuple[str, frozenset[str], str]]:
    """Of each output: its kind, its mime types, its text."""
    return [
        (kind, frozenset({"text"}), content["text"])
        if kind == "stream"
        else (kind, frozenset(content["data"]), content["data"]["text/plain"])
        for kind, content in cell.outputs
    ]


SUMMARY = frozenset({"text/html", "text/plain"})
ENDED = "Batch(30 ok, 1 failed of 31)"


@pytest.mark.slice
def test_the_panel_gives_way_to_the_summary(start: Start) -> None:
    kernel = start(**WATCHED)
    cell = kernel.run(MAP.replace("VIEW", "'auto'") + "frame = await run\nrun")
    (kind, types, _), *updates = shown(cell)
    assert (kind, types) == ("display_data", SUMMARY | {WIDGET})
    assert updates  # and `run` as the last line adds nothing
    assert {update[:2] for update in updates} == {("update_display_data", SUMMARY)}
    assert updates[-1][2] == ENDED
    [display_id] = {content["transient"]["display_id"] for _, content in cell.outputs}
    assert display_id


@pytest.mark.slice
@pytest.mark.parametrize(("environment", "imported"), [(WATCHED, ["anywidget", "numpy"]), (ALONE, [])])
def test_an_agent_that_is_built_waits_for_the_panel_if_there_will_be_one(
    start: Start, environment: dict[str, str], imported: list[str]
) -> None:
    kernel = start(**environment)
    kernel.run("import sys; from ceylon_nb import LlmAgent; agent = LlmAgent('a', 'demo::instant').build()")
    assert kernel.value("sorted({'anywidget', 'numpy'} & set(sys.modules))") == imported


@pytest.mark.slice
def test_what_a_background_batch_leaves_is_left_by_the_cell_that_waits_as_well(start: Start) -> None:
    kernel = start(**WATCHED)
    began = kernel.run(MAP.replace("VIEW", "'auto'"))
    kernel.until(lambda: kernel.value("run.finished"))
    [(first, types, _), *_] = shown(began)
    assert (first, types) == ("display_data", SUMMARY | {WIDGET})
    waits = kernel.run("frame = await run")
    assert shown(waits) == [("update_display_data", SUMMARY, ENDED)]
    assert waits.outputs[0][1]["transient"] == began.outputs[0][1]["transient"]  # in the place of the panel


def test_a_batch_that_goes_on_again_has_its_panel_back(start: Start) -> None:
    kernel = start(**WATCHED)
    kernel.run(HOLD + "go_on.set(); await run; None")
    cell = kernel.run("go_on.clear(); run.retry_failed(); await asyncio.sleep(0.3); go_on.set(); await run; None")
    kinds = [types for kind, types, _ in shown(cell) if kind == "update_display_data"]
    assert kinds[0] == SUMMARY | {WIDGET}
    assert kinds[-1] == SUMMARY


def test_a_later_cell_opens_the_panel_in_the_place_of_a_summary(start: Start) -> None:
    kernel = start(**WATCHED)
    kernel.run(MAP.replace("VIEW", "'auto'") + "await run")
    [(kind, content)] = kernel.run("run").outputs
    assert (kind, content["data"]["text/plain"]) == ("display_data", ENDED)
    key = re.search(r'data-ceylon-panel="(\w+)"', content["data"]["text/html"])
    assert key
    assert WIDGET not in content["data"]  # what is saved needs no kernel
    assert kernel.value("[run.panel.key, run.panel.placeholder]") == [key[1], True]


def test_a_later_cell_of_a_batch_that_runs_shows_the_same_panel(start: Start) -> None:
    kernel = start(**WATCHED)
    first = kernel.run(HOLD)
    second = kernel.run("run")
    models = {cell.outputs[0][1]["data"][WIDGET]["model_id"] for cell in (first, second)}
    assert len(models) == 1
    places = {cell.outputs[0][1]["transient"]["display_id"] for cell in (first, second)}
    assert len(places) == 2
    ends = kernel.run("go_on.set(); await run; None")
    assert {content["transient"]["display_id"] for _, content in ends.outputs} == places


@pytest.mark.slice
def test_a_page_that_was_loaded_again_has_the_summary_in_the_cell_that_waits(start: Start) -> None:
    kernel = start(**WATCHED)
    kernel.run(HOLD)
    hello = "run.panel.courier.received({{'type': 'hello', 'have': 0, 'page': '{}'}})"
    kernel.run(hello.format("first") + "; " + hello.format("first"))  # a kernel that was busy hears it twice
    kernel.run(hello.format("second"))
    cell = kernel.run("go_on.set(); await run; None")
    kind, content = cell.outputs[-1]
    assert (kind, set(content["data"])) == ("display_data", SUMMARY)
    assert shown(kernel.run("await run; None"))[1:] == []  # once


def test_the_panel_of_a_batch_whose_loop_is_closed_still_answers(start: Start) -> None:
    kernel = start(**WATCHED)
    cell = kernel.run("""
import asyncio, threading
from ceylon_nb import batch
kept = []
async def main():
    async def ill(item): raise OSError("ill")
    kept.append(batch(ill, range(3)))
    await kept[0]
thread = threading.Thread(target=asyncio.run, args=(main(),)); thread.start(); thread.join()
run, = kept
panel = run.panel
panel._msg_callbacks(panel, {"type": "hello", "have": 0, "page": "p"}, [])
await asyncio.sleep(0.3)
print(run.loop.is_closed(), panel.courier._feed.cursor)""")
    assert cell.text == "True 3\n", cell.traceback if cell.status == "error" else cell.text


@pytest.mark.slice
def test_a_kernel_knows_whether_it_executes_a_cell(start: Start) -> None:
    kernel = start(**WATCHED)
    kernel.run(HOLD + "from ceylon_nb import kernel\nasync def look():\n await asyncio.sleep(0.5)\n"
               " seen.append(kernel.executing())\nseen = []; task = asyncio.create_task(look())")  # fmt: skip
    kernel.listen(1)
    assert kernel.run("await look(); print(seen)").text == "[False, True]\n"


@pytest.mark.slice
@pytest.mark.parametrize("view", ["'auto'", "'static'"])
def test_where_nobody_watches_the_cell_that_waits_shows_the_summary(start: Start, view: str) -> None:
    kernel = start(**ALONE)
    assert shown(kernel.run(MAP.replace("VIEW", view))) == []
    assert shown(kernel.run("frame = await run\nrun")) == [("display_data", SUMMARY, ENDED)]  # once
    assert shown(kernel.run("frame = await run")) == []
    assert shown(kernel.run("run.retry_failed(); frame = await run")) == []  # nothing else came of it
    [(kind, content)] = kernel.run("run").outputs
    assert (kind, content["data"]["text/plain"]) == ("display_data", ENDED)
    assert "data-ceylon-panel" not in content["data"]["text/html"]
    iterated = kernel.run(MAP.replace("VIEW", view) + "async for answer in run: pass")
    assert shown(iterated) == [("display_data", SUMMARY, ENDED)]


@pytest.mark.parametrize("environment", [WATCHED, ALONE])
def test_shown_by_nobody(start: Start, environment: dict[str, str]) -> None:
    kernel = start(**environment)
    assert shown(kernel.run(MAP.replace("VIEW", "None") + "await run; None")) == []
    assert shown(kernel.run("run"))[0][1] == SUMMARY  # asked for
    kernel = start(**environment | {"CEYLON_NB_VIEW": "off"})
    assert shown(kernel.run(MAP.replace("VIEW", "'auto'") + "await run; None")) == []
    assert kernel.run("run").result == ENDED


def test_an_interrupted_batch_leaves_a_summary_and_the_one_line(start: Start) -> None:
    kernel = start(**ALONE)
    cell = kernel.begin(
        MAP.replace("VIEW", "'auto'")
        .replace('"demo::instant"', "forever")
        .replace("run =", "import asyncio\nasync def forever(messages): await asyncio.Event().wait()\nrun =")
        + "await run"
    )
    kernel.until(lambda: cell.busy)
    kernel.listen(0.5)
    kernel.interrupt()
    cell.wait()
    (_, content), (kind, error) = cell.outputs
    assert set(content["data"]) == SUMMARY
    assert content["data"]["text/plain"] == "Batch(0 ok, 8 cancelled of 31, cancelled)"
    assert (kind, error["traceback"][0].startswith("Interrupted: 0 of 31 answers")) == ("error", True)


@pytest.mark.slice
def test_a_view_that_cannot_draw_never_touches_the_run(start: Start) -> None:
    kernel = start(**WATCHED)
    cell = kernel.run(
        "import ceylon_nb.views.cell\ndef broken(*_): raise RuntimeError('cannot draw')\n"
        "ceylon_nb.views.cell.bundle = broken\n" + MAP.replace("VIEW", "'auto'") + "frame = await run\nrun"
    )
    assert cell.status == "ok"
    assert "cannot draw" in cell.text
    assert cell.result == ENDED


LOOK = "from ceylon_nb.views.watching import someone_watches; print(someone_watches())"


def test_what_a_cell_has_started_is_watched_by_nobody(start: Start) -> None:
    """As papermill that is called in a notebook: it inherits the notebook's environment."""
    kernel = start(**WATCHED)
    assert kernel.run(LOOK).text == "True\n"
    elsewhere = f"[sys.executable, '-c', {LOOK!r}], capture_output=True, text=True, check=True"
    assert kernel.run(f"import subprocess, sys\nsubprocess.run({elsewhere}).stdout").result == repr("False\n")


def test_a_loop_that_is_left_early_says_nothing_untrue(start: Start) -> None:
    kernel = start(**ALONE)
    cell = kernel.run(HOLD.replace("await go_on.wait()", "await asyncio.sleep(0 if item == 1 else 60)") +
                      "async for answer in run: break\nawait asyncio.sleep(0.3)")  # fmt: skip
    assert shown(cell) == []
    assert shown(kernel.run("run"))[0][2] == "Batch(1 ok, 4 cancelled of 5, cancelled)"


COLLECTED = """
import gc, weakref
from ipywidgets.widgets import widget
ref = weakref.ref(run); shown = run.panel
In.clear(); Out.clear(); del run; _ = __ = ___ = _i = None
await asyncio.sleep(0); gc.collect(); await asyncio.sleep(0.05)
print(ref() is None, shown.comm is None)
"""


def test_a_panel_does_not_keep_its_batch(start: Start) -> None:
    kernel = start(**WATCHED)
    kernel.run("import asyncio\n" + MAP.replace("VIEW", "'auto'") + "frame = await run")
    assert kernel.run(COLLECTED).text == "True True\n"


AS_COMPLETED = """
import asyncio
from ceylon_nb import as_completed
async def work(n):
    await asyncio.sleep(n / 100)
    if n == 2: raise ValueError("two")
    return n
async for task in as_completed({asyncio.create_task(work(n)): f"question {n}" for n in range(4)}, panel=True):
    pass
"""


@pytest.mark.parametrize("environment", [WATCHED, ALONE])
def test_tasks_of_the_user(start: Start, environment: dict[str, str]) -> None:
    cell = start(**environment).run(AS_COMPLETED)
    assert cell.status == "ok", cell.traceback
    kind, content = cell.outputs[-1]
    assert kind == ("update_display_data" if environment is WATCHED else "display_data")
    assert content["data"]["text/plain"] == "Tasks(3 ok, 1 failed of 4)"
    assert "question 3" in content["data"]["text/html"]
    assert "run." not in content["data"]["text/html"]
    assert (WIDGET in cell.outputs[0][1]["data"]) == (environment is WATCHED)


def test_a_reply_as_the_last_line_shows_its_text(start: Start) -> None:
    code = "from ceylon_nb import LlmAgent\nawait LlmAgent('a', 'demo::instant').send_message('What is AI?')"
    assert start(**ALONE).run(code).result.startswith("AI is")


def test_the_panel_is_a_widget_like_any_other(start: Start) -> None:
    kernel: Kernel = start(**ALONE)
    cell = kernel.run(MAP.replace("VIEW", "None") + "from ipywidgets import VBox\nVBox([run.panel] * 2)")
    assert cell.status == "ok", cell.traceback
    assert kernel.value("run.panel is run.panel")
