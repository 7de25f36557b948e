"""A mixed load, again and again, and what of it is still there afterwards: a script for test_leaks.

``python leaking.py "one loop"|loops|threads ROUNDS`` prints, as JSON, what had grown after so many rounds.
"""

import asyncio
import contextlib
import functools
import gc
import json
import logging
import sys
import threading
import weakref
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from ceylon_nb import LlmAgent, as_completed, batch, errors, http
from ceylon_nb import loop as loops
from ceylon_nb.testing import ModelServer, Request, faults

OURS = ("ceylon_nb", "aiohttp", "httpx", "httpx_aiohttp", "_asyncio", "asyncio")
OTHERS = ("ceylon_nb.testing", "asyncio.events")  # records are kept, and a loop forgets cancelled timers when it likes


def misbehave(request: Request) -> faults.Fault | None:
    """What a prompt asks for: "hang 3", "busy 1" …; a plain answer otherwise."""
    match request.prompt.split(maxsplit=1)[0]:
        case "hang":
            return faults.hang()
        case "silent":
            return faults.hang(after=2)
        case "busy" if request.attempt == 1:
            return faults.rate_limited(retry_after=0)
        case "cut":
            return faults.cut()
    return None


async def mixed(server: ModelServer, doomed: ModelServer, seen: list[weakref.ref]) -> None:
    """Everything that can happen to a call, once."""
    refused = f"http://127.0.0.1:{doomed.port}"
    async with LlmAgent("a", "ollama::mock", base_url=server.url, attempts=2) as agent:
        run = agent.map([f"row {n}" for n in range(30)], view=None, fresh=True)  # to its end
        seen.append(weakref.ref(run))
        assert len(await run) == 30

        run = agent.map([f"hang {n}" for n in range(20)], max_at_once=8, view=None, fresh=True)  # cancelled midway
        seen.append(weakref.ref(run))
        await server.until(lambda server: server.active == 8)
        run.cancel()
        await run

        run = agent.map(
            [f"hang {n}" for n in range(20)], max_at_once=8, view=None, fresh=True
        )  # its awaiter interrupted
        seen.append(weakref.ref(run))
        awaiting = asyncio.ensure_future(awaited(run))
        await server.until(lambda server: server.active == 8)
        awaiting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await awaiting

        run = agent.map([f"row {n}" for n in range(20)], view=None, fresh=True)  # left early
        seen.append(weakref.ref(run))
        async for _ in run:
            break
        run = agent.map([f"row {n}" for n in range(20)], view=None, fresh=True)  # paused, and forgotten
        seen.append(weakref.ref(run))
        run.pause()
        run = batch(fails, range(20), view=None, fresh=True)  # stopped by its errors
        seen.append(weakref.ref(run))
        with contextlib.suppress(LookupError):
            await run
        run = agent.map([f"busy {n}" for n in range(5)], view=None, fresh=True)  # 429s
        seen.append(weakref.ref(run))
        await run
        run = agent.map([f"cut {n}" for n in range(4)], attempts=1, view=None, fresh=True)  # lost replies
        seen.append(weakref.ref(run))
        await run
        run = LlmAgent("f", fails).map(range(3), view=None, fresh=True)  # a model of one's own
        seen.append(weakref.ref(run))
        await run
        run = agent.map(["hang"], timeout=0.05, attempts=1, view=None, fresh=True)
        seen.append(weakref.ref(run))
        await run
        del run, awaiting

        async for _ in agent.stream("some words of an answer"):  # left early
            break
        kept = agent.stream("silent")  # kept in a variable, and closed
        await anext(kept)
        await kept.aclose()
        with contextlib.suppress(TimeoutError):  # out of time, and one of them sulks
            async with asyncio.timeout(None) as until:
                asking = [asyncio.ensure_future(agent.send_message(f"hang {n}")) for n in range(5)]
                await server.until(lambda server: server.active == 5)
                until.reschedule(0)
                async for _ in as_completed([*asking, asyncio.ensure_future(sulks())]):
                    pass
        async for _ in as_completed([agent.send_message("one"), agent.send_message("hang"), sulks()]):  # left early
            break

        chat = agent.conversation()
        await chat.send("hello")
        assert agent.send_message_sync("hello")
        assert chat.send_sync("again")
        with contextlib.suppress(errors.RequestTimeout):
            agent.with_timeout(0.05).send_message_sync("hang")
        elsewhere = LlmAgent("e", "ollama::mock", base_url=refused, attempts=1)
        with contextlib.suppress(errors.ConnectionFailed):
            await elsewhere.send_message("is anybody there?")
        with doomed:  # stopped in the middle of a stream
            stream = elsewhere.stream("silent")
            await anext(stream)
        with contextlib.suppress(errors.ConnectionLost):
            async for _ in stream:
                pass
    await server.until(lambda server: server.active == 0)


