"""Properties of a mesh, over random stories: nothing is lost, doubled or out of order, and nothing waits for ever."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextvars import Context as Variables
from contextvars import copy_context
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ceylon_nb import Agent, LocalMesh
from ceylon_nb.errors import CircularQuery, MeshError, MeshStopped, NoSuchAgent, QueryTimeout

from .test_policy import VirtualLoop

BOUND = 100.0
"""Seconds, on a clock that jumps: whatever has not ended by then hangs."""

REAL_BOUND = 30.0
"""Seconds, where threads take part."""


async def settle() -> None:
    """Let what is ready happen, and what follows from it."""
    for _ in range(10):
        await asyncio.sleep(0)


class Refused(Exception):
    """What a handler raises when it is told to."""


# -- stories of two senders and two desks ----------------------------------------------------------------------------


@dataclass(eq=False)
class Sent:
    """A message of a story, and what was seen of it.

    Attributes
    ----------
    began, finished, broke_off : int
        How often a handler began with it, answered or refused, and was cancelled.
    desk : Desk or None
        Whom it was for; None where nobody of that name was there.
    accepted : int or None
        The moment of the story when the send returned.
    called_off : bool
        The story cancelled whoever sent it.
    """

    number: int
    sender: int
    way: str
    desk: Desk | None
    timeout: float | None
    gate: Future[None] = field(default_factory=Future)
    began: int = 0
    finished: int = 0
    broke_off: int = 0
    accepted: int | None = None
    called_off: bool = False
    task: asyncio.Task[Any] | None = None

    def __repr__(self) -> str:
        return f"{self.way} {self.number} from {self.sender}"


class Clerk(Agent):
    """Is at one message for the whole story; what is done in its variables is done by it."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.variables: Variables | None = None
        self.over = asyncio.Event()

    async def on_message(self, message: object, context: Any = None) -> None:
        self.variables = copy_context()
        await self.over.wait()


class Desk(Agent):
    """Handles each message until its gate is opened, and keeps their order.

    Attributes
    ----------
    removed : int or None
        The moment of the story when it was taken out of the mesh.
    """

    def __init__(self, name: str, story: Story, max_at_once: int, mailbox: int) -> None:
        super().__init__(name)
        self.story = story
        self.max_at_once = max_at_once
        self.mailbox = mailbox
        self.begun: list[Sent] = []
        self.at_work: list[Sent] = []
        self.most = 0
        self.removed: int | None = None

    @contextlib.contextmanager
    def handling(self, sent: Sent) -> Iterator[None]:
        with self.story.lock:
            sent.began += 1
            self.begun.append(sent)
            self.at_work.append(sent)
            self.most = max(self.most, len(self.at_work))
            if self.story.hurries:
                sent.gate.set_result(None)
        try:
            yield
        except asyncio.CancelledError:
            sent.broke_off += 1
            task = asyncio.current_task()
            assert task is not None
            assert task.cancelling() == 1
            raise
        except Refused:
            sent.finished += 1
            raise
        else:
            sent.finished += 1
        finally:
            with self.story.lock:
                self.at_work.remove(sent)


class AsyncDesk(Desk):
    async def on_message(self, message: Sent, context: Any = None) -> Sent:
        with self.handling(message):
            await asyncio.wrap_future(message.gate)
            return message


class SyncDesk(Desk):
    def on_message(self, message: Sent, context: Any = None) -> Sent:
        with self.handling(message):
            message.gate.result(REAL_BOUND)
            return message


