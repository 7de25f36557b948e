"""The tool loop: a model calls an agent's actions, several at once, until it answers; on both wires, over loopback."""

from __future__ import annotations

import asyncio
import json
import pickle
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Literal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ceylon_nb import Agent, LlmAgent, errors, replay
from ceylon_nb.agents.toolloop import AT_ONCE, acted
from ceylon_nb.loop import _ticker
from ceylon_nb.messages import CallsMessage, Done, Message, Reply, ResultMessage, ToolCall
from ceylon_nb.testing import ModelServer, faults
from ceylon_nb.trace import flying

PATIENCE = 10  # seconds; more than anything here takes

on_both_wires = pytest.mark.parametrize("wire", ["ollama", "openai"])
each_way = pytest.mark.parametrize("way", ["send", "stream", "map", "streamed map"])


def calls(*named: tuple[str, Any], said: str = "") -> dict[str, Any]:
    """A model's turn that calls these."""
    made = [{"function": {"name": name, "arguments": arguments}} for name, arguments in named]
    return {"content": said, "tool_calls": made}


def plays(*turns: Mapping[str, Any] | str) -> Callable[[list[dict[str, Any]]], Any]:
    """A model that takes these turns, whoever asks, and then says what it was told of the actions last."""

    def reply(messages: list[dict[str, Any]]) -> Any:
        made = sum("tool_calls" in message for message in messages)
        told = [message["content"] for message in messages if message["role"] == "tool"]
        return turns[made] if made < len(turns) else f"I was told: {' | '.join(told)}"

    return reply


def agent_on(server: ModelServer, wire: str = "ollama", **options: Any) -> LlmAgent:
    url = server.url if wire == "ollama" else server.openai_url
    return LlmAgent("clerk", f"{wire}::mock", base_url=url, api_key="key-of-mine", **options)


def with_prices(agent: LlmAgent) -> LlmAgent:
    @agent.action
    def price(item: str, count: int = 1) -> float:
        """What an item costs.

        Args:
            item: Its name.
            count: How many.
        """
        return {"tea": 2.5, "rice": 1.0}[item] * count

    return agent


async def asked(agent: LlmAgent, way: str, prompt: str = "How much?") -> Reply:
    if way == "send":
        return await agent.send_message(prompt)
    if way == "stream":
        stream = agent.stream(prompt)
        return await stream
    frame = await agent.map([prompt], stream=way == "streamed map", view=None)
    assert frame["status"].tolist() == ["ok"], frame["error"][0]
    reply: Reply = frame["reply"][0]
    return reply


def told(reply: Reply) -> list[tuple[str, str | None]]:
    return [(done.result, done.error) for done in reply.actions]


def run(coroutine: Any) -> Any:
    async def main() -> Any:
        async with asyncio.timeout(PATIENCE):
            return await coroutine

    return asyncio.run(main())


# -- one loop --------------------------------------------------------------------------------------------------------


@on_both_wires
@each_way
def test_what_a_model_calls_for_is_done_and_told(model_server: ModelServer, wire: str, way: str) -> None:
    model_server.reply = plays(
        calls(("price", {"item": "tea", "count": "3"}), ("price", {"item": "rice"}), said="Let me see."),
        calls(("price", {"item": "tea"})),
    )
    reply = run(asked(with_prices(agent_on(model_server, wire)), way))

    assert reply == "I was told: 7.5 | 1.0 | 2.5"
    assert reply.tool_calls == ()
    assert [(done.call.name, done.call.arguments, done.result, done.error, done.round) for done in reply.actions] == [
        ("price", {"item": "tea", "count": "3"}, "7.5", None, 1),
        ("price", {"item": "rice"}, "1.0", None, 1),
        ("price", {"item": "tea"}, "2.5", None, 2),
    ]
    assert len({done.call.id for done in reply.actions}) == 3
    assert all(0 <= done.latency <= reply.latency for done in reply.actions)

    first, second, third = model_server.requests
    assert [request.results for request in (first, second, third)] == [[], ["7.5", "1.0"], ["2.5"]]
    assert first.tools == second.tools == third.tools
    assert first.tools[0]["type"] == "function"
    assert first.tools[0]["function"]["name"] == "price"
    assert first.tools[0]["function"]["parameters"]["properties"].keys() == {"item", "count"}
    assert third.messages[: len(second.messages)] == second.messages
    assert second.messages[1]["content"] == "Let me see."
    assert (reply.attempts, reply.finish_reason) == (1, "stop")  # a further round is no further attempt


@on_both_wires
def test_tokens_are_those_of_all_rounds(model_server: ModelServer, wire: str) -> None:
    model_server.reply = plays(calls(("price", {"item": "tea"}), said="Let me see."))
    replies = [run(asked(with_prices(agent_on(model_server, wire)), way)) for way in ("send", "stream")]
    # "How much?"; then "How much?", "Let me see.", "2.5"
    assert [(reply.usage.input_tokens, reply.usage.output_tokens) for reply in replies] == [(2 + 6, 3 + 4)] * 2


