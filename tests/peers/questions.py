"""The questions: each is put to each library, and answered by what the server saw and the user had in hand.

A question is a function of a user's name that returns an observation: plain figures, no judgement. What a library does
not offer is not asked for: the observation is then None. How an observation reads is `table.py`'s.

Where something is to happen in the midst of a run, the server holds back what it is to happen to: there is no race.
"""

import asyncio
import contextlib
import json
import subprocess
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

from aiohttp import web

from ceylon_nb.testing import Request, faults
from ceylon_nb.testing.exchange import Exchange
from ceylon_nb.testing.witness import text_of

from ..benchmarks import environment
from ..kernels.kernel import Kernel
from .child import prompt
from .server import PeersServer
from .users import USERS, offers

Observation: TypeAlias = dict[str, Any] | None

AT_ONCE = 8
LONGEST = 30
"""Seconds in which a child has to end, if it is one that ends."""
WATCHED = 20
"""Seconds for which a run is watched that need not end."""
FOR_EVER = 3600.0


def row_of(request: Request) -> int:
    """Which row is asked for."""
    return int(request.prompt.rpartition(" ")[2])


def reply(messages: list[dict[str, Any]]) -> str:
    """What the model says: which row it was asked for."""
    return f"answer to {text_of(messages[-1])}"


