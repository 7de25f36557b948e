"""Items from a Parquet file: its rows, read some at a time, as they are asked for.

* A row group may be the whole file, so it is read in chunks of some hundred rows, page by page; a few stay in memory.
* What comes next is read in a thread, before a worker is given it. An earlier row, as one that is tried again, is read
  where it is asked for: from the beginning of its row group on, unless one of a few readers is on the way there.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from .. import frames
from ..errors import ConfigurationError, detail
from ..frames import Row, Source
from ..tables import PARQUET

if TYPE_CHECKING:
    import pyarrow as pa

Items: TypeAlias = "frames.Items | os.PathLike[str]"

SUFFIX = ".parquet"

MOST_ROWS = 1024
"""Rows in a chunk, at the most; each chunk is a wait for a thread."""
LARGEST = 2_000_000
"""Bytes in a chunk, roughly, at the most."""
CHUNKS = 6
"""Chunks that stay in memory: the rows in flight are in these."""
READERS = 3
"""Places in the file from which it is read on; someone who reads answers late has one of his own."""
BUFFER = 1 << 16
"""Bytes that are read at once. With none, Arrow reads a whole column of a row group, however large."""


def source(items: Items) -> Source:
    """Number the items: those of `frames.source`, or the rows of a Parquet file, named by a path or a str.

    Raises
    ------
    ConfigurationError
        As in `frames.source`; or the file is not there, or is no Parquet file, or pyarrow is not.
    """
    if isinstance(items, str) and items.lower().endswith(SUFFIX):
        return ParquetRows(Path(items))
    if isinstance(items, os.PathLike):
        path = Path(os.fspath(items))
        if path.suffix.lower() != SUFFIX:
            raise ConfigurationError(f"{path} is no .parquet file: read it first, as by pandas.read_csv(…).")
        return ParquetRows(path)
    return frames.source(items)


class _Chunk(NamedTuple):
    """Rows that follow one another."""

    first: int
    end: int
    columns: dict[str, pa.Array]


class _Reader:
    """Reads a row group from its beginning on."""

    def __init__(self, chunks: Iterator[_Chunk], first: int, end: int) -> None:
        self.chunks = chunks
        self.next = first
        self.end = end


class ParquetRows(Source):
    """The rows of a Parquet file, by position.

    Raises
    ------
    ConfigurationError
        The file cannot be read, or pyarrow is missing.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with self._explained():
            self._file = _opened(path)
            described = self._file.metadata
            names = self._file.schema_arrow.names
        doubled = {name for name in names if names.count(name) > 1}
        self._names = [name for name in names if name not in doubled]
        groups = [described.row_group(number) for number in range(described.num_row_groups)]
        self._ends: list[int] = []
        """Of each row group: the position after its last row."""
        self._steps: list[int] = []
        """And how many of its rows are a chunk."""
        end = 0
        for group in groups:
            end += group.num_rows
            self._ends.append(end)
            size = max(1, group.total_byte_size // max(1, group.num_rows))
            self._steps.append(max(1, min(MOST_ROWS, LARGEST // size)))
        self._chunks: deque[_Chunk] = deque(maxlen=CHUNKS)
        self._readers: deque[_Reader] = deque(maxlen=READERS)
        self._lock = threading.Lock()
        super().__init__(self._row, described.num_rows, None, dict.fromkeys(self._names, ()), doubled)

    def only(self, names: frozenset[str]) -> None:
        """Read these columns alone."""
        self._names = [name for name in self._names if name in names]

    async def pull(self, position: int) -> bool:
        """Have the row at `position` ready; False when there is none."""
        if self.total is None or position >= self.total:
            return False
        if self._names and self._cached(position) is None:
            await _in_thread(lambda: self._chunk(position))
        return True

    def _row(self, position: int) -> Row:
        """A row.

        Raises
        ------
        ConfigurationError
            The file cannot be read any more.
        """
        if not 0 <= position < (self.total or 0):
            raise IndexError(position)
        if not self._names:
            return Row({}, 0)
        chunk = self._chunk(position)
        at = position - chunk.first  # the cells alone: a row that is kept keeps no chunk
        return Row({name: (cells[at].as_py(),) for name, cells in chunk.columns.items()}, 0)

    def _cached(self, position: int) -> _Chunk | None:
        return next((chunk for chunk in tuple(self._chunks) if chunk.first <= position < chunk.end), None)

    def _chunk(self, position: int) -> _Chunk:
        found = self._cached(position)
        if found is not None:
            return found
        with self._lock:
            found = self._cached(position)  # someone else's, meanwhile
            if found is None:
                with self._explained():
                    found = self._read(position)
                self._chunks.appendleft(found)
            return found

    def _read(self, position: int) -> _Chunk:
        group = next(number for number, end in enumerate(self._ends) if position < end)
        first, end = ([0, *self._ends])[group], self._ends[group]
        on_the_way = [reader for reader in self._readers if reader.end == end and reader.next <= position]
        reader = max(on_the_way, key=lambda reader: reader.next, default=None)
        if reader is None:
            reader = _Reader(self._read_group(group, first), first, end)
        else:
            self._readers.remove(reader)
        for chunk in reader.chunks:
            reader.next = chunk.end
            if position < chunk.end:
                if chunk.end < end:
                    self._readers.appendleft(reader)
                return chunk
        raise ConfigurationError(f"{self._path} cannot be read: it has fewer rows than it says.")

    def _read_group(self, group: int, first: int) -> Iterator[_Chunk]:
        """The chunks of a row group."""
        names, step = self._names, self._steps[group]
        for batch in self._file.iter_batches(step, row_groups=[group], columns=names, use_threads=False):
            if batch.num_rows:
                end = first + batch.num_rows
                yield _Chunk(first, end, {name: batch.column(at) for at, name in enumerate(batch.schema.names)})
                first = end

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Say what is wrong with the file, in one sentence."""
        if importlib.util.find_spec("pyarrow") is None:
            raise ConfigurationError(PARQUET)
        import pyarrow as pa

        try:
            yield
        except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
            raise ConfigurationError(f"{self._path} cannot be read: {detail(error)}.") from error


_opening = threading.Lock()


def _opened(path: Path) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if path.is_dir():
        raise IsADirectoryError("it is a folder; name one file")
    with _opening:
        pool = pa.default_memory_pool()
        pa.set_memory_pool(pa.system_memory_pool())  # it takes what is set now; Arrow's own keeps 20 MB for next time
        try:
            return pq.ParquetFile(path, buffer_size=BUFFER, pre_buffer=False)
        finally:
            pa.set_memory_pool(pool)


async def _in_thread(function: Callable[[], object]) -> None:
    """Call it in a thread, so that a slow disk keeps no loop waiting; whoever waits may be cancelled."""
    done: Future[object] = Future()
    done.set_running_or_notify_cancel()

    def call() -> None:
        try:
            done.set_result(function())
        except Exception as error:  # noqa: BLE001 - it is for whoever waits
            done.set_exception(error)

    threading.Thread(target=call, name="ceylon-nb-read", daemon=True).start()
    await asyncio.wrap_future(done)