class Story:
    """Random things that happen to a mesh: two clerks and you send messages to two desks.

    Attributes
    ----------
    second : float
        How long it takes.
    now : int
        Moves that were made.
    stops : list of int
        When the mesh was stopped.
    """

    def __init__(self, desk: type[Desk], max_at_once: int, mailbox: int, second: float) -> None:
        self.kind, self.max_at_once, self.size, self.second = desk, max_at_once, mailbox, second
        self.lock = threading.Lock()
        self.hurries = False
        self.now = 0
        self.stops: list[int] = []
        self.mesh = LocalMesh()
        self.sent: list[Sent] = []
        self.desks: list[Desk] = []
        self.there: dict[str, Desk] = {}
        self.clerks = [Clerk("clerk 0"), Clerk("clerk 1")]

    async def play(self, moves: list[tuple[Any, ...]], ending: str) -> None:
        for clerk in self.clerks:
            self.mesh.add_agent(clerk)
            await self.mesh.send_to(clerk.name(), "be there")
        await settle()
        self.add(0)
        self.add(1)
        for name, *arguments in moves:
            self.now += 1
            happened = getattr(self, name)(*arguments)
            if happened is not None:
                await happened
        self.now += 1
        await getattr(self, ending)()
        await self.ended()
        await asyncio.wait_for(self.mesh.drain(), self.bound)
        self.check()

    @property
    def bound(self) -> float:
        return BOUND if self.second == 1 else REAL_BOUND

    # -- moves --

    def send(self, sender: int, target: int, way: str) -> None:
        name = f"desk {target}"
        timeout = 2 * self.second if way == "hasty query" else None
        sent = Sent(len(self.sent), sender, way, self.there.get(name), timeout)
        self.sent.append(sent)
        variables = self.clerks[sender].variables if sender < len(self.clerks) else None
        sent.task = asyncio.get_running_loop().create_task(self.sending(sent, name), context=variables)

    async def sending(self, sent: Sent, name: str) -> Any:
        if sent.desk is None or sent.desk.removed is not None:
            sent.desk = self.there.get(name)  # who is there at the moment when it is sent
        if sent.way == "message":
            await self.mesh.send_to(name, sent)
            sent.accepted = self.now
            return None
        if sent.way == "submit":
            request = await self.mesh.submit(name, sent)
            sent.accepted = self.now
            return await self.mesh.wait_for(request, None)
        return await self.mesh.query(name, sent, sent.timeout)

    def call_off(self, which: int) -> None:
        sending = [sent for sent in self.sent if sent.task is not None and not sent.task.done()]
        if sending:
            sent = sending[which % len(sending)]
            if not sent.called_off:
                sent.called_off = True
                assert sent.task is not None
                sent.task.cancel()

    def answer(self, which: int) -> None:
        self.open(which, lambda gate: gate.set_result(None))

    def refuse(self, which: int) -> None:
        self.open(which, lambda gate: gate.set_exception(Refused()))

    def open(self, which: int, how: Callable[[Future[None]], None]) -> None:
        with self.lock:
            shut = [sent for desk in self.desks for sent in desk.at_work if not sent.gate.done()]
            if shut:
                how(shut[which % len(shut)].gate)

    async def settle(self) -> None:
        await settle()
        if self.kind is AsyncDesk:
            self.check_limits()

    async def wait(self, seconds: float) -> None:
        await asyncio.sleep(seconds * self.second)

    def add(self, target: int) -> None:
        name = f"desk {target}"
        if name not in self.there:
            desk = self.there[name] = self.kind(name, self, self.max_at_once, self.size)
            self.desks.append(desk)
            self.mesh.add_agent(desk, max_at_once=self.max_at_once, mailbox=self.size)

    def remove(self, target: int) -> None:
        desk = self.there.pop(f"desk {target}", None)
        if desk is not None:
            desk.removed = self.now
            assert self.mesh.remove(desk.name()) is desk

    def stop(self) -> None:
        self.stops.append(self.now)
        self.mesh.stop()

    def start(self) -> None:
        self.mesh.start()

    # -- endings --

    async def rest(self) -> None:
        """All of it is handled."""
        self.hurry()

    async def end(self) -> None:
        """The mesh is stopped in the middle; whose handlers block comes to an end by and by."""
        self.stops.append(self.now)
        stopping = asyncio.ensure_future(self.mesh.stop())
        await settle()
        self.hurry()
        await asyncio.wait_for(stopping, self.bound)
        assert not any(desk.at_work for desk in self.desks)

    def hurry(self) -> None:
        with self.lock:
            self.hurries = True
            for sent in self.sent:
                if not sent.gate.done() and sent.began:
                    sent.gate.set_result(None)
        for clerk in self.clerks:
            clerk.over.set()

    async def ended(self) -> None:
        tasks = [sent.task for sent in self.sent if sent.task is not None]
        if tasks:
            _, hanging = await asyncio.wait(tasks, timeout=self.bound)
            assert not hanging, hanging

    # -- what has to be true --

    def check_limits(self) -> None:
        stats = self.mesh.stats()
        assert stats.sent == stats.answered + stats.failed + stats.cancelled + stats.waiting + stats.at_work
        for desk in self.there.values():
            mine = [sent for sent in self.sent if sent.desk is desk]
            assert sum(sent.accepted is not None and not sent.began for sent in mine) <= desk.mailbox
            for sent in desk.at_work:  # nobody works for an answer that nobody waits for
                assert "query" not in sent.way or (sent.task is not None and not sent.task.done())
            assert stats.agents[desk.name()].at_work == len(desk.at_work) <= desk.max_at_once

    def check(self) -> None:
        for sent in self.sent:
            self.check_fate(sent)
        for desk in self.desks:
            assert desk.most <= desk.max_at_once
            if self.kind is AsyncDesk or desk.max_at_once == 1:  # threads that begin together come as they like
                for sender in range(3):
                    numbers = [sent.number for sent in desk.begun if sent.sender == sender]
                    assert numbers == sorted(numbers)
        stats = self.mesh.stats()
        assert (stats.waiting, stats.at_work) == (0, 0)
        assert stats.sent == stats.answered + stats.failed + stats.cancelled == len(self.mesh.passages)
        for name, desk in self.there.items():
            mine, own = [sent for sent in desk.begun if sent.finished], stats.agents[name]
            assert own.handled + own.failed <= len(mine) <= own.received
            assert own.received == own.handled + own.failed + own.cancelled
        assert asyncio.all_tasks() == {asyncio.current_task()}

    def check_fate(self, sent: Sent) -> None:
        assert sent.task is not None
        assert sent.began == sent.finished + sent.broke_off <= 1
        gone = self.stops or (sent.desk is not None and sent.desk.removed is not None)
        if sent.task.cancelled():
            assert sent.called_off
        elif (error := sent.task.exception()) is None:
            if sent.way != "message":
                assert sent.task.result() is sent
                assert sent.finished == 1
            else:
                assert sent.began == 1 or gone
        else:
            self.check_error(sent, error)
        if sent.accepted is not None and not sent.began:
            went = [*self.stops, *([sent.desk.removed] if sent.desk and sent.desk.removed is not None else [])]
            assert max(went) >= sent.accepted
        if sent.broke_off:  # a handler that began is let be, whatever becomes of its agent
            assert self.stops or "query" in sent.way
            assert self.stops or sent.called_off or sent.timeout is not None

    def check_error(self, sent: Sent, error: BaseException) -> None:
        if isinstance(error, Refused):
            assert sent.finished == 1
        elif isinstance(error, QueryTimeout):
            assert sent.timeout is not None
        elif isinstance(error, NoSuchAgent):
            assert not sent.began
            assert sent.desk is None or sent.desk.removed is not None
        else:
            assert isinstance(error, MeshStopped), error
            assert self.stops


