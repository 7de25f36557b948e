"""A story: the same batches, run again and again on one store by Pythons that are killed, until all is answered.

The server's log is the witness: no two of its replies are the same, and what was shown is never asked for again.
"""

from __future__ import annotations

import itertools
import shutil
import sqlite3
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ceylon_nb.storage import Store
from ceylon_nb.testing import ModelServer

DOUBLED = """
    SELECT family, prompt, occurrence, count(*) FROM answers WHERE status = 1
    GROUP BY family, question, occurrence HAVING count(*) > 1
"""


class Story:
    """What was shown and asked in all the lives of one store.

    Parameters
    ----------
    folder : Path
        Where the store is to lie; made here.
    server : ModelServer
        Its log is emptied, and its replies are numbered.
    batches : mapping of str to list of str
        Names and prompts.

    Attributes
    ----------
    shown : dict
        Replies by name and position, as they were shown, whenever.
    """

    def __init__(self, folder: Path, server: ModelServer, batches: Mapping[str, list[str]]) -> None:
        folder.mkdir()
        self.path = folder / "answers.sqlite"
        self.batches = batches
        self.shown: dict[tuple[str, int], str] = {}
        self.lives = 0
        self._folder = folder
        self._server = server
        self._said: Counter[str] = Counter()
        self._due = self._to_ask()
        number = itertools.count()
        server.reset()

        def reply(messages: list[dict[str, Any]]) -> str:
            said = f"{messages[-1]['content']}: reply {next(number)}"
            self._said[said] += 1
            return said

        server.reply = reply

    def begin(self) -> None:
        """Another life is about to ask."""
        self.lives += 1
        self._server.reset()
        self._due = self._to_ask()

    def show(self, name: str, position: int, reply: str) -> None:
        """This was shown; if it was before, it was the same."""
        assert self.shown.setdefault((name, position), reply) == reply

    def end(self) -> None:
        """A life has ended, by whatever: what it asked for had not been shown before, and what it showed is on disk."""
        self._server.wait_for(lambda seen: seen.active == 0)
        asked = Counter(request.prompt for request in self._server.requests)
        assert asked <= self._due, asked - self._due
        if self.path.exists():
            self.check(self._copy())

    def complete(self, frames: Mapping[str, list[str]]) -> None:
        """The last life's frames: full, with what was shown, no reply lost and none used twice."""
        assert {name: len(replies) for name, replies in frames.items()} == {
            name: len(prompts) for name, prompts in self.batches.items()
        }
        for (name, position), reply in self.shown.items():
            assert frames[name][position] == reply
        used = [reply for replies in frames.values() for reply in replies]
        assert len(set(used)) == len(used)
        assert set(used) <= set(self._said)
        for name, prompts in self.batches.items():
            assert [reply.partition(": ")[0] for reply in frames[name]] == prompts
            assert list(Store(self.path).frame(name)["reply"]) == frames[name]
        newest = Store(self.path).batches().groupby("name").first()
        for name, prompts in self.batches.items():
            assert list(newest.loc[name, ["done", "failed", "left"]]) == [len(prompts), 0, 0]

    def check(self, path: Path) -> None:
        """The file is whole, has each answer once and all that was shown, and its counts are right."""
        connection = sqlite3.connect(path)
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        [(made,)] = connection.execute("PRAGMA user_version")
        doubled = connection.execute(DOUBLED).fetchall() if made else []
        answers = Counter(connection.execute("SELECT reply FROM answers WHERE status = 1")) if made else Counter()
        connection.close()
        assert doubled == []
        assert Counter((reply,) for reply in self.shown.values()) <= answers
        if made:
            self._check_counts(Store(path))

    def _check_counts(self, store: Store) -> None:
        table = store.batches()
        assert len(table) <= self.lives * len(self.batches)
        assert set(table["name"]) <= set(self.batches)
        for number, row in table.iterrows():
            frame = store.frame(int(number))
            assert (frame["status"] == "ok").sum() == row["done"]
            assert frame["from_store"].sum() == row["from_store"]
            assert row["done"] + row["left"] == len(self.batches[row["name"]])

    def _to_ask(self) -> Counter[str]:
        """How often each prompt may still be asked."""
        shown = Counter(self.batches[name][position] for name, position in self.shown)
        return Counter(itertools.chain(*self.batches.values())) - shown

    def _copy(self) -> Path:
        """What is on disk now, to be looked at elsewhere: the next life is to find the file as the last one left it."""
        folder = self._folder / f"life {self.lives}"
        folder.mkdir()
        for suffix in ("", "-wal", "-journal"):
            with_suffix = self.path.with_name(self.path.name + suffix)
            if with_suffix.exists():
                shutil.copy(with_suffix, folder)
        return folder / self.path.name
