"""The tool loop: ask, do what the model calls for, tell it what came of it, and ask again until it answers.

* The calls of one turn run at once, each in a task of its own; their results go back in the order of the calls.
* Whatever goes wrong with a call is told to the model, which may do better; only the requests themselves can fail.
* Who is cancelled meanwhile cancels the actions that run, and waits for them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any

import orjson

from ..errors import NoSuchAction, RequestError, TooManyRounds, describe
from ..loop import awake, clock, end
from ..messages import CallsMessage, Done, Prompt, Reply, ResultMessage, ToolCall, Usage, sendable
from ..providers.base import Provider, Request
from ..providers.deltas import Delta, gather_stream
from ..retry import attempts_made
from ..trace import flying
from . import threads
from .actions import Action, as_text
from .caller import Caller, Confirm, Settings

log = logging.getLogger("ceylon_nb")

acted: ContextVar[Callable[[str, Done], object] | None] = ContextVar("acted", default=None)
"""Told of each action that a model called, with the agent's name, when it has ended."""


AT_ONCE = 32
"""Calls of one turn that run at the same time: a model may say thousands, and each may take a thread."""


@dataclass(frozen=True, slots=True)
class Toolbox:
    """The actions of one agent, and how its model may call them.

    Attributes
    ----------
    agent : str
        Its name.
    actions : Mapping of str to Action
    max_rounds : int
        Turns of the model that may call actions.
    timeout : float or None
        Seconds for an action that has no timeout of its own.
    confirm : callable or None
        Asked before each call.
    context : object
        Handed to actions that want it.
    hide : callable
        The same text without the agent's key, which an action's error may name.
    """

    agent: str
    actions: Mapping[str, Action]
    max_rounds: int = 10
    timeout: float | None = None
    confirm: Confirm | None = None
    context: object = None
    hide: Callable[[str], str] = str

    async def act(self, calls: Sequence[ToolCall], number: int) -> list[Done]:
        """Run the calls of one turn at the same time, AT_ONCE of them at the most."""
        confirming = asyncio.Lock()  # whoever is asked is asked one thing at a time, in the order of the calls
        hands = asyncio.Semaphore(AT_ONCE)
        tasks = [asyncio.create_task(self._act(call, number, confirming, hands)) for call in calls]
        try:
            with awake():
                await asyncio.wait(tasks)
        finally:
            await end(tasks)
        return [task.result() for task in tasks]

    async def _act(self, call: ToolCall, number: int, confirming: asyncio.Lock, hands: asyncio.Semaphore) -> Done:
        flying.set(None)  # what an action asks of other agents is not the row's own request
        began, error = clock(), None
        try:
            async with hands:
                began = clock()
                result = as_text(await self._run(call, confirming))
        except asyncio.CancelledError as failure:
            if _cancelled():
                raise
            error = describe(failure)  # what it waited for was cancelled, not the action
        except (KeyboardInterrupt, GeneratorExit):  # of the loop, not of the action
            raise
        except BaseException as failure:
            error = describe(failure)
            log.debug("Action %r of %r failed", call.name, self.agent, exc_info=True)
        if error is not None:
            error = self.hide(sendable(error))
            result = f"error: {error}"
        done = Done(self._shown(call), self.hide(sendable(result)), error, clock() - began, number)
        _tell(self.agent, done)
        return done

    def _shown(self, call: ToolCall) -> ToolCall:
        """The same call without the agent's key, which a model may say."""
        said = call.arguments if isinstance(call.arguments, str) else orjson.dumps(call.arguments).decode()
        shown = self.hide(said)
        if shown == said:
            return call
        return replace(call, arguments=shown if isinstance(call.arguments, str) else orjson.loads(shown))

    async def _run(self, call: ToolCall, confirming: asyncio.Lock) -> Any:
        action = self.actions.get(call.name)
        if action is None:
            raise NoSuchAction(f"There is no action {call.name!r}. There is: {', '.join(self.actions)}.")
        if self.confirm is not None:
            async with confirming:
                await self._have_confirmed(self.confirm, call)
        return await action.run(call.arguments, self.context, timeout=self.timeout)

    async def _have_confirmed(self, confirm: Confirm, call: ToolCall) -> None:
        answer = await threads.call(confirm, self.agent, call)
        if isinstance(answer, str) or not answer:
            raise PermissionError("this call was not allowed" + (f": {answer}" if answer else ""))


def _cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _tell(agent: str, done: Done) -> None:
    listener = acted.get()
    if listener is None:
        return
    try:
        listener(agent, done)
    except Exception:
        log.exception("A listener to actions failed; the actions go on")


# -- rounds ----------------------------------------------------------------------------------------------------------


