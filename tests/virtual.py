"""A loop whose clock jumps, for tests of limits: hours pass in a moment, and always in the same order."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from ceylon_nb.limits import Endpoint

T = TypeVar("T")

START = 1_000_000.0
"""As large as a clock that has run for days, for the sake of rounding."""


class VirtualLoop(asyncio.SelectorEventLoop):
    """A loop whose clock jumps to the next timer instead of waiting for it."""

    now = START

    def time(self) -> float:
        return self.now

    def _run_once(self) -> None:
        timers = [handle.when() for handle in self._scheduled if not handle.cancelled()]
        if timers and not self._ready:
            self.now = max(self.now, min(timers))
        super()._run_once()

    def stall(self, seconds: float) -> None:
        """What a cell does that computes for so long."""
        self.now += seconds

    def timers(self) -> int:
        """How many are set."""
        return sum(not handle.cancelled() for handle in self._scheduled)


def virtually(main: Callable[[VirtualLoop, Endpoint], Coroutine[Any, Any, T]]) -> T:
    """Run it with the limits of an endpoint that goes by the loop's clock."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        loop = runner.get_loop()
        return runner.run(main(loop, Endpoint(now=loop.time)))
