"""A stream: whoever reads it, and however many, there is one request; its view is in kernels/test_streaming.py."""

from __future__ import annotations

import asyncio
import gc
import logging

import pytest

from ceylon_nb import LlmAgent, errors
from ceylon_nb.agents.stream import Stream
from ceylon_nb.messages import Reply
from ceylon_nb.testing import ModelServer, faults

PIECES = ["Once", " upon", " a", " time."]


@pytest.fixture
def agent(model_server: ModelServer) -> LlmAgent:
    model_server.reply = "".join(PIECES)
    return LlmAgent("a", "ollama::mock", base_url=model_server.url, attempts=1)


async def texts(stream: Stream) -> list[str]:
    return [text async for text in stream]


async def whole(stream: Stream) -> Reply:
    return await stream


async def behind(stream: Stream) -> asyncio.Task[None]:
    """Have it read in the background, as a view does; the task that does."""
    stream._read_behind()
    await asyncio.sleep(0)
    assert stream._behind is not None
    return stream._behind


def test_awaited_it_is_the_reply(agent: LlmAgent, model_server: ModelServer) -> None:
    async def main() -> None:
        stream = agent.stream("Tell")
        reply = await stream
        assert (reply, reply.finish_reason) == ("Once upon a time.", "stop")
        assert await stream is stream.reply is reply
        assert await texts(stream) == PIECES  # nobody has read it piece by piece
        assert await texts(stream) == []

    asyncio.run(main())
    assert model_server.received == 1


def test_awaited_after_a_part_was_read(agent: LlmAgent) -> None:
    async def main() -> None:
        stream = agent.stream("Tell")
        assert await anext(stream) == "Once"
        assert repr(stream) == "Stream(4 characters so far)"
        assert await stream == "Once upon a time."
        assert await texts(stream) == PIECES[1:]
        assert repr(stream) == "Stream(17 characters)"

    asyncio.run(main())


def test_gathered(agent: LlmAgent, model_server: ModelServer) -> None:
    async def main() -> None:
        assert await asyncio.gather(agent.stream("a"), agent.stream("b")) == ["Once upon a time."] * 2

    asyncio.run(main())
    assert model_server.received == 2


def test_what_a_view_reads_is_there_from_the_first_on(agent: LlmAgent, model_server: ModelServer) -> None:
    model_server.token_interval = 0.02

    async def main() -> None:
        for read in range(3):  # before the view has it, while it reads, and when it has all of it
            stream = agent.stream("Tell")
            task = await behind(stream)
            if read == 1:
                await stream._told.news(1)
            if read == 2:
                await task
            assert await texts(stream) == PIECES
            assert await stream == "Once upon a time."
            await task

    asyncio.run(main())
    assert model_server.received == 3


def test_a_view_goes_on_where_the_reader_stopped(agent: LlmAgent, model_server: ModelServer) -> None:
    async def main() -> None:
        stream = agent.stream("Tell")
        assert await anext(stream) == "Once"
        await (await behind(stream))
        assert stream.reply == "Once upon a time."
        assert await texts(stream) == PIECES[1:]

    asyncio.run(main())
    assert model_server.received == 1


def test_two_loops_over_one_stream_share_its_pieces(agent: LlmAgent, model_server: ModelServer) -> None:
    model_server.token_interval = 0.02

    async def main() -> None:
        stream = agent.stream("Tell")
        first, second = await asyncio.gather(texts(stream), texts(stream))
        assert sorted(first + second) == sorted(PIECES)

    asyncio.run(main())
    assert model_server.received == 1


def test_an_error_is_for_everybody_who_reads(agent: LlmAgent, model_server: ModelServer) -> None:
    """The view's task keeps still about it, and whoever reads afterwards gets the texts, and then the error."""
    model_server.next(faults.cut(2))

    async def main() -> None:
        stream = agent.stream("Tell")
        await (await behind(stream))
        with pytest.raises(errors.ConnectionLost) as raised:
            await stream
        heard = []
        with pytest.raises(errors.ConnectionLost) as again:
            async for text in stream:
                heard.append(text)
        assert heard == PIECES[:2]
        assert again.value is raised.value
        with pytest.raises(RuntimeError, match="closed before its end"):
            stream.reply  # noqa: B018 - a property that raises

    asyncio.run(main())
    assert model_server.received == 1


def test_closed_while_a_view_reads(agent: LlmAgent, model_server: ModelServer) -> None:
    model_server.next(faults.hang(after=2))

    async def main() -> None:
        stream = agent.stream("Tell")
        task = await behind(stream)
        assert [await anext(stream), await anext(stream)] == PIECES[:2]
        await stream.aclose()
        await model_server.until(lambda seen: (seen.active, seen.aborted) == (0, 1))
        assert task.cancelled()
        assert await texts(stream) == []
        with pytest.raises(RuntimeError, match="closed before its end"):
            await stream
        await stream.aclose()

    asyncio.run(main())


def test_closed_before_it_has_begun(agent: LlmAgent, model_server: ModelServer) -> None:
    async def main() -> None:
        stream = agent.stream("Tell")
        await stream.aclose()
        stream._read_behind()
        assert await texts(stream) == []
        with pytest.raises(RuntimeError, match="closed before its end"):
            await stream

    asyncio.run(main())
    assert model_server.received == 0


@pytest.mark.parametrize("read", [texts, whole])
def test_an_interrupt_of_a_reader_closes_what_is_read_for_a_view(agent, model_server: ModelServer, read) -> None:
    model_server.next(faults.hang(after=2))

    async def main() -> None:
        stream = agent.stream("Tell")
        task = await behind(stream)
        await model_server.until(lambda seen: seen.active == 1)
        reading = asyncio.ensure_future(read(stream))
        while len(stream._told.texts) < 2:
            await stream._told.news(len(stream._told.texts))
        await asyncio.sleep(0)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        await model_server.until(lambda seen: (seen.active, seen.aborted) == (0, 1), timeout=1)
        await asyncio.wait([task])

    asyncio.run(main())


def test_one_that_nobody_reads_sends_nothing(agent: LlmAgent, model_server: ModelServer) -> None:
    async def main() -> None:
        stream = agent.stream("Tell").show()  # which outside of a notebook shows nothing
        assert isinstance(stream, Stream)
        del stream
        gc.collect()

    asyncio.run(main())
    assert model_server.received == 0


def test_a_view_that_fails_never_touches_the_stream(agent: LlmAgent, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        stream = agent.stream("Tell")
        seen = []

        def fails(told) -> None:
            seen.append(told.text)
            raise ZeroDivisionError

        stream._told.watched_by(fails)
        assert await stream == "Once upon a time."
        assert seen == ["Once"]

    with caplog.at_level(logging.ERROR):
        asyncio.run(main())
    assert [record.exc_info[0] for record in caplog.records] == [ZeroDivisionError]
    caplog.clear()


def test_a_view_never_shows_the_agents_key(model_server: ModelServer) -> None:
    model_server.reply = "Your key is sk-secret, is it not?"
    agent = LlmAgent("a", "ollama::mock", base_url=model_server.url, api_key="sk-secret")

    async def main() -> None:
        stream = agent.stream("Tell")
        assert "sk-secret" in await stream
        assert stream._told.text == "Your key is ***, is it not?"

    asyncio.run(main())
