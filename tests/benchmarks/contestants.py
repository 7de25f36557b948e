"""The contestants: each answers a list of prompts over HTTP, or calls a function that answers at once.

Each is an async context manager that makes what is kept between two calls, and gives the function that answers. What
a contestant needs is imported inside it: nobody pays for another's imports. Those in this file need nothing but what
the library itself needs; the others are in `peers`.
"""

import asyncio
import contextlib
import functools
import itertools
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from ceylon_nb import Batch

Figures: TypeAlias = dict[str, Any]
Ask: TypeAlias = Callable[[Any], Awaitable[list[str]]]
Contestant: TypeAlias = Callable[[str, int], contextlib.AbstractAsyncContextManager[Ask]]
"""From base URL (nothing where there is no HTTP) and how many at once."""

ANSWER = "The review is positive."

BARE = "bare aiohttp"
TRANSPORT = "httpx-aiohttp's transport"
OURS = "ceylon_nb"

POOL = "bare worker pool"
OUR_BATCH = "ceylon_nb, batch(fn)"
OUR_MAP = "ceylon_nb, agent.map"

STORE = "answers.sqlite"
"""In the folder in which a run works, which is its own and on a disk."""
UNSTORED = ", no store"
EARLIER = ", store with earlier answers"

_numbers = itertools.count()


def new_store() -> str:
    """A file that is not there yet, each time another: nothing has to be looked up in it."""
    return f"answers-{next(_numbers)}.sqlite"


STORES: dict[str, Callable[[], str | None]] = {"": new_store, UNSTORED: lambda: None, EARLIER: lambda: STORE}
"""What is added to a contestant's name, and where its answers go. The earlier ones are the warm-up's: everything is
looked up, and nothing found."""


def prompt(number: int) -> str:
    """One of as many as need be."""
    return f"Classify the review number {number}: it lasts for days and weighs nothing."


async def finished(run: "Batch") -> None:
    """Return when a batch has ended; without its frame."""
    done = asyncio.Event()
    run.subscribe(lambda run: done.set() if run.finished else None)
    await done.wait()


async def pool(ask_one: Callable[[Any], Awaitable[str]], items: Iterable[Any], at_once: int) -> list[str]:
    """What one would write by hand: workers that pull from one iterator."""
    iterator = iter(items)
    answers = []

    async def work() -> None:
        for item in iterator:
            answers.append(await ask_one(item))

    async with asyncio.TaskGroup() as group:
        for _ in range(at_once):
            group.create_task(work())
    return answers


def question(prompt: str) -> dict[str, Any]:
    """The body of a request."""
    return {"model": "load", "messages": [{"role": "user", "content": prompt}], "stream": False}


# -- over HTTP -------------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def bare_aiohttp(base_url: str, at_once: int) -> AsyncIterator[Ask]:
    """A session, a worker pool, and the standard library's json."""
    import aiohttp

    url = base_url + "/chat/completions"
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def ask_one(prompt: str) -> str:
            async with session.post(url, json=question(prompt)) as response:
                found: str = (await response.json())["choices"][0]["message"]["content"]
                return found

        yield lambda prompts: pool(ask_one, prompts, at_once)


@contextlib.asynccontextmanager
async def httpx_aiohttp_transport(base_url: str, at_once: int) -> AsyncIterator[Ask]:
    """The transport that the library builds on, called directly: what httpx's types add to aiohttp."""
    import aiohttp
    import httpx
    from httpx_aiohttp import AiohttpTransport

    url = httpx.URL(base_url + "/chat/completions")
    headers = httpx.Headers({"content-type": "application/json"})
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        transport = AiohttpTransport(verify=False, client=session)  # TLS is the connector's, and verified

        async def ask_one(prompt: str) -> str:
            body = json.dumps(question(prompt)).encode()
            response = await transport.handle_async_request(httpx.Request("POST", url, headers=headers, content=body))
            found: str = json.loads(await response.aread())["choices"][0]["message"]["content"]
            return found

        yield lambda prompts: pool(ask_one, prompts, at_once)


@contextlib.asynccontextmanager
async def ceylon_nb(base_url: str, at_once: int, *, store: Callable[[], str | None]) -> AsyncIterator[Ask]:
    """The whole path: templates, workers, limits, retry, HTTP, the store, and the frame at the end."""
    from ceylon_nb import LlmAgent

    agent = LlmAgent("load", "openai::load", base_url=base_url)

    async def ask(prompts: list[str]) -> list[str]:
        frame = await agent.map(prompts, max_at_once=at_once, store=store(), view=None)
        return list(frame["reply"])

    yield ask


OVER_HTTP: dict[str, Contestant] = {
    BARE: bare_aiohttp,
    TRANSPORT: httpx_aiohttp_transport,
    OURS: functools.partial(ceylon_nb, store=STORES[""]),
    OURS + UNSTORED: functools.partial(ceylon_nb, store=STORES[UNSTORED]),
}


# -- a function that answers at once ---------------------------------------------------------------------------------


async def answer_at_once(_: Any) -> str:
    """What stands where a model would."""
    return ANSWER


@contextlib.asynccontextmanager
async def bare_pool(_: str, at_once: int) -> AsyncIterator[Ask]:
    """Nothing but workers."""
    yield lambda items: pool(answer_at_once, items, at_once)


@contextlib.asynccontextmanager
async def ceylon_nb_batch(_: str, at_once: int, *, store: Callable[[], str | None]) -> AsyncIterator[Ask]:
    """The engine, the store and the frame."""
    from ceylon_nb import batch

    async def ask(items: Iterable[Any]) -> list[str]:
        frame = await batch(answer_at_once, items, max_at_once=at_once, key=str, store=store(), view=None)
        return list(frame["reply"])

    yield ask


@contextlib.asynccontextmanager
async def ceylon_nb_map(_: str, at_once: int, *, store: Callable[[], str | None]) -> AsyncIterator[Ask]:
    """All but HTTP: templates, messages, limits, retry, the engine, the store and the frame."""
    from ceylon_nb import LlmAgent

    agent = LlmAgent("load", answer_at_once)

    async def ask(items: Iterable[Any]) -> list[str]:
        frame = await agent.map(items, "Classify: {}", max_at_once=at_once, store=store(), view=None)
        return list(frame["reply"])

    yield ask


STORED: dict[str, Contestant] = {
    name + said: functools.partial(contestant, store=store)
    for name, contestant in ((OUR_BATCH, ceylon_nb_batch), (OUR_MAP, ceylon_nb_map))
    for said, store in STORES.items()
}
"""Ours, with each kind of store."""

AT_ONCE: dict[str, Contestant] = {POOL: bare_pool, **STORED}
