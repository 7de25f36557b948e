"""The notebook's loop: sync calls, calls from other threads, and the interrupt that must be noticed.

* A notebook has one loop on the main thread, and it is already running. Nothing here starts another on it.
* Sync calls (`run_sync`) and batches begun where no loop runs use one background thread with a loop of its own.
* SIGINT does not wake an idle loop (ipykernel #881): while anything of ours is in flight, `awake` ticks at 10 Hz.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import functools
import importlib
import os
import threading
import time
import weakref
from collections.abc import Callable, Collection, Coroutine
from concurrent.futures import Future
from types import ModuleType
from typing import Any, TypeVar

from .errors import WrongLoop
from .kernel import ignore_repeats, interruptibly

T = TypeVar("T")

TICK = 0.1
"""Seconds between two wake-ups of a loop that has something of ours in flight."""

FAREWELL = 2.0
"""Seconds that cancelled work is waited for."""


def running() -> asyncio.AbstractEventLoop | None:
    """The loop that runs in this thread, or None."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def call_in(loop: asyncio.AbstractEventLoop, function: Callable[..., object], *args: object) -> None:
    """Call `function` on `loop`: at once when this thread runs it, else as soon as it comes round.

    A closed loop is left alone: whatever ran on it has ended with it.
    """
    if running() is loop:
        function(*args)
        return
    with contextlib.suppress(RuntimeError):  # closed in between
        loop.call_soon_threadsafe(function, *args)


# -- awake -----------------------------------------------------------------------------------------------------------

_tickers: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Ticker] = weakref.WeakKeyDictionary()


class _Ticker:
    """Wakes one loop at 10 Hz while its count is above zero. A loop that is closed meanwhile is not kept.

    One for all who hold it: what each request adds to what is alive, the garbage collector goes over again and again.
    """

    def __init__(self) -> None:
        self.count = 0
        self._timer: Callable[[], asyncio.TimerHandle | None] = lambda: None

    def hold(self, loop: asyncio.AbstractEventLoop) -> None:
        self.count += 1
        if self.count == 1:
            self._tick(loop)

    def let_go(self) -> None:
        self.count -= 1
        timer = self._timer()
        if not self.count and timer is not None:
            timer.cancel()

    def __enter__(self) -> None:
        self.hold(asyncio.get_running_loop())

    def __exit__(self, *_: object) -> None:
        self.let_go()

    def _tick(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = weakref.ref(loop.call_later(TICK, self._tick, loop))


def _ticker(loop: asyncio.AbstractEventLoop) -> _Ticker:
    ticker = _tickers.get(loop)
    if ticker is None:
        ticker = _tickers[loop] = _Ticker()
    return ticker


def hold_awake(loop: asyncio.AbstractEventLoop) -> Callable[[], None]:
    """Keep `loop` waking at 10 Hz; call on its thread. Returns the function that lets go."""
    ticker = _ticker(loop)
    ticker.hold(loop)
    return ticker.let_go


def awake() -> contextlib.AbstractContextManager[None]:
    """Keep the running loop waking, so that an interrupt is noticed within 0.1 s."""
    return _ticker(asyncio.get_running_loop())


# -- ending ----------------------------------------------------------------------------------------------------------


async def end(futures: Collection[asyncio.Future[Any]]) -> None:
    """Cancel each that is not done, wait FAREWELL seconds at most, and retrieve what they raised.

    Each is cancelled once: a second `cancel` would leak its connection.
    """
    unfinished = [future for future in futures if not future.done()]
    for future in unfinished:
        cancel_once(future)
    for future in futures:
        future.add_done_callback(retrieve)
    if unfinished:
        await asyncio.wait(unfinished, timeout=FAREWELL)


def cancel_once(future: asyncio.Future[Any]) -> None:
    """Cancel it, unless it is done or somebody has cancelled it already."""
    if not (isinstance(future, asyncio.Task) and future.cancelling()):
        future.cancel()


def retrieve(future: asyncio.Future[Any]) -> None:
    """Look at what it raised, so that nothing is said about it when it is collected."""
    if not future.cancelled():
        future.exception()


_errands: set[asyncio.Task[Any]] = set()
"""Tasks that nobody waits for: a loop itself does not hold them."""


def run_errand(coroutine: Coroutine[Any, Any, Any]) -> None:
    """Run something short on the running loop, for nobody to wait for."""
    task = asyncio.get_running_loop().create_task(coroutine)
    _errands.add(task)
    task.add_done_callback(_errands.discard)
    task.add_done_callback(retrieve)


# -- the background loop ---------------------------------------------------------------------------------------------

_lock = threading.Lock()
_ending: weakref.WeakSet[asyncio.AbstractEventLoop] = weakref.WeakSet()
_thread: threading.Thread | None = None
_background: asyncio.AbstractEventLoop | None = None


def background() -> asyncio.AbstractEventLoop:
    """The library's own loop, in its own daemon thread, begun when first asked for."""
    with _lock:
        return _begun()


def _begun() -> asyncio.AbstractEventLoop:
    """The background loop; call with the lock held."""
    global _thread, _background
    if _background is None:
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=_serve, args=(loop,), name="ceylon-nb-loop", daemon=True)
        thread.start()
        _thread, _background = thread, loop
    return _background


