"""What a kernel holds on to: its open files and its threads, by their kinds; and whether they become more."""

from __future__ import annotations

import sys
from collections import Counter

from .kernel import Kernel

WARM_UP = """
frame = await agent.map(prompts(5))
print(agent.send_message_sync("warm up"))
await asyncio.gather(*(asyncio.to_thread(time.sleep, 0.05) for _ in range(32)))
"""
"""Opens what is opened once and may stay: by imports, by the first output, and the threads of the loop's executor."""

LET_GO = """
import gc, os, threading
async with agent: pass
ceylon_nb.loop.stop_background()
gc.collect()
def held():
    for number in os.listdir("/proc/self/fd"):
        try:
            yield os.readlink(f"/proc/self/fd/{number}")
        except FileNotFoundError:  # closed meanwhile
            pass
    yield from (thread.name for thread in threading.enumerate())
"""
"""Ends what our work leaves open for the next, idle connections and the loop of sync calls; and names what is left."""


def held(kernel: Kernel) -> Counter[str]:
    """How many it holds of each kind, once our work has let go; of a kernel with an `agent`, on Linux."""
    if sys.platform != "linux":
        return Counter()
    assert kernel.run(LET_GO).status == "ok"
    return Counter("".join(letter for letter in name if not letter.isdigit()) for name in kernel.value("[*held()]"))


def grown(kernel: Kernel, before: Counter[str]) -> Counter[str]:
    """What it holds more of than before; sockets and threads get a moment to end."""
    for _ in range(50):
        more = held(kernel) - before
        if not more:
            break
        kernel.listen(0.1)
    return more
