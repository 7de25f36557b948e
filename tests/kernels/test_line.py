"""The line in the cell: where somebody watches, and nothing where nobody does."""

from __future__ import annotations

import re

from .conftest import Start
from .kernel import Cell

MAP = """
from ceylon_nb import LlmAgent
run = LlmAgent("clerk", "demo::instant").map(["What is AI?"] * 30 + [""], "{}", name="Ask", view=VIEW)
frame = await run
"""


def shown(cell: Cell) -> list[tuple[str, str]]:
    """Kind and text of each output."""
    return [
        (kind, content["text"] if kind == "stream" else content["data"]["text/plain"]) for kind, content in cell.outputs
    ]


def test_shown_once_and_kept_up_to_date(start: Start) -> None:
    kernel = start(JPY_SESSION_NAME="test.ipynb")
    kinds, texts = zip(*shown(kernel.run(MAP.replace("VIEW", "'auto'") + "run")), strict=True)
    assert kinds[0] == "display_data"
    assert set(kinds[1:]) == {"update_display_data"}  # and `run` as the last line adds nothing
    assert re.fullmatch(r"Ask · 31 of 31 · 1 failed · done in \d\.\d s", texts[-1])

    [(kind, text), *_] = shown(kernel.run("run"))  # a later cell shows it again
    assert kind == "display_data"
    assert "31 of 31" in text
    assert kernel.run("print(run)").text == "Batch(30 ok, 1 failed of 31)\n"


def test_where_nobody_watches_a_batch_is_its_repr(start: Start) -> None:
    kernel = start()
    for view in ["None", "'auto'"]:
        assert shown(kernel.run(MAP.replace("VIEW", view) + "run")) == [
            ("execute_result", "Batch(30 ok, 1 failed of 31)")
        ]
    outputs = shown(kernel.run(MAP.replace("VIEW", "'line'")))  # it can be asked for
    assert outputs[0][0] == "display_data"
    assert outputs[-1][1].startswith("Ask · 31 of 31")


def test_switched_off(start: Start) -> None:
    assert start(JPY_SESSION_NAME="test.ipynb", CEYLON_NB_VIEW="off").run(MAP.replace("VIEW", "'auto'")).outputs == []


def test_a_reply_as_the_last_line_shows_its_text(start: Start) -> None:
    code = "from ceylon_nb import LlmAgent\nawait LlmAgent('a', 'demo::instant').send_message('What is AI?')"
    assert start().run(code).result.startswith("AI is")