def test_tokens_that_nobody_counted() -> None:
    async def silent(messages: list[Message]) -> Reply:
        return Reply("So.") if len(messages) > 1 else Reply("", tool_calls=(ToolCall("1", "price", {"item": "tea"}),))

    reply = run(asked(with_prices(LlmAgent("clerk", silent)), "send"))
    assert (reply.usage.input_tokens, reply.usage.output_tokens, reply.latency >= 0) == (None, None, True)


@each_way
def test_a_function_of_yours_may_call_actions(way: str) -> None:
    heard = []

    async def model(messages: list[Message]) -> Reply:
        heard.append(messages)
        if len(messages) == 1:
            return Reply("Well,", tool_calls=(ToolCall("a", "price", {"item": "tea"}),))
        return Reply(f"{messages[-1].content} euros")

    reply = run(asked(with_prices(LlmAgent("clerk", model)), way, "Tea?"))
    assert (reply, told(reply)) == ("2.5 euros", [("2.5", None)])
    call = ToolCall("a", "price", {"item": "tea"})
    assert heard[1] == [
        Message("user", "Tea?"),
        CallsMessage("assistant", "Well,", (call,)),
        ResultMessage("tool", "2.5", call),
    ]


def test_a_reply_keeps_what_was_done_when_it_is_copied(model_server: ModelServer) -> None:
    model_server.reply = plays(calls(("price", {"item": "tea"})))
    reply = run(asked(with_prices(agent_on(model_server)), "send"))
    copy = pickle.loads(pickle.dumps(reply))
    assert (copy, copy.actions, copy.usage) == (reply, reply.actions, reply.usage)
    assert isinstance(copy.actions[0], Done)


@on_both_wires
def test_all_calls_of_a_turn_run_at_once(model_server: ModelServer, wire: str) -> None:
    """The first waits for the last; their results go back in the order of the calls all the same."""
    model_server.reply = plays(calls(*(("visit", {"place": place}) for place in range(5))))
    agent = agent_on(model_server, wire)
    here, ended = asyncio.Event(), []

    @agent.action
    async def visit(place: int) -> int:
        if place == 4:
            here.set()
        await here.wait()
        ended.append(place)
        return place

    assert run(agent.send_message("Go")) == "I was told: 0 | 1 | 2 | 3 | 4"
    assert sorted(ended) == [0, 1, 2, 3, 4]


def test_of_thousands_of_calls_some_run_at_once(model_server: ModelServer) -> None:
    """A model may say anything: each of these would have a thread of its own."""
    model_server.reply = plays(calls(*(("count", {}) for _ in range(1_000))))
    agent, lock = agent_on(model_server), threading.Lock()
    at_work = most = 0

    @agent.action
    def count() -> int:
        nonlocal at_work, most
        with lock:
            at_work += 1
            most = max(most, at_work)
        time.sleep(0.001)
        with lock:
            at_work -= 1
        return 1

    assert len(run(agent.send_message("Go")).actions) == 1_000
    assert 1 < most <= AT_ONCE


def test_sync_actions_run_at_once_too(model_server: ModelServer) -> None:
    model_server.reply = plays(calls(("meet", {}), ("meet", {})))
    agent, both = agent_on(model_server), threading.Barrier(2, timeout=PATIENCE)

    @agent.action
    def meet() -> str:
        both.wait()
        return "met"

    assert run(agent.send_message("Go")) == "I was told: met | met"


def test_actions_of_a_class(model_server: ModelServer) -> None:
    model_server.reply = plays(calls(("greet", {"who": "Ada"})))

    class Host(LlmAgent):
        @Agent.action
        async def greet(self, who: str) -> str:
            return f"{self.name()} greets {who}"

    host = Host("Bob", "ollama::mock", base_url=model_server.url)
    assert repr(host) == "Host('Bob', 'ollama::mock')"
    assert run(host.send_message("Go")) == "I was told: Bob greets Ada"


def test_context_is_handed_on(model_server: ModelServer) -> None:
    model_server.reply = plays(calls(("who", {})))
    agent = agent_on(model_server)

    @agent.action
    def who(context: Any = None) -> str:
        return f"asked by {context}"

    assert run(agent.on_message("Go", "Ada")) == "I was told: asked by Ada"
    assert run(agent.send_message("Go")) == "I was told: asked by None"


def test_what_it_answered_last(model_server: ModelServer) -> None:
    agent = agent_on(model_server)
    model_server.reply = "Yes."
    assert agent.last_response() is None
    reply = run(agent.send_message("Well?"))
    assert agent.last_response() is reply
    again = agent.send_message_sync("Well?")
    assert agent.last_response() is again is not reply


