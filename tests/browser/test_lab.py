"""The tutorials as a person sees them: a real JupyterLab, real Chromium, Run All."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from ceylon_nb.testing import ModelServer

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"

ERRORS = """() => window.jupyterapp.shell.currentWidget.model.toJSON().cells
    .flatMap(cell => cell.outputs ?? []).filter(output => output.output_type === "error").length"""

pytestmark = pytest.mark.browser


def outputs(page: Page, cell: int) -> Any:
    return page.locator(".jp-Notebook .jp-CodeCell").nth(cell).locator(".jp-OutputArea-output")


def run_all(page: Page, code_cells: int) -> None:
    page.evaluate("() => window.jupyterapp.commands.execute('notebook:run-all-cells')")
    last = page.locator(".jp-Notebook .jp-CodeCell").nth(code_cells - 1).locator(".jp-InputArea-prompt")
    expect(last).to_have_text(f"[{code_cells}]:", timeout=60_000)


@pytest.mark.parametrize("name", sorted(path.name for path in NOTEBOOKS.glob("*.ipynb")))
def test_run_all(lab: Any, page: Page, screenshot: Any, name: str) -> None:
    shutil.copy(NOTEBOOKS / name, lab.root / name)
    page.set_viewport_size({"width": 1100, "height": 7000})  # all cells at once: the notebook draws only what is seen
    lab.open(page, name)
    cells = [cell for cell in json.loads((NOTEBOOKS / name).read_text())["cells"] if cell["cell_type"] == "code"]
    run_all(page, len(cells))
    meant = sum("raises-exception" in cell["metadata"].get("tags", ()) for cell in cells)
    screenshot("done")
    assert page.evaluate(ERRORS) == meant


BEGIN = """import asyncio
from ceylon_nb import LlmAgent
go_on = asyncio.Event()
async def hold(messages):
    await go_on.wait()
    return "noted"
run = LlmAgent("clerk", hold).map(["a"] * 40, "Note: {}", max_at_once=10)
run"""


def write(path: Path, sources: list[str]) -> None:
    cell = {"cell_type": "code", "metadata": {}, "outputs": [], "execution_count": None}
    notebook = {
        "cells": [{**cell, "id": f"c{at}", "source": source} for at, source in enumerate(sources)],
        "metadata": {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}},
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    path.write_text(json.dumps(notebook))


def test_the_line_in_the_cell(lab: Any, page: Page, screenshot: Any) -> None:
    sources = [BEGIN, "print('another cell')", "go_on.set(); frame = await run", "run"]
    write(lab.root / "line.ipynb", sources)
    lab.open(page, "line.ipynb")

    page.locator(".jp-CodeCell .cm-content").nth(0).click()
    page.keyboard.press("Shift+Enter")
    expect(outputs(page, 0)).to_have_count(1)  # the line; `run` as the last line adds nothing
    expect(outputs(page, 0)).to_contain_text("Note: {} · 0 of 40 · 10 in flight")
    page.keyboard.press("Shift+Enter")
    expect(outputs(page, 1)).to_have_text("another cell")
    screenshot("running")
    page.keyboard.press("Shift+Enter")
    expect(outputs(page, 0)).to_contain_text(re.compile(r"40 of 40 · done in"))
    expect(outputs(page, 1)).to_have_text("another cell")
    page.keyboard.press("Shift+Enter")
    expect(outputs(page, 3)).to_have_count(1)  # later, the line again
    expect(outputs(page, 3)).to_contain_text("40 of 40")
    screenshot("done")


def test_stop(lab: Any, page: Page, screenshot: Any) -> None:
    """■ of the toolbar: one line, and the notebook goes on."""
    write(
        lab.root / "stop.ipynb",
        [BEGIN.removesuffix("run"), "frame = await run", "go_on.set(); run.resume(); await run; run"],
    )
    lab.open(page, "stop.ipynb")
    page.locator(".jp-CodeCell .cm-content").nth(0).click()
    page.keyboard.press("Shift+Enter")
    expect(outputs(page, 0)).to_contain_text("10 in flight")
    page.keyboard.press("Shift+Enter")
    expect(page.locator(".jp-CodeCell .jp-InputArea-prompt").nth(1)).to_have_text("[*]:")
    page.get_by_role("button", name="Interrupt the kernel").click()
    expect(outputs(page, 1)).to_have_text("Interrupted: 0 of 40 answers are in run.frame; run.resume() goes on.")
    expect(outputs(page, 0)).to_contain_text("0 of 40 · 10 cancelled · cancelled in")
    page.locator(".jp-CodeCell .cm-content").nth(2).click()
    page.keyboard.press("Shift+Enter")
    expect(outputs(page, 2)).to_contain_text("40 of 40 · done in")
    screenshot("done")


def test_the_kernel_dies(lab: Any, page: Page, screenshot: Any, model_server: ModelServer) -> None:
    """SIGKILL in mid-run: the same cell again asks for what is missing, and says so."""
    model_server.reply = "noted"
    model_server.latency = lambda request: 0.0 if request.number <= 30 else 3600.0
    ask = f"""import os
import ceylon_nb
agent = ceylon_nb.LlmAgent("clerk", "ollama::mock", base_url="{model_server.url}")
run = agent.map([f"Review {{n}}" for n in range(100)], "Note: {{}}", name="a hundred")"""
    sources = [ask, "print(os.getpid())", 'ceylon_nb.batches().drop(columns="when")', "(await run).tail(3)"]
    write(lab.root / "dies.ipynb", sources)
    lab.open(page, "dies.ipynb")

    page.locator(".jp-CodeCell .cm-content").nth(0).click()
    page.keyboard.press("Shift+Enter")
    expect(outputs(page, 0)).to_contain_text("a hundred · 30 of 100 · 8 in flight")
    page.keyboard.press("Shift+Enter")
    expect(outputs(page, 1)).to_have_text(re.compile(r"^\d+\s*$"))
    os.kill(int(outputs(page, 1).inner_text()), signal.SIGKILL)
    model_server.wait_for(lambda seen: seen.aborted == 8)
    page.get_by_role("button", name="Ok").click(timeout=30_000)  # "The kernel … appears to have died"
    page.wait_for_function(
        "() => window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.status === 'idle'"
    )

    model_server.latency = 0.0
    page.locator(".jp-CodeCell .cm-content").nth(0).click()
    page.keyboard.press("Shift+Enter")
    expect(outputs(page, 0)).to_contain_text("a hundred · 30 from the store; fresh=True asks anew · 100 of 100 · done")
    page.locator(".jp-CodeCell .cm-content").nth(2).click()
    page.keyboard.press("Shift+Enter")
    expect(outputs(page, 2)).to_contain_text("a hundred")
    page.keyboard.press("Shift+Enter")
    expect(outputs(page, 3)).to_contain_text("noted")
    screenshot("done")
    assert model_server.received == 100 + 8
