"""A batch in a real kernel, with its panel and without: what that costs there, and what goes to the browser."""

import asyncio
import contextlib
import json
import queue
import time
from collections.abc import Iterator
from typing import Any

from jupyter_client.manager import KernelManager

from .contestants import Figures

SET_UP = """
import asyncio, json, random, resource, time
from ceylon_nb import batch

def cpu():
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime

async def answer(item):
    await asyncio.sleep(random.uniform(0.5, 1.5) * LATENCY)
    return f"A reply of some sixty characters, to item {item}, as a model has it."

async def measure(view):
    before, began = cpu(), time.perf_counter()
    run = batch(answer, range(N), max_at_once=AT_ONCE, view=view)
    while not run.finished:
        await asyncio.sleep(0.05)
    await asyncio.sleep(1)  # what is left to be sent
    wall = time.perf_counter() - began
    return {"cpu": cpu() - before, "wall": wall, "elapsed": run.elapsed, "answered": run.counts["ok"]}

if VIEW:
    batch(answer, range(8), view=VIEW)  # imports
    await asyncio.sleep(1)
"""
BEGIN = "measuring = asyncio.create_task(measure(VIEW)); await asyncio.sleep(0.1)"
END = "print(json.dumps(await measuring))"


Sent = list[tuple[float, int]]
"""When something went to the browser, and how many bytes."""


async def watched(job: dict[str, Any]) -> Figures:
    """Run it, and listen as a browser does.

    ``updates`` and ``bytes`` are what the panel sent in all, ``most`` the bytes in its busiest second.
    """
    return await asyncio.to_thread(_watched, job)


def _watched(job: dict[str, Any]) -> Figures:
    with kernel() as client:
        names = {"LATENCY": job["latency"], "N": job["n"], "AT_ONCE": job["at_once"], "VIEW": job["view"]}
        run_cell(client, "; ".join(f"{name} = {value!r}" for name, value in names.items()))
        run_cell(client, SET_UP)
        sent: Sent = []
        run_cell(client, BEGIN, sent)
        figures: Figures = json.loads(run_cell(client, END, sent))
    return {**figures, **panel_figures(sent)}


def panel_figures(sent: Sent) -> Figures:
    """``updates``, ``bytes`` and ``most``: see `watched`."""
    busiest = max((sum(size for when, size in sent if 0 <= when - began < 1) for began, _ in sent), default=0)
    return {"updates": len(sent), "bytes": sum(size for _, size in sent), "most": busiest}


@contextlib.contextmanager
def kernel() -> Iterator[Any]:
    """A kernel's client, for as long as the block lasts."""
    manager: Any = KernelManager(kernel_name="python3")
    manager.start_kernel()
    client = manager.client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=60)
        yield client
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def run_cell(client: Any, code: str, sent: Sent | None = None, *, opened: int | None = None) -> str:
    """Execute a cell; returns what it printed. What widgets send meanwhile goes into `sent`.

    A row that is `opened` is asked for every second, as a browser does that shows it.
    """
    cell, printed, ended, asked = client.execute(code), "", False, 0.0
    while not ended:
        try:
            message = client.get_iopub_msg(timeout=120)
        except queue.Empty:
            raise TimeoutError(code) from None
        kind, content = message["msg_type"], message["content"]
        mine = message["parent_header"].get("msg_id") == cell
        if kind == "comm_open":
            _say(client, content["comm_id"], {"type": "hello", "have": 0})
        elif kind == "comm_msg" and sent is not None and content["data"].get("method") == "custom":
            size = len(json.dumps(content, ensure_ascii=False).encode()) + sum(map(len, message["buffers"]))
            sent.append((time.perf_counter(), size))
            if opened is not None and time.perf_counter() - asked > 1:
                asked = time.perf_counter()
                _say(client, content["comm_id"], {"type": "open", "position": opened})
        elif kind == "error" and mine:
            raise RuntimeError("\n".join(content["traceback"]))
        elif kind == "stream" and mine and content["name"] == "stdout":
            printed += content["text"]
        ended = kind == "status" and mine and content["execution_state"] == "idle"
    return printed


def _say(client: Any, comm: str, content: dict[str, Any]) -> None:
    """What the browser's side says: hello, once it is loaded."""
    data = {"method": "custom", "content": content}
    client.shell_channel.send(client.session.msg("comm_msg", {"comm_id": comm, "data": data}))
