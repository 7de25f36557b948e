"""Store: what a file of answers holds, read at any time, from any Python, while others write."""

from __future__ import annotations

import contextlib
import math
import sqlite3
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import frames, tables
from ..answers import OK, STATUSES, Answers
from ..errors import ConfigurationError
from . import place
from .entries import REPLY_COLUMNS, decode
from .file import connect, connect_to_look, explained

if TYPE_CHECKING:
    import pandas as pd

ROWS = f"""
    SELECT position, 0, prompt, status, error, {REPLY_COLUMNS}
    FROM answers WHERE batch = :batch
    UNION ALL
    SELECT reused.position, 1, prompt, status, error, {REPLY_COLUMNS}
    FROM reused JOIN answers ON answers.id = reused.answer WHERE reused.batch = :batch
"""
"""Of one batch: what it asked for, in that order, and then what it found."""

EXPORTED = """
    SELECT batches.name, position, prompt, reply, status, error, attempts, latency,
        answers.input_tokens, answers.output_tokens, answers.model, finish_reason, at
    FROM answers LEFT JOIN batches ON batches.id = answers.batch
"""

COLUMNS = {
    "batch": "string",
    "position": "int64",
    "prompt": "string",
    "reply": "string",
    "status": "string",
    "error": "string",
    "attempts": "int64",
    "latency": "float64",
    "input_tokens": "int64",
    "output_tokens": "int64",
    "model": "string",
    "finish_reason": "string",
    "at": "timestamp[us]",
}
"""Of a file that is exported, and Arrow's names for their types."""


class Store:
    """A file of answers; made by `store`. Nothing is made or changed by looking into it.

    Attributes
    ----------
    path : Path
        The file.

    Notes
    -----
    It is an SQLite database in WAL mode (https://www.sqlite.org/wal.html), on network drives with a rollback journal.
    Prompts and answers are in it as plain text; keys, headers and the server's own JSON are not.

    Examples
    --------
    >>> import ceylon_nb
    >>> from ceylon_nb import LlmAgent
    >>> agent = LlmAgent("clerk", "demo::tutor", system_prompt="Classify the review.")
    >>> frame = await agent.map(["Works like a charm.", "Awful smell."], store="reviews.sqlite", name="reviews")
    >>> store = ceylon_nb.store("reviews.sqlite")
    >>> store.batches()[["name", "model", "done", "failed"]].to_dict("index")
    {1: {'name': 'reviews', 'model': 'demo::tutor', 'done': 2, 'failed': 0}}
    >>> store.frame("reviews")[["prompt", "reply"]].to_dict("records")
    [{'prompt': 'Works like a charm.', 'reply': 'positive'}, {'prompt': 'Awful smell.', 'reply': 'negative'}]
    >>> store.export("reviews.jsonl")
    2
    >>> store.prune(older_than="30 days")
    0
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def __repr__(self) -> str:
        return f"Store({str(self.path)!r})"

    def batches(self) -> pd.DataFrame:
        """The batches, the newest first, by number.

        Returns
        -------
        DataFrame
            ``name``, ``when`` (it began, UTC), ``model``, ``done``, ``failed``, ``left`` (rows without an answer;
            missing for a stream that had not ended), ``from_store`` (of those done) and ``tokens`` (in and out, of what
            it asked for itself).

        Raises
        ------
        StoreError
            The file cannot be read.
        """
        with self._reading() as connection:
            rows = connection.execute(
                "SELECT id, name, begun, model, ok, failed, total - ok - failed, reused, input_tokens + output_tokens"
                " FROM batches ORDER BY id DESC"
            ).fetchall()
        return tables.of_batches(rows)

    def frame(self, batch: str | int) -> pd.DataFrame:
        """A batch's answers, without its items: by position, and with the ``prompt`` of each.

        Parameters
        ----------
        batch : str or int
            Its name (of several, the newest), or its number in `batches`.

        Returns
        -------
        DataFrame
            ``prompt`` and the columns of `Batch.frame`.

        Raises
        ------
        ConfigurationError
            There is no such batch.
        StoreError
            The file cannot be read.
        """
        with self._reading() as connection:
            number, total = self._find(connection, batch)
            rows = connection.execute(ROWS, {"batch": number}).fetchall()
        answers = Answers()
        length = max([total or 0, *(row[0] + 1 for row in rows)])
        answers.extend_to(length)
        prompts: list[str | None] = [None] * length
        for position, found, prompt, status, error, *reply in rows:
            attempts, latency = reply[2], math.nan if reply[3] is None else reply[3]
            prompts[position] = prompt
            said = decode(*reply) if status == OK else None
            answers.set(position, status, said, error, attempts, latency, from_store=bool(found))
        return tables.with_prompts(frames.to_frame(answers, frames.source(range(length))), prompts)

    def export(self, path: str | Path, batch: str | int | None = None) -> int:
        """Write the answers, failures included, to a .parquet, .jsonl or .csv file, in the order in which they came.

        Parameters
        ----------
        path : path
            Its ending says which. Parquet needs pyarrow.
        batch : str or int, optional
            Only what this batch asked for itself; all there is unless told.

        Returns
        -------
        int
            How many.

        Raises
        ------
        ConfigurationError
            The file cannot be written there, or there is no such batch.
        StoreError
            The store cannot be read.
        """
        target = Path(path)
        tables.check_path(target)
        with self._reading() as connection:
            chosen: tuple[int, ...] = ()
            where = ""
            if batch is not None:
                chosen, where = (self._find(connection, batch)[0],), " WHERE answers.batch = ?"
            rows = connection.execute(f"{EXPORTED}{where} ORDER BY answers.id", chosen)
            return tables.export(map(_exported, rows), COLUMNS, target)

    def prune(self, older_than: timedelta | str | float) -> int:
        """Delete answers that came longer ago, unless a younger batch uses them, and give their room back.

        Parameters
        ----------
        older_than : timedelta, str or float
            ``timedelta(days=30)``, ``"30 days"``, or seconds.

        Returns
        -------
        int
            How many.

        Raises
        ------
        ConfigurationError
            It is no length of time.
        StoreError
            The store cannot be written; nothing was deleted.
        """
        limit = time.time() - tables.seconds_of(older_than)
        if not self.path.exists():
            return 0
        with explained(self.path), contextlib.closing(connect(self.path)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            old = "SELECT id FROM batches WHERE updated < :limit"
            connection.execute(f"DELETE FROM reused WHERE batch IN ({old})", {"limit": limit})
            deleted = connection.execute(
                f"DELETE FROM answers WHERE at < :limit AND (batch IS NULL OR batch IN ({old}))"
                " AND id NOT IN (SELECT answer FROM reused)",
                {"limit": limit},
            ).rowcount
            connection.execute(
                "DELETE FROM batches WHERE updated < ? AND NOT EXISTS (SELECT 1 FROM answers WHERE batch = batches.id)",
                (limit,),
            )
            connection.execute("COMMIT")
            with contextlib.suppress(sqlite3.OperationalError):  # somebody writes, or no room for a copy: next time
                connection.execute("VACUUM")
        return int(deleted)

    @contextlib.contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        """The file, to read; where there is none, an empty one in memory."""
        with explained(self.path), contextlib.closing(connect_to_look(self.path)) as connection:
            yield connection

    def _find(self, connection: sqlite3.Connection, batch: str | int) -> tuple[int, int | None]:
        """A batch's number and how many rows it has."""
        column = "name" if isinstance(batch, str) else "id"
        found = connection.execute(
            f"SELECT id, total FROM batches WHERE {column} = ? ORDER BY id DESC LIMIT 1", (batch,)
        ).fetchone()
        if found is None:
            names = connection.execute("SELECT name FROM batches GROUP BY name ORDER BY max(id) DESC")
            raise ConfigurationError(
                f"There is no batch {batch!r} in {self.path}. There are {frames.listed(name for (name,) in names)}."
            )
        return found[0], found[1]