async def awaited(run):
    return await run


async def sulks() -> None:
    try:
        await asyncio.Event().wait()
    finally:
        raise LookupError("while it was cancelled")


async def fails(_: object) -> str:
    raise LookupError("none")


def held() -> Counter[str]:
    """What is there now: files, threads, tasks, and objects by class."""
    for _ in range(3):
        gc.collect()
    names = (f"{type(each).__module__}.{type(each).__qualname__}" for each in gc.get_objects())
    counts = Counter(name for name in names if name.startswith(OURS) and not name.startswith(OTHERS))
    counts["threads"] = threading.active_count()
    counts["tasks in the background"] = len(asyncio.all_tasks(loops.background()))
    counts["tasks"] = len(asyncio.all_tasks()) if loops.running() else 0
    with contextlib.suppress(OSError):
        counts["files"] = sum(1 for _ in Path("/proc/self/fd").iterdir())
    return counts


def storing() -> bool:
    """Whether a store is being closed still, once nobody has its batches: its threads do that by themselves."""
    gc.collect()
    return any(thread.name in ("ceylon-nb-store", "ceylon-nb-lookup") for thread in threading.enumerate())


async def one_round(server: ModelServer, doomed: ModelServer) -> Counter[str]:
    """Play the load; what is held when all sockets are closed. Every batch, dropped, is gone."""
    server.reset()
    seen: list[weakref.ref] = []
    await mixed(server, doomed, seen)
    async with asyncio.timeout(5):
        while http._pools or server.connections or storing():  # what was not read to its end yet is not idle
            await http.close_idle()
            loops.run_sync(http.close_idle())
            await asyncio.sleep(0.05)
    now = held()
    assert len(seen) == 10
    assert not [each for each in seen if each() is not None]
    return now


def in_a_thread(function: Callable[[], Counter[str]]) -> Counter[str]:
    found: list[Counter[str]] = []
    thread = threading.Thread(target=lambda: found.append(function()))
    thread.start()
    thread.join()
    return found[0]


def main(where: str, rounds: int) -> dict[str, list[int]]:
    """What there was after the first round, and is now, where that is more."""
    with ModelServer(reply="a few words of an answer") as server, ModelServer() as doomed:
        server.plan = doomed.plan = misbehave
        doomed.stop()  # it keeps its port
        play = functools.partial(one_round, server, doomed)
        alone = lambda: asyncio.run(play()) and held()  # noqa: E731
        if where == "one loop":
            with asyncio.Runner() as runner:
                held_then = [runner.run(play()) for _ in range(rounds + 1)]
        else:
            held_then = [alone() if where == "loops" else in_a_thread(alone) for _ in range(rounds + 1)]
    first, last = held_then[0], held_then[-1]
    return {name: [first[name], last[name]] for name in last if last[name] > first[name]}


if __name__ == "__main__":
    # that a step was slow is no leak: sync calls block a loop, and so does looking for leaks
    logging.getLogger("asyncio").addFilter(lambda record: not record.msg.startswith("Executing"))
    print(json.dumps(main(sys.argv[1], int(sys.argv[2]))))
