"""batch(): call an async function on every item, in the background of the notebook's loop."""

from __future__ import annotations

import functools
import os
import pkgutil
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

from . import frames, parquet
from .errors import ConfigurationError, InvalidItem
from .handle import Batch
from .interrupts import listen
from .kernel import in_kernel
from .limits import Endpoint
from .loop import load_now
from .messages import sendable
from .policy import AtOnce, check_options, with_policy
from .storage.identity import Family, Question
from .storage.place import StoreLike
from .work import Storing, Work, file_for

VIEWS, NEEDED = "ceylon_nb.views:attach", "ceylon_nb.views:needed"
"""Who shows a batch; found by name when one begins, as nothing here imports a view."""

OPENING = 0.05
"""Seconds that a cell waits for its store, to say at once what is wrong with it. A slow one is waited for later."""

View: TypeAlias = "str | Callable[[Batch], object] | None"


def batch(
    fn: Callable[[Any], Awaitable[Any]],
    items: parquet.Items,
    *,
    max_at_once: AtOnce = "auto",
    max_per_minute: float | None = None,
    timeout: float | None = None,
    deadline: float | None = None,
    attempts: int = 1,
    key: Callable[[Any], str] | None = None,
    store: StoreLike = "auto",
    fresh: bool = False,
    dedupe: bool = False,
    keep: bool = True,
    out: str | os.PathLike[str] | None = None,
    view: View = "auto",
    name: str | None = None,
) -> Batch:
    """Call an async function on every item, many at once, in the background; returns at once.

    Parameters
    ----------
    fn : async callable
        Takes an item. What it returns is the row's reply; what it raises is the row's error.
    items : DataFrame, Series, list, mapping, iterable, async iterable or path
        A stream is pulled from only as fast as workers come free. A DataFrame's items are its rows (`frames.Row`), and
        so are those of a .parquet file, which is read as they are asked for.
    max_at_once : int or "auto"
        Rows in flight at a time. ``"auto"`` begins with a few and finds out how many make sense: as many as are
        answered sooner together than one after another, and no more than are not refused (`Batch.found`).
    max_per_minute : float, optional
        Calls a minute, evenly spaced.
    timeout : float, optional
        Seconds for one call.
    deadline : float, optional
        Seconds for the whole batch; it then ends with what it has. It stands still while the batch is paused.
    attempts : int
        Calls for one item, in all. What an agent has already tried again is not tried again here.
    key : callable, optional
        Takes an item and returns the text by which the function's reply to it is known: the same function (by module
        and name) and the same text mean the same question. Without it nothing is stored, as a function may change.
    store : "auto", path or None
        Where answers are kept, so that the same batch run again asks only for what is missing: ``"auto"`` is
        ``.ceylon_nb/answers.sqlite`` beside the notebook (CEYLON_NB_STORE moves it, or switches it off); None is
        nowhere. Replies have to be what JSON can say. An answer is shown once it is on disk.
    fresh : bool
        Ask for everything anew; the answers that there were are kept, too.
    dedupe : bool
        Ask equal questions once. Otherwise three equal rows are three questions and three answers.
    keep : bool
        Keep replies in memory. Without, they are in the store alone, and there is no frame: for millions of rows.
    out : path, optional
        A .parquet file for the answers, in place of a frame in memory, for as many as you like: the frame's columns,
        after ``position`` and, where it is another, the label as ``index``; what is no text as JSON. It takes its place
        when the batch is done, and what was there stays until then. What a batch that was cancelled or stopped has is
        beside it, in ``….partial.parquet``; `Batch.out` and ``await run`` say which. Needs pyarrow.
    view : str, callable or None
        ``"auto"``: in a notebook the live panel, or where nobody watches a summary in the end; ``"panel"`` or
        ``"static"``: one of these, whoever watches; ``"terminal"``: a progress bar; None: nothing. Or a function that
        is given the batch and listens to it.
    name : str, optional
        What to call it, here and in the store.

    Returns
    -------
    Batch
        It has begun; ``await`` it for a DataFrame, iterate over it for answers as they complete.

    Raises
    ------
    ConfigurationError
        An option or the items make no sense; nothing was called.
    StoreError
        The store cannot be used; nothing was called.

    Notes
    -----
    ``max_at_once="auto"`` fits Little's law to the latencies that it sees, as TCP Vegas and Netflix' gradient limits do
    (https://github.com/Netflix/concurrency-limits), doubles with each round while it sees no knee, and takes one off
    where more were refused than were ever answered (AIMD). Of a server that refuses whatever comes too often it learns
    the rate, by CUBIC (https://www.rfc-editor.org/rfc/rfc9438). ``max_per_minute`` is kept by GCRA (ITU-T I.371) with
    burst 1: no 60 seconds see more.

    Examples
    --------
    >>> from ceylon_nb import batch
    >>> async def half(number):
    ...     if number % 2:
    ...         raise ValueError(f"{number} is odd")
    ...     return number // 2
    >>> run = batch(half, {"a": 2, "b": 3, "c": 4}, max_at_once=2)
    >>> frame = await run
    >>> frame[["reply", "error"]].to_dict("index")["b"]
    {'reply': None, 'error': 'ValueError: 3 is odd'}
    >>> frame["reply"].tolist()
    [1, None, 2]
    """
    check_options(
        auto=True,
        max_at_once=max_at_once,
        max_per_minute=max_per_minute,
        timeout=timeout,
        deadline=deadline,
        attempts=attempts,
        view=view,
    )
    if not callable(fn):
        raise ConfigurationError(f"batch() takes an async function of one item, not {type(fn).__name__}.")
    clocks = Endpoint()
    call = with_policy(fn, attempts, max_per_minute, timeout, clocks)
    named = getattr(fn, "__qualname__", type(fn).__name__)
    family = identify = None
    if key is not None:
        family = Family(function=f"{getattr(fn, '__module__', '')}.{named}")
        identify = functools.partial(_identify, family, key)
    elif store not in ("auto", None):
        raise ConfigurationError("A function's replies are stored by key=, a function from item to text.")
    work = Work(
        call,
        title=str(name or named.rpartition(".")[2]),
        model=named,
        family=family,
        identify=identify,
        estimate=clocks.estimate,
    )
    return start(
        work,
        parquet.source(items),
        Storing(store, fresh=fresh, dedupe=dedupe, keep=keep, out=file_for(out)),
        max_at_once=max_at_once,
        deadline=deadline,
        view=view,
    )


