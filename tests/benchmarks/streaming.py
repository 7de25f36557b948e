"""Many streams at once in a real kernel: what a token costs there, all of it, with the panel that shows them grow.

Everything is measured in the kernel's own process, its loop's other work included. A pretend browser says hello, hears
what the panel sends, and has the first row open.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from .contestants import BARE, Figures, question
from .meter import Meter
from .watching import Sent, kernel, panel_figures, run_cell

OPENAI, OLLAMA = "openai", "ollama"
WARM_UP = 4
"""Streams before the clock starts: imports, and the panel's first message."""

SET_UP = """
import asyncio, json
from tests.benchmarks import streaming
JOB = json.loads({job!r})
await streaming.warm_up(JOB)
"""
BEGIN = "measuring = asyncio.create_task(streaming.measured(JOB)); await asyncio.sleep(0.1)"
END = "print(json.dumps(await measuring))"


"""Reads so many streams, so many tokens each (which is no more than a hint), and returns the texts."""

TOKEN = " battery"
"""What the load server says, again and again."""


async def streamed(job: dict[str, Any]) -> Figures:
    """Read the streams in a kernel, and listen as a browser does."""
    return await asyncio.to_thread(_streamed, job)


def _streamed(job: dict[str, Any]) -> Figures:
    sent: Sent = []
    with kernel() as client:
        run_cell(client, SET_UP.format(job=json.dumps(job)))
        run_cell(client, BEGIN, sent)
        figures: Figures = json.loads(run_cell(client, END, sent, opened=0))
    return {**figures, **panel_figures(sent)}


# -- in the kernel ---------------------------------------------------------------------------------------------------


async def warm_up(job: dict[str, Any]) -> None:
    """Import what is needed, and let the first answer of everything have come."""
    async with CONTESTANTS[job["contestant"]](job["base_url"].replace(f"x{job['tokens']}", "x5")) as read:
        await read(WARM_UP)
    await asyncio.sleep(0.5)


async def measured(job: dict[str, Any]) -> Figures:
    """Read all of them by the clock; ``tokens_cpu`` is the whole process's CPU seconds a token."""
    async with CONTESTANTS[job["contestant"]](job["base_url"]) as read:
        with Meter() as meter:
            texts = await read(job["n"])
    whole = TOKEN * job["tokens"]
    answered = sum(text == whole for text in texts)
    return {**meter.figures, "answered": answered, "token": meter.figures["cpu"] / (job["n"] * job["tokens"])}


@contextlib.asynccontextmanager
async def bare_aiohttp(base_url: str) -> AsyncIterator[Callable[[int], Awaitable[list[str]]]]:
    """A session and orjson: what one would write by hand, and write well."""
    import aiohttp
    import orjson

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def read_one(number: int) -> str:
            texts, rest = [], b""
            body = {**question(f"review {number}"), "stream": True}
            async with session.post(f"{base_url}/v1/chat/completions", json=body) as response:
                async for chunk in response.content.iter_any():
                    *events, rest = (rest + chunk).split(b"\n\n")
                    for event in events:
                        if event != b"data: [DONE]":
                            texts.append(orjson.loads(event[6:])["choices"][0]["delta"].get("content", ""))
            return "".join(texts)

        async def read(n: int) -> list[str]:
            return await asyncio.gather(*map(read_one, range(n)))

        yield read


def _agent(base_url: str, wire: str) -> Any:
    from ceylon_nb import LlmAgent

    return LlmAgent("load", f"{wire}::load", base_url=base_url + ("/v1" if wire == OPENAI else ""))


@contextlib.asynccontextmanager
async def ceylon_nb_map(base_url: str, wire: str, view: str | None) -> AsyncIterator[Any]:
    """The whole path: `map(stream=True)`, a store, the panel."""
    agent = _agent(base_url, wire)

    async def read(n: int) -> list[str]:
        prompts = [f"review {number}" for number in range(n)]
        run = agent.map(prompts, stream=True, max_at_once=n, view=view, store="answers.sqlite", fresh=True)
        return [str(reply) for reply in (await run)["reply"]]

    yield read


@contextlib.asynccontextmanager
async def ceylon_nb_streams(base_url: str, wire: str, *, shown: bool = False) -> AsyncIterator[Any]:
    """`agent.stream` so often at once, without a batch; read, or shown too."""
    agent = _agent(base_url, wire)

    async def read_one(number: int) -> str:
        stream = agent.stream(f"review {number}")
        if shown:
            stream.show()
        return "".join([text async for text in stream])

    async def read(n: int) -> list[str]:
        return await asyncio.gather(*map(read_one, range(n)))

    yield read


WATCHED = "ceylon_nb, map with the panel, "
CONTESTANTS: dict[str, Callable[[str], contextlib.AbstractAsyncContextManager[Any]]] = {
    BARE: bare_aiohttp,
    WATCHED + OPENAI: lambda url: ceylon_nb_map(url, OPENAI, "panel"),
    WATCHED + OLLAMA: lambda url: ceylon_nb_map(url, OLLAMA, "panel"),
    "ceylon_nb, map without, openai": lambda url: ceylon_nb_map(url, OPENAI, None),
    "ceylon_nb, agent.stream, openai": lambda url: ceylon_nb_streams(url, OPENAI),
    "ceylon_nb, agent.stream, ollama": lambda url: ceylon_nb_streams(url, OLLAMA),
}
ONE_SHOWN = "ceylon_nb, one stream shown"
CONTESTANTS[ONE_SHOWN] = lambda url: ceylon_nb_streams(url, OPENAI, shown=True)
