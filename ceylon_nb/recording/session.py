"""Record and replay: `replay`, and the recording that is in force.

One recording holds for the whole process, not for one task: what is asked in one cell may be awaited in the next.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import os
import re
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Literal, Self, TypeAlias

from ..errors import CeylonError, ConfigurationError, NotRecorded, RequestError
from ..loop import clock
from ..messages import Reply
from ..providers.base import Request
from ..providers.calls import count_calls
from ..providers.deltas import Delta
from ..retry import attempts_made
from .file import File
from .lines import Failure, Key, Question, Recorded
from .nearest import broken_off, missing

RECORDING = "CEYLON_NB_REPLAY"
RECORD = "CEYLON_NB_RECORD"
"""Environment variables: the file, and what to record, for a whole process."""

Record: TypeAlias = Literal["missing", "all"] | None

SEARCHES = 3
"""For so many questions that are not recorded the nearest one is looked for."""

SMALL = 1_000
"""Answers: a file of so few is sorted whenever nothing is in flight."""

Hide: TypeAlias = Callable[[str], str]
"""What takes keys out of a text."""


class Recording(contextlib.AbstractContextManager["Recording"]):
    """Answers in a file, and what is done with them while the recording is in force; made by `ceylon_nb.replay`.

    Attributes
    ----------
    path : Path
        The file, as it was named.
    record : str or None
        ``"missing"``, ``"all"``, or None: replay only.
    replayed : int
        Answers taken from the file so far.
    recorded : int
        Answers added to it so far.

    Raises
    ------
    ConfigurationError
        As `ceylon_nb.replay`.
    """

    def __init__(self, path: str | os.PathLike[str], record: str | None, advice: str, said_by: str = "record") -> None:
        if record not in (None, "missing", "all"):
            raise ConfigurationError(f"{said_by} is missing or all, or is left out; not {record!r}.")
        self.path = Path(path)
        self.record = record
        self.replayed = self.recorded = 0
        place = self.path.expanduser().resolve()
        if record is None and not place.exists():
            raise ConfigurationError(f"There is no recording {self.path} to replay. Record it first: {advice}.")
        self._advice = advice
        self._file = File(place)
        self._lock = threading.RLock()
        self._next: dict[Question, int] = {}
        self._given_back: dict[Question, list[int]] = {}
        self._asked: set[Key] = set()
        self._in_flight = 0
        self._searches = 0
        self._due = 0.0
        self._deferred = False
        if record is not None:
            self._file.tidy()

    def __repr__(self) -> str:
        return f"Recording({str(self.path)!r}, record={self.record!r}, {len(self._file):,} answers)"

    def __enter__(self) -> Self:
        _open.append(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        _open.remove(self)
        with self._lock:
            if self.record == "all" and kind is None:
                self._file.keep(self._asked)
            if self.record is not None:
                self._file.tidy()

    # -- asking -------------------------------------------------------------------------------------------------

    async def ask(self, model: str, request: Request, send: Callable[[], Awaitable[Reply]], hide: Hide) -> Reply:
        """The recorded reply; or the one that `send` gets, recorded. It is for agents, which ask here.

        Parameters
        ----------
        model : str
            As ``provider::model-name``.
        request : Request
            The question.
        send : async callable
            Asks the model; called only if the answer is not in the file, and may be recorded.
        hide : callable
            Takes keys out of a text, before it is recorded.

        Returns
        -------
        Reply
            The answer.

        Raises
        ------
        NotRecorded
            There is none, and nothing may be sent.
        RequestError
            There was no answer when it was recorded, or there is none now.
        """
        with self._turn(model, request) as turn:
            found = self._find(turn, streamed=False)
            if found is not None:
                if found.failure is not None:
                    raise _error(found, request)
                return found.as_reply(count_calls(request.messages))
            hide = _hiding_environment(hide)
            with self._sending():
                try:
                    reply = await send()
                except Exception as error:
                    self._keep_failure(turn, error, Recorded(), hide)
                    raise
                self._keep(turn, Recorded.whole(reply, hide))
                return reply

    async def stream(
        self, model: str, request: Request, send: Callable[[], AsyncGenerator[Delta, None]], hide: Hide
    ) -> AsyncGenerator[Delta, None]:
        """The recorded pieces; or those that `send` gets, recorded when the stream ends or is left.

        Parameters
        ----------
        model : str
            As ``provider::model-name``.
        request : Request
            The question.
        send : callable
            Asks the model, and returns the pieces as an async generator.
        hide : callable
            Takes keys out of a text, before it is recorded.

        Yields
        ------
        Delta
            A piece.

        Raises
        ------
        NotRecorded, RequestError
            As `ask`; also after the last recorded piece of a stream that was left early.
        """
        with self._turn(model, request) as turn:
            found = self._find(turn, streamed=True)
            if found is None:
                async with aclosing(self._recorded_stream(turn, send, hide)) as deltas:
                    async for delta in deltas:
                        yield delta
                return
            attempts_made.set(found.attempts)
            for delta in found.as_deltas(count_calls(request.messages)):
                yield delta
            if found.failure is not None:
                raise _error(found, request)
            if found.left_early:
                raise self._broken_off(turn.key)

    async def _recorded_stream(
        self, turn: _Turn, send: Callable[[], AsyncGenerator[Delta, None]], hide: Hide
    ) -> AsyncGenerator[Delta, None]:
        hide = _hiding_environment(hide)
        seen: list[Delta] = []
        attempts = 1
        with self._sending():
            async with aclosing(send()) as deltas:
                try:
                    async for delta in deltas:
                        attempts = attempts if seen else attempts_made.get()
                        seen.append(delta)
                        yield delta
                except GeneratorExit:
                    left_early = not any(delta.finish_reason for delta in seen)
                    self._keep(turn, replace(Recorded.streamed(seen, attempts, hide), left_early=left_early))
                    raise
                except Exception as error:
                    self._keep_failure(turn, error, Recorded.streamed(seen, attempts, hide), hide)
                    raise
            self._keep(turn, Recorded.streamed(seen, attempts, hide))

    # -- questions ----------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _turn(self, model: str, request: Request) -> Iterator[_Turn]:
        """Take the question's next occurrence; give it back if nothing came of it, as when it was interrupted."""
        question = Question.of(model, request.messages, request.temperature, request.max_tokens, request.tools)
        with self._lock:
            if given_back := self._given_back.get(question):
                occurrence = heapq.heappop(given_back)
            else:
                occurrence = self._next.get(question, 0)
                self._next[question] = occurrence + 1
        turn = _Turn((question, occurrence))
        try:
            yield turn
        finally:
            if not turn.taken:
                with self._lock:
                    heapq.heappush(self._given_back.setdefault(question, []), occurrence)

    def _find(self, turn: _Turn, *, streamed: bool) -> Recorded | None:
        """The recorded answer; None if the question is to be asked."""
        with self._lock:
            self._asked.add(turn.key)
            found = self._file.get(turn.key)
            cut = found is not None and found.left_early and not streamed
            if self.record is None and (found is None or cut):
                raise self._broken_off(turn.key) if cut else self._missing(turn.key)
            if found is None or self.record == "all" or (self.record == "missing" and (cut or found.failure)):
                return None
            turn.taken = True
            self.replayed += 1
            return found

    def _keep(self, turn: _Turn, recorded: Recorded) -> None:
        with self._lock:
            self._file.put(turn.key, recorded)
            turn.taken = True
            self.recorded += 1

    def _keep_failure(self, turn: _Turn, error: Exception, before: Recorded, hide: Hide) -> None:
        """Record a failure; one before anything was sent says nothing of the answer."""
        if isinstance(error, CeylonError) and not isinstance(error, RequestError):
            return
        attempts = error.attempts if isinstance(error, RequestError) else 1
        pieces = before.pieces or None
        self._keep(turn, Recorded(pieces=pieces, attempts=attempts, failure=Failure.of(error, hide)))

    @contextlib.contextmanager
    def _sending(self) -> Iterator[None]:
        """Count what is in flight; sort the file when nothing is."""
        with self._lock:
            self._in_flight += 1
        try:
            yield
        finally:
            with self._lock:
                self._in_flight -= 1
            self._tidy()

    def _tidy(self) -> None:
        """Sort the file, if nothing is in flight; a large one so seldom that it takes a tenth of the time at most."""
        with self._lock:
            wait = self._due - clock()
            if self._in_flight:
                return
            if wait <= 0 or len(self._file) <= SMALL:
                began = clock()
                self._file.tidy()
                self._due = clock() + 9 * (clock() - began)
            elif not self._deferred:
                self._deferred = True
                asyncio.get_running_loop().call_later(wait, self._tidy_later)

    def _tidy_later(self) -> None:
        self._deferred = False
        self._tidy()

    def _missing(self, key: Key) -> NotRecorded:
        self._searches += 1
        recorded = list(self._file) if self._searches <= SEARCHES else None
        return NotRecorded(missing(str(self.path), key, recorded, self._advice))

    def _broken_off(self, key: Key) -> NotRecorded:
        return NotRecorded(broken_off(str(self.path), key, self._advice))


