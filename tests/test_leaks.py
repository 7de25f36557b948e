"""Whatever happened to a call: no file, no thread, no task, no object of ours is left of it, and nothing is said."""

import asyncio
import gc
import os
import subprocess
import sys
import weakref
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from ceylon_nb import LlmAgent, as_completed, errors
from ceylon_nb.testing import ModelServer, faults


@pytest.mark.parametrize("where", ["one loop", "loops", "threads"])
@pytest.mark.parametrize("store", ["off", "answers.sqlite"])
def test_of_a_mixed_load_nothing_is_left(where: str, store: str, tmp_path: Path) -> None:
    """After the first round nothing grows: on one loop, on loops in turn, on loops of threads in turn."""
    command = [sys.executable, "-X", "dev", "-W", "error", str(Path(__file__).with_name("leaking.py")), where, "4"]
    path = os.pathsep.join(sys.path)
    kept = store if store == "off" else str(tmp_path / store)
    environment = {**os.environ, "PYTHONPATH": path, "CEYLON_NB_STORE": kept}
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "{}\n", "")


@pytest.fixture
def no_garbage_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


Hanging = Callable[[], Awaitable[None]]


async def leave_a_stream(agent: LlmAgent, hanging: Hanging) -> None:
    async for _ in agent.stream("hang"):
        await hanging()
        break


async def leave_a_batch(agent: LlmAgent, hanging: Hanging) -> None:
    async for _ in agent.map(["at once", "hang"], view=None):
        await hanging()
        break


async def leave_tasks(agent: LlmAgent, hanging: Hanging) -> None:
    async for _ in as_completed([agent.send_message("at once"), agent.send_message("hang")]):
        await hanging()
        break


async def fail_at_a_stream(agent: LlmAgent, hanging: Hanging) -> None:
    with pytest.raises(ValueError, match="mine"):
        async for _ in agent.stream("hang"):
            raise ValueError("mine")


@pytest.mark.usefixtures("no_garbage_collector")
@pytest.mark.parametrize("leave", [leave_a_stream, leave_a_batch, leave_tasks, fail_at_a_stream])
def test_what_is_left_early_is_closed_at_once(model_server: ModelServer, leave) -> None:
    """Not when the garbage collector comes by, which in a notebook that waits may be never."""
    model_server.plan = lambda request: faults.hang(after=2) if request.prompt.startswith("hang") else None

    async def hanging() -> None:
        await model_server.until(lambda seen: seen.active == 1)

    async def main() -> None:
        await leave(LlmAgent("a", "ollama::mock", base_url=model_server.url), hanging)
        await model_server.until(lambda seen: (seen.active, seen.aborted) == (0, 1), timeout=0.5)
        async with asyncio.timeout(0.5):
            while len(asyncio.all_tasks()) > 1:
                await asyncio.sleep(0)

    asyncio.run(main())


class Prompt(str):
    """A text that can be watched."""


@pytest.mark.usefixtures("no_garbage_collector")
@pytest.mark.parametrize("fault", [faults.status(404), faults.reset(), faults.hang()], ids=repr)
def test_what_failed_is_gone_at_once(model_server: ModelServer, fault: faults.Fault) -> None:
    """An error, once it is dropped, keeps no prompt: in a long loop with a try around it they would add up."""
    model_server.plan = lambda request: fault

    async def main() -> None:
        agent = LlmAgent("a", "ollama::mock", base_url=model_server.url, attempts=1, timeout=0.2)
        prompt = Prompt("hi")
        watched = weakref.ref(prompt)
        with suppress(errors.RequestError):
            await agent.send_message(prompt)
        del prompt
        assert watched() is None

    asyncio.run(main())
