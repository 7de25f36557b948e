"""A batch as a person meets it: a real JupyterLab, real Chromium, keys and clicks."""

from __future__ import annotations

import os
import re
import signal
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from ceylon_nb.testing import ModelServer

from .notebooks import write

pytestmark = pytest.mark.browser


def outputs(page: Page, cell: int) -> Any:
    return page.locator(".jp-Notebook .jp-CodeCell").nth(cell).locator(".jp-OutputArea-output")


BEGIN = """import asyncio
from ceylon_nb import LlmAgent
go_on = asyncio.Event()
async def hold(messages):
    await go_on.wait()
    return "noted"
run = LlmAgent("clerk", hold).map(["a"] * 40, "Note: {}", max_at_once=10)
"""


def press(page: Page, cell: int) -> None:
    """Run a cell as a person does."""
    page.locator(".jp-CodeCell .cm-content").nth(cell).click()
    page.keyboard.press("Shift+Enter")


def test_a_batch_in_its_cell(lab: Any, page: Page, screenshot: Any) -> None:
    sources = [f"{BEGIN}run", "print('another cell')", "go_on.set(); frame = await run", "run"]
    write(lab.root / "cell.ipynb", sources)
    lab.open(page, "cell.ipynb")

    press(page, 0)
    expect(outputs(page, 0)).to_have_count(1)  # the panel; `run` as the last line adds nothing
    expect(outputs(page, 0)).to_contain_text("0 of 40")
    expect(outputs(page, 0).locator(".ceylon-count-flying")).to_have_text("10")
    press(page, 1)
    expect(outputs(page, 1)).to_have_text("another cell")
    screenshot("running")
    press(page, 2)
    expect(outputs(page, 0)).to_contain_text("40 answers of 40")
    expect(outputs(page, 0)).to_have_count(1)
    expect(outputs(page, 1)).to_have_text("another cell")
    press(page, 3)
    expect(outputs(page, 3)).to_have_count(1)  # later, the panel again
    expect(outputs(page, 3).locator(".ceylon-count-done")).to_have_text("40")
    screenshot("done")


def test_stop(lab: Any, page: Page, screenshot: Any) -> None:
    """■ of the toolbar: one line, and the notebook goes on."""
    write(lab.root / "stop.ipynb", [BEGIN, "frame = await run", "go_on.set(); run.resume(); await run; run"])
    lab.open(page, "stop.ipynb")
    press(page, 0)
    expect(outputs(page, 0).locator(".ceylon-count-flying")).to_have_text("10")
    press(page, 1)
    expect(page.locator(".jp-CodeCell .jp-InputArea-prompt").nth(1)).to_have_text("[*]:")
    page.get_by_role("button", name="Interrupt the kernel").click()
    expect(outputs(page, 1)).to_have_text("Interrupted: 0 of 40 answers are in run.frame; run.resume() goes on.")
    expect(outputs(page, 0)).to_contain_text("cancelled at 0 of 40")
    press(page, 2)
    expect(outputs(page, 0)).to_contain_text("40 answers of 40")
    expect(outputs(page, 2)).to_contain_text("40")
    screenshot("done")


def test_the_kernel_dies(lab: Any, page: Page, screenshot: Any, model_server: ModelServer) -> None:
    """SIGKILL in mid-run: the same cell again asks for what is missing, and says so."""
    model_server.reply = "noted"
    model_server.latency = lambda request: 0.0 if request.number <= 30 else 3600.0
    ask = f"""import os
import ceylon_nb
agent = ceylon_nb.LlmAgent("clerk", "ollama::mock", base_url="{model_server.url}")
run = agent.map([f"Review {{n}}" for n in range(100)], "Note: {{}}", name="a hundred", max_at_once=8)"""
    sources = [ask, "print(os.getpid())", 'ceylon_nb.batches().drop(columns="when")', "(await run).tail(3)"]
    write(lab.root / "dies.ipynb", sources)
    lab.open(page, "dies.ipynb")

    press(page, 0)
    expect(outputs(page, 0).locator(".ceylon-title")).to_have_text("a hundred")
    expect(outputs(page, 0).locator(".ceylon-count-done")).to_have_text("30")
    expect(outputs(page, 0).locator(".ceylon-count-flying")).to_have_text("8")
    press(page, 1)
    expect(outputs(page, 1)).to_have_text(re.compile(r"^\d+\s*$"))
    os.kill(int(outputs(page, 1).inner_text()), signal.SIGKILL)
    model_server.wait_for(lambda seen: seen.aborted == 8)
    page.get_by_role("button", name="Ok").click(timeout=30_000)  # "The kernel … appears to have died"
    page.wait_for_function(
        "() => window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.status === 'idle'"
    )
    expect(outputs(page, 0)).to_contain_text("Disconnected")

    model_server.latency = 0.0
    press(page, 0)
    expect(outputs(page, 0)).to_contain_text("100 answers of 100 · a hundred · clerk")
    expect(outputs(page, 0)).to_contain_text("30 from the store")
    press(page, 2)
    expect(outputs(page, 2)).to_contain_text("a hundred")
    press(page, 3)
    expect(outputs(page, 3)).to_contain_text("noted")
    screenshot("done")
    assert model_server.received == 100 + 8
