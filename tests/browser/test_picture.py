"""The README's pictures: a batch with all that can be seen at once, in its midst, in both themes.

``CEYLON_SCREENSHOTS=docs python -m pytest -m "browser and soak"`` makes them anew.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from ceylon_nb.testing import ModelServer, faults
from ceylon_nb.testing.faults import Fault
from ceylon_nb.testing.witness import Request

from .conftest import Lab
from .notebooks import Notebook, write

pytestmark = [pytest.mark.browser, pytest.mark.soak, pytest.mark.timeout(300)]

REVIEWS = (
    "Works like a charm.",
    "Stopped working after a week, and nobody answers the phone.",
    "Does what it says, nothing more.",
    "Great value, would buy it again.",
    "It boils water.",
    "The hinge broke in the second week.",
    "Five stars for the battery alone.",
    "<script>alert('hi')</script> best toaster ever",
)

REPLIES = {
    "charm": "positive. The reviewer is content.",
    "Stopped": "negative. The reviewer reports a defect.",
    "nothing more": "neutral.",
    "value": "positive. The reviewer would buy it again.",
    "boils": "neutral.",
    "hinge": "negative. The reviewer reports a broken part.",
    "battery": "positive. The reviewer praises the battery.",
    "toaster": "positive.",
}


def reply(messages: list[dict[str, str]]) -> str:
    asked = messages[-1]["content"]
    return next(text for word, text in REPLIES.items() if word in asked)


@pytest.fixture
def page(chromium: Browser) -> Iterator[Page]:
    """Sharp, as on a good screen."""
    context = chromium.new_context(viewport={"width": 1000, "height": 900}, device_scale_factor=2)
    yield context.new_page()
    context.close()


def test_in_the_midst_of_a_batch(lab: Lab, page: Page, tmp_path: Path) -> None:
    agent = f"""import pandas as pd
from ceylon_nb import LlmAgent
texts = {REVIEWS!r}
reviews = pd.DataFrame({{"text": [texts[at % len(texts)] for at in range(3000)]}})
agent = LlmAgent("clerk", "ollama::llama3.2", base_url="URL", attempts=2)
frame = await agent.map(reviews.head(600), "Classify the review: {{text}}", view=None)"""
    seen = 'run = agent.map(reviews, "Classify the review: {text}", stream=True)'
    with ModelServer(reply=reply, latency=0.25, token_interval=0.05, parallel=24) as server:
        write(lab.root / "picture.ipynb", [agent.replace("URL", server.url), seen])
        lab.open(page, "picture.ipynb")
        book = Notebook(page, lab.root / "picture.ipynb")
        server.latency = 0
        book.run(0)
        server.reset()
        server.latency = 0.25
        chance = random.Random(7)

        def plan(request: Request) -> Fault | None:
            if request.number == 700:
                return faults.rate_limited(4)
            return faults.status(500) if "hinge" in request.prompt and chance.random() < 0.3 else None

        server.plan = plan
        book.begin(1)
        panel = book.panel
        expect(panel.part("note")).to_contain_text("The server works on", timeout=90_000)
        page.wait_for_function(
            "() => +document.querySelector('.ceylon-count-done').textContent.replace(',', '') > 1850", timeout=90_000
        )
        folder = Path(os.environ.get("CEYLON_SCREENSHOTS", tmp_path))
        folder.mkdir(parents=True, exist_ok=True)
        cell = book.cell(1)
        page.evaluate(
            "() => { window.jupyterapp.shell.currentWidget.content.activeCellIndex = 0; }"
        )  # no frame, no tools
        cell.screenshot(path=folder / "live-panel.png")
        page.evaluate("() => window.jupyterapp.commands.execute('apputils:change-theme', {theme: 'JupyterLab Dark'})")
        page.wait_for_timeout(700)  # its style sheet
        cell.screenshot(path=folder / "live-panel-dark.png")
        expect(panel.part("counts")).to_contain_text("600 from the store")
        expect(panel.chip("failed")).not_to_have_text("Failed 0")
        panel.button("cancel").click()