class _Way:
    """How far a tool loop has come.

    Attributes
    ----------
    request : Request
        The next one.
    """

    def __init__(self, request: Request, toolbox: Toolbox) -> None:
        self.request = request
        self._toolbox = toolbox
        self._began = clock()
        self._replies: list[Reply] = []
        self._done: list[Done] = []

    @contextmanager
    def asking(self) -> Iterator[None]:
        """Have an error know of the requests that were made before."""
        try:
            yield
        except RequestError as error:
            error.attempts += self._again()
            raise

    async def act(self, reply: Reply) -> None:
        """Do what a reply calls for.

        Raises
        ------
        TooManyRounds
            It has called for actions often enough.
        """
        self._replies.append(reply)
        flight = flying.get()
        if flight is not None:
            flight.answered(clock(), reply.latency or 0.0)
        if len(self._replies) > self._toolbox.max_rounds:
            raise self._too_many(reply)
        done = await self._toolbox.act(reply.tool_calls, len(self._replies))
        self._done += done
        told = [ResultMessage("tool", each.result, each.call) for each in done]
        said = CallsMessage("assistant", str(reply), tuple(each.call for each in done))
        self.request = replace(self.request, messages=(*self.request.messages, said, *told))

    def end(self, reply: Reply) -> Reply:
        """The whole answer: the last round's text, and what all of them took."""
        self._replies.append(reply)
        return Reply(
            str(reply),
            usage=Usage(self._tokens("input_tokens"), self._tokens("output_tokens")),
            model=reply.model,
            latency=clock() - self._began,
            finish_reason=reply.finish_reason,
            attempts=1 + self._again(),
            raw=reply._raw,
            actions=tuple(self._done),
        )

    def _again(self) -> int:
        """Requests that were further attempts; a further round is none."""
        return sum(reply.attempts - 1 for reply in self._replies)

    def _tokens(self, name: str) -> int | None:
        counts = [getattr(reply.usage, name) for reply in self._replies]
        known = [count for count in counts if count is not None]
        return sum(known) if known else None

    def _too_many(self, last: Reply) -> TooManyRounds:
        names = ", ".join(dict.fromkeys(call.name for call in last.tool_calls))
        error = TooManyRounds(
            f"The model called actions {len(self._replies)} times in a row and did not answer (the last: {names}). "
            f"Raise max_rounds, which is {self._toolbox.max_rounds}, or say in the prompt when it is enough."
        )
        error.attempts, error.item, error.latency = 1 + self._again(), self.request.prompt, last.latency
        return error


async def converse(ask: Callable[[Request], Awaitable[Reply]], request: Request, toolbox: Toolbox) -> Reply:
    """Ask until the model answers, and do what it calls for on the way.

    Parameters
    ----------
    ask : async callable
        Makes one request.

    Returns
    -------
    Reply
        The last round's text; tokens, further attempts and seconds of all rounds; `Reply.actions` is what was done.

    Raises
    ------
    TooManyRounds
        More than `Toolbox.max_rounds` of its turns called for actions.
    RequestError
        As `ask`.
    """
    way = _Way(request, toolbox)
    while True:
        with way.asking():
            reply = await ask(way.request)
        if not reply.tool_calls:
            return way.end(reply)
        await way.act(reply)


async def converse_streaming(
    stream: Callable[[Request], AsyncGenerator[Delta, None]], request: Request, toolbox: Toolbox
) -> AsyncGenerator[Delta, None]:
    """The same, in pieces: the text of all rounds, each a paragraph of its own; the last piece has the `Reply`."""
    way, said = _Way(request, toolbox), False
    while True:
        seen: list[Delta] = []
        attempts, paragraph = 1, "\n\n" if said else ""
        with way.asking():
            async with aclosing(stream(way.request)) as deltas:
                async for delta in deltas:
                    attempts = attempts if seen else attempts_made.get()
                    seen.append(delta)
                    if delta.text:
                        yield replace(delta, text=paragraph + delta.text)
                        said, paragraph = True, ""
            reply = gather_stream(seen)
        reply.attempts = attempts
        if not reply.tool_calls:
            yield Delta(reply=way.end(reply))
            return
        await way.act(reply)


class ActingCaller(Caller):
    """A caller whose model may call actions: what is asked is one whole tool loop."""

    def __init__(self, model: str, provider: Provider, settings: Settings, toolbox: Toolbox) -> None:
        super().__init__(model, provider, settings)
        self.tools = tuple(action.tool() for action in toolbox.actions.values())
        self._toolbox = toolbox

    def request(self, prompt: Prompt) -> Request:  # noqa: D102 - as `Caller` has it
        return replace(super().request(prompt), tools=self.tools)

    def ask(self, request: Request) -> Coroutine[Any, Any, Reply]:  # noqa: D102
        return converse(super().ask, request, self._toolbox)

    def ask_streaming(self, request: Request) -> Coroutine[Any, Any, Reply]:  # noqa: D102
        return converse(super().ask_streaming, request, self._toolbox)

    def stream(self, request: Request) -> AsyncGenerator[Delta, None]:  # noqa: D102
        return converse_streaming(super().stream, request, self._toolbox)
