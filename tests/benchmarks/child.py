"""One run, in a process of its own: ``python -m tests.benchmarks.child JOB`` prints what it cost, as JSON."""

import asyncio
import ipaddress
import json
import resource
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

from . import adapting, contestants, messaging, peers, starting, storing, streaming, watching
from .contestants import STORE, Figures, finished, prompt
from .meter import Meter

WARM_UP = 8
"""Prompts answered before the clock starts: imports, and one connection."""


async def over_http(job: dict[str, Any]) -> Figures:
    """Answer every prompt through the load server."""
    prompts = [prompt(number) for number in range(job["n"])]
    return await _measured(peers.OVER_HTTP[job["contestant"]], job, prompts)


async def at_once(job: dict[str, Any]) -> Figures:
    """Answer every item by a function that does so at once."""
    items = [f"review {number}" for number in range(job["n"])]
    return await _measured(peers.AT_ONCE[job["contestant"]], job, items)


async def _measured(contestant: contestants.Contestant, job: dict[str, Any], items: list[str]) -> Figures:
    async with contestant(job.get("base_url", ""), job["at_once"]) as ask:
        await ask([f"warm-up {number}" for number in range(WARM_UP)])
        with Meter() as meter:
            answers = await ask(items)
    answered = sum(str(answer).startswith(contestants.ANSWER.rstrip(".")) for answer in answers)
    return {**meter.figures, "answered": answered}


async def lazily(job: dict[str, Any]) -> Figures:
    """Answer prompts that are made as they are asked for; the frame, if there is one, is built after the clock stopped.

    Answers are kept in memory, or in the store alone; or prompts come from a Parquet file and answers go to one.
    """
    from ceylon_nb import Batch, LlmAgent, store

    most_tasks = 0

    def prompts(n: int) -> Iterator[str]:
        nonlocal most_tasks
        for number in range(n):
            if not number % 1000:
                most_tasks = max(most_tasks, len(asyncio.all_tasks()))
            yield prompt(number)

    async def answer(messages: Any) -> str:
        await asyncio.sleep(0)
        return f"{contestants.ANSWER} {messages[-1].content}"

    def begin(n: int, path: str) -> Batch:
        if job["parquet"]:
            out = {"store": None, "out": f"out-{n}.parquet"}
            return agent.map(f"in-{n}.parquet", "{text}", max_at_once=job["at_once"], view=None, **out)
        kept = {"store": None} if job["kept"] else {"store": path, "keep": False}
        return agent.map(prompts(n), max_at_once=job["at_once"], view=None, **kept)

    agent = LlmAgent("load", answer)
    if job["parquet"]:
        for n in (WARM_UP, job["n"]):
            in_parquet(n)
    await begin(WARM_UP, "warm-up.sqlite")
    with Meter() as meter:
        run = begin(job["n"], STORE)
        await finished(run)
    with Meter() as framing:
        frame = await run
    if job["parquet"]:
        answered = run.counts["ok"]
    else:
        answered = store(STORE).batches()["done"].iloc[0] if frame is None else frame["reply"].notna().sum()
    framed = {f"frame_{name}": framing.figures[name] for name in ("wall", "memory")}
    return {**meter.figures, **framed, "answered": int(answered), "tasks": most_tasks}


def in_parquet(n: int) -> None:
    """Put so many prompts into a file of one row group, in a process of its own: its memory is not what is measured."""
    code = (
        "import sys; import pyarrow as pa, pyarrow.parquet as pq; from tests.benchmarks.contestants import prompt; "
        "n = int(sys.argv[1]); "
        "pq.write_table(pa.table({'text': [prompt(i) for i in range(n)]}), f'in-{n}.parquet', row_group_size=n)"
    )
    subprocess.run([sys.executable, "-c", code, str(n)], check=True)


KINDS = {
    "http": over_http,
    "tls": over_http,
    "engine": at_once,
    "auto": adapting.adapting,
    "lazy": lazily,
    "opening": storing.opening,
    "deciding": storing.deciding,
    "disk": storing.on_disk,
    "panel": watching.watched,
    "stream": streaming.streamed,
    "start": starting.starting,
    "mesh": messaging.messaging,
}

ADDRESSES = {
    "socket.connect": 1,
    "socket.sendto": 1,
    "socket.sendmsg": 1,
    "socket.getaddrinfo": 0,
    "socket.gethostbyname": 0,
}
"""Audit events that name another end, and the argument that does."""


def loopback_only(event: str, arguments: tuple[Any, ...]) -> None:
    """An audit hook: no contestant speaks to, or even looks up, any other machine.

    Raises
    ------
    PermissionError
        This one would.
    """
    if event not in ADDRESSES:
        return
    address = arguments[ADDRESSES[event]]
    if event.startswith("socket.get"):
        host = address
    elif isinstance(address, tuple):
        host = address[0]
    else:
        return  # a Unix socket, or connected already
    if not _is_here(host):
        raise PermissionError(f"A contestant wanted to talk to {host!r}: benchmarks speak to the loopback alone.")


def _is_here(host: str | None) -> bool:
    try:
        return host in (None, "localhost") or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def main() -> None:
    """Run the job given as JSON."""
    job = json.loads(sys.argv[1])
    sys.addaudithook(loopback_only)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    print(json.dumps(asyncio.run(KINDS[job["kind"]](job))))


if __name__ == "__main__":
    main()