WAYS = ("message", "query", "hasty query", "submit")

SENDING = st.tuples(st.just("send"), st.integers(0, 2), st.integers(0, 1), st.sampled_from(WAYS))
CALLING_OFF = st.tuples(st.just("call_off"), st.integers(0, 20))
ANSWERING = st.tuples(st.sampled_from(["answer", "answer", "answer", "refuse"]), st.integers(0, 20))
SETTLING = st.tuples(st.just("settle"))
WAITING = st.tuples(st.just("wait"), st.sampled_from([0.5, 1.0, 2.5]))
AGENTS = st.tuples(st.sampled_from(["remove", "add", "add"]), st.integers(0, 1))
LIFE = st.tuples(st.sampled_from(["stop", "start", "start"]))

QUIET = st.one_of(SETTLING, SENDING, SENDING, SENDING, CALLING_OFF, ANSWERING, ANSWERING, WAITING)
LOUD = st.one_of(QUIET, QUIET, QUIET, AGENTS, LIFE)
STORIES = st.one_of(st.lists(moves, min_size=25, max_size=80) for moves in (QUIET, LOUD))


def told(story: Callable[[], Story], moves: list[tuple[Any, ...]], ending: str, loop: Any) -> None:
    complaints: list[dict[str, Any]] = []

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        await story().play(moves, ending)
        await settle()

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(main())
    assert complaints == []


