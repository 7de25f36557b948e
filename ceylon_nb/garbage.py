"""Garbage: while a batch runs, Python's collector looks at young objects less often.

A request that waits holds some 80 objects, and there may be a thousand. With the collector's usual threshold each of
them is looked at many times and none is garbage; all of them soon count as old, and then whatever the kernel holds,
pandas and the other libraries first, is gone over as well: a tenth of a second and more in which the notebook stands
still, again and again. Looked at less often, most of them are gone before they are old.

Nothing else is changed: what the collector finds it finds a moment later, as a busy batch makes thousands of objects a
second, and `gc.collect()` finds everything, as always.
"""

from __future__ import annotations

import gc
import itertools
import threading
import weakref
from collections.abc import Callable

YOUNG = 10_000
"""Objects made, less those gone, after which young ones are looked at: the first of `gc.get_threshold()`."""

_usual: tuple[int, int, int] | None = None
"""The thresholds as they were; None while nobody changes them."""
_holders: set[int] = set()
_numbers = itertools.count()
_lock = threading.RLock()  # the collector itself may come by, and let go of an owner, in a thread that holds it


def put_off(owner: object) -> Callable[[], object]:
    """Look less often from now on; returns the function that ends that. It also ends once `owner` is collected.

    A threshold that is higher anyway, or a collector that is switched off, is left as it is.
    """
    global _usual
    holder = next(_numbers)
    with _lock:
        if not _holders:
            usual = gc.get_threshold()
            if 0 < usual[0] < YOUNG:
                gc.set_threshold(YOUNG, *usual[1:])
                _usual = usual
        _holders.add(holder)
    finalizer = weakref.finalize(owner, _end, holder)
    finalizer.atexit = False
    return finalizer


def _end(holder: int) -> None:
    global _usual
    with _lock:
        _holders.discard(holder)
        if _holders or _usual is None:
            return
        usual, _usual = _usual, None
        if gc.get_threshold() == (YOUNG, *usual[1:]):  # nobody else has changed them
            gc.set_threshold(*usual)
