"""Items in, frames out.

* ``source`` turns whatever the user has into numbered items with labels: DataFrame, Series, list, mapping, any iterable
  or async iterable. What can change is copied, so that nothing changes under a running batch; a stream is pulled from
  one item at a time.
* ``to_frame`` turns answers into a DataFrame on the input's own index.
"""

from __future__ import annotations

import asyncio
import math
import sys
import weakref
from collections import deque
from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
    Set,
    ValuesView,
)
from typing import TYPE_CHECKING, Any, TypeAlias

from .answers import FAILED, STATUSES, Answers
from .errors import CeylonError, ConfigurationError, describe
from .loop import call_in, retrieve
from .messages import Reply

if TYPE_CHECKING:
    import pandas as pd

Items: TypeAlias = "pd.DataFrame | pd.Series[Any] | Mapping[Any, Any] | Iterable[Any] | AsyncIterable[Any]"


# -- items -----------------------------------------------------------------------------------------------------------


class Row(Mapping[str, Any]):
    """One row of a DataFrame, as it was when the batch began: ``row["text"]`` or ``row.text``.

    `batch` hands it to the function, `LlmAgent.map` to a template that is a function; it is `Answer.item`, too.

    Examples
    --------
    >>> import pandas as pd
    >>> from ceylon_nb import batch
    >>> shelf = pd.DataFrame({"item": ["Kettle", "Toaster"], "price": [24.5, 31.0]})
    >>> async def label(row):
    ...     return f"{row.item}: {row['price']} euros"
    >>> frame = await batch(label, shelf)
    >>> frame["reply"].tolist()
    ['Kettle: 24.5 euros', 'Toaster: 31.0 euros']
    """

    __slots__ = ("_columns", "_position")

    def __init__(self, columns: Mapping[str, Sequence[Any]], position: int) -> None:
        self._columns = columns
        self._position = position

    def __getitem__(self, name: object) -> Any:
        return self._columns[name if isinstance(name, str) else str(name)][self._position]

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"The row has no column {name!r}; it has {listed(self._columns)}.") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._columns)

    def __len__(self) -> int:
        return len(self._columns)

    def __repr__(self) -> str:
        return f"Row({dict(self)!r})"

    def __reduce__(self) -> tuple[type[dict[str, Any]], tuple[dict[str, Any]]]:
        return dict, (dict(self),)


class Source:
    """Numbered items with labels.

    Attributes
    ----------
    total : int or None
        How many there are; None until a stream has ended.
    index : object
        The pandas index to answer on, the labels, or None for 0, 1, 2 …
    columns : mapping or None
        Of a DataFrame: its columns by name.
    doubled : frozenset of str
        Names that several columns have.
    """

    def __init__(
        self,
        item: Callable[[int], Any],
        total: int | None,
        index: Any = None,
        columns: Mapping[str, Sequence[Any]] | None = None,
        doubled: Iterable[str] = (),
    ) -> None:
        self._item = item
        self.total = total
        self.index = index
        self.columns = columns
        self.doubled = frozenset(doubled)

    def item(self, position: int) -> Any:
        """An item."""
        return self._item(position)

    def label(self, position: int) -> Any:
        """An item's label."""
        return position if self.index is None else self.index[position]

    async def pull(self, position: int) -> bool:
        """Have the item at `position` ready; False when there is none."""
        return self.total is not None and position < self.total

    def forget(self, position: int) -> None:
        """Let go of an item that nobody will ask about again."""

    def only(self, names: frozenset[str]) -> None:
        """Nobody will ask about other columns than these."""


_FORGOTTEN = object()


