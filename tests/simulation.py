"""Servers as they are met, on a clock that jumps: how many each works on, what it refuses, and how that changes."""

from __future__ import annotations

import asyncio
import math
import random
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

from ceylon_nb import frames
from ceylon_nb.agents.caller import Caller, Settings
from ceylon_nb.engine import start
from ceylon_nb.errors import RateLimited
from ceylon_nb.limits import Endpoint
from ceylon_nb.policy import AtOnce
from ceylon_nb.providers.function import Function
from ceylon_nb.work import Storing, Work

from .test_policy import VirtualLoop


class Server:
    """What all have in common. `seconds` draws how long an answer takes by itself."""

    def __init__(self, seconds: Callable[[], float]) -> None:
        self.seconds = seconds

    async def answer(self) -> None:
        """Take one request.

        Raises
        ------
        RateLimited
            It is refused.
        """
        raise NotImplementedError


class Parallel(Server):
    """Works on `parallel` at a time; the others queue, or are refused."""

    def __init__(self, parallel: int, seconds: Callable[[], float], *, refuses: bool = False) -> None:
        super().__init__(seconds)
        self.parallel, self.refuses = parallel, refuses
        self.busy = 0
        self._queue: deque[asyncio.Future[None]] = deque()

    async def answer(self) -> None:
        if self.busy >= self.parallel:
            if self.refuses:
                raise RateLimited("busy", status=429)
            place = asyncio.get_running_loop().create_future()
            self._queue.append(place)
            await place
        else:
            self.busy += 1
        await asyncio.sleep(self.seconds())
        if self._queue and self.busy <= self.parallel:
            self._queue.popleft().set_result(None)  # with its place
        else:
            self.busy -= 1


class Batching(Server):
    """Works on all at once, each the slower the more there are beyond `parallel`: a graphics card."""

    def __init__(self, parallel: int, seconds: Callable[[], float]) -> None:
        super().__init__(seconds)
        self.parallel, self.busy = parallel, 0

    async def answer(self) -> None:
        self.busy += 1
        left = self.seconds()
        step = left / 20
        while left > 1e-9:
            await asyncio.sleep(step)
            left -= step * min(1.0, self.parallel / self.busy)
        self.busy -= 1


class Bucket(Server):
    """Answers all at once, but lets only so many a second through (and `burst` more), and says when to come back."""

    def __init__(self, rate: float, burst: int, seconds: Callable[[], float], *, says_when: bool = True) -> None:
        super().__init__(seconds)
        self.rate, self.burst, self.says_when = rate, burst, says_when
        self._tokens, self._filled = float(burst), 0.0

    async def answer(self) -> None:
        now = asyncio.get_running_loop().time()
        self._tokens = min(self.burst, self._tokens + (now - self._filled) * self.rate)
        self._filled = now
        if self._tokens < 1:
            error = RateLimited("too many", status=429)
            error.retry_after = math.ceil((1 - self._tokens) / self.rate) if self.says_when else None
            raise error
        self._tokens -= 1
        await asyncio.sleep(self.seconds())


def about(seconds: float, spread: float = 0.0) -> Callable[[], float]:
    """Log-normal, with that mean, and that standard deviation of the logarithm."""
    return lambda: seconds * random.lognormvariate(-spread * spread / 2, spread)


def memoryless(seconds: float) -> Callable[[], float]:
    """Exponential: as noisy as replies of all lengths."""
    return lambda: random.expovariate(1 / seconds)


@dataclass(slots=True)
class Seen:
    """What happened, and when, in seconds since the start."""

    answered: list[float] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)
    limits: list[tuple[float, int]] = field(default_factory=list)
    failed: int = 0
    words: str = ""

    def refused_share(self, since: float = 10.0) -> float:
        """Which part of the requests was refused from then on."""
        refused = sum(when > since for when in self.refused)
        return refused / max(1, refused + sum(when > since for when in self.answered))

    def settled(self, since: float) -> list[int]:
        """How many might be in flight, each tenth of a second from then on."""
        return [limit for when, limit in self.limits if when > since]


def work(
    make: Callable[[], Server],
    seconds: float,
    at_once: AtOnce = "auto",
    *,
    seed: int = 0,
    change: tuple[float, Callable[[Any], None]] | None = None,
    batches: int = 1,
) -> list[Seen]:
    """Have a server work for so long; `change` is done to it at its time. What each batch saw of it."""
    random.seed(seed)

    async def main(loop: VirtualLoop) -> list[Seen]:
        server, clocks, began = make(), Endpoint(now=loop.time), loop.time()
        if change is not None:
            loop.call_at(began + change[0], change[1], server)
        runs = [_begin(loop, server, clocks, at_once) for _ in range(batches)]
        for _ in range(round(seconds * 10)):
            await asyncio.sleep(0.1)
            for run, seen in runs:
                seen.limits.append((loop.time() - began, run.max_at_once))
        for run, seen in runs:
            seen.failed, seen.words = run.counts["failed"], run.found
            run.cancel()
        for run, _ in runs:
            await run
        return [seen for _, seen in runs]

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main(runner.get_loop()))


def _begin(loop: VirtualLoop, server: Server, clocks: Endpoint, at_once: AtOnce) -> tuple[Any, Seen]:
    seen, began = Seen(), loop.time()

    async def ask(_: Any) -> str:
        try:
            await server.answer()
        except RateLimited:
            seen.refused.append(loop.time() - began)
            raise
        seen.answered.append(loop.time() - began)
        return "done"

    async def rows() -> AsyncIterator[str]:
        while True:
            yield "a row"

    caller = Caller("function::ask", Function(ask), Settings())
    caller.endpoint = clocks
    task = Work(
        caller.ask,
        title="simulated",
        prepare=caller.request,
        endpoint=clocks,
        estimate=clocks.estimate,
    )
    storing = Storing(None, fresh=False, dedupe=False, keep=True)
    return start(task, frames.source(rows()), storing, max_at_once=at_once, deadline=None, view=None), seen
