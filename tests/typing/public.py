"""The public types, as a type checker sees them. Checked by mypy, never run."""

import asyncio
from collections.abc import AsyncGenerator
from datetime import timedelta
from pathlib import Path
from typing import assert_type

import pandas as pd

from ceylon_nb import (
    Answer,
    Batch,
    LlmAgent,
    Message,
    Reply,
    Store,
    Usage,
    as_completed,
    batch,
    batches,
    replay,
    store,
)
from ceylon_nb.agents import Stream


async def public() -> None:
    agent = LlmAgent("clerk", "demo::tutor", temperature=0, timeout=None)
    assert_type(agent.with_system_prompt("Be brief.").with_max_tokens(5).build(), LlmAgent)
    reply = await agent.send_message([Message("user", "Hi"), {"role": "user", "content": "Hi"}])
    assert_type(reply, Reply)
    assert_type(reply.usage, Usage)
    assert_type(reply.finish_reason, str | None)
    assert_type(agent.send_message_sync("Hi"), Reply)
    stream = agent.stream("Hi")
    async for text in stream:
        assert_type(text, str)
    assert_type(stream.reply, Reply)
    assert_type(stream.show(), Stream)
    assert_type(await stream, Reply)
    assert_type(await agent.conversation().send("Hi"), Reply)

    run = agent.map(pd.DataFrame({"text": ["a"]}), "Classify: {text}", max_at_once=2, attempts=1)
    assert_type(run, Batch)
    assert_type(await run, pd.DataFrame)
    assert_type(run.answers(), AsyncGenerator[Answer, None])
    async for answer in run:
        assert_type(answer, Answer)
    agent.map({"label": "text"}, lambda text: [Message("user", text)])

    async def double(number: int) -> int:
        return 2 * number

    assert_type(batch(double, range(3)), Batch)
    assert_type(batch(double, [1], key=str, store=Path("answers.sqlite"), fresh=True, dedupe=True, keep=False), Batch)
    assert_type(batch(double, Path("in.parquet"), out="answers.parquet").out, Path | None)
    assert_type(await agent.send_message("Hi", store="auto"), Reply)
    run.resume(store=None)
    assert_type(run.store, Path | None)
    assert_type(store(), Store)
    assert_type(batches(), pd.DataFrame)
    assert_type(store("answers.sqlite").frame("a name"), pd.DataFrame)
    assert_type(store().export("answers.parquet", 7), int)
    assert_type(store().prune(older_than=timedelta(days=30)), int)
    with replay("answers.jsonl", record="missing") as recording:
        assert_type(recording.recorded, int)
    tasks = {asyncio.create_task(double(1)): "one"}
    async for task in as_completed(list(tasks)):
        assert_type(task, asyncio.Future[int])