def test_a_subclass_may_answer_through_the_model(model_server: ModelServer) -> None:
    class Loud(LlmAgent):
        async def on_message(self, message: Any, context: Any = None) -> str:  # type: ignore[override]
            return (await self.send_message(message)).upper()

    model_server.reply = "yes"
    assert run(Loud("loud", "ollama::mock", base_url=model_server.url).handle("Well?")) == "YES"


@on_both_wires
@pytest.mark.parametrize("way", ["send", "stream"])
def test_without_actions_nothing_is_offered_and_no_call_is_heard(
    model_server: ModelServer, wire: str, way: str
) -> None:
    model_server.reply = calls(("price", {"item": "tea"}), said="Two and a half.")
    reply = run(asked(agent_on(model_server, wire), way))
    assert (reply, reply.tool_calls, reply.actions) == ("Two and a half.", (), ())
    model_server.reply = calls(("price", {"item": "tea"}))
    with pytest.raises(errors.EmptyReply):
        run(asked(agent_on(model_server, wire), way))
    assert all("tools" not in request.body for request in model_server.requests)


# -- what goes wrong with a call is told to the model ----------------------------------------------------------------


def risky(agent: LlmAgent) -> LlmAgent:
    @agent.action
    async def fail(how: Literal["error", "group", "exit", "cancel"]) -> None:
        if how == "error":
            raise ValueError("no such\ncity")
        if how == "exit":
            raise SystemExit(3)
        if how == "cancel":
            raise asyncio.CancelledError("of something else")
        async with asyncio.TaskGroup() as group:
            group.create_task(fail("error"))

    @agent.action
    def block(how: str) -> None:
        raise KeyError(how) if how == "error" else SystemExit(how)

    @agent.action(timeout=0.01)
    async def hang() -> None:
        await asyncio.Event().wait()

    @agent.action
    def unsayable() -> object:
        class Thing:
            def __str__(self) -> str:
                raise OSError("no words")

        return Thing()

    return agent


@pytest.mark.parametrize(
    ("name", "arguments", "error"),
    [
        ("fail", {"how": "error"}, "ValueError: no such city"),
        ("fail", {"how": "group"}, "ValueError: no such city"),
        ("fail", {"how": "cancel"}, "CancelledError: of something else"),
        ("block", {"how": "error"}, "KeyError: 'error'"),
        ("hang", {}, "ActionTimeout: The action 'hang' was not done within 0.01 s."),
        ("nothing", {}, "NoSuchAction: There is no action 'nothing'. There is: fail, block, hang, unsayable."),
    ],
)
@on_both_wires
def test_a_failure_is_told(
    model_server: ModelServer, wire: str, name: str, arguments: dict[str, Any], error: str
) -> None:
    model_server.reply = plays(calls((name, arguments)))
    reply = run(risky(agent_on(model_server, wire)).send_message("Go"))
    assert told(reply) == [(f"error: {error}", error)]
    assert reply == f"I was told: error: {error}"


@pytest.mark.parametrize(
    ("name", "arguments", "parts"),
    [
        ("fail", {"how": "exit"}, ["end Python", "3"]),
        ("block", {"how": "x"}, ["end Python"]),
        ("unsayable", {}, ["error: "]),
        ("fail", {"how": "well"}, ["InvalidArguments", "how"]),
        ("fail", {}, ["InvalidArguments", "how"]),
        ("fail", {"how": "error", "why": 1}, ["InvalidArguments", "why"]),
    ],
)
def test_a_failure_names_what_is_wrong(
    model_server: ModelServer, name: str, arguments: dict[str, Any], parts: list[str]
) -> None:
    model_server.reply = plays(calls((name, arguments)))
    (result, error), *others = told(run(risky(agent_on(model_server)).send_message("Go")))
    assert others == []
    assert error is not None
    assert all(part in result for part in parts), result


@pytest.mark.parametrize("way", ["send", "stream"])
@pytest.mark.parametrize("arguments", ['{"item": "te', "[1]", '"tea"', "tea"])
def test_arguments_that_are_no_json_object(model_server: ModelServer, way: str, arguments: str) -> None:
    model_server.reply = plays(calls(("price", arguments)))
    reply = run(asked(with_prices(agent_on(model_server, "openai")), way))
    ((result, error),) = told(reply)
    assert error is not None
    assert error.startswith("InvalidArguments: ")
    made = model_server.requests[1].messages[1]["tool_calls"][0]["function"]
    assert made == {"name": "price", "arguments": "{}"}  # a server that reads it again can
    assert model_server.requests[1].results == [result]


@pytest.mark.parametrize("arguments", ["", " ", "null", {}])
def test_no_arguments_at_all(model_server: ModelServer, arguments: Any) -> None:
    model_server.reply = plays(calls(("now", arguments)))
    agent = agent_on(model_server, "openai")
    agent.register_action(lambda: "noon", name="now")
    for way in ("send", "stream"):
        assert run(asked(agent, way)) == "I was told: noon"


