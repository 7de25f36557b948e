"""What is worth another try, and when."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import TypeVar, TypeVarTuple, Unpack

from .errors import CeylonError, ConnectionFailed, RequestError, StatusError, TLSFailed
from .messages import Reply
from .trace import flying

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

RETRY_STATUS = frozenset({408, 429, 500, 502, 503, 504, 529})
"""Statuses of a server that may answer if asked again."""

BASE = 0.5
CAP = 30.0
"""Seconds: the first back-off's upper bound, and every back-off's."""

time_left: ContextVar[Callable[[], float]] = ContextVar("time_left", default=lambda: float("inf"))
"""Seconds until the deadline of the batch that this call belongs to. No back-off sleeps past it."""

attempts_made: ContextVar[int] = ContextVar("attempts_made", default=1)
"""Attempts made for the row that this worker is at."""


def worth_another_try(error: BaseException) -> bool:
    """Whether a request that ended so may end better: a passing status, or a connection fault before an answer."""
    if isinstance(error, TLSFailed):
        return False
    if isinstance(error, StatusError):
        return error.status in RETRY_STATUS
    return isinstance(error, ConnectionFailed)


def any_fault(error: BaseException) -> bool:
    """For functions that are not ours: any exception, but for those an agent has already tried again."""
    return not isinstance(error, CeylonError)


def backoff(attempt: int) -> float:
    """Seconds to wait after `attempt` attempts: exponential with full jitter.

    Source: M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
    """
    return random.uniform(0, min(CAP, BASE * 2.0 ** min(attempt - 1, 16)))


async def retrying(
    call: Callable[[Unpack[Ts]], Awaitable[T]],
    *arguments: *Ts,
    attempts: int,
    worth: Callable[[BaseException], bool],
    delay: Callable[[Exception, int], float | None],
) -> T:
    """Call with these arguments until it succeeds, `attempts` times at most.

    Parameters
    ----------
    worth : callable
        Whether an error is worth another try.
    delay : callable
        Given the error and the attempts made, returns how many seconds to wait before the next one; None where that
        would outlast the deadline.

    Raises
    ------
    Exception
        The last attempt's. A `RequestError`, as a `Reply`, then knows how many there were.
    """
    made = 0
    while True:
        made += 1
        attempts_made.set(made)
        try:
            result = await call(*arguments)
        except Exception as error:
            if isinstance(error, RequestError):
                error.attempts = max(error.attempts, made)
            seconds = delay(error, made) if made < attempts and worth(error) else None
            if seconds is None:
                raise
            flight = flying.get()
            if flight is not None:
                flight.failed(error, made)
        else:
            if isinstance(result, Reply):
                result.attempts = max(result.attempts, made)
            return result
        await asyncio.sleep(seconds)
