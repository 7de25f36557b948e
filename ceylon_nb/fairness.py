"""Fairness: who is next, of all that wait for the same endpoint.

Single calls go first, in the order in which they came: a person waits for each of them. Batches then share what there
is by start-time fair queueing (P. Goyal, H. M. Vin, H. Cheng, "Start-time Fair Queuing", SIGCOMM 1996): each has a tag,
the lowest goes next, and what is served moves its batch's tag on by what it costs. A batch of a thousand workers and
one of two get the same, whoever came first; who pauses saves nothing up.

What is blocked by one meter does not block those that do not need it; but what needs it, waits behind: a large request
is not overtaken by small ones for ever.
"""

from __future__ import annotations

import heapq
import itertools
import weakref
from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar


class Waiting(Protocol):
    """What waits.

    Attributes
    ----------
    party : object or None
        The batch it belongs to; None is a single call.
    needs : int
        The meters it needs, one bit each; at least one.
    cost : float
        What it takes of the busiest of them; the unit is the same for all.
    """

    party: object | None
    needs: int
    cost: float


W = TypeVar("W", bound=Waiting)


class _Flow(Generic[W]):
    """What waits of one batch, in order.

    Attributes
    ----------
    tag : float
        How much it has had. Of an idle one, what it would begin with.
    order : int
        Which entry of the heap is its own; older ones are stale.
    """

    def __init__(self) -> None:
        self.waiters: OrderedDict[W, None] = OrderedDict()
        self.needs = 0
        self.tag = 0.0
        self.order = -1


class FairQueue(Generic[W]):
    """Those that wait. Costs O(log batches) for each; it knows no clock and no threads.

    Parameters
    ----------
    shared : int
        Meters that all need: what is told apart by them alone takes nothing from one another.
    """

    def __init__(self, shared: int = 0) -> None:
        self._shared = shared
        self._singles: OrderedDict[W, None] = OrderedDict()
        self._flows: weakref.WeakKeyDictionary[object, _Flow[W]] = weakref.WeakKeyDictionary()
        self._heap: list[tuple[float, int, _Flow[W]]] = []
        self._orders = itertools.count()
        self._single_needs: Counter[int] = Counter()
        self._flow_needs: Counter[int] = Counter()
        self._served = 0.0

    def __len__(self) -> int:
        return self._single_needs.total() + self._flow_needs.total()

    def __bool__(self) -> bool:
        """Whether somebody waits; may be asked without a lock."""
        return bool(self._single_needs or self._flow_needs)

    def put(self, waiter: W, *, again: bool = False) -> None:
        """Line up; `again` in front of its own, and without having paid, who was served and could not use it."""
        if waiter.party is None:
            self._single_needs[waiter.needs] += 1
            self._singles[waiter] = None
            if again:
                self._singles.move_to_end(waiter, last=False)
            return
        self._flow_needs[waiter.needs] += 1
        flow = self._flows.get(waiter.party)
        if flow is None:
            flow = self._flows[waiter.party] = _Flow()
        flow.needs = waiter.needs
        if again:
            flow.tag -= waiter.cost
        elif not flow.waiters:
            flow.tag = max(flow.tag, self._beginning(flow.needs))
        flow.waiters[waiter] = None
        if again:
            flow.waiters.move_to_end(waiter, last=False)
        if again or len(flow.waiters) == 1:
            self._enter(flow)

    def discard(self, waiter: W) -> None:
        """Wait no longer; nothing happens if it does not wait."""
        if waiter.party is None:
            queue, needs = self._singles, self._single_needs
        else:
            flow = self._flows.get(waiter.party)
            if flow is None:
                return
            queue, needs = flow.waiters, self._flow_needs
        if waiter in queue:
            del queue[waiter]
            self._leave(needs, waiter)

    def serve(self, offer: Callable[[W], int | None]) -> None:
        """Offer a turn to each, in the order that is fair, for as long as somebody can take one.

        Parameters
        ----------
        offer : callable
            Takes a waiter; returns None if it has had its turn (it waits no longer then), or the meters, of those it
            needs, that have nothing for it now. 0 passes it over for this time.
        """
        blocked = self._serve_singles(offer)
        aside: list[tuple[float, int, _Flow[W]]] = []
        while self._heap and any(not needs & blocked for needs in self._flow_needs):
            tag, order, flow = self._heap[0]
            if order != flow.order or not flow.waiters:
                heapq.heappop(self._heap)
                continue
            waiter = next(iter(flow.waiters))
            said = waiter.needs & blocked or offer(waiter)
            heapq.heappop(self._heap)
            if said is None:
                self._served = max(self._served, tag)
                flow.tag = tag + waiter.cost
                del flow.waiters[waiter]
                self._leave(self._flow_needs, waiter)
                if flow.waiters:
                    self._enter(flow)
            else:
                blocked |= said
                aside.append((tag, order, flow))
        for entry in aside:
            heapq.heappush(self._heap, entry)

    def _serve_singles(self, offer: Callable[[W], int | None]) -> int:
        blocked, served = 0, []
        for waiter in self._singles:
            if waiter.needs & blocked:
                if all(needs & blocked for needs in self._single_needs):
                    break
                continue
            said = offer(waiter)
            if said is None:
                served.append(waiter)
            else:
                blocked |= said
        for waiter in served:
            del self._singles[waiter]
            self._leave(self._single_needs, waiter)
        return blocked

    def _beginning(self, needs: int) -> float:
        """The tag of a batch that comes: as little as those have had that it shares a meter with."""
        self._heap = [entry for entry in self._heap if entry[1] == entry[2].order and entry[2].waiters]
        heapq.heapify(self._heap)
        own = needs & ~self._shared
        return min((tag for tag, _, flow in self._heap if flow.needs & own), default=self._served)

    def _enter(self, flow: _Flow[W]) -> None:
        flow.order = next(self._orders)
        heapq.heappush(self._heap, (flow.tag, flow.order, flow))

    def _leave(self, needs: Counter[int], waiter: W) -> None:
        needs[waiter.needs] -= 1
        if not needs[waiter.needs]:
            del needs[waiter.needs]
