"""The file of a recording: appended to at once, sorted whenever there is time.

- A line is on its way to the disk before anybody sees its answer: a process that is killed loses none.
- A file that is out of order is replaced by a sorted one in one step; whoever reads it sees the old or the new one.
- Several processes may record into one file: what another one has added is taken over before the file is replaced.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from ..errors import ConfigurationError, StoreUnwritable
from .lines import Key, Recorded, dump, parse

_numbers = itertools.count()


class File:
    """The answers of one file. Not to be used by two threads at once.

    Parameters
    ----------
    path : Path
        Absolute. A file that is not there holds no answers.

    Raises
    ------
    ConfigurationError
        It cannot be read, or a line of it is no answer.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._answers: dict[Key, Recorded] = {}
        self._lines: dict[Key, bytes] = {}
        self._dropped: set[Key] = set()
        self._last: Key | None = None
        self._stamp = self._look()
        self._others_wrote = False
        self._sorted = self._load()

    def __len__(self) -> int:
        return len(self._answers)

    def __iter__(self) -> Iterator[Key]:
        return iter(list(self._answers))

    def get(self, key: Key) -> Recorded | None:
        """The answer to a question, or None."""
        return self._answers.get(key)

    def put(self, key: Key, recorded: Recorded) -> None:
        """Add an answer, or replace one: at the file's end for now.

        Raises
        ------
        StoreUnwritable
            The disk is full, read-only or gone.
        """
        line = dump(key, recorded)
        before = self._look()
        with self._writing():
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("ab", buffering=0) as file:
                size = file.seek(0, os.SEEK_END)
                try:
                    if file.write(line) < len(line):
                        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                except OSError:
                    file.truncate(size)  # the next line must not begin in the middle of this one
                    raise
        after = self._look()
        alone = before == self._stamp and after[:2] == (before[0] or after[0], before[1] + len(line))
        self._others_wrote = self._others_wrote or not alone
        self._sorted = self._sorted and alone and (self._last is None or self._last < key)
        self._stamp, self._last = after, key
        self._dropped.discard(key)
        self._take(key, recorded, line)

    def keep(self, keys: Collection[Key]) -> None:
        """Forget all other answers."""
        forgotten = self._answers.keys() - set(keys)
        for key in forgotten:
            del self._answers[key], self._lines[key]
        self._dropped |= forgotten
        self._sorted = self._sorted and not forgotten

    def tidy(self) -> None:
        """Sort the file, if it is not sorted.

        Raises
        ------
        StoreUnwritable
            The disk is full, read-only or gone.
        """
        if self._sorted:
            return
        if self._others_wrote or self._stamp != self._look():
            self._take_over()
        self._answers = {key: self._answers[key] for key in sorted(self._answers)}  # the next time all but sorted
        self._replace(self._lines[key] for key in self._answers)
        self._last = next(reversed(self._answers), None)
        self._stamp, self._sorted, self._others_wrote = self._look(), True, False

    # -- the disk -----------------------------------------------------------------------------------------------

    def _load(self) -> bool:
        """Read the file; returns whether it is as it would be written."""
        self._stamp = self._look()
        try:
            content = self._path.read_bytes()
        except FileNotFoundError:
            return True
        except OSError as error:
            raise ConfigurationError(f"The recording {self._path} cannot be read: {error.strerror}.") from error
        lines = content.split(b"\n")
        for number, line in enumerate(lines, start=1):
            try:
                if line.strip():
                    key, recorded = parse(line)
                    self._take(key, recorded, dump(key, recorded))
            except ValueError as error:
                if number == len(lines):  # the process was killed while it wrote
                    break
                raise ConfigurationError(
                    f"Line {number} of the recording {self._path} is no answer: {error}. Mend the line, or delete it; "
                    "what is missing can be recorded again."
                ) from error
        self._last = max(self._answers, default=None)
        return b"".join(self._lines[key] for key in sorted(self._answers)) == content

    def _take_over(self) -> None:
        """Add what others have written since."""
        mine = self._answers, self._lines
        self._answers, self._lines = {}, {}
        self._load()
        for key in self._dropped & self._answers.keys():
            del self._answers[key], self._lines[key]
        self._answers |= mine[0]
        self._lines |= mine[1]

    def _take(self, key: Key, recorded: Recorded, line: bytes) -> None:
        self._answers[key] = recorded
        self._lines[key] = line

    def _replace(self, lines: Iterable[bytes]) -> None:
        beside = self._path.with_name(f".{self._path.name}.{os.getpid()}-{next(_numbers)}")
        with self._writing():
            try:
                with beside.open("xb") as file:
                    file.writelines(lines)
                beside.replace(self._path)
            except BaseException:
                beside.unlink(missing_ok=True)
                raise

    def _look(self) -> tuple[int, int, int]:
        """Which file it is, its size, and when it was last written; nothing of a file that is not there."""
        try:
            stat = self._path.stat()
        except OSError:
            return 0, 0, 0
        return stat.st_ino, stat.st_size, stat.st_mtime_ns

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StoreUnwritable(f"The recording {self._path} cannot be written: {error.strerror}.") from error
