"""LocalMesh: agents that talk on the loop that is there; promises one by one."""

from __future__ import annotations

import asyncio
import gc
import logging
import subprocess
import sys
import threading
import time
from typing import Any

import pytest

from ceylon_nb import Agent, LlmAgent, LocalMesh, Reply, Usage
from ceylon_nb.errors import (
    CeylonError,
    CircularQuery,
    ConfigurationError,
    MeshError,
    MeshStopped,
    ModelNotFound,
    NoHandler,
    NoSuchAgent,
    QueryTimeout,
    ServerError,
    WrongLoop,
)
from ceylon_nb.testing import ModelServer, faults


class Echo(Agent):
    async def on_message(self, message: Any, context: Any = None) -> Any:
        return message


class Sync(Agent):
    """A handler that is not async."""

    def on_message(self, message: Any, context: Any = None) -> Any:
        return message, threading.current_thread() is threading.main_thread()


class Gate(Agent):
    """Holds each message until it is let go."""

    def __init__(self, name: str = "gate") -> None:
        super().__init__(name)
        self.begun: list[Any] = []
        self.cancelled: list[Any] = []
        self.open = asyncio.Event()
        self.news = asyncio.Event()

    async def on_message(self, message: Any, context: Any = None) -> Any:
        self.begun.append(message)
        self.news.set()
        try:
            await self.open.wait()
        except asyncio.CancelledError:
            self.cancelled.append(message)
            raise
        return message

    async def has_begun(self, *messages: Any) -> None:
        while self.begun != list(messages):
            self.news.clear()
            await asyncio.wait_for(self.news.wait(), 10)


class Caller(Agent):
    """Asks others: its message is a function of the context."""

    async def on_message(self, message: Any, context: Any = None) -> Any:
        return await message(context)


def meshed(*agents: Agent, **options: Any) -> LocalMesh:
    mesh = LocalMesh()
    for agent in agents:
        mesh.add_agent(agent, **options)
    return mesh


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


# -- asking ----------------------------------------------------------------------------------------------------------


def test_an_async_handler_answers_a_query() -> None:
    agent = Echo("echo")
    mesh = meshed(agent)
    assert asyncio.run(mesh.query("echo", "hi")) == "hi"
    assert agent.last_response() == "hi"


def test_a_handler_that_is_not_async_runs_in_a_thread() -> None:
    assert asyncio.run(meshed(Sync("sync")).query("sync", 1)) == (1, False)


def test_an_llm_agent_answers_a_query(model_server: ModelServer) -> None:
    model_server.reply = "Paris"
    mesh = LocalMesh()
    name = mesh.add_llm_agent("expert", "ollama::mock", base_url=model_server.url, system_prompt="Be brief.")
    assert name == "expert"
    mesh.add_llm_agent(LlmAgent("other", "ollama::mock", base_url=model_server.url))

    async def main() -> list[Reply]:
        asked = [{"role": "user", "content": "And?"}]
        return [await mesh.query("expert", "Capital?"), await mesh.query("other", asked)]

    replies = asyncio.run(main())
    assert replies == ["Paris", "Paris"]
    assert isinstance(replies[0], Reply)
    assert [message["content"] for message in model_server.requests[0].messages] == ["Be brief.", "Capital?"]
    assert mesh.stats().answered == 2
    assert list(mesh.trace()["tokens"]) == [4, 2]


def test_a_subclass_of_llm_agent_may_have_a_handler_of_its_own(model_server: ModelServer) -> None:
    class Expert(LlmAgent):
        async def on_message(self, message: Any, context: Any = None) -> Any:
            reply = await self.send_message(f"In one word: {message}")
            return reply.upper()

    model_server.reply = "yes"
    mesh = meshed(Expert("expert", "ollama::mock", base_url=model_server.url))
    assert asyncio.run(mesh.query("expert", "Is it?")) == "YES"


def test_what_a_handler_raises_reaches_whoever_asked() -> None:
    class Angry(Agent):
        async def on_message(self, message: Any, context: Any = None) -> Any:
            raise KeyError(message)

    async def chain(context: Any) -> Any:
        return await context.query("angry", "this")

    mesh = meshed(Angry("angry"), Caller("caller"))
    with pytest.raises(KeyError, match="this") as caught:
        asyncio.run(mesh.query("caller", chain))
    assert caught.value.__notes__ == [
        "Raised by the agent 'angry', which was asked by 'caller'.",
        "Raised by the agent 'caller', which was asked by you.",
    ]
    assert mesh.stats().failed == 2


def test_an_error_of_a_model_reaches_whoever_asked(model_server: ModelServer) -> None:
    mesh = meshed(LlmAgent("expert", "ollama::absent", base_url=model_server.url))
    with pytest.raises(ModelNotFound, match="ollama pull absent"):
        asyncio.run(mesh.query("expert", "Capital?"))


