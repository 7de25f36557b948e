"""What a model, a cell, a column or a server says is text wherever it is shown: nothing runs, the layout holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, expect

from ceylon_nb.testing import ModelServer, faults

from .conftest import Open
from .notebooks import Panel, reading
from .tap import Tap

pytestmark = pytest.mark.browser

RUNS = "window.__hacked = 1"
IMAGE = f'<img src=x onerror="{RUNS}">'
HOSTILE = {
    "image": IMAGE,
    "script": f"<script>{RUNS}</script>",
    "style": "</style><style>* { display: none }</style>",
    "title": f"</title></textarea></script><svg onload='{RUNS}'>",
    "frame": f'<iframe srcdoc="<script>parent.{RUNS}</script>"></iframe>',
    "link": f"[click](javascript:{RUNS}) <a href='javascript:{RUNS}'>here</a> <javascript:{RUNS}>",
    "math": rf"$\href{{javascript:{RUNS}}}{{click}} \rule{{99em}}{{99em}}$ costs $5 or $6",
    "entities": "&lt;b&gt; &amp;amp; &#60;script&#62;",
    "template": "{{constructor.constructor('window.__hacked = 1')()}} ${7*7} {0} %s",
    "rtl": "\u202egpj.exe\u202c \u2067שלום עולם\u2069 مرحبا \u202dabc",
    "emoji": "👩‍👩‍👧‍👦 🏳️‍🌈 e\u0301\u0301\u0301\u0301 Z͑ͫ̓ͪ̂ͫ̽͏̴̙̤̞͉͚̯A\u200b\u200bB",
    "ansi": "\x1b[31mred\x1b[0m \x1b]8;;javascript:1\x07link\x1b]8;;\x07 \x1b[2J\x1b[999D bell\x07 nul\x00 del\x7f",
    "lines": "one\r\ntwo\u2028three\x85four\x0bfive",
    "long": "W" * 1_000_000,
}
"""Each is a prompt, its reply, and its label in the index."""

SEEN = {"rtl": "gpj.exe", "ansi": "red", "lines": "two", "emoji": "👩‍👩‍👧‍👦", "long": "W" * 40}
"""What is looked for, where it is not the whole text."""

MARKUP = "img, script, style, iframe, a, [onload], [onerror], mjx-container, .MathJax"
WIDER = """() => [document.documentElement, ...document.querySelectorAll(".jp-Notebook, .jp-OutputArea-output")]
    .filter(node => node.scrollWidth > node.clientWidth + 1).map(node => node.outerHTML.slice(0, 200))"""
CONTROL = """() => new Promise(done => {
    const image = new Image(); image.onerror = done; image.src = "x"; }).then(() => window.__hacked ?? null)"""
ASK = f"agent.map(df, {'{' + IMAGE + '}'!r}, store=None, name={HOSTILE['script']!r}"


@pytest.fixture
def page(desk: Page) -> Page:
    desk.set_viewport_size({"width": 1100, "height": 1600})
    return desk


@pytest.fixture
def setup(model_server: ModelServer) -> str:
    """The source of a cell that makes an agent, and the hostile texts."""
    model_server.reply = lambda messages: messages[-1]["content"]
    return f"""import pandas as pd
