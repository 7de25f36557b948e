"""A user of each library: one class, in which each does what its own documentation says for it.

They run in the peers' environment (`tests.benchmarks.environment`) against a server on loopback. What a library does
not offer, its class does not have. What is imported, is imported where it is first used: nobody pays for another's.

The words are the questions' (`questions.py`):

``ask(prompts)``
    One answer a row in the order of the input, where the library says it: a text, an exception, or None for a row that
    was not asked.
``watch(prompts, kept)``
    The same, with each answer put into `kept` as soon as the library hands it out; `prompts` may be a generator.
``completed(prompts)``
    Which row, and its answer, as they complete.
``table(series)``
    What comes back for a Series with an index of its own.
``structured(prompts, model)``
    What comes back, in the order of the input, where the answers are to be objects of that pydantic class.
``one(prompt)``
    One question, awaited; ``one_sync(prompt)``: without await.
"""

import functools
import os
from collections.abc import AsyncIterator, Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

from ..benchmarks.peers import KEY, gathered, messages

Kept = dict[int, str]
Row = str | BaseException | None


class User:
    """What all of them are given.

    Parameters
    ----------
    base_url
        The server's.
    model
        A name that the server knows, or not.
    at_once
        How many requests in flight.
    rate
        How many requests a minute; only where `rates` says that the library takes one.
    folder
        Where answers may outlive the process; only where `lasts`.
    """

    rates: ClassVar[bool] = False
    lasts: ClassVar[bool] = False

    def __init__(
        self,
        base_url: str,
        *,
        model: str = "mock",
        at_once: int = 8,
        rate: int | None = None,
        folder: str | None = None,
    ) -> None:
        self.base_url = base_url
        self.model = model
        self.at_once = at_once
        self.rate = rate
        self.folder = folder and Path(folder)

    async def ask(self, prompts: list[str]) -> list[Row]:
        raise NotImplementedError

    async def watch(self, prompts: Iterable[str], kept: Kept) -> None:
        """Where all answers are handed out at the end."""
        answers = await self.ask(list(prompts))
        kept.update((row, answer) for row, answer in enumerate(answers) if isinstance(answer, str))

    async def table(self, series: Any) -> Any:
        return await self.ask(list(series))

    async def one(self, prompt: str) -> str:
        [answer] = await self.ask([prompt])
        if isinstance(answer, BaseException):
            raise answer
        return str(answer)


class CeylonNb(User):
    """``agent.map``, as the README has it."""

    rates = lasts = True

    def _run(self, prompts: Any) -> Any:
        store = self.folder and str(self.folder / "answers.sqlite")
        rate = {"max_per_minute": self.rate} if self.rate else {}
        return self._agent.map(prompts, max_at_once=self.at_once, store=store, view=None, **rate)

    @functools.cached_property
    def _agent(self) -> Any:
        from ceylon_nb import LlmAgent

        return LlmAgent("clerk", f"openai::{self.model}", base_url=self.base_url, api_key=KEY)

    async def ask(self, prompts: list[str]) -> list[Row]:
        frame = await self._run(prompts)
        rows = zip(frame["reply"], frame["error"], strict=True)
        return [reply or (error and RuntimeError(error)) for reply, error in rows]

    async def watch(self, prompts: Iterable[str], kept: Kept) -> None:
        run = self._run(prompts)
        try:
            await run
        finally:
            kept.update((row, str(reply)) for row, reply in enumerate(run.frame["reply"]) if reply is not None)

    async def completed(self, prompts: list[str]) -> AsyncIterator[tuple[int, str]]:
        async for answer in self._run(prompts):
            yield answer.position, str(answer.reply)

    async def table(self, series: Any) -> Any:
        return await self._run(series)

    async def one(self, prompt: str) -> str:
        return str(await self._agent.send_message(prompt))

    def one_sync(self, prompt: str) -> str:
        return str(self._agent.send_message_sync(prompt))


