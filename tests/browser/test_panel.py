"""The live panel in JupyterLab: what it shows, what its buttons do to the server, and what it leaves behind."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Protocol

import pytest
from playwright.sync_api import Page, expect

from ceylon_nb.testing import ModelServer, faults

from .conftest import Lab, Open
from .notebooks import CLEAR, OPEN, Panel, reading
from .tap import Tap

pytestmark = pytest.mark.browser

KERNELS = ["here", "7.3", "6.31"]
WIDGET = "application/vnd.jupyter.widget-view+json"


@pytest.fixture
def page(desk: Page) -> Page:
    desk.set_viewport_size({"width": 1100, "height": 1000})
    return desk


@pytest.fixture
def tap(model_server: ModelServer) -> Tap:
    model_server.reply = lambda messages: f"noted: {messages[-1]['content']}"
    return Tap(model_server)


@pytest.fixture
def agent(model_server: ModelServer) -> str:
    """The source that makes an agent which asks the server, once."""
    return f"""import asyncio
from ceylon_nb import LlmAgent, as_completed, batch
agent = LlmAgent("clerk", "ollama::mock", base_url="{model_server.url}", attempts=1)
"""


class Ask(Protocol):
    """The source of a cell that asks about so many rows."""

    def __call__(self, rows: int, at_once: int = 4, more: str = "") -> str: ...


@pytest.fixture
def ask(agent: str) -> Ask:
    def source(rows: int, at_once: int = 4, more: str = "") -> str:
        return f"""{agent}
