"""How the snippets are run: as programs, or as cells; and a model server that answers when its time has come."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import inspect
import io
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

from aiohttp import web

from ceylon_nb.testing import Exchange, Fault, ModelServer, faults

STRICT = ("-W", "error", "-X", "dev")  # dev: asyncio's debug mode, with all that it complains about

REFUSED = faults.status(400, '{"error": "not today"}')

# What the parts of cells take for granted.
IMPORTS = "import asyncio\nfrom ceylon_nb import LlmAgent\n"
AGENT = IMPORTS + 'agent = LlmAgent("assistant", "ollama::llama3.2:latest")\n'


@dataclass(frozen=True, slots=True)
class Ended:
    """A program that has ended: its status, and what it wrote."""

    status: int
    said: str
    complaints: str

    @property
    def lines(self) -> list[str]:
        """What it said, if it did so without complaint."""
        assert (self.status, self.complaints) == (0, "")
        return self.said.splitlines()


def run_program(*arguments: str, folder: Path, said: list[str] | None = None) -> Ended:
    """Run Python until it ends.

    Parameters
    ----------
    said : list, optional
        Gets each line in the moment in which it is written.
    """
    said = [] if said is None else said
    with (folder / "stderr").open("w+", encoding="utf-8") as complaints:
        with running(*arguments, folder=folder, stderr=complaints) as program:
            for line in program.stdout:
                said.append(line)
        complaints.seek(0)
        # how long a step may take is a question of the machine; the test of the debug mode asks it
        text = re.sub(r"Executing <.*> took [\d.]+ seconds\n", "", complaints.read())
    return Ended(program.returncode, "".join(said), text)


@contextlib.contextmanager
def running(*arguments: str, folder: Path, stderr: Any = subprocess.PIPE) -> Iterator[subprocess.Popen[str]]:
    """Python, for as long as it runs; its lines come as they are written."""
    env = {**os.environ, "PYTHONUTF8": "1", "PYTHONUNBUFFERED": "1", "CEYLON_NB_STORE": "off"}
    with subprocess.Popen(
        [sys.executable, *arguments], cwd=folder, env=env, stdout=subprocess.PIPE, stderr=stderr, encoding="utf-8"
    ) as program:
        try:
            yield program
        except BaseException:
            program.kill()
            raise


def run_script(code: str, folder: Path, said: list[str] | None = None) -> Ended:
    """Run code as a script, strictly."""
    (folder / "script.py").write_text(code, encoding="utf-8")
    return run_program(*STRICT, "script.py", folder=folder, said=said)


def run_cell(code: str, loop: Callable[[], asyncio.AbstractEventLoop] | None = None, **names: Any) -> dict[str, Any]:
    """Run code as a notebook's cell, where `await` needs no function around it; returns its names."""
    cell = compile(code, "<cell>", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)

    async def run() -> None:
        outcome = eval(cell, names)
        if inspect.isawaitable(outcome):
            await outcome

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(run())
    return names


class FastForward(asyncio.SelectorEventLoop):
    """A loop whose time can be turned on, for those who wait for long."""

    passed = 0.0

    def time(self) -> float:
        return super().time() + self.passed


def run_while_server_hangs(code: str, server: ModelServer, *, seconds: float) -> None:
    """Run a cell that asks one thing; so many seconds pass when it has, and the request has to end at the server."""
    server.next(faults.hang())

    async def time_passes() -> None:
        await server.until(lambda seen: seen.active == 1)
        asyncio.get_running_loop().passed += seconds

    async def request_ends() -> None:
        await server.until(lambda seen: seen.aborted == 1 and seen.active == 0)

    code = f"import asyncio\npassing = asyncio.create_task(time_passes())\n{code}\nawait request_ends()\n"
    run_cell(code, loop=FastForward, time_passes=time_passes, request_ends=request_ends)
    assert server.received == 1


def run_while_server_refuses(prompt: str, code: str, server: ModelServer) -> list[str]:
    """Run a cell of which one prompt is refused; returns the lines that it prints."""
    server.plan = lambda request: REFUSED if request.prompt == prompt else None
    with contextlib.redirect_stdout(io.StringIO()) as said:
        run_cell(code)
    return said.getvalue().splitlines()


def when(condition: Callable[[], object], then: Fault | None = None) -> Fault:
    """The answer, or another fault, once a condition holds; if it never does, an error that nobody tries again."""

    async def play(exchange: Exchange) -> web.StreamResponse:
        try:
            async with asyncio.timeout(5):
                while not condition():
                    await asyncio.sleep(0.002)
        except TimeoutError:
            return await faults.status(400, '{"error": "waited in vain"}').play(exchange)
        return await (exchange.answer() if then is None else then.play(exchange))

    return Fault("when", play, at_once=False, harmless=then is None)


def answer_in_groups(server: ModelServer, size: int, of: int) -> None:
    """Answer nobody before a group of so many is there: who sends fewer at a time waits in vain.

    The latency gives one who would send more the time to be caught at it, by the server's peak.
    """
    server.latency = 0.02

    def plan(request: Any) -> Fault:
        group = min(size * ceil(request.number / size), of)
        return when(lambda: server.received >= group)

    server.plan = plan