def test_also_what_is_no_ordinary_exception_reaches_whoever_asked(capfd: pytest.CaptureFixture[str]) -> None:
    class Odd(BaseException):
        pass

    class Angry(Agent):
        async def on_message(self, message: Any, context: Any = None) -> Any:
            raise message

    async def main() -> None:
        mesh = meshed(Angry("angry"))
        with pytest.raises(Odd, match="this"):
            await mesh.query("angry", Odd("this"))
        for fatal in (KeyboardInterrupt(), SystemExit(3)):  # which would take the kernel along
            with pytest.raises(CeylonError, match="wanted to end Python"):
                await mesh.query("angry", fatal)
        await mesh.send_to("angry", Odd("that"))
        await mesh.drain()
        assert mesh.stats().failed == 4
        gc.collect()

    asyncio.run(main())
    assert capfd.readouterr() == ("", "")


def test_a_group_of_exceptions_arrives_as_its_first() -> None:
    class Group(Agent):
        async def on_message(self, message: Any, context: Any = None) -> Any:
            raise ExceptionGroup("several", [ValueError("first"), KeyError("second")])

    with pytest.raises(ValueError, match="first"):
        asyncio.run(meshed(Group("group")).query("group", 1))


def test_an_agent_without_a_handler_says_so() -> None:
    with pytest.raises(NoHandler, match="on_message"):
        asyncio.run(meshed(Agent("mute")).query("mute", 1))


def test_who_is_not_there_is_named_with_who_is() -> None:
    mesh = meshed(Echo("a"), Echo("b"))
    for coroutine in (mesh.query("c", 1), mesh.send_to("c", 1), mesh.submit("c", 1)):
        with pytest.raises(NoSuchAgent, match=r"no agent 'c' in 'mesh'. There is 'a', 'b'\."):
            asyncio.run(coroutine)
    with pytest.raises(NoSuchAgent, match="nobody yet"):
        asyncio.run(LocalMesh().query("c", 1))
    assert mesh.stats().sent == 0


def test_what_cannot_be_added_is_refused() -> None:
    mesh = meshed(Echo("a"))
    with pytest.raises(ConfigurationError, match="There is an agent 'a'"):
        mesh.add_agent(Echo("a"))
    with pytest.raises(ConfigurationError, match="not str"):
        mesh.add_agent("a")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="max_at_once"):
        mesh.add_agent(Echo("b"), max_at_once=0)
    with pytest.raises(ConfigurationError, match="mailbox"):
        mesh.add_agent(Echo("b"), mailbox=0)
    with pytest.raises(ConfigurationError, match="Which model"):
        mesh.add_llm_agent("b")
    with pytest.raises(ConfigurationError, match="its options"):
        mesh.add_llm_agent(LlmAgent("b", "demo::instant"), temperature=1.0)
    with pytest.raises(ConfigurationError, match="timeout"):
        asyncio.run(mesh.query("a", 1, timeout=-1))
    with pytest.raises(ConfigurationError, match="keep"):
        LocalMesh(keep=0)
    assert list(mesh.agents) == ["a"]


# -- the context -----------------------------------------------------------------------------------------------------


def test_the_context_tells_who_asks_and_how_long_he_waits() -> None:
    seen: dict[str, Any] = {}

    async def look(context: Any) -> None:
        seen.update(sender=context.sender, mesh=context.mesh, remaining=context.remaining, kind=context.kind)

    async def ask(context: Any) -> None:
        seen["outer"] = context.sender, context.target
        for timeout in (None, 1000):
            await context.query("b", look, timeout=timeout)
            assert 29 < seen["remaining"] <= 30  # what is left of the first question, not more

    mesh = meshed(Caller("a"), Caller("b"))
    asyncio.run(mesh.query("a", ask, timeout=30))
    assert seen["outer"] == (None, "a")
    assert (seen["sender"], seen["mesh"], seen["kind"]) == ("a", mesh, "query")


def test_nobody_waits_for_a_message() -> None:
    seen = []

    async def look(context: Any) -> None:
        seen.append((context.remaining, context.kind, repr(context)))

    async def main() -> None:
        async with meshed(Caller("a")) as mesh:
            await mesh.send_to("a", look)

    asyncio.run(main())
    assert seen == [(None, "message", "Context(message 0 from 'outside' to 'a')")]


def test_the_mesh_itself_knows_who_sends() -> None:
    """A handler that has the mesh in a variable, and asks it in tasks of its own, is the sender all the same."""
    senders = []

    async def look(context: Any) -> None:
        senders.append(context.sender)

    async def ask(context: Any) -> None:
        await asyncio.gather(*(mesh.query("b", look) for _ in range(3)))
        await mesh.send_to("b", look)

    mesh = meshed(Caller("a"), Caller("b"))

    async def main() -> None:
        await mesh.query("a", ask)
        await mesh.drain()

    asyncio.run(main())
    assert senders == ["a"] * 4


def test_retries_of_a_model_end_with_the_time_of_whoever_asks(model_server: ModelServer) -> None:
    model_server.plan = lambda request: faults.status(503)
    mesh = meshed(LlmAgent("expert", "ollama::mock", base_url=model_server.url, attempts=1000))
    began = time.monotonic()
    with pytest.raises((QueryTimeout, ServerError)):
        asyncio.run(mesh.query("expert", "Capital?", timeout=0.5))
    assert time.monotonic() - began < 5