from ceylon_nb import LlmAgent
agent = LlmAgent({IMAGE!r}, "ollama::mock", base_url="{model_server.url}", attempts=1)
hostile = {[*HOSTILE.values()][:-1]!r} + ["W" * 1_000_000]
df = pd.DataFrame({{{IMAGE!r}: hostile}}, index=hostile)
"""


def harmless(page: Page, *shown: Locator) -> None:
    """By the time an image of ours could not be loaded nothing has run; nothing is markup; nothing sticks out."""
    assert page.evaluate(CONTROL) is None
    for each in shown:
        expect(each.locator(MARKUP)).to_have_count(0)
    assert page.evaluate(WIDER) == []


def test_in_the_panel(notebook: Open, model_server: ModelServer, setup: str, page: Page, screenshot: Any) -> None:
    tap = Tap(model_server)
    book = notebook(f"{setup}run = {ASK}, max_at_once=1)", f"failing = {ASK}, max_at_once=1)")
    book.run(0)
    panel = book.panel_in(0)
    tap.let(len(HOSTILE) - 1)
    panel.has_done(len(HOSTILE) - 1)
    expect(panel.part("title")).to_have_text(HOSTILE["script"])
    expect(panel.part("subtitle")).to_contain_text(IMAGE)
    screenshot("running")
    panel.root.locator(".ceylon-order").click()
    panel.part("rows").focus()
    page.keyboard.press("Home")
    page.keyboard.press("Enter")
    for name, text in list(HOSTILE.items())[:-1]:
        for part in ("asked", "said"):
            expect(panel.part(f"part-{part}")).to_contain_text(SEEN.get(name, text))
        assert panel.root.evaluate("node => node.scrollWidth <= node.clientWidth")
        page.keyboard.press("ArrowDown")
    expect(panel.part("part-asked")).to_contain_text(SEEN["long"])
    screenshot("long")
    page.keyboard.press("Escape")
    harmless(page, panel.root)
    assert heights(panel) == (True, 1)

    tap.let(1)
    expect(book.outputs(0)).to_contain_text(f"{len(HOSTILE)} answers")
    harmless(page, book.outputs(0))
    book.run(1)
    panel = book.panel_in(1)
    tap.let(4)
    tap.let(4, faults.status(400, json.dumps({"error": IMAGE + HOSTILE["script"] + HOSTILE["rtl"]})))
    tap.let(1, faults.status(400, IMAGE))
    panel.has_done(9)
    panel.chip("failed").click()
    panel.rows.last.click()
    expect(panel.part("error")).to_contain_text(IMAGE + HOSTILE["script"])
    screenshot("failed")
    harmless(page, panel.root)
    assert heights(panel) == (True, 1)


def heights(panel: Panel) -> tuple[bool, int]:
    """Whether the panel is as low as it should be, and in how many ways its rows are high and wide."""
    sizes = "nodes => new Set(nodes.map(node => `${node.offsetHeight} ${node.lastChild.offsetLeft}`)).size"
    ways: int = panel.rows.evaluate_all(sizes)
    return bool(panel.root.evaluate("node => node.offsetHeight <= 320")), ways


def test_in_what_lasts(
    notebook: Open, model_server: ModelServer, setup: str, page: Page, tmp_path: Path, screenshot: Any
) -> None:
    """In the summary, as it is seen in JupyterLab and in nbconvert's HTML."""
    runs = f"""
for first in range(0, len(df), 5):
    await {ASK.replace("df", "df[first : first + 5]")})
fails = {ASK.replace("df", "df[:4]")})
await fails
None"""
    error = faults.status(400, json.dumps({"error": IMAGE + HOSTILE["script"] + HOSTILE["rtl"]}))
    model_server.plan = lambda request: error if request.number > len(HOSTILE) else None
    book = notebook(setup + runs)
    book.run(0)
    expect(book.outputs(0)).to_have_count(4)
    for name, text in HOSTILE.items():
        expect(book.cell(0).locator(".jp-OutputArea")).to_contain_text(SEEN.get(name, text))
    expect(book.outputs(0).last).to_contain_text(IMAGE + HOSTILE["script"])
    screenshot("summary")
    harmless(page, book.outputs(0))
    book.save()

    with reading(page, book.path, tmp_path) as reader:
        shown = reader.locator(".jp-OutputArea-output")
        expect(shown).to_have_count(4)
        for name, text in HOSTILE.items():
            expect(reader.locator(".jp-OutputArea")).to_contain_text(SEEN.get(name, text))
        harmless(reader, shown)


def test_in_a_stream(
    notebook: Open, model_server: ModelServer, setup: str, page: Page, tmp_path: Path, screenshot: Any
) -> None:
    """While it grows; as Markdown; and as the text that it is, where it is too long for that."""
    tap = Tap(model_server, said=60)
    streams = ["agent.stream('# Title\\n\\n' + '\\n\\n'.join(hostile[:-1]))", "agent.stream(hostile[-1])"]
    book = notebook(setup + streams[0], streams[1])
    book.run(0)
    expect(book.outputs(0)).to_contain_text(f"# Title\n\n{IMAGE}")
    screenshot("growing")
    harmless(page, book.outputs(0))
    tap.let(1)
    expect(book.outputs(0).locator("h1")).to_have_text("Title")
    decoded = "<b> &amp; <script>"  # as Markdown has it
    for name, text in list(HOSTILE.items())[:-1]:
        expect(book.outputs(0)).to_contain_text(decoded if name == "entities" else SEEN.get(name, text))
    screenshot("markdown")
    harmless(page, book.outputs(0))
    tap.let(1)
    book.run(1)
    expect(book.outputs(1)).to_contain_text("W" * 1_000_000)
    harmless(page, book.outputs(0), book.outputs(1))
    book.save()

    with reading(page, book.path, tmp_path) as reader:
        shown = reader.locator(".jp-OutputArea-output")
        expect(shown).to_have_count(2)
        expect(shown.first).to_contain_text(HOSTILE["script"])
        harmless(reader, shown)