def _identify(family: Family, key: Callable[[Any], str], item: Any) -> Question:
    text = key(item)
    if not isinstance(text, str):
        raise InvalidItem(f"key= returned {type(text).__name__}, not text, so the answer would not be found again.")
    return family.asks(sendable(text))


def prepare_views() -> None:
    """In a notebook, import what batches are shown with: the first one would begin only after that."""
    for module in pkgutil.resolve_name(NEEDED)() if in_kernel() else ():
        load_now(module)


def start(
    work: Work, source: frames.Source, storing: Storing, *, max_at_once: AtOnce, deadline: float | None, view: View
) -> Batch:
    """Begin a batch: what `batch` and `LlmAgent.map` are doors to.

    Raises
    ------
    ConfigurationError, StoreError
        Nothing was called.
    """
    listen()
    keeper = storing.keeper(work, source)
    ledger = functools.partial(storing.ledger, work, keeper, source)
    keeper.use(ledger(storing.store))
    run = Batch(work, source, keeper, ledger, max_at_once=max_at_once, deadline=deadline)
    keeper.open()
    keeper.wait(OPENING)
    run.resume()
    if callable(view):
        run.show(view)
    elif view is not None:
        run.show(lambda begun: pkgutil.resolve_name(VIEWS)(begun, view))
    return run