def test_one_failure_leaves_the_others_alone(model_server: ModelServer) -> None:
    model_server.reply = plays(calls(("price", {"item": "gold"}), ("price", {"item": "tea"})))
    reply = run(asked(with_prices(agent_on(model_server)), "send"))
    assert told(reply) == [("error: KeyError: 'gold'", "KeyError: 'gold'"), ("2.5", None)]


def test_an_actions_own_timeout_wins(model_server: ModelServer) -> None:
    model_server.reply = plays(calls(("slow", {}), ("quick", {})))
    agent = agent_on(model_server).with_action_timeout(0.01)

    async def wait() -> str:
        await asyncio.sleep(0.1)
        return "done at last"

    agent.register_action(wait, name="slow", timeout=PATIENCE)
    agent.register_action(wait, name="quick")
    (slow, _), (quick, error) = told(run(agent.send_message("Go")))
    assert slow == "done at last"
    assert (quick, error) == (f"error: {error}", "ActionTimeout: The action 'quick' was not done within 0.01 s.")


def test_lone_surrogates_are_not_sent(model_server: ModelServer) -> None:
    model_server.reply = plays(calls(("half", {})))
    agent = agent_on(model_server)
    agent.register_action(lambda: "\ud83d!", name="half")
    assert run(agent.send_message("Go")) == "I was told: \ufffd!"


@on_both_wires
@each_way
def test_rounds_have_a_bound(model_server: ModelServer, wire: str, way: str) -> None:
    model_server.reply = calls(("price", {"item": "tea"}), ("weigh", {}))
    agent = with_prices(agent_on(model_server, wire)).with_max_rounds(2)
    if "map" in way:

        async def main() -> errors.RequestError:
            batch = agent.map(["How much?"], stream=way == "streamed map", view=None)
            (answer,) = [answer async for answer in batch]
            assert isinstance(answer.error, errors.TooManyRounds)
            assert answer.attempts == 1
            return answer.error

        error = run(main())
    else:
        with pytest.raises(errors.TooManyRounds) as caught:
            run(asked(agent, way))
        error = caught.value
        assert error.item == "How much?"
    assert (error.attempts, model_server.received) == (1, 3)
    assert str(error) == (
        "The model called actions 3 times in a row and did not answer (the last: price, weigh). "
        "Raise max_rounds, which is 2, or say in the prompt when it is enough."
    )


def test_as_many_rounds_as_allowed(model_server: ModelServer) -> None:
    model_server.reply = plays(*[calls(("price", {"item": "tea"}))] * 10)
    assert len(run(asked(with_prices(agent_on(model_server)), "send")).actions) == 10
    model_server.reply = plays(*[calls(("price", {"item": "tea"}))] * 11)
    with pytest.raises(errors.TooManyRounds):
        run(asked(with_prices(agent_on(model_server)), "send"))


@each_way
def test_a_request_that_fails_fails_the_whole(model_server: ModelServer, way: str) -> None:
    model_server.reply = plays(calls(("price", {"item": "tea"})))
    model_server.next(None, faults.status(400))
    agent = with_prices(agent_on(model_server))
    if "map" in way:
        frame = run(whole_frame(agent, stream=way == "streamed map"))
        assert frame["error"][0].startswith("BadRequest")
        assert frame["attempts"].tolist() == [1]
        return
    with pytest.raises(errors.BadRequest) as caught:
        run(asked(agent, way))
    assert (caught.value.attempts, caught.value.item) == (1, "How much?")


async def whole_frame(agent: LlmAgent, **options: Any) -> Any:
    return await agent.map(["How much?"], view=None, **options)


@each_way
def test_further_attempts_are_counted_in_every_round(model_server: ModelServer, way: str) -> None:
    model_server.reply = plays(calls(("price", {"item": "tea"})))
    model_server.next(faults.rate_limited(0), None, faults.rate_limited(0), faults.rate_limited(0), None)
    ran = []
    agent = agent_on(model_server)
    agent.register_action(lambda item: ran.append(item), name="price")
    assert run(asked(agent, way)).attempts == 4
    assert model_server.received == 5
    assert ran == ["tea"]  # a request is made again, an action is not


# -- confirm ---------------------------------------------------------------------------------------------------------


def by_thread(agent: str, call: ToolCall) -> bool | str:
    assert threading.current_thread() is not threading.main_thread()
    return answer_of(agent, call)


async def on_the_loop(agent: str, call: ToolCall) -> bool | str:
    await asyncio.sleep(0)
    return answer_of(agent, call)


def answer_of(agent: str, call: ToolCall) -> bool | str:
    assert agent == "clerk"
    assert call.name == "price"
    answers: dict[str, bool | str] = {"tea": True, "rice": False, "gold": "too dear"}
    return answers[call.arguments["item"]]  # type: ignore[index]


