"""kill -9 of plain Python processes: nothing that was shown is asked for again, no row is lost, none doubled."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from ceylon_nb.testing import ModelServer

from .kernels.stories import Story

SCRIPT = """
import asyncio, json, sys
import aiohttp, httpx_aiohttp
from ceylon_nb import LlmAgent

batches, at_once = json.load(sys.stdin)
agent = LlmAgent("clerk", "ollama::mock")

async def show(name):
    run = agent.map(batches[name], name=name, max_at_once=at_once, view=None)
    async for answer in run:
        assert answer.status == "ok", answer
        print(json.dumps([name, answer.position, answer.reply]), flush=True)
    return list((await run)["reply"])

async def main():
    return dict(zip(batches, await asyncio.gather(*map(show, batches))))

print("ready", flush=True)
print(json.dumps(asyncio.run(main())))
"""
"""Shows each answer as it comes, and in the end the frames."""


def run(story: Story, server: ModelServer, at_once: int, until: float | None) -> None:
    """One life, to its end or killed so many seconds after it is ready."""
    environment = {**os.environ, "CEYLON_NB_STORE": str(story.path), "OLLAMA_HOST": server.url}
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**environment, "PYTHONPATH": os.pathsep.join(sys.path)},
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    with process:
        process.stdin.write(json.dumps([story.batches, at_once]))
        process.stdin.close()
        assert process.stdout.readline() == "ready\n"
        story.begin()
        killer = threading.Timer(until or 60, process.kill)
        killer.start()
        lines = [json.loads(line) for line in process.stdout if line.endswith("\n")]
        process.wait()
        killer.cancel()
        killer.join()
    frames = lines.pop() if lines and isinstance(lines[-1], dict) else None
    for name, position, reply in lines:
        story.show(name, position, reply)
    story.end()
    if frames is not None:
        story.complete(frames)
    assert process.returncode == 0 or (until is not None and process.returncode == -9)


def batches(rows: int) -> dict[str, list[str]]:
    """Three at once, of which one asks everything three times."""
    return {
        "long": [f"long {at}" for at in range(2 * rows)],
        "short": [f"short {at}" for at in range(rows // 2)],
        "thrice": [f"thrice {at // 3}" for at in range(rows)],
    }


@pytest.mark.parametrize("kills", [14, pytest.param(200, marks=[pytest.mark.soak, pytest.mark.timeout(1200)])])
@pytest.mark.parametrize(("at_once", "rows", "life"), [(1, 40, 0.4), (8, 300, 0.5), (100, 450, 0.8)])
def test_killed_at_random_moments(
    tmp_path: Path, model_server: ModelServer, at_once: int, rows: int, life: float, kills: int
) -> None:
    """`life`: the most seconds that a process is given, from its first line on."""
    seed = random.randrange(2**32)
    print(f"random.seed({seed})")
    random.seed(seed)
    model_server.latency = lambda request: random.choice([0, 0, 0, random.uniform(0, 0.02)])
    done = 0
    while done < kills:
        story = Story(tmp_path / f"{done}", model_server, batches(rows))
        while done < kills and len(story.shown) < sum(map(len, story.batches.values())):
            run(story, model_server, at_once, random.uniform(0, life))
            done += 1
        run(story, model_server, at_once, None)
