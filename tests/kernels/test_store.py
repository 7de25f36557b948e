"""Nothing is paid for twice: real kernels that are killed, shut down, interrupted, and two of them, on one store."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import signal
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ceylon_nb.storage import Store
from ceylon_nb.testing import ModelServer

from .conftest import SET_UP, Start
from .gate import Gate
from .kernel import Cell, Kernel
from .stories import Story

NAME = "reviews"

SHOW = """
async for answer in run:
    print(json.dumps([run.title, answer.position, answer.reply]), flush=True)
print(json.dumps({run.title: list((await run)["reply"])}))
"""
"""Shows each answer as it comes, and in the end the frame."""

READY = f"{SET_UP}\nimport json, aiohttp, httpx_aiohttp"
"""What takes its time is done before."""

ROWS = "json.loads({}[['reply', 'status']].to_json(orient='values'))"
"""A frame's replies, and whether there is one."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the store is to be."""
    return tmp_path / "answers.sqlite"


@pytest.fixture
def stored(start: Start, server: ModelServer, path: Path) -> Callable[[], Kernel]:
    """Start a kernel whose agent asks ``server`` and whose store is at ``path``."""

    def begin() -> Kernel:
        kernel = start(OLLAMA_HOST=server.url, CEYLON_NB_STORE=str(path))
        assert kernel.run(READY).status == "ok"
        return kernel

    return begin


Stored = Callable[[], Kernel]


def prompts(rows: int, name: str = NAME) -> list[str]:
    return [f"{name} {at}" for at in range(rows)]


def number_replies(server: ModelServer) -> None:
    """Have it give no two that are the same."""
    number = itertools.count()
    server.reply = lambda messages: f"{messages[-1]['content']}: reply {next(number)}"


def mapped(prompts: list[str], at_once: int = 20, name: str = NAME, store: str = "auto") -> str:
    """The line that begins a batch."""
    return f"run = agent.map({prompts}, {name=}, max_at_once={at_once}, {store=})\n"


def lines(cell: Cell) -> list[Any]:
    """What it printed, line by line; the last one may have been cut."""
    return [json.loads(line) for line in cell.text.splitlines(keepends=True) if line.endswith("\n")]


def kill(kernel: Kernel, after: float = 0.0) -> None:
    """kill -9, in so many seconds, whatever is being read then; what was on its way from it still comes."""
    killer = threading.Timer(after, os.kill, (kernel.pid, signal.SIGKILL))
    killer.start()
    while kernel.alive:
        kernel.listen(0.01)
    kernel.listen(0.1)


def shut_down(kernel: Kernel, *, restart: bool = False) -> float:
    """Ask it to end, as Jupyter does; gives the seconds that it took."""
    began = time.monotonic()
    kernel._client.shutdown(restart=restart)
    while kernel.alive:
        kernel.listen(0.01)
        assert time.monotonic() - began < 10
    return time.monotonic() - began


@contextlib.contextmanager
def held(path: Path) -> Iterator[None]:
    """The store, locked by another process than the kernel: this one."""
    with contextlib.closing(
        sqlite3.connect(path, isolation_level=None, timeout=10, check_same_thread=False)
    ) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("ROLLBACK")


def on_disk(path: Path) -> list[str | None]:
    """The replies of the newest batch."""
    return list(Store(path).frame(NAME)["reply"])


def in_frame(kernel: Kernel, frame: str = "run.frame") -> list[str | None]:
    return [reply for reply, _ in kernel.value(ROWS.format(frame))]