class AsyncBatchLlm(User):
    """``process_prompts`` and ``process_stream``, with bounded queues and a checkpoint as its README has them."""

    rates = lasts = True

    def _given(self) -> tuple[Any, dict[str, Any]]:
        from async_batch_llm import ArtifactIdentity, JsonlArtifactStore, ProcessorConfig, ResumePolicy, llm

        rate = {"max_requests_per_minute": self.rate, "quota_burst_seconds": 0.5} if self.rate else {}
        config = ProcessorConfig(concurrency=self.at_once, max_queue_size=128, max_result_queue_size=64, **rate)
        options: dict[str, Any] = {"config": config}
        if self.folder:
            identity = ArtifactIdentity(provider="openai-compatible", model=self.model)
            store = JsonlArtifactStore(self.folder / "answers.jsonl", identity=identity, fsync=True)
            options |= {"artifact_store": store, "resume": ResumePolicy.REUSE_SUCCESSES}
        return llm(f"openai-compatible:{self.model}", base_url=self.base_url, api_key=KEY), options

    async def ask(self, prompts: list[str]) -> list[Row]:
        from async_batch_llm import process_prompts

        strategy, options = self._given()
        batch = await process_prompts(strategy, prompts, preserve_order=True, **options)
        return [result.output if result.success else RuntimeError(str(result.error)) for result in batch.results]

    async def watch(self, prompts: Iterable[str], kept: Kept) -> None:
        async for row, answer in self.completed(prompts):
            kept[row] = answer

    async def completed(self, prompts: Iterable[str]) -> AsyncIterator[tuple[int, str]]:
        from async_batch_llm import process_stream

        strategy, options = self._given()
        async for result in process_stream(strategy, prompts, **options):
            if result.success:
                yield result.submission_index, str(result.output)

    async def structured(self, prompts: list[str], model: type) -> list[Any]:
        from async_batch_llm import llm, process_prompts, pydantic_json_parser

        strategy = llm(
            f"openai-compatible:{self.model}",
            base_url=self.base_url,
            api_key=KEY,
            json_mode=True,
            response_parser=pydantic_json_parser(model),  # type: ignore[type-var]
        )
        batch = await process_prompts(strategy, prompts, preserve_order=True, concurrency=self.at_once)
        return [result.output if result.success else result.exception for result in batch.results]

    async def one(self, prompt: str) -> str:
        from async_batch_llm import call

        strategy, _ = self._given()
        return str(await call(strategy, prompt))


class Openaivec(User):
    """``Series.aio.responses``, one row a request, so that requests can be counted as rows; its cache in DuckDB.

    It counts tokens before it asks, with a vocabulary that it would fetch: here from the copy that comes with litellm.
    """

    lasts = True

    @functools.cached_property
    def _accessors(self) -> Any:
        litellm = Path(str(find_spec("litellm").origin)).parent  # type: ignore[union-attr]
        os.environ["TIKTOKEN_CACHE_DIR"] = str(litellm / "litellm_core_utils" / "tokenizers")
        import openaivec
        from openai import AsyncOpenAI, OpenAI
        from openaivec import pandas_ext

        openaivec.set_client(OpenAI(base_url=self.base_url, api_key=KEY))
        openaivec.set_async_client(AsyncOpenAI(base_url=self.base_url, api_key=KEY))
        openaivec.set_responses_model(self.model)
        return pandas_ext

    async def table(self, series: Any) -> Any:
        assert self._accessors
        if not self.folder:
            return await series.aio.responses(
                "Classify.", batch_size=1, max_concurrency=self.at_once, show_progress=False
            )
        from openaivec._cache import AsyncBatchCache, DuckDBCacheBackend  # its docstring's own path

        backend = DuckDBCacheBackend.of(str(self.folder / "answers.duckdb"))
        cache = AsyncBatchCache(batch_size=1, max_concurrency=self.at_once, show_progress=False, cache=backend)
        return await series.aio.responses_with_cache("Classify.", cache=cache)

    async def ask(self, prompts: list[str]) -> list[Row]:
        import pandas as pd

        return list(await self.table(pd.Series(prompts)))

    async def structured(self, prompts: list[str], model: type) -> list[Any]:
        import pandas as pd

        assert self._accessors
        series: Any = pd.Series(prompts)
        given = {"batch_size": 1, "max_concurrency": self.at_once, "show_progress": False}
        return list(await series.aio.responses("Classify.", response_format=model, **given))

    def one_sync(self, prompt: str) -> str:
        import pandas as pd

        assert self._accessors
        return str(pd.Series([prompt]).ai.responses("Classify.", show_progress=False)[0])


class LangchainOpenai(User):
    """``abatch_as_completed(return_exceptions=True)``, its rate limiter, the SQLite cache of its community."""

    rates = lasts = True

    @functools.cached_property
    def _model(self) -> Any:
        from langchain_openai import ChatOpenAI

        limits: dict[str, Any] = {}
        if self.rate:
            from langchain_core.rate_limiters import InMemoryRateLimiter

            limits["rate_limiter"] = InMemoryRateLimiter(requests_per_second=self.rate / 60, max_bucket_size=1)
        if self.folder:
            from langchain_community.cache import SQLiteCache
            from langchain_core.globals import set_llm_cache

            set_llm_cache(SQLiteCache(database_path=str(self.folder / "langchain.db")))
        return ChatOpenAI(model=self.model, base_url=self.base_url, api_key=KEY, **limits)

    async def structured(self, prompts: list[str], model: type) -> list[Any]:
        asked = self._model.with_structured_output(model)
        return list(await asked.abatch(prompts, config={"max_concurrency": self.at_once}))

    async def _answers(self, prompts: Any) -> AsyncIterator[tuple[int, Row]]:
        config = {"max_concurrency": self.at_once}
        async for row, answer in self._model.abatch_as_completed(prompts, config=config, return_exceptions=True):
            yield row, answer if isinstance(answer, BaseException) else str(answer.content)

    async def ask(self, prompts: list[str]) -> list[Row]:
        answers = {row: answer async for row, answer in self._answers(prompts)}
        return [answers.get(row) for row in range(len(prompts))]

    async def watch(self, prompts: Iterable[str], kept: Kept) -> None:
        async for row, answer in self.completed(list(prompts)):
            kept[row] = answer

    async def completed(self, prompts: list[str]) -> AsyncIterator[tuple[int, str]]:
        async for row, answer in self._answers(prompts):
            if isinstance(answer, str):
                yield row, answer

    async def one(self, prompt: str) -> str:
        return str((await self._model.ainvoke(prompt)).content)

    def one_sync(self, prompt: str) -> str:
        return str(self._model.invoke(prompt).content)


