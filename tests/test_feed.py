"""What a panel is told: a browser, also one that listens late, knows what the batch knows; and never too much."""

from __future__ import annotations

import asyncio
import logging
import sys
from array import array
from collections.abc import Callable, Coroutine
from itertools import pairwise
from pathlib import Path
from typing import Any

import orjson
import pytest

from ceylon_nb import LlmAgent, batch
from ceylon_nb.answers import OK, STATUSES
from ceylon_nb.handle import Batch
from ceylon_nb.loop import clock
from ceylon_nb.news import PULSE
from ceylon_nb.testing import ModelServer, faults
from ceylon_nb.views.courier import HEARTBEAT, RATE, Courier
from ceylon_nb.views.feed import READ, Feed

SECONDS = 20


class Browser:
    """The other side, as `panel.js` is: what it has heard, and what it would ask for."""

    def __init__(self, run: Any, *, deaf_until: int = 0) -> None:
        self.messages: list[tuple[float, int, dict[str, Any]]] = []
        self.codes: dict[int, int] = {}
        self.rows: dict[int, list[Any]] = {}
        self.have = 0
        self.flying: list[int] = []
        self.head: dict[str, Any] = {}
        self.others: list[dict[str, Any]] = []
        self.found: set[int] = set()
        self.live: dict[int, list[str]] = {}
        self._deaf_until = deaf_until
        self._news = asyncio.Event()
        self.courier = Courier(lambda: run, Feed(run), self._heard)
        self._leave = run.subscribe(lambda _: self.courier.changed())

    def _heard(self, content: dict[str, Any], buffers: list[bytes]) -> None:
        content = orjson.loads(orjson.dumps(content))  # what does not travel is no message
        size = len(orjson.dumps(content)) + sum(map(len, buffers))
        self.messages.append((clock(), size, content))
        if len(self.messages) <= self._deaf_until:
            return
        if content["type"] == "update":
            self._update(content, buffers)
        elif content["type"] == "rows":
            self.rows.update({row[0]: row for row in content["rows"]})
        elif content["type"] == "found":
            self.found.update(_numbers(buffers[0]))
        self.others.append(content)
        self._news.set()

    def _update(self, content: dict[str, Any], buffers: list[bytes]) -> None:
        self.head = content["head"]
        self.flying = _numbers(buffers[1])
        for position, _, _, text, note in content["live"]:
            self.live.setdefault(position, []).append(text + note)
        self.rows.update({row[0]: row for row in content["rows"]})
        events = _numbers(buffers[0])
        assert len(events) == content["count"]
        if content["from"] > self.have:
            asyncio.get_running_loop().call_soon(self.say, {"type": "hello", "have": self.have})
            return
        for event in events[self.have - content["from"] :]:
            self.codes[event >> 3] = event & 7
            self.have += 1

    def say(self, content: dict[str, Any]) -> None:
        self._deaf_until = 0  # who speaks has been loaded
        self.courier.received(content)

    async def until(self, holds: Callable[[], object]) -> None:
        async with asyncio.timeout(SECONDS):
            while not holds():
                self._news.clear()
                await self._news.wait()

    async def agree(self, run: Batch) -> None:
        """Wait until it knows of every row what the batch knows."""
        await self.until(lambda: self.head.get("state") == run.state and self.knows(run))

    def knows(self, run: Batch) -> bool:
        frame = run.frame
        told = ["ok" if self.codes.get(at, 0) == 4 else STATUSES[self.codes.get(at, 0)] for at in range(len(frame))]
        stored = [self.codes.get(at, 0) == 4 for at in range(len(frame))]
        return told == list(frame["status"]) and stored == list(frame["from_store"])

    def last(self, kind: str) -> dict[str, Any]:
        return [content for content in self.others if content["type"] == kind][-1]


def _numbers(data: bytes) -> list[int]:
    numbers = array("I", data)
    if sys.byteorder == "big":
        numbers.byteswap()
    return list(numbers)


def go(main: Coroutine[Any, Any, None]) -> None:
    asyncio.run(main)


async def odd(item: int) -> str:
    if item % 10 == 3:
        raise ValueError(f"no {item}")
    return f"answer {item}"


# ---- rows ----


