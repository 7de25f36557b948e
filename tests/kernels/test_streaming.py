"""A stream in its cell: it grows there, and what is left is its Markdown; once, wherever it is read."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from ceylon_nb.testing import ModelServer, faults

from .conftest import SET_UP, Start
from .kernel import Cell, Kernel
from .test_interrupts import CLOSED, ONE_LINE, press

STORY = "# Title\n\nOnce *upon* a <b>time</b>." + " And then" * 20
END = "<h1>Title</h1>"


@pytest.fixture
def server(server: ModelServer) -> ModelServer:
    server.reply, server.token_interval = STORY, 0.02
    return server


@pytest.fixture
def kernel(kernel: Kernel) -> Iterator[Kernel]:
    """One that shows things."""
    kernel.run("import os; os.environ['CEYLON_NB_VIEW'] = 'auto'")
    yield kernel
    kernel.run("os.environ['CEYLON_NB_VIEW'] = 'off'")


@pytest.fixture
def watched(kernel: Kernel) -> Iterator[Kernel]:
    """A kernel that somebody watches."""
    kernel.run("import os; os.environ['JPY_SESSION_NAME'] = 'test.ipynb'")
    yield kernel
    kernel.run("del os.environ['JPY_SESSION_NAME']")


def shown(cell: Cell) -> list[tuple[str, dict[str, str]]]:
    """Kind and bundle of each output; text or not."""
    return [(kind, content.get("data", content)) for kind, content in cell.outputs]


def displays(cell: Cell, *later: Cell) -> dict[str, list[dict[str, str]]]:
    """What each display showed, one after the other; `cell` put out nothing else.

    An update may come as a later cell's: it is found by the display's id.
    """
    assert {kind for kind, _ in cell.outputs} <= {"display_data", "update_display_data"}
    found: dict[str, list[dict[str, str]]] = {}
    for each in (cell, *later):
        for kind, content in each.outputs:
            if kind == "display_data":
                found[content["transient"]["display_id"]] = [content["data"]]
    for each in (cell, *later):
        for kind, content in each.outputs:
            if kind == "update_display_data":
                found[content["transient"]["display_id"]].append(content["data"])
    return found


def ends(*cells: Cell) -> int:
    """How often they showed the end."""
    return str([cell.outputs for cell in cells]).count(END)


def grew(bundles: list[dict[str, str]]) -> None:
    """Check that it was shown from its beginning, in pieces, to its end."""
    first, *_, before, last = [bundle["text/plain"] for bundle in bundles]
    assert first == "…" or STORY.startswith(first)
    assert STORY.startswith(before)
    assert 0 < len(before) < len(STORY)
    assert last == STORY
    lengths = [len(bundle["text/plain"]) for bundle in bundles]
    assert lengths == sorted(lengths)
    assert "&lt;b&gt;time&lt;/b&gt;" in bundles[-2]["text/html"]
    assert all(part in bundles[-1]["text/html"] for part in (END, "<em>upon</em>", "&lt;b&gt;time&lt;/b&gt;"))


def test_as_the_last_line_it_grows_while_the_kernel_is_free(watched: Kernel, server: ModelServer) -> None:
    cell = watched.run("agent.stream('a')")
    assert not ends(cell)
    other = watched.run("1 + 1")
    assert other.result == "2"
    watched.until(lambda: ends(cell, other))
    [bundles] = displays(cell, other).values()
    assert bundles[0]["text/plain"] == "…"
    grew(bundles)
    assert server.received == 1


@pytest.mark.parametrize(
    "code",
    [
        "reply = await agent.stream('a').show()",
        "async for text in agent.stream('a').show(): pass",
        "stream = agent.stream('a').show()\nasync for text in stream: pass\nstream",
        "stream = agent.stream('a').show()\nawait stream; await stream\nstream.show()",
    ],
)
def test_shown_while_somebody_reads(watched: Kernel, server: ModelServer, code: str) -> None:
    cell = watched.run(code)
    [bundles] = displays(cell).values()
    grew(bundles)
    assert server.received == 1


def test_shown_again_while_it_grows_and_when_it_has_ended(watched: Kernel, server: ModelServer) -> None:
    first = watched.run("stream = agent.stream('a')\nstream")
    second = watched.run("stream")
    watched.until(lambda: ends(first, second) == 2)
    one, other = displays(first, second).values()
    grew(one)
    grew(other)
    as_in_nbval = "get_ipython().execution_count -= 1\nstream"  # which never counts
    [[bundle]] = displays(watched.run(as_in_nbval)).values()
    assert bundle == one[-1] == other[-1]
    assert server.received == 1


def test_what_the_view_has_read_can_be_read(watched: Kernel, server: ModelServer) -> None:
    """And the cell that waits for it puts out the end itself, as nobody knows what becomes of the background's."""
    cell = watched.run("stream = agent.stream('a')\nstream")
    reading = watched.run("reply = await stream; texts = [text async for text in stream]")
    assert ends(cell, reading) == 2
    assert shown(reading)[-1][0] == "update_display_data"
    [bundles] = displays(cell, reading).values()
    assert bundles[-1] == bundles[-2]
    assert watched.value("[reply, ''.join(texts)]") == [STORY, STORY]
    assert server.received == 1


