"""What a run costs: CPU, wall, how long the loop stood still, memory."""

import asyncio
import gc
import os
import resource
import time
from pathlib import Path
from typing import Any

BEAT = 0.005
"""Seconds between two beats of the heart that shows how long the loop stood still."""


class Meter:
    """Measures a block on the running loop: ``with Meter() as meter: …`` and then `figures`.

    Attributes
    ----------
    figures : dict
        ``cpu`` and ``wall`` (seconds, of the process), ``loop`` (CPU seconds of the loop's thread), ``freeze`` (seconds
        between two beats, at the most), ``freeze_cpu`` (the most that the loop's thread computed between two: what a
        busy machine adds to ``freeze`` is not in it) and ``memory`` (bytes at the peak, above the start).
    """

    def __init__(self) -> None:
        self.figures: dict[str, Any] = {}

    def __enter__(self) -> "Meter":
        gc.collect()
        forget_peak()
        self._loop = asyncio.get_running_loop()
        self._freeze = self._freeze_cpu = 0.0
        self._memory = resident()
        self._cpu, self._thread, self._wall = cpu(), time.thread_time(), time.perf_counter()
        self._last, self._last_thread = self._wall, self._thread
        self._timer = self._loop.call_later(BEAT, self._beat)
        return self

    def _beat(self) -> None:
        now, thread = time.perf_counter(), time.thread_time()
        self._freeze = max(self._freeze, now - self._last)
        self._freeze_cpu = max(self._freeze_cpu, thread - self._last_thread)
        self._last, self._last_thread = now, thread
        self._timer = self._loop.call_later(BEAT, self._beat)

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        self._beat()
        self._timer.cancel()
        self.figures = {
            "cpu": cpu() - self._cpu,
            "loop": time.thread_time() - self._thread,
            "wall": time.perf_counter() - self._wall,
            "freeze": self._freeze,
            "freeze_cpu": self._freeze_cpu,
            "memory": peak() - self._memory,
        }


def cpu() -> float:
    """CPU seconds of this process, all threads."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def resident() -> int:
    """Bytes of memory that this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def forget_peak() -> None:
    """Begin a new peak. (`ru_maxrss` is no help: a process inherits it from whoever started it.)"""
    Path("/proc/self/clear_refs").write_text("5")


def peak() -> int:
    """Bytes of memory at the peak."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024