@settings(deadline=None, max_examples=300)
@given(
    moves=STORIES,
    max_at_once=st.integers(1, 3),
    mailbox=st.integers(1, 3),
    ending=st.sampled_from(["rest", "rest", "end"]),
)
def test_whatever_happens_a_message_is_handled_once_and_in_order(moves, max_at_once, mailbox, ending):
    told(lambda: Story(AsyncDesk, max_at_once, mailbox, 1.0), moves, ending, VirtualLoop)


@settings(deadline=None, max_examples=60)
@given(
    moves=STORIES,
    max_at_once=st.integers(1, 3),
    mailbox=st.integers(1, 3),
    ending=st.sampled_from(["rest", "rest", "end"]),
)
def test_handlers_that_block_do_so_too(moves, max_at_once, mailbox, ending):
    told(lambda: Story(SyncDesk, max_at_once, mailbox, 0.002), moves, ending, None)


# -- circles: whoever waits for whom ---------------------------------------------------------------------------------


@dataclass(eq=False)
class Errand:
    """A message that says what its handler is to ask of others: rounds, one after the other, each all at once.

    Attributes
    ----------
    waits : list of Errand
        What its handler waits for now.
    """

    target: str
    rounds: Any
    way: str = "query"
    begun: bool = False
    ended: bool = False
    refused: bool = False
    waits: list[Errand] = field(default_factory=list)


class Runner(Agent):
    """Does as an errand says; keeps who waits for it and what it is at."""

    def __init__(self, name: str, office: Office, max_at_once: int, mailbox: int) -> None:
        super().__init__(name)
        self.office = office
        self.max_at_once = max_at_once
        self.mailbox = mailbox
        self.at_work: list[Errand] = []
        self.queue: list[Errand] = []

    async def on_message(self, message: Errand, context: Any = None) -> Errand:
        assert not message.begun
        message.begun = True
        self.queue.remove(message)
        self.at_work.append(message)
        assert len(self.at_work) <= self.max_at_once
        for together in message.rounds:
            await asyncio.gather(*(self.office.send(each, message, context) for each in together))
        self.at_work.remove(message)
        message.ended = True
        return message