@contextlib.contextmanager
def child(name: str, server: PeersServer, task: str, given: dict[str, Any], told: dict[str, Any]) -> Iterator[Any]:
    """A process in which that user does that task; killed in the end, if it has not ended."""
    job = {"user": name, "task": task, "given": {"base_url": server.openai_url, **given}, "with": told}
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen(
            [environment.python_with_peers(), "-W", "ignore", "-m", "tests.peers.child", json.dumps(job)],
            cwd=folder,
            env=environment.bare(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            yield process
        finally:
            process.kill()
            process.communicate()


def said(process: "subprocess.Popen[str]", timeout: float = LONGEST) -> dict[str, Any]:
    """What the child printed last.

    Raises
    ------
    ChildFailed
        It printed nothing.
    """
    out, errors = process.communicate(timeout=timeout)
    if not out.strip():
        raise ChildFailed(errors)
    found: dict[str, Any] = json.loads(out.splitlines()[-1])
    return found


class ChildFailed(Exception):
    """A user could not do what it was asked: with what it wrote to stderr."""


def run(name: str, server: PeersServer, task: str, given: dict[str, Any] | None = None, **told: Any) -> dict[str, Any]:
    """Let that user do that task, and wait for what it says."""
    with child(name, server, task, {"at_once": AT_ONCE, **(given or {})}, told) as process:
        return said(process)


# -- the questions ---------------------------------------------------------------------------------------------------


def bad_row(name: str) -> Observation:
    """One row of 20 is refused with a 400: how many answers are in hand, and does the failed one say why?"""
    with PeersServer(reply=reply) as server:
        why = json.dumps({"error": {"message": "this row is too long", "type": "invalid_request_error"}})
        server.plan = lambda request: faults.status(400, why) if row_of(request) == 7 else None
        seen = run(name, server, "ask", n=20)
    rows = seen["rows"]
    there = [row for row, got in enumerate(rows) if got.get("reply") == f"answer to {prompt(row)}"]
    failed = [row for row, got in enumerate(rows) if "this row is too long" in got.get("error", "")]
    return {"raised": seen["raised"] is not None, "there": len(there), "told": failed == [7]}


def told_apart(name: str) -> Observation:
    """The rows complete in reverse: do answers come as they complete, each with its row?"""
    if not offers(name, "completed"):
        return None
    n = 4
    with PeersServer(reply=reply) as server:
        gate = Gate(server, hold=lambda request: row_of(request) < n - 1)
        with child(name, server, "completed", {"at_once": n}, {"n": n}) as process:
            server.wait_for(lambda server: server.active == n - 1 and server.served == 1, LONGEST)
            first = json.loads(process.stdout.readline())
            gate.open()
            order = [first, *said(process)["order"][1:]]
    return {"right": all(answer == f"answer to {prompt(row)}" for row, answer in order), "first": order[0][0] == n - 1}


def on_the_index(name: str) -> Observation:
    """A Series with a label that is there twice: what comes back, and on which index?"""
    index = ["pot", "pan", "pot"]
    with PeersServer(reply=reply) as server:
        seen = run(name, server, "table", index=index)
    return {"kind": seen["kind"], "on_it": seen["index"] == index}


def interrupted(name: str) -> Observation:
    """■ on a cell that awaits 40 rows, when 20 are answered and 8 are on their way.

    The kernel does not wake a loop that waits for its sockets alone (ipykernel #881): whoever has not noticed after
    three seconds gets an answer more, which wakes it. What is open is counted a second after the cell has ended.
    """
    with PeersServer(reply=reply) as server, notebook(name, server) as kernel:
        gate = Gate(server, hold=after_20)
        cell = kernel.begin("await user.watch([prompt(row) for row in range(40)], kept)")
        kernel.until(lambda: in_the_midst(server), LONGEST)
        kernel.listen(0.5)  # it sees the 20
        kernel.interrupt()
        with contextlib.suppress(TimeoutError):
            cell.wait(3)
        at_once = cell.ended
        for _ in range(AT_ONCE):
            if cell.ended or not server.active:
                break
            gate.release(1)
            with contextlib.suppress(TimeoutError):
                cell.wait(3)
        with contextlib.suppress(TimeoutError):
            cell.wait(LONGEST)
        kernel.listen(1)
        kept = kernel.value("len(kept)") if cell.ended else 0
        return {"at_once": at_once, "ended": cell.ended, "open": server.active, "kept": kept}


def after_20(request: Request) -> bool:
    """Whether to hold it: all but the first 20."""
    return request.number > 20


def in_the_midst(server: PeersServer) -> bool:
    """Whether 20 are answered, and the next are held."""
    return (server.served, server.active) == (20, AT_ONCE)


def killed(name: str) -> Observation:
    """``kill -9`` when 20 of 40 rows are answered, and the same code again: how many rows are asked for twice?

    Whoever can keep answers does; and is asked once more without.
    """
    with tempfile.TemporaryDirectory() as folder:
        kept = _killed(name, folder if offers(name, "lasts") else None)
    return kept | {"without": _killed(name, None)["twice"] if offers(name, "lasts") else None}


def _killed(name: str, folder: str | None) -> dict[str, Any]:
    with PeersServer(reply=reply) as server:
        gate = Gate(server, hold=after_20)
        given = {"at_once": AT_ONCE, "folder": folder}
        with child(name, server, "watch", given, {"n": 40}) as process:
            server.wait_for(in_the_midst, LONGEST)
            time.sleep(0.5)  # whoever writes behind the answers is given that long
            process.kill()
            process.wait()
        server.wait_for(lambda server: server.active == 0)
        answered = {row_of(request) for request in server.requests if request.outcome == "served"}
        gate.open()
        server.reset()
        kept = run(name, server, "watch", {"folder": folder}, n=40)["kept"]
        asked = [row_of(request) for request in server.requests]
    return {"twice": sum(row in answered for row in asked), "kept": kept}


def too_many(name: str) -> Observation:
    """From the 12th request on, the server refuses everything for a second, and says so in ``Retry-After: 1``.

    What was on its way by then is nobody's fault: counted is what is sent later than 0.15 s after the first refusal.
    """
    began: list[float] = []

    def refuse(request: Request) -> faults.Fault | None:
        if request.number >= 12 and not began:
            began.append(request.at)
        return faults.rate_limited(1) if began and request.at < began[0] + 1 else None

    with PeersServer(reply=reply, latency=0.3) as server:
        server.plan = refuse
        with child(name, server, "ask", {"at_once": AT_ONCE}, {"n": 40}) as process:
            server.wait_for(lambda server: server.received, LONGEST)
            try:
                rows = said(process, WATCHED)["rows"]
            except subprocess.TimeoutExpired:
                rows = None
        after = [request.at - began[0] for request in server.requests if request.at > began[0] + 0.15]
    there = None if rows is None else sum("reply" in row for row in rows)
    return {"meanwhile": sum(moment < 1 for moment in after), "there": there, "more": len(after) > 0}


def rate(name: str) -> Observation:
    """120 requests a minute asked for: what they were from the third to the 20th second."""
    if not offers(name, "rates"):
        return None
    with PeersServer(reply=reply) as server:
        with child(name, server, "ask", {"at_once": AT_ONCE, "rate": 120}, {"n": 100}) as process:
            server.wait_for(lambda server: server.received, LONGEST)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(WATCHED)
        at = [request.at for request in server.requests]
    within = [moment for moment in at if at[0] + 2 <= moment <= at[0] + WATCHED]
    return {"per_minute": round((len(within) - 1) * 60 / (within[-1] - within[0]))}


def no_such_model(name: str) -> Observation:
    """A model that the server does not have: how many requests is one question?"""
    with PeersServer(reply=reply) as server:
        seen = run(name, server, "one", {"model": "no-such-model"})
        return {"requests": server.received, "raised": seen["raised"] is not None}


LAZY = 10_000


def lazy(name: str) -> Observation:
    """10,000 rows out of a generator: how many are read, and how many tasks are there, when 8 are on their way?"""
    given = {"at_once": AT_ONCE}
    with (
        PeersServer(reply=reply, latency=FOR_EVER) as server,
        child(name, server, "lazily", given, {"n": LAZY}) as process,
    ):
        server.wait_for(lambda server: server.received >= AT_ONCE, 2 * LONGEST)
        seen = json.loads(process.communicate("now\n", timeout=LONGEST)[0].splitlines()[-1])
    return {"read": seen["taken"], "tasks": seen["tasks"]}


def in_a_cell(name: str) -> Observation:
    """In a notebook cell: top-level await, and a call without await."""
    with PeersServer(reply=reply) as server, notebook(name, server) as kernel:
        awaited = kernel.run("print(await user.one('a'))", LONGEST)
        seen = {"awaited": awaited.text.strip() == "answer to a"}
        if offers(name, "one_sync"):
            called = kernel.run("print(user.one_sync('b'))", LONGEST)
            seen["called"] = called.text.strip() == "answer to b"
        return seen


def structured(name: str) -> Observation:
    """Four rows, and a pydantic class that the answers are to be of; the model says what fits it: what comes out?"""
    if not offers(name, "structured"):
        return None
    with PeersServer(reply=lambda messages: json.dumps({"said": reply(messages)})) as server:
        seen = run(name, server, "structured", n=4)
    right = seen["said"] == [f"answer to {prompt(row)}" for row in range(4)]
    return {"kinds": sorted(set(seen["kinds"])), "right": right}


# -- what they are put with ------------------------------------------------------------------------------------------


class Gate:
    """Holds requests at a server until they are let go, or their clients leave.

    Parameters
    ----------
    server
        Whose `plan` it takes.
    hold : callable
        Which requests.
    """

    def __init__(self, server: PeersServer, hold: Callable[[Request], bool]) -> None:
        self._hold = hold
        self._held: deque[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = deque()
        server.plan = self._asked

    def release(self, how_many: int) -> None:
        """Let go of that many, those first that came first."""
        for _ in range(how_many):
            loop, event = self._held.popleft()
            loop.call_soon_threadsafe(event.set)

    def open(self) -> None:
        """Hold nothing more, and let go of what is held."""
        self._hold = lambda request: False
        self.release(len(self._held))

    def _asked(self, request: Request) -> faults.Fault | None:
        if not self._hold(request):
            return None
        event = asyncio.Event()
        self._held.append((asyncio.get_running_loop(), event))

        async def play(exchange: Exchange) -> web.StreamResponse:
            await event.wait()
            return await exchange.answer()

        return faults.Fault("held", play, harmless=True)


@contextlib.contextmanager
def notebook(name: str, server: PeersServer) -> Iterator[Kernel]:
    """A kernel under the peers' Python, in which that user is `user`."""
    python = Path(environment.python_with_peers())
    kernel = Kernel(
        python,
        **{
            name: value
            for name, value in environment.bare().items()
            if name in ("PYTHONPATH", *environment.peers.SETTINGS)
        },
    )
    try:
        begin = (
            "import sys\n"
            "from tests.benchmarks.child import loopback_only\n"
            "from tests.peers.child import prompt\n"
            "from tests.peers.users import USERS\n"
            "sys.addaudithook(loopback_only)\n"
            f"user, kept = USERS[{name!r}]({server.openai_url!r}, at_once={AT_ONCE}), {{}}"
        )
        cell = kernel.run(begin)
        if cell.status != "ok":
            raise ChildFailed("\n".join(cell.traceback))
        yield kernel
    finally:
        kernel.stop()


QUESTIONS: dict[str, Callable[[str], Observation]] = {
    question.__name__: question
    for question in (
        bad_row,
        told_apart,
        on_the_index,
        interrupted,
        killed,
        too_many,
        rate,
        no_such_model,
        lazy,
        in_a_cell,
        structured,
    )
}

NAMES = tuple(USERS)