class Stream(Source):
    """Items of an iterable, pulled when a worker is free, one at a time, and kept."""

    def __init__(self, items: Iterable[Any] | AsyncIterable[Any]) -> None:
        self._items: deque[Any] = deque()
        self._forgotten = 0  # so many before those
        super().__init__(self._items.__getitem__, None)
        self._iterator: Iterator[Any] | None = None
        self._pending: list[asyncio.Task[Any]] = []
        """The task that waits for an async iterable's next item, or has it."""
        self._running: list[asyncio.Task[Any]] = []
        """The same while it waits: a task that is done may hold whoever waited for it, and with them this stream."""
        if isinstance(items, AsyncIterable):
            self._async_iterator = aiter(items)
            weakref.finalize(self, _abandon, self._running).atexit = False
        else:
            self._iterator = iter(items)

    async def pull(self, position: int) -> bool:
        """Have the item at `position` ready, waiting for it if the iterable does; False when there is none."""
        while position >= self._forgotten + len(self._items):
            if self.total is not None:
                return False
            try:
                item = next(self._iterator) if self._iterator is not None else await self._next()
            except (StopIteration, StopAsyncIteration):
                self.total = self._forgotten + len(self._items)
                return False
            self._items.append(item)
        return True

    def item(self, position: int) -> Any:
        """An item, unless it was forgotten."""
        return self._item(position - self._forgotten)

    def forget(self, position: int) -> None:
        """Let go of an item that nobody will ask about again."""
        self._items[position - self._forgotten] = _FORGOTTEN
        while self._items and self._items[0] is _FORGOTTEN:
            self._items.popleft()
            self._forgotten += 1

    async def _next(self) -> Any:
        """The next item of an async iterable, awaited in a task of its own.

        Whoever waits may be cancelled; an async generator that is cancelled is over, and its later items lost.

        Raises
        ------
        CeylonError
            It was cancelled all the same, or the loop that it waits on is closed.
        """
        if not self._pending:
            task = asyncio.get_running_loop().create_task(_advance(self._async_iterator))
            task.add_done_callback(retrieve)
            task.add_done_callback(self._running.remove)
            self._running.append(task)
            self._pending.append(task)
        pending = self._pending[0]
        if not pending.done() and pending.get_loop() is asyncio.get_running_loop():
            await asyncio.wait([pending])
        self._pending.clear()
        if pending.cancelled() or not pending.done():
            raise CeylonError(
                "The stream of items was cancelled, as when its loop ends: it may have more, but cannot give them."
            )
        return pending.result()


async def _advance(iterator: AsyncIterator[Any]) -> Any:
    return await anext(iterator)


def _abandon(pending: list[asyncio.Task[Any]]) -> None:
    for task in pending:
        call_in(task.get_loop(), task.cancel)


def source(items: Items) -> Source:
    """Number the items.

    Raises
    ------
    ConfigurationError
        A single text, or something that cannot be iterated over.
    """
    if isinstance(items, Source):
        return items
    pandas = sys.modules.get("pandas")  # not imported: then there is no DataFrame either
    if not (hasattr(pandas, "DataFrame") and hasattr(pandas, "Series")):  # as long as a thread is importing it
        pandas = None
    if pandas is not None and isinstance(items, pandas.DataFrame):
        return _tabular(items)
    if pandas is not None and isinstance(items, pandas.Series):
        return _listed(items.tolist(), items.index.copy())
    to_pandas = getattr(items, "to_pandas", None)  # polars, pyarrow, datasets
    if callable(to_pandas):
        return source(to_pandas())
    if isinstance(items, Mapping):
        return _listed(list(items.values()), list(items.keys()))
    if isinstance(items, (str, bytes, bytearray)):
        raise ConfigurationError("The items are one single text. Put it in a list, or ask with send_message.")
    if isinstance(items, (tuple, range)):
        return _listed(items)
    if isinstance(items, (Sequence, Set, ValuesView)) or (hasattr(items, "__array__") and isinstance(items, Iterable)):
        return _listed(list(items))
    if isinstance(items, (Iterable, AsyncIterable)):
        return Stream(items)
    raise ConfigurationError(
        f"Items must be a DataFrame, a Series, a list or something else to iterate over, not {type(items).__name__}."
    )


def _tabular(frame: pd.DataFrame) -> Source:
    names = [str(name) for name in frame.columns]
    doubled = {name for name in names if names.count(name) > 1}
    columns = {name: frame.iloc[:, at].tolist() for at, name in enumerate(names) if name not in doubled}
    return Source(lambda position: Row(columns, position), len(frame), frame.index.copy(), columns, doubled)