class Office:
    """A mesh of runners, and a plain account of who could ever go on: what it refuses has to be hopeless."""

    def __init__(self, runners: list[tuple[int, int]]) -> None:
        self.mesh = LocalMesh()
        self.errands: list[Errand] = []
        self.runners: dict[str, Runner] = {}
        for number, (max_at_once, mailbox) in enumerate(runners):
            runner = Runner(f"runner {number}", self, max_at_once, mailbox)
            self.runners[runner.name()] = runner
            self.mesh.add_agent(runner, max_at_once=max_at_once, mailbox=mailbox)

    async def send(self, each: tuple[Any, ...], asker: Errand | None = None, context: Any = None) -> None:
        way, number, rounds, ticks = each
        for _ in range(ticks):
            await asyncio.sleep(0)
        errand = Errand(f"runner {number % len(self.runners)}", rounds, way)
        self.errands.append(errand)
        self.runners[errand.target].queue.append(errand)
        if asker is not None:
            asker.waits.append(errand)
        ask = context or self.mesh
        try:
            if way == "query":
                assert await ask.query(errand.target, errand, timeout=None) is errand
            else:
                await ask.send_to(errand.target, errand)
        except CircularQuery:
            errand.refused = True
            assert not errand.begun
            assert asker is not None
            assert not self.can_end(errand), "what was refused would have gone on"
            self.runners[errand.target].queue.remove(errand)
        finally:
            if asker is not None:
                asker.waits.remove(errand)

    def can_end(self, wanted: Errand) -> bool:
        """Whether a wait could ever end, if whoever need not wait any more gets done and asks nothing further."""
        going_on: set[Errand] = set()

        def is_over(errand: Errand) -> bool:
            runner = self.runners[errand.target]
            if errand.ended or errand in going_on:
                return True
            moves = len(runner.at_work) < runner.max_at_once or any(each in going_on for each in runner.at_work)
            if errand.way == "query":
                return not errand.begun and moves
            free = runner.max_at_once - len(runner.at_work)
            return errand.begun or moves or runner.queue.index(errand) < free + runner.mailbox

        at_work = [errand for runner in self.runners.values() for errand in runner.at_work]
        for _ in at_work:
            going_on |= {errand for errand in at_work if all(map(is_over, errand.waits))}
        return is_over(wanted)

    async def work(self, errands: list[tuple[Any, ...]]) -> None:
        sending = [asyncio.ensure_future(self.send(each)) for each in errands]
        _, hanging = await asyncio.wait(sending, timeout=BOUND)
        assert not hanging, f"hangs: {[errand for errand in self.errands if not errand.ended]}"
        for task in sending:
            task.result()
        await asyncio.wait_for(self.mesh.drain(), BOUND)
        for errand in self.errands:
            assert errand.ended is not errand.refused
        stats = self.mesh.stats()
        refused = sum(errand.refused for errand in self.errands)
        assert stats.sent == stats.answered == len(self.errands) - refused
        assert (stats.waiting, stats.at_work) == (0, 0)


def errands(rounds: st.SearchStrategy[Any], ways: tuple[str, ...]) -> st.SearchStrategy[Any]:
    return st.tuples(st.sampled_from(ways), st.integers(0, 4), rounds, st.integers(0, 3))


def rounds(ways: tuple[str, ...]) -> st.SearchStrategy[Any]:
    return st.recursive(
        st.just(()),
        lambda inner: st.lists(st.lists(errands(inner, ways), min_size=1, max_size=3), min_size=1, max_size=3),
        max_leaves=8,
    )


RUNNERS = st.lists(st.tuples(st.integers(1, 2), st.integers(1, 2)), min_size=1, max_size=4)


@pytest.mark.parametrize("ways", [("query",), ("query", "query", "message")], ids=["queries", "and messages"])
def test_nobody_waits_for_ever_and_only_who_would_is_refused(ways):
    @settings(deadline=None, max_examples=400)
    @given(runners=RUNNERS, work=st.lists(errands(rounds(ways), ways), min_size=1, max_size=6))
    def check(runners, work):
        async def main() -> None:
            await Office(runners).work(work)

        with asyncio.Runner(loop_factory=VirtualLoop) as runner:
            runner.run(main())

    check()


class BlockingRunner(Agent):
    """Does as an errand says, in a thread, one after the other."""

    def __init__(self, name: str, names: list[str]) -> None:
        super().__init__(name)
        self.names = names

    def on_message(self, message: Any, context: Any = None) -> int:
        """How many errands came of this one; those that were refused did not."""
        came = 1
        for _, number, rounds, _ in itertools.chain.from_iterable(message):
            with contextlib.suppress(CircularQuery):
                came += context.query_sync(self.names[number % len(self.names)], rounds, timeout=None)
        return came


@settings(deadline=None, max_examples=40)
@given(runners=RUNNERS, work=st.lists(errands(rounds(("query",)), ("query",)), min_size=1, max_size=6))
def test_handlers_that_block_do_not_wait_for_ever_either(runners, work):
    async def main() -> None:
        mesh = LocalMesh()
        names = [f"runner {number}" for number in range(len(runners))]
        for name, (max_at_once, mailbox) in zip(names, runners, strict=True):
            mesh.add_agent(BlockingRunner(name, names), max_at_once=max_at_once, mailbox=mailbox)
        asked = (mesh.query(names[number % len(names)], rounds, timeout=None) for _, number, rounds, _ in work)
        came = await asyncio.wait_for(asyncio.gather(*asked), REAL_BOUND)
        assert sum(came) == mesh.stats().answered == mesh.stats().sent

    asyncio.run(main())