@pytest.mark.parametrize("deaf_until", [0, 3, 10])
def test_a_browser_knows_every_row_however_late_it_listens(deaf_until: int) -> None:
    async def main() -> None:
        async def slow(item: int) -> str:
            await asyncio.sleep(0.003)
            return await odd(item)

        run = batch(slow, range(3000), max_at_once=10, view=None)
        browser = Browser(run, deaf_until=deaf_until)
        await run
        browser.say({"type": "hello", "have": browser.have})
        await browser.agree(run)
        assert browser.head["ok"] == 2700
        assert browser.head["failures"] == [["ValueError", 300]]
        assert browser.flying == []

    go(main())


def test_a_view_that_comes_late_takes_in_a_large_batch_a_piece_at_a_time() -> None:
    rows = 2 * READ + 100

    async def main() -> None:
        run = batch(_at_once, range(rows), view=None, store=None)
        await run
        feed, heard, updates = Feed(run), {}, 0
        while feed.behind or not updates:
            content, buffers = feed.update(run, deaf=False)
            updates += 1
            assert len(feed.fresh) <= READ
            assert content["head"]["ok"] == rows  # the head is right from the first one on
            heard.update((event >> 3, event & 7) for event in _numbers(buffers[0]))
        assert updates == 3
        assert heard == dict.fromkeys(range(rows), OK)

    asyncio.run(main())


async def _at_once(item: int) -> int:
    return item


def test_a_page_that_is_loaded_again_is_told_all_of_it() -> None:
    async def main() -> None:
        run = batch(odd, range(10_000), view=None)
        browser = Browser(run)
        await run
        await browser.agree(run)
        reloaded = Browser(run)
        reloaded.courier = browser.courier
        browser.courier._send_now = reloaded._heard
        reloaded.say({"type": "hello", "have": 0})
        await reloaded.agree(run)
        assert reloaded.last("update")["time"]["from"] == 0 or any(
            content["time"]["from"] == 0 for content in reloaded.others if content["type"] == "update"
        )
        assert max(reloaded.rows) == 9999  # the newest, unasked

    go(main())


def test_what_is_asked_again_is_told_again() -> None:
    async def main() -> None:
        healthy = asyncio.Event()

        async def ill(item: int) -> int:
            if item % 2 and not healthy.is_set():
                raise OSError("ill")
            await asyncio.sleep(0)
            return item

        run = batch(ill, range(100), view=None)
        browser = Browser(run)
        await run
        await browser.agree(run)
        assert browser.head["failures"] == [["OSError", 50]]
        healthy.set()
        run.retry_failed()
        await run
        await browser.agree(run)
        assert browser.head["failures"] == []
        assert browser.rows[99][3] == "99"

    go(main())


def test_cancelled_rows_and_rows_that_wait_again() -> None:
    async def main() -> None:
        go_on = asyncio.Event()

        async def hold(item: int) -> int:
            await go_on.wait()
            return item

        run = batch(hold, range(20), max_at_once=5, view=None)
        browser = Browser(run)
        await browser.until(lambda: len(browser.flying) == 5)
        run.cancel()
        await browser.agree(run)
        assert sorted(browser.codes.values()) == [3] * 5
        go_on.set()
        run.resume()
        await run
        await browser.agree(run)
        assert set(browser.codes.values()) == {1}

    go(main())


def test_rows_from_the_store_are_told_apart(tmp_path: Path) -> None:
    async def main() -> None:
        agent = LlmAgent("clerk", "demo::instant")
        await agent.map(["a", "b"], store=tmp_path / "answers.sqlite", view=None)
        run = agent.map(["a", "b", "c"], store=tmp_path / "answers.sqlite", view=None)
        browser = Browser(run)
        await run
        await browser.agree(run)
        assert browser.codes == {0: 4, 1: 4, 2: 1}
        assert (browser.head["stored"], browser.head["ok"]) == (2, 3)

    go(main())


def test_rows_that_are_not_kept_have_no_table(tmp_path: Path) -> None:
    async def main() -> None:
        path = tmp_path / "answers.sqlite"
        run = LlmAgent("clerk", "demo::instant").map(["a"] * 50, store=path, keep=False, view=None)
        browser = Browser(run)
        await run
        await browser.until(lambda: browser.head.get("state") == "done")
        assert browser.head["table"] is False
        assert browser.head["ok"] == 50
        assert browser.have == 0

    go(main())


