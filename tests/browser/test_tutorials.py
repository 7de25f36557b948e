"""The tutorials as a person sees them: JupyterLab, Run All, the whole page in light and in dark."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import pytest
from playwright.sync_api import ConsoleMessage, Page, expect

from ..notebooks.tutorials import FOLDER, check, code_cells, each_tutorial
from .conftest import Lab
from .notebooks import Notebook

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]

CLEARED = """() => window.jupyterapp.commands.execute("notebook:clear-all-cell-outputs")"""
RUN_ALL = """() => void window.jupyterapp.commands.execute("notebook:run-all-cells")"""
NUMBERED = """count => {
    const last = window.jupyterapp.shell.currentWidget.model.toJSON().cells.findLast(cell => cell.cell_type === "code");
    return last.execution_count === count; }"""
MODEL = """() => window.jupyterapp.shell.currentWidget.model.toJSON()"""
HEIGHT = """() => {  // from the window's top to the last cell's end
    document.querySelector(".jp-NotebookPanel .jp-WindowedPanel-outer").scrollTop = 0;
    const cells = document.querySelectorAll(".jp-NotebookPanel .jp-Notebook .jp-Cell");
    return Math.ceil(cells[cells.length - 1].getBoundingClientRect().bottom) + 60; }"""
WHOLE = """() => {
    const { content } = window.jupyterapp.shell.currentWidget;
    content.notebookConfig = { ...content.notebookConfig, windowingMode: "none" }; }"""
THEME = "theme => window.jupyterapp.commands.execute('apputils:change-theme', { theme })"
BROKEN = ".jp-Notebook :text-matches('Loading widget|Error displaying widget|widget model not found', 'i')"


@pytest.fixture
def page(desk: Page) -> Page:
    desk.set_viewport_size({"width": 1100, "height": 1400})
    return desk


@pytest.fixture
def complaints(page: Page) -> Any:
    """What a script of ours complains about in the console: JupyterLab has complaints of its own."""
    seen: list[str] = []

    def said(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning") and "blob:" in message.location["url"]:  # anywidget loads ours as blobs
            seen.append(f"{message.type} {message.location} {message.text}")

    page.on("console", said)
    yield seen
    page.remove_listener("console", said)


@each_tutorial
@pytest.mark.parametrize("ipykernel", ["here", pytest.param("6.31", marks=pytest.mark.kernels)])
def test_run_all(
    lab: Lab,
    opened: Callable[[Path], Notebook],
    page: Page,
    complaints: list[str],
    screenshot: Any,
    request: pytest.FixtureRequest,
    tutorial: Path,
    ipykernel: str,
) -> None:
    folder = lab.root / f"{tutorial.stem}-{ipykernel}"  # a folder of its own, and so a store of its own
    shutil.copytree(FOLDER, folder, ignore=shutil.ignore_patterns(".*", "__pycache__"))
    notebook = nbformat.read(tutorial, as_version=4)
    notebook.metadata.kernelspec.name = lab.kernel(ipykernel)
    nbformat.write(notebook, folder / tutorial.name)
    opened(folder / tutorial.name)
    page.evaluate(WHOLE)
    page.evaluate(CLEARED)
    page.evaluate(RUN_ALL)
    count = len(code_cells(notebook))
    page.wait_for_function(NUMBERED, arg=count, timeout=240_000)
    try:
        for theme in ("JupyterLab Dark", "JupyterLab Light"):
            page.evaluate(THEME, theme)
            page.wait_for_function(f"() => document.body.dataset.jpThemeName === '{theme}'")
            expect(page.locator("#jupyterlab-splash")).to_have_count(0)
            page.set_viewport_size({"width": 1100, "height": page.evaluate(HEIGHT)})
            page.evaluate(HEIGHT)  # it may have scrolled
            screenshot(theme.split()[-1].lower())
    finally:
        page.evaluate(THEME, "JupyterLab Light")
    assert complaints == []
    expect(page.locator(BROKEN)).to_have_count(0)
    executed = nbformat.from_dict(page.evaluate(MODEL))
    for cell in code_cells(executed):
        for output in cell.outputs:
            output.get("data", {}).pop("image/svg+xml", None)  # JupyterLab's own drawing of a diagram
    check(executed, tutorial, request.session, displays=False)
