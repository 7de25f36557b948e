"""What may be asked of a call: options that make sense, a rate, a timeout, further attempts."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from .errors import ConfigurationError
from .limits import Endpoint
from .retry import any_fault, backoff, retrying, time_left
from .timeouts import patient_timeout

COUNTS = ("max_at_once", "attempts", "max_rounds", "mailbox", "keep", "last")
"""Options that are whole numbers, and never None."""

VIEWS = ("auto", "panel", "static", "terminal")


def check_options(*, view: object = None, **numbers: object) -> None:
    """Refuse what makes no sense.

    Raises
    ------
    ConfigurationError
        A count that is not a whole number from 1, another number that is not above 0 (a temperature may be 0), or an
        unknown view.
    """
    for name, value in numbers.items():
        if value is None and name not in COUNTS:
            continue
        whole = name in (*COUNTS, "max_tokens")
        number = isinstance(value, int if whole else (int, float)) and not isinstance(value, bool)
        least = 0 if name == "temperature" else None
        if not number or not (0 < value < float("inf") or value == least):  # type: ignore[operator]
            wanted = "a whole number from 1" if whole else "a number from 0" if least == 0 else "a number above 0"
            raise ConfigurationError(f"{name} is {wanted}, not {value!r}.")
    if not (view is None or callable(view) or view in VIEWS):
        raise ConfigurationError(f"view is one of {', '.join(VIEWS)}, None or a function of the batch, not {view!r}.")


def with_policy(
    fn: Callable[[Any], Awaitable[Any]], attempts: int, max_per_minute: float | None, timeout: float | None
) -> Callable[[Any], Awaitable[Any]]:
    """The same function with a rate of its own, a timeout, and further attempts."""
    clocks = Endpoint()

    def delay(_: Exception, made: int) -> float | None:
        seconds = backoff(made)
        return seconds if seconds <= time_left.get()() else None

    async def call(item: Any) -> Any:
        async def once() -> Any:
            await clocks.turn(max_per_minute)
            async with patient_timeout(timeout):
                return await fn(item)

        return await retrying(once, attempts=attempts, worth=any_fault, delay=delay)

    return call
