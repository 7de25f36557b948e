"""Stream: a reply that comes in pieces, to whoever reads it, and to the views that show it.

One request, however many read it: whoever wants a piece that has not come yet pulls it, unless somebody else does so
by now; then he waits for the news. So a stream that nobody reads sends nothing, and one whose only reader leaves is
closed with him.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import pkgutil
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator
from typing import Any

from .. import loop as loops
from ..interrupts import explained
from ..loop import awake, call_in, clock, run_errand, run_sync
from ..messages import Reply
from ..providers.deltas import Delta, Gathering
from ..retry import attempts_made

log = logging.getLogger("ceylon_nb")

VIEWS = "ceylon_nb.views.streaming"
"""Who shows a stream; found by name when one is shown, as nothing here imports a view."""


class Told:
    """What a stream has said so far. It holds neither the stream nor its request: a view of it keeps none of them open.

    Attributes
    ----------
    texts : list of str
        The pieces.
    ended : bool
        Whether no more will come.
    reply : Reply or None
        The whole, if it came to its end.
    error : Exception or None
        Why it did not; None also if it was closed.
    """

    def __init__(self, hide: Callable[[str], str]) -> None:
        self.texts: list[str] = []
        self.ended = False
        self.reply: Reply | None = None
        self.error: Exception | None = None
        self._hide = hide
        self._waiters: list[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]] = []
        self._views: list[Callable[[Told], object]] = []

    @property
    def text(self) -> str:
        """What may be shown: all of it, but for the agent's key, should the model say it."""
        return self._hide("".join(self.texts))

    def beyond(self, length: int) -> bool:
        """Whether there are more pieces than that, or no more will come."""
        return len(self.texts) > length or self.ended

    def say(self, text: str) -> None:
        """Add a piece."""
        self.texts.append(text)
        if self._waiters or self._views:
            self._tell()

    def end(self, reply: Reply | None = None, error: BaseException | None = None) -> None:
        """Let it have ended, once; without either it was closed."""
        if not self.ended:
            self.ended, self.reply = True, reply
            self.error = error if isinstance(error, Exception) else None
            self._tell()

    async def news(self, length: int) -> None:
        """Wait until something is said, or return at once if there is more than `length` by now."""
        loop = asyncio.get_running_loop()
        news = loop.create_future()
        self._waiters.append((loop, news))
        if not self.beyond(length):
            with awake():
                await news

    def watched_by(self, view: Callable[[Told], object]) -> None:
        """Have `view(told)` called after each piece and at the end; one that raises is logged once, and dropped."""
        self._views.append(view)

    def show(self) -> None:
        """Call the views once more."""
        for view in self._views[:]:
            if not _shown_by(view, self):
                self._views.remove(view)

    def _tell(self) -> None:
        waiters, self._waiters = self._waiters, []
        for loop, news in waiters:
            call_in(loop, _arrive, news)
        self.show()


def _arrive(news: asyncio.Future[None]) -> None:
    if not news.done():
        news.set_result(None)


def _shown_by(view: Callable[..., object], *args: object) -> bool:
    """Call a view, which may fail while what somebody pays for must not; whether it did what it should."""
    try:
        return view(*args) is not False
    except Exception:
        log.exception("A view of a stream failed and is not called again; the stream goes on")
        return False


