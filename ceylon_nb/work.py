"""Work: what a batch does, and where what comes of it is kept."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import recording, tables
from .adaptive import Estimate
from .answers import Answers, Tally
from .errors import ConfigurationError
from .frames import Source
from .keeping import Keeper
from .limits import Endpoint
from .parquet import Delivered
from .storage.identity import Family, Question
from .storage.ledger import Ledger
from .storage.place import StoreLike, locate


@dataclass(frozen=True, slots=True)
class Work:
    """What a batch does with its items.

    Attributes
    ----------
    call : async callable
        Takes a question, returns its reply; has its own policy.
    prepare : callable
        Makes a question of an item.
    title, subtitle, model : str
        What runs, on what, and who answers.
    family : Family or None
        What the questions have in common; None if they are not to be stored.
    identify : callable or None
        What a question is known by.
    describe, gist : callable
        What is asked about an item, as text to be shown; and the part of it that no other item has.
    hide : callable
        The same text without keys.
    endpoint : Endpoint or None
        Whose cool-downs hold the calls off.
    estimate : Estimate
        What is known of how many calls at once make sense.
    advice : str
        What raises that number.
    """

    call: Callable[[Any], Awaitable[Any]]
    title: str
    subtitle: str = ""
    model: str = ""
    prepare: Callable[[Any], Any] = lambda item: item
    family: Family | None = None
    identify: Callable[[Any], Question] | None = None
    describe: Callable[[Any], str] = str
    gist: Callable[[Any], str] = str
    hide: Callable[[str], str] = str
    endpoint: Endpoint | None = None
    estimate: Estimate = field(default_factory=Estimate)
    advice: str = ""


@dataclass(frozen=True, slots=True)
class Storing:
    """Where a batch's answers are kept, as the options of `batch` say."""

    store: StoreLike
    fresh: bool
    dedupe: bool
    keep: bool
    out: Path | None = None

    def keeper(self, work: Work, source: Source) -> Keeper:
        """What takes the answers, without its ledger.

        Raises
        ------
        ConfigurationError
            The options make no sense together.
        """
        if self.dedupe and work.identify is None:
            raise ConfigurationError("dedupe=True of a function needs key=, a function from item to text.")
        if self.out is not None:
            tables.check_path(self.out, (".parquet",))
            return Keeper(Delivered(self.out, source.index), work.identify, dedupe=self.dedupe)
        return Keeper(Answers() if self.keep else Tally(), work.identify, dedupe=self.dedupe)

    def ledger(self, work: Work, keeper: Keeper, source: Source, store: StoreLike) -> Ledger | None:
        """The way to the disk; None if nothing is stored."""
        if recording.current() is not None:  # it takes the store's place, or it would miss what the store answers
            store = None
        path = locate(store) if work.family is not None else None
        if path is None or work.family is None:
            if not self.keep and self.out is None:
                raise ConfigurationError(
                    "keep=False keeps answers in the store alone, and there is none: name a file in store=, and "
                    "for a function of yours a key=."
                )
            return None
        return Ledger(
            path,
            work.family,
            name=work.title,
            model=work.model,
            fresh=self.fresh,
            counts=lambda: keeper.counts(source.total),
            on_landed=keeper.landed,
            on_failed=keeper.failed,
        )


def file_for(out: str | os.PathLike[str] | None) -> Path | None:
    """The file that is meant, wherever Python goes from here.

    Raises
    ------
    ConfigurationError
        It is no path.
    """
    if out is None:
        return None
    if out == "" or not isinstance(out, str | os.PathLike):
        raise ConfigurationError(f"out is the path of a .parquet file, not {out!r}.")
    return Path(os.fsdecode(out)).expanduser().absolute()
