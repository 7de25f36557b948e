"""One call to a model: its settings, its turn, its further attempts."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import aclosing
from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias, TypedDict, TypeVar

from .. import limits, recording
from ..allowance import hearing
from ..errors import ConfigurationError, RequestError, StatusError, drop_tracebacks, ungrouped
from ..limits import Turn
from ..loop import awake, clock
from ..messages import UNKNOWN, CallsMessage, Prompt, Reply, Tool, ToolCall, Usage, as_messages
from ..meters import Guess
from ..policy import check_options
from ..providers.base import Provider, Request
from ..providers.deltas import Delta, Gathering
from ..retry import attempts_made, backoff, retrying, time_left, worth_another_try
from ..shares import sharing
from ..trace import flying, limited
from ..urls import Address

if TYPE_CHECKING:
    from ..http import Transport

T = TypeVar("T")

Confirm: TypeAlias = Callable[[str, ToolCall], "bool | str | Awaitable[bool | str]"]
"""Takes an agent's name and a call; returns whether the action may be run, or why not, as text. May be async."""


class Options(TypedDict, total=False):
    """What can be said of an agent, by keyword, by ``with_…``, or for one `LlmAgent.map`."""

    system_prompt: str | None
    temperature: float | None
    max_tokens: int | None
    api_key: str | None
    base_url: str | None
    timeout: float | None
    attempts: int
    max_per_minute: float | None
    max_tokens_per_minute: float | None
    transport: Transport | None
    max_rounds: int
    action_timeout: float | None
    confirm: Confirm | None


@dataclass(frozen=True, slots=True)
class Settings:
    """The options in force; a call takes a snapshot of them."""

    system_prompt: str | None = None
    temperature: float | None = None
    max_tokens: int | None = None
    api_key: str | None = field(default=None, repr=False)
    base_url: str | None = field(default=None, repr=False)
    timeout: float | None = 600.0
    attempts: int = 3
    max_per_minute: float | None = None
    max_tokens_per_minute: float | None = None
    transport: Transport | None = field(default=None, repr=False)
    max_rounds: int = 10
    action_timeout: float | None = 60.0
    confirm: Confirm | None = None

    @property
    def connection(self) -> tuple[str | None, str | None, Transport | None]:
        """What decides where requests go."""
        return self.base_url, self.api_key, self.transport

    def but(self, options: Options) -> Settings:
        """The same settings with some of them replaced.

        Raises
        ------
        ConfigurationError
            There is no such option, or its value makes no sense.
        """
        unknown = set(options) - {each.name for each in fields(self)}
        if unknown:
            known = ", ".join(each.name for each in fields(self))
            raise ConfigurationError(f"There is no option {min(unknown)!r}. There are {known}.")
        for name in ("system_prompt", "api_key", "base_url"):
            if not isinstance(options.get(name), str | None):
                raise ConfigurationError(f"{name} is a str or None, not {type(options[name]).__name__}.")
        base_url = options.get("base_url")
        if base_url is not None and not base_url.strip().strip("\"'"):
            raise ConfigurationError("base_url is empty. Leave it out, or write None, for the environment's address.")
        new = replace(self, **options)
        check_options(
            temperature=new.temperature,
            max_tokens=new.max_tokens,
            timeout=new.timeout,
            attempts=new.attempts,
            max_per_minute=new.max_per_minute,
            max_tokens_per_minute=new.max_tokens_per_minute,
            max_rounds=new.max_rounds,
            action_timeout=new.action_timeout,
        )
        if not (new.confirm is None or callable(new.confirm)):
            raise ConfigurationError(f"confirm is a function (agent_name, call) -> bool, not {new.confirm!r}.")
        transport: object = new.transport
        asks = hasattr(transport, "handle_async_request") and not isinstance(transport, type)
        if transport is not None and not asks:
            raise ConfigurationError(
                f"transport is an httpx.AsyncBaseTransport, not {type(transport).__name__}; for a sync one, use "
                "its async twin (httpx.AsyncHTTPTransport)."
            )
        return new