texts = [f"row {{at}}" for at in range({rows})]
run = agent.map(texts, "Note: {{}}", store=None, max_at_once={at_once}{more})"""

    return source


def again(seen: ModelServer) -> list[str]:
    """What was asked a second time."""
    return sorted(request.prompt for request in seen.requests if request.attempt == 2)


# -- on each kernel ---------------------------------------------------------------------------------------------


@pytest.mark.timeout(300)  # the environment may have to be made
@pytest.mark.parametrize("ipykernel", KERNELS)
def test_in_the_background(
    notebook: Open, model_server: ModelServer, tap: Tap, ask: Ask, screenshot: Any, ipykernel: str
) -> None:
    awaiting = "while run.counts['ok'] < 25: await asyncio.sleep(0.01)"
    fewer = "while run.max_at_once != 5: await asyncio.sleep(0.01)"
    book = notebook(ask(60), awaiting, "6 * 7", fewer, ipykernel=ipykernel)
    book.run(0)
    panel = book.panel
    expect(panel.part("title")).to_have_text("Note: {}")
    panel.has_done(0)
    model_server.wait_for(lambda seen: seen.active == 4)

    tap.let(12)  # the kernel is idle
    panel.has_done(12)
    expect(panel.bar("ok")).to_have_attribute("style", re.compile(r"width: 20(\.0+)?%"))
    expect(panel.part("count-flying")).to_have_text("4")
    expect(panel.rows.first).to_have_attribute("data-status", "flying")  # and below them the newest answers
    expect(panel.rows.and_(panel.root.locator('[data-status="ok"]')).first).to_contain_text("noted: Note: row 1")
    book.begin(1)  # another cell awaits
    book.runs(1)
    tap.let(12)
    panel.has_done(24)
    expect(panel.bar("ok")).to_have_attribute("style", re.compile(r"width: 40(\.0+)?%"))
    book.runs(1)
    tap.let(1)
    book.ended(1)
    screenshot("running")

    panel.button("pause").click()
    expect(panel.button("resume")).to_be_visible()
    tap.let(4)
    panel.has_done(29)
    expect(panel.part("count-flying")).to_have_text("0")
    book.run(2)  # a turn of the kernel's loop
    assert (model_server.received, model_server.active) == (29, 0)

    panel.button("resume").click()
    model_server.wait_for(lambda seen: seen.active == 4)
    for at_once in (5, 6):
        panel.step("up").click()
        expect(panel.part("at-once")).to_have_text(str(at_once))
    model_server.wait_for(lambda seen: seen.active == 6)
    assert model_server.peak == 6
    panel.step("down").click()
    book.run(3)  # it has come to the batch
    assert model_server.active == 6  # what is in flight goes on
    tap.let(1)
    panel.has_done(30)
    assert (model_server.received, model_server.active) == (35, 5)

    tap.let(3, faults.status(400, "no such thing"))
    expect(panel.part("count-failed")).to_have_text("3")
    model_server.wait_for(lambda seen: seen.active == 5)
    panel.button("retry").click()
    expect(panel.part("count-failed")).to_have_text("0")
    tap.let(5)
    panel.has_done(35)
    assert again(model_server) == sorted(tap.failed)

    model_server.wait_for(lambda seen: seen.active == 5)
    panel.button("cancel").click()
    model_server.wait_for(lambda seen: seen.aborted == 5)
    expect(book.outputs(0)).to_contain_text("cancelled at 35 of 60")  # the summary, in the panel's place
    expect(panel.root).to_have_count(0)
    assert (model_server.received, model_server.active) == (43, 0)


@pytest.mark.timeout(300)  # the environment may have to be made
@pytest.mark.parametrize("ipykernel", KERNELS)
def test_while_a_cell_awaits_the_batch(
    notebook: Open, model_server: ModelServer, tap: Tap, ask: Ask, screenshot: Any, ipykernel: str
) -> None:
    book = notebook(ask(60), "frame = await run", "6 * 7", ipykernel=ipykernel)
    book.run(0)
    book.begin(1)
    book.runs(1)
    panel = book.panel
    model_server.wait_for(lambda seen: seen.active == 4)
    tap.let(6)
    panel.has_done(6)
    if ipykernel == "6.31":  # clicks wait for the cell's end
        expect(panel.part("note")).to_contain_text("■")
        for button in [panel.button("pause"), panel.button("cancel"), panel.step("up"), panel.button("retry")]:
            expect(button).to_have_attribute("aria-disabled", "true")
        screenshot("deaf")
        panel.button("pause").click(force=True)
        tap.let(4)
        panel.has_done(10)
        model_server.wait_for(lambda seen: seen.active == 4)
    else:
        panel.step("up").click()
        model_server.wait_for(lambda seen: seen.active == 5)
        panel.button("pause").click()
        expect(panel.button("resume")).to_be_visible()
        tap.let(5)
        panel.has_done(11)
        assert (model_server.received, model_server.active) == (11, 0)
        panel.button("resume").click()
        model_server.wait_for(lambda seen: seen.active == 5)
    active = model_server.active
    book.page.get_by_role("button", name="Interrupt the kernel").click()
    model_server.wait_for(lambda seen: seen.aborted == active)
    expect(book.outputs(1)).to_contain_text(re.compile(r"Interrupted: 1[01] of 60 answers are in run\.frame"))
    expect(book.outputs(0)).to_contain_text(re.compile(r"cancelled at 1[01] of 60"))
    book.run(2)
    expect(book.outputs(2)).to_have_text("42")


# -- rows -------------------------------------------------------------------------------------------------------


def test_rows_are_filtered_and_opened(
    notebook: Open, model_server: ModelServer, tap: Tap, ask: Ask, screenshot: Any
) -> None:
    long = "word " * 6000  # longer than a preview, and than one piece of an opened row
    model_server.reply = lambda messages: f"{messages[-1]['content']}, noted. {long} Zanzibar"
    book = notebook(ask(30, 2).replace("attempts=1", "attempts=2"))
    book.run(0)
    panel = book.panel
    tap.let(1, faults.status(500, '{"error": "fell over"}'))
    model_server.wait_for(lambda seen: seen.received == 3)  # asked once more
    tap.let(20)
    panel.has_done(20)
    tap.let(2, faults.status(400, '{"error": "not like this"}'))
    panel.has_done(22)
    twice, *failed = [int(prompt.removeprefix("Note: row ")) for prompt in tap.failed]

    panel.chip("failed").click()
    expect(panel.chip("failed")).to_have_text("Failed 2")
    expect(panel.rows).to_have_count(2)
    for position in failed:
        expect(panel.row(position)).to_have_attribute("data-status", "failed")
        expect(panel.row(position)).to_contain_text("not like this")
    screenshot("failed")
    panel.row(failed[0]).click()
    expect(panel.part("error")).to_contain_text("not like this")
    screenshot("error")
    panel.part("shut").click()
    panel.chip("flying").click()
    expect(panel.rows).to_have_count(2)
    panel.chip("waiting").click()
    expect(panel.rows).to_have_count(6)
    panel.chip("all").click()

    panel.find.fill("zanzibar")  # in the reply's last word, far behind the preview
    expect(panel.part("found")).to_have_text("20 found")
    panel.find.fill(f"row {twice}, noted")
    expect(panel.rows).to_have_count(1)
    panel.row(twice).click()
    expect(panel.part("detail")).to_contain_text("word word")
    expect(panel.part("part-asked")).to_contain_text(f"Note: row {twice}")
    expect(panel.part("attempts").locator("li")).to_have_count(2)
    expect(panel.part("attempts")).to_contain_text(re.compile(r"500.*ok", re.DOTALL))
    expect(panel.part("part-said")).not_to_contain_text("Zanzibar")
    screenshot("open")
    panel.part("part-said").locator(".ceylon-more").click()
    expect(panel.part("part-said")).to_contain_text("Zanzibar")
    panel.find.fill("nowhere to be found")
    expect(panel.part("empty")).to_have_text("Nothing found.")


def test_a_hundred_thousand_rows(notebook: Open, screenshot: Any) -> None:
    begin = """