def test_two_handlers_of_one_agent_that_both_ask_it_are_not_left_waiting():
    """Each takes one of its two places, and waits for a place."""
    both = [("query", 0, [[("query", 0, (), 2)]], 0)] * 2

    async def main() -> Office:
        office = Office([(2, 2)])
        await office.work(both)
        return office

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        office = runner.run(main())
    assert [errand.refused for errand in office.errands].count(True) == 1


def test_who_has_just_been_given_room_waits_no_more():
    """The next handler begins before whoever waited for its place has gone on, and may ask that one."""

    class Full(Agent):
        go_on = asyncio.Event()

        async def on_message(self, message: str, context: Any = None) -> Any:
            if message == "hold":
                await self.go_on.wait()
            return await context.query("sender", "ask", timeout=None) if message == "ask" else message

    class Sender(Agent):
        async def on_message(self, message: str, context: Any = None) -> str:
            if message == "send":
                await context.send_to("full", "sent")
            return message

    async def main() -> None:
        mesh = LocalMesh()
        mesh.add_agent(Full(), mailbox=1)
        mesh.add_agent(Sender())
        asked = [("full", "hold"), ("full", "ask"), ("sender", "send")]
        asking = [asyncio.ensure_future(mesh.query(name, said, timeout=None)) for name, said in asked]
        await settle()
        Full.go_on.set()
        answers = await asyncio.wait_for(asyncio.gather(*asking), REAL_BOUND)
        assert answers == ["hold", "ask", "send"]
        await mesh.drain()

    asyncio.run(main())


# -- threads and loops -----------------------------------------------------------------------------------------------


