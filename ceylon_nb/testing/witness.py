"""What a server saw: its requests, its counters, and how to wait for them without sleeping.

Every request ends in exactly one way, so that at any moment

    received == active + served + refused + faulted + aborted + stopped

- Counters change under one lock, in the server's thread; reading one is a plain attribute read from any thread.
- A request is counted right before its last bytes go out: whoever has the whole answer finds it counted. What happens
  without the client's knowing (a connection that closes, an abort) must be waited for.
- Whoever waits leaves a predicate behind. The server's thread asks it after each change, so that a state which holds
  for a moment only is not missed, and nobody polls.
"""

import asyncio
import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Literal, Self

Outcome = Literal["active", "served", "refused", "faulted", "aborted", "stopped"]


@dataclass(eq=False, slots=True)
class Request:
    """One chat request, as the server saw it. Read it, don't write it.

    Attributes
    ----------
    number : int
        Its place in the order of arrival, from 1.
    attempt : int
        How many times this very prompt, with the same results of actions, has been seen, this time included; 0 while
        the body is not read.
    prompt : str
        The text of the last user message.
    system : str or None
        The text of the first system message.
    messages : list of dict
        All messages, as they came.
    results : list of str
        What the last messages say of actions that were called: the second and further requests of one tool loop.
    tools : list of dict
        The actions that the model may call.
    body : dict
        The whole JSON body; empty if it was not JSON.
    headers : Mapping[str, str]
        Case-insensitive.
    stream : bool
        Whether a stream was asked for, with the default of the wire format in which it was asked.
    path : str
        Without the query.
    at : float
        When its headers were read, in seconds of ``time.monotonic()``.
    ended : float or None
        When it was counted as ended, likewise in seconds; None before that.
    outcome : str
        "active", then one of "served", "refused" (400, 401, 404), "faulted", "aborted" (the client left), "stopped".
    """

    number: int
    path: str = ""
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    at: float = field(default_factory=time.monotonic, repr=False)
    attempt: int = 0
    prompt: str = ""
    system: str | None = field(default=None, repr=False)
    messages: list[dict[str, Any]] = field(default_factory=list, repr=False)
    results: list[str] = field(default_factory=list, repr=False)
    tools: list[dict[str, Any]] = field(default_factory=list, repr=False)
    body: dict[str, Any] = field(default_factory=dict, repr=False)
    stream: bool = False
    outcome: Outcome = "active"
    ended: float | None = field(default=None, repr=False)

    def understand(self, body: dict[str, Any], *, stream: bool) -> None:
        """Fill in what the body says; the server does.

        Parameters
        ----------
        body : dict
            The JSON.
        stream : bool
            Whether it asks for a stream.
        """
        self.body, self.stream = body, stream
        self.messages, self.tools = _objects(body.get("messages")), _objects(body.get("tools"))
        last = itertools.takewhile(lambda part: part.get("role") == "tool", reversed(self.messages))
        self.results = [text_of(part) for part in last][::-1]
        self.prompt = next((text_of(part) for part in reversed(self.messages) if part.get("role") == "user"), "")
        self.system = next((text_of(part) for part in self.messages if part.get("role") == "system"), None)


def _objects(value: object) -> list[dict[str, Any]]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def text_of(message: Mapping[str, Any]) -> str:
    """A message's text: its content if that is a string, or the text parts of a list."""
    content = message.get("content")
    if isinstance(content, list):
        parts = (part.get("text") for part in content if isinstance(part, dict))
        return "".join(text for text in parts if isinstance(text, str))
    return content if isinstance(content, str) else ""


@dataclass(eq=False, slots=True)
class _Watch:
    predicate: Callable[[Any], object]
    seen: "Future[None]" = field(default_factory=Future)

    def __post_init__(self) -> None:
        self.seen.set_running_or_notify_cancel()  # so that only the server's thread ever ends it


