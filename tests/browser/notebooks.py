"""A notebook in JupyterLab, as a test writes, runs and reads it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nbconvert import HTMLExporter
from playwright.sync_api import Locator, Page, expect

OPEN = """async path => {
    const { commands, serviceManager } = window.jupyterapp;
    await serviceManager.kernelspecs.refreshSpecs();
    await commands.execute("docmanager:open", { path }); }"""
SETTLED = """async () => {
    const context = window.jupyterapp.shell.currentWidget.context;
    const late = new Promise((_, reject) => setTimeout(reject, 45e3, new Error("The kernel does not answer.")));
    const ready = async () => {
        await context.ready; await context.sessionContext.ready; await context.sessionContext.session.kernel.info; };
    await Promise.race([ready(), late]); }"""
CLEAR = """async () => {
    for (const widget of [...window.jupyterapp.shell.widgets("main")]) {
        const session = widget.context?.sessionContext;
        if (session?.session) await session.shutdown();
        widget.dispose();
    } }"""
RUN = """at => {
    const { shell, commands } = window.jupyterapp;
    shell.currentWidget.content.activeCellIndex = at;
    void commands.execute("notebook:run-cell"); }"""
COUNTS = """() => window.jupyterapp.shell.currentWidget.model.toJSON().cells.map(cell => cell.execution_count)"""


def write(path: Path, sources: list[str], kernel: str = "python3", **metadata: Any) -> None:
    """Write a notebook of code cells."""
    cell = {"cell_type": "code", "metadata": {}, "outputs": [], "execution_count": None}
    notebook = {
        "cells": [{**cell, "id": f"c{at}", "source": source} for at, source in enumerate(sources)],
        "metadata": {"kernelspec": {"name": kernel, "display_name": kernel, "language": "python"}},
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    path.write_text(json.dumps(notebook))


@contextmanager
def reading(page: Page, notebook: Path, folder: Path) -> Iterator[Page]:
    """A page that shows the notebook as nbconvert exports it, in the same browser."""
    html = folder / "exported.html"
    html.write_text(exported(notebook))
    with page.context.new_page() as reader:
        reader.goto(html.as_uri())
        yield reader


def exported(path: Path) -> str:
    """The notebook as nbconvert's HTML, which asks nobody for scripts."""
    exporter = HTMLExporter(mathjax_url="", require_js_url="", jquery_url="")
    html: str = exporter.from_filename(str(path))[0]
    return html


class Notebook:
    """The notebook that is open in a page, by the numbers of its cells, from 0."""

    def __init__(self, page: Page, path: Path) -> None:
        self.page = page
        self.path = path

    def settle(self) -> None:
        """Wait for its kernel: what is run before is swallowed."""
        self.page.wait_for_function("() => window.jupyterapp?.shell.currentWidget?.context")
        self.page.locator(".jp-Notebook .jp-CodeCell").first.wait_for()
        self.page.evaluate(SETTLED)

    def cell(self, at: int) -> Locator:
        return self.page.locator(".jp-Notebook .jp-CodeCell").nth(at)

    def outputs(self, at: int) -> Locator:
        return self.cell(at).locator(".jp-OutputArea-output")

    @property
    def panel(self) -> Panel:
        return Panel(self.page.locator(".ceylon-panel").first)

    def panel_in(self, at: int) -> Panel:
        return Panel(self.cell(at).locator(".ceylon-panel"))

    def begin(self, at: int) -> None:
        """Run a cell, and do not wait for its end."""
        self.page.evaluate(RUN, at)

    def run(self, at: int) -> None:
        """Run a cell to its end."""
        self.begin(at)
        self.ended(at)

    def ended(self, at: int) -> None:
        expect(self.cell(at).locator(".jp-InputArea-prompt")).to_have_text(re.compile(r"\[\d+\]:"), timeout=60_000)

    def runs(self, at: int) -> None:
        expect(self.cell(at).locator(".jp-InputArea-prompt")).to_have_text("[*]:")

    def counts(self) -> list[int | None]:
        """Each cell's execution count, as the front end has it: what was run, and which cells there are."""
        counts: list[int | None] = self.page.evaluate(COUNTS)
        return counts

    def save(self) -> dict[str, Any]:
        """Save it, and read what is on disk."""
        self.page.evaluate("() => window.jupyterapp.commands.execute('docmanager:save')")
        saved: dict[str, Any] = json.loads(self.path.read_text())
        return saved


class Panel:
    """One view of a panel."""

    def __init__(self, root: Locator) -> None:
        self.root = root

    def part(self, name: str) -> Locator:
        return self.root.locator(f".ceylon-{name}")

    def button(self, what: str) -> Locator:
        return self.root.locator(f'[data-do="{what}"]')

    def step(self, way: str) -> Locator:
        return self.root.locator(f'[data-step="{way}"]')

    def chip(self, show: str) -> Locator:
        return self.root.locator(f'[data-show="{show}"]')

    def row(self, position: int) -> Locator:
        return self.root.locator(f'.ceylon-row[data-position="{position}"]')

    @property
    def rows(self) -> Locator:
        return self.root.locator(".ceylon-row")

    def has_done(self, count: int) -> None:
        expect(self.part("count-done")).to_have_text(f"{count:,}")

    def bar(self, part: str) -> Locator:
        return self.root.locator(f'.ceylon-bar [data-part="{part}"]')

    @property
    def find(self) -> Locator:
        return self.part("find")