# -- time ------------------------------------------------------------------------------------------------------------


def test_a_query_that_times_out_cancels_the_work_it_started() -> None:
    async def main() -> None:
        gate = Gate()
        mesh = meshed(gate, Caller("caller"), max_at_once=2)
        with pytest.raises(QueryTimeout, match=r"gate gave no answer within 0.*its work is cancelled"):
            await mesh.query("gate", 1, timeout=0.05)
        await turns()
        assert gate.cancelled == [1]
        with pytest.raises(QueryTimeout, match="caller gave no answer"):  # and all that it had begun
            await mesh.query("caller", lambda context: context.query("gate", 2, timeout=None), timeout=0.05)
        await turns()
        assert gate.cancelled == [1, 2]
        assert mesh.stats().at_work == 0
        gate.open.set()
        assert await mesh.query("gate", 3) == 3

    asyncio.run(main())


def test_a_query_that_nobody_comes_to_is_taken_out_of_the_mailbox() -> None:
    async def main() -> None:
        gate = Gate()
        mesh = meshed(gate)
        await mesh.send_to("gate", 1)
        with pytest.raises(QueryTimeout, match=r"did not come to it within .*at 1 others"):
            await mesh.query("gate", 2, timeout=0.05)
        gate.open.set()
        await mesh.drain()
        assert gate.begun == [1]

    asyncio.run(main())


def test_a_query_that_is_cancelled_cancels_the_work() -> None:
    async def main() -> None:
        gate = Gate()
        mesh = meshed(gate)
        asking = asyncio.create_task(mesh.query("gate", 1))
        await gate.has_begun(1)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await turns()
        assert gate.cancelled == [1]
        with pytest.raises(TimeoutError):  # also by the time limit of somebody else
            async with asyncio.timeout(0.05):
                await mesh.query("gate", 2)
        await turns()
        assert gate.cancelled == [1, 2]
        assert (mesh.stats().cancelled, mesh.stats().at_work) == (2, 0)

    asyncio.run(main())


def test_a_query_that_is_cancelled_before_its_handler_runs_leaves_nothing() -> None:
    async def main() -> None:
        mesh = meshed(Echo("echo"))
        asking = asyncio.create_task(mesh.query("echo", 1))
        await asyncio.sleep(0)  # it was sent; the handler's task has not run
        asking.cancel()
        await asyncio.wait([asking])
        await mesh.drain()
        assert mesh.stats().at_work == 0
        assert await mesh.query("echo", 2) == 2

    asyncio.run(main())


def test_a_handler_in_a_thread_is_not_disturbed_by_the_next_message() -> None:
    """A thread cannot be cancelled: whoever asked is told at once, and the next message waits for its end."""
    at_work, most, go_on = 0, 0, threading.Event()

    class Slow(Agent):
        def on_message(self, message: Any, context: Any = None) -> Any:
            nonlocal at_work, most
            at_work += 1
            most = max(most, at_work)
            if message == 1:
                go_on.wait(10)
            at_work -= 1
            return message

    async def main() -> None:
        mesh = meshed(Slow("slow"))
        with pytest.raises(QueryTimeout):
            await mesh.query("slow", 1, timeout=0.05)
        second = asyncio.create_task(mesh.query("slow", 2))
        await asyncio.sleep(0.05)
        assert mesh.stats().at_work == 1
        go_on.set()
        assert await second == 2

    asyncio.run(main())
    assert most == 1


# -- mailboxes -------------------------------------------------------------------------------------------------------


def test_a_full_mailbox_keeps_its_sender_waiting() -> None:
    async def main() -> None:
        gate = Gate()
        mesh = meshed(gate, mailbox=2)
        for number in range(3):  # one is at work, two wait
            await mesh.send_to("gate", number)
        late = asyncio.create_task(mesh.send_to("gate", 3))
        await turns()
        assert not late.done()
        assert mesh.stats().agents["gate"].waiting == 3
        gate.open.set()
        await late
        await mesh.drain()
        assert gate.begun == [0, 1, 2, 3]

    asyncio.run(main())


def test_a_message_that_is_withdrawn_while_it_waits_for_room_was_not_sent() -> None:
    async def main() -> None:
        gate = Gate()
        mesh = meshed(gate, mailbox=1)
        await mesh.send_to("gate", 0)
        await mesh.send_to("gate", 1)
        late = [asyncio.create_task(mesh.send_to("gate", number)) for number in (2, 3)]
        await turns()
        late[0].cancel()
        await turns()
        gate.open.set()
        await mesh.drain()
        assert gate.begun == [0, 1, 3]
        assert late[0].cancelled()

    asyncio.run(main())