class Witness:
    """Counters, records and waiting; the half of a model server that only looks.

    Attributes
    ----------
    received : int
        Chat requests so far.
    active : int
        Those in the server now: from the moment their headers are read until their last byte is written, or the
        client leaves. Requests that queue for one of ``parallel`` places are active, too.
    queued : int
        Those of the active ones which wait for a place.
    peak : int
        The highest ``active``.
    connections : int
        Open sockets.
    """

    def __init__(self, *, keep: int = 100_000) -> None:
        self.received = 0
        self.active = 0
        self.queued = 0
        self.peak = 0
        self.connections = 0
        self._keep = keep
        self._lock = threading.RLock()
        self._ended: dict[str, int] = {}
        self._records: deque[Request] = deque(maxlen=keep)
        self._prompts: dict[tuple[str, ...], int] = {}
        self._watches: list[_Watch] = []

    @property
    def served(self) -> int:
        """Requests answered completely and correctly."""
        return self._ended.get("served", 0)

    @property
    def refused(self) -> int:
        """Requests answered with 400, 401 or 404, because they were wrong."""
        return self._ended.get("refused", 0)

    @property
    def faulted(self) -> int:
        """Requests that got a fault."""
        return self._ended.get("faulted", 0)

    @property
    def aborted(self) -> int:
        """Requests whose client left before the end."""
        return self._ended.get("aborted", 0)

    @property
    def stopped(self) -> int:
        """Requests that were active when the server was stopped."""
        return self._ended.get("stopped", 0)

    @property
    def requests(self) -> list[Request]:
        """The records, in order of arrival: the newest ``keep`` of them, as a list of your own."""
        with self._lock:
            return list(self._records)

    def reset(self) -> None:
        """Zero the counters, forget the records. Requests that are active now stay counted."""
        with self._lock:
            self.received = self.peak = self.active
            self._ended.clear()
            self._records.clear()
            self._prompts.clear()
            self._changed()

    def wait_for(self, predicate: Callable[[Self], object], timeout: float = 5.0) -> None:
        """Block until ``predicate(self)`` is true. Not on the loop that runs your client: see `until`.

        Parameters
        ----------
        predicate : callable
            Asked now and after each change, in the server's thread: keep it short.
        timeout : float
            Seconds.

        Raises
        ------
        TimeoutError
            With the counters as they are by then.
        """
        watch = self._watch(predicate)
        try:
            watch.seen.result(timeout)
        except TimeoutError:
            raise TimeoutError(f"not within {timeout:g} s: {self!r}") from None
        finally:
            self._unwatch(watch)

    async def until(self, predicate: Callable[[Self], object], timeout: float = 5.0) -> None:
        """As `wait_for`, and awaited: without blocking the loop."""
        watch = self._watch(predicate)
        try:
            async with asyncio.timeout(timeout):
                await asyncio.wrap_future(watch.seen)
        except TimeoutError:
            raise TimeoutError(f"not within {timeout:g} s: {self!r}") from None
        finally:
            self._unwatch(watch)

    def __repr__(self) -> str:
        names = ("received", "active", "queued", "peak", "connections", "served", "refused", "faulted", "aborted")
        counts = ", ".join(f"{name}={getattr(self, name)}" for name in names)
        return f"{type(self).__name__}({counts})"

    def _enter(self, path: str, headers: Mapping[str, str]) -> Request:
        with self._lock:
            self.received += 1
            self.active += 1
            self.peak = max(self.peak, self.active)
            request = Request(self.received, path, headers)
            self._records.append(request)
            self._changed()
            return request

    def _recognise(self, request: Request) -> None:
        """Count this prompt's attempts; forget the oldest prompt when there are too many."""
        with self._lock:
            asked = (request.prompt, *request.results)
            request.attempt = self._prompts[asked] = self._prompts.get(asked, 0) + 1
            if len(self._prompts) > self._keep:
                del self._prompts[next(iter(self._prompts))]
            self._changed()

    def _settle(self, request: Request, outcome: Outcome) -> None:
        """Count how it ended; again, if it turns out to have ended otherwise."""
        with self._lock:
            if request.outcome == "active":
                self.active -= 1
            else:
                self._ended[request.outcome] -= 1
            request.outcome, request.ended = outcome, time.monotonic()
            self._ended[outcome] = self._ended.get(outcome, 0) + 1
            self._changed()

    def _queue(self, step: int) -> None:
        with self._lock:
            self.queued += step
            self._changed()

    def _connect(self, step: int) -> None:
        with self._lock:
            self.connections += step
            self._changed()

    def _watch(self, predicate: Callable[[Any], object]) -> _Watch:
        watch = _Watch(predicate)
        with self._lock:
            self._watches.append(watch)
            self._ask(watch)
        return watch

    def _unwatch(self, watch: _Watch) -> None:
        with self._lock:
            self._watches.remove(watch)

    def _changed(self) -> None:
        for watch in self._watches:
            self._ask(watch)

    def _ask(self, watch: _Watch) -> None:
        if watch.seen.done():
            return
        try:
            if watch.predicate(self):
                watch.seen.set_result(None)
        except Exception as error:  # noqa: BLE001 (the predicate is the caller's: it fails where the caller waits)
            watch.seen.set_exception(error)
