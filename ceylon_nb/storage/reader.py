"""Reader: looks answers up in a thread of its own, all that are wanted at the same time in one query."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import math
import queue
import sqlite3
import threading
from pathlib import Path
from typing import Any, TypeAlias

import orjson

from ..errors import StoreError
from .entries import REPLY_COLUMNS, Found, decode
from .file import connect_to_read, explain, replaced
from .identity import Family, Question
from .lasting import Lasting

Wanted: TypeAlias = "tuple[Question, int, asyncio.Future[Found | None]]"

FIND = f"""
    SELECT json_group_array(json_array(answers.id, question, occurrence, prompt, {REPLY_COLUMNS}))
    FROM json_each(?) AS wanted
    CROSS JOIN answers
    ON question = json_extract(wanted.value, '$[0]') AND occurrence = json_extract(wanted.value, '$[1]')
    WHERE status = 1 AND family = (SELECT id FROM families WHERE text = ?)
"""
"""One row, as every row of a result costs Python's lock anew; the prompts are compared, so that no two questions with
one digest are taken for each other."""


class Reader:
    """Looks up answers of one family. Begun on the loop that asks; its thread ends with `end`.

    Source of the pattern: the grouping of github.com/graphql/dataloader.
    """

    def __init__(self, path: Path, family: Family) -> None:
        self._path = path
        self._family = family
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wanted: list[Wanted] = []
        self._ended = False
        self._groups: queue.SimpleQueue[tuple[asyncio.AbstractEventLoop, list[Wanted]] | None] = queue.SimpleQueue()
        threading.Thread(target=self._run, name="ceylon-nb-lookup", daemon=True).start()

    def find(self, question: Question, occurrence: int) -> asyncio.Future[Found | None]:
        """The newest answer to a question; to be awaited."""
        loop = asyncio.get_running_loop()
        if loop is not self._loop:  # what was wanted on another loop ended with it
            self._loop, self._wanted = loop, []
        future: asyncio.Future[Found | None] = loop.create_future()
        self._wanted.append((question, occurrence, future))
        if len(self._wanted) == 1:
            loop.call_soon(self._hand_over, loop)
        return future

    def end(self) -> None:
        """Let the thread end, and close the file."""
        self._ended = True
        self._groups.put(None)

    def _hand_over(self, loop: asyncio.AbstractEventLoop) -> None:
        group, self._wanted = self._wanted, []
        if self._ended:
            _deliver(group, replaced(self._path))
        else:
            self._groups.put((loop, group))

    # -- in its thread ------------------------------------------------------------------------------------------

    def _run(self) -> None:
        file = Lasting(functools.partial(connect_to_read, self._path))
        while (asked := self._groups.get()) is not None:
            loop, group = asked
            found: list[Found | None] | StoreError
            try:
                with file as connection:
                    found = self._look_up(connection, group)
            except Exception as error:  # noqa: BLE001 - were this thread to end, a batch would wait for ever
                found = explain(error, self._path)
            with contextlib.suppress(RuntimeError):  # the loop is closed, and nobody waits
                loop.call_soon_threadsafe(_deliver, group, found)
        file.close()

    def _look_up(self, connection: sqlite3.Connection, group: list[Wanted]) -> list[Found | None]:
        wanted = orjson.dumps([(question.number, occurrence) for question, occurrence, _ in group]).decode()
        (text,) = connection.execute(FIND, (wanted, self._family.text)).fetchone()
        rows = sorted(orjson.loads(text))  # by their number: the newest comes last
        newest = {(number, occurrence, prompt): (id_, reply) for id_, number, occurrence, prompt, *reply in rows}
        return [_found(newest.get((question.number, occurrence, question.prompt))) for question, occurrence, _ in group]


def _found(row: tuple[int, list[Any]] | None) -> Found | None:
    if row is None:
        return None
    number, values = row
    latency = math.nan if values[3] is None else values[3]
    return Found(number, decode(*values), values[2], latency)


def _deliver(group: list[Wanted], found: list[Found | None] | StoreError) -> None:
    for at, (_, _, future) in enumerate(group):
        if future.done():  # whoever asked was cancelled
            continue
        if isinstance(found, StoreError):
            future.set_exception(found)
        else:
            future.set_result(found[at])
