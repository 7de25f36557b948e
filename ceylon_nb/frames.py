"""Items in, frames out: the only place that knows pandas.

* `source` turns whatever the user has into numbered items with labels: DataFrame, Series, list, mapping, any iterable
  or async iterable. What has a length is copied, so that nothing changes under a running batch; a stream is pulled
  from one item at a time.
* `to_frame` turns answers into a DataFrame on the input's own index.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from .answers import FAILED, STATUSES, Answers
from .errors import ConfigurationError

if TYPE_CHECKING:
    import pandas as pd

Items: TypeAlias = "pd.DataFrame | pd.Series[Any] | Mapping[Any, Any] | Iterable[Any] | AsyncIterable[Any]"


# -- items -----------------------------------------------------------------------------------------------------------


class Row(Mapping[str, Any]):
    """One row of a DataFrame, as it was when the batch began: ``row["text"]`` or ``row.text``."""

    __slots__ = ("_columns", "_position")

    def __init__(self, columns: Mapping[str, Sequence[Any]], position: int) -> None:
        self._columns = columns
        self._position = position

    def __getitem__(self, name: str) -> Any:
        return self._columns[name][self._position]

    def __getattr__(self, name: str) -> Any:
        try:
            return self._columns[name][self._position]
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
        self.item = item
        self.total = total
        self.index = index
        self.columns = columns
        self.doubled = frozenset(doubled)

    def label(self, position: int) -> Any:
        """An item's label."""
        return position if self.index is None else self.index[position]

    async def pull(self, position: int) -> bool:
        """Have the item at `position` ready; False when there is none."""
        return self.total is not None and position < self.total


class Stream(Source):
    """Items of an iterable, pulled when a worker is free, one at a time, and kept."""

    def __init__(self, items: Iterable[Any] | AsyncIterable[Any]) -> None:
        self._items: list[Any] = []
        super().__init__(self._items.__getitem__, None)
        self._iterator: Iterator[Any] | None = None
        self._pending: asyncio.Future[Any] | None = None
        if isinstance(items, AsyncIterable):
            self._async_iterator = aiter(items)
        else:
            self._iterator = iter(items)

    async def pull(self, position: int) -> bool:
        """Have the item at `position` ready, waiting for it if the iterable does; False when there is none."""
        while position >= len(self._items):
            if self.total is not None:
                return False
            try:
                item = next(self._iterator) if self._iterator is not None else await self._next()
            except (StopIteration, StopAsyncIteration):
                self.total = len(self._items)
                return False
            self._items.append(item)
        return True

    async def _next(self) -> Any:
        """The next item of an async iterable, awaited in a task of its own.

        Whoever waits may be cancelled; an async generator that is cancelled is over, and its later items lost.
        """
        if self._pending is None:
            self._pending = asyncio.ensure_future(_advance(self._async_iterator))
        item = await asyncio.shield(self._pending)
        self._pending = None
        return item


async def _advance(iterator: AsyncIterator[Any]) -> Any:
    return await anext(iterator)


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
    if pandas is not None and isinstance(items, pandas.DataFrame):
        return _tabular(items)
    if pandas is not None and isinstance(items, pandas.Series):
        return _listed(items.tolist(), items.index.copy())
    if isinstance(items, Mapping):
        return _listed(list(items.values()), list(items.keys()))
    if isinstance(items, (str, bytes)):
        raise ConfigurationError("The items are one single text. Put it in a list, or ask with send_message.")
    if hasattr(items, "to_pandas"):
        raise ConfigurationError(f"Items in a {type(items).__name__} are read as a DataFrame: pass items.to_pandas().")
    if isinstance(items, Sequence):
        return _listed(list(items))
    if hasattr(items, "__array__") and isinstance(items, Iterable):
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


def _listed(items: list[Any], index: Any = None) -> Source:
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
    import pandas as pd

    length = max(len(answers), items.total or 0)
    pad = length - len(answers)
    index = _pandas_index(items.index, length)
    replies = answers.replies[:] + [None] * pad
    usages = [answers.usage(position) for position in range(len(answers))]
    codes = list(answers.status) + [0] * pad
    return pd.DataFrame(
        {
            "reply": _objects(replies, index),
            "status": pd.Categorical.from_codes(codes, pd.Index(STATUSES)),
            "error": _objects([describe(error) for error in answers.errors] + [None] * pad, index),
            "attempts": list(answers.attempts) + [0] * pad,
            "latency": list(answers.latency) + [float("nan")] * pad,
            "input_tokens": pd.array([usage.input_tokens for usage in usages] + [None] * pad, dtype="Int64"),
            "output_tokens": pd.array([usage.output_tokens for usage in usages] + [None] * pad, dtype="Int64"),
            "finish_reason": _objects([getattr(reply, "finish_reason", None) for reply in replies], index),
            "from_store": [False] * length,
        },
        index=index,
    )


def failed_rows(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows that failed, with their ``position`` in the input: labels may be doubled, positions are not."""
    failed = (frame["status"].cat.codes == FAILED).to_numpy()
    rows = frame[failed].copy()
    rows.insert(0, "position", failed.nonzero()[0])
    return rows


def describe(error: BaseException | None) -> str | None:
    """An error as one line: its kind and what it says."""
    if error is None:
        return None
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _objects(values: list[Any], index: Any) -> pd.Series[Any]:
    """A column that keeps its objects: pandas 3 would turn a `str` subclass into `str` and None into NaN."""
    import numpy as np
    import pandas as pd

    column = np.empty(len(values), dtype=object)
    for position, value in enumerate(values):
        column[position] = value
    return pd.Series(column, dtype=object, index=index)


def _pandas_index(index: Any, length: int) -> Any:
    import pandas as pd

    if index is None:
        return pd.RangeIndex(length)
    return index if isinstance(index, pd.Index) else pd.Index(index, tupleize_cols=False)


# -- files -----------------------------------------------------------------------------------------------------------


FORMATS = (".csv", ".jsonl")


def check_path(path: Path) -> None:
    """Refuse a file that cannot be read or written before anything is sent.

    Raises
    ------
    ConfigurationError
        Neither .csv nor .jsonl, or in a folder that is not there.
    """
    if path.suffix not in FORMATS:
        raise ConfigurationError(f"{path} is neither .csv nor .jsonl.")
    if not path.parent.is_dir():
        raise ConfigurationError(f"There is no folder {path.parent}.")


def read(path: Path) -> pd.DataFrame:
    """A table from a .csv file (every cell as the text it is) or a .jsonl file (an object a line).

    Raises
    ------
    ConfigurationError
        It is not there, or cannot be read.
    """
    import pandas as pd

    check_path(path)
    try:
        if path.suffix == ".csv":
            return pd.read_csv(path, dtype=str, keep_default_na=False)
        return pd.read_json(path, lines=True, dtype=False, convert_dates=False)
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{path} cannot be read: {error}.") from error


def write(frame: pd.DataFrame, path: Path) -> None:
    """Write a table to a .csv or .jsonl file."""
    if path.suffix == ".csv":
        frame.to_csv(path, index=False)
    else:
        frame.to_json(path, orient="records", lines=True, force_ascii=False)


def joined(items: pd.DataFrame, answers: pd.DataFrame) -> pd.DataFrame:
    """The input's columns and then the answers'; one that the input has already is named ``answer_…``."""
    return items.join(answers.rename(columns={name: f"answer_{name}" for name in answers if name in items}))