def _listed(items: Sequence[Any], index: Any = None) -> Source:
    return Source(items.__getitem__, len(items), index)


def listed(names: Iterable[Any], most: int = 12) -> str:
    """Names for a message, not too many."""
    every = [str(name) for name in names]
    shown = ", ".join(every[:most]) or "none"
    return shown if len(every) <= most else f"{shown} and {len(every) - most:,} more"


# -- frames ----------------------------------------------------------------------------------------------------------


def to_frame(answers: Answers, items: Source) -> pd.DataFrame:
    """The answers as a DataFrame on the items' own index, always at full length.

    Columns: ``reply`` (object), ``status`` (category), ``error`` (object: ``"ModelNotFound: …"``), ``attempts``,
    ``latency`` (seconds, last attempt), ``input_tokens``, ``output_tokens`` (Int64), ``finish_reason``,
    ``from_store``.
    """
    import numpy as np
    import pandas as pd

    rows = answers.columns()
    length = max(len(rows.status), items.total or 0)
    pad = length - len(rows.status)
    index = _pandas_index(items.index, length)
    codes = np.frombuffer(rows.status, np.int8)
    replied = [reply if isinstance(reply, Reply) else _NO_REPLY for reply in rows.replies]
    usages = [reply.usage for reply in replied]
    errors = np.empty(length, dtype=object)
    for position in (codes == FAILED).nonzero()[0].tolist():
        errors[position] = describe(rows.errors[position])
    return pd.DataFrame(
        {
            "reply": _objects(rows.replies, index),
            "status": pd.Categorical.from_codes(np.pad(codes, (0, pad)), pd.Index(STATUSES)),
            "error": pd.Series(errors, dtype=object, index=index),
            "attempts": np.pad(np.array(rows.attempts, np.int64), (0, pad)),
            "latency": np.pad(np.array(rows.latency, np.float64), (0, pad), constant_values=math.nan),
            "input_tokens": _counts([usage.input_tokens for usage in usages], pad),
            "output_tokens": _counts([usage.output_tokens for usage in usages], pad),
            "finish_reason": _objects([reply.finish_reason for reply in replied], index),
            "from_store": np.pad(np.frombuffer(rows.from_store, dtype=bool), (0, pad)),
        },
        index=index,
        copy=False,  # nobody else has these
    )


EXACT = 2.0**53
"""From here on floats skip whole numbers."""

_NO_REPLY = Reply("")
"""Stands in for what is no model's reply: it knows of no tokens and no reason."""


def failed_rows(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows that failed, with their ``position`` in the input: labels may be doubled, positions are not."""
    failed = (frame["status"].cat.codes == FAILED).to_numpy()
    rows = frame[failed].copy()
    rows.insert(0, "position", failed.nonzero()[0])
    return rows


def _objects(values: list[Any], index: Any) -> pd.Series[Any]:
    """A column that keeps its objects: pandas 3 would turn a `str` subclass into `str` and None into NaN.

    Rows that there are no values for are None.
    """
    import numpy as np
    import pandas as pd

    column = np.empty(len(index), dtype=object)
    column[: len(values)] = np.fromiter(values, object, len(values))  # a cell may be a list: no array of arrays
    return pd.Series(column, dtype=object, index=index)


def _counts(values: list[int | None], pad: int) -> Any:
    """A column of whole numbers, and of none where they are not known or where there is no row yet."""
    import numpy as np
    import pandas as pd

    known = np.pad(np.array(values, np.float64), (0, pad), constant_values=math.nan)  # None becomes NaN
    if np.nanmax(known, initial=0.0) >= EXACT:
        return pd.array([*values, *[None] * pad], dtype="Int64")
    unknown = np.isnan(known)
    return pd.arrays.IntegerArray(np.where(unknown, 0, known).astype(np.int64), unknown)


def _pandas_index(index: Any, length: int) -> Any:
    import pandas as pd

    if index is None:
        return pd.RangeIndex(length)
    return index if isinstance(index, pd.Index) else pd.Index(index, tupleize_cols=False)