class Chatlas(User):
    """``parallel_chat_text(on_error="continue")``."""

    rates = True

    @functools.cached_property
    def _chat(self) -> Any:
        from chatlas import ChatOpenAICompletions

        return ChatOpenAICompletions(base_url=self.base_url, model=self.model, api_key=KEY)

    async def ask(self, prompts: list[str]) -> list[Row]:
        from chatlas import parallel_chat_text

        rate = {"rpm": self.rate} if self.rate else {}
        chat: Any = parallel_chat_text
        return list(await chat(self._chat, prompts, max_active=self.at_once, on_error="continue", **rate))

    async def structured(self, prompts: list[str], model: type) -> list[Any]:
        from chatlas import parallel_chat_structured

        chat: Any = parallel_chat_structured
        return [result.data for result in await chat(self._chat, prompts, model, max_active=self.at_once)]

    async def one(self, prompt: str) -> str:
        return str(await (await self._chat.chat_async(prompt, echo="none")).get_content())

    def one_sync(self, prompt: str) -> str:
        return str(self._chat.chat(prompt, echo="none").get_content())


class ByHand(User):
    """A semaphore and ``gather(return_exceptions=True)`` around a call."""

    async def ask(self, prompts: list[str]) -> list[Row]:
        async def safely(prompt: str) -> Any:
            try:
                return await self.one(prompt)
            except Exception as error:  # noqa: BLE001 (gather's return_exceptions, before the semaphore is left)
                return error

        return list(await gathered(safely, prompts, self.at_once))

    async def structured(self, prompts: list[str], model: type) -> list[Any]:
        return list(await gathered(lambda prompt: self.one_structured(prompt, model), prompts, self.at_once))

    async def one_structured(self, prompt: str, model: type) -> Any:
        raise NotImplementedError


class Litellm(ByHand):
    """``acompletion``."""

    def _given(self, prompt: str) -> dict[str, Any]:
        return {
            "model": f"openai/{self.model}",
            "messages": messages(prompt),
            "api_base": self.base_url,
            "api_key": KEY,
        }

    async def one(self, prompt: str) -> str:
        from litellm import acompletion

        return str((await acompletion(**self._given(prompt))).choices[0].message.content)

    async def one_structured(self, prompt: str, model: type) -> Any:
        from litellm import acompletion

        message = (await acompletion(**self._given(prompt), response_format=model)).choices[0].message
        return getattr(message, "parsed", None) or message.content

    def one_sync(self, prompt: str) -> str:
        from litellm import completion

        return str(completion(**self._given(prompt)).choices[0].message.content)


class OpenaiSdk(ByHand):
    """``AsyncOpenAI``, and ``OpenAI`` where nothing is awaited."""

    @functools.cached_property
    def _client(self) -> Any:
        from openai import AsyncOpenAI

        return AsyncOpenAI(base_url=self.base_url, api_key=KEY)

    async def one(self, prompt: str) -> str:
        completion = await self._client.chat.completions.create(model=self.model, messages=messages(prompt))
        return str(completion.choices[0].message.content)

    async def one_structured(self, prompt: str, model: type) -> Any:
        parse = self._client.chat.completions.parse
        completion = await parse(model=self.model, messages=messages(prompt), response_format=model)
        return completion.choices[0].message.parsed

    def one_sync(self, prompt: str) -> str:
        from openai import OpenAI

        with OpenAI(base_url=self.base_url, api_key=KEY) as client:
            completion = client.chat.completions.create(model=self.model, messages=messages(prompt))
        return str(completion.choices[0].message.content)


OURS = "ceylon_nb"
USERS: dict[str, type[User]] = {
    OURS: CeylonNb,
    "async-batch-llm": AsyncBatchLlm,
    "openaivec": Openaivec,
    "langchain-openai": LangchainOpenai,
    "chatlas": Chatlas,
    "litellm": Litellm,
    "openai SDK": OpenaiSdk,
}


def offers(name: str, word: str) -> bool:
    """Whether a library has that: a method of its own, `rates` or `lasts`."""
    return bool(getattr(USERS[name], word, False))