import asyncio
from ceylon_nb import batch
go_on = asyncio.Event()
async def answer(item):
    if item == 50:
        await go_on.wait()
    return f"answer {item}"
run = batch(answer, range(100_000), store=None)"""
    book = notebook(begin, "go_on.set()")
    book.run(0)
    panel = book.panel
    panel.has_done(99_999)
    expect(panel.row(50)).to_have_attribute("data-status", "flying")
    panel.root.locator(".ceylon-order").click()
    expect(panel.row(0)).to_contain_text("answer 0")
    grid = panel.part("rows")
    for share, at in [(1.0, 99_999), (0.5, 50_000), (0.25, 25_000), (0.0, 0)]:
        grid.evaluate("(node, share) => { node.scrollTop = share * (node.scrollHeight - node.clientHeight); }", share)
        expect(panel.row(at)).to_contain_text(f"answer {at}")
        assert panel.rows.count() < 20
    grid.focus()
    book.page.keyboard.press("End")
    expect(panel.row(99_999)).to_have_attribute("aria-selected", "true")
    screenshot("end")
    book.run(1)
    expect(book.outputs(0)).to_contain_text("100,000 answers of 100,000")


def test_tokens_as_they_stream(
    notebook: Open, model_server: ModelServer, ask: Ask, page: Page, screenshot: Any
) -> None:
    model_server.reply = "One two three four five six seven eight nine ten."
    tap = Tap(model_server, said=4)
    book = notebook(ask(6, 2, ", stream=True"))
    book.run(0)
    panel = book.panel
    for position in (0, 1):
        expect(panel.row(position)).to_have_attribute("data-status", "flying")
        expect(panel.row(position)).to_contain_text("One two three four")
    expect(panel.row(0)).not_to_contain_text("five")
    panel.row(0).click()
    expect(panel.part("part-said")).to_contain_text("One two three four")
    screenshot("streaming")
    tap.let(2)
    panel.has_done(2)
    expect(panel.part("part-said")).to_contain_text("nine ten.")
    expect(panel.row(0)).to_have_attribute("data-status", "ok")


# -- its life ---------------------------------------------------------------------------------------------------


def test_a_reload_in_mid_run(lab: Lab, notebook: Open, tap: Tap, ask: Ask, page: Page) -> None:
    book = notebook(ask(40), "frame = await run")
    book.run(0)
    tap.let(10)
    tap.let(2, faults.status(400, "not like this"))
    book.panel.has_done(12)
    book.save()
    page.goto(f"{lab.url}/doc/tree/{book.path.name}?reset")  # the whole page anew
    book.settle()
    panel = book.panel
    panel.has_done(12)
    expect(panel.part("count-failed")).to_have_text("2")
    expect(panel.rows.filter(has_text="not like this")).to_have_count(2)
    expect(panel.rows.filter(has_text="noted")).not_to_have_count(0)
    tap.let(10)
    panel.has_done(22)
    panel.chip("failed").click()
    expect(panel.rows).to_have_count(2)
    expect(panel.rows.first).to_contain_text("not like this")
    panel.button("cancel").click()
    expect(panel.root).to_have_attribute("data-state", "cancelled")
    book.run(1)  # the place of the panel is lost to this page: what lasts is here
    expect(book.outputs(1)).to_contain_text("20 answers, 2 failed, 4 cancelled of 40")
    assert "20 answers" in json.dumps(book.save()["cells"][1])


def test_the_kernel_is_restarted(
    notebook: Open, model_server: ModelServer, tap: Tap, ask: Ask, page: Page, screenshot: Any
) -> None:
    book = notebook(ask(40))
    book.run(0)
    tap.let(10)
    book.panel.has_done(10)
    page.evaluate("() => window.jupyterapp.shell.currentWidget.context.sessionContext.restartKernel()")
    expect(book.panel.root).to_have_attribute("data-state", "disconnected")
    expect(book.panel.part("note")).to_contain_text("Disconnected")
    for what in ("pause", "cancel", "retry"):
        expect(book.panel.button(what)).to_have_attribute("aria-disabled", "true")
    model_server.wait_for(lambda seen: seen.aborted == 4)
    screenshot("disconnected")


def test_views_of_one_batch_agree(notebook: Open, tap: Tap, ask: Ask, page: Page, screenshot: Any) -> None:
    page.set_viewport_size({"width": 1100, "height": 1700})  # what nobody sees is not painted
    boxed = "import ipywidgets\nipywidgets.VBox([run.panel])"
    book = notebook(ask(40) + "\nrun", "run", boxed)
    for at in range(3):
        book.run(at)
    panels = [book.panel_in(at) for at in range(3)]
    tap.let(8)
    tap.let(2, faults.status(400, "not like this"))
    for panel in panels:
        expect(panel.root).to_have_count(1)
        panel.has_done(10)
    panels[0].chip("failed").click()
    expect(panels[0].rows).to_have_count(2)
    expect(panels[1].chip("all")).to_have_attribute("aria-pressed", "true")
    panels[2].button("pause").click()
    for panel in panels:
        expect(panel.root).to_have_attribute("data-state", "paused")
    panels[1].button("resume").click()
    for panel in panels:
        expect(panel.root).to_have_attribute("data-state", "running")
    screenshot("three")
    tap.let(40)
    for at in (0, 1):
        expect(book.outputs(at)).to_contain_text("38 answers, 2 failed of 40")
    panels[2].has_done(40)  # a widget of the user's own is left alone


def test_two_batches_do_not_disturb_each_other(
    notebook: Open, model_server: ModelServer, tap: Tap, ask: Ask, screenshot: Any
) -> None:
    another = "other = agent.map(['x', 'y', 'z'] * 10, 'Other: {}', store=None, max_at_once=2)"
    book = notebook(ask(30), f"{another}\nthird = agent.map(['q'] * 9, 'Third: {{}}', store=None, max_at_once=1)")
    book.run(0)
    book.run(1)
    one, *others = [Panel(book.page.locator(".ceylon-panel").nth(at)) for at in range(3)]
    model_server.wait_for(lambda seen: seen.active == 7)
    others[0].button("cancel").click()
    model_server.wait_for(lambda seen: seen.aborted == 2)
    assert {request.prompt[:5] for request in model_server.requests if request.outcome == "aborted"} == {"Other"}
    expect(book.cell(1)).to_contain_text("cancelled at 0 of 30")
    one.chip("waiting").click()
    tap.let(5)
    expect(one.root).to_have_attribute("data-state", "running")
    expect(book.panel_in(1).chip("all")).to_have_attribute("aria-pressed", "true")
    one.button("pause").click()
    expect(one.root).to_have_attribute("data-state", "paused")
    tap.let(40)
    expect(book.outputs(1).last).to_contain_text("9 answers of 9")
    expect(one.root).to_have_attribute("data-state", "paused")
    screenshot("two")


def test_no_key_reaches_the_notebook(notebook: Open, model_server: ModelServer, tap: Tap, ask: Ask, page: Page) -> None:
    book = notebook(ask(40), "print('not to be run')", "print('nor this')")
    book.run(0)
    panel = book.panel
    tap.let(10)
    panel.has_done(10)
    before = book.counts()
    panel.chip("all").click()
    panel.rows.last.click()
    places = [panel.part("rows"), panel.part("detail-body"), panel.find, panel.chip("failed"), panel.chip("all")]
    places += [panel.step("up"), panel.button("cancel"), panel.button("retry"), panel.root]
    for place in places:
        place.focus()
        for key in ["d", "d", "x", "a", "b", "0", "0", "ArrowDown", "ArrowDown", "ArrowUp", "Home", "m", "z"]:
            page.keyboard.press(key)
        if place is not panel.button("cancel"):
            page.keyboard.press("Delete")
    for place in places[:3]:
        place.focus()
        page.keyboard.press("Shift+Enter")
        page.keyboard.press("Control+Enter")
        page.keyboard.press("Alt+Enter")
    assert book.counts() == before
    panel.find.fill("")
    panel.find.press_sequentially("dd")
    expect(panel.find).to_have_value("dd")
    page.wait_for_function("() => window.jupyterapp.shell.currentWidget.context.model.dirty")
    page.keyboard.press("Control+s")  # but for saving
    page.wait_for_function("() => !window.jupyterapp.shell.currentWidget.context.model.dirty")
    panel.part("rows").focus()
    page.keyboard.press("Escape")
    panel.find.fill("")

    panel.part("rows").focus()  # and by keyboard alone
    page.keyboard.press("Home")
    first = panel.root.locator('[aria-selected="true"]')
    expect(first).to_have_count(1)
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    expect(panel.part("detail")).to_be_visible()
    page.keyboard.press("Escape")
    expect(panel.part("detail")).to_be_hidden()
    panel.button("cancel").focus()
    page.keyboard.press("Shift+Enter")
    model_server.wait_for(lambda seen: seen.aborted == 4)
    book.outputs(0).wait_for()
    assert book.counts() == before


# -- its end ----------------------------------------------------------------------------------------------------


def test_it_gives_way_to_a_summary(
    notebook: Open, model_server: ModelServer, tap: Tap, ask: Ask, page: Page, screenshot: Any
) -> None:
    page.set_viewport_size({"width": 1100, "height": 1700})
    book = notebook(f"print('before')\n{ask(12)}\nprint('after')", "print('neighbour'); await run; None", "run")
    book.run(0)
    book.panel.has_done(0)
    expect(book.outputs(0)).to_have_text(["before\n", re.compile("0 of 12"), "after\n"])
    book.begin(1)
    tap.let(3, faults.status(400, "not like this"))
    expect(book.panel.root.get_by_role("status")).to_have_text(re.compile("^Running: "))
    tap.let(9)
    said = page.locator("body > [role=status]").filter(has_text="12 of 12, 3 failed")
    expect(said).to_have_text("Note: {}: done, 12 of 12, 3 failed")  # it outlives the panel
    book.ended(1)
    summary = re.compile(r"9 answers, 3 failed of 12.*not like this", re.DOTALL)
    expect(book.outputs(0)).to_have_text(["before\n", summary, "after\n"])
    expect(book.outputs(1)).to_have_text(["neighbour\n"])
    expect(page.locator(".ceylon-panel")).to_have_count(0)
    screenshot("done")
    cells = book.save()["cells"]
    kinds = [sorted(output.get("data", {})) for output in cells[0]["outputs"]]
    assert kinds == [[], ["text/html", "text/plain"], []]
    assert "".join(cells[0]["outputs"][1]["data"]["text/plain"]) == "Batch(9 ok, 3 failed of 12)"

    book.run(2)  # again, for as long as the kernel lives
    panel = book.panel_in(2)
    panel.has_done(12)
    panel.chip("failed").click()
    expect(panel.rows).to_have_count(3)
    screenshot("again")
    assert all(WIDGET not in output.get("data", {}) for cell in book.save()["cells"] for output in cell["outputs"])
    panel.button("retry").click()
    model_server.wait_for(lambda seen: seen.received == 15)
    book.panel_in(0).has_done(9)  # and where it was shown first
    tap.let(3)
    panel.has_done(12)
    expect(panel.part("count-failed")).to_have_text("0")
    expect(book.outputs(0)).to_have_text(["before\n", re.compile("12 answers of 12"), "after\n"])
    assert again(model_server) == sorted(tap.failed)


def test_what_lasts(notebook: Open, tap: Tap, ask: Ask, page: Page, tmp_path: Path, screenshot: Any) -> None:
    """Saved, read without its kernel, and exported."""
    book = notebook(ask(8), "await run; run")
    book.run(0)
    tap.let(2, faults.status(400, "not like this"))
    tap.let(6)
    expect(book.outputs(0)).to_contain_text("6 answers, 2 failed of 8")
    book.run(1)
    expect(book.panel_in(1).root).to_be_visible()
    saved = book.save()
    assert WIDGET not in json.dumps(saved)

    page.evaluate(CLEAR)
    saved["metadata"] = {"kernelspec": {"name": "gone", "display_name": "Gone", "language": "none"}}
    book.path.write_text(json.dumps(saved))
    page.evaluate(OPEN, book.path.name)
    dialog = page.locator(".jp-Dialog")
    expect(dialog).to_contain_text("Select Kernel")
    dialog.get_by_role("button", name="No Kernel").click()
    expect(dialog).to_have_count(0)
    for at in (0, 1):
        expect(book.outputs(at)).to_contain_text("6 answers, 2 failed of 8")
        expect(book.outputs(at)).to_contain_text("noted: Note: row")
    expect(page.locator(".ceylon-panel")).to_have_count(0)
    screenshot("without-a-kernel")

    with reading(page, book.path, tmp_path) as reader:
        tables = reader.get_by_role("table", name="rows")
        expect(tables).to_have_count(2)
        expect(tables.first).to_contain_text("not like this")
        reader.screenshot(path=tmp_path / "exported.png")


# -- to look at -------------------------------------------------------------------------------------------------


BOXES = """root => Object.fromEntries(
    [root, ...root.querySelectorAll(".ceylon-face *, .ceylon-tools, .ceylon-find, .ceylon-retry, .ceylon-rows")]
        .filter(node => node.matches("button, input, div:not(.ceylon-note *), svg") && node.getClientRects().length)
        .map((node, at) => [`${at} ${node.tagName} ${node.className}`, node.getBoundingClientRect().toJSON()]))"""


def boxes(panel: Panel) -> dict[str, Any]:
    """Where everything is that has a place of its own; the panel itself comes first."""
    places: dict[str, Any] = panel.root.evaluate(BOXES)
    return places


def test_nothing_moves_while_it_runs(notebook: Open, tap: Tap, ask: Ask, screenshot: Any) -> None:
    book = notebook(ask(1200, 100))
    book.run(0)
    panel = book.panel
    panel.has_done(0)
    before = boxes(panel)
    assert height(panel) <= 320
    tap.let(8)
    panel.has_done(8)
    assert boxes(panel) == before
    tap.let(12, faults.status(400, "not like this"))
    tap.let(1000)
    panel.has_done(1020)
    expect(panel.part("count-failed")).to_have_text("12")
    assert boxes(panel) == before
    panel.button("pause").click()
    expect(panel.root).to_have_attribute("data-state", "paused")
    assert boxes(panel) == before
    panel.rows.first.click()
    expect(panel.part("detail")).to_be_visible()
    assert height(panel) <= 320
    screenshot("paused")


def test_holding_off(notebook: Open, model_server: ModelServer, tap: Tap, ask: Ask, screenshot: Any) -> None:
    book = notebook(ask(40).replace("attempts=1", "attempts=2"))
    book.run(0)
    tap.let(10)
    panel = book.panel
    panel.has_done(10)
    tap.let(1, faults.rate_limited(retry_after=60))
    expect(panel.part("note")).to_contain_text(re.compile(r"Holding off 5\d s: the server said 429"))
    expect(panel.root).to_have_attribute("data-held", "")
    tap.let(3)
    panel.has_done(13)
    panel.chip("flying").click()
    expect(panel.root.locator('.ceylon-row[data-kind="held"]')).to_have_count(4)
    expect(panel.rows.filter(has_text="429")).to_have_count(1)
    assert model_server.received == 14  # all others wait, too
    assert height(panel) <= 320
    screenshot("held")


BACKGROUND = "node => getComputedStyle(node).backgroundColor"


def test_light_and_dark_and_calm(notebook: Open, tap: Tap, ask: Ask, page: Page, screenshot: Any) -> None:
    book = notebook(ask(40))
    book.run(0)
    panel = book.panel
    tap.let(10)
    tap.let(2, faults.status(400, "not like this"))
    panel.has_done(12)
    panel.rows.nth(4).click()
    seen = {}
    for theme in ("JupyterLab Dark", "JupyterLab Light"):
        page.evaluate("theme => window.jupyterapp.commands.execute('apputils:change-theme', { theme })", theme)
        page.wait_for_function(f"() => document.body.dataset.jpThemeName === '{theme}'")
        expect(page.locator("#jupyterlab-splash")).to_have_count(0)
        seen[theme] = panel.root.evaluate(BACKGROUND), panel.root.evaluate("node => getComputedStyle(node).color")
        screenshot(theme.split()[-1].lower())
    assert len(set(seen.values())) == 2
    for theme, (back, front) in seen.items():
        assert (brightness(back) < brightness(front)) == theme.endswith("Dark")
        assert abs(brightness(back) - brightness(front)) > 0.5
    bar = panel.bar("ok")
    assert bar.evaluate("node => getComputedStyle(node).transitionDuration") != "0s"
    page.emulate_media(reduced_motion="reduce")
    assert bar.evaluate("node => getComputedStyle(node).transitionDuration") == "0s"
    page.emulate_media(reduced_motion=None)


def height(panel: Panel) -> float:
    box = panel.root.bounding_box()
    assert box is not None
    return box["height"]


def brightness(colour: str) -> float:
    """From 0 to 1; what is seen through is an average of black and white."""
    red, green, blue, *alpha = map(float, re.findall(r"[\d.]+", colour))
    return (red + green + blue) / 765 if not alpha or alpha[0] > 0.5 else 0.5


@pytest.mark.parametrize("width", [700, 480])
def test_a_narrow_window(notebook: Open, tap: Tap, ask: Ask, page: Page, screenshot: Any, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 1000})
    book = notebook(ask(1400))
    book.run(0)
    panel = book.panel
    tap.let(1010)
    tap.let(20, faults.status(400, "not like this"))
    panel.has_done(1030)
    assert height(panel) <= 320
    assert panel.root.evaluate("node => node.scrollWidth <= node.clientWidth")
    whole, *places = boxes(panel).items()
    for place, box in places:
        assert whole[1]["left"] <= box["left"] <= box["right"] <= whole[1]["right"], place
        assert box["bottom"] <= whole[1]["bottom"], place
    assert panel.rows.count() >= 2
    screenshot("narrow")
    panel.rows.nth(2).click()
    expect(panel.part("detail")).to_be_visible()
    screenshot("open")


# -- tasks of the user's own ------------------------------------------------------------------------------------


def test_your_own_tasks(notebook: Open, model_server: ModelServer, tap: Tap, agent: str, screenshot: Any) -> None:
    tasks = """
seen = []
tasks = {asyncio.ensure_future(agent.send_message(f"one {n}")): f"question {n}" for n in range(8)}
async for task in as_completed(tasks, panel=True):
    seen.append(task)"""
    book = notebook(agent + tasks, "len(seen), sum(task.cancelled() for task in seen)")
    book.begin(0)
    panel = book.panel
    model_server.wait_for(lambda seen: seen.active == 8)
    tap.let(2)
    panel.has_done(2)
    expect(panel.part("title")).to_have_text("8 tasks")
    expect(panel.rows.filter(has_text="noted: one")).not_to_have_count(0)
    expect(panel.rows.filter(has_text="question")).to_have_count(panel.rows.count())
    expect(panel.button("pause")).to_have_attribute("aria-disabled", "true")
    screenshot("running")
    panel.button("cancel").click()
    model_server.wait_for(lambda seen: seen.aborted == 6)
    book.ended(0)
    expect(book.outputs(0)).to_contain_text("2 answers, 6 cancelled of 8")
    book.run(1)
    expect(book.outputs(1)).to_have_text("(8, 6)")