# ---- how much ----


def test_ten_updates_and_300_kb_a_second_at_the_most_whatever_the_batch() -> None:
    async def main() -> None:
        async def instant(item: int) -> str:
            return "x" * 1000

        run = batch(instant, range(100_000), max_at_once=1000, view=None)
        browser = Browser(run)
        browser.say({"type": "hello", "have": 0})
        await run
        for text in ("x" * 900, "y"):
            browser.say({"type": "find", "text": text, "id": 1})
        for first in range(0, 2000, 200):
            browser.say({"type": "want", "positions": list(range(first, first + 200))})
        await browser.agree(run)
        await browser.until(lambda: any(each["type"] == "found" and each["done"] for each in browser.others))
        began, ended = browser.messages[0][0], browser.messages[-1][0]
        most = max(size for _, size, _ in browser.messages)
        assert sum(size for _, size, _ in browser.messages) <= RATE * (ended - began) + 2 * most
        assert most < 60_000
        updates = [when for when, _, content in browser.messages if content["type"] == "update"]
        assert min(b - a for a, b in pairwise(updates)) > 0.9 * PULSE
        assert len(browser.rows) >= 2000

    go(main())


def test_a_batch_without_news_says_where_it_stands_once_a_second() -> None:
    async def main() -> None:
        run = batch(lambda _: asyncio.sleep(2.5 * HEARTBEAT), [1], view=None)
        browser = Browser(run)
        browser.say({"type": "hello", "have": 0})
        await run
        await browser.agree(run)
        quiet = [when for when, _, _ in browser.messages]
        assert 3 <= len(quiet) <= 8
        assert max(b - a for a, b in pairwise(quiet)) < 1.5 * HEARTBEAT

    go(main())


def test_nothing_is_sent_of_a_batch_that_is_over() -> None:
    async def main() -> None:
        run = batch(odd, range(5), view=None)
        browser = Browser(run)
        browser.say({"type": "hello", "have": 0})
        await run
        await browser.agree(run)
        before = len(browser.messages)
        await asyncio.sleep(2 * HEARTBEAT)
        assert len(browser.messages) == before

    go(main())


# ---- in flight ----


def test_a_row_in_flight_shows_its_tokens_as_they_come_and_never_the_key() -> None:
    async def main(server: ModelServer) -> None:
        agent = LlmAgent("clerk", "ollama::mock", base_url=server.url, api_key="sk-secret-key")
        run = agent.map(["go"], stream=True, store=None, view=None)
        browser = Browser(run)
        browser.say({"type": "hello", "have": 0})
        await run
        await browser.agree(run)
        shown = browser.live[0]
        assert "one" in shown[-1]
        assert len(set(shown)) >= 3
        assert not any("secret" in text for text in shown)
        assert run.frame.loc[0, "reply"] == "one two *** four five six seven eight"
        assert browser.rows[0][3] == "one two *** four five six seven eight"

    words = "one two sk-secret-key four five six seven eight"
    with ModelServer(reply=words, token_interval=0.15) as server:
        go(main(server))


def test_a_row_that_is_tried_again_says_why_and_a_cool_down_is_seen(model_server: ModelServer) -> None:
    async def main() -> None:
        model_server.reply = "noted"
        model_server.next(faults.rate_limited(retry_after=1))
        agent = LlmAgent("clerk", "ollama::mock", base_url=model_server.url)
        run = agent.map(["a", "b"], max_at_once=1, store=None, view=None)
        browser = Browser(run)
        browser.say({"type": "hello", "have": 0})
        await browser.until(lambda: browser.head.get("hold"))
        assert browser.head["hold"]["reason"] == "the server said 429"
        assert 0 < browser.head["hold"]["seconds"] <= 1.1
        assert browser.live[0][-1] == "waiting for attempt 2: RateLimited 429"
        await run
        await browser.agree(run)
        assert browser.head["hold"] is None
        browser.say({"type": "open", "position": 0})
        await browser.until(lambda: browser.others[-1]["type"] == "detail")
        attempts = browser.last("detail")["attempts"]
        assert [said for _, _, said in attempts] == ["RateLimited 429", "ok"]
        assert attempts[1][0] >= attempts[0][0] + attempts[0][1] + 1
        assert sum(bin[4] for bin in browser.last("update")["time"]["bins"]) <= 1

    go(main())