def test_what_is_withdrawn_when_there_is_room_already_was_not_sent_either() -> None:
    async def main() -> None:
        gate = Gate()
        mesh = meshed(gate, mailbox=1)
        await mesh.send_to("gate", 0)
        await mesh.send_to("gate", 1)
        late = asyncio.create_task(mesh.send_to("gate", 2))
        await gate.has_begun(0)
        await turns()
        gate.open.set()
        while mesh.passages[2].waited is None and mesh.stats().agents["gate"].waiting == 2:
            await asyncio.sleep(0)
        late.cancel()  # it has room, and has not heard of it
        await asyncio.wait([late])
        await mesh.drain()
        assert late.cancelled() == (2 not in gate.begun)

    asyncio.run(main())


def test_one_message_at_a_time_unless_told_otherwise() -> None:
    async def main() -> None:
        one, three = Gate("one"), Gate("three")
        mesh = meshed(one)
        mesh.add_agent(three, max_at_once=3)
        for number in range(5):
            await mesh.send_to("one", number)
            await mesh.send_to("three", number)
        await turns()
        assert (one.begun, three.begun) == ([0], [0, 1, 2])
        one.open.set()
        three.open.set()
        await mesh.drain()
        assert one.begun == three.begun == [0, 1, 2, 3, 4]

    asyncio.run(main())


# -- circles ---------------------------------------------------------------------------------------------------------


def test_agents_that_ask_each_other_in_a_circle_are_told() -> None:
    def ask(target: str, then: Any) -> Any:
        return lambda context: context.query(target, then)

    async def answer(context: Any) -> str:
        return "fine"

    mesh = meshed(Caller("a"), Caller("b"), Caller("c"))
    with pytest.raises(CircularQuery, match=r"b waits for a waits for b: that would be for ever.*larger max_at_once"):
        asyncio.run(mesh.query("a", ask("b", ask("a", answer))))
    with pytest.raises(CircularQuery, match="a waits for a"):
        asyncio.run(mesh.query("a", ask("a", answer)))
    with pytest.raises(CircularQuery, match="c waits for a waits for b waits for c"):
        asyncio.run(mesh.query("a", ask("b", ask("c", ask("a", answer)))))
    wide = meshed(Caller("a"), Caller("b"), max_at_once=2)
    assert asyncio.run(wide.query("a", ask("b", ask("a", answer)))) == "fine"


def test_two_that_ask_each_other_at_the_same_time_are_told() -> None:
    """Neither asks on behalf of the other: each handles a message of its own, and waits for the other's mailbox."""

    async def answer(context: Any) -> str:
        return "fine"

    async def main() -> list[Any]:
        both = asyncio.Barrier(2)

        def ask(target: str) -> Any:
            async def handler(context: Any) -> Any:
                await both.wait()
                return await context.query(target, answer, timeout=None)

            return handler

        mesh = meshed(Caller("a"), Caller("b"))
        return await asyncio.gather(
            mesh.query("a", ask("b"), timeout=None), mesh.query("b", ask("a"), timeout=None), return_exceptions=True
        )

    answers = asyncio.run(asyncio.wait_for(main(), 10))
    assert sorted(map(str, answers))[-1] == "fine"  # the other goes on
    assert sum(isinstance(answer, CircularQuery) for answer in answers) == 1


def test_a_full_mailbox_in_a_circle_is_told() -> None:
    async def idle(context: Any) -> None: ...

    async def flood(context: Any) -> None:
        for _ in range(3):  # to itself: one waits in the mailbox, there is no room for another
            await context.send_to("a", idle)

    async def main() -> None:
        mesh = meshed(Caller("a"), mailbox=1)
        with pytest.raises(CircularQuery, match="a waits for a"):
            await mesh.query("a", flood)
        await mesh.drain()

    asyncio.run(asyncio.wait_for(main(), 10))


def test_who_waits_for_what_he_has_submitted_is_in_the_circle_too() -> None:
    async def answer(context: Any) -> str:
        return "fine"

    async def wait(context: Any) -> Any:
        return await context.mesh.wait_for(await context.mesh.submit("a", answer))

    with pytest.raises(CircularQuery, match="a waits for a"):
        asyncio.run(meshed(Caller("a")).query("a", wait))


def test_also_a_handler_whose_agent_was_removed() -> None:
    async def leave(context: Any) -> None:
        context.mesh.remove("a")
        await context.mesh.drain()

    with pytest.raises(CircularQuery, match="waits for itself"):
        asyncio.run(asyncio.wait_for(meshed(Caller("a")).query("a", leave), 10))


def test_a_handler_that_waits_for_rest_is_told() -> None:
    with pytest.raises(CircularQuery, match="waits for itself"):
        asyncio.run(meshed(Caller("a")).query("a", lambda context: context.mesh.drain()))


# -- one way ---------------------------------------------------------------------------------------------------------


def test_a_message_that_fails_is_logged_and_counted_and_nothing_is_printed(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    class Angry(Agent):
        async def on_message(self, message: Any, context: Any = None) -> Any:
            raise KeyError(message)

    async def main() -> None:
        async with meshed(Angry("angry")) as mesh:
            await mesh.send_to("angry", "this")
        assert mesh.stats().agents["angry"].failed == 1
        assert mesh.trace()["error"][0] == "KeyError: 'this'"

    with caplog.at_level(logging.ERROR):
        asyncio.run(main())
    [record] = caplog.records
    assert record.name == "ceylon_nb.mesh"
    assert record.getMessage() == "angry failed at a message that nobody waits for"
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], KeyError)
    assert capfd.readouterr() == ("", "")