def _submit(function: Callable[[], object]) -> None:
    """Call `function` on the background loop: surely, even if the loop is stopped right after."""
    with _lock:
        _begun().call_soon_threadsafe(function)


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    global _thread, _background
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
    finally:
        with _lock:  # from here on nothing is submitted to it; what was submitted before is called before the farewell
            if _background is loop:
                _thread = _background = None
        loop.run_until_complete(_farewell())
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


async def _farewell() -> None:
    await end([task for task in asyncio.all_tasks() if task is not asyncio.current_task()])


def ending(loop: asyncio.AbstractEventLoop) -> bool:
    """Whether this is a background loop that was told to stop: what ends on it then ends in order."""
    return loop in _ending


@atexit.register
def stop_background() -> None:
    """End the background loop and what runs on it, within two seconds; a later call begins a new one."""
    global _thread, _background
    with _lock:
        loop, thread, _background, _thread = _background, _thread, None, None
    if loop is not None and thread is not None:
        _ending.add(loop)
        call_in(loop, loop.stop)
        thread.join(FAREWELL + 1)


def _forget_after_fork() -> None:
    global _thread, _background, _lock
    _lock, _thread, _background = threading.Lock(), None, None
    _imports.clear()
    _importing.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_after_fork)


def acquire(lock: threading.Lock, timeout: float | None = None) -> bool:
    """Wait for a lock, at most so many seconds, and notice an interrupt; whether it was acquired.

    In slices: a signal that comes in the moment before a thread begins to wait does not end the wait.
    """
    ends = None if timeout is None else clock() + timeout
    while not lock.acquire(timeout=TICK if ends is None else min(TICK, max(ends - clock(), 0.0))):
        if ends is not None and clock() >= ends:
            return False
    return True


def run_sync(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on the background loop and wait for it; also inside a cell, where a loop already runs.

    An interrupt (■, Ctrl-C) cancels the coroutine and waits a bounded time for its end.

    Raises
    ------
    WrongLoop
        Called on the background loop itself, which would wait for itself.
    """
    loop = running()
    if loop is not None and loop is _background:
        coroutine.close()
        raise WrongLoop("A sync call inside work that runs on the library's own loop would wait for itself: await it.")
    task: asyncio.Task[T] | None = None
    ended = threading.Lock()  # not a Future: an interrupt inside one may leave it locked for good
    ended.acquire()

    def start() -> None:
        nonlocal task
        task = asyncio.get_running_loop().create_task(coroutine)  # in the context of whoever submitted it
        task.add_done_callback(finish)

    def finish(done: asyncio.Task[T]) -> None:
        retrieve(done)
        ended.release()

    def stop() -> None:
        if task is not None:
            cancel_once(task)
        else:  # interrupted before it was submitted
            coroutine.close()
            ended.release()

    def begin_and_wait() -> None:
        _submit(start)
        acquire(ended)

    try:
        begin_and_wait() if loop is None else interruptibly(begin_and_wait)
    except BaseException:  # interrupted: stop the request too, and see it stopped
        ignore_repeats()
        if task is None or not task.done():
            _submit(stop)
            acquire(ended, FAREWELL)
        raise
    assert task is not None
    return task.result()


# -- imports ---------------------------------------------------------------------------------------------------------

_imports: dict[str, Future[ModuleType]] = {}
_importing: set[threading.Thread] = set()


async def load(name: str) -> Any:
    """Import a module in a thread, so that the loop goes on: the HTTP libraries take 0.2 s, pandas 0.6 s."""
    found = _imported(name)
    return found.result() if found.done() else await asyncio.wrap_future(found)


def load_now(name: str) -> Any:
    """The same, and wait for it. An interrupt ends the waiting and not the import, which would leave half a module."""
    found = _imported(name)
    if not found.done():
        ended = threading.Lock()
        ended.acquire()
        found.add_done_callback(lambda _: ended.release())
        wait = functools.partial(acquire, ended)
        try:
            wait() if running() is None else interruptibly(wait)
        except BaseException:
            ignore_repeats()
            raise
    return found.result()


def load_soon(name: str) -> None:
    """Begin to import a module, and wait for nothing."""
    _imported(name)


def _imported(name: str) -> Future[ModuleType]:
    """The import of a module, begun if it is the first, or the last one failed.

    Its thread is no daemon: Python waits for it at its end, which may come right after an agent was built, as it would
    otherwise stop in the midst of it, with a lock that others need to end.
    """
    with _lock:
        found = _imports.get(name)
        if found is None or (found.done() and found.exception()):
            found = _imports[name] = Future()
            found.set_running_or_notify_cancel()  # so that whoever waits for it cannot cancel it
            thread = threading.Thread(target=_import, args=(name, found), name=f"import {name}", daemon=False)
            _importing.add(thread)
            thread.start()
    return found


def _import(name: str, found: Future[ModuleType]) -> None:
    try:
        found.set_result(importlib.import_module(name))
    except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever a module raises is for whoever wants it
        found.set_exception(error)
    finally:
        _importing.discard(threading.current_thread())


def _end_imports() -> None:
    """Wait for imports before a fork: the child would have their locks, and nobody to release them."""
    for thread in list(_importing):
        if thread is not threading.current_thread() and thread.ident is not None:
            thread.join(FAREWELL)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_end_imports)


def clock() -> float:
    """Seconds on the one clock that all loops and threads share."""
    return time.monotonic()