def check_file(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def asked(server: ModelServer) -> Counter[str]:
    """How often each prompt was asked for."""
    return Counter(request.prompt for request in server.requests)


# -- kill -9 --------------------------------------------------------------------------------------------------------


LIFE = 0.6
"""Seconds, at the most, from the beginning of the cell to the end of the kernel."""


def live(kernel: Kernel, story: Story, at_once: int, *, killed: bool) -> None:
    """Run the cell, to its end or to a random moment before, and kill the kernel."""
    [(name, prompts)] = story.batches.items()
    story.begin()
    cell = kernel.begin(mapped(prompts, at_once, name, str(story.path)) + SHOW)
    if not killed:
        assert cell.wait().status == "ok"
    kill(kernel, random.uniform(0, LIFE) if killed else 0)
    shown = lines(cell)
    frames = shown.pop() if shown and isinstance(shown[-1], dict) else None
    for line in shown:
        story.show(*line)
    story.end()
    if frames is not None:
        story.complete(frames)
    assert killed or frames is not None
    restart(kernel)


@pytest.mark.slice
@pytest.mark.parametrize("rounds", [20, pytest.param(200, marks=[pytest.mark.soak, pytest.mark.timeout(1200)])])
def test_killed_at_random_moments(stored: Stored, server: ModelServer, tmp_path: Path, rounds: int) -> None:
    """No answer that was shown is asked for again, no row is lost, none doubled; the file is whole."""
    kernel = stored()
    kills, sizes = 0, itertools.cycle([(100, 1000), (8, 500), (1, 60)])
    while kills < rounds:
        at_once, rows = next(sizes)
        server.latency = lambda request: random.choice([0, random.uniform(0, 0.05)])
        story = Story(tmp_path / f"{kills}", server, {NAME: prompts(rows)})
        while kills < rounds and len(story.shown) < rows:
            live(kernel, story, at_once, killed=True)
            kills += 1
        live(kernel, story, at_once, killed=False)


def restart(kernel: Kernel) -> None:
    kernel.restart()
    assert kernel.run(READY).status == "ok"


def test_a_new_kernel_has_what_a_dead_one_showed(stored: Stored, server: ModelServer, path: Path) -> None:
    """Without the cell: `batches()` and `store().frame(…)` find it."""
    number_replies(server)
    server.latency = lambda request: 0 if request.number <= 70 else 60
    kernel = stored()
    cell = kernel.begin(mapped(prompts(100)) + SHOW)
    kernel.until(lambda: len(lines(cell)) == 70)
    kill(kernel)
    restart(kernel)
    columns = ["name", "model", "done", "failed", "left", "from_store"]
    assert kernel.value(f"json.loads(ceylon_nb.batches()[{columns}].to_json(orient='values'))") == [
        [NAME, "ollama::mock", 70, 0, 30, 0]
    ]
    replies: list[str | None] = [None] * 100
    for _, position, reply in lines(cell):
        replies[position] = reply
    assert in_frame(kernel, f"ceylon_nb.store().frame({NAME!r})") == replies
    assert kernel.value(f"list(ceylon_nb.store().frame({NAME!r})['prompt'].notna())") == [True] * 70 + [False] * 30


# -- two kernels ----------------------------------------------------------------------------------------------------


def test_two_kernels_ask_the_same_at_the_same_time(stored: Stored, server: ModelServer, path: Path) -> None:
    number_replies(server)
    server.latency = lambda request: random.uniform(0.01, 0.05)
    kernels = [stored(), stored()]
    cells = [kernel.begin(mapped(prompts(300), 8) + "frame = await run") for kernel in kernels]
    for kernel, cell in zip(kernels, cells, strict=True):
        kernel.until(lambda: cell.ended)  # noqa: B023
        assert cell.status == "ok", cell.traceback
    check_both(kernels, server, path, 300)
    print(f"{sum(count - 1 for count in asked(server).values())} of 300 rows were asked for twice")


def check_both(kernels: list[Kernel], server: ModelServer, path: Path, rows: int) -> None:
    """Both frames are full and right, and the same wherever only one kernel asked; the file is whole."""
    check_file(path)
    frames = [in_frame(kernel) for kernel in kernels]
    times = asked(server)
    assert set(times) == set(prompts(rows))
    assert max(times.values()) == 1
    for prompt, *replies in zip(prompts(rows), *frames, strict=True):
        assert [reply and reply.partition(": ")[0] for reply in replies] == [prompt, prompt]
        assert len(set(replies)) == 1
    for frame in frames:
        assert len(set(frame)) == rows
    assert [kernel.value("[run.state, run.counts['ok']]") for kernel in kernels] == [["done", rows]] * 2
    table = Store(path).batches()
    assert table[["done", "failed", "left"]].values.tolist() == [[rows, 0, 0]] * 2
    assert table["from_store"].sum() == 2 * rows - sum(times.values())


@pytest.mark.slice
def test_a_second_kernel_asks_for_nothing_that_the_first_has(stored: Stored, server: ModelServer, path: Path) -> None:
    number_replies(server)
    gate = Gate()
    server.plan = lambda request: gate.fault if request.number > 150 else None
    kernels = [stored(), stored()]
    kernels[0].run(mapped(prompts(300), 8))
    kernels[0].until(lambda: kernels[0].value("run.counts['ok']") == 150)
    kernels[1].run(mapped(prompts(300), 8))
    kernels[1].until(lambda: kernels[1].value("run.counts['ok']") == 150)
    gate.open()
    for kernel in kernels:
        assert kernel.run("frame = await run").status == "ok"
    first = {request.prompt for request in server.requests if request.number <= 150}
    times = asked(server)
    assert {times[prompt] for prompt in first} == {1}
    check_both(kernels, server, path, 300)
    assert kernels[1].value("run.from_store") >= 150
    print(f"{sum(count - 1 for count in times.values())} of the other 150 rows were asked for twice")


# -- ■ --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def pressed(stored: Stored, server: ModelServer, path: Path) -> Iterator[tuple[Kernel, Cell, Callable[[], None]]]:
    """■ was pressed in ``await run`` with 20 answers there and none on disk: a kernel, the cell, and what ends that."""
    number_replies(server)
    gate = Gate()
    server.plan = lambda request: gate.fault if request.number <= 20 else None
    server.latency = lambda request: 0 if request.number <= 20 else 60
    kernel = stored()
    cell = kernel.begin(mapped(prompts(100)) + "await run")
    server.wait_for(lambda seen: seen.active == 20)
    with contextlib.ExitStack() as stack:
        stack.enter_context(held(path))
        gate.open()
        server.wait_for(lambda seen: (seen.served, seen.active) == (20, 20))
        kernel.interrupt()
        yield kernel, cell, stack.close


def check_resumes(kernel: Kernel, server: ModelServer, path: Path) -> None:
    """What is on disk is in the frame and the other way round; the rest is asked for, and nothing else."""
    rows = in_frame(kernel)
    assert rows == on_disk(path)
    assert sum(reply is not None for reply in rows) == 20
    assert server.aborted == 20
    server.latency, server.plan = 0, None
    assert kernel.run("run.resume(); frame = await run").status == "ok"
    finished = in_frame(kernel)
    assert None not in finished
    assert finished == on_disk(path)
    assert [after for before, after in zip(rows, finished, strict=True) if before] == [row for row in rows if row]
    served = Counter(request.prompt for request in server.requests if request.outcome == "served")
    assert served == Counter(prompts(100))
    check_file(path)


@pytest.mark.slice
def test_interrupted_in_a_slow_commit(pressed: Any, server: ModelServer, path: Path) -> None:
    """What is on disk is in the frame."""
    kernel, cell, let_go = pressed
    kernel.listen(0.7)
    assert not cell.ended
    let_go()
    assert cell.wait().traceback == ["Interrupted: 20 of 100 answers are in run.frame; run.resume() goes on."]
    check_resumes(kernel, server, path)


def test_interrupted_in_a_commit_that_takes_for_ever(pressed: Any, server: ModelServer, path: Path) -> None:
    """The cell does not; the answers are shown when they are on disk."""
    kernel, cell, let_go = pressed
    began = time.monotonic()
    cell.wait()
    took = time.monotonic() - began
    print(f"the cell ended after {took:.2f} s")
    assert 1.5 < took < 2.5
    assert cell.traceback == ["Interrupted: 0 of 100 answers are in run.frame; run.resume() goes on."]
    assert set(in_frame(kernel)) == {None}
    let_go()
    kernel.until(lambda: kernel.value("run.counts['ok']") == 20)
    check_resumes(kernel, server, path)


# -- shutdown and restart -------------------------------------------------------------------------------------------

LOSS = 0.5
"""Seconds before a shutdown by which an answer that has come is on disk."""

LEFT = {
    "in the background": "",
    "awaited": "await run",
    "read": "async for answer in run: pass",
}


@pytest.mark.parametrize("restarted", [False, True], ids=["shutdown", "restart"])
@pytest.mark.parametrize("how", LEFT)
def test_shut_down_in_the_midst(stored: Stored, server: ModelServer, path: Path, how: str, restarted: bool) -> None:
    """Within two seconds, and with every answer that came half a second before on disk."""
    number_replies(server)
    server.latency = lambda request: random.uniform(0, 0.1)
    kernel = stored()
    kernel.begin(mapped(prompts(5000)) + LEFT[how])
    server.wait_for(lambda seen: seen.served >= 50)
    kernel.listen(random.uniform(0, 0.8))
    asked_to = time.monotonic()
    took = shut_down(kernel, restart=restarted)
    server.wait_for(lambda seen: seen.active == 0)
    served = [request for request in server.requests if request.outcome == "served"]
    kept = {prompt for prompt, reply in zip(prompts(5000), on_disk(path), strict=True) if reply is not None}
    lost = [request.ended - asked_to for request in served if request.prompt not in kept]
    print(f"took {took:.2f} s, {len(served)} served, {len(lost)} not on disk, from {min(lost, default=0):.3f} s on")
    assert min(lost, default=0) > -LOSS
    assert len(kept) >= 50
    assert took < 3
    check_file(path)


@pytest.mark.parametrize("restarted", [False, True], ids=["shutdown", "restart"])
@pytest.mark.parametrize("slow", [0, 0.7], ids=["", "in a slow commit"])
def test_shut_down_right_after_the_cell(
    stored: Stored, server: ModelServer, path: Path, slow: float, restarted: bool
) -> None:
    """Answers that have come are written; if the disk takes its time, that is waited for."""
    gate = Gate()
    server.plan = lambda request: gate.fault if request.number <= 50 else None
    server.latency = lambda request: 0 if request.number <= 50 else 60
    kernel = stored()
    kernel.run(mapped(prompts(100), 50))
    server.wait_for(lambda seen: seen.active == 50)
    with contextlib.ExitStack() as stack:
        stack.enter_context(held(path))
        gate.open()
        server.wait_for(lambda seen: (seen.served, seen.active) == (50, 50))
        commit = threading.Timer(slow, stack.close)
        commit.start()
        took = shut_down(kernel, restart=restarted)
        commit.join()
    print(f"took {took:.2f} s")
    assert took < 2.5
    assert sum(reply is not None for reply in on_disk(path)) == 50


def test_shut_down_while_the_store_is_held(stored: Stored, server: ModelServer, path: Path) -> None:
    """A disk that does not answer keeps no kernel alive."""
    kernel = stored()
    server.latency = lambda request: 0.05
    kernel.run(mapped(prompts(1000)))
    server.wait_for(lambda seen: seen.served >= 50)
    with held(path):
        kernel.listen(0.2)
        took = shut_down(kernel)
    print(f"took {took:.2f} s")
    assert took < 3.5
    check_file(path)


# -- a slow disk ----------------------------------------------------------------------------------------------------

TICK = """
async def tick(longest=0.0):
    while not run.finished:
        began = time.monotonic()
        await asyncio.sleep(0.005)
        longest = max(longest, time.monotonic() - began - 0.005)
    return longest
longest = await tick()
"""


@pytest.mark.slice
def test_a_slow_commit_never_freezes_the_loop(stored: Stored, server: ModelServer, path: Path) -> None:
    """Each of its commits waits for 200 ms; the longest freeze of the notebook's loop is below 100 ms."""
    server.latency = 0.02
    kernel = stored()
    kernel.run(mapped(prompts(10)) + "frame = await run")
    over = threading.Event()

    def hold() -> None:
        while not over.is_set():
            with held(path):
                over.wait(0.2)
            over.wait(0.02)

    holder = threading.Thread(target=hold)
    holder.start()
    try:
        freezes = []
        for attempt in range(3):  # a freeze that comes of the store comes every time
            cell = kernel.run(mapped(prompts(600, f"attempt {attempt}"), 50) + TICK)
            assert cell.status == "ok", cell.traceback
            freezes.append(kernel.value("longest"))
            if freezes[-1] < 0.1:
                break
    finally:
        over.set()
        holder.join()
    print("longest freezes:", freezes)
    assert min(freezes) < 0.1
    assert kernel.value("run.counts['ok']") == 600