@pytest.mark.parametrize("confirm", [by_thread, on_the_loop])
def test_whoever_is_asked_may_refuse(model_server: ModelServer, confirm: Any) -> None:
    model_server.reply = plays(calls(*(("price", {"item": item}) for item in ("tea", "rice", "gold", "salt"))))
    ran = []
    agent = agent_on(model_server, confirm=confirm)
    agent.register_action(lambda item: ran.append(item) or item, name="price")
    assert told(run(agent.send_message("Go"))) == [
        ("tea", None),
        ("error: PermissionError: this call was not allowed", "PermissionError: this call was not allowed"),
        (
            "error: PermissionError: this call was not allowed: too dear",
            "PermissionError: this call was not allowed: too dear",
        ),
        ("error: KeyError: 'salt'", "KeyError: 'salt'"),  # who cannot say allows nothing
    ]
    assert ran == ["tea"]


def test_one_thing_is_asked_at_a_time(model_server: ModelServer) -> None:
    model_server.reply = plays(calls(*(("price", {"item": str(n)}) for n in range(4))))
    asking, most, order = [], [], []

    async def confirm(agent: str, call: ToolCall) -> bool:
        asking.append(call)
        most.append(len(asking))
        order.append(call.arguments["item"])  # type: ignore[index]
        await asyncio.sleep(0)
        asking.remove(call)
        return True

    agent = agent_on(model_server).with_confirm(confirm)
    agent.register_action(lambda item: item, name="price")
    run(agent.send_message("Go"))
    assert (max(most), order) == (1, ["0", "1", "2", "3"])


def test_options_for_one_batch_alone(model_server: ModelServer) -> None:
    model_server.reply = plays(calls(("price", {"item": "tea"})))
    agent = with_prices(agent_on(model_server))

    async def main() -> None:
        async for answer in agent.map(["a"], view=None, confirm=lambda *_: "not in a batch"):
            assert answer.reply == "I was told: error: PermissionError: this call was not allowed: not in a batch"
        assert await agent.send_message("a") == "I was told: 2.5"

    run(main())


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("max_rounds", 0, "max_rounds is a whole number from 1, not 0."),
        ("max_rounds", 1.5, "max_rounds is a whole number from 1, not 1.5."),
        ("max_rounds", True, "max_rounds is a whole number from 1, not True."),
        ("action_timeout", 0, "action_timeout is a number above 0, not 0."),
        ("confirm", "yes", "confirm is a function (agent_name, call) -> bool, not 'yes'."),
    ],
)
def test_options_that_make_no_sense(option: str, value: Any, said: str) -> None:
    with pytest.raises(errors.ConfigurationError) as caught:
        LlmAgent("a", "demo::tutor", **{option: value})
    assert str(caught.value) == said
    with pytest.raises(errors.ConfigurationError):
        getattr(LlmAgent("a", "demo::tutor"), f"with_{option}")(value)


# -- agents that ask agents ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at_once", [1, 4])
def test_an_action_may_ask_an_agent_or_its_own(model_server: ModelServer, at_once: int) -> None:
    """Also inside a batch, with all its places taken; what is asked so is not the row's own request."""

    def reply(messages: list[dict[str, Any]]) -> Any:
        prompt, last = messages[0]["content"], messages[-1]
        if last["role"] == "tool":
            return last["content"]
        return calls(("ask", {"prompt": prompt[4:]})) if prompt.startswith("ask ") else f"<{prompt}>"

    model_server.reply = reply
    agent = agent_on(model_server)

    @agent.action
    async def ask(prompt: str) -> str:
        return await agent.send_message(prompt)

    async def main() -> None:
        batch = agent.map([f"ask ask {n}" for n in range(8)], max_at_once=at_once, view=None)
        assert (await batch)["reply"].tolist() == [f"<{n}>" for n in range(8)]

    run(main())


def test_a_sync_action_may_ask_and_wait(model_server: ModelServer) -> None:
    """Also where the loop is the library's own, and its model is asked by a call that waits."""
    model_server.reply = lambda messages: (
        messages[-1]["content"]
        if messages[-1]["role"] == "tool"
        else calls(("ask", {"prompt": "b"}))
        if messages[0]["content"] == "a"
        else "<b>"
    )
    agent = agent_on(model_server)
    agent.register_action(lambda prompt: agent.send_message_sync(prompt), name="ask")
    assert agent.send_message_sync("a") == "<b>"


# -- in a batch ------------------------------------------------------------------------------------------------------


def test_a_row_is_one_whole_loop(model_server: ModelServer) -> None:
    """With one place, no row is begun before the one before it has been answered, its actions included."""
    model_server.reply = plays(calls(("price", {"item": "tea"})), calls(("price", {"item": "rice"})))
    agent = with_prices(agent_on(model_server))

    async def main() -> Any:
        return await agent.map(["a", "b", "c"], max_at_once=1, view=None)

    frame = run(main())
    assert [request.prompt for request in model_server.requests] == [*"aaabbbccc"]
    assert frame["attempts"].tolist() == [1, 1, 1]
    assert [len(reply.actions) for reply in frame["reply"]] == [2, 2, 2]
    assert frame["input_tokens"].tolist() == [1 + 2 + 3] * 3


