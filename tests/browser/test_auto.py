"""How many at once, found out: the panel says what was found, and its buttons leave that and come back to it."""

from __future__ import annotations

import re
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from ceylon_nb.testing import ModelServer

from .conftest import Open

pytestmark = pytest.mark.browser


@pytest.fixture
def page(desk: Page) -> Page:
    desk.set_viewport_size({"width": 1100, "height": 900})
    return desk


def test_what_the_server_works_on_is_found_and_said(notebook: Open, model_server: ModelServer, screenshot: Any) -> None:
    model_server.latency = 0.2
    model_server.parallel = 4
    model_server.stop()
    model_server.start()
    model_server.reply = lambda messages: f"noted: {messages[-1]['content']}"
    ask = f"""from ceylon_nb import LlmAgent
agent = LlmAgent("clerk", "ollama::mock", base_url="{model_server.url}")
texts = [f"row {{at}}" for at in range(2000)]
run = agent.map(texts, "Note: {{}}", store=None)"""
    book = notebook(ask, "run.max_at_once", "print(run.summary())")
    book.run(0)
    panel = book.panel
    auto = panel.step("auto")
    expect(auto).to_have_attribute("aria-pressed", "true")
    note = panel.part("note")
    expect(note).to_have_text(
        re.compile(r"^The server works on [345] at a time; for Ollama, OLLAMA_NUM_PARALLEL raises that\.$"),
        timeout=30_000,
    )
    screenshot("found")

    panel.step("up").click()  # a number of one's own
    expect(auto).to_have_attribute("aria-pressed", "false")
    expect(note).to_be_hidden()
    mine = panel.part("at-once").inner_text()
    book.run(1)
    assert mine in book.outputs(1).inner_text()
    auto.click()
    expect(auto).to_have_attribute("aria-pressed", "true")
    expect(note).to_be_visible()

    auto.click()  # as many as there are now
    expect(auto).to_have_attribute("aria-pressed", "false")
    auto.click()
    expect(auto).to_have_attribute("aria-pressed", "true")
    panel.button("cancel").click()
    book.run(2)
    assert re.search(
        r"the server works on \d at a time; for Ollama, OLLAMA_NUM_PARALLEL raises that", book.outputs(2).inner_text()
    )
    screenshot("left")