def test_without_logging_set_up_nothing_is_printed() -> None:
    code = """
import asyncio
from ceylon_nb import Agent, LocalMesh
async def main():
    async with LocalMesh() as mesh:
        mesh.add_agent(Agent("mute"))
        await mesh.send_to("mute", 1)
asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")


def test_a_broadcast_goes_to_all_but_its_sender() -> None:
    heard = []

    class Hears(Agent):
        async def on_message(self, message: Any, context: Any = None) -> None:
            heard.append((self.name(), message, context.sender))

    class Calls(Agent):
        async def on_message(self, message: Any, context: Any = None) -> Any:
            return await context.mesh.broadcast(message)

    async def main() -> None:
        mesh = meshed(Hears("a"), Hears("b"), Calls("c"))
        assert await mesh.broadcast("hi", exclude="c") == ["a", "b"]
        assert await mesh.query("c", "ho") == ["a", "b"]
        await mesh.drain()

    asyncio.run(main())
    assert sorted(heard, key=str) == [("a", "hi", None), ("a", "ho", "c"), ("b", "hi", None), ("b", "ho", "c")]


def test_a_broadcast_does_not_keep_one_waiting_for_another() -> None:
    async def main() -> None:
        full, free = Gate("full"), Gate("free")
        mesh = meshed(full, free, mailbox=1)
        await mesh.send_to("full", 1)
        await mesh.send_to("full", 2)
        calling = asyncio.create_task(mesh.broadcast("all"))
        await free.has_begun("all")
        assert not calling.done()
        calling.cancel()  # what waits for room was not sent
        await asyncio.wait([calling])
        full.open.set()
        free.open.set()
        await mesh.drain()
        assert full.begun == [1, 2]

    asyncio.run(main())


# -- requests --------------------------------------------------------------------------------------------------------


def test_what_is_submitted_is_waited_for_or_collected() -> None:
    async def fail(context: Any) -> None:
        raise ValueError("no")

    async def main() -> None:
        gate = Gate()
        mesh = meshed(gate, Caller("caller"), max_at_once=2)
        first, second = await mesh.submit("gate", "x"), await mesh.submit("gate", "y")
        failing = await mesh.submit("caller", fail)
        await gate.has_begun("x", "y")
        assert [(each.id, each.target) for each in mesh.get_pending()] == [(first, "gate"), (second, "gate")]
        assert all(0 <= each.elapsed < 10 for each in mesh.pending())
        with pytest.raises(QueryTimeout, match="it goes on"):
            await mesh.wait_for(first, timeout=0.05)
        assert gate.cancelled == []
        with pytest.raises(QueryTimeout, match="2 requests"):
            await mesh.collect_results(timeout=0.05)
        with pytest.raises(ValueError, match="no"):
            await mesh.wait_for(failing)
        gate.open.set()
        assert await mesh.wait_for(first) == "x"
        failing = await mesh.submit("caller", fail)
        results = await mesh.collect_results()
        assert [(each.id, each.target, each.answer, repr(each.error)) for each in results] == [
            (second, "gate", "y", "None"),
            (failing, "caller", None, "ValueError('no')"),
        ]
        assert all(each.latency >= 0 for each in results)
        assert mesh.pending() == await mesh.collect_results() == []
        with pytest.raises(MeshError, match="no request 'gate-0', or it was collected"):
            await mesh.wait_for(first)

    asyncio.run(main())


# -- life ------------------------------------------------------------------------------------------------------------


def test_leaving_lets_messages_be_handled_and_leaves_no_task() -> None:
    async def main() -> None:
        before = asyncio.all_tasks()
        agent = Gate()
        async with meshed(agent) as mesh:
            for number in range(10):
                await mesh.send_to("gate", number)
            agent.open.set()
        assert agent.begun == list(range(10))
        assert asyncio.all_tasks() == before
        with pytest.raises(MeshStopped, match="start"):
            await mesh.query("gate", 1)
        async with mesh:
            assert await mesh.query("gate", 2) == 2

    asyncio.run(main())


def test_leaving_by_an_error_cancels_what_is_on_its_way() -> None:
    async def main() -> None:
        gate = Gate()
        with pytest.raises(ZeroDivisionError):
            async with meshed(gate) as mesh:
                await mesh.send_to("gate", 1)
                await gate.has_begun(1)
                raise ZeroDivisionError
        assert gate.cancelled == [1]

    asyncio.run(main())


def test_stop_cancels_and_tells_whoever_waits() -> None:
    async def main() -> None:
        before = asyncio.all_tasks()
        gate = Gate()
        mesh = meshed(gate)
        await mesh.start()
        asking = [asyncio.create_task(mesh.query("gate", number)) for number in range(3)]
        await gate.has_begun(0)
        await mesh.stop()
        for task in asking:
            with pytest.raises(MeshStopped, match="was stopped before this was answered"):
                await task
        assert (gate.begun, gate.cancelled) == ([0], [0])
        assert asyncio.all_tasks() == before
        await mesh.stop()
        mesh.start()  # need not be awaited
        gate.open.set()
        assert await mesh.query("gate", 4) == 4

    asyncio.run(main())


def test_stop_need_not_be_awaited_and_may_come_from_a_handler() -> None:
    async def halt(context: Any) -> str:
        await context.mesh.stop()
        return "stopped"

    async def main() -> None:
        gate = Gate()
        mesh = meshed(gate, Caller("caller"))
        asking = asyncio.create_task(mesh.query("gate", 1))
        await gate.has_begun(1)
        assert await mesh.query("caller", halt) == "stopped"
        with pytest.raises(MeshStopped):
            await asking
        mesh.start()
        asking = asyncio.create_task(mesh.query("gate", 2))
        await gate.has_begun(1, 2)
        mesh.stop()
        with pytest.raises(MeshStopped):
            await asking

    asyncio.run(main())


def test_a_handler_that_hangs_in_its_thread_keeps_nobody(caplog: pytest.LogCaptureFixture) -> None:
    """Neither `stop`, which says who it is, nor the end of a loop."""
    go_on, begun = threading.Event(), threading.Event()

    class Hangs(Agent):
        def on_message(self, message: Any, context: Any = None) -> None:
            begun.set()
            go_on.wait(60)

    async def stop() -> None:
        mesh = meshed(Hangs("hangs"))
        await mesh.send_to("hangs", 1)
        await asyncio.to_thread(begun.wait)
        await mesh.stop()

    async def leave() -> None:
        await meshed(Hangs("hangs")).send_to("hangs", 1)
        await asyncio.sleep(0)

    began = time.monotonic()
    try:
        with caplog.at_level(logging.WARNING):
            asyncio.run(stop())
        assert "hangs did not end within 2 s" in caplog.text
        asyncio.run(leave())
        assert time.monotonic() - began < 30
    finally:
        go_on.set()


def test_stop_takes_out_thousands_of_messages() -> None:
    """One by one, each looked for among all, they would take minutes."""

    async def main() -> None:
        gate = Gate()
        mesh = meshed(gate, mailbox=100_000)
        for number in range(100_000):
            await mesh.send_to("gate", number)
        await mesh.stop()
        assert (mesh.stats().cancelled, gate.begun) == (100_000, [])

    asyncio.run(main())


def test_what_outlives_its_handler_has_time(model_server: ModelServer) -> None:
    """A task that a handler began is not bound by the time of the question that the handler answered."""
    agent = LlmAgent("expert", "ollama::mock", base_url=model_server.url)
    model_server.next(faults.status(503))
    tasks = []

    async def begin(context: Any) -> None:
        async def later() -> Reply:
            await asyncio.sleep(0.05)
            return await agent.send_message("Capital?")

        tasks.append(asyncio.create_task(later()))

    async def main() -> None:
        await meshed(Caller("a")).query("a", begin, timeout=0.04)
        assert (await tasks[0]).attempts == 2

    asyncio.run(main())


def test_an_agent_that_is_removed_ends_what_it_is_at() -> None:
    async def main() -> None:
        gate = Gate()
        mesh = meshed(gate)
        asking = [asyncio.create_task(mesh.query("gate", number)) for number in range(2)]
        await gate.has_begun(0)
        assert mesh.remove("gate") is gate
        with pytest.raises(NoSuchAgent, match="removed from 'mesh' before it came to this"):
            await asking[1]
        with pytest.raises(NoSuchAgent):
            await mesh.query("gate", 2)
        with pytest.raises(NoSuchAgent):
            mesh.remove("gate")
        gate.open.set()
        assert await asking[0] == 0
        mesh.add_agent(gate)
        assert await mesh.query("gate", 3) == 3
        stats = mesh.stats()
        assert (stats.sent, stats.answered, stats.cancelled) == (3, 2, 1)

    asyncio.run(main())


# -- loops and threads -----------------------------------------------------------------------------------------------


def test_every_coroutine_has_a_twin_for_scripts() -> None:
    mesh = LocalMesh().start_sync()
    mesh.add_agent(Echo("echo"))
    mesh.add_agent(Caller("angry"))
    mesh.send_to_sync("echo", 1)
    assert mesh.query_sync("echo", 2) == 2
    assert mesh.wait_for_sync(mesh.submit_sync("echo", 3)) == 3
    mesh.submit_sync("echo", 4)
    assert [each.answer for each in mesh.collect_results_sync()] == [4]
    assert mesh.broadcast_sync(5, exclude=["angry"]) == ["echo"]
    mesh.drain_sync()
    mesh.process_messages_sync()
    assert mesh.stats().agents["echo"].handled == 5
    mesh.stop_sync()
    with pytest.raises(MeshStopped):
        mesh.query_sync("echo", 6)


def test_where_a_loop_runs_a_sync_call_works_unless_it_would_stop_the_mesh() -> None:
    async def main() -> None:
        gate = Gate()
        mesh = meshed(Echo("echo"), gate)
        assert await mesh.query("echo", 1) == 1
        assert mesh.query_sync("echo", 2) == 2  # nothing is on its way, so the mesh may move
        assert await mesh.query("echo", 3) == 3
        await mesh.send_to("gate", 1)
        with pytest.raises(WrongLoop, match=r"await mesh\.query"):
            mesh.query_sync("echo", 4)
        assert await asyncio.to_thread(mesh.query_sync, "echo", 5) == 5  # a thread stops nothing
        gate.open.set()
        await mesh.drain()
        assert mesh.query_sync("echo", 6) == 6

    asyncio.run(main())


def test_a_handler_that_is_not_async_asks_by_the_twins() -> None:
    seen = []

    class Clerk(Agent):
        def on_message(self, message: Any, context: Any = None) -> Any:
            seen.append(context.sender)
            context.send_to_sync("echo", "one way")
            return context.query_sync("echo", message) + 1

    async def main() -> None:
        mesh = meshed(Clerk("clerk"), Echo("echo"))
        assert await mesh.query("clerk", 1) == 2
        await mesh.drain()
        assert [(each.sender, each.target) for each in mesh.passages] == [
            (None, "clerk"), ("clerk", "echo"), ("clerk", "echo")
        ]  # fmt: skip

    asyncio.run(main())
    assert seen == [None]


def test_loops_in_threads_share_a_mesh() -> None:
    mesh = meshed(Echo("echo"), max_at_once=3)
    got: list[int] = []

    def ask(first: int) -> None:
        async def queries() -> None:
            for number in range(first, first + 200):
                got.append(await mesh.query("echo", number))

        asyncio.run(queries())

    async def main() -> None:
        gate = Gate()
        mesh.add_agent(gate)
        await mesh.send_to("gate", "this keeps the mesh on this loop")
        await asyncio.gather(*(asyncio.to_thread(ask, 1000 * number) for number in range(4)))
        gate.open.set()
        await mesh.drain()

    asyncio.run(main())
    assert sorted(got) == [1000 * number + each for number in range(4) for each in range(200)]


def test_whose_loop_ends_does_not_keep_others_waiting() -> None:
    """Four loops that come and go, one of them the mesh's: each question is answered, or has to be asked again."""
    mesh = meshed(Echo("echo"))
    got: list[int] = []
    again = 0

    def ask(first: int) -> None:
        async def query(number: int) -> None:
            nonlocal again
            try:
                got.append(await mesh.query("echo", number))
            except MeshStopped:
                again += 1
                await query(number)

        for number in range(first, first + 50):
            asyncio.run(query(number))

    threads = [threading.Thread(target=ask, args=(1000 * number,), daemon=True) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(got) == [1000 * number + each for number in range(4) for each in range(50)]


def test_a_loop_that_ends_with_work_on_it_leaves_a_mesh_that_works(recwarn: pytest.WarningsRecorder) -> None:
    gates: list[Gate] = []

    async def main() -> None:
        gates.append(Gate())
        mesh.add_agent(gates[0])
        for number in range(3):
            await mesh.send_to("gate", number)
        await gates[0].has_begun(0)

    mesh = meshed(Echo("echo"))
    asyncio.run(main())
    assert (gates[0].begun, gates[0].cancelled) == ([0], [0])
    assert asyncio.run(mesh.query("echo", 1)) == 1
    stats = mesh.stats()
    assert (stats.sent, stats.answered, stats.waiting, stats.at_work) == (4, 1, 0, 0)


def test_a_handler_that_somebody_else_cancels_harms_nobody_else() -> None:
    async def main() -> None:
        gate = Gate()
        mesh = meshed(gate)
        asking = [asyncio.create_task(mesh.query("gate", number)) for number in range(3)]
        await gate.has_begun(0)
        [handler] = [task for task in asyncio.all_tasks() if task.get_name() == "gate handles 0"]
        handler.cancel()
        with pytest.raises(MeshError, match="gate was cancelled while it handled a message"):
            await asking[0]
        gate.open.set()
        assert await asyncio.gather(*asking[1:]) == [1, 2]

    asyncio.run(main())


def test_a_loop_that_is_closed_with_work_on_it_leaves_a_mesh_that_works() -> None:
    loop = asyncio.new_event_loop()
    mesh = meshed(Echo("echo"))
    gate = Gate()
    mesh.add_agent(gate)
    loop.run_until_complete(mesh.send_to("gate", 1))
    loop.run_until_complete(mesh.send_to("gate", 2))
    left = asyncio.all_tasks(loop)
    loop.close()
    assert asyncio.run(mesh.query("echo", 1)) == 1
    assert (mesh.stats().cancelled, mesh.stats().at_work, mesh.stats().waiting) == (2, 0, 0)
    for task in left:  # asyncio itself complains of tasks that are destroyed so
        task._log_destroy_pending = False  # type: ignore[attr-defined]
        task.get_coro().close()  # type: ignore[union-attr]


# -- to be looked at -------------------------------------------------------------------------------------------------


def test_the_trace_is_a_frame() -> None:
    async def ask(context: Any) -> Reply:
        await context.query("echo", {"a": [1, 2]})
        return Reply("said\n  so", usage=Usage(3, 4))

    async def fail(context: Any) -> None:
        raise ValueError("x" * 500)

    async def main() -> LocalMesh:
        mesh = meshed(Caller("caller"), Echo("echo"))
        await mesh.query("caller", ask)
        with pytest.raises(ValueError, match="x"):
            await mesh.query("caller", fail)
        return mesh

    mesh = asyncio.run(main())
    trace = mesh.trace()
    assert list(trace.columns) == [
        "when", "from", "to", "kind", "message", "answer", "waited", "latency", "error", "tokens"
    ]  # fmt: skip
    assert list(trace["from"]) == [None, "caller", None]
    assert list(trace["to"]) == ["caller", "echo", "caller"]
    assert list(trace["kind"]) == ["query"] * 3
    assert list(trace["answer"]) == ["said so", "{'a': [1, 2]}", None]
    assert trace["message"][1] == "{'a': [1, 2]}"
    assert trace["error"][2].startswith("ValueError: xxx")
    assert len(trace["error"][2]) == 80
    assert trace["tokens"].isna().tolist() == [False, True, True]
    assert (trace["tokens"][0], str(trace["tokens"].dtype)) == (7, "Int64")
    assert str(trace["when"].dtype).endswith(", UTC]")
    assert (trace["latency"] >= trace["waited"]).all()
    assert LocalMesh().trace().shape == (0, 10)


def test_of_a_trace_the_newest_are_kept_and_no_payloads() -> None:
    class Payload:
        def __repr__(self) -> str:
            raise RuntimeError("cannot say")

    async def main() -> LocalMesh:
        mesh = LocalMesh(keep=3)
        mesh.add_agent(Echo("echo"))
        for number in range(5):
            await mesh.query("echo", number)
        await mesh.query("echo", "long " * 100_000)
        await mesh.query("echo", Payload())
        return mesh

    mesh = asyncio.run(main())
    assert [each.said[:9] for each in mesh.passages] == ["4", "long long", "<Payload "]
    assert mesh.stats().sent == 7
    assert repr(mesh) == "LocalMesh('mesh', 1 agent)"


def test_what_a_model_has_an_agent_do_is_in_the_trace(model_server: ModelServer) -> None:
    agent = LlmAgent("clerk", "ollama::mock", base_url=model_server.url)

    @agent.action
    async def price(item: str) -> float:
        """What an item costs."""
        if item == "nothing":
            raise LookupError("no such item")
        return 2.5

    def reply(messages: list[dict[str, Any]]) -> Any:
        if messages[-1]["role"] == "tool":
            return "That is what it costs."
        calls = [{"function": {"name": "price", "arguments": {"item": item}}} for item in ("box", "nothing")]
        return {"content": "", "tool_calls": calls}

    model_server.reply = reply
    mesh = meshed(agent)
    assert asyncio.run(mesh.query("clerk", "How much?")) == "That is what it costs."
    actions = mesh.trace().query("kind == 'action'")
    assert list(actions["from"]) == ["clerk", "clerk"]
    assert set(actions["to"]) == {"clerk.price"}
    assert sorted(map(str, actions["answer"])) == ["2.5", "None"]
    assert [error for error in actions["error"] if error] == ["LookupError: no such item"]


def test_no_key_is_in_the_trace(model_server: ModelServer) -> None:
    key = "sk-very-secret-0123456789"
    agent = LlmAgent("clerk", "ollama::mock", base_url=model_server.url, api_key=key)

    @agent.action
    async def price(item: str) -> float:
        raise LookupError(f"http://shop/?key={key}")

    def reply(messages: list[dict[str, Any]]) -> Any:
        if messages[-1]["role"] == "tool":
            return "It failed."
        return {"content": "", "tool_calls": [{"function": {"name": "price", "arguments": {"item": key}}}]}

    model_server.reply = reply
    mesh = meshed(agent)
    answer = asyncio.run(mesh.query("clerk", "How much?"))
    shown = [str(answer.actions), repr(answer.actions), mesh.trace().to_string(), str(mesh.diagram())]
    shown += mesh._repr_mimebundle_().values()
    assert not [text for text in shown if key in text]
    assert "key=***" in shown[0]


def test_a_mesh_has_an_agent_act_and_the_action_knows_the_mesh() -> None:
    class Clerk(Agent):
        async def on_message(self, message: Any, context: Any = None) -> Any:
            return await self.act("ask_around", {"what": message}, context=context)

        @Agent.action
        async def ask_around(self, what: str, context: Any = None) -> str:
            """Ask the others."""
            return f"echo says {await context.query('echo', what)}"

    assert asyncio.run(meshed(Clerk("clerk"), Echo("echo")).query("clerk", "hi")) == "echo says hi"