def test_what_an_action_asks_is_not_the_rows_own_request(model_server: ModelServer) -> None:
    """Its attempts and its text would be shown as those of the row."""
    model_server.reply = plays(calls(("look", {})))
    agent = agent_on(model_server)
    agent.register_action(lambda: flying.get() is None, name="look")
    assert run(asked(agent, "map")) == "I was told: true"


def test_a_cancelled_batch_cancels_its_actions(model_server: ModelServer) -> None:
    model_server.reply = plays(calls(("hang", {}), ("hang", {})))
    agent, begun, ended = agent_on(model_server), [], []

    async def main() -> None:
        both = asyncio.Event()

        @agent.action
        async def hang() -> None:
            begun.append(1)
            if len(begun) == 4:
                both.set()
            try:
                await asyncio.Event().wait()
            finally:
                ended.append(1)

        batch = agent.map(["a", "b"], view=None)
        await both.wait()
        batch.cancel()
        frame = await batch
        assert frame["status"].tolist() == ["cancelled", "cancelled"]
        assert len(ended) == 4

    run(main())


def test_nothing_is_stored_unless_asked(model_server: ModelServer, tmp_path: Any, monkeypatch: Any) -> None:
    monkeypatch.setenv("CEYLON_NB_STORE", str(tmp_path / "auto.db"))
    model_server.reply = plays(calls(("price", {"item": "tea"})))
    agent = with_prices(agent_on(model_server))

    async def main(**options: Any) -> list[bool]:
        frame = await agent.map(["a"], view=None, **options)
        assert frame["reply"].tolist() == ["I was told: 2.5"]
        return list(frame["from_store"])

    assert [run(main()), run(main())] == [[False], [False]]
    assert not list(tmp_path.iterdir())
    store = tmp_path / "mine.db"
    assert [run(main(store=store)), run(main(store=store))] == [[False], [True]]
    agent.register_action(lambda: 0, name="other")  # another set of actions: another question
    assert [run(main(store=store)), run(main(store=store))] == [[False], [True]]
    plain = agent_on(model_server)
    model_server.reply = "I was told: 2.5"

    async def without() -> bool:
        frame = await plain.map(["a"], view=None, store=store)
        return bool(frame["from_store"][0])

    assert [run(without()), run(without())] == [False, True]


# -- streams ---------------------------------------------------------------------------------------------------------


@on_both_wires
def test_a_stream_has_the_text_of_all_rounds(model_server: ModelServer, wire: str) -> None:
    model_server.reply = plays(
        calls(("price", {"item": "tea"}), said="Let me see."), calls(("price", {"item": "rice"}))
    )
    agent = with_prices(agent_on(model_server, wire))

    async def main() -> None:
        stream = agent.stream("How much?")
        pieces = [piece async for piece in stream]
        assert "".join(pieces) == "Let me see.\n\nI was told: 2.5 | 1.0"
        assert pieces[0] == "Let"  # in pieces
        assert stream.reply == "I was told: 2.5 | 1.0"
        assert told(stream.reply) == [("2.5", None), ("1.0", None)]
        assert stream.reply.attempts == 1

    run(main())


def test_text_comes_before_the_actions_have_ended(model_server: ModelServer) -> None:
    model_server.reply = plays(calls(("wait", {}), said="Let me see."))
    agent = agent_on(model_server)

    async def main() -> None:
        read = asyncio.Event()

        @agent.action
        async def wait() -> str:
            await read.wait()
            return "read"

        pieces = []
        async for piece in agent.stream("Go"):
            pieces.append(piece)
            if len(pieces) == 3:
                read.set()
        assert "".join(pieces) == "Let me see.\n\nI was told: read"

    run(main())


# -- interrupts ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["send", "stream", "map"])
def test_an_interrupt_cancels_the_actions_and_waits_for_them(model_server: ModelServer, way: str) -> None:
    model_server.reply = plays(calls(("hang", {}), ("hang", {})))
    agent, ended = agent_on(model_server), []

    async def main() -> None:
        begun: asyncio.Queue[None] = asyncio.Queue()

        @agent.action
        async def hang() -> None:
            begun.put_nowait(None)
            try:
                await asyncio.Event().wait()
            finally:
                await asyncio.sleep(0.01)  # what an action has to put in order
                ended.append(1)

        task = asyncio.create_task(asked(agent, way))
        await begun.get()
        await begun.get()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert ended == [1, 1]
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run(main())
    assert model_server.received == 1


def test_an_interrupt_is_noticed_while_actions_run(model_server: ModelServer) -> None:
    """A loop in which nothing happens does not see it: it has to be woken."""
    model_server.reply = plays(calls(("look", {})))
    agent = agent_on(model_server)

    @agent.action
    async def look() -> bool:
        return _ticker(asyncio.get_running_loop()).count > 0

    assert run(agent.send_message("Go")) == "I was told: true"


