"""A provider made of the user's own ``async def (messages) -> str``."""

from __future__ import annotations

import asyncio
import itertools
import weakref
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import TypeAlias

from .. import errors
from ..messages import Message, Reply, sendable
from ..timeouts import patient_timeout
from .base import Request
from .deltas import Delta

AskFunction: TypeAlias = Callable[[list[Message]], Awaitable[str]]

_numbers: weakref.WeakKeyDictionary[AskFunction, int] = weakref.WeakKeyDictionary()
_count = itertools.count()


def _number(ask: AskFunction) -> int:
    """One for each function, and for no other after it, as whoever has the same shares a rate and a cool-down."""
    try:
        return _numbers.setdefault(ask, next(_count))
    except TypeError:  # it cannot be remembered
        return next(_count)


class Function:
    """A model that is a coroutine function: messages in, text (or a Reply, which may ask for actions) out."""

    more_at_once = ""

    def __init__(self, ask: AskFunction) -> None:
        self._ask = ask
        self.name = getattr(ask, "__name__", type(ask).__name__)
        self.account = ""
        self.base_url = f"function:{self.name}:{_number(ask)}"

    def prepare(self) -> None:
        """There is nothing to prepare."""

    async def complete(self, request: Request) -> Reply:
        """Await the function.

        Raises
        ------
        RequestTimeout
            It took longer than the timeout.
        EmptyReply
            It returned no text.
        TypeError
            It is not an ``async def``, or returned something else.
        """
        answer = self._ask(list(request.messages))
        if not isinstance(answer, Awaitable):
            raise TypeError(f"{self.name} must be an `async def`; it returned {type(answer).__name__} at once.")
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            async with patient_timeout(request.timeout):
                text = await answer
        except TimeoutError as error:
            if request.timeout is None or loop.time() - began < request.timeout:
                raise  # its own
            raise errors.RequestTimeout(
                f"{self.name} gave no answer within {request.timeout:g} s; raise `timeout`."
            ) from error
        if not isinstance(text, str):
            raise TypeError(f"{self.name} must return a str, not {type(text).__name__}.")
        if not text and not (request.tools and isinstance(text, Reply) and text.tool_calls):
            raise errors.EmptyReply(f"{self.name} returned no text.")
        return text if isinstance(text, Reply) else Reply(sendable(text), model=self.name, finish_reason="stop")

    async def stream(self, request: Request) -> AsyncGenerator[Delta, None]:
        """Await the function, and yield its answer in one piece."""
        reply = await self.complete(request)
        yield Delta(str(reply), reply.model, reply.finish_reason or "stop", reply.usage, tool_calls=reply.tool_calls)
