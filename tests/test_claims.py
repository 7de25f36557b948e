"""Two batches on one store, of one process or several, ask each question once."""

import asyncio
import itertools
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from ceylon_nb import LlmAgent
from ceylon_nb.testing import ModelServer, faults

ASK = """
import asyncio, sys
from ceylon_nb import LlmAgent

async def main(url, path, rows):
    agent = LlmAgent("a", "ollama::mock", base_url=url)
    frame = await agent.map([f"row {n}" for n in range(int(rows))], store=path)
    print(*frame["reply"], sep=";")

asyncio.run(main(*sys.argv[1:]))
"""


def ask(server: ModelServer, path: Path, rows: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", ASK, server.url, str(path), str(rows)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def reply_of(process: subprocess.Popen[str]) -> list[str]:
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    return out.strip().split(";")


def until_it_uses(file: Path, process: subprocess.Popen[str]) -> None:
    """Wait until a process has a file open."""
    while str(file) not in [each.path for each in psutil.Process(process.pid).open_files()]:
        assert process.poll() is None


def unique(server: ModelServer) -> None:
    """Have each request answered otherwise."""
    count = itertools.count()
    server.reply = lambda messages: f"{messages[-1]['content']}, answer {next(count)}"


@pytest.mark.skipif(sys.platform == "win32", reason="no locks on single bytes there")
def test_processes_that_run_one_batch_at_the_same_time_ask_each_question_once(
    model_server: ModelServer, tmp_path: Path
) -> None:
    unique(model_server)
    model_server.latency = 0.01
    processes = [ask(model_server, tmp_path / "a.sqlite", 150) for _ in range(3)]
    first, *others = [reply_of(process) for process in processes]
    assert others == [first, first]
    assert model_server.received == 150


@pytest.mark.skipif(sys.platform == "win32", reason="no locks on single bytes there")
def test_what_a_killed_process_asked_is_asked_by_the_one_that_waits(model_server: ModelServer, tmp_path: Path) -> None:
    model_server.reply = "Yes."
    model_server.plan = lambda request: faults.hang() if request.attempt == 1 else None
    doomed = ask(model_server, tmp_path / "a.sqlite", 8)
    model_server.wait_for(lambda seen: seen.active == 8)
    waiting = ask(model_server, tmp_path / "a.sqlite", 8)
    until_it_uses(tmp_path / "a.sqlite-claims", waiting)
    os.kill(doomed.pid, signal.SIGKILL)
    doomed.communicate()
    assert reply_of(waiting) == ["Yes."] * 8
    assert (model_server.received, model_server.aborted) == (16, 8)


async def run_twice(server: ModelServer, path: Path, **options: object) -> tuple[list[str], list[str]]:
    agent = LlmAgent("a", "ollama::mock", base_url=server.url)
    rows = [f"row {n % 20}" for n in range(50)]
    first = agent.map(rows, store=path, view=None, max_at_once=5, **options)
    await server.until(lambda seen: seen.received >= 12)
    second = agent.map(rows, store=path, view=None, max_at_once=7, **options)
    return list((await first)["reply"]), list((await second)["reply"])


def test_the_same_cell_again_while_its_batch_still_runs(model_server: ModelServer, tmp_path: Path) -> None:
    unique(model_server)
    model_server.latency = 0.01
    first, second = asyncio.run(run_twice(model_server, tmp_path / "a.sqlite"))
    assert first == second
    assert len(set(first)) == 50
    assert model_server.received == 50


def test_with_dedupe_too(model_server: ModelServer, tmp_path: Path) -> None:
    unique(model_server)
    model_server.latency = 0.01
    first, second = asyncio.run(run_twice(model_server, tmp_path / "a.sqlite", dedupe=True))
    assert first == second
    assert model_server.received == 20


def test_fresh_waits_for_nobody(model_server: ModelServer, tmp_path: Path) -> None:
    unique(model_server)
    model_server.latency = 0.01
    first, second = asyncio.run(run_twice(model_server, tmp_path / "a.sqlite", fresh=True))
    assert not set(first) & set(second)
    assert model_server.received == 100


def test_what_a_cancelled_batch_asked_is_asked_by_the_one_that_waits(model_server: ModelServer, tmp_path: Path) -> None:
    model_server.reply = "Yes."
    model_server.plan = lambda request: faults.hang() if request.attempt == 1 else None

    async def main() -> None:
        agent = LlmAgent("a", "ollama::mock", base_url=model_server.url)
        first = agent.map(["a", "b"], store=tmp_path / "a.sqlite", view=None)
        await model_server.until(lambda seen: seen.active == 2)
        second = agent.map(["a", "b"], store=tmp_path / "a.sqlite", view=None)
        first.cancel()
        assert list((await second)["reply"]) == ["Yes.", "Yes."]
        assert list((await first)["status"]) == ["cancelled", "cancelled"]
        first.resume()
        assert (await first)["from_store"].all()

    asyncio.run(main())
    assert model_server.received == 4


def test_a_paused_batch_does_not_ask_what_another_leaves(model_server: ModelServer, tmp_path: Path) -> None:
    model_server.reply = "Yes."
    model_server.plan = lambda request: faults.hang() if request.attempt == 1 else None

    async def main() -> None:
        agent = LlmAgent("a", "ollama::mock", base_url=model_server.url)
        first = agent.map(["a"], store=tmp_path / "a.sqlite", view=None)
        await model_server.until(lambda seen: seen.active == 1)
        second = agent.map(["a"], store=tmp_path / "a.sqlite", view=None)
        paused = asyncio.Event()
        while not second.counts["in flight"]:
            await asyncio.sleep(0)
        second.subscribe(lambda run: paused.set() if not run.counts["in flight"] else None)
        second.pause()
        first.cancel()
        await paused.wait()
        assert (second.state, model_server.received) == ("paused", 1)
        second.resume()
        assert list((await second)["reply"]) == ["Yes."]

    asyncio.run(main())