@pytest.mark.parametrize("way", ["send", "stream"])
def test_an_interrupt_closes_the_request_of_a_further_round(model_server: ModelServer, way: str) -> None:
    model_server.reply = plays(calls(("price", {"item": "tea"})))
    model_server.next(None, faults.hang())

    async def main() -> None:
        task = asyncio.create_task(asked(with_prices(agent_on(model_server)), way))
        await model_server.until(lambda server: server.received == 2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await model_server.until(lambda server: server.aborted == 1 and server.active == 0)

    run(main())


def test_a_stream_that_is_left_does_no_more(model_server: ModelServer) -> None:
    model_server.reply = plays(calls(("price", {"item": "tea"}), said="Let me see."))
    agent = agent_on(model_server)
    ran: list[str] = []
    agent.register_action(lambda item: ran.append(item), name="price")

    async def main() -> None:
        stream = agent.stream("Go")
        assert await anext(stream) == "Let"
        await stream.aclose()

    run(main())
    assert (ran, model_server.received) == ([], 1)


# -- who listens -----------------------------------------------------------------------------------------------------


@asynccontextmanager
async def heard_by(listener: Any) -> AsyncIterator[None]:
    token = acted.set(listener)
    try:
        yield
    finally:
        acted.reset(token)


def test_each_action_is_told_to_whoever_listens(model_server: ModelServer) -> None:
    model_server.reply = plays(calls(("price", {"item": "tea"}), ("price", {"item": "gold"})))
    agent, heard = with_prices(agent_on(model_server)), []

    async def main() -> None:
        async with heard_by(lambda name, done: heard.append((name, done))):
            reply = await agent.send_message("Go")
            assert sorted(done.result for _, done in heard) == sorted(done.result for done in reply.actions)
            assert {name for name, _ in heard} == {"clerk"}
            assert len(heard) == 2
            await agent.act("price", {"item": "tea"})  # nobody's model called it
            assert len(heard) == 2

    run(main())


def test_a_listener_may_fail(model_server: ModelServer, caplog: Any) -> None:
    model_server.reply = plays(calls(("price", {"item": "tea"})))

    def fail(name: str, done: Done) -> None:
        raise RuntimeError("deaf")

    async def main() -> None:
        async with heard_by(fail):
            assert await with_prices(agent_on(model_server)).send_message("Go") == "I was told: 2.5"

    run(main())
    assert "A listener to actions failed" in caplog.text


# -- record and replay -----------------------------------------------------------------------------------------------


@on_both_wires
@each_way
def test_a_loop_is_replayed(model_server: ModelServer, wire: str, way: str, tmp_path: Any) -> None:
    model_server.reply = plays(
        calls(("price", {"item": "tea"}), ("price", {"item": "é"}), said="Let me see."), calls(("price", {}))
    )
    file = tmp_path / "answers.jsonl"
    with replay(file, record="missing"):
        recorded = run(asked(with_prices(agent_on(model_server, wire)), way))
    lines = file.read_bytes()
    assert model_server.received == 3
    model_server.stop()
    with replay(file) as recording:
        replayed = run(asked(with_prices(agent_on(model_server, wire)), way))
        assert recording.replayed == 3
    assert (replayed, told(replayed), replayed.usage) == (recorded, told(recorded), recorded.usage)
    assert len({done.call.id for done in replayed.actions}) == 3
    assert file.read_bytes() == lines
    with replay(file, record="missing") as recording:  # it is read as it was written: nothing is asked, nothing sorted
        run(asked(with_prices(agent_on(model_server, wire)), way))
        assert (recording.replayed, recording.recorded) == (3, 0)
    assert file.read_bytes() == lines


def test_what_a_recording_says_of_actions(model_server: ModelServer, tmp_path: Any) -> None:
    model_server.reply = plays(calls(("price", {"item": "tea"})))
    file = tmp_path / "answers.jsonl"
    agent = agent_on(model_server, "openai")
    agent.register_action(lambda item: 2.5, name="price", description="What it costs.")
    with replay(file, record="missing"):
        run(agent.send_message("How much?"))
    first, second = sorted(map(json.loads, file.read_text().splitlines()), key=lambda line: "messages" in line)
    tool = first["tools"][0]
    assert (tool["name"], tool["description"], list(tool["parameters"]["properties"])) == (
        "price",
        "What it costs.",
        ["item"],
    )
    assert (first["prompt"], first["reply"], first["tool_calls"]) == (
        "How much?",
        "",
        [{"name": "price", "arguments": {"item": "tea"}}],
    )
    assert second["messages"] == [
        {"role": "user", "content": "How much?"},
        {"role": "assistant", "content": "", "tool_calls": [{"name": "price", "arguments": {"item": "tea"}}]},
        {"role": "tool", "content": "2.5", "name": "price"},
    ]
    assert "call_" not in file.read_text()  # ids mean nothing, and would differ each time


def test_other_actions_are_another_question(model_server: ModelServer, tmp_path: Any) -> None:
    model_server.reply = plays(calls(("price", {"item": "tea"})))
    file = tmp_path / "answers.jsonl"
    with replay(file, record="missing"):
        run(asked(with_prices(agent_on(model_server)), "send"))
    agent = agent_on(model_server)
    agent.register_action(lambda item: 0, name="price", description="What it weighs.")
    with replay(file), pytest.raises(errors.NotRecorded) as caught:
        run(agent.send_message("How much?"))
    said = str(caught.value)
    assert "The same prompt is recorded with other settings.\nactions, with what is [-recorded-]" in said
    assert "weighs" in said
    with replay(file), pytest.raises(errors.NotRecorded):
        run(agent_on(model_server).send_message("How much?"))


def test_an_action_that_now_says_something_else(model_server: ModelServer, tmp_path: Any) -> None:
    """Actions are done again; what comes of them is a part of the next question."""
    model_server.reply = plays(calls(("price", {"item": "tea"})))
    file = tmp_path / "answers.jsonl"
    prices = [2.5, 9.5]
    agent = agent_on(model_server)
    agent.register_action(lambda item: prices.pop(0), name="price")
    with replay(file, record="missing"):
        run(agent.send_message("How much?"))
    with replay(file), pytest.raises(errors.NotRecorded) as caught:
        run(agent.send_message("How much?"))
    assert "[-2-]{+9+}.5" in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"tool_calls": [{"name": "x"}]}, "its 'tool_calls' are"),
        ({"tool_calls": {}}, "'tool_calls' is no list"),
        ({"tools": [{"name": "x"}]}, "its 'tools' are"),
    ],
)
def test_a_line_that_is_no_call(tmp_path: Any, fields: dict[str, Any], said: str) -> None:
    file = tmp_path / "answers.jsonl"
    file.write_text(json.dumps({"model": "demo::tutor", "prompt": "a", "reply": "b", **fields}) + "\n{}\n")
    with pytest.raises(errors.ConfigurationError, match=said):
        replay(file)


