"""``max_at_once="auto"`` against real servers on the loopback that work on few at a time, or refuse; beside the number
that a user would have to know."""

import asyncio
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from .contestants import Figures

REFUSED_SINCE = 10.0
"""Seconds after which refusals count: until then it is found out."""


@dataclass(frozen=True, slots=True)
class Scene:
    """A server, and the best fixed number for it.

    Attributes
    ----------
    options : mapping
        Of the `ModelServer`; ``latency`` is called with the seconds since it began.
    refuses : callable or None
        Given the requests that are active and the seconds since it began, how long to wait; None is no refusal.
    """

    fixed: int
    latency: Callable[[float], float]
    parallel: int | None = None
    refuses: Callable[[], Callable[[int, float], float | None]] | None = None


def noisy(seconds: float) -> float:
    """As noisy as replies of all lengths."""
    return random.expovariate(1 / seconds)


def few() -> Callable[[int, float], float | None]:
    """A server that refuses a fifth request beside four."""
    return lambda active, _: 0.0 if active > 4 else None


def bucket() -> Callable[[int, float], float | None]:
    """A token bucket: 20 a second, and 20 in reserve."""
    tokens, filled = 20.0, 0.0

    def refuse(_: int, now: float) -> float | None:
        nonlocal tokens, filled
        tokens, filled = min(20.0, tokens + 20 * (now - filled)), now
        if tokens < 1:
            return 1.0
        tokens -= 1
        return None

    return refuse


SCENES = {
    "one at a time": Scene(1, lambda _: 0.1, parallel=1),
    "four at a time": Scene(4, lambda _: 0.2, parallel=4),
    "sixty-four at a time": Scene(64, lambda _: 0.3, parallel=64),
    "four, more are refused": Scene(4, lambda _: 0.2, refuses=few),
    "a token bucket, 20 a second": Scene(6, lambda _: 0.25, refuses=bucket),
    "slows down in mid-run": Scene(16, lambda now: 0.2 if now < 12 else 0.6, parallel=16),
    "noisy": Scene(16, lambda _: noisy(0.3), parallel=16),
}


async def adapting(job: dict[str, Any]) -> Figures:
    """Answer for so many seconds, with the best fixed number and then with none.

    ``fixed`` and ``auto`` are the answers, ``refused`` the share of requests refused with ``"auto"``, ``limit`` how
    many were in flight in the end, ``words`` what was said of it.
    """
    scene, seconds = SCENES[job["contestant"]], job["seconds"]
    fixed, _, _ = await _answers(scene, seconds, scene.fixed)
    auto, refused, run = await _answers(scene, seconds, "auto")
    return {"fixed": fixed, "auto": auto, "refused": refused, "limit": run.max_at_once, "words": run.found}


async def _answers(scene: Scene, seconds: float, at_once: Any) -> tuple[int, float, Any]:
    from ceylon_nb import LlmAgent
    from ceylon_nb.testing import ModelServer, faults

    began = time.monotonic()
    refuse = scene.refuses() if scene.refuses is not None else None
    late = {"refused": 0, "all": 0}

    def plan(_: Any) -> Any:
        now = time.monotonic() - began
        wait = refuse(server.active, now) if refuse is not None else None
        late["all"] += now > REFUSED_SINCE
        late["refused"] += now > REFUSED_SINCE and wait is not None
        return None if wait is None else faults.rate_limited(wait or None)

    def prompts() -> Iterator[str]:
        number = 0
        while True:
            number += 1
            yield f"review {number}"

    server = ModelServer(reply="ok", latency=lambda _: scene.latency(time.monotonic() - began), parallel=scene.parallel)
    server.plan = plan
    with server:
        agent = LlmAgent("load", "ollama::mock", base_url=server.url)
        run = agent.map(prompts(), max_at_once=at_once, store=None, view=None, deadline=seconds)
        await run
        await asyncio.sleep(0)
    return run.counts["ok"], late["refused"] / max(1, late["all"]), run