# ---- what a view asks for ----


def test_rows_are_opened_whole_a_piece_at_a_time() -> None:
    async def main() -> None:
        long = "ä" * 50_000 + "end"

        async def answer(item: str) -> str:
            if item == "ill":
                raise ValueError("<b>bad</b>")
            return item[::-1]

        run = batch(answer, {"long": long, 7: "ill"}, view=None)
        browser = Browser(run)
        await run
        browser.say({"type": "open", "position": 0})
        await browser.until(lambda: any(each["type"] == "detail" for each in browser.others))
        detail = browser.last("detail")
        assert detail["label"] == "long"
        assert detail["asked_length"] == detail["said_length"] == 50_003
        text = detail["said"]
        while len(text) < detail["said_length"]:
            browser.say({"type": "more", "position": 0, "field": "said", "offset": len(text)})
            await browser.until(
                lambda: browser.others[-1]["type"] == "more" and browser.others[-1]["offset"] == len(text)  # noqa: B023
            )
            text += browser.last("more")["text"]
        assert text == long[::-1]
        browser.say({"type": "open", "position": 1})
        await browser.until(lambda: browser.others[-1].get("position") == 1)
        assert browser.last("detail")["error"] == {"kind": "ValueError", "text": "<b>bad</b>", "advice": ""}
        assert browser.last("detail")["label"] == "7"

    go(main())


def test_an_error_comes_with_its_advice(model_server: ModelServer) -> None:
    async def main() -> None:
        model_server.plan = lambda _: faults.status(404, b'{"error": "model not found"}')
        run = LlmAgent("clerk", "ollama::mock", base_url=model_server.url).map(["a"], store=None, view=None)
        browser = Browser(run)
        await run
        browser.say({"type": "open", "position": 0})
        await browser.until(lambda: any(each["type"] == "detail" for each in browser.others))
        error = browser.last("detail")["error"]
        assert error["kind"] == "ModelNotFound"
        assert error["text"].startswith('404, "model not found"')
        assert "ollama pull mock" in error["advice"]

    go(main())


def test_the_search_is_of_whole_texts_and_goes_on_as_rows_come() -> None:
    async def main() -> None:
        go_on = asyncio.Event()

        async def answer(item: int) -> str:
            if item >= 1000:
                await go_on.wait()
            if item == 5:
                raise ValueError("NEEDLE in an error")
            return "x" * 5000 + ("needle" if item in (3, 1005) else "")

        run = batch(answer, range(1010), view=None)
        browser = Browser(run)
        await browser.until(lambda: browser.head.get("ok", 0) == 999)
        browser.say({"type": "find", "text": "Needle", "id": 7})
        await browser.until(lambda: browser.others[-1]["type"] == "found" and browser.others[-1]["done"])
        assert (browser.found, browser.last("found")["id"]) == ({3, 5}, 7)
        go_on.set()
        await run
        await browser.until(lambda: browser.found == {3, 5, 1005})
        browser.say({"type": "find", "text": "error", "id": 8})  # by another view
        await browser.until(lambda: browser.others[-1].get("id") == 8 and browser.others[-1]["done"])
        assert set(browser.courier._searches) == {7, 8}
        browser.say({"type": "find", "text": "", "id": 9, "was": 7})
        browser.say({"type": "find", "text": "", "id": 10, "was": 8})
        before = len(browser.messages)
        await asyncio.sleep(2 * PULSE)
        assert all(content["type"] != "found" for _, _, content in browser.messages[before:])

    go(main())


class Mute:
    """An object that cannot say what it is."""

    def __str__(self) -> str:
        raise RuntimeError("mute")