def test_a_key_in_a_call_is_not_recorded(model_server: ModelServer, tmp_path: Any) -> None:
    model_server.reply = plays(calls(("price", {"item": "key-of-mine"}), ("fail", {})))
    file = tmp_path / "answers.jsonl"
    agent = agent_on(model_server)
    agent.register_action(lambda item: f"{item} is fine", name="price")

    @agent.action
    def fail() -> None:
        raise LookupError("refused: key-of-mine")

    with replay(file, record="missing"):
        reply = run(agent.send_message("How much?"))
    assert [str(done) for done in reply.actions] == [
        "price(item='***') → *** is fine", "fail() → error: LookupError: refused: ***"
    ]  # fmt: skip
    assert "key-of-mine" not in file.read_text()
    with replay(file):
        assert run(agent.send_message("How much?")) == reply
    recorded = [json.loads(line).get("tool_calls") for line in file.read_text().splitlines()]
    assert [{"name": "price", "arguments": {"item": "***"}}, {"name": "fail", "arguments": {}}] in recorded


# -- whatever the model does -----------------------------------------------------------------------------------------

turns = st.lists(
    st.lists(st.tuples(st.sampled_from(["add", "fail", "nobody"]), st.integers(0, 99)), min_size=1, max_size=4),
    max_size=4,
)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(turns=turns, way=st.sampled_from(["send", "stream", "map"]), wire=st.sampled_from(["ollama", "openai"]))
def test_every_call_is_done_once_and_in_order(model_server: ModelServer, turns: Any, way: str, wire: str) -> None:
    model_server.reset()
    script = [calls(*((name, {"n": n}) for name, n in turn)) for turn in turns]
    model_server.reply = plays(*script)
    agent = agent_on(model_server, wire)
    ran = []

    @agent.action
    async def add(n: int) -> int:
        await asyncio.sleep(n % 3 * 0.001)
        ran.append(n)
        return n + 1

    @agent.action
    def fail(n: int) -> None:
        ran.append(n)
        raise ArithmeticError(n)

    def expected(name: str, n: int) -> str:
        if name == "add":
            return str(n + 1)
        return f"error: ArithmeticError: {n}" if name == "fail" else "error: NoSuchAction: There is no action 'nobody'."

    reply = run(asked(agent, way))
    wanted = [(name, n, number) for number, turn in enumerate(turns, start=1) for name, n in turn]
    assert [(done.call.name, done.call.arguments["n"], done.round) for done in reply.actions] == wanted
    assert all(
        done.result.startswith(expected(name, n)) for done, (name, n, _) in zip(reply.actions, wanted, strict=True)
    )
    assert sorted(ran) == sorted(n for name, n, _ in wanted if name != "nobody")
    assert model_server.received == len(turns) + 1
    for number, request in enumerate(model_server.requests):
        told_then = [done.result for done in reply.actions if done.round == number]
        assert request.results == told_then