class Caller:
    """A provider with the settings of one call: what asks, holds off, and asks again.

    Attributes
    ----------
    model : str
        ``provider::model-name``.
    endpoint : Endpoint
        The clocks that its requests go by.
    tools : tuple of Tool
        The actions that the model may call.
    """

    tools: tuple[Tool, ...] = ()

    def __init__(self, model: str, provider: Provider, settings: Settings) -> None:
        self.model = model
        self.provider = provider
        self.settings = settings
        self.endpoint = limits.endpoint(provider.base_url, provider.account)
        self._recording = recording.current()

    def request(self, prompt: Prompt) -> Request:
        """What is sent for a prompt.

        Raises
        ------
        InvalidItem
            There is nothing to send.
        """
        settings = self.settings
        messages = as_messages(prompt, settings.system_prompt)
        model = self.model.partition("::")[2]
        return Request(model, messages, settings.temperature, settings.max_tokens, settings.timeout, prompt)

    def ask(self, request: Request) -> Coroutine[Any, Any, Reply]:
        """The model's reply, or the recorded one; each attempt takes its turn."""
        if self._recording is None:
            return self._ask(request)
        return self._recording.ask(self.model, request, partial(self._ask, request), self.hide)

    def ask_streaming(self, request: Request) -> Coroutine[Any, Any, Reply]:
        """The same, asked for in pieces; whoever watches the row in flight sees them come."""
        once = partial(self._retrying, self._gather, request)
        if self._recording is None:
            return once()
        return self._recording.ask(self.model, request, once, self.hide)

    def stream(self, request: Request) -> AsyncGenerator[Delta, None]:
        """The pieces of the model's reply, or the recorded ones; asked again only while none has come."""
        if self._recording is None:
            return self._stream(request)
        return self._recording.stream(self.model, request, partial(self._stream, request), self.hide)

    def hide(self, text: str) -> str:
        """The same text without the agent's key and the login in its address."""
        text = Address.of(self.provider.base_url).hide(text)
        key = (self.settings.api_key or "").strip()
        return text.replace(key, "***") if key else text

    def _ask(self, request: Request) -> Coroutine[Any, Any, Reply]:
        return self._retrying(self._complete, request)

    async def _complete(self, request: Request) -> Reply:
        began = clock()
        reply = await self.provider.complete(request)
        reply.latency = clock() - began
        return reply

    async def _gather(self, request: Request) -> Reply:
        began, flight, gathering = clock(), flying.get(), Gathering()
        async with aclosing(self.provider.stream(request)) as deltas:
            async for delta in deltas:
                gathering.add(delta)
                if flight is not None and delta.text:
                    flight.heard(delta.text)
        reply = gathering.reply(self.hide)  # at once: a key may come in two pieces
        reply.latency = clock() - began
        return reply

    async def _stream(self, request: Request) -> AsyncGenerator[Delta, None]:
        began = clock()
        deltas, first = await self._retrying(self._begin, request)
        turn = hearing.get()  # while this is still the context in which it was taken
        usage, said = first.usage, [first.text]
        try:
            yield first
            async for delta in deltas:
                usage = delta.usage or usage
                said.append(delta.text)
                yield delta
        except RequestError as error:
            error.item, error.latency = request.prompt, clock() - began
            raise
        finally:
            if isinstance(turn, Turn) and turn.counts:
                self._count(turn, request, "".join(said), usage or UNKNOWN)
            await deltas.aclose()

    async def _begin(self, request: Request) -> tuple[AsyncGenerator[Delta, None], Delta]:
        deltas = self.provider.stream(request)
        try:
            return deltas, await anext(deltas)
        except BaseException:
            await deltas.aclose()
            raise

    async def _retrying(self, once: Callable[[Request], Awaitable[T]], request: Request) -> T:
        """Ask once or more. Without closures: each would be several objects for every request that waits."""
        with awake():
            try:
                return await retrying(
                    self._attempt,
                    once,
                    request,
                    attempts=self.settings.attempts,
                    worth=worth_another_try,
                    delay=self._delay,
                )
            except Exception as error:  # noqa: BLE001 - raised below, where no group that it was in is its context
                failure = ungrouped(error)
        if isinstance(failure, RequestError):
            failure.item = request.prompt
            drop_tracebacks(failure)
        try:
            raise failure
        finally:
            del failure  # its traceback holds this frame: a circle that would keep the prompt

    async def _attempt(self, once: Callable[[Request], Awaitable[T]], request: Request) -> T:
        share = sharing.get()
        estimate = self.endpoint.estimate
        if share is None or not share.active or share.estimate is not estimate or once == self._begin:
            return await self._sent(once, request, None)
        async with share.place():
            return await self._sent(once, request, estimate.interval)

    async def _sent(
        self, once: Callable[[Request], Awaitable[T]], request: Request, pace: Callable[[], float] | None
    ) -> T:
        settings, endpoint = self.settings, self.endpoint
        counts = settings.max_tokens_per_minute is not None or endpoint.counts_tokens
        turn = await (self._turn(request, pace) if counts else endpoint.turn(settings.max_per_minute, pace=pace))
        hearing.set(turn)
        began, flight = clock(), flying.get()
        if flight is not None:
            flight.sent(began)
        sent = endpoint.estimate.begin() if once != self._begin else None  # that is answered by its first piece
        try:
            result = await once(request)
        except BaseException as error:
            if sent is not None:
                endpoint.estimate.failed(sent, error)
            self._failed(turn, request, error, clock() - began)
            raise
        if sent is not None:
            endpoint.estimate.answered(sent)
        if turn.counts and isinstance(result, Reply):
            self._count(turn, request, result, result.usage)
        return result

    def _failed(self, turn: Turn, request: Request, error: BaseException, seconds: float) -> None:
        """An attempt failed, or was cancelled."""
        if turn.counts:
            refused = isinstance(error, StatusError) and (error.status or 500) < 500  # before a model has read it
            turn.took(0 if refused else self._guess.input(size(request)))
        if not isinstance(error, RequestError):
            return
        error.latency = seconds
        if limited(error):  # for everybody, also when this was the last attempt
            wait = error.retry_after if error.retry_after is not None else backoff(attempts_made.get())
            self.endpoint.hold_off(wait, f"the server said {error.status}")

    def _delay(self, error: Exception, made: int) -> float | None:
        """Back off before the next attempt, but for an error that holds the endpoint off: the next turn waits then."""
        seconds = 0.0 if limited(error) else backoff(made)
        return seconds if max(seconds, self.endpoint.held()) <= time_left.get()() else None

    # -- tokens -------------------------------------------------------------------------------------------------

    @property
    def _guess(self) -> Guess:
        return self.endpoint.guess(self.model)

    def _turn(self, request: Request, pace: Callable[[], float] | None) -> Coroutine[Any, Any, Turn]:
        """Leave to send a request; further attempts take their turns, and their tokens, like the first."""
        settings = self.settings
        guess = self._guess
        return self.endpoint.turn(
            settings.max_per_minute,
            max_tokens_per_minute=settings.max_tokens_per_minute,
            tokens=guess.input(size(request)) + guess.output(request.max_tokens),
            pace=pace,
        )

    def _count(self, turn: Turn, request: Request, said: str, usage: Usage) -> None:
        """So much it was, by the server's count; where it gives none, by the length of the text."""
        guess, characters = self._guess, size(request)
        guess.learn(characters, usage.input_tokens, usage.output_tokens)
        asked, answered = usage.input_tokens, usage.output_tokens
        turn.took(
            (guess.input(characters) if asked is None else asked)
            + (guess.input(len(said)) if answered is None else answered)
        )


def size(request: Request) -> int:
    """Characters of a request: what is said, the calls in it, and the actions that the model is told of."""
    calls = [call for turn in request.messages if isinstance(turn, CallsMessage) for call in turn.calls]
    return (
        sum(len(turn.content) for turn in request.messages)
        + sum(len(call.name) + len(str(call.arguments)) for call in calls)
        + sum(len(tool.name) + len(tool.description) + len(str(tool.parameters)) for tool in request.tools)
    )
