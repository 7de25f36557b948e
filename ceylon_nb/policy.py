"""What may be asked of a call: options that make sense, a rate, a timeout, further attempts."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Literal, TypeAlias

from .errors import ConfigurationError
from .limits import Endpoint
from .loop import clock
from .retry import any_fault, backoff, retrying, time_left
from .shares import sharing
from .timeouts import patient_timeout
from .trace import flying

COUNTS = ("max_at_once", "attempts", "max_rounds", "mailbox", "keep", "last")
"""Options that are whole numbers, and never None."""

AtOnce: TypeAlias = int | Literal["auto"]
"""How many rows in flight; "auto" is as many as the server is found to work on."""

VIEWS = ("auto", "panel", "static", "terminal")


def check_options(*, view: object = None, auto: bool = False, **numbers: object) -> None:
    """Refuse what makes no sense.

    Parameters
    ----------
    auto : bool
        Whether `max_at_once` may be ``"auto"``.

    Raises
    ------
    ConfigurationError
        A count that is not a whole number from 1, another number that is not above 0 (a temperature may be 0), or an
        unknown view.
    """
    for name, value in numbers.items():
        if (value is None and name not in COUNTS) or (value == "auto" and name == "max_at_once" and auto):
            continue
        whole = name in (*COUNTS, "max_tokens")
        number = isinstance(value, int if whole else (int, float)) and not isinstance(value, bool)
        least = 0 if name == "temperature" else None
        if not number or not (0 < value < float("inf") or value == least):  # type: ignore[operator]
            wanted = "a whole number from 1" if whole else "a number from 0" if least == 0 else "a number above 0"
            wanted += ', or "auto"' if auto and name == "max_at_once" else ""
            raise ConfigurationError(f"{name} is {wanted}, not {value!r}.")
    if not (view is None or callable(view) or view in VIEWS):
        raise ConfigurationError(f"view is one of {', '.join(VIEWS)}, None or a function of the batch, not {view!r}.")


def with_policy(
    fn: Callable[[Any], Awaitable[Any]],
    attempts: int,
    max_per_minute: float | None,
    timeout: float | None,
    clocks: Endpoint,
) -> Callable[[Any], Awaitable[Any]]:
    """The same function with a rate, a timeout, and further attempts; from each its clocks' estimate learns."""

    def delay(_: Exception, made: int) -> float | None:
        seconds = backoff(made)
        return seconds if seconds <= time_left.get()() else None

    async def timed(item: Any) -> Any:
        async with patient_timeout(timeout):
            return await fn(item)

    async def once(item: Any) -> Any:
        share, estimate, flight = sharing.get(), clocks.estimate, flying.get()
        if share is not None and share.active and share.estimate is estimate:
            async with share.place():
                await clocks.turn(max_per_minute, pace=estimate.interval)
                if flight is not None:
                    flight.sent(clock())
                return await estimate.watch(timed(item))
        if max_per_minute:
            await clocks.turn(max_per_minute)
        if flight is not None:
            flight.sent(clock())
        return await (timed(item) if timeout else fn(item))

    async def call(item: Any) -> Any:
        return await retrying(once, item, attempts=attempts, worth=any_fault, delay=delay)

    return call if attempts > 1 else once