class Told(Agent):
    """Handles numbers from several threads; counts them, in the order in which they came."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.heard: list[tuple[int, int]] = []

    def hear(self, message: tuple[int, int]) -> tuple[int, int]:
        self.heard.append(message)
        return message


class Clear(Told):
    async def on_message(self, message: tuple[int, int], context: Any = None) -> tuple[int, int]:
        await asyncio.sleep(0)
        return self.hear(message)


class Blocking(Told):
    def on_message(self, message: tuple[int, int], context: Any = None) -> tuple[int, int]:
        return self.hear(message)


class Asking(Told):
    """Asks both of the others."""

    async def on_message(self, message: tuple[int, int], context: Any = None) -> tuple[int, int]:
        answers = await asyncio.gather(*(context.query(name, message, timeout=None) for name in ("clear", "blocking")))
        assert answers == [message, message]
        return self.hear(message)


class BlockingAsking(Told):
    """Asks another that asks."""

    def on_message(self, message: tuple[int, int], context: Any = None) -> tuple[int, int]:
        assert context.query_sync("asking", message, timeout=None) == message
        return self.hear(message)


TOLD = (Clear, Blocking, Asking, BlockingAsking)
ASKED_BY = {"clear": ("asking",), "blocking": ("asking",), "asking": ("blockingasking",), "blockingasking": ()}


async def on_a_loop(mesh: LocalMesh, calls: list[tuple[int, str]], thread: int, outcomes: list[Any]) -> None:
    asked = [mesh.query(name, (thread, number), timeout=None) for number, name in calls]
    outcomes += await asyncio.gather(*asked, return_exceptions=True)


def in_turn(mesh: LocalMesh, calls: list[tuple[int, str]], thread: int, outcomes: list[Any]) -> None:
    for number, name in calls:
        try:
            outcomes.append(mesh.query_sync(name, (thread, number), timeout=None))
        except Exception as error:  # noqa: BLE001 - looked at by the test
            outcomes.append(error)


def on_loops_in_turn(mesh: LocalMesh, calls: list[tuple[int, str]], thread: int, outcomes: list[Any]) -> None:
    for call in calls:
        asyncio.run(on_a_loop(mesh, [call], thread, outcomes))


def on_one_loop(mesh: LocalMesh, calls: list[tuple[int, str]], thread: int, outcomes: list[Any]) -> None:
    asyncio.run(on_a_loop(mesh, calls, thread, outcomes))


WAYS_OF_THREADS = (in_turn, on_loops_in_turn, on_one_loop)

THREADS = st.lists(
    st.tuples(
        st.sampled_from(WAYS_OF_THREADS),
        st.lists(st.sampled_from([kind.__name__.lower() for kind in TOLD]), min_size=1, max_size=12),
    ),
    min_size=2,
    max_size=5,
)


class Hall:
    """Threads that all ask the same mesh at the same time."""

    def __init__(self, threads: list[tuple[Callable[..., None], list[str]]], max_at_once: int, mailbox: int) -> None:
        self.mesh = LocalMesh()
        self.told = {kind.__name__.lower(): kind(kind.__name__.lower()) for kind in TOLD}
        for agent in self.told.values():
            self.mesh.add_agent(agent, max_at_once=max_at_once, mailbox=mailbox)
        self.calls = [list(enumerate(names)) for _, names in threads]
        self.outcomes: list[list[Any]] = [[] for _ in threads]
        self.threads = [
            threading.Thread(target=way, args=(self.mesh, calls, number, outcomes), daemon=True)
            for number, ((way, _), calls, outcomes) in enumerate(zip(threads, self.calls, self.outcomes, strict=True))
        ]

    def run(self) -> None:
        for thread in self.threads:
            thread.start()
        for thread in self.threads:
            thread.join(REAL_BOUND)
            assert not thread.is_alive(), f"hangs: {self.mesh.stats()}"

    def check(self) -> None:
        """What is true whichever loop was the mesh's, and whenever that one ended."""
        stats = self.mesh.stats()
        assert stats.sent == stats.answered + stats.failed + stats.cancelled
        assert (stats.waiting, stats.at_work) == (0, 0)
        for thread, (calls, outcomes) in enumerate(zip(self.calls, self.outcomes, strict=True)):
            assert len(outcomes) == len(calls)
            for (number, name), outcome in zip(calls, outcomes, strict=True):
                heard = self.told[name].heard.count((thread, number))
                assert heard == 1 or isinstance(outcome, MeshError), outcome
                assert outcome == (thread, number) or isinstance(outcome, MeshError), outcome
        for agent in self.told.values():
            assert set(Counter(agent.heard).values()) <= {1}

    def check_all_answered(self) -> None:
        """What is true where the mesh's loop goes on."""
        for thread, (calls, outcomes) in enumerate(zip(self.calls, self.outcomes, strict=True)):
            assert outcomes == [(thread, number) for number, _ in calls]
        wanted: dict[str, Counter[tuple[int, int]]] = {}
        for name in reversed(self.told):
            own = [
                (thread, number)
                for thread, calls in enumerate(self.calls)
                for number, called in calls
                if called == name
            ]
            wanted[name] = Counter(own)
            for asker in ASKED_BY[name]:
                wanted[name] += wanted[asker]
            assert Counter(self.told[name].heard) == wanted[name]


@settings(deadline=None, max_examples=25)
@given(threads=THREADS, max_at_once=st.integers(1, 3), mailbox=st.integers(1, 3))
def test_threads_and_loops_at_the_same_time(threads, max_at_once, mailbox):
    async def main() -> None:
        hall = Hall(threads, max_at_once, mailbox)
        over = asyncio.Event()

        class Host(Agent):
            async def on_message(self, message: object, context: Any = None) -> None:
                await over.wait()

        hall.mesh.add_agent(Host("host"))
        await hall.mesh.send_to("host", "keep the mesh on this loop")
        await asyncio.to_thread(hall.run)
        over.set()
        await hall.mesh.drain()
        hall.check()
        hall.check_all_answered()

    asyncio.run(main())


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of what was about to begin there
@settings(deadline=None, max_examples=25)
@given(threads=THREADS, max_at_once=st.integers(1, 3), mailbox=st.integers(1, 3))
def test_loops_that_end_while_others_ask(threads, max_at_once, mailbox):
    hall = Hall(threads, max_at_once, mailbox)
    hall.run()
    hall.mesh.stop_sync()
    hall.check()
    gc.collect()  # so that what they left is this test's
