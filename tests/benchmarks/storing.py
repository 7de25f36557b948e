"""Runs, in a process of their own, of a store that is large, and of one whose disk is slow."""

import asyncio
import contextlib
import time
from pathlib import Path
from typing import Any

from .contestants import ANSWER, STORE, Figures, finished, prompt
from .meter import Meter

LATENCY = 0.005
"""Seconds that an answer takes where the disk is slow."""

_asked: list[float] = []


async def answer(_: Any) -> str:
    """A model that answers at once, and notes when it was asked."""
    _asked.append(time.perf_counter())
    return ANSWER


async def opening(job: dict[str, Any]) -> Figures:
    """Ask a store for what it does not have, and list its batches; the warm-up's, with one answer, unless told.

    ``decided`` are the seconds from the call until the model was asked: the store was opened, and looked into.
    """
    from ceylon_nb import LlmAgent, store

    agent, path = LlmAgent("load", answer), job.get("store", STORE)
    await agent.map(["warm-up"], store=STORE, view=None)
    store(STORE).batches()
    with Meter() as meter:
        began = time.perf_counter()
        run = agent.map([f"A question of {time.time_ns()}"], store=path, view=None)
        await finished(run)
    with Meter() as listing:
        store(path).batches()
    decided = {"decided": _asked[-1] - began, "listing": listing.figures["wall"]}
    return {**meter.figures, **decided, "answered": run.counts["ok"], "found": run.from_store}


async def deciding(job: dict[str, Any]) -> Figures:
    """Ask a store for what it has, from all over the file."""
    from ceylon_nb import LlmAgent

    agent = LlmAgent("load", answer)
    prompts = [prompt(number) for number in range(0, job["stored"], job["stored"] // job["n"])][: job["n"]]
    await agent.map(["warm-up"], store="warm-up.sqlite", view=None)
    with Meter() as meter:
        run = agent.map(prompts, max_at_once=job["at_once"], store=job["store"], view=None)
        await finished(run)
    return {**meter.figures, "answered": run.counts["ok"], "found": run.from_store}


async def on_disk(job: dict[str, Any]) -> Figures:
    """Ask for what takes LATENCY each, while every commit takes ``commit`` seconds.

    ``call`` are the seconds of the call itself, ``first`` those from it until the model was asked first (the store is
    open, and its batch on disk), ``asking`` those from then until the model had answered everything.
    """
    from ceylon_nb import LlmAgent

    begun, ended = [], []

    async def slow_answer(_: Any) -> str:
        begun.append(time.perf_counter())
        await asyncio.sleep(LATENCY)
        ended.append(time.perf_counter())
        return ANSWER

    agent, commit = LlmAgent("load", slow_answer), seconds_for_a_commit()
    await agent.map(["warm-up"], store="warm-up.sqlite", view=None)
    with Meter() as meter:
        began = time.perf_counter()
        run = agent.map(map(prompt, range(job["n"])), max_at_once=job["at_once"], store=STORE, view=None)
        called = time.perf_counter()
        await finished(run)
    times = {"call": called - began, "first": begun[1] - began, "asking": ended[-1] - begun[1]}  # 0 is the warm-up's
    return {**meter.figures, **times, "commit": commit, "answered": run.counts["ok"]}


def seconds_for_a_commit() -> float:
    """One, with the settings of a store."""
    from ceylon_nb.storage.file import connect

    with contextlib.closing(connect(Path("probe.sqlite").absolute())) as connection:
        began = time.perf_counter()
        connection.execute("INSERT INTO families (text) VALUES ('probe')")
        return time.perf_counter() - began