def test_an_object_that_cannot_say_what_it_is_hides_no_other(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async def answer(item: object) -> object:
            return item

        run = batch(answer, [Mute(), "two", "three"], view=None)
        browser = Browser(run)
        await run
        await browser.agree(run)
        browser.say({"type": "find", "text": "two", "id": 1})
        await browser.until(lambda: any(each["type"] == "found" and each["done"] for each in browser.others))
        assert browser.found == {1}
        browser.say({"type": "open", "position": 0})
        await browser.until(lambda: any(each["type"] == "detail" for each in browser.others))
        assert browser.last("detail")["said"] == "<Mute: RuntimeError>"
        assert "failed" not in caplog.text

    go(main())


def test_a_users_function_is_not_called_to_be_shown() -> None:
    async def main() -> None:
        calls = []

        def template(item: str) -> str:
            calls.append(item)
            return f"Is it {item}?"

        run = LlmAgent("clerk", "demo::instant").map([f"item {n}" for n in range(50)], template, store=None, view=None)
        browser = Browser(run)
        await run
        await browser.agree(run)
        browser.say({"type": "find", "text": "item 7", "id": 1})
        await browser.until(lambda: any(each["type"] == "found" and each["done"] for each in browser.others))
        assert len(calls) == 50
        assert browser.rows[49][2] == "item 49"
        browser.say({"type": "open", "position": 7})
        await browser.until(lambda: any(each["type"] == "detail" for each in browser.others))
        assert browser.last("detail")["asked"] == "Is it item 7?"

    go(main())


# ---- what is clicked ----


def test_each_click_does_its_job_and_is_answered() -> None:
    async def main() -> None:
        go_on, ill = asyncio.Event(), True

        async def hold(item: int) -> int:
            await go_on.wait()
            if ill and item % 2:
                raise OSError("ill")
            return item

        run = batch(hold, range(40), max_at_once=4, view=None)
        browser = Browser(run)

        async def click(what: str, value: int | None = None) -> str | None:
            number = len(browser.messages)
            browser.say({"type": "do", "what": what, "value": value, "id": number})
            await browser.until(lambda: browser.others[-1] if browser.others else None)
            await browser.until(lambda: any(each["type"] == "ack" and each["id"] == number for each in browser.others))
            error: str | None = browser.last("ack")["error"]
            return error

        await browser.until(lambda: len(browser.flying) == 4)
        assert browser.head["can"] == ["at_once", "cancel", "pause"]
        assert await click("at_once", 6) is None
        await browser.until(lambda: len(browser.flying) == 6)
        assert browser.head["at_once"] == run.max_at_once == 6
        assert await click("at_once", 0) == 'max_at_once is a whole number from 1, or "auto", not 0.'
        assert await click("pause") is None
        assert run.state == "paused"
        await browser.until(lambda: browser.head["can"] == ["at_once", "cancel", "resume"])
        assert await click("pause") == "pause means nothing now"
        assert await click("explode") == "explode means nothing now"
        assert await click("resume") is None
        go_on.set()
        await run
        assert run.counts["failed"] == 20
        ill = False
        assert await click("retry") is None
        await run
        assert run.counts["ok"] == 40
        run = batch(hold, range(40), view=None)
        browser = Browser(run)
        assert await click("cancel") is None
        await browser.until(lambda: browser.head.get("state") == "cancelled")

    go(main())


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"type": "explode"},
        {"type": "hello"},
        {"type": "hello", "have": "all"},
        {"type": "want", "positions": [-1, 10**9]},
        {"type": "open", "position": 10**9},
        {"type": "more", "position": 0},
        {"type": ["do"]},
    ],
)
def test_nonsense_from_a_browser_touches_nothing(content: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        run = batch(odd, range(5), view=None)
        browser = Browser(run)
        browser.say(content)
        await run
        await browser.agree(run)

    caplog.set_level(logging.CRITICAL)
    go(main())


def test_a_batch_that_stopped_says_why() -> None:
    async def main() -> None:
        async def ill(item: int) -> None:
            raise OSError("the disk is on fire")

        run = batch(ill, range(1000), view=None)
        browser = Browser(run)
        with pytest.raises(OSError, match="fire"):
            await run
        await browser.until(lambda: browser.head.get("state") == "stopped")
        assert "the disk is on fire" in browser.head["note"]
        assert browser.head["left"] is None

    go(main())


def test_time_left_and_rate() -> None:
    async def main() -> None:
        run = batch(lambda _: asyncio.sleep(0.1), range(200), max_at_once=4, view=None)
        browser = Browser(run)
        await browser.until(lambda: browser.head.get("left") and browser.head["elapsed"] > 3)
        assert browser.head["rate"] == pytest.approx(40, rel=0.3)
        assert browser.head["left"] == pytest.approx(2, abs=1.2)
        run.cancel()
        await run

    go(main())
