"""What the runs with a store find on disk: a store that is full, a disk that is slow. Made when first needed."""

import contextlib
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ceylon_nb.answers import OK
from ceylon_nb.messages import Reply, Usage
from ceylon_nb.storage.entries import Entry, encode
from ceylon_nb.storage.file import connect
from ceylon_nb.storage.identity import Family
from ceylon_nb.storage.writer import INSERT_ONE

from . import server, storing
from .contestants import ANSWER, prompt

SOURCE = Path(__file__).with_name("slow_disk.c")
PLACE = Path("/var/tmp")
"""Where folders for files of a run are made: /tmp may be memory, and a commit there costs nothing."""
BATCH = 10_000
"""Answers in each batch of a store that is full."""


def folder() -> tempfile.TemporaryDirectory[str]:
    """A folder on disk, for as long as the block lasts."""
    return tempfile.TemporaryDirectory(dir=PLACE)


class Shelf:
    """What several runs use, in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def store(self, n: int) -> Path:
        """A store that has the answers of `storing.answer` to `prompt(0)` up to `prompt(n - 1)`."""
        path = self._folder / f"{n}.sqlite"
        if not path.exists():
            fill(path, n)
        return path

    def slow_disk(self, seconds: float) -> dict[str, str]:
        """Environment variables with which a process waits so long for each commit."""
        library = self._folder / "slow_disk.so"
        if not library.exists():
            command = [server.compiler() or "cc", "-O2", "-shared", "-fPIC", "-o", library, SOURCE, "-ldl"]
            subprocess.run(command, check=True)
        return {"LD_PRELOAD": str(library), "SLOW_DISK_MS": str(round(seconds * 1000))}


@contextlib.contextmanager
def shelf() -> Iterator[Shelf]:
    """A shelf, for as long as the block lasts."""
    with folder() as at:
        yield Shelf(Path(at))


def fill(path: Path, n: int) -> None:
    """Write the file that batches of BATCH rows would have left, in one transaction."""
    family = Family(provider="function", model=f"{storing.answer.__module__}.{storing.answer.__qualname__}")
    now = time.time()
    sizes = [min(BATCH, n - begin) for begin in range(0, n, BATCH)]
    with contextlib.closing(connect(path)) as connection:
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("BEGIN")
        connection.execute("INSERT INTO families (id, text) VALUES (1, ?)", (family.text,))
        connection.executemany(
            "INSERT INTO batches (family, name, model, begun, updated, total, ok, failed, reused, input_tokens,"
            " output_tokens) VALUES (1, ?, 'function::answer', ?, ?, ?, ?, 0, 0, 0, 0)",
            [(f"batch {number}", now, now, size, size) for number, size in enumerate(sizes)],
        )
        connection.executemany(INSERT_ONE, _rows(family, n))
        connection.execute("COMMIT")


def _rows(family: Family, n: int) -> Iterator[tuple[Any, ...]]:
    reply = Reply(ANSWER, usage=Usage(31, 58), model="load", finish_reason="stop")
    for number in range(n):
        batch, position = divmod(number, BATCH)
        question = family.asks(prompt(number))
        yield encode(Entry(None, position, OK, reply, attempts=1, latency=0.5, question=question), batch + 1, 1)