def _exported(row: tuple[Any, ...]) -> tuple[Any, ...]:
    *before, status, error, attempts, latency, asked, said, model, reason, at = row
    when = datetime.fromtimestamp(at, UTC).replace(tzinfo=None)
    return (*before, STATUSES[status], error, attempts, latency, asked, said, model, reason, when)


def store(path: place.StoreLike = "auto") -> Store:
    """The store of answers: the one beside the notebook, or another file.

    Parameters
    ----------
    path : "auto" or path
        ``"auto"`` is ``.ceylon_nb/answers.sqlite`` in the folder in which this Python was when it first imported the
        library, the notebook's, or what CEYLON_NB_STORE says.

    Returns
    -------
    Store
        The file need not be there; it is then as one that holds nothing.

    Raises
    ------
    ConfigurationError
        CEYLON_NB_STORE is ``off``, and no path is given; or `path` is no path.

    Examples
    --------
    >>> import ceylon_nb
    >>> ceylon_nb.store("nothing-yet.sqlite").batches().empty
    True
    """
    found = place.locate(path)
    if found is None:
        raise ConfigurationError(f"The store is switched off ({place.VARIABLE}=off): name a file, store('…').")
    return Store(found)


def batches() -> pd.DataFrame:
    """What the store beside the notebook holds: ``store().batches()``.

    Returns
    -------
    DataFrame
        As of `Store.batches`.

    Raises
    ------
    ConfigurationError
        CEYLON_NB_STORE is ``off``.
    StoreError
        The file cannot be read.

    Examples
    --------
    >>> import ceylon_nb
    >>> list(ceylon_nb.batches().columns)
    ['name', 'when', 'model', 'done', 'failed', 'left', 'from_store', 'tokens']
    """
    return store().batches()
