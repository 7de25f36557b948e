"""A mesh in JupyterLab: its diagram is drawn by the real Mermaid, and nothing that was said is markup or a command."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, expect

from .conftest import Open
from .test_hostile import CONTROL, HOSTILE, MARKUP, WIDER

pytestmark = pytest.mark.browser

NAMES = [
    *list(HOSTILE.values())[:-1],
    *(
        "two words",
        "\"double\" and 'single'",
        "end",
        "END",
        "a;b",
        "#59; # a",
        "%%{init: {}}%%",
        "a:b",
        "as",
        "wrap: it",
    ),
    *(
        "participant a0 as x",
        "a->>b: c",
        "Note over a0: x",
        "$$x^2$$",
        "**bold** _it_",
        "back\\nslash",
        "@{a}",
        "style",
    ),
    *("N" * 1000, "N" * 1001, "ﬂ°°60¶ß", "<br>", "日本語", "", " ", "0", "1.5", "a_b-c.d", "sequenceDiagram", "|||"),
]

SETUP = f"""
from types import SimpleNamespace
from ceylon_nb.views.mermaid import Diagram
names = {NAMES!r}
def passage(n, sender, target, said, kind="query", **more):
    return SimpleNamespace(**{{**dict(number=n, at=float(n), sender=sender, target=target, kind=kind, said=said,
        waited=0.0, latency=0.5, answer="ok " + said, error=None, tokens=None), **more}})
"""

DRAWN = """node => new Promise((done, failed) => {
    const image = new Image(); image.onload = () => done(null);
    image.onerror = () => failed(new Error("no picture")); image.src = node.src; })"""


@pytest.fixture
def page(desk: Page) -> Page:
    desk.set_viewport_size({"width": 1100, "height": 1600})
    return desk


def picture(output: Locator) -> str:
    """The text of a diagram that was drawn, as the picture has it."""
    image = output.locator("figure img")
    expect(image).to_be_visible()
    image.evaluate(DRAWN)
    text = image.evaluate(
        """async node => { const svg = await (await fetch(node.src)).text();
        const tree = new DOMParser().parseFromString(svg, "image/svg+xml");
        if (tree.querySelector("parsererror")) throw new Error(tree.querySelector("parsererror").textContent);
        for (const bad of tree.querySelectorAll("script, iframe, a, [onload], [onerror], img"))
            throw new Error("markup: " + bad.outerHTML);
        return [...tree.querySelectorAll("text")].map(node => node.textContent).join("\\n"); }"""
    )
    assert isinstance(text, str)
    assert "Syntax error" not in text
    return text


def test_hostile_names_and_messages_are_drawn(notebook: Open, page: Page, screenshot: Any) -> None:
    book = notebook(
        SETUP + "said = [passage(n, None if n % 7 == 0 else names[n - 1], name, name, "
        "kind=('query', 'message', 'broadcast', 'submit')[n % 4], error=name if n % 5 == 0 else None) "
        "for n, name in enumerate(names)]\n"
        "for n in range(0, len(said), 8): display(Diagram(said[n:n + 8]))",
        "from ceylon_nb.views.mermaid import _name\nimport json\nprint(json.dumps([_name(name) for name in names]))",
    )
    book.run(0)
    book.run(1)
    names = json.loads(book.outputs(1).inner_text())
    expect(book.outputs(0)).to_have_count(-(-len(names) // 8))
    shown = [picture(output) for output in book.outputs(0).all()]
    screenshot("diagram")
    for number, name in enumerate(names):
        assert re.sub(r"\s", "", name) in re.sub(r"\s", "", shown[number // 8])
    assert page.evaluate(CONTROL) is None
    assert page.evaluate(WIDER) == []


@pytest.mark.parametrize("count", [0, 1, 50])
def test_so_many_messages_are_drawn(count: int, notebook: Open, screenshot: Any) -> None:
    each = "passage(n, f'agent {n % 4}', f'agent {(n + 1) % 4}', f'message {n}', kind='action' if n == 3 else 'query')"
    book = notebook(SETUP + f"Diagram([{each} for n in range({count})])")
    book.run(0)
    shown = picture(book.outputs(0))
    screenshot(str(count))
    assert [text in shown for text in ("no messages yet", "agent 1", "message 49")] == [
        not count,
        count > 0,
        count > 49,
    ]


MESH = f"""
import logging
logging.getLogger("ceylon_nb").setLevel("CRITICAL")
from ceylon_nb import LlmAgent
from ceylon_nb.agents.agent import Agent
from ceylon_nb.agents.mesh import LocalMesh
class Clerk(Agent):
    def on_message(self, message, context=None):
        if "script" in message:
            raise ValueError(message)
        return message
hostile = {list(HOSTILE.values())[:-1]!r} + ["W" * 10_000]
mesh = LocalMesh(hostile[0])
mesh.add_agent(LlmAgent("writer", "demo::instant"), max_at_once=4)
for name in hostile:
    mesh.add_agent(Clerk(name))
for text in hostile:
    try:
        await mesh.query(text, text)
    except ValueError:
        pass
await mesh.send_to("writer", "What is Python?")
await mesh.drain()
"""


@pytest.mark.parametrize("theme", ["JupyterLab Light", "JupyterLab Dark"])
def test_a_mesh_and_its_diagram(theme: str, notebook: Open, page: Page, screenshot: Any) -> None:
    book = notebook(MESH + "mesh", "mesh.diagram()", "mesh.diagram(last=3)")
    page.evaluate("theme => window.jupyterapp.commands.execute('apputils:change-theme', { theme })", theme)
    try:
        book.run(0)
        shown = book.outputs(0)
        expect(shown.locator("table")).to_have_count(2)
        expect(shown.locator("table").first.locator("tbody tr")).to_have_count(len(HOSTILE) + 1)
        expect(shown).to_contain_text("demo::instant")
        expect(shown).to_contain_text(HOSTILE["script"])
        expect(shown).to_contain_text("Python is a general-purpose")
        screenshot("wide")
        page.set_viewport_size({"width": 500, "height": 1600})
        screenshot("narrow")
        expect(shown.locator(MARKUP)).to_have_count(0)
        assert page.evaluate(CONTROL) is None
        assert page.evaluate(WIDER) == []
        page.set_viewport_size({"width": 1100, "height": 1600})
        book.run(1)
        assert "What is Python?" in re.sub(r"\s+", " ", picture(book.outputs(1)))
        book.run(2)
        picture(book.outputs(2))
        screenshot("diagram")
        assert page.evaluate(CONTROL) is None
    finally:
        page.evaluate(
            "() => window.jupyterapp.commands.execute('apputils:change-theme', { theme: 'JupyterLab Light' })"
        )
