"""Journal: answers on disk in the order in which they come, to be had again by number.

Arrow record batches, one after the other, in a file without a name beside the one that they are for: no other disk
need have room for them, and nothing is left of it when Python ends.
"""

from __future__ import annotations

import tempfile
import weakref
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from .schema import records

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

Record: TypeAlias = tuple[Any, ...]
"""The columns of `schema.COLUMNS`."""

AT_HAND = 8_000_000
"""Bytes of batches that are in memory at a time, roughly, while records are looked up."""


def pool() -> pa.MemoryPool:
    """Where Arrow takes memory from: its own pools keep some 50 MB for the next time."""
    import pyarrow as pa

    return pa.system_memory_pool()


class Journal:
    """What was appended, in a thread's own hands.

    Parameters
    ----------
    beside : Path
        Where what it is for will be.
    """

    def __init__(self, beside: Path) -> None:
        self._file = tempfile.TemporaryFile(dir=beside.parent, prefix=f".{beside.name}.", suffix=".tmp", buffering=0)  # noqa: SIM115
        weakref.finalize(self, self._file.close)
        self._schema = records()
        self._end = 0
        self._count = 0
        self._firsts: list[int] = []  # of each batch: the number of its first record
        self._pieces: list[tuple[int, int]] = []  # and where it is: from which byte on, and how many
        self._at_hand: OrderedDict[int, pa.RecordBatch] = OrderedDict()
        self._bytes_at_hand = 0

    def append(self, some: list[Record]) -> None:
        """Add records; they are numbered from 0 on.

        Raises
        ------
        OSError
            There is no room, say: none of them is added.
        """
        import pyarrow as pa

        columns = [
            pa.array(cells, field.type, from_pandas=True, memory_pool=pool())
            for cells, field in zip(zip(*some, strict=True), self._schema, strict=True)
        ]
        data = memoryview(pa.record_batch(columns, schema=self._schema).serialize(memory_pool=pool()))
        self._file.seek(self._end)
        done = 0
        try:
            while done < len(data):
                done += self._file.write(data[done:])
        except OSError:
            self._file.truncate(self._end)
            raise
        self._firsts.append(self._count)
        self._pieces.append((self._end, len(data)))
        self._count += len(some)
        self._end += len(data)

    def rows_in(self, size: int, *, most: int) -> int:
        """About how many records are so many bytes."""
        return max(1, min(most, size * max(1, self._count) // max(1, self._end)))

    def take(self, numbers: NDArray[np.int64]) -> pa.Table:
        """Records by number, in the order asked for.

        Raises
        ------
        OSError
            They cannot be read.
        """
        import numpy as np
        import pyarrow as pa
        import pyarrow.compute as pc

        of = np.searchsorted(np.array(self._firsts), numbers, "right") - 1
        pieces = np.unique(of).tolist()
        if len(numbers) > 1 and sum(self._pieces[piece][1] for piece in pieces) > AT_HAND:  # from all over the place
            half = len(numbers) // 2
            return pa.concat_tables([self.take(numbers[:half]), self.take(numbers[half:])])
        batches = [self._batch(piece) for piece in pieces]
        starts = np.cumsum([0, *(batch.num_rows for batch in batches[:-1])])
        at = np.searchsorted(np.array(pieces), of)
        firsts = np.array(self._firsts)[of]
        chosen = pa.array(starts[at] + numbers - firsts)
        return pc.take(pa.Table.from_batches(batches), chosen, memory_pool=pool())

    def _batch(self, piece: int) -> pa.RecordBatch:
        """One of the batches; those used last stay at hand."""
        import pyarrow as pa

        found = self._at_hand.pop(piece, None)
        offset, size = self._pieces[piece]
        if found is None:
            self._file.seek(offset)
            data = bytearray(size)
            done = 0
            while done < size:
                more = self._file.readinto(memoryview(data)[done:])
                if not more:
                    raise OSError("the journal beside it ends too early")
                done += more
            found = pa.ipc.read_record_batch(pa.py_buffer(data), self._schema)
            self._bytes_at_hand += size
        self._at_hand[piece] = found
        while self._bytes_at_hand > AT_HAND:
            oldest, _ = self._at_hand.popitem(last=False)
            self._bytes_at_hand -= self._pieces[oldest][1]
        return found

    def rest(self) -> None:
        """Let go of what is at hand."""
        self._at_hand.clear()
        self._bytes_at_hand = 0
