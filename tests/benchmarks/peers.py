"""The peers: other libraries, each used as its own documentation says for many prompts and a server of one's own.

They need an environment of their own (`environment.py`). Connections are sized to what is in flight where a peer's
documentation, or that of the HTTP client which it names, says how; retries and all else are as they come. None of them
asks for anything else on the network: what would fetch prices or send traces is switched off by the setting that its
documentation names for that, in SETTINGS.
"""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Any

from . import contestants
from .contestants import ANSWER, Ask, Contestant

PEER = "async-batch-llm"
OPENAI = "openai SDK, semaphore + gather"
OPENAI_AIOHTTP = "openai SDK with aiohttp, semaphore + gather"
LANGCHAIN = "langchain-openai, abatch_as_completed"
LITELLM = "litellm, acompletion"

SETTINGS = {
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # its prices come with it, and not from the network
    "LITELLM_LOCAL_BLOG_POSTS": "True",
    "LANGSMITH_TRACING": "false",
}
"""Environment variables of every contestant: nothing is fetched, nobody is told."""

KEY = "none"
"""A server of one's own asks for none, the clients do."""


async def gathered(ask_one: Callable[[str], Awaitable[str]], prompts: Iterable[str], at_once: int) -> list[str]:
    """What one reads everywhere: a semaphore, and a task for each prompt."""
    free = asyncio.Semaphore(at_once)

    async def gated(prompt: str) -> str:
        async with free:
            return await ask_one(prompt)

    return list(await asyncio.gather(*map(gated, prompts)))


def messages(prompt: str) -> list[Any]:
    """A question as all of them want it."""
    return [{"role": "user", "content": prompt}]


@contextlib.asynccontextmanager
async def async_batch_llm(base_url: str, at_once: int) -> AsyncIterator[Ask]:
    """As its README says it for a server of one's own; it sizes its client's connections by `concurrency`."""
    from async_batch_llm import llm, process_prompts

    async def ask(prompts: list[str]) -> list[str]:
        strategy = llm("openai-compatible:load", base_url=base_url, api_key=KEY)
        return list((await process_prompts(strategy, prompts, concurrency=at_once)).outputs())

    yield ask


@contextlib.asynccontextmanager
async def async_batch_llm_callable(_: str, at_once: int) -> AsyncIterator[Ask]:
    """As its README says it for a client of one's own."""
    from async_batch_llm import CallableStrategy, CallOutcome, process_prompts

    async def invoke(prompt: str, *, attempt: int, timeout: float, state: Any) -> Any:
        return CallOutcome(ANSWER)

    async def ask(items: Iterable[Any]) -> list[str]:
        strategy = CallableStrategy(invoke)
        return list((await process_prompts(strategy, list(items), concurrency=at_once)).outputs())

    yield ask


@contextlib.asynccontextmanager
async def openai_sdk(base_url: str, at_once: int) -> AsyncIterator[Ask]:
    """One client, with its own limits: 1,000 connections, of which 100 are kept when idle.

    To have it keep 1,000 costs it more than connecting anew: 6.5 ms a request instead of 2.6, as its pool is scanned.
    """
    from openai import AsyncOpenAI

    async with AsyncOpenAI(base_url=base_url, api_key=KEY) as client:
        yield _openai(client, at_once)


@contextlib.asynccontextmanager
async def openai_sdk_with_aiohttp(base_url: str, at_once: int) -> AsyncIterator[Ask]:
    """The same, by the extra that its README names "for improved concurrency performance"."""
    from openai import AsyncOpenAI, DefaultAioHttpClient

    async with AsyncOpenAI(base_url=base_url, api_key=KEY, http_client=DefaultAioHttpClient()) as client:
        yield _openai(client, at_once)


def _openai(client: Any, at_once: int) -> Ask:
    async def ask_one(prompt: str) -> str:
        completion = await client.chat.completions.create(model="load", messages=messages(prompt))
        return str(completion.choices[0].message.content)

    return lambda prompts: gathered(ask_one, prompts, at_once)


@contextlib.asynccontextmanager
async def langchain_openai(base_url: str, at_once: int) -> AsyncIterator[Ask]:
    """Its batch with a `max_concurrency`; it makes its HTTP client, of at most 1,000 connections, itself."""
    from langchain_openai import ChatOpenAI

    model = ChatOpenAI(model="load", base_url=base_url, api_key=KEY)  # type: ignore[arg-type]

    async def ask(prompts: list[str]) -> list[str]:
        answers = model.abatch_as_completed(prompts, config={"max_concurrency": at_once})
        return [str(message.content) async for _, message in answers]

    yield ask


@contextlib.asynccontextmanager
async def litellm(base_url: str, at_once: int) -> AsyncIterator[Ask]:
    """`acompletion` with a semaphore and gather; its aiohttp's connections by the two variables that its docs name."""
    os.environ.update(dict.fromkeys(("AIOHTTP_CONNECTOR_LIMIT", "AIOHTTP_CONNECTOR_LIMIT_PER_HOST"), str(at_once)))
    from litellm import acompletion

    async def ask_one(prompt: str) -> str:
        response = await acompletion("openai/load", messages(prompt), api_base=base_url, api_key=KEY)
        return str(response.choices[0].message.content)

    yield lambda prompts: gathered(ask_one, prompts, at_once)


PEERS_OVER_HTTP: dict[str, Contestant] = {
    PEER: async_batch_llm,
    OPENAI: openai_sdk,
    OPENAI_AIOHTTP: openai_sdk_with_aiohttp,
    LANGCHAIN: langchain_openai,
    LITELLM: litellm,
}
OVER_HTTP: dict[str, Contestant] = {**contestants.OVER_HTTP, **PEERS_OVER_HTTP}
AT_ONCE: dict[str, Contestant] = {**contestants.AT_ONCE, PEER: async_batch_llm_callable}

PEERS = tuple(PEERS_OVER_HTTP)
PEER_MODULES = ("async_batch_llm", "openai", "langchain_openai", "litellm")
"""What is imported beside ours, and needs that environment."""