LAST = {
    "the last line": "agent.stream('a')",
    "await": "reply = await agent.stream('a').show()",
    "async for": "async for text in agent.stream('a').show(): pass",
    "all of these": "stream = agent.stream('a').show()\nasync for text in stream: pass\nawait stream\nstream",
}


@pytest.mark.parametrize("code", LAST)
def test_where_nobody_watches_the_end_is_shown_once(kernel: Kernel, server: ModelServer, code: str) -> None:
    cell = kernel.run(LAST[code])
    [[bundle]] = displays(cell).values()
    assert sorted(bundle) == ["text/html", "text/plain"]
    assert bundle["text/plain"] == STORY
    assert END in bundle["text/html"]
    assert server.received == 1


def test_switched_off(watched: Kernel, server: ModelServer) -> None:
    watched.run("os.environ['CEYLON_NB_VIEW'] = 'off'")
    try:
        assert watched.run("stream = agent.stream('a').show()\nstream").result == "Stream(0 characters so far)"
        assert server.received == 0
        assert watched.run("reply = await stream.show()").outputs == []
        assert watched.run("print(stream)").text == f"Stream({len(STORY)} characters)\n"
    finally:
        watched.run("os.environ['CEYLON_NB_VIEW'] = 'auto'")


def test_an_error_is_a_line_in_the_view_and_raised_at_the_reader(watched: Kernel, server: ModelServer) -> None:
    server.next(faults.status(400, body='{"error": "<img src=x onerror=alert(1)>"}'))
    cell = watched.run("stream = agent.stream('a')\nstream")
    watched.until(lambda: "BadRequest" in shown(cell)[-1][1]["text/html"])
    page = shown(cell)[-1][1]["text/html"]
    assert "&lt;img src=x onerror=alert(1)&gt;" in page
    assert "<img" not in page
    assert shown(cell)[-1][1]["text/plain"].startswith("BadRequest: ")
    assert watched.run("await stream").error[0] == "BadRequest"
    said = watched.run("del stream, _, __, ___; Out.clear(); import gc; gc.collect(); await asyncio.sleep(0)")
    assert said.text == ""  # no word of an exception that nobody looked at
    assert server.received == 1


def test_an_error_in_the_midst(watched: Kernel, server: ModelServer) -> None:
    server.next(faults.cut(3))
    cell = watched.run("async for text in agent.stream('a').show(): pass")
    assert cell.error[0] == "ConnectionLost"
    *_, (_, bundle), _ = shown(cell)
    text, _, error = bundle["text/plain"].rpartition("\n")
    assert STORY.startswith(text)
    assert text
    assert error.startswith("ConnectionLost: ")


@pytest.mark.parametrize(
    "code",
    ["await agent.stream('a').show()", "async for text in agent.stream('a').show(): await asyncio.sleep(0)"],
)
def test_interrupted(watched: Kernel, server: ModelServer, code: str) -> None:
    server.next(faults.hang(after=3))
    cell = watched.begin(code)
    watched.until(lambda: "Once" in str(shown(cell)[-1:]))
    assert press(watched, server, cell) < CLOSED
    assert cell.traceback == ONE_LINE
    watched.until(lambda: any("closed before its end" in str(bundle) for _, bundle in shown(cell)))
    assert (server.aborted, server.received) == (1, 1)


def test_left_early(watched: Kernel, server: ModelServer) -> None:
    """Nothing that shows it keeps it open."""
    server.next(faults.hang(after=3))
    cell = watched.run("gc.disable() if 'gc' in globals() else None\nasync for text in agent.stream('a').show(): break")
    server.wait_for(lambda seen: (seen.active, seen.aborted) == (0, 1))
    watched.until(lambda: "closed before its end" in str(shown(cell)[-1]))


@pytest.mark.parametrize("word", ["word ", "a<b>&c" * 8 + " "], ids=["often", "much"])
def test_what_goes_to_the_browser_stays_within_bounds(start: Start, server: ModelServer, word: str) -> None:
    """In a kernel of its own: to send what is large, pyzmq begins a thread, and keeps it."""
    kernel = start(JPY_SESSION_NAME="test.ipynb", OLLAMA_HOST=server.url)
    kernel.run(SET_UP)
    server.reply, server.token_interval = word * 1000, 0.004
    began = time.monotonic()
    cell = kernel.run("reply = await agent.stream('a').show()")
    seconds = time.monotonic() - began
    [bundles] = displays(cell).values()
    sizes = [len(json.dumps(bundle, ensure_ascii=False).encode()) for bundle in bundles]
    assert seconds > 3
    assert 5 < len(sizes) <= 1 + seconds * 10
    assert sum(sizes) <= seconds * 300_000
    assert bundles[-1]["text/plain"] == server.reply


def test_a_view_that_fails_never_touches_the_stream(watched: Kernel, server: ModelServer) -> None:
    watched.run("from ceylon_nb.views import streaming; kept, streaming.growing = streaming.growing, None")
    cell = watched.run("reply = await agent.stream('a').show(); print(len(reply))")
    assert shown(cell)[-1][1]["text"].endswith(f"{len(STORY)}\n")
    assert cell.text.count("A view of a stream failed") == 1
    last: dict[str, Any] = watched.run("agent.stream('a')").outputs[-1][1]
    assert last["data"]["text/plain"] == "Stream(0 characters so far)"
    watched.run("streaming.growing = kept")