class Stream(AsyncIterator[str]):
    """A reply that comes in pieces of text: ``async for text in stream``, or ``await stream`` for the whole `Reply`.

    A loop that is left early closes the request, unless the stream is kept in a variable: `aclose` does it then.

    As a cell's last line it is read, and its text grows there; so it does after `show`, while somebody else reads.
    Whoever reads what a view has read before gets all of it, without a second request.

    Examples
    --------
    >>> from ceylon_nb import LlmAgent
    >>> stream = LlmAgent("friend", "demo::tutor").stream("What is Python?")
    >>> pieces = [text async for text in stream]
    >>> "".join(pieces) == stream.reply
    True
    >>> stream.reply.finish_reason
    'stop'
    """

    def __init__(
        self,
        deltas: AsyncGenerator[Delta, None],
        interrupted: Callable[[], str],
        hide: Callable[[str], str] = str,
    ) -> None:
        self._told = Told(hide)
        self._texts = _pieces(deltas, interrupted, functools.partial(_close, weakref.ref(self)), self._told)
        self._interrupted = interrupted
        self._read = 0
        self._begun = self._pulling = False
        self._behind: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        length = sum(map(len, self._told.texts))
        return f"Stream({length:,} characters{'' if self._told.ended else ' so far'})"

    def __aiter__(self) -> Stream:
        return self

    async def __anext__(self) -> str:
        told = self._told
        while self._read == len(told.texts):
            if self._pulling or told.ended:
                await self._reach(self._read)
            else:  # the usual case, without what comes of others who read as well
                await self._pull()
            if told.ended and self._read == len(told.texts):
                raise StopAsyncIteration
        self._read += 1
        return told.texts[self._read - 1]

    def __await__(self) -> Generator[Any, None, Reply]:
        return self._whole().__await__()

    async def _whole(self) -> Reply:
        await self._reach()
        return self.reply

    @property
    def reply(self) -> Reply:
        """The whole answer, once the stream has ended.

        Raises
        ------
        RuntimeError
            It has not, or it was closed before its end.
        """
        if self._told.reply is None:
            if self._told.ended:
                raise RuntimeError("The stream was closed before its end, so there is no reply: ask again.")
            raise RuntimeError("The stream has not ended, so there is no reply yet: read it to its end first.")
        return self._told.reply

    async def aclose(self) -> None:
        """Close the request, wherever it is."""
        if self._behind is not None:
            await loops.end([self._behind])
        await self._texts.aclose()
        self._told.end()

    # -- reading ------------------------------------------------------------------------------------------------

    async def _reach(self, length: int | None = None) -> None:
        """Read on until there are more pieces than `length`, or to the end; an error is raised once all are read."""
        told, waited = self._told, False
        while not (told.ended if length is None else told.beyond(length)):
            waited = self._pulling
            await (self._follow() if waited else self._pull())
        if told.ended and waited and asyncio.current_task() is not self._behind:
            told.show()  # here, too: what a task in the background puts out may be lost
        if told.error is not None and (length is None or len(told.texts) == length):
            raise told.error

    async def _pull(self) -> None:
        self._begun = self._pulling = True
        try:
            await anext(self._texts)
        except StopAsyncIteration:
            self._told.end()  # it was closed before it had begun
        finally:
            self._pulling = False

    async def _follow(self) -> None:
        """Wait while another task pulls. An interrupt of this one ends what is read for a view alone, too."""
        with explained(self._interrupted):
            try:
                await self._told.news(len(self._told.texts))
            except asyncio.CancelledError:
                if self._behind is not None and self._behind is not asyncio.current_task():
                    loops.cancel_once(self._behind)
                raise

    # -- views --------------------------------------------------------------------------------------------------

    def show(self) -> Stream:
        """In a notebook, show the text below the cell as it is read, and at the end as Markdown; elsewhere do nothing.

        Returns
        -------
        Stream
            The stream itself: ``reply = await agent.stream("…").show()``.
        """
        _shown_by(_view, "show", self._told)
        return self

    def _ipython_display_(self) -> None:
        if not _shown_by(_view, "display", self._told, self._read_behind, self._read_at_once):
            raise NotImplementedError  # to IPython: show its repr

    def _read_behind(self) -> None:
        """Read to the end in the background of the running loop, for a view."""
        if not self._told.ended:
            run_errand(self._read_for_view())

    def _read_at_once(self) -> None:
        """The same while the cell waits; a stream that has begun on the cell's loop has to go on there."""
        if self._begun:
            self._read_behind()
        else:
            with explained(self._interrupted):
                run_sync(self._read_for_view())

    async def _read_for_view(self) -> None:
        if self._behind is None:
            self._behind = asyncio.current_task()
            with contextlib.suppress(Exception):  # which the view shows, and whoever reads it next meets
                await self._reach()


def _view(name: str, *args: object) -> object:
    return pkgutil.resolve_name(f"{VIEWS}:{name}")(*args)


def _close(stream: weakref.ref[Stream]) -> None:
    """Close a stream that is kept in a variable although its reader was interrupted."""
    kept = stream()
    if kept is not None:
        run_errand(kept.aclose())


async def _pieces(
    deltas: AsyncGenerator[Delta, None],
    interrupted: Callable[[], str],
    left: Callable[[], object],
    told: Told,
) -> AsyncGenerator[str, None]:
    """The texts, which `told` is told as well, and how it ended.

    Not a method: a stream and a generator that hold each other are closed only when the garbage collector comes by.
    """
    began = clock()
    gathering: Gathering | None = None
    attempts = 1
    try:
        try:
            with explained(interrupted, left=left), awake():
                async for delta in deltas:
                    if gathering is None:
                        gathering, attempts = Gathering(), attempts_made.get()
                    gathering.add(delta)
                    if delta.text:
                        told.say(delta.text)
                        yield delta.text
        finally:
            await deltas.aclose()
        reply = (gathering or Gathering()).reply()
    except BaseException as error:
        told.end(error=error)
        raise
    reply.latency, reply.attempts = clock() - began, max(attempts, reply.attempts)  # it may be of several rounds
    told.end(reply)