class _Turn:
    """One time that a question is asked; `taken` when something came of it."""

    __slots__ = ("key", "taken")

    def __init__(self, key: Key) -> None:
        self.key = key
        self.taken = False


_SECRET = re.compile(r"(?:^|_)(?:KEY|TOKEN|SECRET|PASSWORD)$", re.IGNORECASE)


def _hiding_environment(hide: Hide) -> Hide:
    """The same, and without the keys in the environment: a server may say them, too."""
    secrets = [value for name, value in os.environ.items() if _SECRET.search(name) and len(value) >= 8]

    def hide_all(text: str) -> str:
        text = hide(text)
        for secret in secrets:
            text = text.replace(secret, "***")
        return text

    return hide_all


def _error(found: Recorded, request: Request) -> RequestError:
    assert found.failure is not None
    error = found.failure.error()
    error.attempts, error.latency, error.item = found.attempts, 0.0, request.prompt
    return error


# -- what is in force ------------------------------------------------------------------------------------------------

_open: list[Recording] = []
_lock = threading.Lock()
_environment: tuple[tuple[str, str | None], Recording] | None = None


def replay(path: str | os.PathLike[str], *, record: Record = None) -> Recording:
    """Replay recorded answers from a file, or record them: ``with replay("answers.jsonl"): …``.

    While the block is open, every question that any agent asks, in any cell, task or thread, is answered from the file.
    A batch that was begun inside goes on with it after the block has ended.

    Parameters
    ----------
    path : str or path
        The recording: a text file, one answer a line, sorted, to be read and compared; there is no key in it.
    record : {None, "missing", "all"}
        None replays only: nothing leaves the machine. ``"missing"`` asks what is not recorded yet, and what failed when
        it was, and records the answers. ``"all"`` asks everything anew; when the block ends without an exception, the
        answers to what was not asked any more are dropped.

    Returns
    -------
    Recording
        For ``with``; it counts what was replayed and recorded.

    Raises
    ------
    ConfigurationError
        There is no such file to replay, it is damaged, or `record` is something else.
    StoreUnwritable
        Recording, to a disk that is full or read-only; also inside the block, when an answer has come.
    NotRecorded
        Inside the block: a question that the file holds no answer to. It shows the nearest one, and the difference.

    Notes
    -----
    A question is the model, the messages, temperature and max_tokens, and the actions that may be called; asked several
    times, the first time is answered by the first answer, the second by the second. Not the address and not the key:
    what was recorded on one server is replayed without any. Failures are recorded and replayed too, and streams piece
    by piece; a replayed answer has a latency of 0 and no ``raw``. Actions are not recorded: they are done again.

    An answer is in the file before you see it. Blocks nest; the innermost holds.

    Without touching the code, for a whole process: ``CEYLON_NB_REPLAY=answers.jsonl`` in the environment, and
    ``CEYLON_NB_RECORD=missing`` or ``all``. So notebooks become tests: record one, then run nbval with the former.

    Examples
    --------
    >>> from ceylon_nb import CeylonError, LlmAgent, replay
    >>> agent = LlmAgent("clerk", "demo::tutor", system_prompt="Classify the review.")
    >>> with replay("answers.jsonl", record="missing") as recording:
    ...     frame = await agent.map(["Works like a charm.", "Awful smell."])
    >>> recording.recorded, recording.replayed
    (2, 0)
    >>> with replay("answers.jsonl") as recording:
    ...     await agent.send_message("Awful smell.")
    'negative'
    >>> with replay("answers.jsonl"):
    ...     try:
    ...         reply = await agent.send_message("Awful taste.")
    ...     except CeylonError as error:
    ...         print(type(error).__name__)
    NotRecorded
    """
    return Recording(path, record, 'replay(…, record="missing")')


def current() -> Recording | None:
    """The recording in force: the block opened last, or the environment's; None if there is none."""
    for recording in reversed(_open):
        return recording
    path = os.environ.get(RECORDING)
    return _of_environment(path) if path else None


def _of_environment(path: str) -> Recording:
    global _environment
    record = os.environ.get(RECORD) or None
    with _lock:
        if _environment is None or _environment[0] != (path, record):
            _environment = (path, record), Recording(path, record, f"set {RECORD}=missing", said_by=RECORD)
        return _environment[1]
